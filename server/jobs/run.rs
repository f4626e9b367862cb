//! The life of a pull's task: its turn, its attempts, its lease, its row, its end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::Time;
use crate::error::{Error, Result, with_causes};
use crate::jobs::event::LogLevel;
use crate::jobs::progress::Picture;
use crate::jobs::record::Record;
use crate::jobs::request::Request;
use crate::jobs::view::{JobState, Phase, PullWait};
use crate::jobs::watch::Live;
use crate::jobs::{Jobs, pull};
use crate::limits;
use crate::oci::Digest;
use crate::registry::Retries;
use crate::store::Caller;

/// How often readers hear of what changed.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// How often the picture is written down, in `TELL_EVERY`s.
const WRITE_EVERY: u32 = 8;

/// A pull at work.
pub(super) struct Job {
    pub jobs: Jobs,
    pub live: Arc<Live>,
    pub id: String,
    pub request: Request,
    pub caller: Caller,
    pub lease: String,
    /// The requests for blobs that it may make at once.
    pub places: Arc<Semaphore>,
    /// For blobs that are fetched at once.
    pub slots: Semaphore,
}

/// Why a step of the work did not reach its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// The pull was cancelled, or the server stops.
    Stopped,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

/// Runs `step` unless `stop` comes first. The step is dropped then: it must be one that leaves nothing behind.
pub(super) async fn unless<T>(stop: &CancellationToken, step: impl Future<Output = T>) -> Result<T, Ended> {
    if stop.is_cancelled() {
        return Err(Ended::Stopped);
    }
    stop.run_until_cancelled(step).await.ok_or(Ended::Stopped)
}

/// Runs all of them, so many at once. When one fails the others stop where they are, and are waited for: each brings its
/// bytes to the disk before it ends.
pub(super) async fn to_the_last<F>(
    work: Vec<F>,
    at_once: usize,
    halt: &CancellationToken,
) -> Result<(), Ended>
where
    F: Future<Output = Result<(), Ended>>,
{
    let mut running = futures_util::stream::iter(work).buffer_unordered(at_once);
    let mut first = Ok(());
    while let Some(outcome) = running.next().await {
        match (&first, outcome) {
            (_, Ok(())) | (Err(Ended::Failed(_)), Err(_)) => {}
            (Ok(()), Err(ended)) | (Err(Ended::Stopped), Err(ended)) => {
                halt.cancel();
                first = Err(ended);
            }
        }
    }
    first
}

/// Runs a pull to its end, or until the server stops: then its row stays unfinished, and the next start goes on.
pub(super) async fn run(jobs: Jobs, live: Arc<Live>) {
    let (id, namespace, lease, request) = live.read(|record| {
        let row = &record.row;
        (row.id.clone(), row.namespace.clone(), row.lease.clone(), record.request.clone())
    });
    let caller = request.caller(&namespace, &lease);
    let _in_hand = InHand { jobs: jobs.clone(), live: live.clone(), id: id.clone() };
    let at_once = request.max_concurrency.unwrap_or(jobs.0.settings.layers);
    let (slots, places) = (Semaphore::new(at_once), Arc::new(Semaphore::new(at_once)));
    let job =
        Job { jobs: jobs.clone(), live: live.clone(), id: id.clone(), request, caller, lease, slots, places };
    // A pull whose work panics has failed like any other: it must not stand still until the next start.
    let outcome = AssertUnwindSafe(job.take_turn()).catch_unwind().await.unwrap_or_else(|panic| {
        let why = format!("a pull panicked: {}", crate::shutdown::panic_text(&*panic));
        Err(Ended::Failed(Error::internal(why)))
    });
    match job.conclude(outcome).await {
        Ok(()) => {}
        // The row is as it was last written, and unfinished: nothing is lost but time.
        Err(error) => tracing::warn!(pull.id = %id, "Could not write down a pull: {}", with_causes(&error)),
    }
}

/// However its task ends, a pull is in hand no longer, and nobody waits for more of it.
struct InHand {
    jobs: Jobs,
    live: Arc<Live>,
    id: String,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.jobs.let_go(&self.id, &self.live);
    }
}

/// The tries of a step in a row, as long as none of them gets further than the ones before.
#[derive(Debug, Default)]
struct Tries {
    failures: u32,
    /// The most bytes that were there at the end of one.
    most_bytes: u64,
}

impl Tries {
    /// Counts a failure that left `bytes_done` there; whether to try once more.
    fn failed(&mut self, bytes_done: u64) -> bool {
        if bytes_done >= self.most_bytes.saturating_add(limits::PULL_PROGRESS_BYTES) {
            (self.failures, self.most_bytes) = (0, bytes_done);
        }
        self.failures += 1;
        self.failures < limits::PULL_TRIES
    }
}

impl Job {
    pub fn now(&self) -> Time {
        self.jobs.now()
    }

    /// Waits for its turn among the other pulls, then works.
    async fn take_turn(&self) -> Result<(), Ended> {
        self.outlast_trouble(|| self.heed_cancellation()).await?;
        let turns = &self.jobs.0.turns;
        let _turn = match turns.try_enter(self.request.reference.api_host()) {
            Ok(turn) => turn,
            Err(why) => {
                self.live.log(self.now(), LogLevel::Info, format!("it waits for its turn: {why}"));
                unless(&self.live.stop, turns.enter(self.request.reference.api_host())).await?
            }
        };
        self.outlast_trouble(|| self.attempt_once()).await
    }

    /// Tries until the step succeeds or fails for a reason of its own. A database that is away is not one, nor is a
    /// lease that expired because the machine slept or its clock was set: all that it held is held anew.
    async fn outlast_trouble<F>(&self, step: impl Fn() -> F) -> Result<(), Ended>
    where
        F: Future<Output = Result<(), Ended>>,
    {
        let mut tries = Tries::default();
        loop {
            let error = match step().await {
                Err(Ended::Failed(error)) if self.is_passing(&error).await => error,
                settled => return settled,
            };
            if !tries.failed(self.live.read(|record| record.progress(self.now()).bytes_done)) {
                return Err(Ended::Failed(error));
            }
            self.warn(format!("{error}; trying again"));
            tracing::warn!(pull.id = %self.id, "A pull is held up: {}", with_causes(&error));
            let time = self.jobs.wait_after_failures(tries.failures);
            let wait = PullWait { until: Some(self.now().plus(time)), reason: error.to_string() };
            self.draw(|picture| picture.wait(None, wait));
            unless(&self.live.stop, tokio::time::sleep(time)).await?;
            self.draw(|picture| picture.go_on(None, self.now()));
        }
    }

    /// Whether a step that failed so may yet succeed.
    async fn is_passing(&self, error: &Error) -> bool {
        let is_missing = matches!(error, Error::NotFound { .. });
        matches!(error, Error::Unavailable { .. }) || (is_missing && self.has_lost_lease().await)
    }

    /// It may have been cancelled between its row and its task.
    async fn heed_cancellation(&self) -> Result<(), Ended> {
        let found = self.jobs.0.store.find_pull(&self.caller.namespace, &self.id).await?;
        if JobState::of_row(&found.state) == JobState::Cancelling {
            self.live.change(Record::mark_cancelling);
            self.live.stop.cancel();
        }
        Ok(())
    }

    async fn attempt_once(&self) -> Result<(), Ended> {
        let now = self.now();
        self.live.change(|record| record.begin_attempt(now));
        self.hold_lease().await?;
        self.write_down().await?;
        tokio::select! {
            biased;
            // On the heap: the task of a pull is moved a few times before it begins.
            outcome = Box::pin(pull::work(self)) => outcome,
            error = self.renew_lease() => Err(Ended::Failed(error)),
            never = self.tell() => match never {},
        }?;
        // Once nobody renews it any more: that would take back the time it is given.
        self.keep_lease().await
    }

    /// Tells readers what changes and writes it down now and then, for as long as it is asked to.
    async fn tell(&self) -> std::convert::Infallible {
        loop {
            for _ in 0..WRITE_EVERY {
                self.live.tell(self.now());
                tokio::time::sleep(TELL_EVERY).await;
            }
            if let Err(error) = self.write_down().await {
                tracing::warn!(pull.id = %self.id, "Could not write down a pull: {}", with_causes(&error));
            }
        }
    }

    /// Goes on to a phase, and writes that down.
    pub async fn enter(&self, phase: Phase) -> Result<()> {
        self.live.change(|record| record.phase = Some(phase));
        self.write_down().await
    }

    pub fn draw(&self, how: impl FnOnce(&mut Picture)) {
        self.live.change(|record| record.picture.as_mut().map(how));
    }

    pub fn warn(&self, message: String) {
        self.live.log(self.now(), LogLevel::Warn, message);
    }

    /// Asks a registry until it answers, or has failed as often as is reasonable: for the blob of this digest, or for
    /// what comes before all blobs.
    pub async fn ask<T, F: Future<Output = Result<T>>>(
        &self,
        digest: Option<&Digest>,
        ask: impl Fn() -> F,
    ) -> Result<T, Ended> {
        let mut retries = self.retries();
        loop {
            match unless(&self.live.stop, ask()).await? {
                Ok(answer) => return Ok(answer),
                Err(error) => self.wait_after(&mut retries, error, &self.live.stop, digest, |_| ()).await?,
            }
        }
    }

    /// The tries for one blob or document. A registry that has told what the reference stands for is there, even if it
    /// is away for a while.
    pub fn retries(&self) -> Retries {
        let policy = self.jobs.0.settings.retry;
        let answered = self.live.read(|record| record.detail.is_resolved());
        Retries::new(if answered { policy.once_answered() } else { policy })
    }

    /// Waits before the next try, or gives the error back when there is to be none. `tell` hears of the wait too, and
    /// of its end.
    pub async fn wait_after(
        &self,
        retries: &mut Retries,
        error: Error,
        stop: &CancellationToken,
        digest: Option<&Digest>,
        tell: impl Fn(Option<PullWait>),
    ) -> Result<(), Ended> {
        let random = u64::from_le_bytes(crate::id::random_bytes());
        let Some(time) = retries.failed(&error, random) else {
            return Err(Ended::Failed(retries.give_up(error)));
        };
        self.warn(format!("{error}; trying again in {:.1} s", time.as_secs_f32()));
        let wait = PullWait { until: Some(self.now().plus(time)), reason: error.to_string() };
        tell(Some(wait.clone()));
        self.draw(|picture| picture.wait(digest, wait));
        unless(stop, tokio::time::sleep(time)).await?;
        tell(None);
        self.draw(|picture| picture.go_on(digest, self.now()));
        Ok(())
    }

    /// Writes the row. A cancellation that was written meanwhile stops the work, and stands.
    pub async fn write_down(&self) -> Result<()> {
        let (row, stored) = self.live.read(|record| (record.to_row(self.jobs.now()), record.stored));
        let state = JobState::of_row(&row.state);
        if self.jobs.0.store.update_pull(&row, stored.as_str()).await? {
            self.live.change(|record| record.note_stored(stored, state));
            return Ok(());
        }
        let found = self.jobs.0.store.find_pull(&row.namespace, &row.id).await?;
        match JobState::of_row(&found.state) {
            // The answer to an earlier write was lost, not the write: the next one goes on from there.
            moved @ (JobState::Queued | JobState::Running) => {
                self.live.change(|record| record.stored = moved);
                return Ok(());
            }
            JobState::Cancelling => self.live.change(Record::mark_cancelling),
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => {}
        }
        self.live.stop.cancel();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_gained_renews_the_tries() {
        let failures = |gained: u64| {
            let mut tries = Tries::default();
            (1..100).take_while(|number| tries.failed(number * gained)).count()
        };
        assert_eq!(failures(0), limits::PULL_TRIES as usize - 1);
        assert_eq!(failures(limits::PULL_PROGRESS_BYTES), 99);
        let mut tries = Tries::default();
        let same = (1..100).take_while(|_| tries.failed(limits::PULL_PROGRESS_BYTES)).count();
        assert_eq!(same, limits::PULL_TRIES as usize - 1, "the same bytes again are no progress");
    }
}
