//! `Authorization` for a registry: what it takes as it is, or a token from the server it names (`token.rs`), kept until it
//! expires (`keyring.rs`).
//!
//! Secrets go to the endpoint they are meant for and to its token server, never to anybody whom one of these names.

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use url::Url;

use crate::error::{Error, Result, Upstream, UpstreamKind};
use crate::registry::Registry;
use crate::registry::challenge::Wanted;
use crate::registry::credential::{Credential, Secret};
use crate::registry::endpoint::Endpoint;
use crate::registry::failure::{host_of, upstream};
use crate::registry::keyring::{Kept, Key};
use crate::registry::token::{Realm, realm_url, scope_to_ask};
use crate::registry::trace::Trace;
use crate::registry::transport::{Answer, Peer};

const WRONG_PASSWORD: &str = "the registry refuses the user or the password (status 401)";

/// What a token opens, and for whom: one repository at one `scheme://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub origin: String,
    pub repository: String,
    /// The credential behind it; empty where there is none.
    pub who: String,
}

/// A 401 that is to be answered.
pub(super) struct Refusal<'r> {
    pub endpoint: &'r Endpoint,
    pub scope: Scope,
    pub answer: &'r Answer,
    /// What was sent, and not taken.
    pub sent: Option<HeaderValue>,
    pub trace: &'r Trace,
}

impl Registry {
    /// What to send to `endpoint` without having been asked: what is kept, or what needs no question.
    pub(super) fn first_authorization(&self, endpoint: &Endpoint, scope: &Scope) -> Option<HeaderValue> {
        match &endpoint.credential {
            Some(Credential::RegistryToken { token }) => bearer(token.expose()),
            Some(Credential::Password { .. } | Credential::IdentityToken { .. }) | None => {
                self.0.keyring.find(&Key::of(endpoint, scope), self.0.clock.now())
            }
        }
    }

    /// What to send after a 401.
    ///
    /// # Errors
    /// `Upstream` `Denied` when there is nothing that could help, or the token server refuses; its failures.
    pub(super) async fn authorize(&self, refusal: Refusal<'_>) -> Result<HeaderValue> {
        let url = &refusal.answer.url;
        let denied = |why: &str| Err(upstream(UpstreamKind::Denied, url, why));
        let wants = |why: &str| Err(upstream(UpstreamKind::CredentialWanted, url, why));
        let refused = |why: &str| Err(upstream(UpstreamKind::CredentialRefused, url, why));
        let lines = refusal.answer.response.headers().get_all(WWW_AUTHENTICATE).iter();
        let wanted = Wanted::from_headers(lines.filter_map(|line| line.to_str().ok()));
        let credential = refusal.endpoint.credential.as_ref();
        let now = self.0.clock.now();
        let sent = refusal.sent.as_ref();
        if refusal.answer.peer == Peer::Stranger {
            return denied("somebody it redirects to wants credentials, who gets none");
        }
        let key = Key::of(refusal.endpoint, &refusal.scope);
        match (wanted, credential) {
            (_, Some(Credential::RegistryToken { .. })) => {
                refused("the registry refuses the token (status 401)")
            }
            (Wanted::Basic, Some(Credential::Password { username, password })) => {
                let authorization = basic(username, password);
                if Some(&authorization) == sent {
                    return refused(WRONG_PASSWORD);
                }
                let made = async { Ok(Kept::for_good(authorization)) };
                self.0.keyring.obtain(&key, sent, now, made).await
            }
            // There is one, which is not for such a connection.
            (Wanted::Basic, None) if refusal.endpoint.withheld.is_some() => {
                denied("the registry wants a user and a password")
            }
            (Wanted::Basic, None) => wants("the registry wants a user and a password"),
            (Wanted::Basic, Some(Credential::IdentityToken { .. })) => {
                wants("the registry wants a user and a password, and an identity token is configured")
            }
            (Wanted::Bearer { realm, service, scope }, _) => {
                let scope = scope_to_ask(scope, refusal.endpoint, &refusal.scope.repository);
                let realm = Realm { url: realm_url(url, &realm)?, service, scope };
                let made = self.fetch_token(&refusal, &realm);
                self.0.keyring.obtain(&key, sent, now, made).await
            }
            (Wanted::Unknown, _) => denied("the registry wants credentials of a kind that is not known"),
        }
    }
}

pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    if token.is_empty() || !token.bytes().all(|c| c.is_ascii_graphic()) {
        return None;
    }
    secret_header(&format!("Bearer {token}"))
}

/// RFC 7617, section 2.
pub(super) fn basic(username: &str, password: &Secret) -> HeaderValue {
    use base64::Engine as _;
    let pair = format!("{username}:{}", password.expose());
    let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    secret_header(&text).expect("base 64 is a header value")
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The registry's refusal of what a credential got us, in words that say so: a 401 alone reads as if none had been sent.
pub(super) fn refused_with(url: &Url, authorization: &HeaderValue) -> Error {
    let (kind, why) = match authorization.as_bytes().starts_with(b"Basic ") {
        true => (UpstreamKind::CredentialRefused, WRONG_PASSWORD),
        // A token server took the credential: it is the repository that it does not open.
        false => (UpstreamKind::Denied, "the credential does not open this repository (status 401)"),
    };
    let (host, reason) = (host_of(url), why.to_owned());
    Error::Upstream(Upstream { kind, host, reason, status: Some(401), retry_after: None })
}
