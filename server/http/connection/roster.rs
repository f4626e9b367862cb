//! All open connections, looked at together: a timer and two tokens in each would be asked at every request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Order, Overdue, Timing, Watch};

/// The connections of one listener. A cheap clone.
#[derive(Clone)]
pub struct Roster(Arc<Shared>);

struct Shared {
    timing: Timing,
    members: Mutex<Members>,
    emptied: Notify,
}

#[derive(Default)]
struct Members {
    next: u64,
    watches: HashMap<u64, (SocketAddr, Watch)>,
    /// What everybody was told, and whoever comes later is told at once.
    order: Order,
}

/// A connection's place in the roster, for as long as it lives.
pub struct Member {
    roster: Roster,
    number: u64,
    pub watch: Watch,
}

impl Roster {
    pub fn new(timing: Timing) -> Roster {
        Roster(Arc::new(Shared { timing, members: Mutex::default(), emptied: Notify::new() }))
    }

    pub fn enter(&self, peer: SocketAddr) -> Member {
        let watch = Watch::new(self.0.timing);
        let mut members = self.members();
        watch.give(members.order);
        let number = members.next;
        members.next += 1;
        members.watches.insert(number, (peer, watch.clone()));
        Member { roster: self.clone(), number, watch }
    }

    /// Tells those to go who are overdue, and everybody once `soft` is cancelled; then ends with the last of them.
    /// Dropping this before closes every connection.
    pub async fn look_after(&self, soft: &CancellationToken) {
        let _closing = CloseAll(self);
        let mut ticks = tokio::time::interval(self.0.timing.tick);
        let mut ending = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look(),
                () = self.0.emptied.notified() => {}
                () = soft.cancelled(), if !ending => {
                    ending = true;
                    self.tell_all(Order::Finish);
                }
            }
            if ending && self.members().watches.is_empty() {
                return;
            }
        }
    }

    fn look(&self) {
        for (peer, watch) in self.members().watches.values() {
            match watch.overdue() {
                None => {}
                Some(Overdue::Idle) => _ = watch.give(Order::Finish),
                Some(Overdue::Slow) if watch.give(Order::Close) => {
                    info!(%peer, "Closed a connection whose peer is too slow");
                }
                Some(Overdue::Slow) => {}
            }
        }
    }

    fn tell_all(&self, order: Order) {
        let mut members = self.members();
        members.order = members.order.max(order);
        for (_, watch) in members.watches.values() {
            watch.give(order);
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Every change is a plain insertion or removal: a panic elsewhere cannot leave it half made.
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = self.roster.members();
        members.watches.remove(&self.number);
        if members.watches.is_empty() {
            self.roster.0.emptied.notify_one();
        }
    }
}

struct CloseAll<'r>(&'r Roster);

impl Drop for CloseAll<'_> {
    fn drop(&mut self) {
        self.0.tell_all(Order::Close);
    }
}
