use std::time::Instant;

use axum::Router;
use axum::extract::Extension;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::ServerName;
use tower::ServiceExt;

use super::*;

const SHORT: Timing = Timing {
    handshake: Duration::from_millis(300),
    header: Duration::from_millis(300),
    idle: Duration::from_millis(900),
    pace_window: Duration::from_millis(300),
    pace_bytes: 1_024,
    tick: Duration::from_millis(20),
};

/// What the watch's clock may be behind.
const KERNEL_TICK: Duration = Duration::from_millis(10);

/// Routes without a guard.
struct Bare(Router);

impl Answering for Bare {
    type Body = Body;

    async fn answer(self: Arc<Self>, mut request: Request<Body>, peer: Peer) -> http::Response<Body> {
        request.extensions_mut().insert(peer);
        self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

fn router() -> Router {
    let endless = || async {
        Body::from_stream(futures_util::stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[0; 65_536]))))
    };
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route(
            "/peer",
            get(|Extension(peer): Extension<Peer>| async move { format!("{:?}", peer.transport) }),
        )
        .route("/echo", post(|body: Bytes| async move { body }))
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(600)).await;
                "at last"
            }),
        )
        .route("/endless", get(endless))
}

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
}

async fn start(timing: Timing, change: impl FnOnce(&mut Server)) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let shutdown = Shutdown::new();
    let mut server =
        Server { timing, ..Server::new(shutdown.clone(), None, crate::telemetry::Metrics::new().http) };
    change(&mut server);
    shutdown.spawn("accept", server.serve(listener, Arc::new(Bare(router()))));
    Running { address, shutdown }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// Sends these bytes, and gives all that comes until the server closes.
    async fn tell(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.expect("sent");
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn one_answer(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = String::new();
    let mut buffer = [0; 4_096];
    while !answer.ends_with(end) {
        let read = stream.read(&mut buffer).await.expect("read");
        assert!(read > 0, "closed after `{answer}`");
        answer.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    answer
}

#[tokio::test]
async fn a_client_that_never_ends_its_headers_or_says_nothing_is_closed() {
    let server = start(SHORT, |_| {}).await;
    for beginning in ["", "G", "GET / HTTP/1.1\r\nHost: x\r\n", "PRI * HTTP/2.0\r\n"] {
        let began = Instant::now();
        assert_eq!(server.tell(beginning.as_bytes()).await, "", "{beginning:?}");
        assert!(began.elapsed() + KERNEL_TICK >= SHORT.header, "{beginning:?}");
    }
}

#[tokio::test]
async fn a_trickle_of_header_bytes_does_not_buy_time() {
    let server = start(SHORT, |_| {}).await;
    let (mut reader, mut writer) = server.connect().await.into_split();
    let trickle = async {
        for byte in b"GET / HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = trickle => {}
        _ = reader.read_to_end(&mut answer) => {}
        () = tokio::time::sleep(Duration::from_secs(5)) => panic!("still open"),
    }
}

#[tokio::test]
async fn a_kept_alive_connection_may_rest_longer_than_a_header_may_take() {
    let server = start(SHORT, |_| {}).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        assert!(one_answer(&mut stream, "hello").await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(SHORT.header + SHORT.header / 2).await;
    }
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = start(SHORT, |_| {}).await;
    let answer = server.tell(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc").await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up_and_one_that_takes_long_is_not() {
    let server = start(SHORT, |_| {}).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let answer = server.tell(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("at last"), "{answer}");
    // The endless one is gone: what the kernel still held comes, then the end.
    let mut sink = tokio::io::sink();
    let drained = tokio::io::copy(&mut stream, &mut sink);
    let _ = tokio::time::timeout(Duration::from_secs(5), drained).await.expect("cut off");
}

#[tokio::test]
async fn requests_that_two_parsers_could_read_differently_are_refused() {
    let server = start(SHORT, |_| {}).await;
    for head in [
        "Content-Length: 3\r\nContent-Length: 5",
        "Content-Length: +3",
        "Content-Length: 0x3",
        "Content-Length: 3, 5",
        "Content-Length: -1",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "X: a\r\n b",
        "X : a",
        "X: a\0b",
    ] {
        let request = format!("POST /echo HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\nabcde");
        let answer = server.tell(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
    }
    for chunks in ["g\r\nabc\r\n0\r\n\r\n", "3;\nabc\r\n0\r\n\r\n", "fffffffffffffffff\r\nabc", "-1\r\nabc"] {
        let request = format!("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let answer = server.tell(request.as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{chunks:?}: {answer}");
    }
}

#[tokio::test]
async fn headers_beyond_the_limits_are_refused() {
    let server = start(SHORT, |_| {}).await;
    let many = "x: y\r\n".repeat(limits::HEADER_COUNT + 1);
    let answer = server.tell(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let large = "x".repeat(limits::READ_BUFFER_BYTES);
    let answer = server.tell(format!("GET / HTTP/1.1\r\nx: {large}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn at_the_connection_limit_the_next_one_waits_and_is_then_served() {
    let server = start(SHORT, |server| server.max_connections = 1).await;
    let first = server.connect().await;
    let mut second = server.connect().await;
    second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("queued");
    drop(first);
    assert!(rest(&mut second).await.ends_with("hello"));
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_takes_nothing_new() {
    let server = start(Timing::default(), |_| {}).await;
    let mut busy = server.connect().await;
    let mut idle = server.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sent");
    one_answer(&mut busy, "hello").await;
    let began = Instant::now();
    let (drained, answer, _) =
        tokio::join!(server.shutdown.drain(Duration::from_secs(20)), rest(&mut busy), rest(&mut idle));
    assert_eq!(drained, crate::shutdown::Drained::Clean);
    assert!(answer.ends_with("at last"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn the_hard_token_ends_what_the_soft_one_did_not() {
    let server = start(Timing::default(), |_| {}).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    stream.read_u8().await.expect("it began");
    let drained = server.shutdown.drain(Duration::from_millis(50)).await;
    assert!(matches!(drained, crate::shutdown::Drained::Cut { .. }));
}

#[tokio::test]
async fn http2_is_spoken_without_tls_to_those_who_begin_with_it() {
    let server = start(Timing::default(), |_| {}).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let answer = client.get(format!("http://{}/peer", server.address)).send().await.expect("answered");
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(answer.text().await.expect("a body"), "Plain");
}

#[tokio::test]
async fn an_http2_stream_that_nobody_reads_is_given_up() {
    let metrics = crate::telemetry::Metrics::new().http;
    let server = start(SHORT, |server| server.metrics = metrics.clone()).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let _unread = client.get(format!("http://{}/endless", server.address)).send().await.expect("it began");
    assert_eq!(metrics.connections.get(), 1);
    let closed = async {
        while metrics.connections.get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("cut off");
}

#[tokio::test]
async fn tls_is_spoken_by_alpn_and_a_handshake_that_does_not_end_is_closed() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let directory = tempfile::tempdir().expect("a directory");
    let files = crate::config::TlsFiles {
        cert: directory.path().join("cert.pem"),
        key: directory.path().join("key.pem"),
    };
    std::fs::write(&files.cert, made.cert.pem()).expect("written");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
    let acceptor = super::super::tls::acceptor(&files).expect("a pair");
    let server = start(SHORT, |server| server.tls = Some(acceptor)).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, server.connect().await).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(b"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.ends_with("Tls"), "{answer}");
    assert_eq!(server.tell(b"\x16\x03\x01").await, "");
}

#[tokio::test]
async fn a_connection_at_rest_does_not_slow_the_others() {
    let server = start(Timing::default(), |_| {}).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
        held.push(stream);
    }
    let answers = futures_util::stream::iter(0..20)
        .then(|_| server.tell(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        .collect::<Vec<_>>();
    let answers = tokio::time::timeout(Duration::from_secs(2), answers).await.expect("quick");
    assert!(answers.iter().all(|answer| answer.ends_with("hello")));
}
