//! How many requests may be in flight: to one registry, and to all together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many requests may be in flight at once, their answers' bodies included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// To one registry.
    pub host: usize,
    /// To all of them.
    pub total: usize,
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd { host: crate::limits::HOST_REQUESTS, total: crate::limits::TOTAL_REQUESTS }
    }
}

/// The places for requests. Whoever waits for one gets it in turn; drop the future to wait no more.
#[derive(Debug)]
pub(super) struct Places {
    crowd: Crowd,
    total: Arc<Semaphore>,
    /// By `host[:port]` as it stands in references; those that nobody uses are forgotten.
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The right to have one request in flight; given back when dropped. A task that holds one never waits for another, so
/// that nobody waits for ever.
#[derive(Debug)]
pub struct Place {
    _host: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

impl Places {
    pub fn new(crowd: Crowd) -> Places {
        Places { crowd, total: Arc::new(Semaphore::new(crowd.total)), hosts: Mutex::default() }
    }

    pub async fn enter(&self, authority: &str) -> Place {
        const OPEN: &str = "nobody closes it";
        // The host first: who waits for a crowded one takes nothing from the others.
        let _host = self.host(authority).acquire_owned().await.expect(OPEN);
        let _total = self.total.clone().acquire_owned().await.expect(OPEN);
        Place { _host, _total }
    }

    /// A place that is free and that nobody waits for.
    pub fn try_enter(&self, authority: &str) -> Option<Place> {
        let _host = self.host(authority).try_acquire_owned().ok()?;
        let _total = self.total.clone().try_acquire_owned().ok()?;
        Some(Place { _host, _total })
    }

    fn host(&self, authority: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(authority) {
            return host.clone();
        }
        // One that is used has a handle out, in a place or with who waits for it.
        hosts.retain(|_, host| Arc::strong_count(host) > 1);
        let host = Arc::new(Semaphore::new(self.crowd.host));
        hosts.insert(authority.to_owned(), host.clone());
        host
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn places_are_given_in_turn_and_one_host_takes_none_from_another() {
        let places = Places::new(Crowd { host: 2, total: 3 });
        let (first, second) = (places.enter("a").await, places.try_enter("a").expect("a second"));
        assert!(places.try_enter("a").is_none());
        let mut third = Box::pin(places.enter("a"));
        let mut fourth = Box::pin(places.enter("a"));
        assert!((&mut third).now_or_never().is_none() && (&mut fourth).now_or_never().is_none());
        let other = places.enter("b").await;
        assert!(places.try_enter("c").is_none(), "there are three in all");
        drop((other, second));
        assert!(places.try_enter("a").is_none(), "somebody waits for it");
        assert!((&mut fourth).now_or_never().is_none(), "and came first");
        let third = third.now_or_never().expect("its turn");
        // Whoever waits no more is passed over.
        drop(fourth);
        drop(first);
        assert!(places.try_enter("a").is_some());
        drop(third);
        assert!(places.try_enter("d").is_some());
        assert_eq!(places.hosts.lock().expect("nobody panics").len(), 1, "who is not used is forgotten");
    }
}
