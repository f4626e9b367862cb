//! What the commands say to a person, against a real server and a registry that can misbehave.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::app::{On, TestApp};
use crate::support::command::{Background, orlop, orlop_with};
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{Fault, FixtureRegistry, INDEX, MANIFEST, sha256};
use crate::support::unpacking::{many_files, pushed, three_layers};

/// An index with an image for two platforms, one of them this machine's; its digest.
fn push(registry: &FixtureRegistry, layer: &[u8]) -> String {
    let image = |platform: &str| registry.push_image("app", None, platform, &[layer]);
    let (ours, other) = (image("linux/amd64"), image("linux/arm64"));
    registry.push_index("app", "v1", &[("linux/amd64", &ours), ("linux/arm64", &other)])
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_says_which_platform_it_took_and_which_name_it_moved() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    let first = push(&registry, b"one");
    let reference = format!("{}/app:v1", registry.host());
    let ran = orlop(&app, &["pull", &reference, "--name", "rope"]).await;
    assert_eq!(ran.stdout, format!("rope {first}\n"), "{}", ran.stderr);
    let platform = "rope is for linux/amd64 here, as the server is; --platform takes another\n";
    assert_eq!(ran.stderr, platform);

    let second = push(&registry, b"two");
    let ran = orlop(&app, &["pull", &reference, "--name", "rope"]).await;
    assert_eq!(ran.stdout, format!("rope {second}\n"));
    assert_eq!(ran.stderr, format!("moved rope from {first} to {second}\n{platform}"));

    // Who names a platform knows it, and nothing moves.
    let ran = orlop(&app, &["pull", &reference, "--name", "rope", "--platform", "linux/amd64"]).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (format!("rope {second}\n").as_str(), ""));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_cannot_use_what_the_registry_has_is_no_wrong_usage() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    let entry = |document: &[u8]| {
        json!({"mediaType": INDEX, "digest": sha256(document), "size": document.len(),
            "platform": {"os": "linux", "architecture": std::env::consts::ARCH}})
    };
    let index = |entries: Vec<Value>| {
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().into_bytes()
    };
    let mut document = index(Vec::new());
    for _ in 0..8 {
        registry.push_document("deep", None, INDEX, &document);
        document = index(vec![entry(&document)]);
    }
    registry.push_document("deep", Some("v1"), INDEX, &document);
    let reference = format!("{}/deep:v1", registry.host());
    for words in [&["pull", "--all-platforms"][..], &["pull", "--all-platforms", "--dry-run"]] {
        let ran = orlop(&app, &[words, &[reference.as_str()]].concat()).await;
        assert!(ran.stderr.contains("nested deeper"), "{}", ran.stderr);
        assert_eq!(ran.exit_code(), 11, "{words:?}");
    }
    let old = json!({"schemaVersion": 1, "name": "old", "tag": "v1", "architecture": "amd64", "fsLayers": [], "history": []});
    let schema1 = "application/vnd.docker.distribution.manifest.v1+json";
    registry.push_document("old", Some("v1"), schema1, old.to_string().as_bytes());
    let ran = orlop(&app, &["pull", &format!("{}/old:v1", registry.host())]).await;
    assert_eq!(ran.exit_code(), 11, "{}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_fails_says_what_would_help() {
    let refused = "forbidden.example";
    let app = TestApp::with(On::Sqlite, &[("denied_registries", refused)]).await;
    let registry = FixtureRegistry::start().await;
    let told = async |words: &[&str]| {
        let ran = orlop(&app, words).await;
        assert_ne!(ran.exit_code(), 0);
        ran.stderr
    };
    for words in [&["pull", "forbidden.example/a"][..], &["pull", "--dry-run", "forbidden.example/a"]] {
        let error = told(words).await;
        assert!(
            error.contains("pull from `forbidden.example`: its setting denied_registries names it"),
            "{error}"
        );
        assert!(error.contains("\n  try: ") && error.contains("allowed_registries"), "{error}");
        assert!(!error.contains("ORLOP_TOKEN"), "{error}");
    }
    let error = told(&["registry", "test", refused]).await;
    assert!(!error.contains("/x`") && !error.contains("ORLOP_TOKEN"), "{error}");

    let error = told(&["pull", "169.254.169.254/foo:1"]).await;
    assert!(error.contains("is never contacted") && !error.contains("private_registries"), "{error}");

    let manifest = registry.push_image("lost", None, "linux/amd64", &[b"here"]);
    let mut manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
    manifest["layers"][0]["digest"] = sha256(b"gone").into();
    registry.push_document("lost", Some("v1"), MANIFEST, manifest.to_string().as_bytes());
    let error = told(&["pull", &format!("{}/lost:v1", registry.host())]).await;
    assert!(error.contains(&format!("does not have the blob {}", sha256(b"gone"))), "{error}");
    assert!(error.contains("a part of its own image") && !error.contains("spelt"), "{error}");

    let empty = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).to_string();
    registry.push_document("empty", Some("v1"), INDEX, empty.as_bytes());
    let error = told(&["pull", &format!("{}/empty:v1", registry.host())]).await;
    assert!(
        error.contains("names no platform at all") && error.contains("try: there is nothing in it"),
        "{error}"
    );

    let error = told(&["pull", "127.0.0.1:15000"]).await;
    assert!(
        error.contains("no repository") && error.contains("docker.io/library/127.0.0.1:15000"),
        "{error}"
    );
    let error = told(&["registry", "get", "nobody.example"]).await;
    assert!(error.contains("orlop registry ls") && !error.contains("--namespace"), "{error}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_found_by_the_beginning_of_its_id_and_speaks_of_flags() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    push(&registry, b"one");
    let reference = format!("{}/app:v1", registry.host());
    let id = orlop(&app, &["pull", "--detach", &reference]).await.expect_success().trim().to_owned();
    app.get(format!("/api/v1/pulls/{id}?wait=60s")).await.expect(200);
    for beginning in [&id[..20], &id["pull_".len()..20]] {
        let told = orlop(&app, &["pulls", "get", beginning]).await.expect_success();
        assert!(told.contains(&format!("id        {id}\n")) && told.contains("attempt   1\n"), "{told}");
    }
    let ran = orlop(&app, &["pulls", "get", "pull_zzzzzz"]).await;
    assert_eq!((ran.exit_code(), ran.stderr.contains("begins so")), (4, true), "{}", ran.stderr);
    let ran = orlop(&app, &["pulls", "trace", &id]).await;
    let words = "the pull keeps no trace: ask for one with --trace when it is made";
    assert!(ran.stderr.contains(words) && !ran.stderr.contains("try:"), "{}", ran.stderr);
    let told = orlop(&app, &["status", "--namespace", "build"]).await.expect_success();
    assert!(told.contains("no pull is active in namespace build"), "{told}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misspelt_variable_asks_no_other_server() {
    for words in [&["health"][..], &["ls"], &["pull", "alpine"]] {
        let ran = orlop_with(&[("ORLOP_SERVR", "http://127.0.0.1:1")], words).await;
        let wrong =
            "error: read the environment\n  ORLOP_SERVR is not a setting; did you mean `ORLOP_SERVER`?\n";
        assert_eq!((ran.exit_code(), ran.stderr.as_str()), (2, wrong));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_that_cancels_does_so_to_every_pull_of_the_command() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    registry.fail("/v2/", Fault::Silent, usize::MAX);
    let references = ["a", "b", "c"].map(|name| format!("{}/{name}:v1", registry.host()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
    command.env_clear().env("ORLOP_SERVER", format!("http://{}", app.address()));
    command.args(["pull", "--cancel-on-interrupt"]).args(&references);
    let mut child = Background(command.stderr(Stdio::null()).spawn().expect("it starts"));
    let all_are = async |state: &str| {
        eventually(state, async || {
            let pulls = app.get("/api/v1/pulls").await.expect(200).json();
            let pulls = pulls["items"].as_array().expect("a list");
            (pulls.len() == 3 && pulls.iter().all(|pull| pull["state"] == state)).then_some(())
        })
        .await;
    };
    all_are("running").await;
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it listens");
    all_are("cancelled").await;
    let ended = eventually("it ends", async || child.0.try_wait().expect("its state")).await;
    assert_eq!(ended.code(), Some(130));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_unpacked_as_it_comes_or_once_it_is_here() {
    let app = TestApp::start().await;
    let image = pushed(&three_layers()).await;
    let (top, blob) = (image.chain.last().expect("a top"), sha256(&image.blobs[2]));
    let told = format!("unpacked linux/amd64 as {top}\n");
    let pull = ["pull", &image.reference, "--name", "rope", "--platform", "linux/amd64"];
    let ran = orlop(&app, &pull).await;
    assert_eq!((ran.exit_code(), ran.stderr.as_str()), (0, ""));
    app.delete(format!("/api/v1/content/{blob}?force=true")).await.expect(204);
    let ran = orlop(&app, &["unpack", "rope"]).await;
    assert_eq!(ran.exit_code(), 5, "{}", ran.stderr);
    assert!(ran.stderr.contains(&blob), "{}", ran.stderr);
    let ran = orlop(&app, &[&pull[..], &["--unpack"]].concat()).await;
    assert_eq!((ran.exit_code(), ran.stderr.as_str()), (0, told.as_str()));
    let digest = ran.stdout.trim().split_once(' ').expect("a name and a digest").1.to_owned();
    for what in ["rope", digest.as_str()] {
        let ran = orlop(&app, &["unpack", what, "--platform", "linux/amd64"]).await;
        assert_eq!((ran.stdout, ran.stderr), (format!("{top}\n"), told.clone()));
    }
    let ran = orlop(&app, &["unpack", "rope", "--detach"]).await;
    assert!(ran.stdout.starts_with("unpack_"), "{}", ran.stdout);
    let ran = orlop(&app, &["ls", "snapshots", "-q", "--sort", "key"]).await;
    let mut keys = image.chain.clone();
    keys.sort();
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), keys);
    let ran = orlop(&app, &["unpack", "nothing"]).await;
    assert_eq!(ran.exit_code(), 4, "{}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unpack_shows_its_layers_on_their_way() {
    let app = TestApp::start().await;
    let image = pushed(&[many_files(5_000)]).await;
    let pull = ["pull", &image.reference, "--name", "rope", "--platform", "linux/amd64"];
    orlop(&app, &pull).await.expect_success();
    let ran = orlop(&app, &["unpack", "rope", "--progress", "bar"]).await;
    assert_eq!(ran.stdout, format!("{}\n", image.chain[0]), "{}", ran.stderr);
    let short = &sha256(&image.blobs[0])["sha256:".len()..][..12];
    assert!(ran.stderr.contains(&format!("  {short}  layer     [")), "{}", ran.stderr);
    let told = format!("  100 %  succeeded\nunpacked linux/amd64 as {}\n", image.chain[0]);
    assert!(ran.stderr.ends_with(&told), "{}", ran.stderr);
    let ran = orlop(&app, &["unpack", "rope", "--progress", "plain"]).await;
    assert!(ran.stderr.contains("rope  succeeded\n"), "{}", ran.stderr);
    app.stop().await;
}
