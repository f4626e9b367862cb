//! The accept loop: connections in, requests to the router.
//!
//! Ours rather than `axum::serve`, which installs no timer: there, a client that never ends its headers is never
//! asked to leave.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, StatusCode, Version};
use http_body::Body as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::connection::{ArrivingBody, LeavingBody, Member, Order, Roster, Timing, Watch, WatchedStream};
use crate::limits;
use crate::shutdown::Shutdown;
use crate::telemetry::HttpMetrics;

/// Who is at the other end of a request's connection: an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    pub transport: Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Tls,
}

/// What answers requests: the routes within their guard.
pub trait Answering: Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error = axum::Error> + Send + Unpin + 'static;

    fn answer(
        self: Arc<Self>,
        request: Request<Body>,
        peer: Peer,
    ) -> impl Future<Output = http::Response<Self::Body>> + Send;
}

/// What serving needs beside the router.
#[derive(Clone)]
pub struct Server {
    pub shutdown: Shutdown,
    /// `None`: plain HTTP.
    pub tls: Option<TlsAcceptor>,
    pub timing: Timing,
    /// The most connections at once; further ones wait to be accepted.
    pub max_connections: usize,
    pub metrics: HttpMetrics,
}

impl Server {
    /// A server with the limits of [`limits`].
    pub fn new(shutdown: Shutdown, tls: Option<TlsAcceptor>, metrics: HttpMetrics) -> Server {
        let max_connections = limits::CONNECTIONS;
        Server { shutdown, tls, timing: Timing::default(), max_connections, metrics }
    }

    /// Accepts connections until the soft token, and ends when the last of them has: what is in flight then goes on.
    pub async fn serve(self, listener: TcpListener, router: Arc<impl Answering>) {
        let soft = self.shutdown.soft().clone();
        let roster = Roster::new(self.timing);
        let accepting = async {
            soft.run_until_cancelled(self.accept(listener, router, &roster)).await;
            debug!("Accepting no more connections");
        };
        tokio::join!(accepting, roster.look_after(&soft));
    }

    async fn accept(
        &self,
        listener: TcpListener,
        router: Arc<impl Answering>,
        roster: &Roster,
    ) -> Infallible {
        /// A full descriptor table empties itself as connections end; until then asking again at once would only
        /// burn the processor.
        const PAUSE: Duration = Duration::from_millis(100);
        let permits = Arc::new(Semaphore::new(self.max_connections));
        let mut failing = false;
        loop {
            let permit = permits.clone().acquire_owned().await.expect("nobody closes the semaphore");
            match listener.accept().await {
                Ok((stream, address)) => {
                    failing = false;
                    let member = roster.enter(address);
                    let connection = self.clone().connection(stream, address, router.clone(), member, permit);
                    // The roster ends it.
                    self.shutdown.spawn_self_ending("connection", connection);
                }
                Err(error) if is_of_one_connection(&error) => debug!(%error, "A connection was gone at once"),
                Err(error) => {
                    // Once per series of failures, or a full table would fill the log as well.
                    if !failing {
                        warn!(%error, "Cannot accept connections just now");
                    }
                    failing = true;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        address: SocketAddr,
        router: Arc<impl Answering>,
        member: Member,
        _permit: OwnedSemaphorePermit,
    ) {
        let _counted = Counted::new(&self.metrics.connections);
        // Small answers must not wait for an acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            return debug!(%error, "A connection was gone at once");
        }
        let Some(tls) = &self.tls else {
            let peer = Peer { address, transport: Transport::Plain };
            return self.speak(stream, peer, router, &member.watch).await;
        };
        let handshake = tokio::time::timeout(self.timing.handshake, tls.accept(stream));
        match self.shutdown.soft().run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => {
                let peer = Peer { address, transport: Transport::Tls };
                self.speak(stream, peer, router, &member.watch).await;
            }
            Some(Ok(Err(error))) => debug!(peer = %address, %error, "TLS handshake failed"),
            Some(Err(_)) => debug!(peer = %address, "TLS handshake took too long"),
            None => {}
        }
    }

    /// Speaks HTTP until the peer goes, or is told to.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        peer: Peer,
        router: Arc<impl Answering>,
        watch: &Watch,
    ) {
        let stream = TokioIo::new(WatchedStream::new(stream, watch.clone()));
        let builder = http_builder(&self.shutdown);
        let connection = builder.serve_connection(
            stream,
            service(router, peer, watch.clone(), self.metrics.bytes_received.clone()),
        );
        let mut connection = std::pin::pin!(connection);
        let mut finishing = false;
        let ended = poll_fn(|context| {
            match watch.order(context) {
                Order::Close => return Poll::Ready(Ok(())),
                Order::Finish if !finishing => {
                    finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
                Order::Finish | Order::GoOn => {}
            }
            connection.as_mut().poll(context)
        });
        if let Err(error) = ended.await {
            debug!(peer = %peer.address, error = %*error, "Connection ended badly");
        }
    }
}

/// Errors of `accept` that say the connection is gone, and nothing of the listener (accept(2), "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn http_builder(shutdown: &Shutdown) -> auto::Builder<Tasks> {
    const STREAM_WINDOW: u32 = 1 << 20;
    const CONNECTION_WINDOW: u32 = 4 << 20;
    let mut builder = auto::Builder::new(Tasks(shutdown.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        // The watch does this, without taking rest for slowness.
        .header_read_timeout(None)
        .max_headers(limits::HEADER_COUNT)
        .max_buf_size(limits::READ_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::HTTP2_STREAMS)
        .max_pending_accept_reset_streams(limits::HTTP2_RESETS)
        .max_local_error_reset_streams(limits::HTTP2_RESETS)
        .max_header_list_size(limits::HEADER_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Finds peers that are gone while an event stream is silent.
        .keep_alive_interval(limits::EVENT_HEARTBEAT)
        .keep_alive_timeout(limits::HEADER_TIMEOUT);
    builder
}

/// Runs hyper's own tasks, one for each HTTP/2 stream, where the stop can see them.
#[derive(Clone)]
struct Tasks(Shutdown);

impl<F: Future<Output: Send + 'static> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.0.spawn("HTTP/2 stream", future);
    }
}

/// The router as hyper calls it, each request with its peer and under watch.
fn service<A: Answering>(
    router: Arc<A>,
    peer: Peer,
    watch: Watch,
    received: Counter,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = http::Response<LeavingBody<A::Body>>,
    Error = Infallible,
    Future: Send,
> {
    hyper::service::service_fn(move |request: Request<Incoming>| {
        let in_flight = watch.request();
        let (http1, has_body) = (request.version() < Version::HTTP_2, !request.body().is_end_stream());
        let body_watch = (http1 && has_body).then(|| watch.clone());
        let request = request.map(|body| match has_body {
            true => Body::new(ArrivingBody::new(body, watch.clone(), received.clone())),
            false => Body::empty(),
        });
        let answered = router.clone().answer(request, peer);
        async move {
            let mut response = answered.await.map(|body| LeavingBody::new(body, in_flight));
            if body_watch.is_some_and(|watch| watch.take_unread()) {
                // hyper will close the connection, and does not say so: a client would send its next request into it
                // (RFC 9112, section 9.6).
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if response.status() == StatusCode::NOT_MODIFIED {
                // The router counts the body that it has, which is none; of what was not modified nothing is said
                // (RFC 9110, section 8.6).
                response.headers_mut().remove(CONTENT_LENGTH);
            }
            Ok(response)
        }
    })
}

/// One in a gauge for as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
