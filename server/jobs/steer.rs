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
pub enum Cancelled<J> {
    /// It stops now.
    Stopping(J),
    /// It was cancelled already.
    Already(J),
}

impl Jobs {
    /// Stops a pull. Bytes that are here stay for the next try until they expire.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it has succeeded or failed; `Unavailable`.
    pub async fn cancel(&self, namespace: &str, id: &str) -> Result<Cancelled<Pull>> {
        let row = self.0.store.mark_pull_cancelled(namespace, id).await?;
        if row.state == JobState::Cancelled.as_str() {
            return Ok(Cancelled::Already(self.show(row)));
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
        // What is under way is not waited for.
        self.find_ended(namespace, id).await?;
        self.outlast_task(id).await?;
        let (jobs, namespace, id) = (self.clone(), namespace.to_owned(), id.to_owned());
        self.to_the_end("retry-pull", async move {
            // From the look on: of two retries at once the later one sees what the other has made of the pull.
            let _turn = jobs.0.recording.lock().await;
            let record = jobs.find_ended(&namespace, &id).await?;
            if jobs.find_live(&id).is_some() {
                return Err(unsettled());
            }
            let credential = jobs.check_retry(&record, auth).await?;
            jobs.check_queue()?;
            jobs.reopen(record, credential.as_deref()).await
        })
        .await
    }

    /// A pull that may be taken up again.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it is under way or has succeeded; `Unavailable`.
    async fn find_ended(&self, namespace: &str, id: &str) -> Result<Record> {
        let row = self.0.store.find_pull(namespace, id).await?;
        let unreadable = |_| refused("what the pull asked for can no longer be read: pull again");
        let record = Record::of_row(row).map_err(unreadable)?;
        match record.state {
            JobState::Failed | JobState::Cancelled => Ok(record),
            JobState::Succeeded => {
                Err(refused("the pull has succeeded: to look for a newer image, pull again"))
            }
            JobState::Queued | JobState::Running | JobState::Cancelling => {
                Err(refused("the pull is still under way"))
            }
        }
    }

    /// The credential that a retry brings along, as it is kept.
    async fn check_retry(&self, record: &Record, auth: Option<Credential>) -> Result<Option<String>> {
        self.0.settings.sources.rules.check(&record.request.reference)?;
        let auth = auth.map(|auth| auth.check().map_err(|error| error.in_field("auth"))).transpose()?;
        let credential = auth.map(|auth| serde_json::to_string(&auth).expect("texts are JSON"));
        match (&record.request.auth, &credential) {
            (None, Some(_)) => {
                let why = "the pull came without a credential: to use one, make another pull";
                Err(Error::invalid_field("auth", why))
            }
            (Some(_), None) if self.0.store.find_pull_credential(&record.row.id).await?.is_none() => {
                Err(Error::invalid_field("auth", CREDENTIAL_GONE))
            }
            (Some(_) | None, _) => Ok(credential),
        }
    }

    async fn reopen(&self, mut record: Record, credential: Option<&str>) -> Result<Pull> {
        let seen = record.state;
        if let Some(secret) = credential {
            // It is equal to pulls that bring this one, and no longer to those with the one before.
            record.request.auth = Some(self.0.store.mark_secret(secret));
            record.row.request = record.request.to_json();
        }
        // A new epoch: its events have larger ids than those that readers have seen.
        record.detail.epoch += 1;
        (record.detail.end_id, record.detail.lease_until) = (None, None);
        (record.state, record.error, record.row.finished_at) = (JobState::Queued, None, None);
        let row = record.to_row(self.now());
        match self.0.store.reopen_pull(&row, seen.as_str(), credential).await {
            Ok(true) => {}
            Ok(false) => return Err(refused("somebody else has taken the pull up")),
            Err(error) => {
                if matches!(error, Error::Unavailable { .. }) {
                    self.start_if_recorded(row);
                }
                return Err(error);
            }
        }
        record.stored = record.state;
        let shown = record.show(self.now());
        self.start(record);
        Ok(shown)
    }

    /// Waits for the task of a pull that has ended: it lets go at once, unless it could not find out whether its end is
    /// written and is about to write it again.
    ///
    /// # Errors
    /// `Conflict` (state) when it does not let go.
    async fn outlast_task(&self, id: &str) -> Result<()> {
        const LONGEST: Duration = Duration::from_secs(2);
        let Some(live) = self.find_live(id) else { return Ok(()) };
        tokio::time::timeout(LONGEST, live.gone()).await.map_err(|_| unsettled())
    }

    /// Removes a finished pull from history.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) while it is not finished; `Unavailable`.
    pub async fn purge(&self, namespace: &str, id: &str) -> Result<()> {
        self.0.store.delete_pull(namespace, id).await
    }
}

fn refused(why: &str) -> Error {
    Error::Conflict(Conflict::State { reason: why.to_owned() })
}

fn unsettled() -> Error {
    refused("the end of the last try is still being written down: try again a little later")
}
