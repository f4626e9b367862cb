//! Tokens from the server that a registry names (distribution spec, "Token Authentication Specification"; OAuth2 for
//! refresh tokens).

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use url::{Url, form_urlencoded};

use crate::clock::Time;
use crate::error::{Error, Result, UpstreamKind};
use crate::limits;
use crate::registry::Registry;
use crate::registry::auth::{Refusal, basic, bearer};
use crate::registry::blob::read_bounded;
use crate::registry::credential::{Credential, Secret};
use crate::registry::endpoint::{Endpoint, authority_of};
use crate::registry::failure::{bad_answer, upstream};
use crate::registry::keyring::Kept;
use crate::registry::transport::{Redirects, Request, Wire, has_user_info};

/// How long a token counts when its maker does not say: the token spec's default.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Who we are to a token server (RFC 6749, section 2.2).
const CLIENT_ID: &str = "orlop";

/// Where a token is to be had.
pub(super) struct Realm {
    pub url: Url,
    pub service: Option<String>,
    /// What the token is to open; none for a look at the API alone.
    pub scope: Option<String>,
}

/// The answer of a token server. Some say null for what they leave out, or write numbers as text.
#[derive(Debug, serde::Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<Seconds>,
    refresh_token: Option<String>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum Seconds {
    Whole(i64),
    Broken(f64),
    Text(String),
    /// Nothing that counts.
    Other(serde::de::IgnoredAny),
}

impl Seconds {
    fn whole(&self) -> Option<u64> {
        match self {
            Seconds::Whole(seconds) => u64::try_from(*seconds).ok(),
            // What is too large or no number at all ends at a bound.
            Seconds::Broken(seconds) => Some(*seconds as u64),
            Seconds::Text(text) => text.trim().parse().ok(),
            Seconds::Other(_) => None,
        }
    }
}

impl TokenAnswer {
    /// `None` when there is no token in the answer, or one that no header can carry.
    fn kept(&self, now: Time) -> Option<Kept> {
        let given = [&self.token, &self.access_token].into_iter().flatten();
        let token = given.into_iter().find(|token| !token.is_empty())?;
        Some(Kept::for_a_while(bearer(token)?, now, self.life()))
    }

    fn life(&self) -> Duration {
        let said = self.expires_in.as_ref().and_then(Seconds::whole).filter(|seconds| *seconds > 0);
        said.map_or(DEFAULT_LIFE, Duration::from_secs).min(limits::REGISTRY_TOKEN_TIME)
    }
}

impl Registry {
    /// Gets a token: with the credential where the realm may have it, or the one that anybody gets.
    pub(super) async fn fetch_token(&self, refusal: &Refusal<'_>, realm: &Realm) -> Result<Kept> {
        let endpoint = refusal.endpoint;
        if endpoint.credential.is_some() && !endpoint.trusts_realm(&refusal.answer.url, &realm.url) {
            let why = format!(
                "it sends us for a token to `{}`, which is not configured as a token host of this registry: \
                 no credential goes there",
                authority_of(&realm.url)
            );
            return Err(upstream(UpstreamKind::TokenHostUnknown, &refusal.answer.url, why));
        }
        let answer = match &endpoint.credential {
            None | Some(Credential::RegistryToken { .. }) => self.get_token(refusal, realm, None).await,
            Some(Credential::Password { username, password }) => {
                match self.get_token(refusal, realm, Some(basic(username, password))).await {
                    // The older way is not known there: RFC 6749, section 4.3.
                    Err(error) if is_status(&error, &[404, 405]) => {
                        let grant = [
                            ("grant_type", "password"),
                            ("username", username),
                            ("password", password.expose()),
                        ];
                        self.post_token(refusal, realm, &grant).await
                    }
                    settled => settled,
                }
            }
            Some(Credential::IdentityToken { token }) => self.refresh_token(refusal, realm, token).await,
        };
        let (answer, url) = answer.map_err(|error| refused_there(error, endpoint.credential.is_some()))?;
        answer.kept(self.0.clock.now()).ok_or_else(|| bad_answer(&url, "its answer has no token in it"))
    }

    /// RFC 6749, section 6, with the newest refresh token: a server may give another one with each answer.
    async fn refresh_token(
        &self,
        refusal: &Refusal<'_>,
        realm: &Realm,
        token: &Secret,
    ) -> Result<(TokenAnswer, Url)> {
        let key = (realm.url.origin().ascii_serialization(), refusal.scope.who.clone());
        let newest = self.0.keyring.refreshed.get(&key);
        let grant = |token: &Secret| {
            let token = token.expose().to_owned();
            async move {
                let grant = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
                self.post_token(refusal, realm, &grant).await
            }
        };
        let answer = match &newest {
            None => grant(token).await?,
            Some(newest) => match grant(newest).await {
                Err(error) if is_status(&error, &[400, 401]) => grant(token).await?,
                settled => settled?,
            },
        };
        if let Some(next) = answer.0.refresh_token.as_ref().filter(|next| !next.is_empty()) {
            self.0.keyring.refreshed.insert(key, Secret::new(next));
        }
        Ok(answer)
    }

    /// The token spec's own way, which has a parameter for each scope.
    async fn get_token(
        &self,
        refusal: &Refusal<'_>,
        realm: &Realm,
        authorization: Option<HeaderValue>,
    ) -> Result<(TokenAnswer, Url)> {
        let mut url = realm.url.clone();
        url.query_pairs_mut()
            .extend_pairs(realm.service.iter().map(|service| ("service", service)))
            .extend_pairs(
                realm.scope.iter().flat_map(|scope| scope.split_whitespace()).map(|one| ("scope", one)),
            );
        self.ask_for_token(Request { authorization, ..token_request(refusal, Method::GET, url) }).await
    }

    /// OAuth2's way ("Token Authentication using OAuth2" of the distribution project).
    async fn post_token(
        &self,
        refusal: &Refusal<'_>,
        realm: &Realm,
        grant: &[(&str, &str)],
    ) -> Result<(TokenAnswer, Url)> {
        let mut request = token_request(refusal, Method::POST, realm.url.clone());
        let service = realm.service.iter().map(|service| ("service", service));
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(grant)
            .append_pair("client_id", CLIENT_ID)
            .extend_pairs(realm.scope.iter().map(|scope| ("scope", scope)))
            .extend_pairs(service)
            .finish();
        request.body = Some(Bytes::from(form));
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        request.redirects = Redirects::Refused;
        self.ask_for_token(request).await
    }

    async fn ask_for_token(&self, request: Request<'_>) -> Result<(TokenAnswer, Url)> {
        let answer = self.accept(self.0.clients.send(request).await?).await?;
        let (body, url) = read_bounded(answer, limits::REGISTRY_TOKEN_BYTES, self.patience().stall).await?;
        let answer = serde_json::from_slice(&body).ok();
        let answer = answer.ok_or_else(|| bad_answer(&url, "its answer has no token in it"))?;
        Ok((answer, url))
    }
}

fn token_request<'r>(refusal: &Refusal<'r>, method: Method, url: Url) -> Request<'r> {
    let endpoint = refusal.endpoint;
    let own = url.origin() == refusal.answer.url.origin();
    Request {
        wire: Wire::Any,
        method,
        url,
        headers: HeaderMap::new(),
        // They are for the host, which has this for its token server.
        own_headers: if own { endpoint.headers.clone() } else { HeaderMap::new() },
        authorization: None,
        body: None,
        trust: if own { endpoint.trust.clone() } else { endpoint.trust.without_identity() },
        plain: endpoint.is_plain(),
        addresses: refusal.answer.addresses,
        redirects: Redirects::Followed,
        trace: refusal.trace,
    }
}

/// The scope to ask for. A registry may name one that somebody else's credential would open, or one to push: with a
/// credential it is to pull what we came for, and nothing else that is `said`.
pub(super) fn scope_to_ask(said: Option<String>, endpoint: &Endpoint, repository: &str) -> Option<String> {
    if endpoint.credential.is_none() && said.is_some() {
        return said;
    }
    let named = said.iter().flat_map(|said| said.split(' ')).find_map(|scope| {
        let (name, _) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
        endpoint.may_call(repository, name).then_some(name)
    });
    let name = named.unwrap_or(repository);
    (!repository.is_empty()).then(|| format!("repository:{name}:pull"))
}

pub(super) fn realm_url(url: &Url, realm: &str) -> Result<Url> {
    let mut realm = Url::parse(realm).map_err(|_| bad_answer(url, "its token realm is not a URL"))?;
    if !matches!(realm.scheme(), "http" | "https") || !realm.has_host() || has_user_info(&realm) {
        return Err(bad_answer(url, "its token realm is not the URL of a host"));
    }
    realm.set_fragment(None);
    Ok(realm)
}

fn is_status(error: &Error, statuses: &[u16]) -> bool {
    matches!(error, Error::Upstream(upstream) if upstream.status.is_some_and(|status| statuses.contains(&status)))
}

/// A token server's failure in words that say whose it is. What it does not have is no image.
fn refused_there(error: Error, with_credential: bool) -> Error {
    let Error::Upstream(mut told) = error else { return error };
    let Some(status) = told.status else { return Error::Upstream(told) };
    if matches!(status, 400 | 401 | 403) {
        let (kind, what) = match with_credential {
            true => (UpstreamKind::CredentialRefused, "these credentials"),
            false => (UpstreamKind::CredentialWanted, "us without credentials"),
        };
        told.kind = kind;
        told.reason = format!("the token server refuses {what} (status {status})");
    } else {
        told.reason = told.reason.replacen("the registry", "the token server", 1);
    }
    if told.kind == UpstreamKind::NotFound {
        told.kind = UpstreamKind::BadAnswer;
        told.reason = format!("the token server gives no token where it was asked for one (status {status})");
    }
    // Its status says nothing of what the registry has or knows.
    told.status = None;
    Error::Upstream(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> TokenAnswer {
        serde_json::from_str(text).expect(text)
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_no_token() {
        for bad in
            [r#"{}"#, r#"{"token":""}"#, r#"{"token":"a\r\nX: y"}"#, r#"{"token":"a b"}"#, r#"{"token":"é"}"#]
        {
            assert!(answer(bad).kept(Time(0)).is_none(), "{bad}");
        }
        for good in [
            r#"{"access_token":"x"}"#,
            r#"{"token":null,"access_token":"x","refresh_token":null,"expires_in":null}"#,
            r#"{"token":"","access_token":"x"}"#,
            r#"{"token":"x","access_token":null,"expires_in":{}}"#,
        ] {
            let kept = answer(good).kept(Time(0)).expect(good);
            assert!(kept.authorization == "Bearer x" && kept.authorization.is_sensitive(), "{good}");
        }
    }

    #[test]
    fn no_answer_makes_a_token_live_for_ever() {
        for (text, seconds) in [
            (r#"{"expires_in":300}"#, 300),
            (r#"{"expires_in":0}"#, 60),
            (r#"{"expires_in":-5}"#, 60),
            (r#"{"expires_in":9000000000}"#, 3600),
            (r#"{"expires_in":"300"}"#, 300),
            (r#"{"expires_in":300.7}"#, 300),
            (r#"{"expires_in":1e300}"#, 3600),
            (r#"{"expires_in":-1e300}"#, 60),
            (r#"{"expires_in":"soon"}"#, 60),
            (r#"{"expires_in":null}"#, 60),
        ] {
            assert_eq!(answer(text).life(), Duration::from_secs(seconds), "{text}");
        }
    }
}
