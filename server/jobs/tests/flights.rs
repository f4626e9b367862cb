//! Who follows whose download, and who does not.

use super::*;

/// Two registries with one image, of which the first gets stuck in the layer for good.
async fn two_registries() -> (FixtureRegistry, FixtureRegistry, Vec<u8>) {
    let (stuck, good) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    let layer = layer(9, 500_000);
    for registry in [&stuck, &good] {
        registry.push_image("app", Some("v1"), "linux/amd64", &[&layer]);
    }
    stuck.fail(&sha256(&layer), Fault::StallAfter(200_000), usize::MAX);
    (stuck, good, layer)
}

fn named(registry: &FixtureRegistry, name: &str) -> PullRequest {
    PullRequest { image_name: Some(name.to_owned()), ..ask(format!("{}/app:v1", registry.host())) }
}

async fn begin(server: &Server, caller: &Caller, asked: &PullRequest) -> String {
    let created = server.jobs.create_pull(caller, asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing like it runs") };
    pull.id
}

/// Begins a pull that gets stuck with these bytes of the layer.
async fn begin_stuck(server: &Server, registry: &FixtureRegistry, layer: &[u8]) -> String {
    let id = begin(server, &caller("default"), &named(registry, "stuck")).await;
    let has = |blob: &PullBlob| blob.digest.as_str() == sha256(layer) && blob.offset == 200_000;
    server.find_running(&id, |pull| pull.blobs.iter().any(has)).await;
    id
}

async fn end(server: &Server, namespace: &str, id: &str) -> Pull {
    server.jobs.wait(namespace, id, LONG).await.expect("its end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_stuck_holds_up_nobody_who_asks_another() {
    let ((stuck, good, layer), directory) = (two_registries().await, directory());
    let server =
        Server::start_with(directory.path(), |settings| settings.follow = Duration::from_millis(300)).await;
    let first = begin_stuck(&server, &stuck, &layer).await;
    // In the same namespace, where the other one writes the ingest.
    let second = begin(&server, &caller("default"), &named(&good, "good")).await;
    let pull = end(&server, "default", &second).await;
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    assert_eq!(good.sent(&sha256(&layer)), 500_000);
    assert!(server.read(&sha256(&layer)).await == layer);
    let still = server.jobs.find("default", &first).await.expect("the first");
    assert_eq!(still.state, JobState::Running);
    server.jobs.cancel("default", &first).await.expect("it stops");
    assert_eq!(end(&server, "default", &first).await.state, JobState::Cancelled);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_look_into_a_namespace_neither_waits_for_it_nor_learns_of_it() {
    let ((stuck, _, layer), directory) = (two_registries().await, directory());
    let server = Server::start(directory.path()).await;
    let first = begin_stuck(&server, &stuck, &layer).await;
    stuck.forgive();
    let apart = Caller { reach: Reach::Only(vec!["apart".into()]), ..caller("apart") };
    let second = begin(&server, &apart, &named(&stuck, "apart")).await;
    let pull = end(&server, "apart", &second).await;
    assert_eq!((pull.state, pull.progress.bytes_reused), (JobState::Succeeded, 0), "{pull:?}");
    let still = server.jobs.find("default", &first).await.expect("the first");
    assert_eq!(still.state, JobState::Running);
    server.jobs.cancel("default", &first).await.expect("it stops");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_follows_another_pull_takes_no_turn_of_its_own_pull() {
    let ((stuck, _, layer), directory) = (two_registries().await, directory());
    let own = super::layer(10, 1_000);
    stuck.push_image("both", Some("v1"), "linux/amd64", &[&layer, &own]);
    let server = Server::start(directory.path()).await;
    let first = begin_stuck(&server, &stuck, &layer).await;
    let both = PullRequest { max_concurrency: Some(1), ..ask(format!("{}/both:v1", stuck.host())) };
    let second = begin(&server, &caller("default"), &both).await;
    let done = |blob: &PullBlob| blob.digest.as_str() == sha256(&own) && blob.state == BlobState::Done;
    let follows =
        |blob: &PullBlob| blob.wait.as_ref().is_some_and(|wait| wait.reason == "another pull fetches it");
    let both = |pull: &Pull| pull.blobs.iter().any(done) && pull.blobs.iter().any(follows);
    server.find_running(&second, both).await;
    stuck.forgive();
    server.jobs.cancel("default", &first).await.expect("it stops");
    assert_eq!(end(&server, "default", &second).await.state, JobState::Succeeded);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_hangs_leaves_a_turn_to_the_pulls_of_others() {
    let (hanging, good, directory) =
        (FixtureRegistry::start().await, FixtureRegistry::start().await, directory());
    hanging.fail("/v2/", Fault::Silent, usize::MAX);
    good.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start_with(directory.path(), |settings| settings.pulls = 4).await;
    let mut held = Vec::new();
    for n in 0..5 {
        let asked = ask(format!("{}/app{n}:v1", hanging.host()));
        held.push(begin(&server, &caller("default"), &asked).await);
    }
    eventually("two of them wait, and say why", async || {
        let mut waiting = 0;
        for id in &held {
            let log = server.jobs.find("default", id).await.expect("the pull").log;
            let says = |line: &PullLog| line.message.contains("as one registry has at once");
            waiting += usize::from(log.iter().any(says));
        }
        (waiting == 2).then_some(())
    })
    .await;
    let pull = server.pull(named(&good, "good")).await;
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    for id in held {
        server.jobs.cancel("default", &id).await.expect("it stops");
        assert_eq!(end(&server, "default", &id).await.state, JobState::Cancelled);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_over_from_one_that_overtook_does_not_write_where_the_first_still_does() {
    let ((stuck, other, layer), directory) = (two_registries().await, directory());
    other.fail(&sha256(&layer), Fault::StallAfter(200_000), usize::MAX);
    let server =
        Server::start_with(directory.path(), |settings| settings.follow = Duration::from_millis(300)).await;
    let first = begin_stuck(&server, &stuck, &layer).await;
    let second = begin(&server, &caller("default"), &named(&other, "second")).await;
    eventually("the second overtakes the first", async || {
        (count(&other, "GET", &sha256(&layer)) == 1).then_some(())
    })
    .await;
    let third = begin(&server, &caller("default"), &named(&other, "third")).await;
    let follows = |blob: &PullBlob| blob.wait.is_some() && blob.digest.as_str() == sha256(&layer);
    server.find_running(&third, |pull| pull.blobs.iter().any(follows)).await;
    other.forgive();
    server.jobs.cancel("default", &second).await.expect("it stops");
    let pull = end(&server, "default", &third).await;
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    assert!(pull.log.is_empty(), "it waits for nobody: {:?}", pull.log);
    let still = server.jobs.find("default", &first).await.expect("the first");
    assert_eq!(still.state, JobState::Running);
    server.jobs.cancel("default", &first).await.expect("it stops");
    server.stop().await;
}
