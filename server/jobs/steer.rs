//! What may be done to a pull that is there: cancel it, take it up again, remove it from history.

use std::time::Duration;

use crate::error::{Conflict, Error, Result};
use crate::jobs::Jobs;
use crate::jobs::record::Record;
use crate::jobs::registries::CREDENTIAL_GONE;
use crate::jobs::view::{JobState, Pull};
use crate::registry::Credential;

/// What cancelling answers.
#[derive(Debug, Clone)]
pub enum Cancelled {
    /// It stops now.
    Stopping(Pull),
    /// It was cancelled already.
    Already(Pull),
}

impl Jobs {
    /// Stops a pull. Bytes that are here stay for the next try until they expire.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it has succeeded or failed; `Unavailable`.
    pub async fn cancel(&self, namespace: &str, id: &str) -> Result<Cancelled> {
        let row = self.0.store.mark_pull_cancelled(namespace, id).await?;
        if row.state == JobState::Cancelled.as_str() {
            return Ok(Cancelled::Already(self.show(row)?));
        }
        let Some(live) = self.find_live(id) else {
            return Ok(Cancelled::Stopping(self.find(namespace, id).await?));
        };
        live.change(Record::mark_cancelling);
        live.stop.cancel();
        Ok(Cancelled::Stopping(live.read(|record| record.show(self.now()))))
    }

    /// Takes a failed or cancelled pull up again, with the bytes that it left; with `auth` in place of the credential
    /// that came along first.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it is under way or has succeeded, or its last end may not be written yet;
    /// `Invalid` (`auth`) when it came with a credential that is no longer kept; `Unavailable`.
    pub async fn retry(&self, namespace: &str, id: &str, auth: Option<Credential>) -> Result<Pull> {
        let row = self.0.store.find_pull(namespace, id).await?;
        let mut record = Record::of_row(row)?;
        let seen = record.state;
        let refused = |why: &str| Err(Error::Conflict(Conflict::State { reason: why.to_owned() }));
        match seen {
            JobState::Failed | JobState::Cancelled => {}
            JobState::Succeeded => {
                return refused("the pull has succeeded: to look for a newer image, pull again");
            }
            JobState::Queued | JobState::Running | JobState::Cancelling => {
                return refused("the pull is still under way");
            }
        }
        self.0.settings.sources.rules.check(&record.request.reference)?;
        let auth = auth.map(|auth| auth.check().map_err(|error| error.in_field("auth"))).transpose()?;
        let credential = auth.map(|auth| serde_json::to_string(&auth).expect("texts are JSON"));
        match (&record.request.auth, &credential) {
            (None, Some(_)) => {
                let why = "the pull came without a credential: to use one, make another pull";
                return Err(Error::invalid_field("auth", why));
            }
            (Some(_), None) if self.0.store.find_pull_credential(id).await?.is_none() => {
                return Err(Error::invalid_field("auth", CREDENTIAL_GONE));
            }
            (Some(_) | None, _) => {}
        }
        if let Some(secret) = &credential {
            // It is equal to pulls that bring this one, and no longer to those with the one before.
            record.request.auth = Some(self.0.store.mark_secret(secret));
            record.row.request = record.request.to_json();
        }
        self.outlast_task(id).await?;
        // A new epoch: its events have larger ids than those that readers have seen.
        record.detail.epoch += 1;
        (record.detail.end_id, record.detail.lease_until) = (None, None);
        (record.state, record.error, record.row.finished_at) = (JobState::Queued, None, None);
        let (jobs, credential) = (self.clone(), credential);
        self.to_the_end("retry-pull", async move {
            let _turn = jobs.0.recording.lock().await;
            jobs.check_queue()?;
            let row = record.to_row(jobs.now());
            if !jobs.0.store.reopen_pull(&row, seen.as_str(), credential.as_deref()).await? {
                let reason = "somebody else has taken the pull up".to_owned();
                return Err(Error::Conflict(Conflict::State { reason }));
            }
            record.stored = record.state;
            let shown = record.show(jobs.now());
            jobs.start(record);
            Ok(shown)
        })
        .await
    }

    /// Waits for the task of a pull that has ended: it lets go at once, unless it could not find out whether its end is
    /// written and is about to write it again.
    ///
    /// # Errors
    /// `Conflict` (state) when it does not let go.
    async fn outlast_task(&self, id: &str) -> Result<()> {
        const LONGEST: Duration = Duration::from_secs(2);
        let Some(live) = self.find_live(id) else { return Ok(()) };
        tokio::time::timeout(LONGEST, live.gone()).await.map_err(|_| {
            let reason = "the end of the last try is still being written down: try again a little later";
            Error::Conflict(Conflict::State { reason: reason.to_owned() })
        })
    }

    /// Removes a finished pull from history.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) while it is not finished; `Unavailable`.
    pub async fn purge(&self, namespace: &str, id: &str) -> Result<()> {
        self.0.store.delete_pull(namespace, id).await
    }
}
