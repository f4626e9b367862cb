//! The outbound client of the OCI distribution protocol: from a reference to verified documents and to the
//! bytes of blobs. It knows the wire and nothing of the store; to stop it, drop its futures.
//!
//! Nobody at the other end is trusted: every document is verified against its digest, every length has a bound,
//! every wait a limit, and every address is checked when it is connected to (`address.rs`). What fails says so
//! as [`Error::Upstream`]; [`retriable`] and [`Retries`] tell whether and when to ask again.

mod address;
mod blob;
mod challenge;
mod failure;
mod repository;
mod retry;
mod token;
mod transport;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::clock::Clock;
use crate::error::{Error, Result, UpstreamKind};
use crate::oci::Reference;

pub use address::AddressPolicy;
pub use blob::BlobStream;
pub use repository::{Fetched, Repository, Resolved};
pub use retry::{Retries, RetryPolicy, retriable};
pub use transport::{Patience, Transport};

use blob::read_bounded;
use challenge::Wanted;
use failure::{bad_answer, error_code, refused_by, upstream};
use token::{Scope, Tokens};
use transport::{Answer, Clients, Request, has_user_info};

/// Longest answer of a token server, in bytes: tokens of real registries have up to about 5,000.
const MAX_TOKEN_ANSWER_BYTES: usize = 64 * 1024;
/// Longest error body looked at for its code, in bytes.
const MAX_ERROR_BYTES: usize = 16 * 1024;
/// Most hosts remembered to speak plain HTTP.
const MOST_PLAIN_HOSTS: usize = 256;

/// The client for all registries: connections, tokens and what was learned about hosts. A cheap clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    clients: Clients,
    addresses: AddressPolicy,
    clock: Clock,
    tokens: Tokens,
    /// `host[:port]` that had no TLS to offer where it was not required.
    plain_hosts: Mutex<HashSet<String>>,
}

/// Where a repository lives. Mirrors and credentials of a host become more of these, and fields of it.
#[derive(Debug, Clone)]
struct Host {
    /// `host[:port]` that speaks for the registry.
    authority: String,
    transport: Transport,
}

/// One request to a repository: everything of it but where and how it is sent.
#[derive(Debug, Clone)]
struct Ask {
    method: Method,
    /// Below `/v2/<repository>/`, such as `blobs/sha256:…`: text of our grammar only.
    path: String,
    headers: HeaderMap,
}

impl Registry {
    /// A client that contacts what `addresses` allows. Nothing is sent and nothing is opened yet.
    pub fn new(addresses: AddressPolicy, patience: Patience, clock: Clock) -> Registry {
        Registry(Arc::new(Inner {
            clients: Clients::new(patience),
            addresses,
            clock,
            tokens: Tokens::default(),
            plain_hosts: Mutex::default(),
        }))
    }

    /// The repository that `reference` names. Nothing is sent yet.
    pub fn repository(&self, reference: &Reference, transport: Transport) -> Repository {
        let host = Host { authority: reference.api_host().to_owned(), transport };
        Repository::new(self.clone(), host, reference.repository().to_owned())
    }

    fn patience(&self) -> Patience {
        self.0.clients.patience()
    }

    /// Sends `ask` and gives an answer of success, or of a refused range.
    ///
    /// HTTPS comes first. Where less is enough (loopback, or the request says insecure) a host that cannot be
    /// spoken to so is tried with plain HTTP, and remembered.
    async fn ask(&self, host: &Host, repository: &str, ask: &Ask) -> Result<Answer> {
        let secure = host.url("https", repository, &ask.path)?;
        let plain_is_enough = host.transport == Transport::Insecure || address::is_loopback(&secure);
        if !plain_is_enough {
            return self.ask_at(host, repository, secure, ask).await;
        }
        let plain = host.url("http", repository, &ask.path)?;
        if self.plain_hosts().contains(&host.authority) || host.names_plain_port() {
            let answer = self.ask_at(host, repository, plain, ask).await;
            // Whatever answers there now may have TLS; the next try finds out.
            if answer.as_ref().is_err_and(is_unreachable) {
                self.plain_hosts().remove(&host.authority);
            }
            return answer;
        }
        match self.ask_at(host, repository, secure, ask).await {
            Err(error) if is_unreachable(&error) => {
                let answer = self.ask_at(host, repository, plain, ask).await;
                if !answer.as_ref().is_err_and(is_unreachable) {
                    self.remember_plain(&host.authority);
                }
                answer
            }
            settled => settled,
        }
    }

    /// Sends `ask` to `url`, with a token where one is kept or the registry hands one out.
    async fn ask_at(&self, host: &Host, repository: &str, url: Url, ask: &Ask) -> Result<Answer> {
        let scope = Scope { origin: url.origin().ascii_serialization(), repository: repository.to_owned() };
        let request = |authorization: Option<HeaderValue>| Request {
            method: ask.method.clone(),
            url: url.clone(),
            headers: ask.headers.clone(),
            authorization,
            transport: host.transport,
            addresses: self.0.addresses,
        };
        let kept = self.0.tokens.find(&scope, self.0.clock.now());
        let answer = self.0.clients.send(request(kept)).await?;
        // A 401 of somebody we were redirected to is not the registry's question.
        if answer.response.status() != StatusCode::UNAUTHORIZED || answer.url.origin() != url.origin() {
            return self.accept(answer).await;
        }
        // A kept token that was not taken is replaced by the one that comes now.
        let authorization = self.fetch_token(host, &answer, scope).await?;
        let answer = self.0.clients.send(request(Some(authorization))).await?;
        self.accept(answer).await
    }

    /// Gets the token that anybody may have. No credential is sent, for there is none.
    async fn fetch_token(&self, host: &Host, refusal: &Answer, scope: Scope) -> Result<HeaderValue> {
        let url = &refusal.url;
        let denied = |why: &str| upstream(UpstreamKind::Denied, url, why);
        let lines = refusal.response.headers().get_all(WWW_AUTHENTICATE).iter();
        let (realm, service, asked_scope) = match Wanted::from_headers(lines.filter_map(|l| l.to_str().ok()))
        {
            Wanted::Bearer { realm, service, scope } => (realm, service, scope),
            Wanted::Basic => {
                return Err(denied("the registry wants a user and a password"));
            }
            Wanted::Unknown => {
                return Err(denied("the registry wants credentials of a kind that is not known"));
            }
        };
        let mut realm = Url::parse(&realm).map_err(|_| bad_answer(url, "its token realm is not a URL"))?;
        if !realm.has_host() || has_user_info(&realm) {
            return Err(bad_answer(url, "its token realm is not the URL of a host"));
        }
        realm.set_fragment(None);
        let wanted = asked_scope.unwrap_or_else(|| format!("repository:{}:pull", scope.repository));
        realm
            .query_pairs_mut()
            .extend_pairs(service.iter().map(|s| ("service", s)))
            .append_pair("scope", &wanted);
        let request = Request {
            method: Method::GET,
            url: realm,
            headers: HeaderMap::new(),
            authorization: None,
            transport: host.transport,
            addresses: refusal.addresses,
        };
        let answer = self.accept(self.0.clients.send(request).await?).await?;
        let (body, realm) = read_bounded(answer, MAX_TOKEN_ANSWER_BYTES, self.patience().stall).await?;
        let token: Option<token::Answer> = serde_json::from_slice(&body).ok();
        let kept = token.and_then(|token| self.0.tokens.keep(scope, &token, self.0.clock.now()));
        kept.ok_or_else(|| bad_answer(&realm, "its answer has no token in it"))
    }

    /// Passes an answer of success, or the refusal of a range, and turns any other into an error.
    async fn accept(&self, answer: Answer) -> Result<Answer> {
        let status = answer.response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(answer);
        }
        let (url, headers) = (answer.url.clone(), answer.response.headers().clone());
        // The code is a courtesy: an error body that cannot be read changes nothing.
        let patience = self.patience();
        let body = read_bounded(answer, MAX_ERROR_BYTES, patience.stall);
        let body = tokio::time::timeout(patience.header, body).await.ok().and_then(Result::ok);
        let code = body.and_then(|(body, _)| error_code(&body));
        Err(refused_by(&url, status, &headers, code.as_deref(), self.0.clock.now()))
    }

    fn remember_plain(&self, authority: &str) {
        let mut plain_hosts = self.plain_hosts();
        if plain_hosts.len() >= MOST_PLAIN_HOSTS {
            plain_hosts.clear();
        }
        plain_hosts.insert(authority.to_owned());
    }

    fn plain_hosts(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.plain_hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn url(&self, scheme: &str, repository: &str, path: &str) -> Result<Url> {
        let text = format!("{scheme}://{}/v2/{repository}/{path}", self.authority);
        Url::parse(&text)
            .map_err(|_| Error::invalid(format!("`{}` is not a registry's host", self.authority)))
    }

    /// Whether the port of plain HTTP is written there. A host without a port has HTTPS on the usual one.
    fn names_plain_port(&self) -> bool {
        self.authority.ends_with(":80")
    }
}

fn is_unreachable(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream) if upstream.kind == UpstreamKind::Unreachable)
}

#[cfg(test)]
#[path = "../../tests/support/fixture_registry.rs"]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
