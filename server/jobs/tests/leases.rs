//! What keeps a pull's content: its own lease, the caller's, and who may borrow it.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::store::list::{ListQuery, ListRequest};
use crate::store::{Expiry, NewLease, lists};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_fails_leaves_a_lease_for_what_came_and_none_for_nothing() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[&layer(8, 50_000)]);
    registry.fail(&sha256(&layer(8, 50_000)), Fault::Status(404, vec![]), usize::MAX);
    let server = Server::start(directory.path()).await;
    for (tag, is_held) in [("v1", true), ("v2", false)] {
        let pull = server.pull(ask(format!("{}/app:{tag}", registry.host()))).await;
        assert_eq!(pull.error.map(|error| error.code), Some(JobErrorCode::UpstreamNotFound), "{tag}");
        assert_eq!(pull.lease_id.is_some(), is_held, "{tag}");
        let lease = format!("pull-{}", pull.id.trim_start_matches("pull_"));
        assert_eq!(server.store.find_lease("default", &lease).await.is_ok(), is_held, "{tag}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_namespace_borrows_what_it_may_and_a_kept_image_has_a_lease() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let big = layer(9, 50_000);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&big]);
    let server = Server::start(directory.path()).await;
    let keep = Some("10m".to_owned());
    let asked = PullRequest { keep, ..ask(format!("{}/app:v1", registry.host())) };
    let kept = server.pull(asked.clone()).await;
    let lease = server.store.find_lease("default", &kept.lease_id.expect("a lease")).await.expect("it");
    assert_eq!(lease.kind, "user");
    let created = server.jobs.create_pull(&caller("other"), &asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("it is another namespace") };
    let pull = server.jobs.wait("other", &pull.id, LONG).await.expect("its end");
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    assert_eq!(count(&registry, "GET", &sha256(&big)), 1);
    let layer = pull.blobs.iter().find(|blob| blob.role == BlobRole::Layer).expect("the layer");
    assert_eq!((layer.state, pull.progress.bytes_reused > 50_000), (BlobState::Exists, true));
    // Whoever may not read those two gets their bytes from the registry.
    let apart = Caller { reach: Reach::Only(vec!["third".into()]), ..caller("third") };
    let Created::New(pull) = server.jobs.create_pull(&apart, &asked, None).await.expect("a pull") else {
        panic!("it is another namespace");
    };
    let pull = server.jobs.wait("third", &pull.id, LONG).await.expect("its end");
    assert_eq!((pull.state, count(&registry, "GET", &sha256(&big))), (JobState::Succeeded, 2), "{pull:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_that_the_caller_names_keeps_the_image() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start(directory.path()).await;
    let asked = ask(format!("{}/app:v1", registry.host()));
    let mut caller = caller("default");
    caller.lease = Some("mine".into());
    let missing = server.jobs.create_pull(&caller, &asked, None).await;
    assert!(matches!(missing, Err(Error::NotFound { what: "lease", .. })));
    let expiry = Expiry::Never;
    let lease = NewLease { id: caller.lease.clone(), expiry, labels: Default::default(), flat: false };
    server.store.create_lease("default", lease, "user").await.expect("a lease");
    let Created::New(pull) = server.jobs.create_pull(&caller, &asked, None).await.expect("a pull") else {
        panic!("nothing else runs");
    };
    let pull = server.jobs.wait("default", &pull.id, LONG).await.expect("its end");
    assert_eq!((pull.state, pull.lease_id.as_deref()), (JobState::Succeeded, Some("mine")));
    let query = ListQuery::parse(&lists::LEASE_RESOURCES, ListRequest::default()).expect("a list");
    let held = server.store.list_lease_resources("default", "mine", &query).await.expect("its resources");
    let kinds: Vec<_> = held.items.iter().map(|resource| resource.kind.as_str()).collect();
    assert_eq!(kinds, ["content", "content", "content", "image"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_drips_outlives_its_lease_by_renewing_it() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"forty bytes that come one after the other"]);
    let layer = sha256(b"forty bytes that come one after the other");
    registry.fail(&layer, Fault::Drip(Duration::from_millis(60)), 1);
    let server =
        Server::start_with(directory.path(), |settings| settings.lease = Duration::from_millis(500)).await;
    let pull = server.pull(ask(format!("{}/app:v1", registry.host()))).await;
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_goes_on_when_its_lease_expires_under_it() {
    const DRIPPED: &[u8] = b"forty bytes that come one after the other";
    // The renewal finds it out, or the first blob that is to be held by it.
    for length in [Duration::from_millis(500), Duration::from_secs(3600)] {
        let (registry, directory) = (FixtureRegistry::start().await, directory());
        registry.push_image("app", Some("v1"), "linux/amd64", &[DRIPPED]);
        registry.fail(&sha256(DRIPPED), Fault::Drip(Duration::from_millis(60)), 1);
        let ahead = Arc::new(AtomicI64::new(0));
        let hand = ahead.clone();
        let clock = Clock::new(move || Time(Clock::system().now().0 + hand.load(Ordering::Relaxed)));
        let server = Server::start_at(clock, directory.path(), |settings| settings.lease = length).await;
        let asked = ask(format!("{}/app:v1", registry.host()));
        let created = server.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
        let Created::New(pull) = created else { panic!("nothing else runs") };
        let drips = |blob: &PullBlob| blob.role == BlobRole::Layer && blob.offset > 0;
        server.find_running(&pull.id, |pull| pull.blobs.iter().any(drips)).await;
        // The machine slept for two hours.
        ahead.store(2 * 3600 * 1_000_000, Ordering::Relaxed);
        let pull = server.jobs.wait("default", &pull.id, LONG).await.expect("its end");
        assert_eq!((pull.state, pull.attempt > 1), (JobState::Succeeded, true), "{length:?}: {pull:?}");
        assert_eq!(server.read(&sha256(DRIPPED)).await, DRIPPED);
        server.stop().await;
    }
}

/// Pushes a manifest of schema 1 of one layer; how a pull asks for what is made of it.
fn push_schema1(registry: &FixtureRegistry, layer: &[u8]) -> PullRequest {
    registry.push_blob(layer);
    let history = serde_json::json!({"id": "1", "os": "linux", "architecture": "amd64"}).to_string();
    let manifest = serde_json::json!({
        "schemaVersion": 1, "name": "app", "tag": "v1", "fsLayers": [{"blobSum": sha256(layer)}],
        "history": [{"v1Compatibility": history}],
    });
    let media_type = "application/vnd.docker.distribution.manifest.v1+json";
    registry.push_document("app", Some("v1"), media_type, manifest.to_string().as_bytes());
    let selection = Selection { convert_schema1: true, ..Selection::default() };
    PullRequest { selection, ..ask(format!("{}/app:v1", registry.host())) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversion_that_fails_leaves_a_lease_for_the_layers_that_came() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let layer = layer(8, 50_000);
    let asked = push_schema1(&registry, &layer);
    registry.fail_method("GET", &sha256(&layer), Fault::Status(404, vec![]), usize::MAX);
    let server = Server::start(directory.path()).await;
    let pull = server.pull(asked).await;
    assert_eq!(pull.error.map(|error| error.code), Some(JobErrorCode::UpstreamNotFound));
    let lease = server.store.find_lease("default", &pull.lease_id.expect("a lease")).await;
    assert_eq!(lease.expect("it is there").kind, "pull");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_told_of_a_manifest_to_convert_is_waited_for_as_long_as_any_other() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let layer = layer(8, 5_000);
    let asked = push_schema1(&registry, &layer);
    registry.fail_method("GET", &sha256(&layer), Fault::HangUp, 4);
    let server = Server::start_with(directory.path(), |settings| {
        (settings.retry.max_attempts, settings.retry.attempts_once_answered) = (2, 5);
    })
    .await;
    let pull = server.pull(asked).await;
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    server.stop().await;
}
