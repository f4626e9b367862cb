//! Files of images, layers and snapshots, as a person asks for them.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::command::{Ran, orlop};
use crate::support::fixture_registry::sha256;
use crate::support::pulling::pulled;
use crate::support::unpacking::{Pushed, many_files, pushed, pushed_platforms, three_layers};

/// A name with a port and a tag, whose colons begin no path.
const NAME: &str = "localhost:5000/app:1.2";

/// A server with an image of three layers that nobody has unpacked.
async fn with_image() -> (TestApp, Pushed) {
    let app = TestApp::start().await;
    let image = pushed(&three_layers()).await;
    pulled(&app, json!({"ref": image.reference, "image_name": NAME, "platforms": ["linux/amd64"]})).await;
    (app, image)
}

fn said(ran: &Ran) -> (i32, &str, &str) {
    (ran.exit_code(), &ran.stdout, &ran.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_read_out_of_an_image_or_a_layer() {
    let (app, image) = with_image().await;
    let cat = async |place: &str| orlop(&app, &["cat", place]).await;
    assert_eq!(said(&cat(&format!("{NAME}:/etc/motd")).await), (0, "two", ""));
    let lowest = sha256(&image.blobs[0]);
    for layer in [lowest.as_str(), &lowest[..20], &lowest["sha256:".len()..][..8]] {
        assert_eq!(said(&cat(&format!("{layer}:/etc/motd")).await), (0, "one", ""));
    }
    // A name that a layer gives to a file of one below it.
    assert_eq!(said(&cat(&format!("{NAME}:/bin/bash")).await), (0, "sh", ""));
    for (range, part) in [("0-0", "t"), ("1-", "wo"), ("-1", "o")] {
        let ran = orlop(&app, &["cat", &format!("{NAME}:/etc/motd"), "--range", range]).await;
        assert_eq!(said(&ran), (0, part, ""));
    }
    // Without a path: the bytes of the layer itself, unchanged.
    let ran = cat(&lowest).await;
    assert!(ran.bytes == image.blobs[0], "{}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_of_the_platform_that_is_asked_for() {
    let (app, registry) = (TestApp::start().await, pushed_platforms().await);
    let reference = format!("{}/app:v1", registry.host());
    pulled(&app, json!({"ref": reference, "image_name": "app:1", "all_platforms": true})).await;
    for architecture in ["amd64", "arm64"] {
        let platform = format!("linux/{architecture}");
        let ran = orlop(&app, &["cat", "app:1:/arch", "--platform", &platform]).await;
        assert_eq!(said(&ran), (0, architecture, ""));
    }
    let ran = orlop(&app, &["cat", "app:1:/arch", "--platform", "linux/s390x"]).await;
    assert_eq!((ran.exit_code(), ran.stderr.contains("--platform")), (4, true), "{}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_says_what_would_be_one() {
    let (app, image) = with_image().await;
    let layer = sha256(&image.blobs[0]);
    for (place, exit, words) in [
        (format!("{NAME}:/etc/gone"), 4, "try: orlop tree REF:/DIRECTORY"),
        (format!("{NAME}:/etc"), 2, "a directory: it has no bytes to read"),
        (
            NAME.to_owned(),
            2,
            "try: orlop cat localhost:5000/app:1.2:/PATH; orlop tree localhost:5000/app:1.2",
        ),
        (format!("{}:/etc/motd", image.config), 2, "orlop image tag sha256:"),
        ("nothing:/etc/motd".to_owned(), 4, "neither an image nor a digest"),
        ("/etc/motd".to_owned(), 2, "write REF:/etc/motd"),
    ] {
        let ran = orlop(&app, &["cat", &place]).await;
        assert_eq!((ran.exit_code(), ran.stdout.as_str()), (exit, ""), "{place}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{place}: {}", ran.stderr);
    }
    let ran = orlop(&app, &["cat", &format!("{layer}:/etc/motd"), "--platform", "linux/amd64"]).await;
    assert_eq!((ran.exit_code(), ran.stderr.contains("--platform chooses in an image")), (2, true));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_shows_what_an_image_has() {
    let (app, image) = with_image().await;
    let tree = async |words: &[&str]| orlop(&app, &[&["tree"], words].concat()).await;
    let ran = tree(&[NAME]).await;
    assert_snapshot!(ran.stdout, @r"
    localhost:5000/app:1.2
    ├── bin/
    │   ├── bash  2 B
    │   └── sh  2 B
    └── etc/
        ├── motd  3 B
        └── new  5 B
    ");
    assert_eq!(ran.stderr, "2 directories, 4 files\n");
    assert_snapshot!(tree(&[NAME, "-L", "1"]).await.stdout, @r"
    localhost:5000/app:1.2
    ├── bin/
    └── etc/
    ");
    assert_snapshot!(tree(&[&format!("{NAME}:/etc"), "--deleted"]).await.stdout, @r"
    localhost:5000/app:1.2:/etc
    ├── gone  deleted
    ├── motd  3 B
    └── new  5 B
    ");
    assert_snapshot!(tree(&[&format!("{NAME}:/etc/motd")]).await.stdout, @r"
    localhost:5000/app:1.2:/etc/motd
    └── motd  3 B
    ");
    assert_snapshot!(tree(&[&format!("{NAME}:/bin/"), "--flat"]).await.stdout, @r"
    -rw-r--r-- 0/0                   2 2023-11-14 22:13:20 bin/bash
    -rw-r--r-- 0/0                   2 2023-11-14 22:13:20 bin/sh
    ");
    // Of a layer alone also what it deletes, and names of files that it has not.
    let top = sha256(&image.blobs[2]);
    assert_snapshot!(tree(&[&format!("{top}:/bin")]).await.stdout.replace(&top, "[top]"), @r"
    [top]:/bin
    └── bash  further name of bin/sh
    ");
    let layer = sha256(&image.blobs[1]);
    let shown = tree(&[&layer]).await.stdout.replace(&layer, "[layer]");
    assert_snapshot!(shown, @r"
    [layer]
    └── etc/
        ├── gone  deleted
        └── motd  3 B
    ");
    let listed: Value = serde_json::from_str(&tree(&[NAME, "--json", "-L", "2"]).await.stdout).expect("JSON");
    let paths: Vec<&Value> =
        listed["items"].as_array().expect("a list").iter().map(|item| &item["path"]).collect();
    assert_eq!(paths, ["bin", "bin/bash", "bin/sh", "etc", "etc/motd", "etc/new"]);
    let ran = tree(&[&format!("{NAME}:/lost")]).await;
    assert_eq!((ran.exit_code(), ran.stdout.as_str()), (4, ""), "{}", ran.stderr);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_many_pages_is_shown_to_its_end() {
    let app = TestApp::start().await;
    let image = pushed(&[many_files(2_500)]).await;
    pulled(&app, json!({"ref": image.reference, "image_name": NAME, "platforms": ["linux/amd64"]})).await;
    let ran = orlop(&app, &["tree", NAME]).await;
    assert_eq!(ran.stderr, "25 directories, 2500 files\n");
    assert_eq!(ran.stdout.lines().count(), 1 + 25 + 2_500);
    assert!(ran.stdout.ends_with("    └── f999  1 B\n"), "the last one of the last directory");
    let ran = orlop(&app, &["tree", NAME, "--json"]).await.expect_success();
    let listed: Value = serde_json::from_str(&ran).expect("JSON");
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2_525));
    app.stop().await;
}
