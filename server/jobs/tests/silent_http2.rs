//! Registries over TLS and HTTP/2 that go silent: one answer of them, or the connection that all answers share.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request as HttpRequest, Response, Version};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::io::ReaderStream;

use super::hostile_transport::hasty;
use super::*;
use crate::registry::fixture::Auth;

/// TLS and HTTP/2 in front of a registry that speaks neither. It forwards each request, and lets connections die.
struct Front {
    registry: FixtureRegistry,
    address: SocketAddr,
    told: Arc<Told>,
}

/// What the connections of a front share.
#[derive(Default)]
struct Told {
    connections: Mutex<usize>,
    /// Method, path and version of each request.
    seen: Mutex<Vec<(String, Version)>>,
    /// The connection over which something of this path is asked for next falls silent in the middle of the answer.
    deadly: Mutex<Option<&'static str>>,
}

/// A connection that can fall silent in both directions, and stays.
struct Mortal {
    stream: TcpStream,
    dead: Arc<AtomicBool>,
}

impl Mortal {
    /// Its stream, while it lives. Nobody is woken for one that does not.
    fn living(self: Pin<&mut Self>) -> Option<Pin<&mut TcpStream>> {
        let this = self.get_mut();
        (!this.dead.load(Ordering::SeqCst)).then(|| Pin::new(&mut this.stream))
    }
}

impl AsyncRead for Mortal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.living().map_or(Poll::Pending, |stream| stream.poll_read(cx, to))
    }
}

impl AsyncWrite for Mortal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.living().map_or(Poll::Pending, |stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.living().map_or(Poll::Pending, |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.living().map_or(Poll::Pending, |stream| stream.poll_shutdown(cx))
    }
}

fn acceptor() -> tokio_rustls::TlsAcceptor {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config).into()
}

impl Front {
    /// In front of a registry with one image.
    async fn start(shutdown: &Shutdown) -> Front {
        let registry = FixtureRegistry::start().await;
        registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (told, behind): (Arc<Told>, SocketAddr) = (Arc::default(), registry.host().parse().expect("one"));
        let (shared, tasks, acceptor) = (told.clone(), shutdown.clone(), acceptor());
        shutdown.spawn("front", async move {
            while let Some(Ok((stream, _))) = tasks.soft().run_until_cancelled(listener.accept()).await {
                let (told, acceptor, stop) = (shared.clone(), acceptor.clone(), tasks.soft().clone());
                tasks.spawn("front-connection", async move {
                    stop.run_until_cancelled(serve(stream, acceptor, told, behind)).await;
                });
            }
        });
        Front { registry, address, told }
    }

    fn asked(&self) -> PullRequest {
        ask(format!("{}/app:v1", self.address))
    }

    fn kill_at(&self, part: &'static str) {
        *self.told.deadly.lock().expect("no holder panics") = Some(part);
    }

    fn require_token(&self) {
        let realm = Some(format!("https://{}/token", self.address));
        self.registry.require(Auth::Token { realm, expires_in: 60 });
    }

    /// How often something of this path was asked for, which was by HTTP/2.
    fn asked_for(&self, start: &str, part: &str) -> usize {
        let seen = self.told.seen.lock().expect("no holder panics");
        let fitting = seen.iter().filter(|(line, _)| line.starts_with(start) && line.contains(part));
        fitting.inspect(|(line, version)| assert_eq!(*version, Version::HTTP_2, "{line}")).count()
    }

    fn connections(&self) -> usize {
        *self.told.connections.lock().expect("no holder panics")
    }
}

async fn serve(stream: TcpStream, acceptor: tokio_rustls::TlsAcceptor, told: Arc<Told>, behind: SocketAddr) {
    let dead = Arc::new(AtomicBool::new(false));
    // Whoever tries plain HTTP first is no connection.
    let Ok(stream) = acceptor.accept(Mortal { stream, dead: dead.clone() }).await else { return };
    *told.connections.lock().expect("no holder panics") += 1;
    let answer = service_fn(move |request: HttpRequest<Incoming>| {
        let (told, dead) = (told.clone(), dead.clone());
        async move {
            let line = format!("{} {}", request.method(), request.uri().path());
            let deadly = told.deadly.lock().expect("no holder panics").take_if(|part| line.contains(*part));
            told.seen.lock().expect("no holder panics").push((line, request.version()));
            forward(request, behind, deadly.map(|_| dead)).await
        }
    });
    // A client that goes away has heard enough.
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
}

type Body = StreamBody<Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>>;

/// The answer of the registry `behind`. Where the connection is to die, it does so after a few bytes of the body.
async fn forward(
    request: HttpRequest<Incoming>,
    behind: SocketAddr,
    dies: Option<Arc<AtomicBool>>,
) -> io::Result<Response<Body>> {
    let mut stream = BufReader::new(TcpStream::connect(behind).await?);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method());
    for (name, value) in request.headers() {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().expect("text")));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).ok_or(io::ErrorKind::UnexpectedEof)?.to_owned();
    let mut answer = Response::builder().status(&*status);
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        if !name.eq_ignore_ascii_case("connection") {
            answer = answer.header(name, value);
        }
    }
    let bytes = ReaderStream::with_capacity(stream, 10).map(|read| read.map(Frame::data));
    let body: Pin<Box<dyn Stream<Item = _> + Send>> = match dies {
        None => Box::pin(bytes),
        Some(dead) => {
            let silence = futures_util::stream::once(async move {
                dead.store(true, Ordering::SeqCst);
                std::future::pending().await
            });
            Box::pin(bytes.take(1).chain(silence))
        }
    };
    Ok(answer.body(StreamBody::new(body)).expect("an answer"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_goes_silent_over_http2_is_given_up_and_asked_for_again() {
    for (part, fault) in [
        ("/manifests/sha256", Fault::StallAfter(10)),
        ("/manifests/sha256", Fault::StallAfter(0)),
        ("/manifests/sha256", Fault::Silent),
        ("/manifests/v1", Fault::Silent),
        ("/token", Fault::StallAfter(10)),
        ("/token", Fault::Silent),
    ] {
        let directory = directory();
        let server = Server::start_with(directory.path(), hasty).await;
        let front = Front::start(&server.shutdown).await;
        front.require_token();
        front.registry.fail(part, fault.clone(), 1);
        let pull = server.pull(front.asked()).await;
        assert_eq!((pull.state, pull.attempt), (JobState::Succeeded, 1), "{part} {fault:?}: {pull:?}");
        assert_eq!(server.read(&sha256(b"layer")).await, b"layer");
        assert_eq!(front.asked_for("", part), 2 + usize::from(part == "/manifests/v1"), "{part} {fault:?}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_silent_over_http2_for_good_fails_the_pull_after_few_requests() {
    let directory = directory();
    let server = Server::start_with(directory.path(), hasty).await;
    let front = Front::start(&server.shutdown).await;
    front.registry.fail("/manifests/sha256", Fault::StallAfter(10), usize::MAX);
    let pull = server.pull(front.asked()).await;
    let error = pull.error.expect("why it failed");
    assert_eq!(error.code, JobErrorCode::UpstreamUnreachable, "{error:?}");
    assert_eq!(front.asked_for("GET", "/manifests/sha256"), 3);
    let layer = sha256(b"layer").parse().expect("a digest");
    assert!(server.store.find_content("default", &layer).await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_connection_that_dies_without_a_word_is_not_used_again() {
    for part in ["/manifests/sha256", "/token", "/manifests/v1"] {
        let directory = directory();
        let server = Server::start_with(directory.path(), hasty).await;
        let front = Front::start(&server.shutdown).await;
        front.require_token();
        front.kill_at(part);
        let pull = server.pull(front.asked()).await;
        assert_eq!((pull.state, pull.attempt), (JobState::Succeeded, 1), "{part}: {pull:?}");
        assert_eq!(server.read(&sha256(b"layer")).await, b"layer");
        assert!(front.connections() >= 2, "{part}: another connection");
        server.stop().await;
    }
}
