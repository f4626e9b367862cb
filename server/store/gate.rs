//! One at a time for each name: commit and delete of the same digest never interleave, nor do two requests with
//! one idempotency key.

use std::hash::{BuildHasher, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Stripes: two names share one by chance, which costs a wait and nothing else. Nobody holds two.
const STRIPES: usize = 1024;

pub struct Gate {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Gate {
    pub fn new() -> Gate {
        Gate { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }

    /// Waits for the name's turn; the turn ends when the guard is dropped.
    pub async fn enter(&self, name: &impl Hash) -> MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(name) as usize % STRIPES;
        self.stripes[at].lock().await
    }
}
