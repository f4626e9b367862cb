//! Requests that two parsers could read differently: refused, and the connection closed, so that nothing that comes
//! behind is taken for a request of somebody else.

use crate::support::app::TestApp;

/// A request that must not be seen as one.
const BEHIND: &str = "GET /api/v1/content HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The statuses of all answers on a connection that was sent `bytes` and then a request behind them.
async fn answers(app: &TestApp, bytes: &str) -> Vec<u16> {
    let mut raw = app.raw().await;
    raw.send(bytes).await;
    raw.send(BEHIND).await;
    let said = raw.until_closed().await;
    let text = String::from_utf8_lossy(&said);
    let statuses =
        text.match_indices("HTTP/1.1 ").map(|(at, _)| text[at + 9..at + 12].parse().expect("a status"));
    statuses.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_framed_for_certain_is_refused_and_ends_the_connection() {
    let app = TestApp::start().await;
    let post = "POST /api/v1/content HTTP/1.1\r\nHost: localhost\r\n";
    for (name, request) in [
        ("two lengths", format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello")),
        ("two lengths in one", format!("{post}Content-Length: 5, 6\r\n\r\nhello")),
        ("a signed length", format!("{post}Content-Length: +5\r\n\r\nhello")),
        ("a negative length", format!("{post}Content-Length: -5\r\n\r\nhello")),
        ("a hexadecimal length", format!("{post}Content-Length: 0x5\r\n\r\nhello")),
        ("a length beyond 64 bits", format!("{post}Content-Length: 18446744073709551621\r\n\r\nhello")),
        ("a length of nothing", format!("{post}Content-Length: \r\n\r\nhello")),
        ("chunked not last", format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
        ("an unknown coding", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        (
            "a chunk size that overflows",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ),
        ("a signed chunk size", format!("{post}Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n")),
        (
            "a chunk longer than it says",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n"),
        ),
        ("a space before the colon", format!("{post}Content-Length : 5\r\n\r\nhello")),
        ("a folded header", format!("{post}X-A: b\r\n c\r\nContent-Length: 5\r\n\r\nhello")),
        ("a bare return", format!("{post}X-A: b\rContent-Length: 5\r\n\r\nhello")),
        ("a NUL in a header", format!("{post}X-A: b\0c\r\nContent-Length: 5\r\n\r\nhello")),
        ("no host", "GET /api/v1/content HTTP/1.1\r\n\r\n".to_owned()),
        (
            "two hosts",
            "GET /api/v1/content HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_owned(),
        ),
        ("no version", "GET /api/v1/content\r\n\r\n".to_owned()),
        ("HTTP/3.0", "GET /api/v1/content HTTP/3.0\r\nHost: localhost\r\n\r\n".to_owned()),
        ("binary", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned()),
    ] {
        let statuses = answers(&app, &request).await;
        let refused = statuses.first().is_none_or(|status| matches!(status, 400..=499 | 501 | 505));
        assert!(refused, "{name}: {statuses:?}");
    }
    assert_eq!(app.get("/api/v1/content").await.json()["items"], serde_json::json!([]), "nothing was stored");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_beside_chunks_counts_for_nothing_and_ends_the_connection() {
    let app = TestApp::start().await;
    // RFC 9112, section 6.3: the chunks decide, and the connection is not used again; or it is refused at once.
    let both = "POST /api/v1/content HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\n\
                Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let statuses = answers(&app, both).await;
    assert!(matches!(statuses[..], [400] | [201]), "the request behind is never answered: {statuses:?}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_shorter_than_its_length_is_no_blob() {
    let app = TestApp::start().await;
    let mut raw = app.raw().await;
    raw.send("POST /api/v1/content HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello").await;
    raw.send_end().await;
    raw.until_closed().await;
    assert_eq!(app.get("/api/v1/content").await.json()["items"], serde_json::json!([]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_a_body_is_the_next_request() {
    let app = TestApp::start().await;
    let request = "POST /api/v1/content HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(answers(&app, request).await, [201, 200]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stays_unread_ends_the_connection_and_the_answer_says_so() {
    let app = TestApp::start().await;
    let ingest = app.filled_ingest("u", b"hello").await;
    let (mismatch, size) =
        (format!("PATCH {ingest}/data HTTP/1.1\r\nHost: localhost\r\nUpload-Offset: 3\r\n"), 5 << 20);
    let mut raw = app.raw().await;
    raw.send(format!("{mismatch}Content-Length: {size}\r\n\r\nsome of it")).await;
    let refused = raw.answer().await.expect("an answer before the body's end");
    assert_eq!((refused.status, refused.header("connection")), (409, "close"));
    raw.until_closed().await;
    // A short body is read to its end instead, and the next request is welcome.
    let mut raw = app.raw().await;
    for _ in 0..2 {
        raw.send(format!("{mismatch}Content-Length: 5\r\n\r\nhello")).await;
        let refused = raw.answer().await.expect("an answer");
        assert_eq!((refused.status, refused.header("connection")), (409, ""));
    }
    app.stop().await;
}
