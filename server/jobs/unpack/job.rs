//! The life of an unpack's task: its turn, its lease, its layers, its row, its end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use super::record::Request;
use super::view::UnpackLayer;
use super::watching::Live;
use super::{Chain, ChainLayer, Unpacker, invalid};
use crate::clock::Time;
use crate::error::{Conflict, Error, Result, with_causes};
use crate::jobs::Jobs;
use crate::jobs::lease::OwnLease;
use crate::jobs::run::{Ended, unless};
use crate::jobs::view::{JobError, JobState};
use crate::limits;
use crate::oci::Digest;
use crate::store::{Caller, Expiry, Presence, UnpackTurn};

/// Ids left free before that of `end`, for what may yet be told while it is written down.
const IDS_BEFORE_END: u64 = 1_000;
/// How many missing layers an error names: enough to act on.
const NAMED_MISSING: usize = 100;

/// An unpack at work.
struct Job {
    jobs: Jobs,
    live: Arc<Live>,
    id: String,
    request: Request,
    caller: Caller,
    lease: String,
}

/// Runs an unpack to its end, or until the server stops: then its row stays unfinished, and the next start goes on.
pub(super) async fn run(jobs: Jobs, live: Arc<Live>) {
    let (id, lease) = live.read(|record| (record.row.id.clone(), record.row.lease.clone()));
    let (request, caller) = live.read(|record| (record.request.clone(), record.caller()));
    let _in_hand = InHand { jobs: jobs.clone(), live: live.clone(), id: id.clone() };
    let job = Job { jobs, live, id, request, caller, lease };
    // An unpack whose work panics has failed like any other: it must not stand still until the next start.
    let outcome = AssertUnwindSafe(job.take_turn()).catch_unwind().await.unwrap_or_else(|panic| {
        let why = format!("an unpack panicked: {}", crate::shutdown::panic_text(&*panic));
        Err(Ended::Failed(Error::internal(why)))
    });
    job.conclude(outcome).await;
}

/// Whatever becomes of the task, nobody waits for it afterwards.
struct InHand {
    jobs: Jobs,
    live: Arc<Live>,
    id: String,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.jobs.unpacking().remove(&self.id);
        self.live.let_go();
    }
}

impl Job {
    /// Waits for its turn among the other unpacks, then tries until it succeeds or fails for a reason of its own: a database
    /// that is away is not one, nor is a lease that expired because the machine slept.
    async fn take_turn(&self) -> Result<(), Ended> {
        let turn = unless(&self.live.stop, self.jobs.0.unpack_turns.acquire()).await?;
        let _turn = turn.expect("nobody closes it");
        let mut failures = 0;
        loop {
            let error = match self.attempt_once().await {
                Err(Ended::Failed(error)) if self.is_passing(&error).await => error,
                settled => return settled,
            };
            failures += 1;
            if failures >= limits::PULL_TRIES {
                return Err(Ended::Failed(error));
            }
            tracing::warn!(unpack.id = %self.id, "An unpack is held up: {}", with_causes(&error));
            unless(&self.live.stop, tokio::time::sleep(self.jobs.wait_after_failures(failures))).await?;
        }
    }

    /// Whether a step that failed so may yet succeed.
    async fn is_passing(&self, error: &Error) -> bool {
        match error {
            Error::Unavailable { .. } => true,
            Error::NotFound { .. } if self.request.lease.is_none() => {
                self.jobs.0.store.find_lease(&self.caller.namespace, &self.lease).await.is_err()
            }
            _ => false,
        }
    }

    fn own_lease(&self) -> OwnLease<'_> {
        OwnLease { jobs: &self.jobs, namespace: &self.caller.namespace, id: &self.lease }
    }

    async fn attempt_once(&self) -> Result<(), Ended> {
        let now = self.jobs.now();
        let turn = match self.live.read(|record| record.state) {
            JobState::Queued => UnpackTurn::Started,
            _ => UnpackTurn::Moved,
        };
        self.write(turn, |record| {
            if record.state == JobState::Queued {
                record.state = JobState::Running;
            }
            record.row.started_at.get_or_insert(now.0);
        })
        .await?;
        if self.request.lease.is_some() {
            // The caller's own, whose time is the caller's business.
            return self.work().await;
        }
        let lease = self.own_lease();
        lease.hold().await?;
        tokio::select! {
            biased;
            outcome = self.work() => outcome,
            error = lease.renew() => Err(Ended::Failed(error)),
        }?;
        // Once nobody renews it any more: that would take back the time it is given.
        self.keep_lease().await
    }

    async fn write(&self, turn: UnpackTurn, how: impl Fn(&mut super::record::Record)) -> Result<(), Ended> {
        match self.live.write(&self.jobs.0.store, turn, how).await? {
            true => Ok(()),
            // It was never recorded after all.
            false => Err(Ended::Stopped),
        }
    }

    async fn work(&self) -> Result<(), Ended> {
        // Cancelled also when this is dropped: a thread that unpacks for nobody stops.
        let halt = self.live.stop.child_token();
        let _dropped = halt.clone().drop_guard();
        let live = self.live.clone();
        let tell = Arc::new(move |layer: &ChainLayer, told| {
            live.change(|record| {
                let layers = &mut record.detail.layers;
                if let Some(shown) = layers.iter_mut().find(|shown| shown.chain_id == layer.chain_id) {
                    shown.note(told);
                }
            });
        });
        let live = self.live.clone();
        let warn = Arc::new(move |warning| {
            live.change(|record| {
                let warnings = &mut record.detail.warnings;
                if warnings.len() < limits::PULL_LOG && !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            });
        });
        let unpacker = Unpacker { jobs: &self.jobs, caller: &self.caller, halt: &halt, tell, warn };
        let chain = unless(&halt, self.plan(&unpacker)).await??;
        unpacker.unpack(&chain, &chain.all_landed()).await?;
        self.live.change(|record| record.detail.snapshots = chain.as_snapshot().into_iter().collect());
        Ok(())
    }

    /// Finds out what is to be unpacked, and whether it can be.
    async fn plan(&self, unpacker: &Unpacker<'_>) -> Result<Chain, Ended> {
        let (store, namespace) = (&self.jobs.0.store, &self.caller.namespace);
        // With all that is below it.
        store.put_existing(&self.caller, &self.request.target).await?;
        let wanted = self.request.wanted()?;
        let manifest = store.narrow_to_manifest(namespace, &self.request.target, wanted.as_ref()).await?;
        let chain = unpacker.plan(&manifest).await?;
        let chain = chain.ok_or_else(|| {
            invalid(format!("there is nothing to unpack: {manifest} is no image of layers"))
        })?;
        let layers: Vec<UnpackLayer> = chain.layers.iter().map(UnpackLayer::of).collect();
        self.write(UnpackTurn::Moved, |record| {
            record.digest = Some(chain.manifest.clone());
            record.detail.layers.clone_from(&layers);
        })
        .await?;
        self.check_layers(&chain).await?;
        Ok(chain)
    }

    /// # Errors
    /// `Conflict` (incomplete) when layers without a snapshot are not here.
    async fn check_layers(&self, chain: &Chain) -> Result<()> {
        let mut missing: Vec<String> = Vec::new();
        for layer in chain.missing() {
            let (digest, size) = (&layer.descriptor.digest, layer.descriptor.size);
            if self.jobs.0.store.find_presence(&self.caller, digest, size).await? != Presence::Here {
                missing.push(digest.to_string());
            }
        }
        match missing.len() {
            0 => Ok(()),
            count => {
                missing.truncate(NAMED_MISSING);
                Err(Error::Conflict(Conflict::Incomplete { count, missing }))
            }
        }
    }

    /// Hands the lease over to the user who asked for one.
    async fn keep_lease(&self) -> Result<(), Ended> {
        let Some(keep) = self.request.keep() else { return Ok(()) };
        let store = &self.jobs.0.store;
        let lease = store.hand_over_lease(&self.caller.namespace, &self.lease, Expiry::After(keep)).await?;
        self.live.change(|record| record.detail.lease_until = lease.expires_at);
        Ok(())
    }

    /// Ends the unpack as its work ended. One that the server's stop interrupts stays unfinished.
    async fn conclude(&self, outcome: Result<(), Ended>) {
        let cancelled = self.live.read(|record| record.state == JobState::Cancelling);
        let (state, error) = match outcome {
            Ok(()) => (JobState::Succeeded, None),
            Err(Ended::Stopped) if cancelled => (JobState::Cancelled, None),
            Err(Ended::Stopped) => return,
            Err(Ended::Failed(error)) => (JobState::Failed, Some(error)),
        };
        let error = error.map(|error| {
            tracing::warn!(unpack.id = %self.id, "An unpack failed: {}", with_causes(&error));
            job_error(&error)
        });
        let lease_until = self.end_lease(state).await;
        let (now, end_id) = (self.jobs.now(), self.live.read(|record| record.event_id()) + IDS_BEFORE_END);
        let end = |record: &mut super::record::Record| {
            (record.state, record.error, record.row.finished_at) = (state, error.clone(), Some(now.0));
            (record.detail.lease_until, record.detail.end_id) = (lease_until, end_id);
        };
        // Before it is told: whoever hears of the end finds it counted.
        self.jobs.0.settings.metrics.unpack_finished(state.as_str());
        // A database that is away is waited for until the server stops: nobody else would ever end the unpack.
        for failures in 1.. {
            let written = self.live.write(&self.jobs.0.store, UnpackTurn::Finished, end).await;
            let Err(error) = written else { break };
            tracing::warn!(unpack.id = %self.id, "The end of an unpack waits: {}", with_causes(&error));
            if self.jobs.0.shutdown.is_stopping() {
                return;
            }
            let wait = tokio::time::sleep(self.jobs.wait_after_failures(failures));
            let _ = self.jobs.0.shutdown.soft().run_until_cancelled(wait).await;
        }
        if state == JobState::Succeeded {
            let target: &Digest = &self.request.target;
            tracing::info!(unpack.id = %self.id, "Unpacked `{target}`");
        }
    }

    /// Lets go of what the image holds now, unless somebody asked for it. Until when the lease goes on.
    async fn end_lease(&self, state: JobState) -> Option<Time> {
        if self.request.lease.is_some() {
            let lease = self.jobs.0.store.find_lease(&self.caller.namespace, &self.lease).await;
            return lease.ok()?.expires_at.or(Some(Time(i64::MAX)));
        }
        if state == JobState::Succeeded && self.request.keep_micros.is_some() {
            return self.live.read(|record| record.detail.lease_until);
        }
        self.own_lease().end().await;
        None
    }
}

/// The error in words, with the layers that are missing.
fn job_error(error: &Error) -> JobError {
    let mut told = JobError::of(error);
    if let Error::Conflict(Conflict::Incomplete { missing, .. }) = error {
        told.detail = format!("{}: {}", told.detail, missing.join(", "));
        told.hint = Some("pull the image again: what is here already stays".to_owned());
    }
    told
}
