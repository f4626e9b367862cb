//! Bodies so large that they are written past the page cache.

use http::Method;
use serde_json::json;

use crate::support::app::sha256;
use crate::support::eventually::eventually;
use crate::support::raw::{RawConnection, noise};
use crate::support::served::Served;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_written_down_on_its_way_loses_none_of_its_bytes() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Served::start(&directory.path().join("data"), &[]);
    // More than two checkpoints, sent faster than they are written.
    let bytes = noise(12, 150 * MIB + 77);
    for _ in 0..2 {
        let opened = server.request(Method::POST, "/api/v1/ingests").json(json!({"ref": "u"})).await;
        let ingest = opened.expect(201).place().to_owned();
        let append = server.request(Method::PATCH, format!("{ingest}/data")).body(&bytes);
        let append = append.header("content-type", "application/partial-upload").header("upload-offset", "0");
        let appended = append.await.expect(204);
        assert_eq!(appended.header("upload-offset"), bytes.len().to_string());
        let status = server.request(Method::GET, &ingest).await.expect(200).json();
        assert_eq!(status["digest"], sha256(&bytes));
        server.request(Method::DELETE, &ingest).await.expect(204);
    }
    assert!(server.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_ingest_has_the_bytes_that_were_sent_after_a_kill_and_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let bytes = noise(11, 60 * MIB + 4_321);
    let server = Served::start_unprivileged(&data, &[]);
    let opened = server.request(Method::POST, "/api/v1/ingests").json(json!({"ref": "u"})).await.expect(201);
    let ingest = opened.place().to_owned();
    let append = |server: &Served, offset: usize, bytes: &[u8]| {
        let request = server.request(Method::PATCH, format!("{ingest}/data")).body(bytes);
        let request = request.header("content-type", "application/partial-upload");
        request.header("upload-offset", &offset.to_string())
    };
    // An end within a block, and past the page cache.
    let acknowledged = 20 * MIB + 1_234;
    append(&server, 0, &bytes[..acknowledged]).await.expect(204);
    let offset = acknowledged.to_string();
    let headers = [("Content-Type", "application/partial-upload"), ("Upload-Offset", &*offset)];
    let (path, rest) = (format!("{ingest}/data"), (bytes.len() - acknowledged) as u64);
    let mut slow = RawConnection::open(server.address).await.begin("PATCH", &path, &headers, rest).await;
    slow.send(&bytes[acknowledged..50 * MIB]).await;
    let status = async || server.request(Method::GET, &ingest).await.expect(200).json();
    eventually("the bytes have come", async || (status().await["offset"] == 50 * MIB).then_some(())).await;
    server.kill_now();
    drop(server);

    let server = Served::start_unprivileged(&data, &[]);
    let status = server.request(Method::GET, &ingest).await.expect(200).json();
    let offset = usize::try_from(status["offset"].as_u64().expect("a number")).expect("it fits");
    assert!((acknowledged..=50 * MIB).contains(&offset), "{offset}");
    assert_eq!(status["digest"], sha256(&bytes[..offset]), "never a byte that was not sent, at {offset}");
    append(&server, offset, &bytes[offset..]).await.expect(204);
    let commit = server.request(Method::POST, format!("{ingest}/commit"));
    commit.json(json!({"expected_digest": sha256(&bytes)})).await.expect(201);
    let stored = server.request(Method::GET, format!("/api/v1/content/{}/data", sha256(&bytes))).await;
    assert!(stored.expect(200).body == bytes);
    assert!(server.terminate().success());
}
