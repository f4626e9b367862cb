//! Starting tasks and ending them: the only place that spawns.
//!
//! A stop has two steps. The soft token says "take nothing new, finish what you have"; when the grace time is over,
//! or at a second signal, the hard token says "end now".

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::error::{Doing, Error, Result};

/// A cheap clone; all clones are of one process-wide stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every task ended by itself.
    Clean,
    /// The grace time was over, or a second signal came, and this many tasks were still at work.
    Cut { tasks: usize },
}

impl Shutdown {
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Runs `future` as a task of its own, which the stop waits for. A panic in it is logged under `name` and ends
    /// that task alone; the handle then gives `None`.
    ///
    /// The task must watch [`Shutdown::soft`] or be short: nothing else ends it before the hard token does.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let hard = self.hard.clone();
        self.tasks.spawn(async move { hard.run_until_cancelled(caught(name, future)).await.flatten() })
    }

    /// As [`Shutdown::spawn`], for a task that something else ends when the hard token is cancelled: it is spared the
    /// look at the token each time that it wakes.
    pub fn spawn_self_ending<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.tasks.spawn(caught(name, future))
    }

    /// Runs blocking work on a thread made for it. Such work cannot be interrupted, also not by the hard token:
    /// keep each piece short.
    ///
    /// # Errors
    /// `Internal` when the work panicked (which is logged) or the runtime is going away.
    pub async fn spawn_blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let joined = self.tasks.spawn_blocking(work).await;
        joined.map_err(|failed| {
            if let Ok(panic) = failed.try_into_panic() {
                error!(task = name, "Blocking work panicked: {}", panic_text(&*panic));
            }
            Error::internal(name)
        })
    }

    /// Cancelled when nothing new shall begin. Event streams and jobs end on it.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when everything shall end now.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Whether the stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Begins the stop without waiting for it.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Turns SIGTERM and SIGINT into the soft token, and the next such signal into the hard one.
    ///
    /// # Errors
    /// `Internal` when the process cannot be told of signals.
    pub fn on_signals(&self) -> Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).doing("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).doing("listen for SIGINT")?;
        let (soft, hard) = (self.soft.clone(), self.hard.clone());
        // Not tracked: this one lives as long as the process, and a drain must not wait for it.
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            let signal = next().await;
            info!(signal, "Stopping");
            soft.cancel();
            let signal = next().await;
            warn!(signal, "Stopping at once, without waiting for what is in flight");
            hard.cancel();
        });
        Ok(())
    }

    /// Begins the stop, waits up to `grace` for all tasks to end, then ends the rest.
    pub async fn drain(&self, grace: Duration) -> Drained {
        self.soft.cancel();
        self.tasks.close();
        let cut = tokio::select! {
            () = self.tasks.wait() => return Drained::Clean,
            () = tokio::time::sleep(grace) => self.tasks.len(),
            () = self.hard.cancelled() => self.tasks.len(),
        };
        self.hard.cancel();
        // The tasks end at their next await; blocking work that does not is left to the end of the process.
        const LAST_WAIT: Duration = Duration::from_secs(2);
        let _ = tokio::time::timeout(LAST_WAIT, self.tasks.wait()).await;
        warn!(tasks = cut, "Ended tasks that were still at work after the grace time");
        Drained::Cut { tasks: cut }
    }
}

/// `None`, and a line in the log, where the task panics.
async fn caught<T>(name: &'static str, task: impl Future<Output = T>) -> Option<T> {
    // What a panicking task leaves half done is its own: shared state is behind types that stay whole.
    let ended = AssertUnwindSafe(task).catch_unwind().await;
    ended.inspect_err(|panic| error!(task = name, "Task panicked: {}", panic_text(&**panic))).ok()
}

/// What a panic said, where it said it in text.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_watches_the_soft_token_ends_clean() {
        let shutdown = Shutdown::new();
        let soft = shutdown.soft().clone();
        let task = shutdown.spawn("watcher", async move {
            soft.cancelled().await;
            7
        });
        assert_eq!(shutdown.drain(Duration::from_secs(60)).await, Drained::Clean);
        assert_eq!(task.await.expect("not aborted"), Some(7));
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_cut_after_the_grace_time() {
        let shutdown = Shutdown::new();
        let task = shutdown.spawn("endless", std::future::pending::<()>());
        assert_eq!(shutdown.drain(Duration::from_millis(10)).await, Drained::Cut { tasks: 1 });
        assert_eq!(task.await.expect("not aborted"), None);
    }

    #[tokio::test]
    async fn a_second_signal_does_not_wait_for_the_grace_time() {
        let shutdown = Shutdown::new();
        shutdown.spawn("endless", std::future::pending::<()>());
        shutdown.hard().cancel();
        // The task may or may not have ended before the drain looks: only the time is promised.
        let drained =
            tokio::time::timeout(Duration::from_secs(3), shutdown.drain(Duration::from_secs(3_600)));
        drained.await.expect("at once");
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_task_only() {
        let shutdown = Shutdown::new();
        let broken = shutdown.spawn("broken", async { panic!("this test panics on purpose") });
        assert_eq!(broken.await.expect("the panic was caught"), None::<()>);
        let failed = shutdown.spawn_blocking("break", || panic!("this test panics on purpose")).await;
        assert!(matches!(failed, Err(Error::Internal { .. })));
        assert_eq!(shutdown.spawn_blocking("add", || 1 + 1).await.expect("work"), 2);
    }
}
