//! What every request passes: limits of its head, whom it is for, where it comes from; and what every answer gets:
//! a request id, security headers, one log line, its place in the metrics.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use tracing::{Instrument, Span, debug, debug_span, error, field, info, info_span, warn};

use super::error::{ApiError, Problem, method_not_allowed, no_such_path};
use super::hosts::{self, Hosts};
use super::ui::failure;
use crate::error::Error;
use crate::limits;
use crate::shutdown::panic_text;
use crate::telemetry::HttpMetrics;

/// What the guard needs to know.
#[derive(Clone)]
pub struct Guard {
    pub hosts: Hosts,
    pub metrics: HttpMetrics,
}

/// The id of a request: an extension of the request, the header `X-Request-Id` of its answer, the member
/// `request_id` of its problem, and in each of its log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What no answer goes without; a handler may set a stricter one of its own.
///
/// The referrer is sent within this site only. Not never: browsers would then send `Origin: null` with our own
/// forms as well, and those could not be told from foreign ones.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
             connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
];

/// Puts the guard around a finished router, its fallbacks included. To be called last: routes added later would
/// stand outside.
pub fn guarded(router: Router, guard: Guard) -> Router {
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::new(guard), watch))
}

async fn watch(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    // Reads are the hot path, and their lines name the request themselves: a span for each is for those who debug.
    let span = match request.method().is_safe() {
        true => debug_span!("request", request.id = %id, trace.id = field::Empty),
        false => info_span!("request", request.id = %id, trace.id = field::Empty),
    };
    if let Some(trace) = trace_id(request.headers()) {
        span.record("trace.id", trace);
    }
    let record = Record::begin(&guard, &request, id.clone(), span.clone());
    let is_head = request.method() == Method::HEAD;
    let asks_for_page = failure::asks_for_page(&request);
    request.extensions_mut().insert(RequestId(id.clone()));
    let answered = async {
        let mut response = match guard.admit(&request) {
            Ok(()) => run(request, next).await,
            Err(refusal) => refusal.into_response(),
        };
        if let Some(problem) = Problem::complete(&mut response, &id, &record.path) {
            log_cause(&problem, &id);
            if asks_for_page {
                failure::show(&mut response, &problem);
            }
        }
        response
    };
    let mut response = answered.instrument(span).await;
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, HeaderValue::from_str(&id).expect("the id is made of safe characters"));
    for (name, value) in SECURITY_HEADERS {
        headers.entry(name).or_insert(value);
    }
    record.leave(response, is_head)
}

impl Guard {
    /// Refuses what no handler shall see. The host comes before anything that could read or change something.
    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let uri = request.uri();
        let uri_bytes = uri.path().len() + uri.query().map_or(0, str::len);
        if uri_bytes > limits::URI_BYTES {
            return Err(ApiError::UriTooLong);
        }
        // Each line has a colon, a space and a line end besides.
        let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        if uri_bytes + lines.sum::<usize>() > limits::HEADER_BYTES {
            return Err(ApiError::HeadersTooLarge);
        }
        let host = self.hosts.admit(uri, request.headers())?;
        if !request.method().is_safe() {
            hosts::refuse_foreign_origin(&host, request.headers())?;
        }
        Ok(())
    }
}

/// Runs the handler; its panic is a failure of this request alone.
async fn run(request: Request, next: Next) -> Response {
    // A handler's half-done work is its own: what it shares with others is behind types that stay whole.
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|panic| {
        ApiError::Store(Error::internal(format!("a handler panicked: {}", panic_text(&*panic))))
            .into_response()
    })
}

/// The one place where the cause of a failed request is logged.
fn log_cause(problem: &Problem, id: &str) {
    let Some(cause) = &problem.cause else { return };
    let code = problem.code;
    match StatusCode::from_u16(problem.status) {
        Ok(StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY) => {
            warn!(code, request.id = id, "Request failed: {cause}")
        }
        Ok(_) | Err(_) => error!(code, request.id = id, "Request failed: {cause}"),
    }
}

/// The caller's `X-Request-Id` where it is short and harmless, else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let safe = |id: &&str| {
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@+-/=".contains(&byte);
        (1..=limits::REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(harmless)
    };
    if let Some(id) = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(safe) {
        return id.into();
    }
    // Random once for each process, then counted: no other server, and no other run of this one, makes the same.
    static RUN: LazyLock<u64> = LazyLock::new(|| u64::from_be_bytes(crate::id::random_bytes()));
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("req_{:016x}{:08x}", *RUN, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// The trace id of a valid `traceparent` (W3C Trace Context, section 3.2.2).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.splitn(5, '-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // A later version may have more parts; version 00 has not.
    let complete = parts.next().is_none() || version != "00";
    let hex = |part: &str, digits| {
        part.len() == digits && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    (complete && well_formed && version != "ff" && !zero(trace) && !zero(parent)).then_some(trace)
}

/// What is known of a request until its answer is sent.
struct Record {
    guard: Arc<Guard>,
    id: Arc<str>,
    began: Instant,
    method: Method,
    /// The template of the route, for metrics and log.
    route: Option<MatchedPath>,
    path: String,
    span: Span,
    /// Whether the answer has left, and so whether dropping this means it was sent or given up.
    left: bool,
}

impl Record {
    fn begin(guard: &Arc<Guard>, request: &Request, id: Arc<str>, span: Span) -> Record {
        guard.metrics.in_flight.inc();
        Record {
            guard: guard.clone(),
            id,
            began: Instant::now(),
            method: request.method().clone(),
            route: request.extensions().get().cloned(),
            path: request.uri().path().to_owned(),
            span,
            left: false,
        }
    }

    fn leave(mut self, response: Response, is_head: bool) -> Response {
        self.left = true;
        let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let expected = length.and_then(|text| text.parse().ok()).or(response.body().size_hint().exact());
        let status = response.status();
        response.map(|body| {
            let expected = if is_head { Some(0) } else { expected };
            Body::new(Answer { body, record: self, status, sent: 0, expected, ended: false })
        })
    }

    fn end(&self, status: StatusCode, sent: u64, outcome: Outcome) {
        let route = self.route.as_ref().map_or("none", MatchedPath::as_str);
        let elapsed = self.began.elapsed();
        self.guard.metrics.answered(&self.method, route, status.as_u16(), elapsed.as_secs_f64());
        self.guard.metrics.bytes_sent.inc_by(sent);
        let (method, path, status, id) = (&self.method, &self.path, status.as_u16(), &*self.id);
        let duration_ms = elapsed.as_millis() as u64;
        let outcome = outcome.as_str();
        let _entered = self.span.enter();
        if self.method.is_safe() && status < 400 {
            debug!(request.id = id, %method, route, status, duration_ms, size_bytes = sent, "Answered {method} `{path}`: {status}{outcome}");
        } else {
            info!(request.id = id, %method, route, status, duration_ms, size_bytes = sent, "Answered {method} `{path}`: {status}{outcome}");
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.guard.metrics.in_flight.dec();
        if !self.left {
            let _entered = self.span.enter();
            debug!(method = %self.method, "The client left before it was answered: `{}`", self.path);
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Sent,
    /// The client left, or the source of the bytes failed.
    Cut,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Sent => "",
            Outcome::Cut => ", cut short",
        }
    }
}

/// The body of an answer on its way, and its record, which ends with it.
struct Answer {
    body: Body,
    record: Record,
    status: StatusCode,
    sent: u64,
    expected: Option<u64>,
    ended: bool,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let span = self.record.span.clone();
        let _entered = span.enter();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.sent += frame.data_ref().map_or(0, Bytes::len) as u64,
            Poll::Ready(Some(Err(error))) => {
                warn!("An answer was cut short: {}", crate::error::with_causes(error));
            }
            Poll::Ready(None) => self.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let whole = self.ended || self.body.is_end_stream() || self.expected == Some(self.sent);
        let outcome = if whole { Outcome::Sent } else { Outcome::Cut };
        self.record.end(self.status, self.sent, outcome);
    }
}

#[cfg(test)]
mod tests;
