//! What passed between us and the registries of one pull, for whoever wants to know. No secret is in it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Response;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use url::Url;

use crate::limits;
use crate::registry::challenge::Wanted;
use crate::registry::transport::shown;

/// Who is told of each request and of each change of plan; mostly nobody.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<Listening>>);

struct Listening {
    listener: Box<dyn Fn(Told) + Send + Sync>,
    /// The number of the next exchange.
    next: AtomicU64,
}

/// What is told.
#[derive(Debug, Clone)]
pub enum Told {
    /// A request and its answer.
    Exchange(Exchange),
    /// Nothing more is read of the body of an answer.
    Body(Received),
    /// An endpoint did not help, and another is asked.
    Fallback { from: String, to: String, reason: String },
}

/// One request, and the head of its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Its own among those of the trace.
    pub number: u64,
    pub method: String,
    /// Without user information, without the text of its query, and cut where it is longer than any that we make.
    pub url: String,
    /// The scheme of the credential that was sent, never the credential.
    pub authorization: Option<String>,
    /// The `Range` that was asked for.
    pub range: Option<String>,
    pub outcome: Outcome,
    /// Until the head of the answer.
    pub took: Duration,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Answered {
        status: u16,
        /// Headers that say how to go on, in the order of their names; never one that holds a secret.
        headers: Vec<(&'static str, String)>,
    },
    Failed {
        reason: String,
    },
}

/// How much came of the body of an answer.
#[derive(Debug, Clone)]
pub struct Received {
    /// Of the exchange that it belongs to.
    pub exchange: u64,
    pub bytes: u64,
    /// Why less of it was read than there is.
    pub cut: Option<String>,
}

/// Counts the bytes of a body, and tells of them when it is read no more. Of one that nobody begins to read nothing is told.
#[derive(Debug)]
pub(super) struct Counting {
    trace: Trace,
    exchange: u64,
    is_begun: bool,
    bytes: u64,
    cut: Option<String>,
}

impl Trace {
    /// Tells everything to `listener`, at once and in the middle of a request: it must not wait.
    pub fn to(listener: impl Fn(Told) + Send + Sync + 'static) -> Trace {
        Trace(Some(Arc::new(Listening { listener: Box::new(listener), next: AtomicU64::new(0) })))
    }

    pub const fn nobody() -> Trace {
        Trace(None)
    }

    /// Tells of the exchange, which is given a number; what counts the body of its answer.
    pub(super) fn tell(&self, exchange: impl FnOnce(u64) -> Exchange) -> Counting {
        let number = self.0.as_ref().map_or(0, |listening| {
            let number = listening.next.fetch_add(1, Ordering::Relaxed);
            (listening.listener)(Told::Exchange(exchange(number)));
            number
        });
        Counting { trace: self.clone(), exchange: number, is_begun: false, bytes: 0, cut: None }
    }

    pub(super) fn tell_fallback(&self, from: &str, to: &str, reason: impl fmt::Display) {
        if let Some(listening) = &self.0 {
            let (from, to, reason) = (from.to_owned(), to.to_owned(), reason.to_string());
            (listening.listener)(Told::Fallback { from, to, reason });
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Trace(on)" } else { "Trace(off)" })
    }
}

impl Counting {
    pub fn begin(&mut self) {
        self.is_begun = true;
        self.cut("nobody wanted the rest of it");
    }

    pub fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// It was read to its end.
    pub fn end(&mut self) {
        self.cut = None;
    }

    pub fn cut(&mut self, why: impl fmt::Display) {
        self.cut = Some(why.to_string());
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(listening) = self.trace.0.as_ref().filter(|_| self.is_begun) {
            let (exchange, bytes, cut) = (self.exchange, self.bytes, self.cut.take());
            (listening.listener)(Told::Body(Received { exchange, bytes, cut }));
        }
    }
}

impl Outcome {
    pub(super) fn answered(response: &Response) -> Outcome {
        const TOLD: [(&str, reqwest::header::HeaderName); 3] = [
            ("content-length", CONTENT_LENGTH),
            ("content-range", CONTENT_RANGE),
            ("retry-after", RETRY_AFTER),
        ];
        let found = TOLD.into_iter().filter_map(|(name, header)| {
            let text = response.headers().get(header)?.to_str().ok()?;
            Some((name, text.to_owned()))
        });
        let found = found.chain(told_challenge(response).map(|text| ("www-authenticate", text)));
        let cut = |(name, text): (_, String)| (name, cut(&text, limits::TRACE_HEADER_BYTES));
        Outcome::Answered { status: response.status().as_u16(), headers: found.map(cut).collect() }
    }
}

/// What the answer wants, as we understand it. The header itself may hold a URL with a secret in it.
fn told_challenge(response: &Response) -> Option<String> {
    let lines = response.headers().get_all(WWW_AUTHENTICATE);
    lines.iter().next()?;
    Some(match Wanted::from_headers(lines.iter().filter_map(|line| line.to_str().ok())) {
        Wanted::Bearer { realm, service, scope } => {
            let realm = Url::parse(&realm).map_or_else(|_| "not a URL".to_owned(), |url| shown(&url));
            let service = service.map(|service| format!(",service=\"{service}\"")).unwrap_or_default();
            let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
            format!("Bearer realm=\"{realm}\"{service}{scope}")
        }
        Wanted::Basic => "Basic".to_owned(),
        Wanted::Unknown => "of a kind that is not known".to_owned(),
    })
}

/// A stranger's text without control characters, of at most so many bytes; what was cut off ends with `…`.
pub(super) fn cut(text: &str, longest_bytes: usize) -> String {
    const MORE: char = '…';
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if text.len() <= longest_bytes {
        return text;
    }
    let end = text.floor_char_boundary(longest_bytes - MORE.len_utf8());
    format!("{}{MORE}", &text[..end])
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)?;
        self.range.iter().try_for_each(|range| write!(f, " [{range}]"))?;
        self.authorization.iter().try_for_each(|scheme| write!(f, " ({scheme})"))?;
        match &self.outcome {
            Outcome::Answered { status, headers } => {
                write!(f, " → {status}")?;
                headers.iter().try_for_each(|(name, value)| write!(f, ", {name}: {value}"))?;
            }
            Outcome::Failed { reason } => write!(f, " → {reason}")?,
        }
        write!(f, " in {} ms", self.took.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(challenge: &str) -> String {
        let answer = http::Response::builder().status(401).header("WWW-Authenticate", challenge);
        let response = Response::from(answer.body(Vec::new()).expect("an answer"));
        match Outcome::answered(&response) {
            Outcome::Answered { headers, .. } => headers[0].1.clone(),
            Outcome::Failed { reason } => panic!("{reason}"),
        }
    }

    #[test]
    fn a_challenge_is_told_without_the_secrets_of_its_realm() {
        let bearer = r#"Bearer realm="https://u:s3cret@a.io/token?key=s3cret",service="r.io",scope="repository:a:pull""#;
        let expected = r#"Bearer realm="https://a.io/token?…",service="r.io",scope="repository:a:pull""#;
        assert_eq!(told(bearer), expected);
        assert_eq!(told("Basic realm=\"s3cret\""), "Basic");
        assert_eq!(told("Bearer realm=\"s3cret\""), "Bearer realm=\"not a URL\"");
        assert_eq!(told("Negotiate s3cret"), "of a kind that is not known");
    }

    #[test]
    fn what_a_stranger_says_is_cut() {
        let long = "é".repeat(60_000);
        let url = Url::parse(&format!("https://u:p@{}/{long}?{long}", "a".repeat(300))).expect("a URL");
        assert_eq!(shown(&url).len(), 1024);
        assert_eq!(crate::registry::failure::host_of(&url).len(), 255);
        let realm = "a".repeat(900);
        let answered = told(&format!("Bearer realm=\"https://{realm}\""));
        assert!(answered.len() <= limits::TRACE_HEADER_BYTES && answered.ends_with('…'), "{answered}");
        assert_eq!(cut("aéa\n", 4), "aéa");
        assert_eq!(cut("aéaéa", 5), "a…");
    }
}
