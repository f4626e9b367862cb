//! One download per digest, however many pulls need it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::oci::Digest;

/// The digests that are being fetched by this server, over all pulls and namespaces.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

/// The right to fetch a digest; given on to who waits for it when dropped.
pub(super) struct Flight {
    _turn: OwnedMutexGuard<()>,
}

impl Flights {
    /// Waits until nobody else fetches the digest: whoever waited finds it stored, or goes on where the other ended.
    /// A task holds one flight at a time, so two never wait for each other.
    pub async fn board(&self, digest: &Digest) -> Flight {
        let seat = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(digest).and_then(Weak::upgrade) {
                Some(seat) => seat,
                None => {
                    flights.retain(|_, seat| seat.strong_count() > 0);
                    let seat = Arc::default();
                    flights.insert(digest.clone(), Arc::downgrade(&seat));
                    seat
                }
            }
        };
        Flight { _turn: seat.lock_owned().await }
    }
}
