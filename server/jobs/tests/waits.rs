//! What a pull shows while it waits: until when, and what for.

use super::*;

fn blob_of<'a>(pull: &'a Pull, digest: &str) -> Option<&'a PullBlob> {
    pull.blobs.iter().find(|blob| blob.digest.as_str() == digest)
}

async fn begin(server: &Server, namespace: &str, asked: PullRequest) -> String {
    let created = server.jobs.create_pull(&caller(namespace), &asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing like it runs") };
    pull.id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_the_registry_asks_for_is_shown_and_can_be_cancelled() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let big = layer(1, 1_000);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&big]);
    let limited = Fault::Status(429, vec![("Retry-After", "250".into())]);
    let server = Server::start(directory.path()).await;
    for part in [sha256(&big), "/manifests/v1".to_owned()] {
        registry.fail(&part, limited.clone(), 1);
        let id = begin(&server, "default", ask(format!("{}/app:v1", registry.host()))).await;
        let waits = |pull: &Pull| pull.progress.waiting_until.is_some();
        let pull = server.find_running(&id, waits).await;
        let until = pull.progress.waiting_until.expect("a time");
        let left = until.since(server.jobs.now());
        assert!((Duration::from_secs(200)..=Duration::from_secs(275)).contains(&left), "{left:?}");
        assert_eq!((pull.progress.stalled_seconds, pull.progress.rate_bps), (0, 0));
        if let Some(blob) = blob_of(&pull, &part) {
            let wait = blob.wait.as_ref().expect("a reason");
            assert_eq!((blob.state, wait.until), (BlobState::Waiting, Some(until)));
            assert!(wait.reason.contains("limits our requests (status 429)"), "{wait:?}");
        }
        server.jobs.cancel("default", &id).await.expect("it stops");
        let ended = server.jobs.wait("default", &id, LONG).await.expect("its end");
        assert_eq!((ended.state, ended.progress.waiting_until), (JobState::Cancelled, None));
        assert!(ended.blobs.iter().all(|blob| blob.wait.is_none()));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_another_pull_sees_its_bytes_come_and_counts_them_as_its_own_no_more_than_they_are()
{
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let big = layer(2, 500_000);
    let digest = sha256(&big);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&big]);
    registry.fail(&digest, Fault::StallAfter(200_000), 1);
    let server = Server::start(directory.path()).await;
    let asked = |name: &str| {
        let image_name = Some(name.to_owned());
        PullRequest { image_name, ..ask(format!("{}/app:v1", registry.host())) }
    };
    let first = begin(&server, "default", asked("first")).await;
    server.find_running(&first, |pull| blob_of(pull, &digest).is_some_and(|b| b.offset == 200_000)).await;
    let second = begin(&server, "default", asked("second")).await;
    let waits = |pull: &Pull| blob_of(pull, &digest).is_some_and(|blob| blob.wait.is_some());
    let pull = server.find_running(&second, waits).await;
    let blob = blob_of(&pull, &digest).expect("the layer");
    assert_eq!((blob.state, blob.offset), (BlobState::Waiting, 200_000));
    assert_eq!(blob.wait.as_ref().expect("a reason").reason, "another pull fetches it");
    assert_eq!((pull.progress.bytes_network, pull.progress.stalled_seconds), (0, 0));
    // The first one gives up: the second goes on with what it left.
    server.jobs.cancel("default", &first).await.expect("it stops");
    let pull = server.jobs.wait("default", &second, LONG).await.expect("its end");
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    assert_eq!((pull.progress.bytes_resumed, pull.progress.bytes_network), (200_000, 300_000));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_waits_for_a_free_request_says_so_and_can_be_cancelled() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let layers = [layer(3, 1_000), layer(4, 1_001)];
    registry.push_image("app", Some("v1"), "linux/amd64", &[&layers[0], &layers[1]]);
    layers.iter().for_each(|layer| registry.fail(&sha256(layer), Fault::StallAfter(1), usize::MAX));
    let server = Server::start_with(directory.path(), |settings| settings.crowd.host = 1).await;
    let id = begin(&server, "default", ask(format!("{}/app:v1", registry.host()))).await;
    let waits = |blob: &PullBlob| blob.role == BlobRole::Layer && blob.wait.is_some();
    let pull = server.find_running(&id, |pull| pull.blobs.iter().any(waits)).await;
    let wait = pull.blobs.iter().find(|blob| waits(blob)).and_then(|blob| blob.wait.clone());
    let wait = wait.expect("a wait");
    assert_eq!((wait.until, wait.reason.as_str()), (None, "as many requests as are allowed are under way"));
    server.jobs.cancel("default", &id).await.expect("it stops");
    let ended = server.jobs.wait("default", &id, LONG).await.expect("its end");
    assert_eq!(ended.state, JobState::Cancelled);
    server.stop().await;
}
