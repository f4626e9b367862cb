//! Many waiters, one fsync: names made in one directory become durable together.

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
    done: tokio::sync::Mutex<u64>,
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
        let turns = &self.dirs[at];
        let ticket = turns.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut done = turns.done.lock().await;
        if *done >= ticket {
            return Ok(());
        }
        // Everybody who has a ticket by now has renamed already.
        let covers = turns.asked.load(Ordering::Acquire);
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || disk.blobs[at].1.sync_all())
            .await
            .map_err(|_| Error::internal("sync the directory of blobs"))?
            .doing("sync the directory of blobs")?;
        *done = covers;
        Ok(())
    }
}
