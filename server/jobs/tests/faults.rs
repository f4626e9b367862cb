//! Registries that break off, lie, or have something else than was asked for.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_goes_on_where_it_ended() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let big = layer(3, 400_000);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&big]);
    registry.fail(&sha256(&big), Fault::CutAfter(150_000), 2);
    let server = Server::start(directory.path()).await;
    let pull = server.pull(ask(format!("{}/app:v1", registry.host()))).await;
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    assert_eq!(pull.progress.bytes_network, pull.progress.bytes_total);
    assert_eq!(server.read(&sha256(&big)).await, big);
    let ranges: Vec<_> = registry
        .seen()
        .iter()
        .filter(|seen| seen.path.contains(&sha256(&big)))
        .map(|seen| seen.headers.get("range").cloned().unwrap_or_default())
        .collect();
    assert_eq!(ranges, ["", "bytes=150000-399999", "bytes=300000-399999"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_fetched_once_more_and_then_refused() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let bad = layer(4, 5_000);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&bad]);
    let server = Server::start(directory.path()).await;
    let name = format!("{}/app:v1", registry.host());
    registry.fail(&sha256(&bad), Fault::WrongBytes, 2);
    let pull = server.pull(ask(name.clone())).await;
    let error = pull.error.expect("why it failed");
    assert_eq!((pull.state, error.code), (JobState::Failed, JobErrorCode::UpstreamMismatch), "{error:?}");
    assert!(error.detail.contains(&sha256(&bad)) && error.host.as_deref() == Some(registry.host().as_str()));
    let failed: Vec<_> = pull.blobs.iter().filter(|blob| blob.error.is_some()).collect();
    assert_eq!((failed.len(), failed[0].state, failed[0].offset), (1, BlobState::Failed, 0));
    assert_eq!(count(&registry, "GET", &sha256(&bad)), 2);
    assert!(server.store.find_image_by("default", &name).await.is_err());
    // One wrong answer alone does no harm.
    registry.fail(&sha256(&bad), Fault::WrongBytes, 1);
    assert_eq!(server.pull(ask(name)).await.state, JobState::Succeeded);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pulled_says_why() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let server = Server::start(directory.path()).await;
    let failed = async |name: &str| {
        let pull = server.pull(ask(format!("{}/{name}", registry.host()))).await;
        pull.error.unwrap_or_else(|| panic!("{name} is {:?}", pull.state)).code
    };
    assert_eq!(failed("app:none").await, JobErrorCode::UpstreamNotFound);
    let arm = registry.push_image("app", Some("plain"), "linux/arm64", &[b"x"]);
    assert_eq!(failed("app:plain").await, JobErrorCode::UpstreamNoPlatform);
    registry.push_index("app", "index", &[("linux/arm64", &arm)]);
    assert_eq!(failed("app:index").await, JobErrorCode::UpstreamNoPlatform);
    // A manifest where its index promises an index.
    let mut entry = descriptor(INDEX, &arm);
    entry["platform"] = serde_json::json!({"os": "linux", "architecture": "amd64"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    registry.push_document("app", Some("confused"), INDEX, index.as_bytes());
    assert_eq!(failed("app:confused").await, JobErrorCode::UpstreamBadAnswer);
    // Indexes of one entry each, one inside the other.
    let mut inner = registry.push_image("deep", None, "linux/amd64", &[b"x"]);
    let mut media_type = MANIFEST;
    for level in 0..=limits::INDEX_DEPTH {
        let entry = descriptor(media_type, &inner);
        inner = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
        media_type = INDEX;
        registry.push_document("deep", Some(&format!("v{level}")), INDEX, &inner);
    }
    assert_eq!(failed(&format!("deep:v{}", limits::INDEX_DEPTH)).await, JobErrorCode::ValidationFailed);
    let name = format!("{}/deep:v{}", registry.host(), limits::INDEX_DEPTH - 1);
    assert_eq!(server.pull(ask(name)).await.state, JobState::Succeeded);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restricted_layers_are_skipped_and_embedded_ones_not_asked_for() {
    use base64::Engine;
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let (foreign, embedded) = (layer(1, 100), b"{}".to_vec());
    let mut restricted = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", &foreign);
    restricted["urls"] = serde_json::json!([format!("http://{}/secret", registry.host())]);
    let mut config = descriptor("application/vnd.oci.empty.v1+json", &embedded);
    config["data"] = base64::engine::general_purpose::STANDARD.encode(&embedded).into();
    registry.push_blob(b"leaf");
    let layers =
        [restricted, descriptor("application/x-unknown; charset=x", b"leaf"), descriptor(LAYER, b"leaf")];
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
    registry.push_document("app", Some("v1"), MANIFEST, manifest.as_bytes());
    let server = Server::start(directory.path()).await;
    let pull = server.pull(ask(format!("{}/app:v1", registry.host()))).await;
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    let states: Vec<_> = pull.blobs.iter().map(|blob| blob.state).collect();
    assert_eq!(states, [BlobState::Done, BlobState::Done, BlobState::Skipped, BlobState::Done]);
    assert_eq!(server.read(&sha256(&embedded)).await, embedded);
    assert_eq!((count(&registry, "GET", &sha256(&embedded)), count(&registry, "GET", "secret")), (0, 0));
    assert_eq!(pull.progress.blobs_done, pull.progress.blobs_total);
    server.stop().await;
}
