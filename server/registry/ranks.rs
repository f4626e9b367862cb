//! In which order the endpoints of a repository are asked: whoever failed comes after those who did not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// More than all failures of a pull: who lied is asked after everybody else.
const LIE: u32 = 1 << 16;

/// How often each endpoint has failed so far. A cheap clone.
#[derive(Debug, Clone)]
pub(super) struct Ranks(Arc<[AtomicU32]>);

impl Ranks {
    /// Of endpoints at the places from 0 to here: none has failed.
    pub fn new(places: usize) -> Ranks {
        Ranks((0..places).map(|_| AtomicU32::new(0)).collect())
    }

    /// Sorts places: those that failed least come first, of those the earlier ones.
    pub fn sort(&self, places: &mut [usize]) {
        places.sort_by_key(|place| self.0[*place].load(Ordering::Relaxed));
    }

    /// The endpoint at `place` did not help.
    pub fn shun(&self, place: usize) {
        self.add(place, 1);
    }

    /// The endpoint at `place` gave something else than it was asked for.
    pub fn distrust(&self, place: usize) {
        self.add(place, LIE);
    }

    fn add(&self, place: usize, count: u32) {
        let more = |failures: u32| Some(failures.saturating_add(count));
        // It never fails: there is always a next number.
        let _ = self.0[place].fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

/// The endpoint that an answer is from: told when the answer turns out to be no good after its head.
#[derive(Debug, Clone)]
pub(super) struct Answerer {
    pub ranks: Ranks,
    pub place: usize,
    /// Its `host[:port]`.
    pub authority: String,
}

impl Answerer {
    pub fn shun(&self) {
        self.ranks.shun(self.place);
    }
}
