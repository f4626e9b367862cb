//! `Authorization` values that let us in somewhere, kept for as long as they count: one keyring for all pulls.

use std::time::Duration;

use quick_cache::sync::Cache;
use reqwest::header::HeaderValue;

use crate::clock::Time;
use crate::error::Result;
use crate::limits;
use crate::registry::auth::Scope;
use crate::registry::credential::Secret;
use crate::registry::endpoint::Endpoint;

/// How long before its end a token is no longer used: it must still count when the request arrives. Of a shorter life it is
/// half of it, or nobody would use the token but who fetched it.
const MARGIN: Duration = Duration::from_secs(5);

/// A scope at one endpoint. Two that speak for different registries may be paths of one origin, or be told apart by `ns`
/// alone: a token of the one opens nothing at the other. And a token that configured headers or a certificate earned is
/// as good as those: it goes nowhere where they do not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    scope: Scope,
    path: String,
    mirrored: Option<String>,
    terms: String,
}

impl Key {
    pub fn of(endpoint: &Endpoint, scope: &Scope) -> Key {
        let (path, mirrored) = (endpoint.path.clone(), endpoint.mirrored.clone());
        Key { scope: scope.clone(), path, mirrored, terms: endpoint.terms() }
    }
}

/// An `Authorization` value, and until when it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub authorization: HeaderValue,
    /// `None`: it is used until it is refused.
    used_until: Option<Time>,
}

impl Kept {
    /// What counts until it is refused.
    pub fn for_good(authorization: HeaderValue) -> Kept {
        Kept { authorization, used_until: None }
    }

    /// What counts from `now` on for so long.
    pub fn for_a_while(authorization: HeaderValue, now: Time, life: Duration) -> Kept {
        let used_until = Some(now.plus(life.saturating_sub(MARGIN.min(life / 2))));
        Kept { authorization, used_until }
    }

    fn counts(&self, now: Time) -> bool {
        self.used_until.is_none_or(|until| until > now)
    }
}

/// What was learned about who is let in by what: one for all pulls.
pub(super) struct Keyring {
    kept: Cache<Key, Kept>,
    /// The refresh token that a server gave in place of the configured one, by the origin of its realm and by that one.
    pub refreshed: Cache<(String, String), Secret>,
}

impl Default for Keyring {
    fn default() -> Keyring {
        Keyring { kept: Cache::new(limits::REGISTRY_TOKENS), refreshed: Cache::new(limits::REGISTRY_TOKENS) }
    }
}

impl Keyring {
    /// The `Authorization` value for `key`, if one is kept and still counts.
    pub fn find(&self, key: &Key, now: Time) -> Option<HeaderValue> {
        self.kept.get(key).filter(|kept| kept.counts(now)).map(|kept| kept.authorization)
    }

    /// The value for `key` that is kept, unless it is the one just `refused`, or a new one: made once, however many
    /// ask for it meanwhile.
    pub async fn obtain(
        &self,
        key: &Key,
        refused: Option<&HeaderValue>,
        now: Time,
        make: impl Future<Output = Result<Kept>>,
    ) -> Result<HeaderValue> {
        let guard = loop {
            match self.kept.get_value_or_guard_async(key).await {
                Ok(kept) if kept.counts(now) && Some(&kept.authorization) != refused => {
                    return Ok(kept.authorization);
                }
                Ok(useless) => drop(self.kept.remove_if(key, |kept| *kept == useless)),
                Err(guard) => break guard,
            }
        };
        let made = make.await?;
        let authorization = made.authorization.clone();
        // It may have been pushed out already by others; then it is asked for again.
        let _ = guard.insert(made);
        Ok(authorization)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn kept(token: &str, now: Time) -> Kept {
        let authorization = HeaderValue::from_str(&format!("Bearer {token}")).expect(token);
        Kept::for_a_while(authorization, now, Duration::from_secs(60))
    }

    fn key(repository: &str) -> Key {
        let scope =
            Scope { origin: "https://r.io".into(), repository: repository.into(), who: String::new() };
        Key { scope, path: "/v2".into(), mirrored: None, terms: String::new() }
    }

    async fn obtain(keyring: &Keyring, token: &str, now: Time) -> HeaderValue {
        let made = async { Ok(kept(token, now)) };
        keyring.obtain(&key("a"), None, now, made).await.expect("a token")
    }

    #[tokio::test]
    async fn a_token_is_used_until_shortly_before_its_end() {
        let (keyring, start) = (Keyring::default(), Time(0));
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        assert_eq!(obtain(&keyring, "t", start).await, "Bearer t");
        assert_eq!(keyring.find(&key("a"), at(54)).expect("still counts"), "Bearer t");
        assert_eq!(keyring.find(&key("a"), at(55)), None);
        assert_eq!(keyring.find(&key("b"), start), None);
        assert_eq!(obtain(&keyring, "u", at(54)).await, "Bearer t");
        assert_eq!(obtain(&keyring, "u", at(55)).await, "Bearer u");
    }

    #[tokio::test]
    async fn a_failure_to_get_a_token_is_nobodys_token() {
        let (keyring, now) = (Keyring::default(), Time(0));
        let failed = async { Err(Error::invalid("x")) };
        keyring.obtain(&key("a"), None, now, failed).await.expect_err("no token");
        assert_eq!(obtain(&keyring, "t", now).await, "Bearer t");
    }

    #[tokio::test]
    async fn only_so_many_tokens_are_kept() {
        let keyring = Keyring::default();
        for number in 0..limits::REGISTRY_TOKENS * 3 {
            let made = async { Ok(kept("t", Time(0))) };
            keyring.obtain(&key(&number.to_string()), None, Time(0), made).await.expect("a token");
        }
        assert!(keyring.kept.len() <= limits::REGISTRY_TOKENS);
    }
}
