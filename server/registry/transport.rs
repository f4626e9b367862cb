//! One request and its answer: the addresses it may reach, the redirects it may follow, the time it may take.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Method, Response, redirect};
use url::Url;

use crate::error::{Error, Result, UpstreamKind};
use crate::limits;
use crate::registry::address::{AddressPolicy, GuardedResolver, is_loopback};
use crate::registry::failure::{bad_answer, no_connection, upstream};

/// Idle connections kept per host, and for how long: a pull's layers reuse them.
const IDLE_CONNECTIONS: usize = 10;
const IDLE_TIME: Duration = Duration::from_secs(30);

/// How long to wait for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of an answer, per hop.
    pub header: Duration,
    /// For the next byte of a body.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(10),
            header: Duration::from_secs(30),
            stall: Duration::from_secs(60),
        }
    }
}

/// How sure we must be of whom we talk to. Content is verified by digest either way; a tag is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Transport {
    /// TLS with a certificate that the system trusts; on loopback also less than that.
    #[default]
    Verified,
    /// TLS with any certificate, or plain HTTP: the caller says so for this request.
    Insecure,
}

/// Where a request goes, and on what terms.
pub(super) struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    /// Sent to the origin of `url` and to nobody else.
    pub authorization: Option<HeaderValue>,
    pub transport: Transport,
    pub addresses: AddressPolicy,
}

/// The last answer of a chain of redirects.
#[derive(Debug)]
pub(super) struct Answer {
    pub response: Response,
    /// Who gave it.
    pub url: Url,
    /// Whom it may send us to.
    pub addresses: AddressPolicy,
}

/// The HTTP clients, one per policy and strictness, for a pooled connection is as good as its check was.
pub(super) struct Clients {
    patience: Patience,
    made: [OnceLock<Client>; 4],
}

impl Clients {
    pub fn new(patience: Patience) -> Clients {
        Clients { patience, made: Default::default() }
    }

    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Sends `request` and follows its redirects.
    ///
    /// # Errors
    /// `Upstream`: `Unreachable` without a connection or an answer in time, `Forbidden` for an address or a
    /// scheme that may not be used, `BadAnswer` for a redirect that leads nowhere. Any status is an answer.
    pub async fn send(&self, request: Request) -> Result<Answer> {
        let (mut url, mut addresses) = (request.url.clone(), request.addresses);
        for _ in 0..=limits::REDIRECTS {
            let response = self.send_once(&request, &url, addresses).await?;
            addresses = addresses.narrowed_by(response.remote_addr());
            match next_hop(&response, &url)? {
                Some(next) => url = next,
                None => return Ok(Answer { response, url, addresses }),
            }
        }
        Err(bad_answer(&request.url, format!("it redirects more than {} times", limits::REDIRECTS)))
    }

    async fn send_once(&self, request: &Request, url: &Url, addresses: AddressPolicy) -> Result<Response> {
        let forbidden = |why: String| upstream(UpstreamKind::Forbidden, url, why);
        addresses.check_literal(url).map_err(|refused| forbidden(refused.to_string()))?;
        let lax = request.transport == Transport::Insecure || is_loopback(url);
        if url.scheme() != "https" && !lax {
            return Err(forbidden(
                "plain HTTP is used on loopback only, or where the request says insecure".into(),
            ));
        }
        let mut sent = self.client(addresses, lax)?.request(request.method.clone(), url.clone());
        sent = sent.headers(request.headers.clone());
        if let Some(authorization) = &request.authorization
            && url.origin() == request.url.origin()
        {
            sent = sent.header(AUTHORIZATION, authorization);
        }
        let response = match tokio::time::timeout(self.patience.header, sent.send()).await {
            Ok(answered) => answered.map_err(|error| no_connection(url, &error))?,
            Err(_) => return Err(upstream(UpstreamKind::Unreachable, url, "no answer in time")),
        };
        // The resolver has judged it already; this holds should a connection ever come by another way.
        match response.remote_addr() {
            Some(peer) if !addresses.allows(peer.ip()) => {
                Err(forbidden(format!("the address {} may not be contacted", peer.ip())))
            }
            Some(_) | None => Ok(response),
        }
    }

    fn client(&self, addresses: AddressPolicy, lax: bool) -> Result<&Client> {
        let place = match addresses {
            AddressPolicy::Public => 0,
            AddressPolicy::Private => 2,
        };
        let cell = &self.made[place + usize::from(lax)];
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let client = self.build(addresses, lax).map_err(|source| Error::Internal {
            doing: "set up the registry client (are the system's CA certificates installed?)".into(),
            source: Some(source.into()),
        })?;
        Ok(cell.get_or_init(|| client))
    }

    fn build(&self, addresses: AddressPolicy, lax: bool) -> reqwest::Result<Client> {
        Client::builder()
            .user_agent(concat!("orlop/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(GuardedResolver(addresses))
            .redirect(redirect::Policy::none())
            .referer(false)
            // A proxy would connect in our stead, past the address policy.
            .no_proxy()
            // Retries are the caller's, who knows what they cost.
            .retry(reqwest::retry::never())
            .connect_timeout(self.patience.connect)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIME)
            .tls_danger_accept_invalid_certs(lax)
            .build()
    }
}

/// Where a redirect leads; `None` for any other answer.
fn next_hop(response: &Response, url: &Url) -> Result<Option<Url>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let broken = || bad_answer(url, "it redirects to something that is not a URL");
    let location = response.headers().get(LOCATION).ok_or_else(broken)?;
    let next = url.join(location.to_str().map_err(|_| broken())?).map_err(|_| broken())?;
    if !matches!(next.scheme(), "http" | "https") || !next.has_host() || has_user_info(&next) {
        return Err(broken());
    }
    Ok(Some(next))
}

/// User information in a URL of a stranger would become an `Authorization` header of ours.
pub(super) fn has_user_info(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}
