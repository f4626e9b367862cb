//! A server without root's right to open what the mode of a file forbids, as in the container image.

use http::Method;
use serde_json::json;

use crate::support::app::sha256;
use crate::support::raw::noise;
use crate::support::served::Served;

#[tokio::test]
async fn a_refused_commit_leaves_an_ingest_that_can_be_committed_and_read_after_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let server = Served::start_unprivileged(&data, &[]);
    let bytes = noise(7, 100_000);
    let digest = sha256(&bytes);
    let open = server.request(Method::POST, "/api/v1/ingests").json(json!({"ref": "u"}));
    let ingest = open.await.expect(201).place().to_owned();
    let append = server.request(Method::PATCH, format!("{ingest}/data")).header("upload-offset", "0");
    append.header("content-type", "application/partial-upload").body(bytes.clone()).await.expect(204);
    let commit =
        || server.request(Method::POST, format!("{ingest}/commit")).json(json!({"expected_digest": digest}));
    let refused = commit().header("orlop-lease", "nobody-s").await;
    assert_eq!(refused.to_string(), "404 not-found");
    server.kill_now();
    drop(server);

    let server = Served::start_unprivileged(&data, &[]);
    let request = |method, path: &str| server.request(method, path);
    assert_eq!(request(Method::GET, &ingest).await.expect(200).json()["offset"], 100_000);
    let append = request(Method::PATCH, &format!("{ingest}/data")).header("upload-offset", "100000");
    append.header("content-type", "application/partial-upload").body("end").await.expect(204);
    let whole = sha256(&[&bytes[..], b"end"].concat());
    let commit = request(Method::POST, &format!("{ingest}/commit")).json(json!({"expected_digest": whole}));
    commit.await.expect(201);
    request(Method::GET, &format!("/api/v1/content/{whole}/data")).await.expect(200);
    assert!(server.terminate().success());
}
