//! How a pull comes to be worked on: it is asked for, taken up at a start, or found to be recorded after all.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result, with_causes};
use crate::id::new_id;
use crate::jobs::event::{LogLevel, PullLog};
use crate::jobs::record::{Detail, Record};
use crate::jobs::request::{PullRequest, Request};
use crate::jobs::view::{JobError, JobState, Pull};
use crate::jobs::watch::Live;
use crate::jobs::{Jobs, run};
use crate::limits;
use crate::store::{Caller, Keyed, PullRow, labels};

/// What asking for a job answers.
#[derive(Debug, Clone)]
pub enum Created<J> {
    New(J),
    /// An equal one is under way.
    Existing(J),
}

/// How an idempotency key remembers the one and the other, before the job's id.
const NEW: &str = "new";
const EQUAL: &str = "equal";

impl<J> Created<J> {
    /// As an idempotency key remembers it.
    pub(super) fn remembered(&self, id_of: impl Fn(&J) -> &str) -> String {
        match self {
            Created::New(job) => format!("{NEW} {}", id_of(job)),
            Created::Existing(job) => format!("{EQUAL} {}", id_of(job)),
        }
    }

    /// What an idempotency key remembers, as it is answered again. `find` finds the job by its id.
    pub(super) async fn recall<F>(remembered: &str, find: impl FnOnce(String) -> F) -> Result<Created<J>>
    where
        F: Future<Output = Result<J>>,
    {
        let (first, id) = remembered.split_once(' ').unwrap_or_default();
        let job = find(id.to_owned()).await?;
        Ok(if first == NEW { Created::New(job) } else { Created::Existing(job) })
    }
}

impl Jobs {
    /// Goes on with every job that an earlier run of the server left unfinished; how many there are.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn resume_unfinished(&self) -> Result<usize> {
        let rows = self.0.store.list_unfinished_pulls().await?;
        let count = rows.len();
        for row in rows {
            match Record::of_row(row.clone()) {
                Ok(record) => self.resume(record).await?,
                Err(error) => self.give_up(row, error).await?,
            }
        }
        Ok(count + self.resume_unpacks().await?)
    }

    /// Ends a pull of which nobody knows what it was to do: unfinished, it could neither go on nor be removed.
    async fn give_up(&self, row: PullRow, error: Error) -> Result<()> {
        tracing::error!(pull.id = %row.id, "Cannot go on with a pull: {}", with_causes(&error));
        let mut record = Record::to_show(row);
        let seen = record.stored.as_str();
        (record.state, record.error) = (JobState::Failed, Some(JobError::of(&error)));
        record.row.finished_at = Some(self.now().0);
        self.0.store.update_pull(&record.to_row(self.now()), seen).await.map(drop)
    }

    async fn resume(&self, mut record: Record) -> Result<()> {
        // Written down first: an event id must never be told twice.
        record.detail.epoch += 1;
        if record.state == JobState::Running {
            record.state = JobState::Queued;
            let message = "it goes on after a restart of the server".to_owned();
            record.note(PullLog { at: self.now(), level: LogLevel::Info, message });
        }
        let seen = record.stored.as_str();
        if self.0.store.update_pull(&record.to_row(self.now()), seen).await? {
            record.stored = record.state;
            self.start(record);
        }
        Ok(())
    }

    /// Asks for a pull, on the caller's behalf.
    ///
    /// # Errors
    /// `Invalid` with the field; `NotFound` for the lease that the caller names; `Unprocessable` when the key was used
    /// with another request; `TooMany` when too many wait; `Unavailable`.
    pub async fn create_pull(
        &self,
        caller: &Caller,
        asked: &PullRequest,
        idempotency_key: Option<&str>,
    ) -> Result<Created<Pull>> {
        let credential = asked.auth.as_ref().map(|auth| serde_json::to_string(auth).expect("texts are JSON"));
        let mark = credential.as_ref().map(|secret| self.0.store.mark_secret(secret));
        let request = Request { auth: mark, ..Request::check(caller, asked)? };
        self.0.settings.sources.rules.check(&request.reference)?;
        let keyed =
            idempotency_key.map(|key| Keyed::new(&caller.namespace, key, "POST", "/api/v1/pulls", &request));
        let row = self.new_row(caller, asked, &request);
        let (maker, finder, namespace) = (self.clone(), self.clone(), caller.namespace.clone());
        let make = async move {
            let created = maker.record_pull(row, request.lease.as_deref(), credential).await?;
            Ok((created.remembered(|pull| &pull.id), created))
        };
        let find = async move |remembered: String| {
            let find = async |id: String| finder.find(&namespace, &id).await;
            let created = Created::recall(&remembered, find).await?;
            Ok((remembered, created))
        };
        let store = self.0.store.clone();
        let making = async move { store.make_once(keyed, make, |(remembered, _)| remembered, find).await };
        self.to_the_end("create-pull", making).await.map(|(_, created)| created)
    }

    async fn record_pull(
        &self,
        row: PullRow,
        lease: Option<&str>,
        credential: Option<String>,
    ) -> Result<Created<Pull>> {
        if let Some(lease) = lease {
            self.0.store.find_lease(&row.namespace, lease).await?;
        }
        let _turn = self.0.recording.lock().await;
        if let Some(equal) = self.0.store.find_equal_pull(&row).await? {
            return Ok(Created::Existing(self.show(equal)));
        }
        self.check_queue()?;
        if let Err(error) = self.0.store.record_pull(&row, credential.as_deref()).await {
            if matches!(error, Error::Unavailable { .. }) {
                self.start_if_recorded(row);
            }
            return Err(error);
        }
        let record = Record::of_row(row)?;
        let shown = record.show(self.now());
        self.start(record);
        Ok(Created::New(shown))
    }

    pub(super) fn check_queue(&self) -> Result<()> {
        if self.live().len() < limits::PULL_QUEUE + self.0.settings.pulls {
            return Ok(());
        }
        let retry_after = Duration::from_secs(30);
        Err(Error::TooMany { what: "pulls", limit: limits::PULL_QUEUE, retry_after })
    }

    /// A pull of which nobody knows whether it was written down, or taken up again: if it was, it must not stand still
    /// until the next start.
    pub(super) fn start_if_recorded(&self, row: PullRow) {
        const AGAIN_AFTER: Duration = Duration::from_secs(5);
        let jobs = self.clone();
        let soft = self.0.shutdown.soft().clone();
        let looking = async move {
            loop {
                match jobs.0.store.find_pull_for_certain(&row).await {
                    Ok(found) => return jobs.start_if_as(&row, Record::of_row(found)?).await,
                    Err(Error::Unavailable { .. }) => tokio::time::sleep(AGAIN_AFTER).await,
                    Err(error) => return Err(error),
                }
            }
        };
        self.0.shutdown.spawn("look-for-pull", async move { soft.run_until_cancelled(looking).await });
    }

    /// Begins a pull if it stands as `row` was to be written, and nobody has it in hand. It may be cancelled by now.
    async fn start_if_as(&self, row: &PullRow, found: Record) -> Result<()> {
        let _turn = self.0.recording.lock().await;
        let stands = !found.state.is_final() && found.detail.epoch == Detail::from_json(&row.detail).epoch;
        if stands && self.find_live(&row.id).is_none() {
            self.start(found);
        }
        Ok(())
    }

    pub(super) fn new_row(&self, caller: &Caller, asked: &PullRequest, request: &Request) -> PullRow {
        let now = self.now();
        let id = new_id("pull", now);
        PullRow {
            namespace: caller.namespace.clone(),
            reference: asked.reference.clone(),
            request: request.to_json(),
            state: JobState::Queued.as_str().to_owned(),
            phase: String::new(),
            attempt: 0,
            image_name: request.image_name.clone(),
            digest: None,
            lease: request.lease.clone().unwrap_or_else(|| id.replacen('_', "-", 1)),
            labels: labels::to_json(&request.labels),
            error: None,
            detail: Detail::default().to_json(),
            created_at: now.0,
            started_at: None,
            finished_at: None,
            id,
        }
    }

    pub(super) fn start(&self, record: Record) {
        let id = record.row.id.clone();
        let cancelled = record.state == JobState::Cancelling;
        let live = Arc::new(Live::new(record, self.0.shutdown.soft().child_token()));
        if cancelled {
            live.stop.cancel();
        }
        self.live().insert(id, live.clone());
        // On the heap: what it may ever hold is more than a stack should carry from call to call.
        self.0.shutdown.spawn("pull", Box::pin(run::run(self.clone(), live)));
    }
}
