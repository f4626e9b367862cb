//! A registry's failures in our words. What is said never holds a URL's query or user information, a token, or
//! text of the peer's that was not checked: it ends up in job records, in logs and on pages.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use rustls::CertificateError;
use url::Url;

use crate::clock::Time;
use crate::error::{Error, Upstream, UpstreamKind};
use crate::limits;
use crate::registry::address::Refused;
use crate::registry::trace::cut;

/// `host[:port]` of `url`, as it may be shown.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("unknown host");
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    cut(&host, limits::UPSTREAM_HOST_BYTES)
}

pub(super) fn upstream(kind: UpstreamKind, url: &Url, reason: impl Into<String>) -> Error {
    let (host, reason) = (host_of(url), reason.into());
    Error::Upstream(Upstream { kind, host, reason, status: None, retry_after: None })
}

/// The answer breaks the protocol or lies.
pub(super) fn bad_answer(url: &Url, reason: impl Into<String>) -> Error {
    upstream(UpstreamKind::BadAnswer, url, reason)
}

/// The connection could not be made, or broke; or nothing proves who is at its other end.
pub(super) fn no_connection(url: &Url, error: &reqwest::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut innermost = String::new();
    while let Some(current) = cause {
        if let Some(refused) = current.downcast_ref::<Refused>() {
            return upstream(refused.kind(), url, refused.to_string());
        }
        if let Some(fault) = certificate_fault(current) {
            return upstream(UpstreamKind::Untrusted, url, fault);
        }
        if is_for_certificate(current) {
            return wants_certificate(url);
        }
        if speaks_no_tls(current) {
            let why = "what answers there does not speak TLS: for a registry with plain HTTP alone, `url: http://…` \
                       stands in its settings, or the pull says `--insecure`";
            return upstream(UpstreamKind::Unreachable, url, why);
        }
        cause = current.source();
        // The outermost text holds the URL; the innermost says what happened ("connection refused").
        if cause.is_none() {
            innermost = current.to_string();
        }
    }
    let innermost: String = innermost.chars().filter(|c| !c.is_control()).take(200).collect();
    let what = match error {
        _ if error.is_timeout() => "no connection in time".to_owned(),
        _ if std::error::Error::source(error).is_none() => "the connection broke".to_owned(),
        _ if error.is_connect() => format!("no connection: {innermost}"),
        _ => format!("the connection broke: {innermost}"),
    };
    upstream(UpstreamKind::Unreachable, url, what)
}

/// The refusal of a private address to which somebody of the Internet sends us: no setting of the operator's allows that.
pub(super) fn sent_by_stranger(error: Error) -> Error {
    match error {
        Error::Upstream(told) if told.kind == UpstreamKind::PrivateAddress => {
            let reason = format!("{}: a host of the Internet sends us there", told.reason);
            Error::Upstream(Upstream { kind: UpstreamKind::Forbidden, reason, ..told })
        }
        other => other,
    }
}

/// What is wrong with the peer's certificate, where this is what an error says.
fn certificate_fault(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let Some(rustls::Error::InvalidCertificate(fault)) = within(error).downcast_ref() else { return None };
    let why = match fault {
        CertificateError::UnknownIssuer => {
            "its certificate was issued by somebody whom this system does not trust"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock of this machine is wrong"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        CertificateError::Revoked => "its certificate was revoked",
        // There are rarer kinds, and may be more in a later version.
        other => return Some(format!("its certificate is not valid: {other}")),
    };
    Some(why.to_owned())
}

/// Who we are is asked for by TLS, and not answered well enough.
pub(super) fn wants_certificate(url: &Url) -> Error {
    upstream(UpstreamKind::CertificateWanted, url, "the registry wants a client certificate that it knows")
}

/// Whether the peer ends the connection for want of a certificate of ours, or of one that it takes.
pub(super) fn is_for_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::AlertDescription as Alert;
    let Some(rustls::Error::AlertReceived(alert)) = within(error).downcast_ref() else { return false };
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
}

/// Whether the peer was asked for TLS and speaks something else.
pub(super) fn speaks_no_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(within(error).downcast_ref(), Some(rustls::Error::InvalidMessage(_)))
}

/// Whether the peer broke off the handshake, as one does that wants to know who we are.
pub(super) fn ends_handshake(error: &std::io::Error) -> bool {
    let told = matches!(within(error).downcast_ref(), Some(rustls::Error::AlertReceived(_)));
    told || matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset)
}

/// What an I/O error was made of, which is not among its sources, and may be one again.
fn within<'e>(mut error: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    while let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        error = inner;
    }
    error
}

/// An answer with a status that is not success. `code` is the registry's own error code, already checked.
pub(super) fn refused_by(
    url: &Url,
    status: StatusCode,
    headers: &HeaderMap,
    code: Option<&str>,
    now: Time,
) -> Error {
    let retry_after = retry_after(headers, now);
    let (kind, words) = match status {
        StatusCode::UNAUTHORIZED => (UpstreamKind::Denied, "the registry wants credentials"),
        StatusCode::FORBIDDEN => (UpstreamKind::Denied, "the registry refuses access"),
        StatusCode::NOT_FOUND | StatusCode::GONE => (UpstreamKind::NotFound, "the registry does not have it"),
        StatusCode::TOO_MANY_REQUESTS => (UpstreamKind::RateLimited, "the registry limits our requests"),
        StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => {
            (UpstreamKind::RateLimited, "the registry asks to wait")
        }
        StatusCode::REQUEST_TIMEOUT => (UpstreamKind::Unreachable, "the registry gave up waiting"),
        status if status.is_server_error() => (UpstreamKind::ServerError, "the registry failed"),
        _ => (UpstreamKind::BadAnswer, "the registry gave an answer that makes no sense here"),
    };
    let number = status.as_u16();
    let reason = match code {
        Some(code) => format!("{words} (status {number}, {code})"),
        None => format!("{words} (status {number})"),
    };
    Error::Upstream(Upstream { kind, host: host_of(url), reason, status: Some(number), retry_after })
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3); nonsense is as if it were not there.
fn retry_after(headers: &HeaderMap, now: Time) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Time(date.as_microsecond()).since(now))
}

/// The error code of a registry's JSON body (distribution spec, "Error Codes"), if it is a plain word.
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        code: String,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    let code = body.errors.into_iter().next()?.code;
    let plain = !code.is_empty() && code.len() <= 64;
    (plain && code.bytes().all(|c| c.is_ascii_uppercase() || c == b'_')).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, retry_after: Option<&str>) -> Upstream {
        let url = Url::parse("https://user:secret@r.io:5000/v2/a?sig=secret").expect("a url");
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, value.parse().expect("a header"));
        }
        let now = "2026-11-21T10:00:00Z".parse().expect("a time");
        let status = StatusCode::from_u16(status).expect("a status");
        match refused_by(&url, status, &headers, Some("X_Y"), now) {
            Error::Upstream(upstream) => upstream,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn each_status_has_its_kind_and_never_a_secret() {
        for (status, kind) in [
            (401, UpstreamKind::Denied),
            (403, UpstreamKind::Denied),
            (404, UpstreamKind::NotFound),
            (408, UpstreamKind::Unreachable),
            (418, UpstreamKind::BadAnswer),
            (429, UpstreamKind::RateLimited),
            (500, UpstreamKind::ServerError),
            (502, UpstreamKind::ServerError),
            (503, UpstreamKind::ServerError),
        ] {
            let upstream = told(status, None);
            assert_eq!((upstream.kind, upstream.status), (kind, Some(status)));
            assert_eq!(upstream.host, "r.io:5000");
            assert!(!Error::Upstream(upstream).to_string().contains("secret"));
        }
    }

    #[test]
    fn a_wait_may_be_asked_for_in_seconds_or_as_a_date() {
        assert_eq!(told(429, Some("7")).retry_after, Some(Duration::from_secs(7)));
        let date = told(503, Some("Sat, 21 Nov 2026 10:01:00 GMT"));
        assert_eq!((date.kind, date.retry_after), (UpstreamKind::RateLimited, Some(Duration::from_secs(60))));
        assert_eq!(told(429, Some("Sat, 21 Nov 2026 09:00:00 GMT")).retry_after, Some(Duration::ZERO));
        assert_eq!(told(429, Some("soon")).retry_after, None);
        assert_eq!(told(429, Some("-1")).retry_after, None);
    }

    #[test]
    fn only_a_plain_error_code_is_repeated() {
        let code = |text: &str| error_code(text.as_bytes());
        assert_eq!(
            code(r#"{"errors":[{"code":"NAME_UNKNOWN","message":"x"}]}"#).as_deref(),
            Some("NAME_UNKNOWN")
        );
        for hostile in [
            "",
            "{}",
            r#"{"errors":[]}"#,
            r#"{"errors":[{"code":"<script>"}]}"#,
            r#"{"errors":[{"code":""}]}"#,
        ] {
            assert_eq!(code(hostile), None, "{hostile}");
        }
    }
}
