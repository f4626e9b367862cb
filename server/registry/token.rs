//! Tokens that registries hand to anybody who asks (distribution token spec), kept until they expire.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;

use crate::clock::Time;

/// How long a token counts when its maker does not say: the token spec's default.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// How long before its end a token is no longer used: it must still count when the request arrives.
const MARGIN: Duration = Duration::from_secs(5);
/// No token is kept longer, whatever its maker says.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// Most tokens kept: one per repository in use.
const MOST_KEPT: usize = 1024;

/// What a token opens: one repository at one `scheme://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub origin: String,
    pub repository: String,
}

#[derive(Clone)]
struct Token {
    authorization: HeaderValue,
    ends_at: Time,
}

/// The answer of a token server.
#[derive(serde::Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<i64>,
}

impl Answer {
    /// The `Authorization` value; `None` when there is no token in the answer, or one that no header can carry.
    fn authorization(&self) -> Option<HeaderValue> {
        let token = if self.token.is_empty() { &self.access_token } else { &self.token };
        if token.is_empty() || !token.bytes().all(|c| c.is_ascii_graphic()) {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn life(&self) -> Duration {
        let said = self.expires_in.and_then(|seconds| u64::try_from(seconds).ok()).filter(|s| *s > 0);
        said.map_or(DEFAULT_LIFE, Duration::from_secs).min(LONGEST_LIFE)
    }
}

#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Scope, Token>>);

impl Tokens {
    /// The `Authorization` value for `scope`, if one is kept and still counts.
    pub fn find(&self, scope: &Scope, now: Time) -> Option<HeaderValue> {
        let kept = self.kept();
        let token = kept.get(scope)?;
        (token.ends_at > now.plus(MARGIN)).then(|| token.authorization.clone())
    }

    /// Keeps the token of `answer`, and gives its `Authorization` value.
    pub fn keep(&self, scope: Scope, answer: &Answer, now: Time) -> Option<HeaderValue> {
        let authorization = answer.authorization()?;
        let token = Token { authorization: authorization.clone(), ends_at: now.plus(answer.life()) };
        let mut kept = self.kept();
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, token| token.ends_at > now);
        }
        // All still count: they cost a request each to get back, and memory is bounded.
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(scope, token);
        Some(authorization)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Scope, Token>> {
        // A map is whole between any two of its calls, so a panic elsewhere spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        serde_json::from_str(text).expect(text)
    }

    fn scope(repository: &str) -> Scope {
        Scope { origin: "https://r.io".into(), repository: repository.into() }
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let (tokens, start) = (Tokens::default(), Time(0));
        tokens.keep(scope("a"), &answer(r#"{"token":"t"}"#), start).expect("a token");
        let at = |seconds| tokens.find(&scope("a"), start.plus(Duration::from_secs(seconds)));
        assert_eq!(at(54).expect("still counts"), "Bearer t");
        assert_eq!(at(55), None);
        assert_eq!(tokens.find(&scope("b"), start), None);
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_no_token() {
        for bad in
            [r#"{}"#, r#"{"token":""}"#, r#"{"token":"a\r\nX: y"}"#, r#"{"token":"a b"}"#, r#"{"token":"é"}"#]
        {
            assert!(Tokens::default().keep(scope("a"), &answer(bad), Time(0)).is_none(), "{bad}");
        }
        assert!(answer(r#"{"access_token":"x"}"#).authorization().expect("a token").is_sensitive());
    }

    #[test]
    fn no_answer_makes_a_token_live_for_ever() {
        for (text, seconds) in [
            (r#"{"expires_in":300}"#, 300),
            (r#"{"expires_in":0}"#, 60),
            (r#"{"expires_in":-5}"#, 60),
            (r#"{"expires_in":9000000000}"#, 3600),
        ] {
            assert_eq!(answer(text).life(), Duration::from_secs(seconds), "{text}");
        }
        let tokens = Tokens::default();
        for number in 0..MOST_KEPT * 3 {
            tokens.keep(scope(&number.to_string()), &answer(r#"{"token":"t"}"#), Time(0));
        }
        assert!(tokens.kept().len() <= MOST_KEPT);
    }
}
