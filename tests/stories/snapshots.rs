//! Snapshots over HTTP: prepared, committed, looked into, removed (containerd's suite of snapshotters; what of it needs a
//! mount is where root is). They hold what somebody put into their directories.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::app::{TestApp, story};

const SNAPSHOTS: &str = "/api/v1/snapshots";

fn at(key: &str) -> String {
    format!("{SNAPSHOTS}/{key}")
}

async fn prepared(app: &TestApp, key: &str, parent: Option<&str>, kind: &str) -> Value {
    let mut body = json!({"key": key, "kind": kind});
    if let Some(parent) = parent {
        body["parent"] = parent.into();
    }
    app.post(SNAPSHOTS).json(body).await.expect(201).json()
}

/// Where the files of an active snapshot are, by what mounts it.
fn directory(prepared: &Value) -> PathBuf {
    let mount = &prepared["mounts"][0];
    let upper = mount["options"].as_array().expect("options").iter().find_map(|option| {
        option.as_str().and_then(|option| option.strip_prefix("upperdir=")).map(PathBuf::from)
    });
    upper.unwrap_or_else(|| mount["source"].as_str().expect("a source").into())
}

async fn committed(app: &TestApp, key: &str, name: &str) -> Value {
    app.post(format!("{}/commit", at(key))).json(json!({"name": name})).await.expect(201).json()
}

/// A committed snapshot with one file, on another one.
async fn layer(app: &TestApp, name: &str, parent: Option<&str>, file: &str, text: &str) -> Value {
    let active = prepared(app, &format!("{name}-active"), parent, "active").await;
    std::fs::write(directory(&active).join(file), text).expect("written");
    committed(app, &format!("{name}-active"), name).await
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item["key"].as_str().expect("a key").to_owned()).collect()
}

story!(a_snapshot_is_prepared_written_committed_and_looked_at, async |app| {
    let made = app.post(SNAPSHOTS).json(json!({"key": "a", "labels": {"team": "cargo"}})).await.expect(201);
    let active = made.json();
    let now = app.clock.now().to_string();
    let (kind, options) = (&active["mounts"][0]["type"], &active["mounts"][0]["options"]);
    assert_eq!((kind, options), (&json!("bind"), &json!(["rw", "rbind"])));
    let mut shown = active.clone();
    shown.as_object_mut().expect("an object").remove("mounts");
    let expected = json!({
        "key": "a", "namespace": "default", "kind": "active", "parent": null, "diff_id": null, "size": null,
        "inodes": null, "labels": {"team": "cargo"}, "created_at": now, "updated_at": now,
    });
    assert_eq!(shown, expected);
    assert_eq!(made.header("location"), at("a"));
    assert_eq!(app.get(at("a")).await.expect(200).json(), expected);
    assert_eq!(app.get(format!("{}/mounts", at("a"))).await.json()["items"], active["mounts"]);
    let fs = directory(&active);
    std::fs::create_dir(fs.join("etc")).expect("made");
    std::fs::write(fs.join("etc/motd"), "hello").expect("written");
    app.clock.advance(std::time::Duration::from_secs(9));
    let usage = app.get(format!("{}/usage", at("a"))).await.expect(200).json();
    assert_eq!(usage, json!({"size": 5, "inodes": 3}));
    let layer = committed(app, "a", "base").await;
    let now = app.clock.now().to_string();
    assert_eq!(
        layer,
        json!({
            "key": "base", "namespace": "default", "kind": "committed", "parent": null, "diff_id": null,
            "size": 5, "inodes": 3, "labels": {}, "created_at": now, "updated_at": now,
        })
    );
    assert_eq!(app.get(at("a")).await.to_string(), "404 not-found");
    let mounts = app.get(format!("{}/mounts", at("base"))).await;
    assert_eq!(mounts.to_string(), "409 invalid-state");
    let view = prepared(app, "view", Some("base"), "view").await;
    assert_eq!(view["mounts"][0]["options"], json!(["ro", "rbind"]));
    assert_eq!(directory(&view), fs);
    let usage = app.get(format!("{}/usage", at("view"))).await.json();
    assert_eq!(usage, json!({"size": 0, "inodes": 0}));
    let refused = app.post(format!("{}/commit", at("view"))).json(json!({"name": "x"})).await;
    assert_eq!(refused.to_string(), "409 invalid-state");
    let refused = app.post(format!("{}/commit", at("base"))).json(json!({"name": "x"})).await;
    assert_eq!(refused.to_string(), "409 invalid-state");
});

story!(a_key_is_taken_by_whatever_kind_and_free_once_it_is_removed, async |app| {
    layer(app, "base", None, "x", "1").await;
    for (first, second) in [("view", "active"), ("active", "active"), ("view", "view"), ("active", "view")] {
        prepared(app, "key", Some("base"), first).await;
        let lease = app.post("/api/v1/leases").json(json!({"ttl": "1h"})).await.expect(201).json();
        let lease = lease["id"].as_str().expect("an id");
        let body = json!({"key": "key", "parent": "base", "kind": second});
        let taken = app.post(SNAPSHOTS).header("Orlop-Lease", lease).json(body).await;
        assert_eq!(taken.to_string(), "409 already-exists");
        // What has it is the caller's from then on.
        let held = app.get(format!("/api/v1/leases/{lease}/resources")).await.json();
        assert_eq!(held["items"], json!([{"type": "snapshot", "id": "key"}]));
        app.delete(at("key")).await.expect(204);
        let held = app.get(format!("/api/v1/leases/{lease}/resources")).await.json();
        assert_eq!(held["items"], json!([]));
    }
    assert_eq!(app.delete(at("key")).await.to_string(), "404 not-found");
    prepared(app, "key", None, "active").await;
    committed(app, "key", "again").await;
    app.delete(at("again")).await.expect(204);
    prepared(app, "again", None, "active").await;
});

story!(a_name_that_is_taken_leaves_the_active_snapshot_as_it_is, async |app| {
    layer(app, "base", None, "x", "1").await;
    prepared(app, "key", Some("base"), "active").await;
    let taken = app.post(format!("{}/commit", at("key"))).json(json!({"name": "base"})).await;
    assert_eq!(taken.to_string(), "409 already-exists");
    assert_eq!(app.get(at("key")).await.json()["kind"], "active");
    committed(app, "key", "child").await;
    assert_eq!(app.get(at("child")).await.json()["parent"], "base");
});

story!(a_parent_is_committed_and_outlives_its_children, async |app| {
    prepared(app, "active", None, "active").await;
    for (parent, code) in [("active", "400 invalid-argument"), ("nothing", "404 not-found")] {
        let refused = app.post(SNAPSHOTS).json(json!({"key": "x", "parent": parent})).await;
        assert_eq!(refused.to_string(), code);
    }
    layer(app, "a", None, "x", "1").await;
    layer(app, "b", Some("a"), "y", "2").await;
    layer(app, "c", Some("b"), "z", "3").await;
    prepared(app, "top", Some("c"), "view").await;
    for (key, child) in [("a", "b"), ("b", "c"), ("c", "top")] {
        let refused = app.delete(at(key)).await.expect(409).json();
        assert_eq!((&refused["code"], &refused["children"]), (&json!("has-children"), &json!([child])));
    }
    for key in ["top", "c", "b", "a"] {
        app.delete(at(key)).await.expect(204);
    }
});

story!(a_snapshot_without_a_parent_is_put_on_one_when_it_is_committed, async |app| {
    layer(app, "base", None, "x", "1").await;
    layer(app, "other", None, "x", "1").await;
    let commit = async |key: &str, parent: Value| {
        let body = json!({"name": format!("{key}-done"), "parent": parent});
        app.post(format!("{}/commit", at(key))).json(body).await
    };
    for key in ["free", "bound", "wrong", "lost"] {
        prepared(app, key, (key == "bound" || key == "wrong").then_some("base"), "active").await;
    }
    assert_eq!(commit("free", json!("base")).await.expect(201).json()["parent"], "base");
    assert_eq!(commit("bound", json!("base")).await.expect(201).json()["parent"], "base");
    assert_eq!(commit("wrong", json!("other")).await.to_string(), "400 invalid-argument");
    assert_eq!(commit("lost", json!("nothing")).await.to_string(), "404 not-found");
    assert_eq!(commit("lost", json!("wrong")).await.to_string(), "400 invalid-argument");
});

story!(labels_are_changed_and_nothing_else, async |app| {
    layer(app, "base", None, "x", "1").await;
    let before = app.get(at("base")).await;
    app.clock.advance(std::time::Duration::from_secs(1));
    let patch = |body: Value| app.patch(at("base")).merge_patch(body);
    let after = patch(json!({"labels": {"a": "1", "b": "2"}})).await.expect(200).json();
    assert_eq!(
        (&after["created_at"], &after["labels"]),
        (&before.json()["created_at"], &json!({"a": "1", "b": "2"}))
    );
    assert_eq!(after["updated_at"], app.clock.now().to_string());
    assert_eq!(patch(json!({"labels": {"a": null}})).await.json()["labels"], json!({"b": "2"}));
    assert_eq!(patch(json!({"parent": "x"})).await.to_string(), "400 invalid-argument");
    let stale = app.patch(at("base")).header("If-Match", before.header("etag")).merge_patch(json!({})).await;
    assert_eq!(stale.to_string(), "412 precondition-failed");
    assert_eq!(
        app.delete(at("base")).header("If-Match", before.header("etag")).await.to_string(),
        "412 precondition-failed"
    );
    // A commit takes none of those that the active snapshot had.
    app.post(SNAPSHOTS).json(json!({"key": "x", "labels": {"gone": "1"}})).await.expect(201);
    assert_eq!(committed(app, "x", "y").await["labels"], json!({}));
});

story!(snapshots_are_listed_by_kind_parent_and_label, async |app| {
    for (name, parent) in [("c1", None), ("c2", Some("c1"))] {
        layer(app, name, parent, "x", "1").await;
    }
    for (key, kind) in [("a1", "active"), ("v1", "view")] {
        let body = json!({"key": key, "parent": "c2", "kind": kind, "labels": {"k": key}});
        app.post(SNAPSHOTS).json(body).await.expect(201);
    }
    let list =
        async |query: &str| names(&app.get(format!("{SNAPSHOTS}?sort=key&{query}")).await.expect(200).json());
    assert_eq!(list("").await, ["a1", "c1", "c2", "v1"]);
    assert_eq!(list("kind=committed").await, ["c1", "c2"]);
    assert_eq!(list("parent=c2").await, ["a1", "v1"]);
    assert_eq!(list("label=k=v1").await, ["v1"]);
    assert_eq!(list("filter=kind==view&filter=name==c1").await, ["c1", "v1"]);
    assert_eq!(list("filter=parent!%3D%22%22,kind!%3Dactive").await, ["c1", "c2", "v1"]);
    assert_eq!(list("filter=labels.k").await, ["a1", "v1"]);
    assert_eq!(list("namespace=other").await, [""; 0]);
    assert_eq!(app.get(format!("{SNAPSHOTS}?kind=big")).await.to_string(), "400 invalid-argument");
});

story!(mounts_name_the_nearest_parent_first, async |app| {
    let mut sources = Vec::new();
    for (name, parent) in [("c1", None), ("c2", Some("c1")), ("c3", Some("c2"))] {
        let active = prepared(app, "next", parent, "active").await;
        sources.push(directory(&active).display().to_string());
        committed(app, "next", name).await;
    }
    sources.reverse();
    let top = prepared(app, "top", Some("c3"), "active").await;
    let mount = &top["mounts"][0];
    let option = |name: &str| {
        let options = mount["options"].as_array().expect("options");
        options.iter().filter_map(Value::as_str).find_map(|text| text.strip_prefix(name)).map(str::to_owned)
    };
    assert_eq!((&mount["type"], &mount["source"]), (&json!("overlay"), &json!("overlay")));
    assert_eq!(option("lowerdir="), Some(sources.join(":")));
    let upper = option("upperdir=").expect("an upper directory");
    assert_eq!(option("workdir="), Some(upper.replace("/fs", "/work")));
    let shell = app.get(format!("{}/mounts?format=sh", at("top"))).await.expect(200);
    assert!(
        shell.text().starts_with("mount -t overlay -o '") && shell.text().ends_with(" 'overlay' \"$1\"\n")
    );
    let view = prepared(app, "view", Some("c3"), "view").await;
    let options = view["mounts"][0]["options"].as_array().expect("options").clone();
    assert!(options.iter().all(|option| !option.as_str().expect("text").contains("dir=/")
        || option.as_str().expect("text").starts_with("lowerdir=")));
});

story!(the_merged_view_says_which_layer_brought_what, async |app| {
    let base = prepared(app, "a", None, "active").await;
    let fs = directory(&base);
    std::fs::create_dir_all(fs.join("etc/deep")).expect("made");
    std::fs::write(fs.join("etc/motd"), "old").expect("written");
    std::fs::write(fs.join("etc/gone"), "gone").expect("written");
    std::fs::write(fs.join("etc/deep/file"), "0123456789").expect("written");
    std::os::unix::fs::symlink("/etc/motd", fs.join("link")).expect("linked");
    std::fs::hard_link(fs.join("etc/motd"), fs.join("etc/motd2")).expect("linked");
    committed(app, "a", "base").await;
    let top = prepared(app, "b", Some("base"), "active").await;
    let fs = directory(&top);
    std::fs::create_dir(fs.join("etc")).expect("made");
    std::fs::write(fs.join("etc/motd"), "new").expect("written");
    make_whiteout(&fs.join("etc/gone"));
    // As it is now, and the same once it is committed.
    for key in ["b", "top"] {
        let list = app.get(format!("{}/files?path=/etc", at(key))).await.expect(200).json();
        let shown: Vec<_> = list["items"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| {
                let layer = entry["layer"]["snapshot"].as_str().expect("a layer");
                let deleted = if entry["deleted"] == true { " deleted" } else { "" };
                format!(
                    "{} {} {layer}{deleted}",
                    entry["path"].as_str().expect("a path"),
                    entry["type"].as_str().expect("a type")
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "etc/deep directory base".to_owned(),
                format!("etc/gone whiteout {key} deleted"),
                format!("etc/motd file {key}"),
                "etc/motd2 file base".to_owned()
            ]
        );
        let read = async |path: &str| app.get(format!("{}/files/data?path={path}", at(key))).await;
        assert_eq!(read("etc/motd").await.expect(200).text(), "new");
        assert_eq!(read("/link").await.expect(200).text(), "new");
        assert_eq!(read("/../etc/./deep/../motd2").await.expect(200).text(), "old");
        for (path, code) in [
            ("etc/gone", "404 not-found"),
            ("etc", "422 validation-failed"),
            ("etc/motd/x", "404 not-found"),
            ("nothing", "404 not-found"),
        ] {
            assert_eq!(read(path).await.to_string(), code, "{path}");
        }
        let part = app
            .get(format!("{}/files/data?path=etc/deep/file", at(key)))
            .range("bytes=2-4")
            .await
            .expect(206);
        assert_eq!((part.text(), part.header("content-range")), ("234".to_owned(), "bytes 2-4/10"));
        let changes = app.get(format!("{}/changes", at(key))).await.expect(200).json();
        let changes: Vec<_> = changes["items"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|change| {
                format!(
                    "{} {}",
                    change["change"].as_str().expect("a change"),
                    change["path"].as_str().expect("a path")
                )
            })
            .collect();
        assert_eq!(changes[changes.len() - 2..], ["deleted etc/gone", "modified etc/motd"]);
        if key == "b" {
            committed(app, "b", "top").await;
        }
    }
    let all = app
        .get(format!("{}/files?recursive=true", at("top")))
        .header("Accept", "application/x-ndjson")
        .await
        .expect(200);
    let paths: Vec<String> = all
        .text()
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["path"].as_str().expect("a path").to_owned()
        })
        .collect();
    assert_eq!(paths, ["etc", "etc/deep", "etc/deep/file", "etc/gone", "etc/motd", "etc/motd2", "link"]);
    // Page by page it is the same list.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page =
            app.get(format!("{}/files?recursive=true&limit=2{cursor}", at("top"))).await.expect(200).json();
        paged.extend(
            page["items"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|entry| entry["path"].as_str().expect("a path").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, paths);
});

/// What hides a file of a lower layer, as overlay file systems have it.
fn make_whiteout(path: &std::path::Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).expect("a whiteout");
}

story!(an_archive_is_the_root_file_system, async |app| {
    let base = prepared(app, "a", None, "active").await;
    let fs = directory(&base);
    std::fs::create_dir(fs.join("etc")).expect("made");
    std::fs::write(fs.join("etc/motd"), "hello").expect("written");
    std::fs::hard_link(fs.join("etc/motd"), fs.join("etc/also")).expect("linked");
    std::os::unix::fs::symlink("etc/motd", fs.join("link")).expect("linked");
    committed(app, "a", "base").await;
    let top = prepared(app, "b", Some("base"), "active").await;
    make_whiteout(&directory(&top).join("link"));
    std::fs::write(directory(&top).join("big"), vec![b'x'; 700_000]).expect("written");
    committed(app, "b", "top").await;
    let archive = app.get(format!("{}/archive", at("top"))).await.expect(200);
    let place = tempfile::tempdir().expect("a directory");
    std::fs::write(place.path().join("rootfs.tar"), &archive.body).expect("written");
    let tar =
        std::process::Command::new("tar").args(["-xf", "rootfs.tar"]).current_dir(place.path()).status();
    assert!(tar.expect("tar runs").success());
    let read = |name: &str| std::fs::read_to_string(place.path().join(name)).ok();
    assert_eq!(
        (read("etc/motd").as_deref(), read("etc/also").as_deref(), read("link")),
        (Some("hello"), Some("hello"), None)
    );
    assert_eq!(read("big").map(|text| text.len()), Some(700_000));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(place.path().join("etc/motd")).expect("there").nlink(), 2);
});

story!(snapshots_belong_to_their_namespace, async |app| {
    let made = app.post(SNAPSHOTS).namespace("build").json(json!({"key": "mine"})).await.expect(201);
    assert_eq!(made.header("location"), format!("{}?namespace=build", at("mine")));
    assert_eq!(app.get(at("mine")).await.to_string(), "404 not-found");
    let refused = app.delete("/api/v1/namespaces/build").await.expect(409).json();
    assert_eq!(refused["inside"], json!(["1 snapshots"]));
    app.delete(made.header("location")).await.expect(204);
    app.delete("/api/v1/namespaces/build").await.expect(204);
});

story!(a_restart_finds_snapshots_as_they_were_and_removes_what_nobody_names, async |app| {
    layer(app, "base", None, "x", "cargo").await;
    let active = prepared(app, "next", Some("base"), "active").await;
    std::fs::write(directory(&active).join("y"), "more").expect("written");
    app.stop().await;
    let stray =
        directory(&active).parent().and_then(|own| own.parent()).expect("snapshots/").join("0000stray");
    std::fs::create_dir_all(stray.join("fs")).expect("made");
    app.start_again().await;
    assert!(!stray.exists());
    let read = app.get(format!("{}/files/data?path=x", at("next"))).await.expect(200);
    assert_eq!(read.text(), "cargo");
    assert_eq!(app.get(format!("{}/mounts", at("next"))).await.json()["items"], active["mounts"]);
    // One whose files are gone is no snapshot, nor is what stands on it.
    app.stop().await;
    let lower = active["mounts"][0]["options"]
        .as_array()
        .expect("options")
        .iter()
        .filter_map(Value::as_str)
        .find_map(|option| option.strip_prefix("lowerdir="))
        .expect("a lower directory")
        .to_owned();
    std::fs::remove_dir_all(PathBuf::from(lower).parent().expect("its own")).expect("removed");
    app.start_again().await;
    assert_eq!(names(&app.get(SNAPSHOTS).await.json()), [""; 0]);
});

story!(bad_keys_and_bodies_are_refused, async |app| {
    for body in [
        json!({}),
        json!({"key": ""}),
        json!({"key": "a/b"}),
        json!({"key": "x".repeat(256)}),
        json!({"key": "a", "kind": "committed"}),
        json!({"key": "a", "parent": null}),
        json!({"key": "a", "extra": 1}),
    ] {
        assert_eq!(
            app.post(SNAPSHOTS).json(body.clone()).await.to_string(),
            "400 invalid-argument",
            "{body}"
        );
    }
    let lost = app.post(SNAPSHOTS).header("Orlop-Lease", "lost").json(json!({"key": "a"})).await;
    assert_eq!(lost.to_string(), "404 not-found");
    assert_eq!(app.get(at("a")).await.to_string(), "404 not-found");
    layer(app, "base", None, "x", "1").await;
    for query in
        ["limit=0", "limit=1001", "cursor=%21", "path_base64=%21", "path=a&path_base64=YQ==", "recursive=yes"]
    {
        assert_eq!(
            app.get(format!("{}/files?{query}", at("base"))).await.to_string(),
            "400 invalid-argument",
            "{query}"
        );
    }
    assert_eq!(app.get(format!("{}/files/data", at("base"))).await.to_string(), "400 invalid-argument");
});
