//! What every request passes: limits of its head, whom it is for, where it comes from; and what every answer gets:
//! a request id, security headers, one log line, its place in the metrics.

use std::any::Any;
use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use tracing::{Instrument, Span, debug, debug_span, error, field, info, info_span, warn};

use super::error::{ApiError, Problem, method_not_allowed, no_such_path};
use super::hosts::{self, Hosts};
use super::serve::{Answering, Peer};
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

/// What a request is known by: an extension of it. The id is also the header `X-Request-Id` of its answer, the member
/// `request_id` of its problem, and in each of its log lines.
#[derive(Debug)]
pub struct Trail {
    pub id: String,
    /// The template of the route, for metrics and log; written where the route is found.
    route: OnceLock<Cow<'static, str>>,
}

impl Trail {
    /// Writes down which route the request takes.
    pub fn note(&self, route: Cow<'static, str>) {
        let _ = self.route.set(route);
    }

    fn route(&self) -> &Cow<'static, str> {
        const NONE: &Cow<'static, str> = &Cow::Borrowed("none");
        self.route.get().unwrap_or(NONE)
    }
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What no answer goes without; a handler may set a stricter one of its own.
///
/// The referrer is sent within this site only. Not never: browsers would then send `Origin: null` with our own
/// forms as well, and those could not be told from foreign ones.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
             connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
];

/// What stands within the guard.
pub trait Inner: Send + Sync + 'static {
    fn answer(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// The answer, where nothing has to be waited for: without a future, and without moving the request.
    fn answer_at_once(&self, _request: &Request, _trail: &Trail) -> Option<Response> {
        None
    }
}

/// Gives an answer each of them that it has not.
pub fn secure(headers: &mut HeaderMap) {
    for (name, value) in SECURITY_HEADERS {
        headers.entry(name).or_insert(value);
    }
}

/// Whether [`secure`] was here: nobody else writes this one.
fn is_secured(headers: &HeaderMap) -> bool {
    headers.contains_key(&CROSS_ORIGIN_RESOURCE_POLICY)
}

/// What is served, within its guard. A plain call, not a layer of the router: every layer there costs each request two
/// boxes.
pub struct Guarded<I> {
    guard: Arc<Guard>,
    inner: I,
}

impl<I: Inner> Guarded<I> {
    pub fn new(inner: I, guard: Guard) -> Guarded<I> {
        Guarded { guard: Arc::new(guard), inner }
    }
}

/// Makes a router ready for its guard: what it does not know is a problem too, and each request notes its route.
pub fn finished(router: Router) -> Router {
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(note_route))
}

async fn note_route(request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    if let (Some(trail), Some(matched)) = (extensions.get::<Arc<Trail>>(), extensions.get::<MatchedPath>()) {
        trail.note(Cow::Owned(matched.as_str().to_owned()));
    }
    next.run(request).await
}

impl<I: Inner> Answering for Guarded<I> {
    type Body = Answer;

    async fn answer(self: Arc<Self>, mut request: Request, peer: Peer) -> http::Response<Answer> {
        let trail = Arc::new(Trail { id: request_id(request.headers()), route: OnceLock::new() });
        // Reads are the hot path, and their lines name the request themselves: a span for each is for those who debug.
        let span = match request.method().is_safe() {
            true => debug_span!("request", request.id = %trail.id, trace.id = field::Empty),
            false => info_span!("request", request.id = %trail.id, trace.id = field::Empty),
        };
        if !span.is_disabled()
            && let Some(trace) = trace_id(request.headers())
        {
            span.record("trace.id", trace);
        }
        let mut record = Record::begin(self.guard.clone(), &request, trail.clone(), span.clone());
        let is_head = request.method() == Method::HEAD;
        let asks_for_page = failure::asks_for_page(&request);
        let at_once = span.in_scope(|| match record.guard.admit(&request) {
            Ok(()) => catch(|| self.inner.answer_at_once(&request, &trail)),
            Err(refusal) => Some(refusal.into_response()),
        });
        let mut response = match at_once {
            Some(response) => {
                record.target = std::mem::take(request.uri_mut());
                response
            }
            // In a box, so that the answers above do not carry the room for it about.
            None => {
                record.target = request.uri().clone();
                request.extensions_mut().insert(peer);
                request.extensions_mut().insert(trail.clone());
                Box::pin(run(request, &self.inner).instrument(span.clone())).await
            }
        };
        if let Some(problem) = Problem::complete(&mut response, &trail.id, record.target.path()) {
            let _entered = span.enter();
            log_cause(&problem, &trail.id);
            name_methods_once(response.headers_mut());
            if asks_for_page && failure::is_for_people(trail.route.get().map(|route| &**route)) {
                failure::show(&mut response, &problem);
            }
            if is_head {
                // HTTP/2 would send it.
                let length = response.body().size_hint().exact().unwrap_or_default();
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
                *response.body_mut() = Body::empty();
            }
        }
        let headers = response.headers_mut();
        let id = HeaderValue::from_str(&trail.id).expect("the id is made of safe characters");
        headers.insert(X_REQUEST_ID, id);
        if !is_secured(headers) {
            secure(headers);
        }
        record.leave(response, is_head)
    }
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
        if request.method().is_safe() && self.hosts.is_usual(uri, request.headers()) {
            return Ok(());
        }
        let host = self.hosts.admit(uri, request.headers())?;
        if !request.method().is_safe() {
            hosts::refuse_foreign_origin(&host, request.headers())?;
        }
        Ok(())
    }
}

/// Runs the handler; its panic is a failure of this request alone.
async fn run(request: Request, inner: &impl Inner) -> Response {
    // A handler's half-done work is its own: what it shares with others is behind types that stay whole.
    AssertUnwindSafe(inner.answer(request)).catch_unwind().await.unwrap_or_else(failed_by)
}

fn catch(handler: impl FnOnce() -> Option<Response>) -> Option<Response> {
    std::panic::catch_unwind(AssertUnwindSafe(handler)).unwrap_or_else(|panic| Some(failed_by(panic)))
}

fn failed_by(panic: Box<dyn Any + Send>) -> Response {
    ApiError::Store(Error::internal(format!("a handler panicked: {}", panic_text(&*panic)))).into_response()
}

/// Makes `Allow` name each method once: the router counts HEAD to GET, and names it again where it has a route of its own.
fn name_methods_once(headers: &mut HeaderMap) {
    let Some(allow) = headers.get(header::ALLOW).and_then(|allow| allow.to_str().ok()) else { return };
    let mut methods: Vec<&str> = Vec::new();
    for method in allow.split(',') {
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    let once = HeaderValue::try_from(methods.join(",")).expect("it was one before");
    headers.insert(header::ALLOW, once);
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
fn request_id(headers: &HeaderMap) -> String {
    let safe = |id: &&str| {
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@+-/=".contains(&byte);
        (1..=limits::REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(harmless)
    };
    if let Some(id) = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(safe) {
        return id.to_owned();
    }
    // Random once for each process, then counted: no other server, and no other run of this one, makes the same.
    static RUN: LazyLock<u64> = LazyLock::new(|| u64::from_be_bytes(crate::id::random_bytes()));
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (run, next) = (RUN.to_be_bytes(), NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    // Not by `format!`, which costs each request more than its routing. Five bytes count to a trillion.
    let mut id = *b"req_00000000000000000000000000";
    for (place, byte) in id[4..].chunks_exact_mut(2).zip(run.iter().chain(&next[3..])) {
        place.copy_from_slice(&[byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
    str::from_utf8(&id).expect("hexadecimal digits").to_owned()
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
    trail: Arc<Trail>,
    began: Instant,
    method: Method,
    /// Given once the request can spare it.
    target: Uri,
    span: Span,
    /// Whether the answer has left, and so whether dropping this means it was sent or given up.
    left: bool,
}

impl Record {
    fn begin(guard: Arc<Guard>, request: &Request, trail: Arc<Trail>, span: Span) -> Record {
        guard.metrics.in_flight.inc();
        Record {
            guard,
            trail,
            began: Instant::now(),
            method: request.method().clone(),
            target: Uri::default(),
            span,
            left: false,
        }
    }

    fn leave(mut self, response: Response, is_head: bool) -> http::Response<Answer> {
        self.left = true;
        let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let expected = length.and_then(|text| text.parse().ok()).or(response.body().size_hint().exact());
        let status = response.status();
        response.map(|body| {
            let expected = if is_head { Some(0) } else { expected };
            Answer { body, record: self, status, sent: 0, expected, ended: false }
        })
    }

    fn end(&self, status: StatusCode, sent: u64, outcome: Outcome) {
        let route = self.trail.route();
        let elapsed = self.began.elapsed();
        self.guard.metrics.answered(&self.method, route.clone(), status.as_u16(), elapsed.as_secs_f64());
        self.guard.metrics.bytes_sent.inc_by(sent);
        let (method, path, status, id) = (&self.method, self.target.path(), status.as_u16(), &*self.trail.id);
        let duration_ms = elapsed.as_millis() as u64;
        let outcome = outcome.as_str();
        let _entered = self.span.enter();
        if self.method.is_safe() && status < 400 {
            debug!(request.id = id, %method, route = &**route, status, duration_ms, size_bytes = sent, "Answered {method} `{path}`: {status}{outcome}");
        } else {
            info!(request.id = id, %method, route = &**route, status, duration_ms, size_bytes = sent, "Answered {method} `{path}`: {status}{outcome}");
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.guard.metrics.in_flight.dec();
        if !self.left {
            let _entered = self.span.enter();
            debug!(method = %self.method, "The client left before it was answered: `{}`", self.target.path());
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
pub struct Answer {
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
