//! Work that outlives a request, or that joins rooms which do not know each other. A pull is a row first, a task second: the row says what was asked for and how it
//! stands, and a start goes on with every row that is not finished. Steps are idempotent, so to resume is to run again.
//!
//! Progress is state, not log lines: a job holds its current picture, and events are the differences of it.

mod board;
mod convert;
mod documents;
mod download;
mod event;
mod fetch;
mod flights;
mod gaps;
mod import;
mod lease;
mod plan;
mod progress;
mod pull;
mod record;
mod referrers;
mod registries;
mod request;
mod run;
mod select;
mod taken;
mod trace;
mod turns;
mod view;
mod watch;

pub use event::{
    LogLevel, PullEnd, PullEvent, PullEventBody, PullLog, PullPhaseChange, PullReset, ResetReason,
};
pub use import::{Imported, Naming};
pub use plan::{Plan, PlanBlob, PlanTotals};
pub use request::{CredentialUse, ForeignLayers, PullRequest, Selection};
pub use trace::{PullTrace, TraceLine};
pub use view::{
    BlobRole, BlobState, JobError, JobErrorCode, JobState, Phase, Pull, PullBlob, PullProgress, PullWait,
};

pub use crate::registry::{
    AddressPolicy, Capability, Credential, Crowd, DockerConfig, HostsDirs, Patience, Probe, RetryPolicy,
    Secret,
};
pub use download::PartPolicy;
pub use registries::{Change, HostChange, RegistryChange, RegistryView, Sources};

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::Semaphore;

use crate::clock::{Clock, Time};
use crate::error::{Conflict, Error, Result};
use crate::id::new_id;
use crate::limits;
use crate::registry::Registry;
use crate::shutdown::Shutdown;
use crate::store::list::ListQuery;
use crate::store::lists::{Page, Wanted};
use crate::store::{Caller, Keyed, PullRow, Store, labels};
use crate::telemetry::JobMetrics;
use flights::Flights;
use record::{Detail, Record};
use request::Request;
use turns::Turns;
use watch::Live;

/// What of the configuration jobs go by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Pulls at once; more wait for their turn.
    pub pulls: usize,
    /// Requests for blobs at once in one pull that names no number of its own.
    pub layers: usize,
    /// Requests at once to one registry, and to all.
    pub crowd: Crowd,
    pub parts: PartPolicy,
    /// Whom registries' names and redirects may lead to: `Private` only for a server that listens on loopback.
    pub addresses: AddressPolicy,
    /// How long a pull's own lease lives unless it is renewed, which its job does at half of that.
    pub lease: Duration,
    pub retry: RetryPolicy,
    pub patience: Patience,
    /// How long a pull follows another one from another registry that gets next to nothing.
    pub follow: Duration,
    pub sources: Sources,
    pub metrics: JobMetrics,
}

impl Settings {
    /// The settings of a server with these numbers, and the defaults of the rest.
    pub fn new(pulls: usize, layers: usize, addresses: AddressPolicy) -> Settings {
        Settings {
            pulls,
            layers,
            crowd: Crowd::default(),
            parts: PartPolicy::default(),
            addresses,
            lease: Duration::from_secs(3600),
            retry: RetryPolicy::default(),
            patience: Patience::default(),
            follow: limits::FOLLOW_TIME,
            sources: Sources::default(),
            metrics: JobMetrics::default(),
        }
    }
}

/// The jobs: a cheap clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    store: Store,
    registry: Registry,
    clock: Clock,
    shutdown: Shutdown,
    settings: Settings,
    turns: Turns,
    plans: Semaphore,
    /// Turns of imports; who finds none comes again later.
    imports: Semaphore,
    /// Held while a pull is recorded: one at a time, so that equal ones find each other on every database, and the
    /// queue ends where it should.
    recording: tokio::sync::Mutex<()>,
    flights: Flights,
    /// The registries that ignored a range, until when that is remembered.
    rangeless: Mutex<HashMap<String, Time>>,
    /// The pulls that are not finished, by id.
    live: Mutex<HashMap<String, Arc<Live>>>,
}

/// What asking for a pull answers.
#[derive(Debug, Clone)]
pub enum Created {
    New(Pull),
    /// An equal one is under way.
    Existing(Pull),
}

/// How an idempotency key remembers the one and the other, before the pull's id.
const NEW: &str = "new";
const EQUAL: &str = "equal";

impl Created {
    fn remembered(&self) -> String {
        match self {
            Created::New(pull) => format!("{NEW} {}", pull.id),
            Created::Existing(pull) => format!("{EQUAL} {}", pull.id),
        }
    }
}

/// What cancelling answers.
#[derive(Debug, Clone)]
pub enum Cancelled {
    /// It stops now.
    Stopping(Pull),
    /// It was cancelled already.
    Already(Pull),
}

/// The events of a pull.
pub enum Follow {
    /// The pull is finished, and the reader has seen its end.
    Finished,
    Stream(Events),
}

/// Events until `end`, or until the server stops.
pub type Events = Pin<Box<dyn Stream<Item = PullEvent> + Send>>;

impl Jobs {
    /// How many pulls wait for their turn, and how many run.
    pub fn count_unfinished(&self) -> (usize, usize) {
        let live = self.live();
        let queued =
            live.values().filter(|live| live.read(|record| record.state) == JobState::Queued).count();
        (queued, live.len() - queued)
    }

    /// Nothing runs yet: call [`Jobs::resume_unfinished`] once the store is repaired.
    pub fn new(store: Store, clock: Clock, shutdown: Shutdown, settings: Settings) -> Jobs {
        Jobs(Arc::new(Inner {
            registry: Registry::new(settings.patience, settings.crowd, clock.clone()),
            turns: Turns::new(settings.pulls),
            plans: Semaphore::new(limits::PLANS),
            imports: Semaphore::new(limits::IMPORTS),
            recording: tokio::sync::Mutex::default(),
            flights: Flights::default(),
            rangeless: Mutex::default(),
            live: Mutex::default(),
            store,
            clock,
            shutdown,
            settings,
        }))
    }

    /// Goes on with every pull that an earlier run of the server left unfinished; how many there are.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn resume_unfinished(&self) -> Result<usize> {
        let rows = self.0.store.list_unfinished_pulls().await?;
        let count = rows.len();
        for row in rows {
            let id = row.id.clone();
            match Record::of_row(row) {
                Ok(record) => self.resume(record).await?,
                Err(error) => {
                    let why = crate::error::with_causes(&error);
                    tracing::error!(pull.id = %id, "Cannot go on with a pull: {why}");
                }
            }
        }
        Ok(count)
    }

    async fn resume(&self, mut record: Record) -> Result<()> {
        // Written down first: an event id must never be told twice.
        record.detail.epoch += 1;
        if record.state == JobState::Running {
            record.state = JobState::Queued;
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
    ) -> Result<Created> {
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
            Ok((created.remembered(), created))
        };
        let find = async move |remembered: String| {
            let created = finder.find_created(&namespace, &remembered).await?;
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
    ) -> Result<Created> {
        if let Some(lease) = lease {
            self.0.store.find_lease(&row.namespace, lease).await?;
        }
        let _turn = self.0.recording.lock().await;
        if let Some(equal) = self.0.store.find_equal_pull(&row).await? {
            return Ok(Created::Existing(self.show(equal)?));
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

    fn check_queue(&self) -> Result<()> {
        if self.live().len() < limits::PULL_QUEUE + self.0.settings.pulls {
            return Ok(());
        }
        let retry_after = Duration::from_secs(30);
        Err(Error::TooMany { what: "pulls", limit: limits::PULL_QUEUE, retry_after })
    }

    /// Runs `work` to its end, also when the client goes away: a row without its task would stand still until the next
    /// start.
    async fn to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.shutdown.spawn(name, async move {
            // A caller that went away no longer wants to know.
            let _ = reply.send(work.await);
        });
        answer.await.map_err(|_| Error::internal(format!("{name} ended before it was done")))?
    }

    /// A pull of which nobody knows whether it was written down: if it was, it must not stand still until the next start.
    fn start_if_recorded(&self, row: PullRow) {
        const AGAIN_AFTER: Duration = Duration::from_secs(5);
        let jobs = self.clone();
        let soft = self.0.shutdown.soft().clone();
        let looking = async move {
            loop {
                match jobs.0.store.find_pull_for_certain(&row).await {
                    Ok(found) => return Record::of_row(found).map(|record| jobs.start(record)),
                    Err(Error::Unavailable { .. }) => tokio::time::sleep(AGAIN_AFTER).await,
                    Err(error) => return Err(error),
                }
            }
        };
        self.0.shutdown.spawn("look-for-pull", async move { soft.run_until_cancelled(looking).await });
    }

    /// What an idempotency key remembers, as it is answered again.
    async fn find_created(&self, namespace: &str, remembered: &str) -> Result<Created> {
        let (first, id) = remembered.split_once(' ').unwrap_or_default();
        let pull = self.find(namespace, id).await?;
        Ok(if first == NEW { Created::New(pull) } else { Created::Existing(pull) })
    }

    fn new_row(&self, caller: &Caller, asked: &PullRequest, request: &Request) -> PullRow {
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

    fn start(&self, record: Record) {
        let id = record.row.id.clone();
        let cancelled = record.state == JobState::Cancelling;
        let live = Arc::new(Live::new(record, self.0.shutdown.soft().child_token()));
        if cancelled {
            live.stop.cancel();
        }
        self.live().insert(id, live.clone());
        self.0.shutdown.spawn("pull", run::run(self.clone(), live));
    }

    /// One pull as it stands now.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn find(&self, namespace: &str, id: &str) -> Result<Pull> {
        self.show(self.0.store.find_pull(namespace, id).await?)
    }

    /// Pulls of the namespace, in the order and through the filter asked for.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list(&self, namespace: &str, query: &ListQuery, wanted: Wanted) -> Result<Page<Pull>> {
        self.0.store.list_pulls(namespace, query, wanted, |row| self.show(row)).await
    }

    /// A row as clients see it: with its current picture, if this server has it in hand.
    ///
    /// # Errors
    /// `Internal` when the row was written by another version, or damaged.
    pub fn show(&self, row: PullRow) -> Result<Pull> {
        let now = self.now();
        match self.find_live(&row.id) {
            Some(live) => Ok(live.read(|record| record.show(now))),
            None => Ok(Record::of_row(row)?.show(now)),
        }
    }

    /// The requests of a pull that was asked to remember them.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it was not asked to; `Unavailable`.
    pub async fn trace(&self, namespace: &str, id: &str) -> Result<PullTrace> {
        let row = self.0.store.find_pull(namespace, id).await?;
        let record = match self.find_live(&row.id) {
            Some(live) => live.read(Clone::clone),
            None => Record::of_row(row)?,
        };
        match record.request.trace {
            true => Ok(record.detail.trace.unwrap_or_default()),
            false => {
                let reason = "the pull keeps no trace: ask for one with `trace` when it is made".to_owned();
                Err(Error::Conflict(Conflict::State { reason }))
            }
        }
    }

    /// Waits until the pull is finished, at most for `longest` and not past the stop of the server.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn wait(&self, namespace: &str, id: &str, longest: Duration) -> Result<Pull> {
        let row = self.0.store.find_pull(namespace, id).await?;
        if let Some(live) = self.find_live(&row.id) {
            let longest = longest.min(limits::REQUEST_WAIT);
            let ended = tokio::time::timeout(longest, live.ended());
            // Either way the answer is how the pull stands then.
            let _ = self.0.shutdown.soft().run_until_cancelled(ended).await;
            return Ok(live.read(|record| record.show(self.now())));
        }
        // It may have ended between the two looks; its row says how.
        self.find(namespace, id).await
    }

    /// The events of a pull, from the one after `last_seen` on where that is possible.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn follow(&self, namespace: &str, id: &str, last_seen: Option<&str>) -> Result<Follow> {
        let row = self.0.store.find_pull(namespace, id).await?;
        if let Some(live) = self.find_live(&row.id) {
            let soft = self.0.shutdown.soft().clone();
            let events = watch::follow(live, last_seen, self.0.clock.clone(), soft);
            return Ok(events.map_or(Follow::Finished, |events| Follow::Stream(Box::pin(events))));
        }
        // The pull may have ended between the two looks; its row says how. If not, there is no end to tell: it is about
        // to begin, or the server stops.
        let record = Record::of_row(self.0.store.find_pull(namespace, id).await?)?;
        let events = watch::recount(&record, last_seen, self.now());
        Ok(events
            .map_or(Follow::Finished, |events| Follow::Stream(Box::pin(futures_util::stream::iter(events)))))
    }

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
                let why = "the credential of this pull is no longer kept: give it again";
                return Err(Error::invalid_field("auth", why));
            }
            (Some(_) | None, _) => {}
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

    fn now(&self) -> Time {
        self.0.clock.now()
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task is done with its pull. Another may have it in hand by now.
    fn let_go(&self, id: &str, live: &Arc<Live>) {
        let mut all = self.live();
        if all.get(id).is_some_and(|found| Arc::ptr_eq(found, live)) {
            all.remove(id);
        }
        drop(all);
        live.let_go();
    }

    fn find_live(&self, id: &str) -> Option<Arc<Live>> {
        self.live().get(id).cloned()
    }
}

#[cfg(test)]
mod tests;
