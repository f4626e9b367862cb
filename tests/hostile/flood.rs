//! Too much of everything: each limit answers, and the server goes on.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::app::{TestApp, story};
use crate::support::rows::execute;

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
        ("65 labels", app.open(json!({"ref": "u", "labels": labels(65)}))),
        (
            "17 filters",
            app.get(format!("/api/v1/content?filter=size%3D%3D1{}", "&filter=size%3D%3D1".repeat(16))),
        ),
        ("17 labels", app.get(format!("/api/v1/content?label=a{}", "&label=a".repeat(16)))),
        ("a ref of 2 KiB to list by", app.get(format!("/api/v1/ingests?ref={}", &long[..2_048]))),
        ("an unknown state", app.get("/api/v1/pulls?state=done")),
        ("an empty name", app.get("/api/v1/images?name=")),
        ("an empty label", app.get("/api/v1/content?label=")),
        ("a media type of two slashes", app.put(format!("{record}/data?media_type=a/b/c")).body("hello")),
        ("a label without a value's sign", app.put(format!("{record}/data?label=a")).body("hello")),
        ("an empty writer", app.open(json!({"ref": "u"})).header("Orlop-Writer", "")),
        ("an empty key", app.post("/api/v1/leases").header("Idempotency-Key", "").json(json!({}))),
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

story!(more_ingests_than_their_limit_are_refused, async |app| {
    let first =
        app.open(json!({"ref": "u0"})).await.expect(201).json()["id"].as_str().expect("an id").to_owned();
    let columns = "namespace, total, expected_digest, media_type, labels, lease, shared, durable_offset, \
                   hash_algorithm, hash_state, boot, started_at, updated_at, expires_at";
    let many = orlop::limits::INGESTS - 1;
    let filled = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many}) \
         INSERT INTO ingests (id, ref, {columns}) \
         SELECT id || i, ref || '-' || i, {columns} FROM ingests, n WHERE id = '{first}'"
    );
    assert_eq!(execute(app, &filled).await, many as u64);
    let refused = app.open(json!({"ref": "one-more"})).await;
    assert_eq!(refused.to_string(), "429 rate-limited");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    // What is open goes on, other namespaces are free, and an end makes room.
    app.open(json!({"ref": "u0"})).await.expect(200);
    app.post("/api/v1/ingests?namespace=other").json(json!({"ref": "one-more"})).await.expect(201);
    app.delete(format!("/api/v1/ingests/{first}")).await.expect(204);
    app.open(json!({"ref": "one-more"})).await.expect(201);
});

fn labels(count: usize) -> serde_json::Value {
    (0..count).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into()
}

fn nested(levels: usize) -> String {
    format!("{{\"ref\": {}{}}}", "[".repeat(levels), "]".repeat(levels))
}
