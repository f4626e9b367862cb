//! Too much of everything: each limit answers, and the server goes on.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::app::TestApp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_too_large_are_refused() {
    let app = TestApp::start().await;
    let get = "GET /api/v1/content HTTP/1.1\r\nHost: localhost\r\n";
    let many: String = (0..150).map(|n| format!("X-{n}: x\r\n")).collect();
    for (name, request, refusals) in [
        ("a header of 40 KiB", format!("{get}X-A: {}\r\n\r\n", "x".repeat(40 << 10)), [431, 431]),
        ("a header of 1 MiB", format!("{get}X-A: {}\r\n\r\n", "x".repeat(1 << 20)), [431, 400]),
        ("150 headers", format!("{get}{many}\r\n"), [431, 431]),
        (
            "a target of 9 KiB",
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9 << 10)),
            [414, 414],
        ),
        (
            "a target of 1 MiB",
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1 << 20)),
            [414, 431],
        ),
    ] {
        let mut raw = app.raw().await;
        raw.send(request).await;
        // Closed with bytes unread, a connection may take its answer with it; that ends the flood as well.
        let status = raw.answer().await.map(|answer| answer.status);
        assert!(status.is_none_or(|status| refusals.contains(&status)), "{name}: {status:?}");
    }
    assert_eq!(app.get("/api/v1/content").await.status, 200);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_never_ends_is_cut_off() {
    let app = TestApp::start().await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut raw = app.raw().await;
        raw.send("GET /api/v1/content HTTP/1.1\r\nHost: localhost\r\nX-A:").await;
        slow.push(raw);
    }
    let begun = Instant::now();
    assert_eq!(app.get("/api/v1/content").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "others are served meanwhile");
    for raw in slow {
        raw.until_closed().await;
    }
    let limit = orlop::limits::HEADER_TIMEOUT;
    assert!(begun.elapsed() >= limit / 2 && begun.elapsed() < limit * 3, "{:?}", begun.elapsed());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_that_are_too_long_are_refused_by_their_limits() {
    let app = TestApp::start().await;
    let digest = app.put_blob(b"hello").await;
    let record = format!("/api/v1/content/{digest}");
    let long = "x".repeat(10 << 10);
    for (name, request) in [
        ("a filter of 5 KiB", app.get(format!("/api/v1/content?filter=digest=={}", &long[..5 << 10]))),
        ("a pattern of 300 bytes", app.get(format!("/api/v1/content?filter=digest~={}", &long[..300]))),
        (
            "a nested repetition",
            app.get("/api/v1/content?filter=digest~=%28%28a%7B99%7D%29%7B99%7D%29%7B99%7D"),
        ),
        ("a page of 10^12", app.get("/api/v1/content?limit=1000000000000")),
        (
            "a label of 1 MiB",
            app.patch(&record).merge_patch(json!({"labels": {"k": "x".repeat((1 << 20) - 100)}})),
        ),
        ("a ref of 2 KiB", app.open(json!({"ref": &long[..2_048]}))),
        ("100 levels of JSON", app.open(serde_json::from_str(&nested(60)).expect("JSON"))),
        ("no JSON", app.post("/api/v1/ingests").header("Content-Type", "application/json").body("{")),
        ("two of a parameter", app.get("/api/v1/content?namespace=a&namespace=b")),
    ] {
        assert_eq!(request.await.to_string(), "400 invalid-argument", "{name}");
    }
    let too_large = app.patch(&record).merge_patch(json!({"labels": {"k": "x".repeat(2 << 20)}})).await;
    assert_eq!(too_large.to_string(), "413 too-large");
    let many = app.patch(&record).merge_patch(json!({"labels": labels(65)})).await;
    assert_eq!(many.to_string(), "422 validation-failed");
    let deep = app
        .post("/api/v1/ingests")
        .header("Content-Type", "application/json")
        .body("[".repeat(100_000))
        .await;
    assert_eq!(deep.to_string(), "400 invalid-argument");
    let long_target = app.get(format!("/api/v1/content?filter=digest~={long}")).await;
    assert_eq!(long_target.to_string(), "414 uri-too-long");
    assert_eq!(app.get(&record).await.json()["labels"], json!({}));
    app.stop().await;
}

fn labels(count: usize) -> serde_json::Value {
    (0..count).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into()
}

fn nested(levels: usize) -> String {
    format!("{{\"ref\": {}{}}}", "[".repeat(levels), "]".repeat(levels))
}
