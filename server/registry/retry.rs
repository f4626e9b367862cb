//! When to ask again, and how long to wait first. Nothing here waits: the caller does, so that it can stop.

use std::time::Duration;

use crate::error::{Error, Upstream, UpstreamKind};
use crate::limits;

/// Whether asking again may help: no connection or a broken one, too many requests, a server's own failure.
pub fn retriable(error: &Error) -> bool {
    let Error::Upstream(upstream) = error else { return false };
    match upstream.kind {
        UpstreamKind::Unreachable
        | UpstreamKind::CutShort
        | UpstreamKind::RateLimited
        | UpstreamKind::ServerError => true,
        UpstreamKind::Untrusted
        | UpstreamKind::Denied
        | UpstreamKind::CredentialWanted
        | UpstreamKind::CredentialRefused
        | UpstreamKind::TokenHostUnknown
        | UpstreamKind::CertificateWanted
        | UpstreamKind::NotFound
        | UpstreamKind::PartMissing
        | UpstreamKind::BadAnswer
        | UpstreamKind::Mismatch
        | UpstreamKind::NoPlatform
        | UpstreamKind::PrivateAddress
        | UpstreamKind::Forbidden => false,
    }
}

/// What part of the wait that a registry asks for is added to it at most.
const ASKED_SPREAD: u32 = 10;

/// How often and how patiently one blob or document is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in a row without progress, the first included.
    pub max_attempts: u32,
    /// The same of what has answered before: it will be back. A name that was never right is told soon.
    pub attempts_once_answered: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait of our own choice.
    pub longest_wait: Duration,
    /// The longest wait a registry may ask for.
    pub longest_retry_after: Duration,
    /// How many bytes count as progress. Below it a peer could drip a byte per attempt and be asked for ever.
    pub progress_bytes: u64,
}

impl RetryPolicy {
    /// The policy for somebody who has answered before.
    #[must_use]
    pub fn once_answered(self) -> RetryPolicy {
        RetryPolicy { max_attempts: self.attempts_once_answered, ..self }
    }
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            max_attempts: limits::UPSTREAM_TRIES,
            attempts_once_answered: limits::UPSTREAM_TRIES_ONCE_ANSWERED,
            // Not a limit: where the waits begin.
            first_wait: Duration::from_millis(500),
            longest_wait: limits::UPSTREAM_WAIT,
            longest_retry_after: limits::UPSTREAM_RETRY_AFTER,
            progress_bytes: limits::PULL_PROGRESS_BYTES,
        }
    }
}

/// The attempts made so far for one blob or document.
#[derive(Debug, Clone)]
pub struct Retries {
    policy: RetryPolicy,
    failures: u32,
    received_bytes: u64,
}

impl Retries {
    pub fn new(policy: RetryPolicy) -> Retries {
        Retries { policy, failures: 0, received_bytes: 0 }
    }

    /// Counts new bytes: ones that were not there before this attempt.
    pub fn received(&mut self, bytes: u64) {
        self.received_bytes = self.received_bytes.saturating_add(bytes);
        if self.received_bytes >= self.policy.progress_bytes {
            self.failures = 0;
        }
    }

    /// The error of the last attempt, which says how many were in vain where there were several.
    pub fn give_up(&self, error: Error) -> Error {
        match error {
            Error::Upstream(told) if self.failures > 1 => {
                let reason = format!("{}, {} times in a row", told.reason, self.failures);
                Error::Upstream(Upstream { reason, ..told })
            }
            other => other,
        }
    }

    /// Counts a failure and says how long to wait before the next attempt; `None` when there is to be none.
    /// `random` is any number, a new one each time: clients that failed together must not come back together.
    pub fn failed(&mut self, error: &Error, random: u64) -> Option<Duration> {
        self.failures += 1;
        self.received_bytes = 0;
        if !retriable(error) || self.failures >= self.policy.max_attempts {
            return None;
        }
        let doubled = self.policy.first_wait.saturating_mul(1 << (self.failures - 1).min(16));
        let half = doubled.min(self.policy.longest_wait) / 2;
        let jitter_micros = random % (u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1));
        let own = half + Duration::from_micros(jitter_micros);
        let asked = match error {
            Error::Upstream(upstream) => upstream.retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let asked = asked.min(self.policy.longest_retry_after);
        // Not before it, and not all of those who were told the same at the same moment.
        let spread = u64::try_from((asked / ASKED_SPREAD).as_micros()).unwrap_or(u64::MAX).max(1);
        Some(own.max(asked + Duration::from_micros(random % spread)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(kind: UpstreamKind, retry_after: Option<u64>) -> Error {
        let retry_after = retry_after.map(Duration::from_secs);
        Error::Upstream(Upstream { kind, host: "r.io".into(), reason: "x".into(), status: None, retry_after })
    }

    #[test]
    fn only_what_another_try_can_help_is_tried_again() {
        for (kind, again) in [
            (UpstreamKind::Unreachable, true),
            (UpstreamKind::CutShort, true),
            (UpstreamKind::RateLimited, true),
            (UpstreamKind::ServerError, true),
            (UpstreamKind::Untrusted, false),
            (UpstreamKind::Denied, false),
            (UpstreamKind::CredentialWanted, false),
            (UpstreamKind::CredentialRefused, false),
            (UpstreamKind::TokenHostUnknown, false),
            (UpstreamKind::CertificateWanted, false),
            (UpstreamKind::NotFound, false),
            (UpstreamKind::PartMissing, false),
            (UpstreamKind::BadAnswer, false),
            (UpstreamKind::Mismatch, false),
            (UpstreamKind::NoPlatform, false),
            (UpstreamKind::PrivateAddress, false),
            (UpstreamKind::Forbidden, false),
        ] {
            assert_eq!(retriable(&failure(kind, None)), again, "{kind:?}");
            assert_eq!(Retries::new(RetryPolicy::default()).failed(&failure(kind, None), 0).is_some(), again);
        }
        assert!(!retriable(&Error::invalid("x")));
    }

    #[test]
    fn who_gives_up_says_how_often_it_was_tried() {
        let told = |tries: u32| {
            let mut retries = Retries::new(RetryPolicy::default());
            let error = failure(UpstreamKind::ServerError, None);
            for _ in 0..tries {
                retries.failed(&error, 0);
            }
            retries.give_up(error).to_string()
        };
        assert!(told(1).ends_with('x'), "{}", told(1));
        assert!(told(6).ends_with("x, 6 times in a row"), "{}", told(6));
    }

    #[test]
    fn waits_double_and_attempts_end() {
        let mut retries = Retries::new(RetryPolicy::default());
        let error = failure(UpstreamKind::Unreachable, None);
        let waits: Vec<_> = std::iter::from_fn(|| retries.failed(&error, 0)).map(|w| w.as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000]);
    }

    #[test]
    fn a_registry_may_ask_for_five_minutes_and_no_more() {
        let wait = |seconds| {
            let error = failure(UpstreamKind::RateLimited, Some(seconds));
            Retries::new(RetryPolicy::default()).failed(&error, 0).expect("retriable").as_secs()
        };
        assert_eq!((wait(7), wait(300), wait(86_400)), (7, 300, 300));
    }

    #[test]
    fn who_was_told_to_wait_comes_back_neither_before_nor_with_all_the_others() {
        let error = failure(UpstreamKind::RateLimited, Some(60));
        let wait = |random| Retries::new(RetryPolicy::default()).failed(&error, random).expect("retriable");
        let waits: std::collections::BTreeSet<_> = (0..10).map(|n| wait(n * 599_999).as_secs()).collect();
        assert_eq!(waits.into_iter().collect::<Vec<_>>(), [60, 61, 62, 63, 64, 65]);
        let asked = failure(UpstreamKind::RateLimited, Some(0));
        let wait = Retries::new(RetryPolicy::default()).failed(&asked, u64::MAX).expect("retriable");
        assert!(wait < RetryPolicy::default().first_wait);
    }

    #[test]
    fn only_real_progress_renews_the_attempts() {
        let error = failure(UpstreamKind::Unreachable, None);
        let mut dripping = Retries::new(RetryPolicy::default());
        let attempts = (1..100)
            .take_while(|_| {
                dripping.received(64 * 1024 - 1);
                dripping.failed(&error, 0).is_some()
            })
            .count();
        assert_eq!(attempts, 4);
        let mut flowing = Retries::new(RetryPolicy::default());
        for _ in 0..100 {
            flowing.received(32 * 1024);
            flowing.received(32 * 1024);
            assert!(flowing.failed(&error, 0).is_some());
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_its_limits(random in any::<u64>(), failures in 0..40u32) {
            let policy = RetryPolicy { max_attempts: 100, ..RetryPolicy::default() };
            let mut retries = Retries::new(policy);
            for _ in 0..=failures {
                let wait = retries.failed(&failure(UpstreamKind::ServerError, None), random);
                prop_assert!(wait.is_some_and(|w| w <= policy.longest_wait && w >= policy.first_wait / 2));
            }
        }
    }
}
