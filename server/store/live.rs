//! The living part of an ingest: who writes it, how far it is, and the hash so far.
//!
//! One writer at a time: a request in flight that changes the ingest (a [`Turn`]), or the holder of a writer
//! token between its requests. The state can be read at any moment and is of the bytes received so far.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;

use super::tokens::is_same;
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::limits;
use crate::oci::{Algorithm, Digest, Hasher};

/// What a caller is told to wait when another request writes.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// The ingests that were used since the start, by id.
#[derive(Default)]
pub(super) struct Ingests(Mutex<HashMap<String, Arc<Live>>>);

impl Ingests {
    /// The ingest's living part, made on first use.
    pub fn get(&self, id: &str) -> Arc<Live> {
        self.lock().entry(id.to_owned()).or_insert_with(|| Arc::new(Live::default())).clone()
    }

    /// The ingest's living part, if it was used since the start.
    pub fn find(&self, id: &str) -> Option<Arc<Live>> {
        self.lock().get(id).cloned()
    }

    pub fn remove(&self, id: &str) -> Option<Arc<Live>> {
        self.lock().remove(id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct Live {
    progress: OnceCell<Mutex<Progress>>,
    slot: Mutex<Slot>,
    freed: Notify,
}

/// How far an ingest is.
#[derive(Clone)]
pub(super) struct Progress {
    pub bytes: Bytes,
    pub updated_at: Time,
}

/// Where the bytes of an ingest are.
#[expect(clippy::large_enum_variant, reason = "one for each ingest, and its own bytes are the common case")]
#[derive(Clone)]
pub(super) enum Bytes {
    /// In the ingest's own file.
    Own { offset: u64, hasher: Hasher },
    /// Nowhere of its own: those of a stored blob count until something is appended.
    Lent { digest: Digest, size: u64 },
}

impl Bytes {
    pub fn none(algorithm: Algorithm) -> Bytes {
        Bytes::Own { offset: 0, hasher: Hasher::new(algorithm) }
    }

    pub fn offset(&self) -> u64 {
        match self {
            Bytes::Own { offset, .. } => *offset,
            Bytes::Lent { size, .. } => *size,
        }
    }

    pub fn digest(&self) -> Digest {
        match self {
            Bytes::Own { hasher, .. } => hasher.digest(),
            Bytes::Lent { digest, .. } => digest.clone(),
        }
    }

    pub fn is_lent(&self) -> bool {
        matches!(self, Bytes::Lent { .. })
    }

    pub fn algorithm(&self) -> Algorithm {
        match self {
            Bytes::Own { hasher, .. } => hasher.algorithm(),
            Bytes::Lent { digest, .. } => digest.algorithm(),
        }
    }
}

#[derive(Default)]
struct Slot {
    turn: Option<Current>,
    holder: Option<Holder>,
    turns: u64,
    end: End,
}

/// Whether an ingest is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum End {
    #[default]
    No,
    /// Somebody ends it: who writes must stop, and nobody begins, but its bytes are still to be kept.
    Begun,
    /// Its row is gone, and its bytes belong to nobody.
    Certain,
}

struct Current {
    number: u64,
    of_holder: bool,
    /// The request has ended; what is left is ours to do, and short.
    finishing: bool,
    cancel: CancellationToken,
}

#[derive(Debug, Clone)]
struct Holder {
    token: String,
    ttl: Duration,
    expires_at: Time,
}

/// The right to change an ingest; given back when dropped.
pub(super) struct Turn {
    pub live: Arc<Live>,
    number: u64,
    /// Cancelled when the holder's newer request, or an abort, ends this one.
    pub cancel: CancellationToken,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut slot = self.live.slot();
        if slot.turn.as_ref().is_some_and(|current| current.number == self.number) {
            slot.turn = None;
        }
        drop(slot);
        self.live.freed.notify_waiters();
    }
}

impl Turn {
    /// Says that the request has ended and only our own work is left.
    pub fn finish(&self) {
        let mut slot = self.live.slot();
        if let Some(current) = slot.turn.as_mut().filter(|current| current.number == self.number) {
            current.finishing = true;
        }
    }

    /// Whether the ingest was aborted under this turn.
    pub fn is_gone(&self) -> bool {
        self.live.is_gone()
    }
}

impl Live {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The progress, loaded by `load` on first use.
    pub async fn progress(
        &self,
        load: impl Future<Output = Result<Progress>>,
    ) -> Result<MutexGuard<'_, Progress>> {
        let progress = self.progress.get_or_try_init(|| async { load.await.map(Mutex::new) }).await?;
        Ok(progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The progress, if it was loaded.
    pub fn loaded(&self) -> Option<MutexGuard<'_, Progress>> {
        self.progress.get().map(|progress| progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn offset(&self) -> u64 {
        self.loaded().map_or(0, |progress| progress.bytes.offset())
    }

    /// Takes the turn for a request that came with `token`, if it came with one.
    ///
    /// # Errors
    /// `Busy` while somebody else writes; `WriterLost` when the token is not the writer's; `NotFound` after an
    /// abort.
    pub async fn take_turn(self: &Arc<Live>, id: &str, token: Option<&str>, now: Time) -> Result<Turn> {
        let patience = tokio::time::sleep(limits::FINISHING_TIME);
        tokio::pin!(patience);
        loop {
            // Registered before the look at the slot, so that a turn that ends between is not missed.
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(turn) = self.try_turn(id, token, now)? {
                return Ok(turn);
            }
            tokio::select! {
                () = freed => {}
                () = &mut patience => return Err(self.busy(BUSY_RETRY)),
            }
        }
    }

    /// The turn, or nothing while the one before it is about to end.
    fn try_turn(self: &Arc<Live>, id: &str, token: Option<&str>, now: Time) -> Result<Option<Turn>> {
        let mut slot = self.slot();
        match slot.end {
            End::No => {}
            End::Begun => return Ok(None),
            End::Certain => return Err(Error::not_found("ingest", id)),
        }
        let in_flight = slot.turn.is_some();
        let holder = slot.holder.clone().filter(|holder| holder.expires_at > now || in_flight);
        match (&holder, token) {
            (Some(holder), Some(token)) if is_same(holder.token.as_bytes(), token.as_bytes()) => {}
            (_, Some(_)) => return Err(Error::WriterLost),
            (Some(holder), None) => {
                let wait = holder.expires_at.since(now);
                drop(slot);
                return Err(self.busy(wait));
            }
            (None, None) => slot.holder = None,
        }
        if let Some(current) = &mut slot.turn {
            if token.is_some() && current.of_holder {
                // The holder's newer request ends its own older one.
                current.cancel.cancel();
            } else if !current.finishing {
                drop(slot);
                return Err(self.busy(BUSY_RETRY));
            }
            return Ok(None);
        }
        if let Some(holder) = &mut slot.holder {
            holder.expires_at = now.plus(holder.ttl);
        }
        slot.turns += 1;
        let number = slot.turns;
        let cancel = CancellationToken::new();
        let of_holder = token.is_some();
        slot.turn = Some(Current { number, of_holder, finishing: false, cancel: cancel.clone() });
        Ok(Some(Turn { live: self.clone(), number, cancel }))
    }

    fn busy(&self, retry_after: Duration) -> Error {
        Error::Busy { offset: self.offset(), retry_after }
    }

    /// Makes the caller the holder, under a new token; until when.
    pub fn hold(&self, token: String, ttl: Duration, now: Time) -> Time {
        let expires_at = now.plus(ttl);
        self.slot().holder = Some(Holder { token, ttl, expires_at });
        expires_at
    }

    /// Renews the holder at the end of its request.
    pub fn renew(&self, now: Time) {
        if let Some(holder) = &mut self.slot().holder {
            holder.expires_at = now.plus(holder.ttl);
        }
    }

    /// Gives the ingest back.
    pub fn release(&self) {
        self.slot().holder = None;
        self.freed.notify_waiters();
    }

    /// Until when somebody holds the ingest between requests.
    pub fn held_until(&self, now: Time) -> Option<Time> {
        let slot = self.slot();
        let in_flight = slot.turn.is_some();
        slot.holder.as_ref().filter(|holder| holder.expires_at > now || in_flight).map(|h| h.expires_at)
    }

    /// Whether a request writes, or a writer holds it.
    pub fn is_used(&self, now: Time) -> bool {
        let writing = self.slot().turn.is_some();
        writing || self.held_until(now).is_some()
    }

    /// Whether the ingest has ended, or is being ended.
    pub fn is_gone(&self) -> bool {
        self.slot().end != End::No
    }

    /// Whether nothing of the ingest is to be kept any more.
    pub fn has_ended(&self) -> bool {
        self.slot().end == End::Certain
    }

    /// Says that the ingest's row is gone.
    pub fn confirm_end(&self) {
        self.slot().end = End::Certain;
        self.freed.notify_waiters();
    }

    /// Takes an end back that could not be written down.
    pub fn revive(&self) {
        self.slot().end = End::No;
        self.freed.notify_waiters();
    }

    /// Begins the end of the ingest under whoever writes it: their next step is `NotFound`.
    pub fn end(&self) {
        let mut slot = self.slot();
        slot.end = End::Begun;
        slot.holder = None;
        if let Some(current) = &slot.turn {
            current.cancel.cancel();
        }
        drop(slot);
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    const NOW: Time = Time(1_000_000);

    #[tokio::test]
    async fn while_an_end_is_being_written_down_nobody_begins_and_nobody_is_told_that_it_is_gone() {
        let live = Arc::new(Live::default());
        let writer = live.take_turn("i", None, NOW).await.expect("nobody else writes");
        live.end();
        assert!(writer.cancel.is_cancelled() && writer.is_gone());
        assert!(!live.has_ended(), "its bytes are still to be kept");
        drop(writer);
        let mut newcomer = std::pin::pin!(live.take_turn("i", None, NOW));
        assert!(futures_util::poll!(newcomer.as_mut()).is_pending());
        live.revive();
        assert!(matches!(futures_util::poll!(newcomer.as_mut()), Poll::Ready(Ok(_))));
        live.end();
        live.confirm_end();
        assert!(live.has_ended());
        assert!(matches!(live.take_turn("i", None, NOW).await, Err(Error::NotFound { .. })));
    }
}
