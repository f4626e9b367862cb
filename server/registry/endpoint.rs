//! Where a registry is asked, and on what terms: the registry's own host, or a mirror of it.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::error::{Error, Result, UpstreamKind};
use crate::id::hex;
use crate::oci::Reference;
use crate::registry::address::{AddressPolicy, is_loopback};
use crate::registry::credential::{Credential, Secret};

/// The path of the distribution API (distribution spec, "Determining Support").
pub(super) const API_PATH: &str = "/v2";
/// Token servers that live beside their registry under another name, and are known to belong to it.
const KNOWN_TOKEN_HOSTS: [(&str, &str); 2] =
    [("registry-1.docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];

/// How sure a pull wants to be of whom it talks to. Content is verified by digest either way; a tag is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Transport {
    /// TLS with a certificate that the system trusts; on loopback also less than that.
    #[default]
    Verified,
    /// TLS with any certificate, or plain HTTP: the caller says so for this pull.
    Insecure,
}

/// What an endpoint is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// What is under a digest.
    Pull,
    /// What a tag points to.
    Resolve,
    /// What refers to a digest.
    Referrers,
    /// Never used here; hosts files name it.
    Push,
}

impl Capability {
    pub const ALL: [Capability; 4] =
        [Capability::Pull, Capability::Resolve, Capability::Referrers, Capability::Push];

    pub const fn as_str(self) -> &'static str {
        match self {
            Capability::Pull => "pull",
            Capability::Resolve => "resolve",
            Capability::Referrers => "referrers",
            Capability::Push => "push",
        }
    }
}

/// The protocol that an endpoint is spoken to with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
    /// HTTPS, and plain HTTP where there is none.
    Either,
}

/// One place that speaks for a registry.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host[:port]`.
    pub(super) authority: String,
    pub(super) scheme: Scheme,
    /// Whether plain HTTP was asked for, which is then enough for its redirects too.
    pub(super) plain: bool,
    /// What stands before the repository, without a slash at its end.
    pub(super) path: String,
    pub(super) capabilities: BTreeSet<Capability>,
    pub(super) trust: Trust,
    /// Sent to this endpoint only.
    pub(super) headers: HeaderMap,
    pub(super) credential: Option<Credential>,
    /// Why secrets that are configured for it are not used, where that is so: what a refusal may come from.
    pub(super) withheld: Option<&'static str>,
    /// `host[:port]` of token servers that may have the credential, beside the endpoint itself.
    pub(super) token_hosts: Vec<String>,
    /// The name of the registry that a mirror is asked to speak for.
    pub(super) mirrored: Option<String>,
    /// Where it may be, and may redirect to itself.
    pub(super) addresses: AddressPolicy,
    /// Where what it hands out may send us: the server's own rule. Whoever writes down a private host vouches for the host,
    /// and not for what is in the images there.
    pub(super) sends_to: AddressPolicy,
}

impl Endpoint {
    /// The registry's own host, as nobody has configured it.
    pub fn of(reference: &Reference, addresses: AddressPolicy) -> Endpoint {
        let authority = reference.api_host().to_owned();
        let scheme = if names_loopback(&authority) { Scheme::Either } else { Scheme::Https };
        Endpoint {
            authority,
            scheme,
            plain: false,
            path: API_PATH.to_owned(),
            capabilities: Capability::ALL.into(),
            trust: Trust::default(),
            headers: HeaderMap::new(),
            credential: None,
            withheld: None,
            token_hosts: Vec::new(),
            mirrored: None,
            addresses,
            sends_to: addresses,
        }
    }

    /// Gives the endpoint this credential instead of its own.
    pub fn set_credential(&mut self, credential: Option<Credential>) {
        self.credential = credential;
    }

    /// Leaves out what is configured to prove who we are, and keeps in mind why.
    pub fn withhold_secrets(&mut self, why: &'static str) {
        if self.has_secrets() {
            (self.credential, self.withheld) = (None, Some(why));
            self.trust = self.trust.without_identity();
            self.headers.clear();
        }
    }

    /// A refusal of this endpoint, with what it may come from.
    pub(super) fn explain(&self, error: Error) -> Error {
        match (error, self.withheld) {
            (Error::Upstream(mut told), Some(why)) if told.kind == UpstreamKind::Denied => {
                told.reason = format!("{}; {why}", told.reason);
                Error::Upstream(told)
            }
            (error, _) => error,
        }
    }

    /// Takes any certificate there, or plain HTTP. Whoever pulls may say so, and may have nobody sent what others configured
    /// for a host that proves who it is: it stays behind, unless they said that less is enough.
    pub fn be_insecure(&mut self) {
        if self.scheme == Scheme::Https && !self.trust.is_lax() {
            self.withhold_secrets("configured credentials are not sent over an unverified connection");
        } else if self.trust.is_lax() && self.has_secrets() {
            // Any certificate was enough for them, which is not to say that none is.
            return;
        }
        self.trust = Trust::nobody_in_particular();
        self.scheme = if self.plain { Scheme::Http } else { Scheme::Either };
    }

    fn has_secrets(&self) -> bool {
        self.credential.is_some() || !self.headers.is_empty() || self.trust.identity().is_some()
    }

    /// Whether it speaks for a registry of another name.
    pub fn is_mirror(&self) -> bool {
        self.mirrored.is_some()
    }

    /// `host[:port]`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Whether plain HTTP was configured for it.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    pub(super) fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// Names the terms on which it is asked: who it proves to be, and what is shown to it beside the credential. What is
    /// handed out on some terms is not for others.
    pub(super) fn terms(&self) -> String {
        let mut all = Fingerprint::default();
        all.add(&self.trust.0.fingerprint);
        for (name, value) in &self.headers {
            all.add(name);
            all.add(value);
        }
        all.finish()
    }

    /// The URL of `path` below the API; `path` is text of our grammars only.
    pub(super) fn url(&self, scheme: &str, path: &str) -> Result<Url> {
        let text = format!("{scheme}://{}{}/{path}", self.authority, self.path);
        let mut url = Url::parse(&text)
            .map_err(|_| Error::invalid(format!("`{}` is not a registry's host", self.authority)))?;
        if let Some(name) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", name);
        }
        Ok(url)
    }

    /// Whether the port of plain HTTP is written there. A host without a port has HTTPS on the usual one.
    pub(super) fn names_plain_port(&self) -> bool {
        self.authority.ends_with(":80")
    }

    /// Whether `name` is what `repository` is called at this endpoint: its own name, or that below some of the endpoint's path,
    /// or below the registry that it is a mirror of. Proxies that speak for several registries have them so.
    pub(super) fn may_call(&self, repository: &str, name: &str) -> bool {
        let Some(before) = name.strip_suffix(repository) else { return false };
        let Some(before) = before.strip_suffix('/') else { return before.is_empty() };
        let of_path = format!("{}/", self.path).contains(&format!("/{before}/"));
        of_path || self.mirrored.as_deref() == Some(before)
    }

    /// Whether the token server at `realm` may have the credential that is meant for this endpoint: it is the
    /// endpoint itself, or configured, and no less private than the endpoint is.
    pub(super) fn trusts_realm(&self, asked: &Url, realm: &Url) -> bool {
        let named = authority_of(realm);
        let known = KNOWN_TOKEN_HOSTS.contains(&(self.authority.as_str(), named.as_str()));
        let same_privacy = realm.scheme() == "https" || asked.scheme() == "http";
        same_privacy && (realm.origin() == asked.origin() || known || self.token_hosts.contains(&named))
    }
}

/// `host[:port]` of `url`, without the port that its scheme has anyway.
pub(super) fn authority_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether `authority` (`host[:port]`) is this machine in so many words.
pub(super) fn names_loopback(authority: &str) -> bool {
    Url::parse(&format!("https://{authority}/")).is_ok_and(|url| is_loopback(&url))
}

/// Whom to believe at the other end of a connection, and who we are there. Equal ones share connections.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<Trusted>);

#[derive(Debug, Default)]
struct Trusted {
    /// Certificates of any kind, and plain HTTP.
    lax: bool,
    /// Further certificate authorities, in PEM.
    roots: Vec<String>,
    /// Our certificate chain and its key, in PEM.
    identity: Option<Identity>,
    connect_timeout: Option<Duration>,
    /// Names all of the above: what connections are shared by.
    fingerprint: String,
}

#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub certificate: String,
    pub key: Secret,
}

impl Trust {
    /// Any certificate, or none at all.
    pub(super) fn nobody_in_particular() -> Trust {
        Trust::new(true, Vec::new(), None, None)
    }

    pub(super) fn new(
        lax: bool,
        roots: Vec<String>,
        identity: Option<Identity>,
        connect_timeout: Option<Duration>,
    ) -> Trust {
        let mut all = Fingerprint::default();
        all.add(if lax { "lax" } else { "strict" });
        all.add(roots.len().to_string());
        roots.iter().for_each(|root| all.add(root));
        for part in identity.iter().flat_map(|own| [own.certificate.as_str(), own.key.expose()]) {
            all.add(part);
        }
        all.add(format!("{connect_timeout:?}"));
        let fingerprint = all.finish();
        Trust(Arc::new(Trusted { lax, roots, identity, connect_timeout, fingerprint }))
    }

    /// The same towards somebody else: who we are is for the endpoint alone.
    pub(super) fn without_identity(&self) -> Trust {
        match self.0.identity {
            None => self.clone(),
            Some(_) => Trust::new(self.0.lax, self.0.roots.clone(), None, self.0.connect_timeout),
        }
    }

    pub(super) fn is_lax(&self) -> bool {
        self.0.lax
    }

    /// Whether nothing was configured: then less is enough on loopback.
    pub(super) fn is_default(&self) -> bool {
        !self.0.lax && self.0.roots.is_empty() && self.0.identity.is_none()
    }

    pub(super) fn roots(&self) -> &[String] {
        &self.0.roots
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }

    pub(super) fn connect_timeout(&self) -> Option<Duration> {
        self.0.connect_timeout
    }
}

/// The hash of several texts, of which none runs into the next.
#[derive(Default)]
struct Fingerprint(Sha256);

impl Fingerprint {
    fn add(&mut self, text: impl AsRef<[u8]>) {
        self.0.update((text.as_ref().len() as u64).to_be_bytes());
        self.0.update(text);
    }

    fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Trust) -> bool {
        self.0.fingerprint == other.0.fingerprint
    }
}

impl Eq for Trust {}

impl Hash for Trust {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.fingerprint.hash(state);
    }
}
