//! A look at a registry's hosts, step by step, for whoever wants to know why a pull does not work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::Instant;
use url::Url;

use crate::error::{Error, UpstreamKind};
use crate::registry::Registry;
use crate::registry::auth::{Refusal, Scope};
use crate::registry::credential::Credential;
use crate::registry::endpoint::{Endpoint, Scheme};
use crate::registry::failure::speaks_no_tls;
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
    /// Tries one host: its name, its port, its certificate, its API, our credential. `repository` is whose access is
    /// asked for; without one, none in particular.
    pub async fn probe(&self, endpoint: &Endpoint, repository: Option<&str>) -> Probe {
        let mut steps = Steps::new();
        let walked = self.walk(endpoint, repository.unwrap_or_default(), &mut steps).await;
        let ok = walked.is_some();
        Probe { host: endpoint.authority.clone(), mirror: endpoint.mirrored.is_some(), ok, steps: steps.done }
    }

    async fn walk(&self, endpoint: &Endpoint, repository: &str, steps: &mut Steps) -> Option<()> {
        let patience = self.patience();
        let mut scheme =
            if endpoint.scheme == Scheme::Http || endpoint.names_plain_port() { "http" } else { "https" };
        let base = endpoint.url(scheme, "");
        let base = steps_url(base, steps)?;
        let addresses = steps.end(StepName::Dns, resolve(endpoint, &base, patience.connect).await)?;
        let stream = steps.end(StepName::Connect, connect(&addresses, patience.connect).await)?;
        if scheme == "https" {
            let shaken = shake_hands(stream, &base, patience.connect).await;
            match shaken {
                Err(why) if endpoint.scheme == Scheme::Either => {
                    scheme = "http";
                    steps.end(StepName::Tls, Ok(((), format!("none ({why}): plain HTTP is enough here"))))?;
                }
                settled => steps.end(StepName::Tls, settled)?,
            }
        }
        let url = steps_url(endpoint.url(scheme, ""), steps)?;
        let answer = self.ping(endpoint, &url).await;
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
        let authorized = self.enter(endpoint, repository, &url, answer).await;
        steps.end(StepName::Auth, authorized)
    }

    async fn ping(&self, endpoint: &Endpoint, url: &Url) -> crate::error::Result<Answer> {
        self.0.clients.send(self.ping_request(endpoint, url, None)).await
    }

    fn ping_request<'r>(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        authorization: Option<reqwest::header::HeaderValue>,
    ) -> Request<'r> {
        const NOBODY: &Trace = &Trace::nobody();
        Request {
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
        }
    }

    /// Answers a 401 as a pull would.
    async fn enter(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        url: &Url,
        answer: Answer,
    ) -> Result<((), String), String> {
        if answer.response.status() != StatusCode::UNAUTHORIZED {
            return Ok(((), "nobody asks who we are".to_owned()));
        }
        let scope = Scope {
            origin: url.origin().ascii_serialization(),
            repository: repository.to_owned(),
            who: endpoint.credential.as_ref().map(Credential::fingerprint).unwrap_or_default(),
        };
        let authorization = match &endpoint.credential {
            Some(Credential::RegistryToken { .. }) => self.first_authorization(endpoint, &scope),
            Some(Credential::Password { .. } | Credential::IdentityToken { .. }) | None => {
                let trace = Trace::nobody();
                let refusal = Refusal { endpoint, scope, answer: &answer, sent: None, trace: &trace };
                Some(self.authorize(refusal).await.map_err(|error| error.to_string())?)
            }
        };
        let answer = self.0.clients.send(self.ping_request(endpoint, url, authorization)).await;
        let status = answer.map_err(|error| error.to_string())?.response.status();
        let who = match &endpoint.credential {
            Some(Credential::Password { username, .. }) => format!("let in as `{username}`"),
            Some(Credential::IdentityToken { .. }) => "let in with an identity token".to_owned(),
            Some(Credential::RegistryToken { .. }) => "let in with a registry token".to_owned(),
            None => "let in without a credential, as anybody is".to_owned(),
        };
        match status.is_success() {
            true => Ok(((), who)),
            false => Err(format!("what we send is refused (status {})", status.as_u16())),
        }
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
    endpoint: &Endpoint,
    base: &Url,
    patience: Duration,
) -> Result<(Vec<SocketAddr>, String), String> {
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = base.port_or_known_default().unwrap_or(443);
    let found = tokio::time::timeout(patience, tokio::net::lookup_host((host.as_str(), port))).await;
    let found = found.map_err(|_| "no answer in time")?.map_err(|_| format!("there is no host `{host}`"))?;
    let (allowed, refused): (Vec<_>, Vec<_>) =
        found.partition(|address| endpoint.addresses.allows(address.ip()));
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
    for address in addresses {
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address.to_string())),
            Ok(Err(error)) => why = format!("{address}: {}", error.kind()),
            Err(_) => why = format!("{address}: no connection in time"),
        }
    }
    Err(why)
}

/// What the host has to offer, believed or not: it is judged by the request that follows.
async fn shake_hands(stream: TcpStream, base: &Url, patience: Duration) -> Result<((), String), String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|_| "no version of TLS is known here")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Looking(provider)))
        .with_no_client_auth();
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|_| "its name cannot stand in a certificate")?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let shaken = tokio::time::timeout(patience, connector.connect(name, stream)).await;
    let shaken = shaken.map_err(|_| "no handshake in time")?.map_err(|error| {
        if speaks_no_tls(&error) { "what answers there does not speak TLS" } else { "the handshake fails" }
    })?;
    let version = match shaken.get_ref().1.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        Some(_) | None => "TLS",
    };
    Ok(((), version.to_owned()))
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
