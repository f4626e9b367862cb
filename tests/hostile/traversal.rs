//! Names that try to leave the data directory: refused before a file is touched.

use serde_json::json;

use crate::support::app::TestApp;

const NAMES: [&str; 16] = [
    "..",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "%2fetc%2fpasswd",
    "..%5c..%5cetc",
    "%00",
    "x%00",
    "%c0%ae%c0%ae%c0%af",
    "%e0%80%ae",
    "%ff",
    "sha256:..",
    "sha256:%2e%2e%2f%2e%2e",
    "ing_..%2f..",
    "ing_%00",
    "%252e%252e%252f",
    ".%2f",
];

/// Everything below the data directory, with sizes: what a request that was refused must not have changed.
fn listing(app: &TestApp) -> Vec<(std::path::PathBuf, u64)> {
    let (mut left, mut found) = (vec![app.data_dir().to_owned()], Vec::new());
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("its metadata");
            match metadata.is_dir() {
                true => left.push(entry.path()),
                // The database writes its own log when it likes.
                false if entry.file_name().to_string_lossy().starts_with("orlop.db") => {}
                false => found.push((entry.path(), metadata.len())),
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_parameter_leads_out_of_the_data_directory() {
    let app = TestApp::start().await;
    app.put_blob(b"hello").await;
    let before = listing(&app);
    for route in orlop::http::routes::ROUTES.iter().filter(|route| route.path.contains('{')) {
        for name in NAMES {
            let path: Vec<&str> =
                route.path.split('/').map(|part| if part.starts_with('{') { name } else { part }).collect();
            let path = path.join("/");
            // By hand: a client would tidy the path up before it is sent.
            let mut raw = app.raw().await;
            let method = route.method;
            raw.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Upload-Offset: 0\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            ))
            .await;
            let status = match method {
                "HEAD" => raw.head_answer().await,
                _ => raw.answer().await.map(|answer| answer.status),
            };
            assert!(matches!(status, Some(400..=499)), "{method} {path}: {status:?}");
        }
    }
    assert_eq!(listing(&app), before);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ref_is_a_name_and_never_a_path() {
    let app = TestApp::start().await;
    let outside = app.data_dir().join("outside");
    for name in ["../outside", "/etc/orlop-was-here", "..", ".", "a/../../outside", "%2e%2e%2foutside"] {
        let ingest = app.filled_ingest(name, b"bytes").await;
        assert_eq!(app.open(json!({"ref": name})).await.expect(200).header("location"), ingest);
        app.delete(&ingest).await.expect(204);
    }
    assert!(!outside.exists() && !std::path::Path::new("/etc/orlop-was-here").exists());
    app.stop().await;
}
