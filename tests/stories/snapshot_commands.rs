//! `orlop snapshot`, as a person types it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::command::{orlop, run};
use crate::support::pulling::pulled;
use crate::support::unpacking::{pushed, three_layers};

async fn said(app: &TestApp, words: &[&str]) -> String {
    orlop(app, &[&["snapshot"], words].concat()).await.expect_success()
}

/// Where the files of an active snapshot on nothing are.
async fn directory(app: &TestApp, key: &str) -> PathBuf {
    let mounts: Value = serde_json::from_str(&said(app, &["mounts", key, "--json"]).await).expect("JSON");
    mounts["items"][0]["source"].as_str().expect("a source").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_prepared_written_committed_and_removed() {
    let app = TestApp::start().await;
    let ran = orlop(&app, &["snapshot", "prepare", "build-1", "--label", "stage=one"]).await;
    assert_eq!((ran.exit_code(), ran.stdout.as_str()), (0, "build-1\n"));
    assert!(ran.stderr.starts_with("kept until 20"), "{}", ran.stderr);
    let files = directory(&app, "build-1").await;
    fs::create_dir(files.join("etc")).expect("made");
    fs::write(files.join("etc/motd"), "hello").expect("written");
    let usage = said(&app, &["usage", "build-1"]).await;
    assert_eq!(usage.split_whitespace().collect::<Vec<_>>(), ["size", "5", "B", "inodes", "3"]);

    assert_eq!(said(&app, &["commit", "build-1", "app-1", "--label", "team=harbour"]).await, "app-1\n");
    let told = said(&app, &["stat", "app-1"]).await;
    let has = |words: [&str; 2]| told.lines().any(|line| line.split_whitespace().eq(words));
    assert!(has(["kind", "committed"]) && has(["parent", "-"]) && has(["label", "team=harbour"]), "{told}");
    assert_eq!(said(&app, &["label", "app-1", "team=", "stage=two"]).await, "stage=two\n");
    assert_eq!(said(&app, &["view", "look-1", "app-1"]).await, "look-1\n");
    assert_eq!(said(&app, &["files", "look-1"]).await, "look-1\n└── etc/\n    └── motd  5 B\n");
    assert_eq!(said(&app, &["files", "app-1:/etc"]).await, "app-1:/etc\n└── motd  5 B\n");
    assert_eq!(said(&app, &["ls", "-q", "--sort", "key"]).await, "app-1\nlook-1\n");

    let ran = orlop(&app, &["snapshot", "rm", "app-1", "--yes"]).await;
    assert_eq!(ran.exit_code(), 5, "something stands on it: {}", ran.stderr);
    assert_eq!(
        said(&app, &["rm", "look-1", "app-1", "--dry-run"]).await,
        "would remove snapshot look-1\nwould remove snapshot app-1\n"
    );
    assert_eq!(said(&app, &["rm", "look-1", "app-1", "--yes"]).await, "look-1\napp-1\n");
    assert_eq!(said(&app, &["ls", "-q"]).await, "");
    let ran = orlop(&app, &["snapshot", "stat", "app-1"]).await;
    assert_eq!(ran.exit_code(), 4, "{}", ran.stderr);
    let ran = orlop(&app, &["snapshot", "files", "app-1"]).await;
    assert_eq!((ran.exit_code(), ran.stderr.contains("orlop ls snapshots")), (4, true), "{}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_are_commands_for_a_shell() {
    let app = TestApp::start().await;
    said(&app, &["prepare", "build-1"]).await;
    let files = directory(&app, "build-1").await;
    let source = files.display().to_string();
    let table = said(&app, &["mounts", "build-1"]).await;
    assert_eq!(table.split_whitespace().skip(3).collect::<Vec<_>>(), ["bind", source.as_str(), "rw,rbind"]);

    // Only root mounts: what would be mounted is told by something of that name.
    let bin = tempfile::tempdir().expect("a directory");
    let mount = bin.path().join("mount");
    fs::write(&mount, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").expect("written");
    fs::set_permissions(&mount, fs::Permissions::from_mode(0o755)).expect("it may be run");
    let commands = bin.path().join("commands");
    fs::write(&commands, said(&app, &["mounts", "build-1", "-o", "sh"]).await).expect("written");
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().env("PATH", bin.path()).args(["-s", "/mnt/a b"]);
    shell.stdin(fs::File::open(&commands).expect("commands"));
    let output = shell.output().expect("a shell");
    let told = String::from_utf8(output.stdout).expect("text");
    assert_eq!(told, format!("-t\nbind\n-o\nrw,rbind\n{source}\n/mnt/a b\n"));

    let committed = said(&app, &["commit", "build-1", "app-1"]).await;
    let ran = orlop(&app, &["snapshot", "mounts", committed.trim()]).await;
    assert_eq!(ran.exit_code(), 5, "it is mounted through a view: {}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unpacked_image_goes_by_the_beginning_of_its_key() {
    let app = TestApp::start().await;
    let image = pushed(&three_layers()).await;
    let asked = json!({"ref": image.reference, "unpack": true, "platforms": ["linux/amd64"]});
    pulled(&app, asked).await;
    let top = image.chain.last().expect("a top");
    for key in [top.as_str(), &top[..19], &top["sha256:".len()..][..12]] {
        let told = said(&app, &["stat", key]).await;
        assert!(told.contains(top), "{told}");
    }
    assert_eq!(said(&app, &["prepare", "on-top", &top[..19]]).await, "on-top\n");
    let record: Value = serde_json::from_str(&said(&app, &["stat", "on-top", "--json"]).await).expect("JSON");
    assert_eq!(record["parent"], json!(top));
    let ran = orlop(&app, &["snapshot", "stat", "sha256:000000"]).await;
    assert_eq!((ran.exit_code(), ran.stderr.contains("orlop ls snapshots")), (4, true), "{}", ran.stderr);

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("x.tar");
    let path = file.to_str().expect("a path");
    said(&app, &["archive", &top[..19], "-o", path]).await;
    let listed = run(Command::new("tar").args(["-tf", path]), std::time::Duration::from_secs(60));
    assert_eq!(
        listed.expect_success().lines().collect::<Vec<_>>(),
        ["./", "./bin/", "./bin/bash", "./bin/sh", "./etc/", "./etc/motd", "./etc/new"]
    );
    let piped = orlop(&app, &["snapshot", "archive", top]).await;
    assert!(piped.bytes == fs::read(&file).expect("the archive"), "{}", piped.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_becomes_a_layer_and_a_layer_goes_onto_a_snapshot() {
    let app = TestApp::start().await;
    let image = pushed(&three_layers()).await;
    pulled(&app, json!({"ref": image.reference, "unpack": true, "platforms": ["linux/amd64"]})).await;
    let top = image.chain.last().expect("a top");
    let short = &top[..19];
    let whole = said(&app, &["diff", short, "--whole", "--packing", "zstd"]).await;
    let content = app.get(format!("/api/v1/content/{}", whole.trim())).await.expect(200).json();
    assert_eq!(content["media_type"], "application/vnd.oci.image.layer.v1.tar+zstd");
    said(&app, &["prepare", "copy"]).await;
    let applied = said(&app, &["apply", "copy", &whole.trim()[..19]]).await;
    assert_eq!(applied.trim(), content["labels"]["containerd.io/uncompressed"]);
    assert_eq!(
        said(&app, &["files", "copy:/etc", "--flat"]).await,
        said(&app, &["files", &format!("{short}:/etc"), "--flat"]).await
    );
    // From one to the other there is nothing left to tell.
    let none = said(&app, &["diff", "copy", short, "--json"]).await;
    let none: Value = serde_json::from_str(&none).expect("JSON");
    let own = said(&app, &["diff", short, short, "--json"]).await;
    assert_eq!(none["digest"], serde_json::from_str::<Value>(&own).expect("JSON")["digest"]);
    let other = format!("sha256:{}", "0".repeat(64));
    let refused = orlop(&app, &["snapshot", "apply", "copy", whole.trim(), "--diff-id", &other]).await;
    assert!(refused.exit_code() != 0 && refused.stderr.contains("and not sha256:0000"), "{}", refused.stderr);
    let refused = orlop(&app, &["snapshot", "diff", short, "copy", "--whole"]).await;
    assert_eq!(refused.exit_code(), 2, "{}", refused.stderr);
    app.stop().await;
}
