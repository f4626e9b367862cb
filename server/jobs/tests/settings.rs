//! What is configured for a registry: mirrors that are asked before it, and what proves who we are.

use super::hostile_transport::{MIB, hasty, in_parts};
use super::*;
use crate::store::{Expected, IfMatch};

/// A server that asks `mirror` before `registry`.
async fn start(
    directory: &Path,
    registry: &FixtureRegistry,
    mirror: &FixtureRegistry,
    settings: impl FnOnce(&mut Settings),
) -> Server {
    let server = Server::start_with(directory, settings).await;
    let url = format!("http://{}", mirror.host()).parse().expect("a URL");
    let mirrors = vec![HostChange { url: Some(url), ..HostChange::default() }];
    let change = RegistryChange { mirrors, ..RegistryChange::default() };
    server
        .jobs
        .put_registry(&registry.host(), change, Expected::Match(IfMatch::Absent))
        .await
        .expect("settings");
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_breaks_off_does_not_get_every_try() {
    for fault in [Fault::StallAfter(0), Fault::CutAfter(1_000)] {
        let (registry, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
        let (directory, bytes) = (directory(), layer(3, 200_000));
        for host in [&registry, &mirror] {
            host.push_image("app", Some("v1"), "linux/amd64", &[&bytes]);
        }
        mirror.fail(&sha256(&bytes), fault.clone(), usize::MAX);
        let server = start(directory.path(), &registry, &mirror, hasty).await;
        let pull = server.pull(ask(format!("{}/app:v1", registry.host()))).await;
        assert_eq!(pull.state, JobState::Succeeded, "{fault:?}: {pull:?}");
        assert!(server.read(&sha256(&bytes)).await == bytes);
        let asked = [&mirror, &registry].map(|host| count(host, "GET", &sha256(&bytes)));
        assert_eq!(asked, [1, 1], "{fault:?}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_without_ranges_says_nothing_of_its_registry() {
    let (registry, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    let (directory, first, next) = (directory(), layer(4, 3 * MIB), layer(5, 3 * MIB));
    for host in [&registry, &mirror] {
        host.push_image("app", Some("v1"), "linux/amd64", &[&first]);
        host.push_image("app", Some("v2"), "linux/amd64", &[&next]);
    }
    mirror.fail("/blobs/", Fault::IgnoreRange, usize::MAX);
    let server = start(directory.path(), &registry, &mirror, in_parts).await;
    let pull = async |tag: &str| {
        let pull = server.pull(ask(format!("{}/app:{tag}", registry.host()))).await;
        assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    };
    pull("v1").await;
    assert_eq!([&mirror, &registry].map(|host| count(host, "GET", &sha256(&first))), [1, 0]);
    server.jobs.delete_registry(&registry.host(), IfMatch::Absent).await.expect("no mirror any more");
    pull("v2").await;
    assert_eq!([&mirror, &registry].map(|host| count(host, "GET", &sha256(&next))), [0, 3]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_as_anybody_shows_no_host_what_is_configured_for_it() {
    let (registry, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    let directory = directory();
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start(directory.path()).await;
    let secret = || Change::Set([("X-Key".to_owned(), vec![Secret::new("s3cret")])].into());
    let url = Some(format!("http://{}", mirror.host()).parse().expect("a URL"));
    let mirrors = vec![HostChange { url, headers: secret(), ..HostChange::default() }];
    let change =
        RegistryChange { server: HostChange { headers: secret(), ..HostChange::default() }, mirrors };
    let expected = Expected::Match(IfMatch::Absent);
    server.jobs.put_registry(&registry.host(), change, expected).await.expect("settings");
    for (credential, shown) in [(CredentialUse::None, false), (CredentialUse::Configured, true)] {
        let before = [&registry, &mirror].map(|host| host.seen().len());
        let asked = PullRequest { credential, ..ask(format!("{}/app:v1", registry.host())) };
        assert_eq!(server.pull(asked).await.state, JobState::Succeeded);
        for (host, before) in [&registry, &mirror].into_iter().zip(before) {
            let seen = host.seen().split_off(before);
            let with_key = seen.iter().filter(|seen| seen.headers.contains_key("x-key")).count();
            assert_eq!(with_key, if shown { seen.len() } else { 0 }, "{credential:?}: {seen:?}");
            assert!(!seen.is_empty());
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_waits_for_a_configured_credential_can_be_cancelled() {
    let directory = directory();
    // A file that nobody writes: whoever reads it waits, as for a helper that hangs.
    let config = directory.path().join("config.json");
    let sh = |script: &str| {
        let ran = std::process::Command::new("sh").args(["-c", script]).arg(&config).status();
        assert!(ran.expect("a shell").success(), "{script}");
    };
    sh("mkfifo \"$0\"");
    let data = directory.path().join("data");
    let server = Server::start_with(&data, |settings| {
        settings.sources.docker = DockerConfig::new(Some(config.clone()));
    })
    .await;
    let asked = ask("registry.example/app:v1".into());
    let created = server.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing else runs") };
    server.find_running(&pull.id, |pull| pull.phase == Some(Phase::Resolving)).await;
    server.jobs.cancel("default", &pull.id).await.expect("it stops");
    let ended = server.jobs.wait("default", &pull.id, LONG).await.expect("its end");
    // The thread that opens the file is let go first: it holds up the end of the test.
    sh(": <>\"$0\"");
    assert_eq!(ended.state, JobState::Cancelled, "{ended:?}");
    server.stop().await;
}
