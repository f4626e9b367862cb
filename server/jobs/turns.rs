//! Whose turn it is to be pulled. No registry has all turns, so that one which hangs does not hold up the pulls from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of all pulls.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    most: usize,
    /// By host, of those that are asked or waited for now.
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
    most_of_host: usize,
}

/// A pull's turn, until it is dropped. The host's goes with it: who waits for one keeps the host known.
#[derive(Debug)]
pub(super) struct Turn {
    _of_host: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// So many at once. Where they are three or more, one of them is never a registry's that has all the others.
    pub fn new(most: usize) -> Turns {
        let most_of_host = if most > 2 { most - 1 } else { most };
        Turns { all: Arc::new(Semaphore::new(most)), most, hosts: Mutex::default(), most_of_host }
    }

    fn of_host(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host).and_then(Weak::upgrade) {
            return known;
        }
        hosts.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(Semaphore::new(self.most_of_host));
        hosts.insert(host.to_owned(), Arc::downgrade(&new));
        new
    }

    /// A turn at once.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn try_enter(&self, host: &str) -> Result<Turn, String> {
        let of_host = self.of_host(host).try_acquire_owned().map_err(|_| {
            let most = self.most_of_host;
            format!("{most} pulls from {host} are under way, as many as one registry has at once")
        })?;
        let of_all = self.all.clone().try_acquire_owned();
        let of_all =
            of_all.map_err(|_| format!("{} pulls are under way, as many as there are at once", self.most))?;
        Ok(Turn { _of_host: of_host, _of_all: of_all })
    }

    /// Waits for a turn. That of the host comes first: who waits for it takes none from others.
    pub async fn enter(&self, host: &str) -> Turn {
        let of_host = self.of_host(host).acquire_owned().await.expect("nobody closes it");
        let of_all = self.all.clone().acquire_owned().await.expect("nobody closes it");
        Turn { _of_host: of_host, _of_all: of_all }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_registry_leaves_a_turn_to_the_others_and_says_why_a_pull_waits() {
        let turns = Turns::new(4);
        let held: Vec<_> = (0..3).map(|_| turns.try_enter("stuck").expect("a turn")).collect();
        let why = turns.try_enter("stuck").expect_err("no fourth");
        assert_eq!(why, "3 pulls from stuck are under way, as many as one registry has at once");
        assert!(turns.enter("stuck").now_or_never().is_none());
        let other = turns.try_enter("other").expect("the fourth is another's");
        let why = turns.try_enter("other").expect_err("no fifth");
        assert_eq!(why, "4 pulls are under way, as many as there are at once");
        drop((held, other));
        assert!(turns.enter("stuck").now_or_never().is_some());
        assert!(turns.hosts.lock().expect("no panic").len() <= 2);
    }

    #[test]
    fn where_there_are_few_turns_one_registry_may_have_them_all() {
        for most in [1, 2] {
            let turns = Turns::new(most);
            let held: Vec<_> = (0..most).map(|_| turns.try_enter("one").expect("a turn")).collect();
            assert!(turns.try_enter("one").is_err() && held.len() == most);
        }
    }
}
