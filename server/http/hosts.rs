//! Whom a request is for, and which site sent it.
//!
//! A page of any site can make a browser send requests to `localhost`, and by pointing a name of its own at
//! 127.0.0.1 even read the answers (DNS rebinding). Where no token is asked for, these two checks are what stands
//! before it; where one is, they still keep foreign pages from using somebody's session.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};
use http::uri::Authority;
use http::{HeaderValue, Uri};

use super::error::ApiError;
use crate::config::Config;
use crate::error::Error;

/// The names this server goes by. A cheap clone.
#[derive(Debug, Clone)]
pub struct Hosts {
    listen: IpAddr,
    /// `Host` headers as most clients of this machine send them.
    usual: Arc<[String]>,
    names: Arc<[String]>,
    others: Others,
}

/// What becomes of names that were not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Refused,
    /// Every request needs a token, and nobody said under which names the server is reached: the `Host` of a
    /// rebound name protects nothing then, for the browser has no token for it.
    Admitted,
}

impl Hosts {
    pub fn of(config: &Config) -> Hosts {
        let listed = !config.allowed_hosts.is_empty();
        let others = match config.auth_required() && !config.listen.ip().is_loopback() && !listed {
            true => Others::Admitted,
            false => Others::Refused,
        };
        let usual = [config.listen.to_string(), format!("localhost:{}", config.listen.port())];
        let names = config.allowed_hosts.clone().into();
        Hosts { listen: config.listen.ip(), usual: usual.into(), names, others }
    }

    /// Whether the request names this server in one of the usual ways: those need not be taken apart to be known.
    pub fn is_usual(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::HOST).iter();
        match (uri.authority(), values.next(), values.next()) {
            (None, Some(host), None) => self.usual.iter().any(|usual| usual.as_bytes() == host.as_bytes()),
            (_, _, _) => false,
        }
    }

    /// The host, with its port, that the request is for.
    ///
    /// # Errors
    /// `Invalid` when there is none, or more than one; `Misdirected` when it is not one of ours.
    pub fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<Authority, ApiError> {
        let named = header_host(headers)?;
        // HTTP/2 and requests to a proxy carry it in the target, which then counts (RFC 9112, section 3.2.2).
        let host = match (uri.authority(), named) {
            (Some(target), Some(named)) if !target.as_str().eq_ignore_ascii_case(named.as_str()) => {
                return Err(Error::invalid_field("Host", "the Host header contradicts the target").into());
            }
            (Some(target), _) => target.clone(),
            (None, Some(named)) => named,
            (None, None) => return Err(Error::invalid_field("Host", "the Host header is missing").into()),
        };
        match self.is_ours(host.host()) {
            true => Ok(host),
            false => Err(ApiError::Misdirected { host: host.host().to_owned() }),
        }
    }

    /// Whatever the port: it may be forwarded from another.
    fn is_ours(&self, host: &str) -> bool {
        if self.others == Others::Admitted
            || host.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
        {
            return true;
        }
        // An address cannot be rebound: the page that names it was loaded from there.
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        literal.is_ok_and(|ip| ip.is_loopback() || ip == self.listen || self.listen.is_unspecified())
    }
}

fn header_host(headers: &HeaderMap) -> Result<Option<Authority>, ApiError> {
    let mut values = headers.get_all(header::HOST).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid_field("Host", "there is more than one Host header").into());
    }
    let parsed = Authority::try_from(value.as_bytes()).ok().filter(is_host_and_port);
    let unreadable = || Error::invalid_field("Host", "the Host header is not a host with a port").into();
    parsed.map(Some).ok_or_else(unreadable)
}

/// An authority may also carry a user, and its port need not be a number.
fn is_host_and_port(authority: &Authority) -> bool {
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
        None => false,
    }
}

/// Refuses a changing request that a page of another site made a browser send.
///
/// Browsers add `Origin` to every such request, and most of them `Sec-Fetch-Site`; other clients send neither.
///
/// # Errors
/// `Forbidden`.
pub fn refuse_foreign_origin(host: &Authority, headers: &HeaderMap) -> Result<(), ApiError> {
    const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let foreign = || {
        let reason =
            "a page of another site sent this request, and only this server's own pages may change something";
        Err(ApiError::Forbidden { reason: reason.to_owned() })
    };
    if headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site") {
        return foreign();
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(()),
        (Some(origin), None) if is_same_site(origin, host) => Ok(()),
        (Some(_), _) => foreign(),
    }
}

/// Whether the origin is of this host and port. The scheme does not count: a proxy may do the TLS.
fn is_same_site(origin: &HeaderValue, host: &Authority) -> bool {
    let Ok(origin) = Uri::try_from(origin.as_bytes()) else { return false };
    let (Some(scheme), Some(authority)) = (origin.scheme_str(), origin.authority()) else { return false };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let port = |of: &Authority| of.port_u16().unwrap_or(default_port);
    authority.host().eq_ignore_ascii_case(host.host()) && port(authority) == port(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(hosts: &Hosts, host: &str) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("header text"));
        let admitted = hosts.admit(&Uri::from_static("/"), &headers);
        admitted.map_or_else(|refusal| refusal.doc().status.as_u16(), |_| 200)
    }

    fn on(listen: &str, names: &[&str]) -> Hosts {
        let mut variables = vec![("ORLOP_LISTEN".into(), listen.into())];
        variables.push(("ORLOP_INSECURE_HTTP".into(), "true".into()));
        variables.push(("ORLOP_ALLOWED_HOSTS".into(), names.join(",").into()));
        let config = Config::load(&Default::default(), variables).expect("a configuration");
        Hosts::of(&config)
    }

    #[test]
    fn on_loopback_only_loopback_and_listed_names_are_ours() {
        let hosts = on("127.0.0.1:7070", &["store.example"]);
        for ours in
            ["localhost:7070", "LOCALHOST", "127.0.0.1:7070", "[::1]:1", "127.9.9.9", "Store.example:443"]
        {
            assert_eq!(admit(&hosts, ours), 200, "{ours}");
        }
        for foreign in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost,x"]
        {
            assert_eq!(admit(&hosts, foreign), 421, "{foreign}");
        }
        for broken in ["", "a b", "localhost:port", "me@localhost", "localhost/path"] {
            assert_eq!(admit(&hosts, broken), 400, "{broken:?}");
        }
    }

    #[test]
    fn in_public_any_name_is_ours_until_names_are_listed() {
        assert_eq!(admit(&on("0.0.0.0:7070", &[]), "whatever.example"), 200);
        let listed = on("0.0.0.0:7070", &["store.example"]);
        assert_eq!(admit(&listed, "store.example"), 200);
        assert_eq!(admit(&listed, "10.1.2.3:7070"), 200);
        assert_eq!(admit(&listed, "whatever.example"), 421);
    }

    #[test]
    fn one_host_and_one_only_must_be_named() {
        let hosts = on("127.0.0.1:7070", &[]);
        let status = |uri: &'static str, names: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(header::HOST, HeaderValue::from_static(name));
            }
            let admitted = hosts.admit(&Uri::from_static(uri), &headers);
            admitted.map_or_else(|refusal| refusal.doc().status.as_u16(), |_| 200)
        };
        assert_eq!(status("/", &[]), 400);
        assert_eq!(status("/", &["localhost", "localhost"]), 400);
        assert_eq!(status("http://localhost/", &[]), 200);
        assert_eq!(status("http://evil.example/", &["localhost"]), 400);
        assert_eq!(status("http://evil.example/", &["evil.example"]), 421);
    }

    #[test]
    fn only_our_own_pages_may_change_something() {
        let verdict = |host: &'static str, sent: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(*name, HeaderValue::from_static(value));
            }
            refuse_foreign_origin(&Authority::from_static(host), &headers).is_ok()
        };
        assert!(verdict("localhost:7070", &[]));
        assert!(verdict(
            "localhost:7070",
            &[("origin", "http://localhost:7070"), ("sec-fetch-site", "same-origin")]
        ));
        assert!(verdict("store.example", &[("origin", "https://Store.example")]));
        assert!(verdict("store.example:443", &[("origin", "https://store.example")]));
        for foreign in
            ["null", "http://localhost:3000", "https://evil.example", "localhost:7070", "file://", ""]
        {
            assert!(!verdict("localhost:7070", &[("origin", foreign)]), "{foreign}");
        }
        assert!(!verdict("localhost:7070", &[("sec-fetch-site", "cross-site")]));
        let two = [("origin", "http://localhost:7070"), ("origin", "http://localhost:7070")];
        assert!(!verdict("localhost:7070", &two));
    }
}
