//! What a pull knows of itself after the server was started again.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pull_has_fetched_before_a_restart_is_its_own() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let (small, big) = (layer(1, 100_000), layer(2, 600_000));
    registry.push_image("app", Some("v1"), "linux/amd64", &[&small, &big]);
    registry.fail(&sha256(&big), Fault::StallAfter(250_000), 1);
    let first = Server::start(directory.path()).await;
    let asked = ask(format!("{}/app:v1", registry.host()));
    let created = first.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing else runs") };
    let moved = |pull: &Pull| {
        let at = |size: usize| pull.blobs.iter().find(|blob| blob.size == size as u64);
        at(small.len()).is_some_and(|blob| blob.state == BlobState::Done)
            && at(big.len()).is_some_and(|blob| blob.offset == 250_000)
    };
    first.find_running(&pull.id, moved).await;
    first.stop().await;

    let second = Server::start(directory.path()).await;
    let done = second.jobs.wait("default", &pull.id, LONG).await.expect("its end");
    assert_eq!((done.state, done.attempt), (JobState::Succeeded, 2), "{done:?}");
    let progress = done.progress;
    assert_eq!((progress.bytes_reused, progress.bytes_network), (0, 350_000), "{progress:?}");
    assert_eq!(progress.bytes_resumed, progress.bytes_total - 350_000);
    assert!(done.blobs.iter().all(|blob| blob.state == BlobState::Done), "{:?}", done.blobs);
    let told = done.log.iter().filter(|line| line.message == "it goes on after a restart of the server");
    assert_eq!(told.count(), 1, "{:?}", done.log);
    // Another pull has fetched nothing.
    let other = second.pull(PullRequest { image_name: Some("copy".to_owned()), ..asked }).await;
    assert_eq!(other.progress.bytes_reused, other.progress.bytes_total);
    assert!(other.log.is_empty(), "{:?}", other.log);
    second.stop().await;
}
