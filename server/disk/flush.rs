//! Many waiters, one fsync: names made in one directory become durable together.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Disk;
use crate::error::{Doing, Error, Result};
use crate::oci::Algorithm;

/// Group commit for `blobs/`. A waiter that comes while an fsync runs shares the next one.
#[derive(Debug)]
pub struct Flush {
    disk: Arc<Disk>,
    dirs: Vec<Turns>,
}

#[derive(Debug, Default)]
struct Turns {
    asked: AtomicU64,
    covered: tokio::sync::Mutex<Covered>,
}

/// The last ticket that an fsync covered which succeeded, and the last of one that failed.
#[derive(Debug, Default)]
struct Covered {
    done: u64,
    failed: Option<(u64, io::ErrorKind)>,
}

impl Flush {
    pub fn new(disk: Arc<Disk>) -> Flush {
        let dirs = Algorithm::ALL.iter().map(|_| Turns::default()).collect();
        Flush { disk, dirs }
    }

    /// Returns when every rename into the algorithm's directory that came before the call is durable.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`: then nothing may be acknowledged.
    pub async fn sync_names(&self, algorithm: Algorithm) -> Result<()> {
        let at = Algorithm::ALL.iter().position(|known| *known == algorithm).unwrap_or_default();
        let disk = self.disk.clone();
        self.dirs[at].wait(move || disk.blobs[at].1.sync_all()).await
    }
}

impl Turns {
    async fn wait(&self, sync: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<()> {
        const DOING: &str = "sync the directory of blobs";
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut covered = self.covered.lock().await;
        // The kernel tells of a failure once, and the next fsync succeeds without what the failed one has lost: nobody
        // whose name that one was for may be told by another that it is durable.
        if let Some((last, kind)) = covered.failed
            && ticket <= last
        {
            return Err(io::Error::from(kind)).doing(DOING);
        }
        if ticket <= covered.done {
            return Ok(());
        }
        // Everybody who has a ticket by now has renamed already.
        let covers = self.asked.load(Ordering::Acquire);
        let synced = tokio::task::spawn_blocking(sync).await.map_err(|_| Error::internal(DOING))?;
        match &synced {
            Ok(()) => covered.done = covers,
            Err(error) => covered.failed = Some((covers, error.kind())),
        }
        synced.doing(DOING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_sync_fails_for_everybody_whom_it_covered_and_for_nobody_after() {
        let turns = Arc::new(Turns::default());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        // The first is at work while two more come, who share the next.
        let first = tokio::spawn({
            let turns = turns.clone();
            async move { turns.wait(move || wait.recv().map_err(io::Error::other)).await }
        });
        let ask = |turns: Arc<Turns>, outcome: io::Result<()>| {
            tokio::spawn(async move { turns.wait(move || outcome).await })
        };
        let mut shared = Vec::new();
        for (tickets, outcome) in
            [(1, None), (2, Some(Err(io::ErrorKind::StorageFull.into()))), (3, Some(Ok(())))]
        {
            if let Some(outcome) = outcome {
                shared.push(ask(turns.clone(), outcome));
            }
            while turns.asked.load(Ordering::Acquire) < tickets {
                tokio::task::yield_now().await;
            }
        }
        go.send(()).expect("the first waits");
        first.await.expect("no panic").expect("its own sync succeeded");
        for waiter in shared {
            let told = waiter.await.expect("no panic");
            assert!(matches!(told, Err(Error::OutOfSpace { .. })), "{told:?}");
        }
        turns.wait(|| Ok(())).await.expect("a name that came after the failure");
    }
}
