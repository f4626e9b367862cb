//! One request and its answer: the addresses it may reach, the redirects it may follow, the time it may take.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Certificate, Client, Identity, Method, Response, redirect};
use tokio::time::Instant;
use url::Url;

use crate::error::{Error, Result, UpstreamKind};
use crate::limits;
use crate::registry::address::{AddressPolicy, GuardedResolver, Refused, is_loopback};
use crate::registry::endpoint::Trust;
use crate::registry::failure::{bad_answer, no_connection, sent_by_stranger, upstream, wants_certificate};
use crate::registry::probe::wants_to_know_us;
use crate::registry::ranks::Answerer;
use crate::registry::trace::{Counting, Exchange, Outcome, Trace, cut};

/// How often a connection of HTTP/2 with requests under way shows that it lives, in the time that an answer may stand still.
const PINGS: u32 = 3;

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
            connect: limits::UPSTREAM_CONNECT_TIME,
            header: limits::UPSTREAM_HEADER_TIME,
            stall: limits::UPSTREAM_STALL_TIME,
        }
    }
}

/// Which HTTP carries a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wire {
    /// HTTP/2 where the peer has it: small answers share a connection.
    Any,
    /// A connection of its own. Large answers that share one share its windows as well, so that several at once are no
    /// faster than one, and a slow one holds up the rest.
    Http1,
}

/// Where a request goes, and on what terms.
pub(super) struct Request<'r> {
    pub wire: Wire,
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    /// Sent to the origin of `url` and to nobody else, as is `authorization`.
    pub own_headers: HeaderMap,
    pub authorization: Option<HeaderValue>,
    pub body: Option<Bytes>,
    pub trust: Trust,
    /// Whether plain HTTP is enough beyond loopback.
    pub plain: bool,
    pub addresses: AddressPolicy,
    pub redirects: Redirects,
    pub trace: &'r Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Redirects {
    Followed,
    /// The request carries a secret in more than its head: it goes to nobody else.
    Refused,
}

/// The last answer of a chain of redirects.
#[derive(Debug)]
pub(super) struct Answer {
    pub response: Response,
    /// Who gave it.
    pub url: Url,
    /// Whom it may send us to.
    pub addresses: AddressPolicy,
    pub peer: Peer,
    /// The endpoint of a repository that it is from; none for what is asked elsewhere.
    pub from: Option<Answerer>,
    /// Who hears how much of its body comes.
    pub counting: Counting,
}

/// Whom a request has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// The origin that was asked, and nobody before it.
    Asked,
    /// Somebody that one of them named. Also the origin that was asked, once a stranger has sent us back there: what is
    /// asked of it is the stranger's choice then.
    Stranger,
}

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Failed {
    error: Error,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There was no connection to whom was asked, or no TLS on it.
    Connecting,
    Connected,
}

impl Failed {
    /// Whether nobody was there to hear the request.
    pub fn is_unheard(&self) -> bool {
        let unreachable =
            matches!(&self.error, Error::Upstream(told) if told.kind == UpstreamKind::Unreachable);
        unreachable && self.stage == Stage::Connecting
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, stage: Stage::Connected }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        failed.error
    }
}

/// The HTTP clients, one for each set of terms: a pooled connection is as good as its check was.
pub(super) struct Clients {
    patience: Patience,
    made: Mutex<HashMap<Terms, Client>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Terms {
    addresses: AddressPolicy,
    trust: Trust,
    lax: bool,
    wire: Wire,
}

impl Clients {
    pub fn new(patience: Patience) -> Clients {
        Clients { patience, made: Mutex::default() }
    }

    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Sends `request` and follows its redirects.
    ///
    /// # Errors
    /// `Upstream`: `Unreachable` without a connection or an answer in time, `Forbidden` for an address or a
    /// scheme that may not be used, `BadAnswer` for a redirect that leads nowhere. Any status is an answer.
    pub async fn send(&self, request: Request<'_>) -> Result<Answer> {
        Ok(self.try_send(request).await?)
    }

    /// The same, for who has something else to try where nobody is there.
    pub async fn try_send(&self, request: Request<'_>) -> Result<Answer, Failed> {
        let (mut url, mut addresses, mut peer) = (request.url.clone(), request.addresses, Peer::Asked);
        for hop in 0..=limits::REDIRECTS {
            let (response, counting) = match self.send_once(&request, &url, addresses, peer).await {
                Err(failed) if hop > 0 => {
                    let narrowed = addresses != request.addresses;
                    let error = failed.error;
                    return Err(if narrowed { sent_by_stranger(error) } else { error }.into());
                }
                settled => settled?,
            };
            addresses = addresses.narrowed_by(response.remote_addr());
            match next_hop(&response, &url)? {
                Some(_) if request.redirects == Redirects::Refused => {
                    let why = "it redirects a request that carries a credential";
                    return Err(bad_answer(&url, why).into());
                }
                Some(next) => url = next,
                None => return Ok(Answer { response, url, addresses, peer, from: None, counting }),
            }
            if url.origin() != request.url.origin() {
                peer = Peer::Stranger;
            }
        }
        let why = format!("it redirects more than {} times", limits::REDIRECTS);
        Err(bad_answer(&request.url, why).into())
    }

    async fn send_once(
        &self,
        request: &Request<'_>,
        url: &Url,
        addresses: AddressPolicy,
        peer: Peer,
    ) -> Result<(Response, Counting), Failed> {
        let began = Instant::now();
        let answered = self.attempt(request, url, addresses, peer).await;
        let counting = request.trace.tell(|number| Exchange {
            number,
            method: request.method.to_string(),
            url: shown(url),
            authorization: match peer {
                Peer::Asked => request.authorization.as_ref().or(request.own_headers.get(AUTHORIZATION)),
                Peer::Stranger => None,
            }
            .map(scheme_of),
            range: request
                .headers
                .get(reqwest::header::RANGE)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned),
            outcome: match &answered {
                Ok(response) => Outcome::answered(response),
                Err(failed) => Outcome::Failed { reason: failed.error.to_string() },
            },
            took: began.elapsed(),
        });
        Ok((answered?, counting))
    }

    async fn attempt(
        &self,
        request: &Request<'_>,
        url: &Url,
        addresses: AddressPolicy,
        peer: Peer,
    ) -> Result<Response, Failed> {
        let forbidden = |why: String| upstream(UpstreamKind::Forbidden, url, why);
        let refused = |refused: Refused| upstream(refused.kind(), url, refused.to_string());
        addresses.check_literal(url).map_err(refused)?;
        let lax = request.trust.is_lax() || request.trust.is_default() && is_loopback(url);
        if url.scheme() != "https" && !lax && !request.plain {
            let why = "plain HTTP is used on loopback only, or where the request says insecure";
            return Err(forbidden(why.into()).into());
        }
        let trust = match peer {
            Peer::Asked => request.trust.clone(),
            Peer::Stranger => request.trust.without_identity(),
        };
        let time = self.head_time(&trust);
        let client = self.client(Terms { addresses, trust, lax, wire: request.wire })?;
        let mut sent = client.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        if peer == Peer::Asked {
            let mut headers = request.own_headers.clone();
            // One that was configured by hand stands where nothing better is known.
            if let Some(authorization) = &request.authorization {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            sent = sent.headers(headers);
        }
        if let Some(body) = &request.body {
            sent = sent.body(body.clone());
        }
        let response = match tokio::time::timeout(time, sent.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => {
                return Err(Failed { error: no_connection(url, &error), stage: Stage::Connecting });
            }
            Ok(Err(error)) => {
                let is_nobody = peer == Peer::Asked && request.trust.identity().is_none();
                let silent = url.scheme() == "https" && is_nobody && !error.is_timeout();
                // The alert that would say so is lost where a request was on its way already.
                if silent && Box::pin(wants_to_know_us(url, addresses, self.patience.connect)).await {
                    return Err(wants_certificate(url).into());
                }
                return Err(no_connection(url, &error).into());
            }
            Err(_) => return Err(upstream(UpstreamKind::Unreachable, url, "no answer in time").into()),
        };
        // The resolver has judged it already; this holds should a connection ever come by another way.
        match response.remote_addr() {
            Some(peer) if !addresses.allows(peer.ip()) => Err(refused(Refused(peer.ip())).into()),
            Some(_) | None => Ok(response),
        }
    }

    /// How long until the head of an answer: what is configured for a connection is in addition to that.
    fn head_time(&self, trust: &Trust) -> Duration {
        self.patience.header + trust.connect_timeout().unwrap_or_default()
    }

    fn client(&self, terms: Terms) -> Result<Client> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&terms) {
            return Ok(client.clone());
        }
        let client = self.build(&terms).map_err(|source| Error::Internal {
            doing: "set up the registry client (are the system's CA certificates installed?)".into(),
            source: Some(source.into()),
        })?;
        // All of them may be in use: they cost a handshake each to get back, and memory is bounded.
        if made.len() >= limits::UPSTREAM_CLIENTS {
            made.clear();
        }
        made.insert(terms, client.clone());
        Ok(client)
    }

    fn build(&self, terms: &Terms) -> reqwest::Result<Client> {
        let mut roots = Vec::new();
        for pem in terms.trust.roots() {
            roots.extend(Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        let mut builder = match terms.wire {
            Wire::Any => Client::builder(),
            Wire::Http1 => Client::builder().http1_only(),
        };
        builder = builder
            .user_agent(concat!("orlop/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(GuardedResolver(terms.addresses))
            .redirect(redirect::Policy::none())
            .referer(false)
            // A proxy would connect in our stead, past the address policy.
            .no_proxy()
            // Retries are the caller's, who knows what they cost.
            .retry(reqwest::retry::never())
            .connect_timeout(terms.trust.connect_timeout().unwrap_or(self.patience.connect))
            .pool_max_idle_per_host(limits::UPSTREAM_IDLE_CONNECTIONS)
            .pool_idle_timeout(limits::UPSTREAM_IDLE_TIME)
            // All answers share a connection of HTTP/2: one that has died without a word would take every retry along.
            // It is found out before the answers on it are given up.
            .http2_keep_alive_interval(self.patience.stall / PINGS)
            .http2_keep_alive_timeout(self.patience.stall / PINGS)
            .tls_certs_merge(roots)
            .tls_danger_accept_invalid_certs(terms.lax);
        if let Some(own) = terms.trust.identity() {
            let pem = format!("{}\n{}", own.certificate, own.key.expose());
            builder = builder.identity(Identity::from_pem(pem.as_bytes())?);
        }
        builder.build()
    }
}

/// `url` as it may be told: a query is where signatures stand.
pub(super) fn shown(url: &Url) -> String {
    let mut bare = url.clone();
    bare.set_fragment(None);
    // Neither fails for a URL that has a host.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    let hidden = bare.query().is_some_and(|query| !query.starts_with("ns="));
    bare.set_query(None);
    cut(&if hidden { format!("{bare}?…") } else { bare.to_string() }, limits::UPSTREAM_URL_BYTES)
}

/// `Bearer` of `Bearer ey…`; of what has no scheme, that there is something.
fn scheme_of(authorization: &HeaderValue) -> String {
    let text = authorization.to_str().unwrap_or_default();
    text.split_once(' ').map_or("unnamed", |(scheme, _)| scheme).to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_may_take_minutes_is_not_given_up_for_want_of_an_answer() {
        let clients = Clients::new(Patience::default());
        let trust = |time| Trust::new(false, Vec::new(), None, time);
        assert_eq!(clients.head_time(&trust(None)), Duration::from_secs(30));
        assert_eq!(clients.head_time(&trust(Some(Duration::from_secs(300)))), Duration::from_secs(330));
    }
}
