//! What one snapshot has that another has not becomes a layer, and layers go onto snapshots that are being built
//! (containerd's diff service; its cases of `DiffTar` by their names).

use futures_util::StreamExt;
use orlop::oci::tar::Entry;
use orlop::oci::tree::{Device, DeviceClass};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::app::{TestApp, story};
use crate::support::fixture_registry::sha256;
use crate::support::unpacking::{Tar, gzip, read};

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

async fn prepare(app: &TestApp, key: &str, parent: Option<&str>) {
    let mut body = json!({"key": key});
    if let Some(parent) = parent {
        body["parent"] = parent.into();
    }
    app.post("/api/v1/snapshots").json(body).await.expect(201);
}

async fn store(app: &TestApp, layer: Vec<u8>) -> String {
    let stored = app.post("/api/v1/content").body(layer).await.json();
    stored["digest"].as_str().expect("a digest").to_owned()
}

async fn apply(app: &TestApp, key: &str, tar: Vec<u8>) -> Value {
    let layer = store(app, gzip(&tar)).await;
    let asked = json!({"digest": layer, "snapshot": key});
    let applied = app.post("/api/v1/diffs/apply").json(asked).await.expect(200).json();
    let size = tar.len();
    assert_eq!(applied, json!({"media_type": PLAIN, "digest": sha256(&tar), "size": size}));
    applied
}

async fn commit(app: &TestApp, key: &str, name: &str) {
    app.post(format!("/api/v1/snapshots/{key}/commit")).json(json!({"name": name})).await.expect(201);
}

/// A committed snapshot of these layers.
async fn built(app: &TestApp, name: &str, parent: Option<&str>, tars: &[Vec<u8>]) {
    let key = format!("{name}-active");
    prepare(app, &key, parent).await;
    for tar in tars {
        apply(app, &key, tar.clone()).await;
    }
    commit(app, &key, name).await;
}

async fn diff(app: &TestApp, mut asked: Value) -> Value {
    if asked.get("media_type").is_none() {
        asked["media_type"] = PLAIN.into();
    }
    let answer = app.post("/api/v1/diffs").json(asked).await;
    assert!(matches!(answer.status, 200 | 201), "{answer}");
    answer.json()
}

async fn bytes(app: &TestApp, content: &Value) -> Vec<u8> {
    let digest = content["digest"].as_str().expect("a digest");
    app.get(format!("/api/v1/content/{digest}/data")).await.expect(200).body.to_vec()
}

/// The entries of a plain layer: type, path, what stands in it or where it leads.
async fn entries(app: &TestApp, content: &Value) -> Vec<String> {
    let mut archive = tokio_tar::Archive::new(std::io::Cursor::new(bytes(app, content).await));
    let mut entries = archive.entries().expect("an archive");
    let mut lines = Vec::new();
    while let Some(entry) = entries.next().await {
        let mut entry = entry.expect("a good entry");
        let kind = char::from(entry.header().entry_type().as_byte());
        let path = entry.path().expect("a path").display().to_string();
        let link = entry.link_name().expect("a link").map(|link| link.display().to_string());
        let mut text = String::new();
        entry.read_to_string(&mut text).await.expect("text");
        let what = link.map_or(text, |link| format!("-> {link}"));
        lines.push(format!("{kind} {path} {what}").trim_end().to_owned());
    }
    lines
}

async fn archive(app: &TestApp, key: &str) -> Vec<u8> {
    app.get(format!("/api/v1/snapshots/{key}/archive")).await.expect(200).body.to_vec()
}

fn base() -> Vec<u8> {
    Tar::default()
        .dir("./", 0o755)
        .dir("etc", 0o755)
        .file("etc/motd", "one")
        .file("etc/hosts", "hosts")
        .dir("usr", 0o755)
        .dir("usr/bin", 0o755)
        .file("usr/bin/sh", "sh")
        .link("usr/bin/dash", "usr/bin/sh")
        .dir("var", 0o755)
        .dir("var/cache", 0o755)
        .file("var/cache/x", "x")
        .end()
}

story!(a_layer_has_what_changed_and_the_directories_above_it, async |app| {
    built(app, "base", None, &[base()]).await;
    // EmptyDiff
    prepare(app, "same", Some("base")).await;
    assert_eq!(entries(app, &diff(app, json!({"upper": "same"})).await).await, [""; 0]);
    // ParentInclusion, UpdateDirectoryPermission, WhiteoutIncludesParents, WhiteoutParentRemoval
    prepare(app, "next", Some("base")).await;
    let next = Tar::default()
        .file("etc/motd", "two")
        .file("etc/new", "new")
        .dir("usr/bin", 0o700)
        .file("var/.wh.cache", "")
        .entry("var/run", Entry::Symlink(b"/run"), 0o777, b"")
        .end();
    apply(app, "next", next).await;
    let made = diff(app, json!({"upper": "next"})).await;
    let expected = [
        "5 etc/",
        "0 etc/motd two",
        "0 etc/new new",
        "5 usr/",
        "5 usr/bin/",
        "5 var/",
        "0 var/.wh.cache",
        "2 var/run -> /run",
    ];
    assert_eq!(entries(app, &made).await, expected);
    // Between two that do not stand on each other, the same files are the same.
    built(app, "other", None, &[base()]).await;
    let between = diff(app, json!({"lower": "other", "upper": "next"})).await;
    assert_eq!(between["digest"], made["digest"]);
    let back = diff(app, json!({"lower": "next", "upper": "other"})).await;
    let expected = [
        "5 etc/",
        "0 etc/motd one",
        "0 etc/.wh.new",
        "5 usr/",
        "5 usr/bin/",
        "5 var/",
        "5 var/cache/",
        "0 var/cache/x x",
        "0 var/.wh.run",
    ];
    assert_eq!(entries(app, &back).await, expected);
    let whole = diff(app, json!({"upper": "other", "whole": true})).await;
    let expected = [
        "5 ./",
        "5 etc/",
        "0 etc/hosts hosts",
        "0 etc/motd one",
        "5 usr/",
        "5 usr/bin/",
        "0 usr/bin/dash sh",
        "1 usr/bin/sh -> usr/bin/dash",
        "5 var/",
        "5 var/cache/",
        "0 var/cache/x x",
    ];
    assert_eq!(entries(app, &whole).await, expected);
    assert_eq!(diff(app, json!({"upper": "other"})).await["digest"], whole["digest"]);
});

story!(names_of_one_file_stay_names_of_one_file, async |app| {
    built(app, "base", None, &[base()]).await;
    // HardlinkParentInclusion, HardlinkUpdatedParent: what has a further name is told by all its names.
    prepare(app, "linked", Some("base")).await;
    apply(app, "linked", Tar::default().dir("usr/bin", 0o755).link("etc/sh", "usr/bin/sh").end()).await;
    let made = diff(app, json!({"upper": "linked"})).await;
    let expected =
        ["5 etc/", "0 etc/sh sh", "5 usr/", "5 usr/bin/", "0 usr/bin/dash sh", "1 usr/bin/sh -> etc/sh"];
    assert_eq!(entries(app, &made).await, expected);
    // What was one file and is two is told, though every byte is as it was.
    prepare(app, "torn", Some("base")).await;
    let torn = Tar::default().entry("usr/bin/dash", Entry::File { size: 2 }, 0o644, b"sh").end();
    apply(app, "torn", torn).await;
    let lines = entries(app, &diff(app, json!({"upper": "torn"})).await).await;
    assert!(lines.contains(&"0 usr/bin/dash sh".to_owned()), "{lines:?}");
    commit(app, "torn", "torn-base").await;
    built(app, "again", None, &[base()]).await;
    let lines = entries(app, &diff(app, json!({"lower": "torn-base", "upper": "again"})).await).await;
    assert_eq!(lines, ["5 usr/", "5 usr/bin/", "0 usr/bin/dash sh", "1 usr/bin/sh -> usr/bin/dash"]);
});

story!(a_layer_is_the_same_each_time_and_named_by_what_it_is, async |app| {
    built(app, "base", None, &[base()]).await;
    let plain = diff(app, json!({"upper": "base"})).await;
    let tar = bytes(app, &plain).await;
    for (media_type, magic) in [(PLAIN, &b"./"[..]), (GZIP, b"\x1f\x8b"), (ZSTD, b"\x28\xb5\x2f\xfd")] {
        let asked = json!({"upper": "base", "media_type": media_type, "labels": {"team": "cargo"}});
        let made = app.post("/api/v1/diffs").json(asked.clone()).await;
        assert_eq!(made.status, if media_type == PLAIN { 200 } else { 201 });
        let content = made.json();
        assert!(bytes(app, &content).await.starts_with(magic));
        assert_eq!(content["media_type"], media_type);
        assert_eq!(content["labels"]["containerd.io/uncompressed"], sha256(&tar));
        assert_eq!(
            made.header("location"),
            format!("/api/v1/content/{}", content["digest"].as_str().expect("a digest"))
        );
        assert_eq!(
            app.post("/api/v1/diffs").json(asked).await.expect(200).json()["digest"],
            content["digest"]
        );
        // It is a layer: what it was made of is what it makes.
        let key = format!("of-{}", &content["digest"].as_str().expect("a digest")[7..15]);
        prepare(app, &key, None).await;
        let asked = json!({"digest": content["digest"], "snapshot": key, "diff_id": sha256(&tar)});
        app.post("/api/v1/diffs/apply").json(asked).await.expect(200);
        assert!(archive(app, &key).await == archive(app, "base").await, "{media_type}");
    }
    let default = app.post("/api/v1/diffs").json(json!({"upper": "base"})).await.expect(200).json();
    assert_eq!(default["media_type"], GZIP);
});

story!(no_file_of_a_layer_is_younger_than_the_build_says, async |app| {
    built(app, "base", None, &[base()]).await;
    prepare(app, "next", Some("base")).await;
    apply(app, "next", Tar::default().file("etc/new", "new").file("etc/.wh.motd", "").end()).await;
    let times = async |asked: Value| {
        let content = diff(app, asked).await;
        let mut archive = tokio_tar::Archive::new(std::io::Cursor::new(bytes(app, &content).await));
        let mut entries = archive.entries().expect("an archive");
        let mut times = Vec::new();
        while let Some(entry) = entries.next().await {
            times.push(entry.expect("a good entry").header().mtime().expect("a time"));
        }
        times
    };
    assert_eq!(times(json!({"upper": "next"})).await, [1_700_000_000, 0, 1_700_000_000]);
    let epoch = json!({"upper": "next", "source_date_epoch": 1_600_000_000});
    assert_eq!(times(epoch).await, [1_600_000_000; 3]);
    let late = json!({"upper": "next", "source_date_epoch": 1_800_000_000});
    assert_eq!(times(late).await, [1_700_000_000, 1_800_000_000, 1_700_000_000]);
});

story!(a_layer_goes_onto_what_is_there_as_the_next_one, async |app| {
    built(app, "base", None, &[base()]).await;
    let null = Device { class: DeviceClass::Character, major: 1, minor: 3 };
    let layers = [
        Tar::default()
            .file("etc/motd", "two")
            .dir("opt", 0o711)
            .file("opt/a", "a")
            .file("opt/b", "b")
            .dir("dev", 0o755)
            .entry("dev/null", Entry::Device(null), 0o666, b"")
            .entry("dev/tty", Entry::Device(Device { minor: 5, ..null }), 0o666, b"")
            .end(),
        // A whiteout of what came before goes, and one of what is below stays; a directory that is made anew hides what is
        // below, and one that was a file before; a file takes the place of a directory.
        Tar::default()
            .file("opt/.wh.a", "")
            .file("etc/.wh.hosts", "")
            .file("dev/.wh.tty", "")
            .dir("usr", 0o755)
            .file("usr/.wh..wh..opq", "")
            .file("usr/lib", "lib")
            .file("var", "a file")
            .end(),
        Tar::default()
            .dir("var", 0o755)
            .file("var/new", "new")
            .file("opt/c", "c")
            .link("opt/d", "opt/b")
            .end(),
    ];
    // One upon the other in one snapshot, and each in a snapshot of its own: the same file system.
    built(app, "one", Some("base"), &layers).await;
    let mut parent = "base".to_owned();
    for (at, layer) in layers.iter().enumerate() {
        let name = format!("chain-{at}");
        built(app, &name, Some(&parent), std::slice::from_ref(layer)).await;
        parent = name;
    }
    assert!(archive(app, "one").await == archive(app, &parent).await);
    assert_eq!(read(app, "one", "etc/motd").await, "two");
    for gone in ["opt/a", "etc/hosts", "usr/bin/sh", "var/cache/x", "dev/tty"] {
        assert_eq!(read(app, "one", gone).await, "404 not-found", "{gone}");
    }
    let device = app.get("/api/v1/snapshots/one/files?path=dev/null").await.expect(200).json();
    assert_eq!(device["items"][0]["device"], json!({"major": 1, "minor": 3}));
    // And the one layer that leads there is one that leads there.
    let made = diff(app, json!({"upper": parent, "lower": "base"})).await;
    prepare(app, "round", Some("base")).await;
    let asked = json!({"digest": made["digest"], "snapshot": "round"});
    app.post("/api/v1/diffs/apply").json(asked).await.expect(200);
    assert!(archive(app, "round").await == archive(app, "one").await);
    // Without anything below, whiteouts have nothing to hide, and are no files.
    prepare(app, "alone", None).await;
    apply(app, "alone", layers[1].clone()).await;
    let files = app.get("/api/v1/snapshots/alone/files?recursive=true").await.json();
    let names: Vec<_> =
        files["items"].as_array().expect("a list").iter().map(|file| file["path"].clone()).collect();
    assert_eq!(names, ["dev", "etc", "opt", "usr", "usr/lib", "var"]);
});

story!(a_layer_that_is_refused_changes_nothing, async |app| {
    prepare(app, "active", None).await;
    apply(app, "active", base()).await;
    let before = archive(app, "active").await;
    let good = gzip(&Tar::default().file("etc/motd", "two").end());
    let cut = store(app, good[..good.len() - 5].to_vec()).await;
    let escape = store(app, Tar::default().link("etc/new", "nowhere").end()).await;
    let good = store(app, good).await;
    let other = sha256(b"other");
    let post = async |asked: Value| app.post("/api/v1/diffs/apply").json(asked).await;
    for (asked, code) in [
        (json!({"digest": cut, "snapshot": "active"}), "422 not-an-archive"),
        (json!({"digest": escape, "snapshot": "active"}), "422 validation-failed"),
        (json!({"digest": good, "snapshot": "active", "diff_id": other}), "422 validation-failed"),
        (json!({"digest": other, "snapshot": "active"}), "404 not-found"),
        (json!({"digest": good, "snapshot": "nobody"}), "404 not-found"),
        (json!({"digest": good}), "400 invalid-argument"),
        (json!({"digest": "x", "snapshot": "active"}), "400 invalid-argument"),
    ] {
        assert_eq!(post(asked.clone()).await.to_string(), code, "{asked}");
    }
    assert!(archive(app, "active").await == before);
    commit(app, "active", "done").await;
    app.post("/api/v1/snapshots")
        .json(json!({"key": "view", "parent": "done", "kind": "view"}))
        .await
        .expect(201);
    for key in ["done", "view"] {
        let refused = post(json!({"digest": good, "snapshot": key})).await;
        assert_eq!(refused.to_string(), "409 invalid-state");
    }
    assert!(archive(app, "done").await == before);
});

story!(a_diff_that_cannot_be_made_stores_nothing, async |app| {
    let made = app.post("/api/v1/snapshots").json(json!({"key": "active"})).await.expect(201).json();
    let fs = std::path::PathBuf::from(made["mounts"][0]["source"].as_str().expect("a directory"));
    // IgnoreSockets
    let _socket = std::os::unix::net::UnixListener::bind(fs.join("socket")).expect("bound");
    std::fs::write(fs.join("a"), "a").expect("written");
    assert_eq!(entries(app, &diff(app, json!({"upper": "active"})).await).await, ["5 ./", "0 a a"]);
    std::fs::write(fs.join(".wh.b"), "b").expect("written");
    let post = async |asked: Value| app.post("/api/v1/diffs").json(asked).await;
    for (asked, code) in [
        (json!({"upper": "active"}), "422 validation-failed"),
        (json!({"upper": "nobody"}), "404 not-found"),
        (json!({"upper": "active", "lower": "nobody"}), "404 not-found"),
        (json!({"upper": "active", "lower": "active", "whole": true}), "400 invalid-argument"),
        (json!({"upper": "active", "media_type": "application/x-tar"}), "400 invalid-argument"),
        (json!({"upper": "active", "labels": {"": "x"}}), "400 invalid-argument"),
        (json!({"upper": "active", "source_date_epoch": -1}), "400 invalid-argument"),
        (json!({}), "400 invalid-argument"),
    ] {
        assert_eq!(post(asked.clone()).await.to_string(), code, "{asked}");
    }
    let stored = app.get("/api/v1/content").await.json();
    assert_eq!(stored["items"].as_array().map(Vec::len), Some(1), "{stored}");
    let ingests = app.get("/api/v1/ingests").await.json();
    assert_eq!(ingests["items"], json!([]));
});
