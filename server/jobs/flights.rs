//! One download per digest, for all pulls whose bytes may be each other's.
//!
//! A pull follows another one only where that is no loss: where the bytes of the one may be lent to the other, and while
//! they come. So nobody's slow registry holds up what others fetch from a fast one, and nobody learns what a namespace
//! fetches that he may not look into.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::jobs::view::PullWait;
use crate::oci::Digest;

/// The digests that are being fetched by this server, over all pulls and namespaces.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Digest, Vec<Weak<Seat>>>>);

/// A place from which a digest is fetched. There is more than one where those who fetch it do not follow each other.
#[derive(Debug, Default)]
pub(super) struct Seat {
    turn: Arc<tokio::sync::Mutex<()>>,
    seen: Mutex<Seen>,
}

/// How far whoever fetches a digest has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Who fetches it; none while nothing is known.
    pub holder: Option<Holder>,
    /// Bytes that are here.
    pub offset: u64,
    /// What that pull waits for itself.
    pub wait: Option<PullWait>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub namespace: String,
    /// The host of the registry that is asked.
    pub host: String,
    /// Whether the ingest that has the digest's name is another one's to write.
    pub overtakes: bool,
}

/// The right to fetch a digest; given on to who waits for it when dropped.
pub(super) struct Flight {
    seat: Arc<Seat>,
    _turn: OwnedMutexGuard<()>,
}

impl Flights {
    /// The newest place from which the digest is fetched, other than these; a new one where there is none.
    pub fn seat(&self, digest: &Digest, shunned: &[Arc<Seat>]) -> Arc<Seat> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seats = flights.get(digest).map(Vec::as_slice).unwrap_or_default();
        let mut living = seats.iter().rev().filter_map(Weak::upgrade);
        if let Some(seat) = living.find(|seat| !shunned.iter().any(|other| Arc::ptr_eq(seat, other))) {
            return seat;
        }
        flights.retain(|_, seats| {
            seats.retain(|seat| seat.strong_count() > 0);
            !seats.is_empty()
        });
        let seat = Arc::default();
        flights.entry(digest.clone()).or_default().push(Arc::downgrade(&seat));
        seat
    }
}

impl Flights {
    /// Whether somebody else of the holder's namespace writes the ingest that has the digest's name, from whichever seat.
    /// If not, it is the holder's while the flight lasts.
    pub fn overtakes(&self, digest: &Digest, flight: &Flight) -> bool {
        // Held to the end: of two who ask at once one overtakes the other.
        let flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = flight.seat.seen().holder else { return false };
        let writes = |seat: Arc<Seat>| {
            let other = seat.seen().holder.filter(|_| !Arc::ptr_eq(&seat, &flight.seat));
            other.is_some_and(|other| other.namespace == own.namespace && !other.overtakes)
        };
        let overtakes = flights.get(digest).into_iter().flatten().filter_map(Weak::upgrade).any(writes);
        flight.tell(|seen| seen.holder = Some(Holder { overtakes, ..own }));
        overtakes
    }
}

impl Seat {
    /// Waits until nobody fetches the digest from here: whoever waited finds it stored, or goes on where the other
    /// ended. Who holds a flight never waits for another, so two never wait for each other.
    pub async fn take(self: Arc<Seat>, holder: Holder) -> Flight {
        let _turn = self.turn.clone().lock_owned().await;
        let flight = Flight { seat: self, _turn };
        flight.tell(|seen| *seen = Seen { holder: Some(holder), ..Seen::default() });
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

impl Drop for Flight {
    fn drop(&mut self) {
        // Before the turn goes on: who is not here any more writes nothing.
        self.tell(|seen| *seen = Seen::default());
    }
}
