//! `orlop pull` as a person uses it beside others: what it joins, what it leaves, and what it says when it fails.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::command::{Ran, run};
use crate::support::fixture_registry::{FixtureRegistry, LAYER, descriptor};

const LIMIT: Duration = Duration::from_secs(60);
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn command(app: &TestApp, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
    command.env_clear().env("ORLOP_SERVER", format!("http://{}", app.address())).args(words);
    command
}

async fn orlop(app: &TestApp, words: &[&str]) -> Ran {
    let mut command = command(app, words);
    tokio::task::spawn_blocking(move || run(&mut command, LIMIT)).await.expect("it ran")
}

fn exit_code(ran: &Ran) -> i32 {
    ran.status.code().expect("it ended by itself")
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_of_any_bytes_tells_everybody_what_the_image_runs_on() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    let config =
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = config.to_string().into_bytes();
    registry.push_blob(&config);
    registry.push_blob(b"rope");
    let manifest = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": descriptor("application/octet-stream", &config), "layers": [descriptor(LAYER, b"rope")]});
    registry.push_document("app", Some("v1"), DOCKER_MANIFEST, manifest.to_string().as_bytes());
    let ran = orlop(&app, &["pull", "--name", "rope", &format!("{}/app:v1", registry.host())]).await;
    assert_eq!((exit_code(&ran), ran.stderr.as_str()), (0, "rope is for linux/amd64\n"));
    let image = app.get("/api/v1/images?name=rope").await.expect(200).json()["items"][0]["id"].clone();
    let image = image.as_str().expect("an id");
    let found = app.get(format!("/api/v1/images/{image}/manifest?platform=linux/amd64")).await.expect(200);
    assert_eq!(found.json()["platform"]["architecture"], "amd64");
    let checked = orlop(&app, &["image", "check", "rope"]).await.expect_success();
    assert!(checked.contains("\nlinux/amd64 "), "{checked}");
    let words = ["image", "export", "rope", "--platform", "linux/amd64", "-o"];
    let archive = app.data_dir().join("rope.tar");
    let to = archive.to_str().expect("a path");
    orlop(&app, &[&words[..], &[to]].concat()).await.expect_success();
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_platform_is_known_none_is_offered() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    let config = descriptor("application/vnd.cncf.helm.config.v1+json", b"{}");
    registry.push_blob(b"{}");
    let manifest = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": []});
    registry.push_document("chart", Some("v1"), DOCKER_MANIFEST, manifest.to_string().as_bytes());
    orlop(&app, &["pull", "--name", "chart", &format!("{}/chart:v1", registry.host())])
        .await
        .expect_success();
    let ran = orlop(&app, &["image", "history", "chart", "--platform", "linux/amd64"]).await;
    assert_eq!(exit_code(&ran), 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("try: leave --platform out: nothing of the image names one"),
        "{}",
        ran.stderr
    );
    let image = app.get("/api/v1/images?name=chart").await.expect(200).json()["items"][0]["id"].clone();
    let path = format!("/api/v1/images/{}/manifest?platform=linux/amd64", image.as_str().expect("an id"));
    let problem = app.get(path).await.expect(404).json();
    assert_eq!(problem["available"], json!([]));
    assert_eq!(problem["hint"], "Nothing of the image says what it runs on: ask without `platform`.");
    app.stop().await;
}
