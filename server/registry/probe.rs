//! A look at a registry's hosts, step by step, for whoever wants to know why a pull does not work.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use url::Url;

use crate::error::{Error, UpstreamKind};
use crate::id::new_id;
use crate::limits;
use crate::registry::Registry;
use crate::registry::address::AddressPolicy;
use crate::registry::auth::{Refusal, Scope};
use crate::registry::credential::Credential;
use crate::registry::endpoint::{Endpoint, Scheme};
use crate::registry::failure::{ends_handshake, is_for_certificate, speaks_no_tls};
use crate::registry::trace::Trace;
use crate::registry::transport::{Answer, Redirects, Request, Wire};

/// How one host fared.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// `host[:port]`.
    pub host: String,
    /// Whether it speaks for a registry of another name.
    pub mirror: bool,
    /// Whether every step went well.
    pub ok: bool,
    /// In their order; the last is the one that failed, if one did.
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub step: StepName,
    pub ok: bool,
    /// For people. Never a credential.
    pub detail: String,
    /// In milliseconds.
    pub duration_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepName {
    Dns,
    Connect,
    Tls,
    Ping,
    Auth,
}

/// The steps so far.
struct Steps {
    done: Vec<Step>,
    began: Instant,
}

impl Steps {
    fn new() -> Steps {
        Steps { done: Vec::new(), began: Instant::now() }
    }

    /// Ends a step; its value if it went well.
    fn end<T>(&mut self, step: StepName, outcome: Result<(T, String), String>) -> Option<T> {
        let duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.began = Instant::now();
        let (value, ok, detail) = match outcome {
            Ok((value, detail)) => (Some(value), true, detail),
            Err(detail) => (None, false, detail),
        };
        self.done.push(Step { step, ok, detail, duration_ms });
        value
    }
}

impl Registry {
    /// Tries one host: its name, its port, its certificate, its API, our credential. `repository` is what is asked for
    /// then, in full (`library/alpine`); without one, only whether we are let in at all.
    pub async fn probe(&self, endpoint: &Endpoint, repository: Option<&str>) -> Probe {
        let mut steps = Steps::new();
        let walked = self.walk(endpoint, repository, &mut steps).await;
        let ok = walked.is_some();
        Probe { host: endpoint.authority.clone(), mirror: endpoint.mirrored.is_some(), ok, steps: steps.done }
    }

    async fn walk(&self, endpoint: &Endpoint, repository: Option<&str>, steps: &mut Steps) -> Option<()> {
        let patience = self.patience();
        let mut scheme = first_scheme(endpoint);
        let base = endpoint.url(scheme, "");
        let base = steps_url(base, steps)?;
        let addresses =
            steps.end(StepName::Dns, resolve(endpoint.addresses, &base, patience.connect).await)?;
        let stream = steps.end(StepName::Connect, connect(&addresses, patience.connect).await)?;
        if scheme == "https" {
            let shaken = shake_hands(stream, &base, patience.connect).await;
            match shaken {
                // Who we are is for the request that follows: it goes to nobody who is not believed.
                Err(Unshaken::Ended) if endpoint.trust.identity().is_some() => {
                    steps.end(StepName::Tls, Ok(((), "it asks who we are".to_owned())))?;
                }
                Err(why) if endpoint.scheme == Scheme::Either => {
                    scheme = "http";
                    steps.end(StepName::Tls, Ok(((), format!("none ({why}): plain HTTP is enough here"))))?;
                }
                settled => steps.end(StepName::Tls, settled.map_err(|why| why.to_string()))?,
            }
        }
        let url = steps_url(endpoint.url(scheme, ""), steps)?;
        let answer = self.ask_plainly(endpoint, &url, None).await;
        // Whom to believe is decided where it counts, with the very settings of a pull.
        if let Err(Error::Upstream(told)) = &answer
            && told.kind == UpstreamKind::Untrusted
            && let Some(tls) = steps.done.iter_mut().find(|step| step.step == StepName::Tls)
        {
            (tls.ok, tls.detail) = (false, told.reason.clone());
            return None;
        }
        let answer =
            steps.end(StepName::Ping, answer.map_err(|error| error.to_string()).and_then(judge_ping))?;
        let entered = match repository {
            None => self.enter(endpoint, None, &url, Some(answer)).await,
            Some(name) => match endpoint.url(scheme, &format!("{name}/tags/list")) {
                Ok(mut url) => {
                    url.query_pairs_mut().append_pair("n", "1");
                    self.enter(endpoint, Some(name), &url, None).await
                }
                Err(error) => Err(error.to_string()),
            },
        };
        steps.end(StepName::Auth, entered)
    }

    async fn ask_plainly(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        authorization: Option<HeaderValue>,
    ) -> crate::error::Result<Answer> {
        const NOBODY: &Trace = &Trace::nobody();
        let request = Request {
            wire: Wire::Any,
            method: Method::GET,
            url: url.clone(),
            headers: HeaderMap::new(),
            own_headers: endpoint.headers.clone(),
            authorization,
            body: None,
            trust: endpoint.trust.clone(),
            plain: endpoint.is_plain(),
            addresses: endpoint.addresses,
            redirects: Redirects::Followed,
            trace: NOBODY,
        };
        self.0.clients.send(request).await
    }

    /// Asks for `url` as a pull would, with a token that is made for it; `unasked` is what the same request was answered
    /// before, without any credential.
    async fn enter(
        &self,
        endpoint: &Endpoint,
        repository: Option<&str>,
        url: &Url,
        unasked: Option<Answer>,
    ) -> Result<((), String), String> {
        let text = |error: Error| error.to_string();
        let scope = Scope {
            // Nobody else's: a token that pulls keep says nothing of the credential as it is now.
            origin: format!("{} {}", url.origin().ascii_serialization(), new_id("test", self.0.clock.now())),
            repository: repository.unwrap_or_default().to_owned(),
            who: endpoint.credential.as_ref().map(Credential::fingerprint).unwrap_or_default(),
        };
        let mut sent = self.first_authorization(endpoint, &scope);
        let mut answer = match unasked.filter(|_| sent.is_none()) {
            Some(answer) => answer,
            None => self.ask_plainly(endpoint, url, sent.clone()).await.map_err(text)?,
        };
        if answer.response.status() == StatusCode::UNAUTHORIZED && answer.url.origin() == url.origin() {
            let trace = Trace::nobody();
            let refusal = Refusal { endpoint, scope, answer: &answer, sent, trace: &trace };
            sent = Some(self.authorize(refusal).await.map_err(text)?);
            answer = self.ask_plainly(endpoint, url, sent.clone()).await.map_err(text)?;
        }
        let who = match (&endpoint.credential, sent) {
            (_, None) => "nobody asks who we are".to_owned(),
            (Some(Credential::Password { username, .. }), _) => format!("let in as `{username}`"),
            (Some(Credential::IdentityToken { .. }), _) => "let in with an identity token".to_owned(),
            (Some(Credential::RegistryToken { .. }), _) => "let in with a registry token".to_owned(),
            (None, Some(_)) => "let in without a credential, as anybody is".to_owned(),
        };
        let status = answer.response.status();
        match (status, repository) {
            (status, _) if status.is_success() => Ok(((), who)),
            (StatusCode::NOT_FOUND, Some(_)) => Ok(((), format!("{who}; there is no such repository"))),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                Err(format!("what we send is refused (status {})", status.as_u16()))
            }
            _ => Err(format!("it does not answer what we ask (status {})", status.as_u16())),
        }
    }
}

/// As a pull chooses it.
fn first_scheme(endpoint: &Endpoint) -> &'static str {
    match endpoint.scheme {
        Scheme::Https => "https",
        Scheme::Http => "http",
        Scheme::Either if endpoint.names_plain_port() => "http",
        Scheme::Either => "https",
    }
}

fn steps_url(url: crate::error::Result<Url>, steps: &mut Steps) -> Option<Url> {
    match url {
        Ok(url) => Some(url),
        Err(error) => steps.end(StepName::Dns, Err(error.to_string())),
    }
}

fn judge_ping(answer: Answer) -> Result<(Answer, String), String> {
    let status = answer.response.status();
    match status {
        StatusCode::UNAUTHORIZED => Ok((answer, "it speaks the API, and asks who we are".to_owned())),
        status if status.is_success() => Ok((answer, "it speaks the API".to_owned())),
        status => Err(format!("it does not speak the API at this path (status {})", status.as_u16())),
    }
}

async fn resolve(
    policy: AddressPolicy,
    base: &Url,
    patience: Duration,
) -> Result<(Vec<SocketAddr>, String), String> {
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = base.port_or_known_default().unwrap_or(443);
    let found = tokio::time::timeout(patience, tokio::net::lookup_host((host.as_str(), port))).await;
    let found = found.map_err(|_| "no answer in time")?.map_err(|_| format!("there is no host `{host}`"))?;
    let (allowed, refused): (Vec<_>, Vec<_>) = found.partition(|address| policy.allows(address.ip()));
    let list = |all: &[SocketAddr]| all.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>().join(", ");
    match (allowed.is_empty(), refused.is_empty()) {
        (true, true) => Err(format!("`{host}` has no address")),
        (true, false) => Err(format!("may not be contacted: {}", list(&refused))),
        (false, _) => {
            let detail = list(&allowed);
            Ok((allowed, detail))
        }
    }
}

async fn connect(addresses: &[SocketAddr], patience: Duration) -> Result<(TcpStream, String), String> {
    let mut why = String::new();
    for address in addresses.iter().take(limits::PROBE_ADDRESSES) {
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address.to_string())),
            Ok(Err(error)) => why = format!("{address}: {}", error.kind()),
            Err(_) => why = format!("{address}: no connection in time"),
        }
    }
    let untried = addresses.len().saturating_sub(limits::PROBE_ADDRESSES);
    if untried > 0 {
        why.push_str(&format!("; of its other addresses {untried} were not tried"));
    }
    Err(why)
}

/// Why there is no TLS.
#[derive(Debug)]
enum Unshaken {
    /// The peer broke it off.
    Ended,
    Failed(&'static str),
}

impl fmt::Display for Unshaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unshaken::Ended => "it breaks off the handshake: it may want a certificate of ours",
            Unshaken::Failed(why) => why,
        })
    }
}

/// Whether the host hangs up on whoever has no certificate. For who has been hung up on without a word: TLS 1.3 says why
/// after the handshake, which is lost where a request was on its way already.
pub(super) async fn wants_to_know_us(url: &Url, policy: AddressPolicy, patience: Duration) -> bool {
    let Ok((addresses, _)) = resolve(policy, url, patience).await else { return false };
    let Ok((stream, _)) = connect(&addresses, patience).await else { return false };
    let Ok(mut stream) = open_tls(stream, url, patience).await else { return false };
    let heard = tokio::time::timeout(limits::UPSTREAM_ALERT_WAIT, stream.read_u8()).await;
    matches!(heard, Ok(Err(error)) if is_for_certificate(&error))
}

/// What the host has to offer, believed or not: it is judged by the request that follows.
async fn shake_hands(stream: TcpStream, base: &Url, patience: Duration) -> Result<((), String), Unshaken> {
    let version = match open_tls(stream, base, patience).await?.get_ref().1.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        Some(_) | None => "TLS",
    };
    Ok(((), version.to_owned()))
}

async fn open_tls(
    stream: TcpStream,
    base: &Url,
    patience: Duration,
) -> Result<TlsStream<TcpStream>, Unshaken> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|_| Unshaken::Failed("no version of TLS is known here"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Looking(provider)))
        .with_no_client_auth();
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name =
        ServerName::try_from(host).map_err(|_| Unshaken::Failed("its name cannot stand in a certificate"))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let shaken = tokio::time::timeout(patience, connector.connect(name, stream)).await;
    shaken.map_err(|_| Unshaken::Failed("no handshake in time"))?.map_err(|error| {
        if speaks_no_tls(&error) {
            return Unshaken::Failed("what answers there does not speak TLS");
        }
        if ends_handshake(&error) { Unshaken::Ended } else { Unshaken::Failed("the handshake fails") }
    })
}

/// Looks at any certificate without a judgement. No byte is sent over such a connection.
#[derive(Debug)]
struct Looking(Arc<CryptoProvider>);

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_tried_by_the_scheme_that_a_pull_takes() {
        for (name, scheme, insecure) in [
            ("r.io:80/a", "https", "http"),
            ("r.io/a", "https", "https"),
            ("127.0.0.1:80/a", "http", "http"),
            ("127.0.0.1:5000/a", "https", "https"),
        ] {
            let mut endpoint = Endpoint::of(&name.parse().expect("a reference"), AddressPolicy::Private);
            assert_eq!(first_scheme(&endpoint), scheme, "{name}");
            endpoint.be_insecure();
            assert_eq!(first_scheme(&endpoint), insecure, "{name}, insecure");
        }
    }

    /// A host with TLS of this version that lets nobody in without a certificate.
    async fn shake_hands_with(
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Result<String, Unshaken> {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.cert.der().clone()).expect("a root");
        let clients =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_client_cert_verifier(clients.build().expect("a verifier"))
            .with_single_cert(vec![own.cert.der().clone()], key.into())
            .expect("a certificate and its key");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let serve = async {
            let (stream, _) = listener.accept().await.expect("a client");
            // It fails: nobody says who they are.
            let _ = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        };
        let stream = TcpStream::connect(address).await.expect("a connection");
        let base = Url::parse("https://localhost/").expect("a URL");
        let (shaken, ()) = tokio::join!(shake_hands(stream, &base, Duration::from_secs(10)), serve);
        shaken.map(|((), detail)| detail)
    }

    #[tokio::test]
    async fn of_a_name_with_many_addresses_the_first_are_tried() {
        let closed: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let open = listener.local_addr().expect("an address");
        let after = |count: usize| [vec![closed; count], vec![open]].concat();
        let most = limits::PROBE_ADDRESSES;
        let (_, told) = connect(&after(most - 1), Duration::from_secs(10)).await.expect("it is among them");
        assert_eq!(told, open.to_string());
        let why = connect(&after(most + 2), Duration::from_secs(10)).await.expect_err("it is not");
        assert_eq!(why, "127.0.0.1:1: connection refused; of its other addresses 3 were not tried");
    }

    #[tokio::test]
    async fn a_host_that_wants_a_certificate_breaks_off_sooner_or_later() {
        let old = shake_hands_with(&rustls::version::TLS12).await.expect_err("nobody is let in");
        assert!(matches!(old, Unshaken::Ended), "{old}");
        assert_eq!(shake_hands_with(&rustls::version::TLS13).await.expect("it tells later"), "TLS 1.3");
    }
}
