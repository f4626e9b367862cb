//! `orlop image` and its neighbours, as a person types them.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::command::orlop;
use crate::support::fixture_registry::FixtureRegistry;
use crate::support::image::{Image, Kind, Layer};

/// A server with one small image under the name that a pull of `alpine:3.22` gives it.
async fn with_alpine() -> TestApp {
    let app = TestApp::start().await;
    let layer = Layer::new(Kind::Oci, &[("rope", b"30 m")]).await;
    app.put_image("docker.io/library/alpine:3.22", &Image::new(Kind::Oci, "linux/amd64", vec![layer])).await;
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_goes_by_the_short_name_that_it_was_pulled_by() {
    let app = with_alpine().await;
    let directory = tempfile::tempdir().expect("a directory");
    let archive = directory.path().join("alpine.tar");
    let archive = archive.to_str().expect("a path");
    orlop(&app, &["image", "tag", "alpine:3.22", "alpine:stable"]).await.expect_success();
    for words in [
        &["image", "check", "alpine:3.22"][..],
        &["image", "inspect", "alpine:3.22"],
        &["image", "history", "alpine:3.22"],
        &["image", "usage", "library/alpine:3.22"],
        &["image", "label", "alpine:3.22", "team=harbour"],
        &["image", "export", "alpine:3.22", "-o", archive],
        // The name as it stands comes first.
        &["image", "check", "alpine:stable"],
    ] {
        orlop(&app, words).await.expect_success();
    }
    let removed = orlop(&app, &["image", "rm", "alpine:3.22", "--yes"]).await.expect_success();
    assert_eq!(removed, "docker.io/library/alpine:3.22\n");
    let ran = orlop(&app, &["image", "check", "alpine:3.22"]).await;
    assert_eq!(ran.status.code(), Some(4));
    assert!(
        ran.stderr.contains("there is no such image, nor docker.io/library/alpine:3.22"),
        "{}",
        ran.stderr
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_is_named_and_no_network_blamed() {
    let app = with_alpine().await;
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path().to_str().expect("a path").to_owned();
    for words in [&["image", "import", &here], &["put", &here][..]] {
        let ran = orlop(&app, words).await;
        assert_eq!(ran.status.code(), Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("\n  {here} is a directory")), "{}", ran.stderr);
    }
    let lost = format!("{here}/lost/alpine.tar");
    let ran = orlop(&app, &["image", "export", "alpine:3.22", "-o", &lost]).await;
    assert_eq!(ran.status.code(), Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("there is no directory {here}/lost")), "{}", ran.stderr);
    assert!(!ran.stderr.contains(".part"), "{}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_list_has_its_header_and_one_platform_no_sum() {
    let app = with_alpine().await;
    assert_eq!(orlop(&app, &["ls", "pulls"]).await.expect_success().split_whitespace().count(), 5);
    assert_eq!(orlop(&app, &["ls", "pulls", "-q"]).await.expect_success().trim(), "");
    let check = async |words: &[&str]| {
        orlop(&app, &[&["image", "check", "alpine:3.22"], words].concat()).await.expect_success()
    };
    assert!(check(&[]).await.contains("(all)"));
    let one = check(&["--platform", "linux/amd64"]).await;
    assert!(one.lines().count() == 2 && !one.contains("(all)"), "{one}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_too_short_and_a_pull_that_ended_say_what_to_do() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    let ran = orlop(&app, &["pulls", "get", "pull_01"]).await;
    assert_eq!(ran.status.code(), Some(2));
    assert!(ran.stderr.contains("give six or more of its first characters"), "{}", ran.stderr);
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"rope"]);
    let reference = format!("{}/app:v1", registry.host());
    for words in [&["pull"][..], &["pull", "--dry-run"]] {
        let ran = orlop(&app, &[words, &["--platform", "linux/arm64", &reference]].concat()).await;
        assert_eq!(ran.status.code(), Some(11), "{}", ran.stderr);
        assert!(ran.stderr.ends_with("\n  try: ask for one of those with --platform\n"), "{}", ran.stderr);
    }
    let pulls = app.get("/api/v1/pulls").await.expect(200).json();
    let id = pulls["items"][0]["id"].as_str().expect("an id").to_owned();
    let told = orlop(&app, &["pulls", "get", &id]).await.expect_success();
    assert!(told.contains("state     failed\n") && !told.contains("phase"), "{told}");
    assert!(told.contains("/unknown  failed"), "{told}");
    let listed = orlop(&app, &["pulls", "ls"]).await.expect_success();
    assert!(listed.contains("/unknown"), "{listed}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_leaves_layers_out_says_so_once() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    let config = registry.push_image("app", None, "linux/amd64", &[b"rope"]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&config).expect("a manifest");
    manifest["layers"].as_array_mut().expect("layers").push(json!({
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": format!("sha256:{}", "a".repeat(64)), "size": 2048,
    }));
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    registry.push_document("app", Some("v1"), media_type, manifest.to_string().as_bytes());
    let reference = format!("{}/app:v1", registry.host());
    let ran = orlop(&app, &["pull", &reference, "--name", "a", "--platform", "linux/amd64"]).await;
    let note =
        "a is without a layer of restricted distribution (2.0 KiB): --foreign-layers fetch takes them\n";
    assert_eq!(ran.stderr, note, "{}", ran.stdout);
    app.stop().await;
}
