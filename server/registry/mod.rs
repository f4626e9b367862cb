//! The outbound client of the OCI distribution protocol: from a reference to verified documents and to the
//! bytes of blobs. It knows the wire and nothing of the store; to stop it, drop its futures.
//!
//! Nobody at the other end is trusted: every document is verified against its digest, every length has a bound,
//! every wait a limit, every address is checked when it is connected to (`address.rs`), and a credential goes to whom
//! it is meant for (`auth.rs`). What fails says so as [`Error::Upstream`]; [`retriable`] and [`Retries`] tell whether and
//! when to ask again.

mod address;
mod asking;
mod auth;
mod blob;
mod challenge;
mod credential;
mod docker_config;
mod documents;
mod endpoint;
mod failure;
mod foreign;
mod hosts;
mod keyring;
mod places;
mod probe;
mod ranks;
mod referrers;
mod repository;
mod retry;
mod settings;
mod token;
mod trace;
mod transport;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

use crate::clock::{Clock, Time};
use crate::error::Result;
use crate::limits;
use crate::oci::Reference;

pub use address::AddressPolicy;
pub use blob::{Arrived, BlobStream, Ranges};
pub use credential::{Credential, Secret};
pub use docker_config::DockerConfig;
pub use documents::{Fetched, Resolved};
pub use endpoint::{Capability, Endpoint, Transport};
pub use foreign::is_elsewhere;
pub use hosts::{Found, HostsDirs};
pub use places::{Crowd, Place};
pub use probe::{Probe, Step, StepName};
pub use repository::Repository;
pub use retry::{Retries, RetryPolicy, retriable};
pub use settings::{ClientCertificate, HostSettings, RegistrySettings};
pub use trace::{Exchange, Outcome, Received, Told, Trace};
pub use transport::Patience;

use auth::{Refusal, Scope, refused_with};
use blob::read_bounded;
use endpoint::Scheme;
use failure::{error_code, refused_by};
use keyring::Keyring;
use places::Places;
use transport::{Answer, Clients, Failed, Peer, Redirects, Request, Wire};

/// The client for all registries: connections, tokens and what was learned about hosts. A cheap clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    clients: Clients,
    clock: Clock,
    keyring: Keyring,
    /// `host[:port]` that had no TLS to offer where it was not required, and until when that counts.
    plain_hosts: Mutex<HashMap<String, Time>>,
    places: Places,
}

/// One request to a repository: everything of it but where and how it is sent.
#[derive(Debug, Clone)]
struct Ask {
    wire: Wire,
    method: Method,
    /// What an endpoint must be good for to be asked.
    capability: Capability,
    /// Below `/v2/<repository>/`, such as `blobs/sha256:…`: text of our grammar only.
    path: String,
    headers: HeaderMap,
}

impl Registry {
    /// Nothing is sent and nothing is opened yet.
    pub fn new(patience: Patience, crowd: Crowd, clock: Clock) -> Registry {
        Registry(Arc::new(Inner {
            clients: Clients::new(patience),
            clock,
            keyring: Keyring::default(),
            plain_hosts: Mutex::default(),
            places: Places::new(crowd),
        }))
    }

    /// The repository that `reference` names, to be asked at `endpoints` in their order. Nothing is sent yet.
    pub fn repository(&self, reference: &Reference, endpoints: Vec<Endpoint>, trace: Trace) -> Repository {
        Repository::new(self.clone(), endpoints, reference.repository().to_owned(), trace)
    }

    fn places(&self) -> &Places {
        &self.0.places
    }

    fn patience(&self) -> Patience {
        self.0.clients.patience()
    }

    /// Sends `ask` to one endpoint and gives an answer of success, or of a refused range.
    ///
    /// HTTPS comes first. Where less is enough (loopback, or the request says insecure) a host to which there is no
    /// connection so is tried with plain HTTP, and remembered. One that has heard the request is not asked in clear.
    async fn ask(&self, endpoint: &Endpoint, repository: &str, ask: &Ask, trace: &Trace) -> Result<Answer> {
        let at = |scheme| self.ask_by(scheme, endpoint, repository, ask, trace);
        match endpoint.scheme {
            Scheme::Https => return Ok(at("https").await?),
            Scheme::Http => return Ok(at("http").await?),
            Scheme::Either => {}
        }
        if self.is_plain(&endpoint.authority) || endpoint.names_plain_port() {
            let answer = at("http").await;
            // Whatever answers there now may have TLS; the next try finds out.
            if answer.as_ref().is_err_and(Failed::is_unheard) {
                self.plain_hosts().remove(&endpoint.authority);
            }
            return Ok(answer?);
        }
        match at("https").await {
            Err(failed) if failed.is_unheard() => {
                let answer = at("http").await;
                if !answer.as_ref().is_err_and(Failed::is_unheard) {
                    self.remember_plain(&endpoint.authority);
                }
                Ok(answer?)
            }
            settled => Ok(settled?),
        }
    }

    /// Sends `ask` by one protocol, with what lets us in there.
    async fn ask_by(
        &self,
        scheme: &str,
        endpoint: &Endpoint,
        repository: &str,
        ask: &Ask,
        trace: &Trace,
    ) -> Result<Answer, Failed> {
        let url = endpoint.url(scheme, &format!("{repository}/{}", ask.path))?;
        let scope = Scope {
            origin: url.origin().ascii_serialization(),
            repository: repository.to_owned(),
            who: endpoint.credential.as_ref().map(Credential::fingerprint).unwrap_or_default(),
        };
        let request = |authorization: Option<HeaderValue>| Request {
            wire: ask.wire,
            method: ask.method.clone(),
            url: url.clone(),
            headers: ask.headers.clone(),
            own_headers: endpoint.headers.clone(),
            authorization,
            body: None,
            trust: endpoint.trust.clone(),
            plain: endpoint.is_plain(),
            addresses: endpoint.addresses,
            redirects: Redirects::Followed,
            trace,
        };
        let sent = self.first_authorization(endpoint, &scope);
        let answer = self.0.clients.try_send(request(sent.clone())).await?;
        // A 401 of somebody we were redirected to is not the registry's question.
        if answer.response.status() != StatusCode::UNAUTHORIZED || answer.peer == Peer::Stranger {
            return Ok(self.accept(answer).await?);
        }
        let refusal = Refusal { endpoint, scope, answer: &answer, sent, trace };
        let authorization = Box::pin(self.authorize(refusal)).await?;
        let answer = self.0.clients.send(request(Some(authorization.clone()))).await?;
        let asked_again = answer.response.status() == StatusCode::UNAUTHORIZED;
        if asked_again && endpoint.credential.is_some() && answer.peer == Peer::Asked {
            return Err(refused_with(&answer.url, &authorization).into());
        }
        Ok(self.accept(answer).await?)
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
        let body = read_bounded(answer, limits::UPSTREAM_ERROR_BYTES, patience.stall);
        let body = tokio::time::timeout(patience.header, body).await.ok().and_then(Result::ok);
        let code = body.and_then(|(body, _)| error_code(&body));
        Err(refused_by(&url, status, &headers, code.as_deref(), self.0.clock.now()))
    }

    fn remember_plain(&self, authority: &str) {
        let mut plain_hosts = self.plain_hosts();
        if plain_hosts.len() >= limits::PLAIN_HOSTS {
            plain_hosts.clear();
        }
        plain_hosts.insert(authority.to_owned(), self.0.clock.now().plus(limits::PLAIN_HOST_TIME));
    }

    fn is_plain(&self, authority: &str) -> bool {
        self.plain_hosts().get(authority).is_some_and(|until| *until > self.0.clock.now())
    }

    fn plain_hosts(&self) -> std::sync::MutexGuard<'_, HashMap<String, Time>> {
        self.0.plain_hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "../../tests/support/fixture_registry.rs"]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
