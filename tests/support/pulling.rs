//! Pulls through the door, to their ends; and what is there afterwards.

use serde_json::{Value, json};

use super::app::TestApp;
use super::fixture_registry::{FixtureRegistry, MANIFEST, sha256};

pub const PULLS: &str = "/api/v1/pulls";

/// A pull to its end.
pub async fn pull(app: &TestApp, asked: Value) -> Value {
    let made = app.post(PULLS).json(asked).await.expect(202);
    let ended = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert!(ended["finished_at"].is_string(), "{ended}");
    ended
}

pub async fn pulled(app: &TestApp, asked: Value) -> Value {
    let ended = pull(app, asked).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    ended
}

/// Why a pull fails: its code and its words.
pub async fn failed(app: &TestApp, asked: Value) -> (String, String) {
    let ended = pull(app, asked).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    let text = |name: &str| ended["error"][name].as_str().unwrap_or_default().to_owned();
    (text("code"), text("detail"))
}

/// The digests that the server has, in order.
pub async fn stored(app: &TestApp) -> Vec<String> {
    let list = app.get("/api/v1/content?limit=1000").await.expect(200).json();
    let digest = |item: &Value| item["digest"].as_str().expect("a digest").to_owned();
    let mut digests: Vec<String> = list["items"].as_array().expect("a list").iter().map(digest).collect();
    digests.sort();
    digests
}

/// What the server has after a pull: the digests of its content, each with a file of its own, and of nothing else; the
/// names of its images, and what they stand for. No ingest is left.
pub async fn kept(app: &TestApp) -> (Vec<String>, Vec<(String, String)>) {
    let (content, listed) = (stored(app).await, app.get("/api/v1/images").await.expect(200).json());
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let image = |item: &Value| (text(&item["name"]), text(&item["target"]["digest"]));
    let images = listed["items"].as_array().expect("a list").iter().map(image).collect();
    assert_eq!(app.get("/api/v1/ingests").await.expect(200).json()["items"], json!([]));
    let files = |name: &str| {
        let entries = std::fs::read_dir(app.data_dir().join(name)).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a text"))
    };
    let mut blobs: Vec<String> = files("blobs/sha256").map(|hex| format!("sha256:{hex}")).collect();
    blobs.sort();
    assert_eq!(blobs, content, "a file for each record, and a record for each file");
    // The writer of `index.json` comes and goes by itself.
    let begun: Vec<String> = files("ingests").filter(|name| !name.starts_with("index.json.")).collect();
    assert_eq!(begun, [""; 0], "nothing is left on its way");
    (content, images)
}

/// The digests of these bytes, in order.
pub fn digests(blobs: &[&[u8]]) -> Vec<String> {
    let mut digests: Vec<String> = blobs.iter().map(|bytes| sha256(bytes)).collect();
    digests.sort();
    digests
}

/// A manifest of this config and these layers, pushed under a tag of `app`; its reference.
pub fn push(registry: &FixtureRegistry, tag: &str, config: Value, layers: &[Value]) -> String {
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    registry.push_document("app", Some(tag), MANIFEST, manifest.to_string().as_bytes());
    format!("{}/app:{tag}", registry.host())
}

pub fn with(mut value: Value, field: &str, changed: Value) -> Value {
    value[field] = changed;
    value
}
