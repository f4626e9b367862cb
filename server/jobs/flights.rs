//! One download per digest, however many pulls need it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::jobs::view::PullWait;
use crate::oci::Digest;

/// The digests that are being fetched by this server, over all pulls and namespaces.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Digest, Weak<Seat>>>);

/// The place from which a digest is fetched.
#[derive(Debug, Default)]
pub(super) struct Seat {
    turn: Arc<tokio::sync::Mutex<()>>,
    seen: Mutex<Seen>,
}

/// How far whoever fetches a digest has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// For which namespace it is fetched; none while nothing is known.
    pub namespace: Option<String>,
    /// Bytes that are here.
    pub offset: u64,
    /// What that pull waits for itself.
    pub wait: Option<PullWait>,
}

/// The right to fetch a digest; given on to who waits for it when dropped.
pub(super) struct Flight {
    seat: Arc<Seat>,
    _turn: OwnedMutexGuard<()>,
}

impl Flights {
    pub fn seat(&self, digest: &Digest) -> Arc<Seat> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = flights.get(digest).and_then(Weak::upgrade) {
            return seat;
        }
        flights.retain(|_, seat| seat.strong_count() > 0);
        let seat = Arc::default();
        flights.insert(digest.clone(), Arc::downgrade(&seat));
        seat
    }
}

impl Seat {
    /// Waits until nobody else fetches the digest: whoever waited finds it stored, or goes on where the other ended.
    /// A task holds one flight at a time, so two never wait for each other.
    pub async fn take(self: Arc<Seat>) -> Flight {
        let _turn = self.turn.clone().lock_owned().await;
        let flight = Flight { seat: self, _turn };
        flight.tell(|seen| *seen = Seen::default());
        flight
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Flight {
    /// Lets those who wait see how it goes.
    pub fn tell(&self, how: impl FnOnce(&mut Seen)) {
        how(&mut self.seat.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
