//! Work that outlives a request, or that joins rooms which do not know each other. A pull is a row first, a task second: the row says what was asked for and how it
//! stands, and a start goes on with every row that is not finished. Steps are idempotent, so to resume is to run again.
//!
//! Progress is state, not log lines: a job holds its current picture, and events are the differences of it.

mod begin;
mod board;
mod convert;
mod diffs;
mod documents;
mod download;
mod end;
mod event;
mod fetch;
mod files;
mod flights;
mod gaps;
mod import;
mod lease;
mod look;
mod plan;
mod progress;
mod pull;
mod rangeless;
mod reader;
mod record;
mod referrers;
mod registries;
mod request;
mod run;
mod select;
mod steer;
mod taken;
mod trace;
mod turns;
mod unpack;
mod view;
mod watch;

pub use begin::Created;
pub use diffs::{Applied, DiffFrom, DiffRequest};
pub use event::{
    EventBody, JobEvent, LogLevel, PullEnd, PullEvent, PullEventBody, PullLog, PullPhaseChange, PullReset,
    ResetReason,
};
pub use files::{ASK_AGAIN, LayerFile, LayerView, Looked};
pub use import::{Imported, MovedName, Naming};
pub use look::{Events, Follow};
pub use plan::{Plan, PlanBlob, PlanTotals};
pub use request::{CredentialUse, ForeignLayers, LayerBlobs, PullRequest, Selection};
pub use steer::Cancelled;
pub use trace::{PullTrace, TraceLine};
pub use unpack::ask::{UnpackRequest, UnpackSource};
pub use unpack::view::{Unpack, UnpackEventBody, UnpackLayer};
pub use view::{
    BlobRole, BlobState, ImageSnapshot, JobError, JobErrorCode, JobState, LayerUnpack, Phase, Pull, PullBlob,
    PullProgress, PullWait, UnpackState, upstream_hint,
};

pub use crate::registry::{
    AddressPolicy, Capability, Credential, Crowd, DockerConfig, HostsDirs, Patience, Probe, RetryPolicy,
    Secret,
};
pub use crate::unpack::{Devices, Packing};
pub use download::PartPolicy;
pub use registries::{Change, HostChange, RegistryChange, RegistryView, Sources};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::{Clock, Time};
use crate::error::{Error, Result};
use crate::limits;
use crate::registry::Registry;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::telemetry::JobMetrics;
use flights::Flights;
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
    /// What becomes of the device nodes of layers.
    pub devices: Devices,
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
            devices: Devices::Recorded,
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
    /// Layers that are unpacked at once.
    unpacks: Semaphore,
    chains: unpack::Chains,
    /// Turns of imports; who finds none comes again later.
    imports: Semaphore,
    /// Turns of unpacks as jobs of their own.
    unpack_turns: Semaphore,
    /// The unpacks that are not finished, by id.
    unpacking: Mutex<HashMap<String, Arc<unpack::watching::Live>>>,
    /// Held while a job is recorded: one at a time, so that equal ones find each other on every database, and the
    /// queue ends where it should.
    recording: tokio::sync::Mutex<()>,
    flights: Flights,
    /// `host[:port]` of the endpoints that ignored a range, until when that is remembered.
    rangeless: Mutex<HashMap<String, Time>>,
    /// The pulls that are not finished, by id.
    live: Mutex<HashMap<String, Arc<Live>>>,
}

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
            unpacks: Semaphore::new(limits::UNPACKS),
            chains: unpack::Chains::default(),
            unpack_turns: Semaphore::new(limits::UNPACK_JOBS),
            unpacking: Mutex::default(),
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

    /// How long to wait when a part of this service has not answered so often in a row.
    pub(super) fn wait_after_failures(&self, failures: u32) -> Duration {
        let policy = &self.0.settings.retry;
        policy.first_wait.saturating_mul(1 << (failures - 1).min(16)).min(policy.longest_wait)
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
