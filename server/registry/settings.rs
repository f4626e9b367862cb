//! What an operator says of a registry: its hosts in order, what each may be asked for, whom to trust there, who we
//! are. The same values come from the API and from hosts files.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::{Error, Result};
use crate::limits;
use crate::oci::Reference;
use crate::registry::address::AddressPolicy;
use crate::registry::credential::{Credential, Secret};
use crate::registry::endpoint::{
    API_PATH, Capability, Endpoint, Identity, Scheme, Trust, authority_of, names_loopback,
};
use crate::registry::transport::has_user_info;

/// Headers that are ours to write: what they say decides how an answer is read.
const OUR_HEADERS: [&str; 11] = [
    "host",
    "range",
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "upgrade",
    "expect",
];

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrySettings {
    /// The registry itself, asked last.
    pub server: HostSettings,
    /// Asked before it, in this order.
    #[serde(default)]
    pub mirrors: Vec<HostSettings>,
}

/// One host that speaks for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSettings {
    /// `https://host[:port][/path]`; `None`: the registry's own host, by HTTPS.
    pub url: Option<Url>,
    pub capabilities: BTreeSet<Capability>,
    /// Certificate authorities in PEM, trusted beside the system's.
    pub ca: Vec<String>,
    pub client: Option<ClientCertificate>,
    pub skip_verify: bool,
    /// Sent with each request to this host.
    pub headers: BTreeMap<String, Vec<Secret>>,
    /// Whether the URL's path is the API's, without `/v2` after it.
    pub override_path: bool,
    pub connect_timeout: Option<Duration>,
    pub credential: Option<Credential>,
    /// `host[:port]` of token servers that may have the credential, beside the host itself.
    pub token_hosts: Vec<String>,
}

/// Who we are to a host that wants to know by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The chain, in PEM.
    pub certificate: String,
    /// In PEM.
    pub key: Secret,
}

impl Default for HostSettings {
    fn default() -> HostSettings {
        HostSettings {
            url: None,
            capabilities: Capability::ALL.into(),
            ca: Vec::new(),
            client: None,
            skip_verify: false,
            headers: BTreeMap::new(),
            override_path: false,
            connect_timeout: None,
            credential: None,
            token_hosts: Vec::new(),
        }
    }
}

impl RegistrySettings {
    /// # Errors
    /// `Invalid` with the field; no secret is repeated.
    pub fn check(self) -> Result<RegistrySettings> {
        let within = |count: usize, limit: usize, field: &str| match count > limit {
            true => Err(Error::invalid_field(field, format!("at most {limit} are taken"))),
            false => Ok(()),
        };
        within(self.mirrors.len(), limits::REGISTRY_MIRRORS, "mirrors")?;
        for (host, field) in std::iter::once((&self.server, "server".to_owned()))
            .chain(self.mirrors.iter().enumerate().map(|(at, host)| (host, format!("mirrors[{at}]"))))
        {
            host.check(&field)?;
        }
        match self.mirrors.iter().position(|mirror| mirror.url.is_none()) {
            Some(at) => Err(Error::invalid_field(format!("mirrors[{at}].url"), "a mirror needs its URL")),
            None => Ok(self),
        }
    }

    /// The same for what stands under `_default`, which is for any host that a reference may name: a secret for the
    /// registry's own host would be for whoever is named there.
    ///
    /// # Errors
    /// `Invalid` with the field.
    pub fn check_for_all(&self) -> Result<()> {
        let server = &self.server;
        let secret = match () {
            () if server.url.is_some() => return Ok(()),
            () if server.credential.is_some() => "server.credential",
            () if !server.headers.is_empty() => "server.headers",
            () if server.client.is_some() => "server.client_certificate",
            () => return Ok(()),
        };
        let why = "in settings for every registry it would go to any host that a pull names: write it down under \
                   the registry that it is for, or give the `url` of the one host that is asked for all";
        Err(Error::invalid_field(secret, why))
    }

    /// The endpoints for `reference`: mirrors first. Whoever configured a host says with it that it may be contacted,
    /// also where it is private; the registry's own host, if nobody wrote it down, is held to `addresses`.
    pub fn endpoints(&self, reference: &Reference, addresses: AddressPolicy, named: bool) -> Vec<Endpoint> {
        let own = if named || self.server.url.is_some() { AddressPolicy::Private } else { addresses };
        let mirrors = self.mirrors.iter().map(|host| host.endpoint(reference, AddressPolicy::Private));
        let judged = |endpoint| Endpoint { sends_to: addresses, ..endpoint };
        let mut server = self.server.endpoint(reference, own);
        // Settings that were written before this was refused may still say so.
        if !named && self.server.url.is_none() {
            server.withhold_secrets("credentials that are configured for every registry are sent to none");
        }
        mirrors.chain([server]).map(judged).collect()
    }
}

impl HostSettings {
    /// Whether they are for `authority` (`host[:port]`) itself, which they are named after, and for no host in its stead.
    pub fn are_for(&self, authority: &str) -> bool {
        self.url.as_ref().is_none_or(|url| authority_of(url) == authority)
    }

    fn check(&self, field: &str) -> Result<()> {
        let wrong = |part: &str, why: &str| Err(Error::invalid_field(format!("{field}.{part}"), why));
        if let Some(url) = &self.url
            && (!matches!(url.scheme(), "http" | "https")
                || !url.has_host()
                || has_user_info(url)
                || url.query().is_some()
                || url.fragment().is_some())
        {
            return wrong("url", "a host is https://host[:port][/path], or http:// for plain HTTP");
        }
        if self.capabilities.is_empty() {
            return wrong("capabilities", "a host that may be asked for nothing is no host: leave it out");
        }
        let pem = |text: &str| {
            reqwest::Certificate::from_pem_bundle(text.as_bytes())
                .is_ok_and(|all| !all.is_empty() && speaks_tls(|client| client.tls_certs_only(all)))
        };
        if self.ca.iter().any(|text| text.len() > limits::PEM_BYTES || !pem(text)) {
            return wrong("ca", "this is not a certificate in PEM");
        }
        if let Some(own) = &self.client {
            let both = format!("{}\n{}", own.certificate, own.key.expose());
            let pair = |text: &str| {
                reqwest::Identity::from_pem(text.as_bytes())
                    .is_ok_and(|own| speaks_tls(|client| client.tls_certs_only([]).identity(own)))
            };
            if both.len() > limits::PEM_BYTES || !pair(&both) {
                if is_of_version_1(&own.certificate) {
                    let why = "an X.509 certificate of version 1 is not taken: make one of version 3";
                    return wrong("client_certificate", why);
                }
                return wrong("client_certificate", "these are not a certificate and its own key in PEM");
            }
        }
        if self.headers.values().map(Vec::len).sum::<usize>() > limits::REGISTRY_HEADERS {
            return wrong("headers", "too many headers");
        }
        for (name, values) in &self.headers {
            let named = HeaderName::from_bytes(name.as_bytes())
                .is_ok_and(|name| !OUR_HEADERS.contains(&name.as_str()));
            if !named {
                return wrong("headers", "a name that is no header's, or of a header that is ours to write");
            }
            let bad = |value: &Secret| {
                value.expose().len() > limits::REGISTRY_HEADER_BYTES
                    || HeaderValue::from_str(value.expose()).is_err()
            };
            if values.iter().any(bad) {
                return wrong("headers", "a value that no header can carry");
            }
        }
        if self.connect_timeout.is_some_and(|time| time.is_zero() || time > limits::REGISTRY_CONNECT_TIME) {
            return wrong(
                "connect_timeout",
                "a connection is given more than no time, and up to five minutes",
            );
        }
        if self.token_hosts.len() > limits::REGISTRY_TOKEN_HOSTS
            || self.token_hosts.iter().any(|name| !is_authority(name))
        {
            return wrong("token_hosts", "a token host is host or host:port, in lower case");
        }
        match &self.credential {
            Some(credential) => {
                credential.clone().check().map(drop).map_err(|e| e.in_field(&format!("{field}.credential")))
            }
            None => Ok(()),
        }
    }

    fn endpoint(&self, reference: &Reference, addresses: AddressPolicy) -> Endpoint {
        let own = reference.api_host();
        let authority = self.url.as_ref().map_or_else(|| own.to_owned(), authority_of);
        let identity = self.client.as_ref();
        let identity =
            identity.map(|own| Identity { certificate: own.certificate.clone(), key: own.key.clone() });
        let plain = self.url.as_ref().is_some_and(|url| url.scheme() == "http");
        let nothing_of_tls = self.ca.is_empty() && identity.is_none() && !self.skip_verify;
        let trust = match nothing_of_tls && self.connect_timeout.is_none() {
            true => Trust::default(),
            false => Trust::new(self.skip_verify, self.ca.clone(), identity, self.connect_timeout),
        };
        // Whoever says how TLS is done there means TLS.
        let unsaid = self.url.is_none() && nothing_of_tls && names_loopback(&authority);
        let scheme = match plain {
            true if nothing_of_tls => Scheme::Http,
            true => Scheme::Either,
            false if unsaid => Scheme::Either,
            false => Scheme::Https,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in
            self.headers.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one)))
        {
            let pair = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.expose()));
            // Settings are checked before they are kept; what another version wrote is left out.
            if let (Ok(name), Ok(mut value)) = pair {
                value.set_sensitive(true);
                headers.append(name, value);
            }
        }
        Endpoint {
            mirrored: (authority != own).then(|| reference.host().to_owned()),
            path: self.path(),
            authority,
            scheme,
            plain,
            capabilities: self.capabilities.clone(),
            trust,
            headers,
            credential: self.credential.clone(),
            withheld: None,
            token_hosts: self.token_hosts.clone(),
            addresses,
            sends_to: AddressPolicy::Public,
        }
    }

    /// As containerd makes it: the URL's path, with `/v2` after it unless it is there or the path overrides it.
    fn path(&self) -> String {
        let path = self.url.as_ref().map_or("", |url| url.path().trim_end_matches('/'));
        if self.override_path || path.ends_with(API_PATH) {
            path.to_owned()
        } else {
            format!("{path}{API_PATH}")
        }
    }
}

/// Whether a client can be made of it. That a text is PEM says nothing of what is in it, nor that two belong together.
fn speaks_tls(with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> bool {
    with(reqwest::Client::builder().no_proxy()).build().is_ok()
}

/// Whether the first certificate of a text in PEM says no version (RFC 5280, section 4.1.2.1): then it is of the first one, which
/// TLS is not spoken with here. Some tools make no better one unless they are told what is to be in it.
fn is_of_version_1(text: &str) -> bool {
    const VERSION: u8 = 0xa0;
    let first = CertificateDer::pem_slice_iter(text.as_bytes()).flatten().next();
    let fields = first.as_deref().and_then(within_sequence).and_then(within_sequence);
    fields.is_some_and(|fields| fields.first() != Some(&VERSION))
}

/// What a sequence in DER has in it, and what comes after.
fn within_sequence(der: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    let (length, rest) = der.strip_prefix(&[SEQUENCE])?.split_first()?;
    // Of a long length the first byte says how many more it has.
    rest.get(if *length < 0x80 { 0 } else { usize::from(length & 0x7f) }..)
}

/// Whether `text` is `host[:port]` as a URL would write it.
fn is_authority(text: &str) -> bool {
    Url::parse(&format!("https://{text}/")).is_ok_and(|url| authority_of(&url) == text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `openssl x509 -req` makes when nothing else is asked for, with its key.
    pub const VERSION_1: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBJzCBzQIUYlT7TK3SybD3pq2gM/Q50RYvzZowCgYIKoZIzj0EAwIwFTETMBEG\n\
        A1UEAwwKb3Jsb3AtdGVzdDAgFw0yNjExMjIwNjU2NTJaGA8yMTI2MTAyOTA2NTY1\n\
        MlowFTETMBEGA1UEAwwKb3Jsb3AtdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEH\n\
        A0IABLsn4eLnpAdDI6SHRjnbbjAMwduwKsT0u7ZSHilFcAnT1Q2EtFO+Elkd67DS\n\
        oWLJfudQHJ/OMIi+rx7/Whqn44wwCgYIKoZIzj0EAwIDSQAwRgIhAMP9pJQZxW8R\n\
        TM/ZS5+AohqXsil8r9OclCJZ7RAcM7k4AiEAmxO65UpfD3dy3eHsfdsheUGOVfWD\n\
        86xourwtdQ2e1vs=\n\
        -----END CERTIFICATE-----\n";
    pub const KEY_OF_VERSION_1: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUZca86X0pwHCR2uX\n\
        bZpIbwUdgJdFbF7Pw+Tu2snM8wuhRANCAAS7J+Hi56QHQyOkh0Y5224wDMHbsCrE\n\
        9Lu2Uh4pRXAJ09UNhLRTvhJZHeuw0qFiyX7nUByfzjCIvq8e/1oap+OM\n\
        -----END PRIVATE KEY-----\n";

    fn host(url: &str) -> HostSettings {
        HostSettings { url: Some(url.parse().expect(url)), ..HostSettings::default() }
    }

    fn of(server: HostSettings, mirrors: Vec<HostSettings>) -> RegistrySettings {
        RegistrySettings { server, mirrors }
    }

    #[test]
    fn mirrors_come_first_and_are_told_for_whom_they_speak() {
        let reference = "alpine".parse().expect("alpine");
        let settings = of(
            HostSettings::default(),
            vec![host("https://mirror.example.com"), host("http://10.0.0.1:5000/hub")],
        );
        let settings = settings.check().expect("good settings");
        let endpoints = settings.endpoints(&reference, AddressPolicy::Public, false);
        let urls: Vec<_> = endpoints
            .iter()
            .map(|e| {
                e.url(if e.is_plain() { "http" } else { "https" }, "library/alpine/x")
                    .expect("a URL")
                    .to_string()
            })
            .collect();
        assert_eq!(
            urls,
            [
                "https://mirror.example.com/v2/library/alpine/x?ns=docker.io",
                "http://10.0.0.1:5000/hub/v2/library/alpine/x?ns=docker.io",
                "https://registry-1.docker.io/v2/library/alpine/x",
            ]
        );
        let may_be_private: Vec<_> =
            endpoints.iter().map(|e| e.addresses == AddressPolicy::Private).collect();
        assert_eq!(may_be_private, [true, true, false]);
    }

    #[test]
    fn a_secret_for_every_registry_is_for_none() {
        let reference = "evil.example/x".parse().expect("a reference");
        let (key, certificate) = pair();
        let client = Some(ClientCertificate { certificate, key: Secret::new(key) });
        let credential = Some(Credential::RegistryToken { token: Secret::new("s3cret") });
        let headers: BTreeMap<_, _> = [("X-Key".to_owned(), vec![Secret::new("s3cret")])].into();
        let own = HostSettings::default;
        for (server, field) in [
            (HostSettings { credential: credential.clone(), ..own() }, "server.credential"),
            (HostSettings { headers, ..own() }, "server.headers"),
            (HostSettings { client, ..own() }, "server.client_certificate"),
        ] {
            let settings = of(server, Vec::new()).check().expect("good settings of one registry");
            let Err(Error::Invalid(refused)) = settings.check_for_all() else { panic!("{field} is taken") };
            assert_eq!(refused.field.as_deref(), Some(field));
            let endpoints = settings.endpoints(&reference, AddressPolicy::Public, false);
            let [there] = &endpoints[..] else { panic!("one host: {endpoints:?}") };
            assert!(
                there.credential.is_none() && there.headers.is_empty() && there.trust.identity().is_none()
            );
            assert!(there.withheld.is_some());
        }
        let proxy = HostSettings { credential, ..host("https://proxy.example.com") };
        let settings = of(proxy, Vec::new());
        settings.check_for_all().expect("one host for all");
        assert!(settings.endpoints(&reference, AddressPolicy::Public, false)[0].credential.is_some());
        of(HostSettings { skip_verify: true, ..own() }, Vec::new()).check_for_all().expect("no secret");
    }

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["r.io".to_owned()]).expect("params");
        (key.serialize_pem(), params.self_signed(&key).expect("a certificate").pem())
    }

    #[test]
    fn a_path_is_completed_unless_it_overrides() {
        for (url, overrides, path) in [
            ("https://r.io", false, "/v2"),
            ("https://r.io/", true, ""),
            ("https://r.io/v2/proxy", false, "/v2/proxy/v2"),
            ("https://r.io/v2/proxy", true, "/v2/proxy"),
            ("https://r.io/hub/v2/", false, "/hub/v2"),
        ] {
            let host = HostSettings { override_path: overrides, ..host(url) };
            assert_eq!(host.path(), path, "{url} {overrides}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_field_and_without_its_secret() {
        let field = |settings: RegistrySettings| match settings.check() {
            Err(Error::Invalid(invalid)) => {
                assert!(!invalid.reason.contains("s3cret"), "{}", invalid.reason);
                invalid.field.expect("a field")
            }
            other => panic!("{other:?}"),
        };
        let server = |host: HostSettings| of(host, Vec::new());
        for bad in ["ftp://r.io", "https://u:s3cret@r.io", "https://r.io/?s3cret", "https://r.io/#x"] {
            assert_eq!(field(server(host(bad))), "server.url", "{bad}");
        }
        let own = HostSettings::default;
        let with = |name: &str, value: &str| HostSettings {
            headers: [(name.to_owned(), vec![Secret::new(value)])].into(),
            ..own()
        };
        for bad in [with("Range", "bytes=0-"), with("X Y", "s3cret"), with("X-Y", "s3cret\r\nZ: 1")] {
            assert_eq!(field(server(bad)), "server.headers");
        }
        assert_eq!(field(server(HostSettings { ca: vec!["s3cret".into()], ..own() })), "server.ca");
        let client = ClientCertificate { certificate: "x".into(), key: Secret::new("s3cret") };
        assert_eq!(
            field(server(HostSettings { client: Some(client), ..own() })),
            "server.client_certificate"
        );
        assert_eq!(field(server(HostSettings { capabilities: [].into(), ..own() })), "server.capabilities");
        for bad in ["https://auth.example.com", "Auth.example.com", "a/b", "a:443", ""] {
            let host = HostSettings { token_hosts: vec![bad.into()], ..own() };
            assert_eq!(field(server(host)), "server.token_hosts", "{bad}");
        }
        let credential =
            Some(Credential::Password { username: "a:b".into(), password: Secret::new("s3cret") });
        assert_eq!(field(server(HostSettings { credential, ..own() })), "server.credential");
        assert_eq!(field(of(own(), vec![own()])), "mirrors[0].url");
        assert_eq!(field(of(own(), vec![host("https://a"); limits::REGISTRY_MIRRORS + 1])), "mirrors");
    }

    #[test]
    fn what_tls_cannot_be_spoken_with_is_refused() {
        let pair = || rcgen::generate_simple_self_signed(["r.io".to_owned()]).expect("a certificate");
        let (one, other) = (pair(), pair());
        let field = |host: HostSettings| match of(host, Vec::new()).check() {
            Ok(_) => None,
            Err(Error::Invalid(invalid)) => invalid.field,
            Err(other) => panic!("{other}"),
        };
        let client = |key: &rcgen::KeyPair| {
            let key = Secret::new(key.serialize_pem());
            HostSettings {
                client: Some(ClientCertificate { certificate: one.cert.pem(), key }),
                ..HostSettings::default()
            }
        };
        assert_eq!(field(client(&one.signing_key)), None);
        assert_eq!(field(client(&other.signing_key)).as_deref(), Some("server.client_certificate"));
        let ca = |text: String| HostSettings { ca: vec![text], ..HostSettings::default() };
        assert_eq!(field(ca(one.cert.pem())), None);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(field(ca(broken.to_owned())).as_deref(), Some("server.ca"));
    }

    #[test]
    fn a_certificate_of_version_1_is_told_from_what_is_none() {
        let client =
            ClientCertificate { certificate: VERSION_1.to_owned(), key: Secret::new(KEY_OF_VERSION_1) };
        let settings = of(HostSettings { client: Some(client), ..HostSettings::default() }, Vec::new());
        let Err(Error::Invalid(refused)) = settings.check() else { panic!("it is taken") };
        assert_eq!(refused.field.as_deref(), Some("server.client_certificate"));
        let why = "an X.509 certificate of version 1 is not taken: make one of version 3";
        assert_eq!(refused.reason, why);
        let ca = HostSettings { ca: vec![VERSION_1.to_owned()], ..HostSettings::default() };
        of(ca, Vec::new()).check().expect("an authority may be as old");
    }

    #[test]
    fn settings_survive_their_own_json() {
        let mut server = host("https://r.io:5000");
        server.headers.insert("X-Key".into(), vec![Secret::new("s3cret")]);
        server.credential = Some(Credential::IdentityToken { token: Secret::new("s3cret") });
        let settings = of(server, vec![host("http://m.io")]);
        let text = serde_json::to_string(&settings).expect("JSON");
        assert_eq!(serde_json::from_str::<RegistrySettings>(&text).expect("its own JSON"), settings);
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
