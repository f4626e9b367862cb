//! Unpacks of stored images as jobs: how they are asked for, looked at and ended.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::job;
use super::record::{Detail, Record, Request};
use super::view::{Unpack, UnpackEventBody};
use super::watching::{Live, check_unfinished, follow};
use crate::error::{Error, Result, with_causes};
use crate::id::new_id;
use crate::jobs::Jobs;
use crate::jobs::begin::Created;
use crate::jobs::look::Follow;
use crate::jobs::request::{check_keep, check_platform};
use crate::jobs::steer::Cancelled;
use crate::jobs::view::{JobError, JobState};
use crate::limits;
use crate::oci::Digest;
use crate::store::list::ListQuery;
use crate::store::lists::{Page, Wanted};
use crate::store::{Caller, Keyed, Labels, UnpackRow, UnpackTurn, check_image_name, labels};

/// An unpack as a client asks for it.
#[derive(Debug, Clone, Serialize)]
pub struct UnpackRequest {
    pub source: UnpackSource,
    /// As `os/architecture[/variant]`; `None` means the server's own.
    pub platform: Option<String>,
    /// How long after its end the unpack's lease goes on, as people write it: `24h`.
    pub keep: Option<String>,
    pub labels: Labels,
}

/// What is unpacked.
#[derive(Debug, Clone, Serialize)]
pub enum UnpackSource {
    /// What an image stands for, by its name or id.
    Image(String),
    /// A stored index or manifest.
    Digest(Digest),
}

impl Jobs {
    /// Asks for an unpack, on the caller's behalf.
    ///
    /// # Errors
    /// `Invalid` with the field; `NotFound` for the image, the content, or the lease that the caller names;
    /// `Unprocessable` when the key was used with another request; `TooMany` when too many wait; `Unavailable`.
    pub async fn create_unpack(
        &self,
        caller: &Caller,
        asked: UnpackRequest,
        idempotency_key: Option<&str>,
    ) -> Result<Created<Unpack>> {
        let said = (&asked, &caller.lease);
        let keyed =
            idempotency_key.map(|key| Keyed::new(&caller.namespace, key, "POST", "/api/v1/unpacks", &said));
        let (maker, finder, namespace) = (self.clone(), self.clone(), caller.namespace.clone());
        let caller = caller.clone();
        let make = async move {
            let created = maker.record_unpack(&caller, asked).await?;
            Ok((created.remembered(|unpack| &unpack.id), created))
        };
        let find = async move |remembered: String| {
            let find = async |id: String| finder.find_unpack(&namespace, &id).await;
            let created = Created::recall(&remembered, find).await?;
            Ok((remembered, created))
        };
        let store = self.0.store.clone();
        let making = async move { store.make_once(keyed, make, |(remembered, _)| remembered, find).await };
        self.to_the_end("create-unpack", making).await.map(|(_, created)| created)
    }

    async fn record_unpack(&self, caller: &Caller, asked: UnpackRequest) -> Result<Created<Unpack>> {
        let request = self.check_unpack(caller, asked).await?;
        let row = self.new_unpack_row(caller, &request);
        let _turn = self.0.recording.lock().await;
        if let Some(equal) = self.find_equal_unpack(&row) {
            return Ok(Created::Existing(equal));
        }
        if self.unpacking().len() >= limits::UNPACK_QUEUE + limits::UNPACK_JOBS {
            let retry_after = Duration::from_secs(30);
            return Err(Error::TooMany { what: "unpacks", limit: limits::UNPACK_QUEUE, retry_after });
        }
        let recorded = self.0.store.record_unpack(&row).await;
        // It may be recorded all the same, and then must not stand still. If it is not, its task finds no row.
        if matches!(recorded, Ok(()) | Err(Error::Unavailable { .. })) {
            let record = Record::of_row(row)?;
            let shown = record.show(self.now());
            self.start_unpack(record);
            return recorded.map(|()| Created::New(shown));
        }
        Err(recorded.expect_err("it is not the other"))
    }

    /// What a request says, looked up and checked.
    async fn check_unpack(&self, caller: &Caller, asked: UnpackRequest) -> Result<Request> {
        let platform = asked.platform.map(|text| check_platform("platform", &text)).transpose()?;
        let keep_micros = check_keep(asked.keep.as_deref(), caller)?;
        let labels = labels::new_labels(asked.labels)?;
        let (store, namespace) = (&self.0.store, &caller.namespace);
        if let Some(lease) = &caller.lease {
            store.find_lease(namespace, lease).await?;
        }
        let (image, target) = match asked.source {
            UnpackSource::Image(image) => {
                check_image_name(&image).map_err(|_| {
                    Error::invalid_field("image", "it is neither a name of an image nor an id")
                })?;
                let target = store.find_image_by(namespace, &image).await?.target.digest.parse()?;
                (Some(image), target)
            }
            UnpackSource::Digest(digest) => {
                store.find_content(namespace, &digest).await?;
                (None, digest)
            }
        };
        let platform = platform.map(|platform| platform.to_string());
        Ok(Request { image, target, platform, labels, keep_micros, lease: caller.lease.clone() })
    }

    fn new_unpack_row(&self, caller: &Caller, request: &Request) -> UnpackRow {
        let now = self.now();
        let id = new_id("unpack", now);
        UnpackRow {
            namespace: caller.namespace.clone(),
            request: request.to_json(),
            state: JobState::Queued.as_str().to_owned(),
            digest: None,
            lease: request.lease.clone().unwrap_or_else(|| id.replacen('_', "-", 1)),
            error: None,
            detail: serde_json::to_string(&Detail::default()).expect("texts and numbers are JSON"),
            created_at: now.0,
            started_at: None,
            finished_at: None,
            id,
        }
    }

    /// An unpack in hand that was asked for in the words of `row`. All that are not finished are in hand.
    fn find_equal_unpack(&self, row: &UnpackRow) -> Option<Unpack> {
        let is_equal = |record: &Record| {
            let goes_on = matches!(record.state, JobState::Queued | JobState::Running);
            goes_on && record.row.namespace == row.namespace && record.row.request == row.request
        };
        let now = self.now();
        let unpacking = self.unpacking();
        unpacking.values().find_map(|live| live.read(|record| is_equal(record).then(|| record.show(now))))
    }

    /// Goes on with every unpack that an earlier run of the server left unfinished; how many there are.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(in crate::jobs) async fn resume_unpacks(&self) -> Result<usize> {
        let rows = self.0.store.list_unfinished_unpacks().await?;
        let count = rows.len();
        for row in rows {
            match Record::of_row(row.clone()) {
                Ok(mut record) => {
                    // Written down first: an event id must never be told twice.
                    record.detail.epoch += 1;
                    if record.state == JobState::Running {
                        record.state = JobState::Queued;
                    }
                    self.0.store.update_unpack(&record.to_row(), UnpackTurn::Moved).await?;
                    self.start_unpack(record);
                }
                Err(error) => {
                    tracing::error!(unpack.id = %row.id, "Cannot go on with an unpack: {}", with_causes(&error));
                    let told = serde_json::to_string(&JobError::of(&error)).ok();
                    let state = JobState::Failed.as_str().to_owned();
                    let ended = UnpackRow { state, error: told, finished_at: Some(self.now().0), ..row };
                    self.0.store.update_unpack(&ended, UnpackTurn::Finished).await?;
                }
            }
        }
        Ok(count)
    }

    fn start_unpack(&self, record: Record) {
        let id = record.row.id.clone();
        let cancelled = record.state == JobState::Cancelling;
        let live =
            Arc::new(Live::new(Record { let_go: false, ..record }, self.0.shutdown.soft().child_token()));
        if cancelled {
            live.stop.cancel();
        }
        self.unpacking().insert(id, live.clone());
        // On the heap: what it may ever hold is more than a stack should carry from call to call.
        self.0.shutdown.spawn("unpack", Box::pin(job::run(self.clone(), live)));
    }

    /// How many unpacks wait for their turn, and how many are under way, in all namespaces.
    pub fn count_unfinished_unpacks(&self) -> (usize, usize) {
        let states: Vec<JobState> =
            self.unpacking().values().map(|live| live.read(|record| record.state)).collect();
        let queued = states.iter().filter(|state| **state == JobState::Queued).count();
        (queued, states.iter().filter(|state| !state.is_final()).count() - queued)
    }

    pub(super) fn unpacking(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.0.unpacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An unpack as it is in hand, or as its row says.
    async fn find_unpacking(&self, namespace: &str, id: &str) -> Result<Arc<Live>> {
        let find_live = || self.unpacking().get(id).cloned();
        if let Some(live) = find_live() {
            let is_theirs = live.read(|record| record.row.namespace == namespace);
            return is_theirs.then_some(live).ok_or_else(|| Error::not_found("unpack", id));
        }
        let record = Record::of_row(self.0.store.find_unpack(namespace, id).await?)?;
        Ok(Arc::new(Live::new(record, self.0.shutdown.soft().child_token())))
    }

    /// One unpack as it stands now.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn find_unpack(&self, namespace: &str, id: &str) -> Result<Unpack> {
        let live = self.find_unpacking(namespace, id).await?;
        Ok(live.read(|record| record.show(self.now())))
    }

    /// Unpacks of the namespace, in the order and through the filter asked for.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_unpacks(
        &self,
        namespace: &str,
        query: &ListQuery,
        wanted: Wanted,
    ) -> Result<Page<Unpack>> {
        let now = self.now();
        let view = |row: UnpackRow| {
            let live = self.unpacking().get(&row.id).cloned();
            match live {
                Some(live) => Some(live.read(|record| record.show(now))),
                // One that is damaged must not hide the others.
                None => Record::of_row(row).ok().map(|record| record.show(now)),
            }
        };
        self.0.store.list_unpacks(namespace, query, wanted, view).await
    }

    /// Waits until the unpack is finished, at most for `longest` and not past the stop of the server.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn wait_unpack(&self, namespace: &str, id: &str, longest: Duration) -> Result<Unpack> {
        let live = self.find_unpacking(namespace, id).await?;
        let ended = tokio::time::timeout(longest.min(limits::REQUEST_WAIT), live.ended());
        // Either way the answer is how the unpack stands then.
        let _ = self.0.shutdown.soft().run_until_cancelled(ended).await;
        Ok(live.read(|record| record.show(self.now())))
    }

    /// Stops an unpack. The layers that have a snapshot keep it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it has succeeded or failed; `Unavailable`.
    pub async fn cancel_unpack(&self, namespace: &str, id: &str) -> Result<Cancelled<Unpack>> {
        let live = self.find_unpacking(namespace, id).await?;
        let shown = || live.read(|record| record.show(self.now()));
        if live.read(|record| record.state) == JobState::Cancelled {
            return Ok(Cancelled::Already(shown()));
        }
        live.read(check_unfinished)?;
        let (stopping, store) = (live.clone(), self.0.store.clone());
        self.to_the_end("cancel-unpack", async move { stopping.cancel(&store).await }).await?;
        Ok(Cancelled::Stopping(shown()))
    }

    /// Removes a finished unpack from history.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) while it is not finished; `Unavailable`.
    pub async fn purge_unpack(&self, namespace: &str, id: &str) -> Result<()> {
        self.0.store.delete_unpack(namespace, id).await
    }

    /// The events of an unpack.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn follow_unpack(
        &self,
        namespace: &str,
        id: &str,
        last_seen: Option<&str>,
    ) -> Result<Follow<UnpackEventBody>> {
        let live = self.find_unpacking(namespace, id).await?;
        let events = follow(live, last_seen, self.0.clock.clone(), self.0.shutdown.soft().clone());
        Ok(events.map_or(Follow::Finished, |events| Follow::Stream(Box::pin(events))))
    }
}
