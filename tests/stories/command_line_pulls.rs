//! `orlop pull` as a person uses it beside others: what it joins, what it leaves, and what it says when it fails.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::command::{Background, Ran, run};
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{Fault, FixtureRegistry, LAYER, descriptor};
use crate::support::pulling::PULLS;

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

/// The states of all pulls, by the tag of what they pull.
async fn states(app: &TestApp) -> Vec<(String, String)> {
    let pulls = app.get(PULLS).await.expect(200).json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let tag = |name: String| name.rsplit_once(':').map(|(_, tag)| tag.to_owned()).expect("a tag");
    let pull = |pull: &Value| (tag(text(&pull["ref"])), text(&pull["state"]));
    let mut states: Vec<_> = pulls["items"].as_array().expect("a list").iter().map(pull).collect();
    states.sort();
    states
}

fn pair(tag: &str, state: &str) -> (String, String) {
    (tag.to_owned(), state.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_that_cancels_leaves_the_pulls_of_others_alone() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    registry.fail("/v2/", Fault::Silent, usize::MAX);
    let [theirs, ours] = ["theirs", "ours"].map(|tag| format!("{}/app:{tag}", registry.host()));
    let made = app.post(PULLS).json(json!({"ref": theirs})).await.expect(202).json();
    let id = made["id"].as_str().expect("an id").to_owned();
    for (references, left) in [(vec![&theirs, &ours], "cancelled"), (vec![&theirs], "")] {
        let mut command = command(&app, &["pull", "--cancel-on-interrupt"]);
        command.args(&references).stderr(Stdio::piped());
        let mut child = Background(command.spawn().expect("it starts"));
        eventually("both are under way", async || {
            let running = |(_, state): &(String, String)| state == "running";
            let under_way = states(&app).await.iter().filter(|pull| running(pull)).count();
            (under_way == references.len()).then_some(())
        })
        .await;
        let pid = rustix::process::Pid::from_child(&child.0);
        let mut stderr = child.0.stderr.take().expect("it is piped");
        // It says that it has joined a pull before it listens to anything, and after it minds signals.
        let joined = format!("joined {id} which is under way\n");
        let mut told = vec![0; joined.len()];
        let mut rest = String::new();
        let reading = tokio::task::spawn_blocking(move || {
            stderr.read_exact(&mut told).expect("what it says first");
            rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it listens");
            stderr.read_to_string(&mut rest).expect("what it says then");
            (String::from_utf8(told).expect("words"), rest)
        });
        let (told, rest) = tokio::time::timeout(LIMIT, reading).await.expect("it ends").expect("it was read");
        assert_eq!(told, joined);
        assert!(rest.contains(&format!("detached: pull {id} goes on in the server")), "{rest}");
        assert_eq!(rest.contains("cancelling"), !left.is_empty(), "{rest}");
        let ended = eventually("it ends", async || child.0.try_wait().expect("its state")).await;
        assert_eq!(ended.code(), Some(130), "{rest}");
        assert_eq!(states(&app).await, [pair("ours", "cancelled"), pair("theirs", "running")]);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_named_twice_in_one_command_is_its_own() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"rope"]);
    let reference = format!("{}/app:v1", registry.host());
    // It ends when nobody is asked any more: both requests come before that.
    registry.fail("/v2/", Fault::Late(Duration::from_millis(2), Box::new(Fault::Headers(vec![]))), 4);
    let ran = orlop(&app, &["pull", "--platform", "linux/amd64", &reference, &reference]).await;
    assert_eq!((exit_code(&ran), ran.stderr.as_str(), ran.stdout.lines().count()), (0, "", 2));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_fails_names_the_job_that_can_be_tried_again() {
    let (app, registry) = (TestApp::start().await, FixtureRegistry::start().await);
    let ran = orlop(&app, &["pull", &format!("{}/nothing:v1", registry.host())]).await;
    assert_eq!(exit_code(&ran), 11, "{}", ran.stderr);
    let pulls = app.get(PULLS).await.expect(200).json();
    let id = pulls["items"][0]["id"].as_str().expect("an id");
    assert!(ran.stderr.contains(&format!(" (pull {id})\n")), "{}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_alone_is_no_image_of_docker_hub() {
    let app = TestApp::start().await;
    let digest = format!("sha256:{}", "a".repeat(64));
    let ran = orlop(&app, &["pull", &digest]).await;
    assert_eq!(exit_code(&ran), 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("needs a repository: name@sha256:…"), "{}", ran.stderr);
    app.stop().await;
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
