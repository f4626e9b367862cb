//! Layers that are somewhere else than their image, with somebody of whom nobody knows anything.

use super::hostile_transport::{MIB, in_parts};
use super::*;

const PLACE: &str = "/elsewhere/layer";

/// An image of one layer, which a place has that its manifest names, and the registry has not.
fn push_foreign(registry: &FixtureRegistry, bytes: &[u8]) -> PullRequest {
    let config = serde_json::json!({"os": "linux", "architecture": "amd64"}).to_string();
    registry.push_blob(config.as_bytes());
    let mut layer = descriptor(LAYER, bytes);
    layer["urls"] = serde_json::json!([registry.push_file(PLACE, bytes)]);
    let config = descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    registry.push_document("app", Some("v1"), MANIFEST, manifest.as_bytes());
    let selection = Selection { foreign_layers: ForeignLayers::Fetch, ..Selection::default() };
    PullRequest { selection, ..ask(format!("{}/app:v1", registry.host())) }
}

/// The ranges that the place was asked for; empty where there was none.
fn ranges(registry: &FixtureRegistry) -> Vec<String> {
    let there = registry.seen().into_iter().filter(|seen| seen.path == PLACE);
    there.map(|seen| seen.headers.get("range").cloned().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_answers_nothing_but_nonsense_is_not_asked_for_ever() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let asked = push_foreign(&registry, &layer(1, 3 * MIB));
    registry.fail(PLACE, Fault::Status(400, vec![]), usize::MAX);
    let server = Server::start_with(directory.path(), in_parts).await;
    let pull = server.pull(asked).await;
    assert_eq!(pull.state, JobState::Failed);
    assert_eq!(pull.error.map(|error| error.code), Some(JobErrorCode::UpstreamBadAnswer));
    assert_eq!(ranges(&registry), ["bytes=0-1048575", ""]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_lies_about_parts_may_have_the_whole() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let bytes = layer(2, 3 * MIB);
    let asked = push_foreign(&registry, &bytes);
    registry.fail(PLACE, Fault::Without("Content-Range"), 1);
    let server = Server::start_with(directory.path(), in_parts).await;
    assert_eq!(server.pull(asked).await.state, JobState::Succeeded);
    assert!(server.read(&sha256(&bytes)).await == bytes);
    assert_eq!(ranges(&registry), ["bytes=0-1048575", ""]);
    server.stop().await;
}
