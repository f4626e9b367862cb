//! Layers of pulled images become snapshots: verified, named by chain ID, one on the other.

use orlop::oci::tar::Entry;
use orlop::oci::tree::Meta;
use serde_json::{Value, json};

use crate::support::app::{TestApp, story};
use crate::support::fixture_registry::{FixtureRegistry, descriptor, sha256};
use crate::support::pulling::{failed, pulled, push};
use crate::support::unpacking::{
    Pushed, Tar, gzip, keys, pushed, pushed_as, pushed_platforms, read, three_layers,
};

async fn unpacked(app: &TestApp, image: &Pushed, more: Value) -> Value {
    let mut asked = json!({"ref": image.reference, "unpack": true, "platforms": ["linux/amd64"]});
    for (name, value) in more.as_object().expect("an object") {
        asked[name] = value.clone();
    }
    pulled(app, asked).await
}

story!(a_pull_makes_snapshots_named_by_chain_id, async |app| {
    let image = pushed(&three_layers()).await;
    let pull = unpacked(app, &image, json!({})).await;
    let top = image.chain.last().expect("a top").clone();
    assert_eq!(
        pull["snapshots"],
        json!([{"key": top, "manifest": pull["target"]["digest"], "platform": "linux/amd64"}])
    );
    for (at, key) in image.chain.iter().enumerate() {
        let snapshot = app.get(format!("/api/v1/snapshots/{key}")).await.expect(200).json();
        let parent = at.checked_sub(1).map_or(Value::Null, |below| image.chain[below].clone().into());
        assert_eq!((&snapshot["kind"], &snapshot["parent"]), (&json!("committed"), &parent));
        let blob = sha256(&image.blobs[at]);
        let shown = pull["blobs"]
            .as_array()
            .expect("blobs")
            .iter()
            .find(|shown| shown["digest"] == blob)
            .expect("the layer");
        let size = image.blobs[at].len();
        assert_eq!(shown["unpack"], json!({"state": "done", "offset": size, "snapshot": key}));
        let labels = app.get(format!("/api/v1/content/{blob}")).await.json()["labels"].clone();
        assert_eq!(labels["containerd.io/uncompressed"], snapshot["diff_id"]);
    }
    let labels = app.get(format!("/api/v1/content/{}", image.config)).await.json()["labels"].clone();
    assert_eq!(labels["containerd.io/gc.ref.snapshot.orlop"], top);
    assert_eq!(read(app, &top, "etc/motd").await, "two");
    assert_eq!(read(app, &top, "etc/new").await, "three");
    assert_eq!(read(app, &top, "etc/gone").await, "404 not-found");
    assert_eq!(read(app, &image.chain[0], "etc/motd").await, "one");
    // What a layer only names something in is as the layers below say; what it links it has itself, and once.
    let etc = app.get(format!("/api/v1/snapshots/{top}/files?path=/")).await.json();
    let modes: Vec<_> =
        etc["items"].as_array().expect("a list").iter().map(|entry| entry["mode"].clone()).collect();
    assert_eq!(modes, [json!("0755"), json!("0750")]);
    assert_eq!(read(app, &top, "bin/bash").await, "sh");
    let bin = app.get(format!("/api/v1/snapshots/{top}/files?path=/bin")).await.json();
    let links: Vec<_> = bin["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (entry["path"].clone(), entry["links"].clone()))
        .collect();
    assert_eq!(links, [(json!("bin/bash"), json!(2)), (json!("bin/sh"), json!(2))]);
});

story!(what_cannot_be_kept_is_told, async |app| {
    // No file system takes an attribute of a user on a link.
    let xattrs = vec![(b"user.note"[..].into(), b"x"[..].into())];
    let noted = Meta { mode: 0o777, xattrs, ..Meta::default() };
    let image = pushed(&[Tar::default().described("way", Entry::Symlink(b"to"), &noted, b"").end()]).await;
    let pull = unpacked(app, &image, json!({})).await;
    let told = |messages: Vec<&Value>| {
        messages.iter().any(|message| message.as_str().is_some_and(|text| text.contains("user.note of way")))
    };
    let log = pull["log"].as_array().expect("a log");
    assert!(told(log.iter().map(|line| &line["message"]).collect()), "{log:?}");
    // All the same it is known, listed and archived.
    let top = &image.chain[0];
    let listed = app.get(format!("/api/v1/snapshots/{top}/files?path=way")).await.expect(200).json();
    assert_eq!(listed["items"][0]["xattrs"], json!({"user.note": "eA=="}));
    app.delete(format!("/api/v1/snapshots/{top}")).await.expect(204);
    let asked = json!({"image": pull["image_name"], "platform": "linux/amd64"});
    let made = app.post("/api/v1/unpacks").json(asked).await.expect(202);
    let ended = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(told(ended["warnings"].as_array().expect("warnings").iter().collect()), "{ended}");
});

story!(what_has_a_snapshot_is_neither_unpacked_nor_fetched_again, async |app| {
    let tars = three_layers();
    let first = pushed(&tars[..2]).await;
    unpacked(app, &first, json!({})).await;
    for blob in &first.blobs {
        app.delete(format!("/api/v1/content/{}?force=true", sha256(blob))).await.expect(204);
    }
    let all = pushed(&tars).await;
    let pull = unpacked(app, &all, json!({})).await;
    let blobs = pull["blobs"].as_array().expect("blobs");
    let states: Vec<_> = blobs
        .iter()
        .filter(|blob| blob["role"] == "layer")
        .map(|blob| (blob["state"].clone(), blob["unpack"]["state"].clone()))
        .collect();
    assert_eq!(
        states,
        [
            (json!("skipped"), json!("exists")),
            (json!("skipped"), json!("exists")),
            (json!("done"), json!("done"))
        ]
    );
    for blob in &first.blobs {
        assert_eq!(all.registry.sent(&sha256(blob)), 0, "nobody asks for it");
    }
    assert_eq!(read(app, all.chain.last().expect("a top"), "etc/new").await, "three");
    // All of it is there now.
    let again = unpacked(app, &all, json!({"image_name": "again"})).await;
    assert_eq!(again["snapshots"], pull["snapshots"]);
});

story!(layers_may_go_once_they_are_unpacked, async |app| {
    let tars = three_layers();
    let (first, all) = (pushed(&tars[..2]).await, pushed(&tars).await);
    unpacked(app, &first, json!({})).await;
    unpacked(app, &all, json!({"layer_blobs": "drop"})).await;
    let here = async |blob: &[u8]| app.get(format!("/api/v1/content/{}", sha256(blob))).await.status;
    // What the other image needs as well stays.
    assert_eq!(
        (here(&all.blobs[0]).await, here(&all.blobs[1]).await, here(&all.blobs[2]).await),
        (200, 200, 404)
    );
    assert_eq!(read(app, all.chain.last().expect("a top"), "etc/new").await, "three");
    let refused =
        async |body: Value| app.post("/api/v1/pulls").json(body).await.expect(400).json()["field"].clone();
    assert_eq!(refused(json!({"ref": "a", "layer_blobs": "drop"})).await, "layer_blobs");
    assert_eq!(refused(json!({"ref": "a", "unpack": true, "metadata_only": true})).await, "unpack");
});

story!(a_layer_that_is_not_what_its_config_says_makes_no_snapshot, async |app| {
    let tars = three_layers();
    let mut diff_ids: Vec<String> = tars.iter().map(|tar| sha256(tar)).collect();
    diff_ids[1] = sha256(b"something else");
    let image = pushed_as(&tars, &diff_ids).await;
    let asked = json!({"ref": image.reference, "unpack": true, "platforms": ["linux/amd64"]});
    let (code, detail) = failed(app, asked).await;
    assert_eq!(code, "validation-failed");
    assert!(detail.contains(&diff_ids[1]) && detail.contains("diff ID"), "{detail}");
    // The one below it is what it says, and may be there.
    assert!(keys(app).await.iter().all(|key| *key == image.chain[0]));
    assert_eq!(app.get("/api/v1/images").await.json()["items"], json!([]), "no name for it");
});

story!(a_config_with_other_layers_than_the_manifest_is_refused, async |app| {
    let tars = three_layers();
    let image = pushed_as(&tars, &[sha256(&tars[0])]).await;
    let asked = json!({"ref": image.reference, "unpack": true, "platforms": ["linux/amd64"]});
    let (code, detail) = failed(app, asked).await;
    assert_eq!((code.as_str(), detail.contains("names 1 layers")), ("validation-failed", true), "{detail}");
    assert_eq!(keys(app).await, [""; 0]);
});

story!(a_hostile_layer_fails_the_pull_and_leaves_nothing, async |app| {
    let hostile: [(&str, Vec<u8>); 4] = [
        ("takes the place of the root", Tar::default().entry(".", Entry::Symlink(b"/etc"), 0o777, b"").end()),
        ("whiteout of no name", Tar::default().file(".wh..", "").end()),
        ("hard link to what no layer has", Tar::default().link("x", "etc/passwd").end()),
        ("damaged, or is none", b"<html>".repeat(200)),
    ];
    for (words, tar) in hostile {
        let image = pushed(&[tar]).await;
        let asked = json!({"ref": image.reference, "unpack": true, "platforms": ["linux/amd64"]});
        let (code, detail) = failed(app, asked).await;
        assert_eq!((code.as_str(), detail.contains(words)), ("validation-failed", true), "{detail}");
    }
    assert_eq!(keys(app).await, [""; 0]);
});

story!(what_is_no_image_is_pulled_and_not_unpacked, async |app| {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"{}");
    registry.push_blob(b"cargo");
    let config = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    let reference = push(&registry, "v1", config, &[descriptor("application/x-cargo", b"cargo")]);
    let pull = pulled(app, json!({"ref": reference, "unpack": true})).await;
    assert_eq!(pull["snapshots"], json!([]));
    let log = pull["log"].as_array().expect("a log");
    assert!(
        log.iter()
            .any(|line| line["message"].as_str().is_some_and(|text| text.contains("nothing to unpack"))),
        "{log:?}"
    );
});

story!(platforms_are_unpacked_side_by_side, async |app| {
    let registry = pushed_platforms().await;
    let pull = pulled(
        app,
        json!({"ref": format!("{}/app:v1", registry.host()), "all_platforms": true, "unpack": true}),
    )
    .await;
    let snapshots = pull["snapshots"].as_array().expect("snapshots");
    assert_eq!(snapshots.len(), 2);
    for snapshot in snapshots {
        let arch = read(app, snapshot["key"].as_str().expect("a key"), "arch").await;
        assert_eq!(format!("linux/{arch}"), snapshot["platform"]);
    }
    assert_eq!(keys(app).await.len(), 3, "what they share is there once");
});

story!(files_are_read_out_of_layers_and_images_that_nobody_unpacked, async |app| {
    let image = pushed(&three_layers()).await;
    let pull = pulled(app, json!({"ref": image.reference, "platforms": ["linux/amd64"]})).await;
    let id = pull["image_id"].as_str().expect("an image").to_owned();
    let shown = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("a list").iter();
        items
            .map(|entry| {
                format!(
                    "{} {}",
                    entry["path"].as_str().expect("a path"),
                    entry["type"].as_str().expect("a type")
                )
            })
            .collect()
    };
    // One layer by itself, with what it deletes and what it only links.
    let layer = format!("/api/v1/content/{}/files", sha256(&image.blobs[1]));
    let list = app.get(format!("{layer}?recursive=true")).await.expect(200).json();
    assert_eq!(shown(&list), ["etc directory", "etc/gone whiteout", "etc/motd file"]);
    assert_eq!(list["items"][2]["layer"], json!({"digest": sha256(&image.blobs[1])}));
    let top = format!("/api/v1/content/{}/files", sha256(&image.blobs[2]));
    assert_eq!(shown(&app.get(format!("{top}?path=bin")).await.json()), ["bin/bash link"]);
    let read = app.get(format!("{layer}/data?path=/etc/motd")).await.expect(200);
    assert_eq!((read.text(), read.header("content-length")), ("two".to_owned(), "3"));
    // The image as it would be unpacked.
    let list = app.get(format!("/api/v1/images/{id}/files?recursive=true")).await.expect(200).json();
    let all = [
        "bin directory",
        // A further name of what a lower layer has is the file here, with its size and its mode.
        "bin/bash file",
        "bin/sh file",
        "etc directory",
        "etc/gone whiteout",
        "etc/motd file",
        "etc/new file",
    ];
    assert_eq!(shown(&list), all);
    let (bash, sh) = (&list["items"][1], &list["items"][2]);
    assert_eq!((&bash["size"], &bash["mode"], &bash["mtime"]), (&sh["size"], &sh["mode"], &sh["mtime"]));
    assert_eq!(bash["layer"], json!({"digest": sha256(&image.blobs[2])}), "the name is of this one");
    let file = async |path: &str| app.get(format!("/api/v1/images/{id}/files/data?path={path}")).await;
    for (path, text) in
        [("etc/motd", "two"), ("/etc/new", "three"), ("bin/bash", "sh"), ("/bin/../etc/./motd", "two")]
    {
        assert_eq!(file(path).await.expect(200).text(), text);
    }
    for (path, code) in [
        ("etc/gone", "404 not-found"),
        ("etc", "422 validation-failed"),
        ("", "422 validation-failed"),
        ("nothing", "404 not-found"),
    ] {
        assert_eq!(file(path).await.to_string(), code, "{path}");
    }
    assert_eq!(keys(app).await, [""; 0], "nothing was unpacked");
    // The same again after a restart, from what was kept.
    app.stop().await;
    app.start_again().await;
    assert_eq!(shown(&app.get(format!("/api/v1/images/{id}/files?recursive=true")).await.json()), all);
    let config = format!("/api/v1/content/{}/files", image.config);
    assert_eq!(app.get(&config).await.to_string(), "422 not-an-archive");
    assert_eq!(app.get(format!("{config}/data?path=x")).await.to_string(), "422 not-an-archive");
    assert_eq!(
        app.get(format!("/api/v1/content/{}/files", sha256(b"nothing"))).await.to_string(),
        "404 not-found"
    );
    app.delete(format!("/api/v1/content/{}?force=true", sha256(&image.blobs[0]))).await.expect(204);
    assert_eq!(file("etc/motd").await.to_string(), "409 image-incomplete");
    assert_eq!(
        app.get(format!("/api/v1/images/{id}/files?platform=linux/s390x")).await.to_string(),
        "404 no-platform"
    );
});

story!(a_file_of_a_layer_is_read_in_ranges_whatever_its_compression, async |app| {
    let long: String = (0..200_000u32).map(|number| char::from(b'a' + (number % 26) as u8)).collect();
    let holes = [(10, 5), (900_000, 3)];
    let tar = Tar::default()
        .file("first", &"x".repeat(700_000))
        .entry("holes", Entry::Sparse { size: 1_000_000, parts: &holes }, 0o600, b"onetwo!!")
        .file("long", &long)
        .end();
    let packed = [tar.clone(), gzip(&tar), zstd::stream::encode_all(&tar[..], 3).expect("packed")];
    for blob in packed {
        let made = app.post("/api/v1/content").body(&blob).await.expect(201).json();
        let data = format!("/api/v1/content/{}/files/data", made["digest"].as_str().expect("a digest"));
        let range = async |path: &str, range: &str| app.get(format!("{data}?path={path}")).range(range).await;
        let whole = app.get(format!("{data}?path=long")).await.expect(200);
        assert!(whole.text() == long && whole.header("accept-ranges") == "bytes");
        let part = range("long", "bytes=100000-100025").await.expect(206);
        assert_eq!(
            (part.text().as_str(), part.header("content-range")),
            (&long[100_000..100_026], "bytes 100000-100025/200000")
        );
        assert_eq!(range("long", "bytes=-3").await.text(), long[199_997..]);
        assert_eq!(range("long", "bytes=200000-").await.to_string(), "416 range-not-satisfiable");
        let two = range("long", "bytes=0-1,199998-199999").await.expect(206).text();
        assert!(two.contains(&long[..2]) && two.contains(&long[199_998..]), "{two}");
        assert_eq!(range("holes", "bytes=8-16").await.text(), "\0\0onetw\0\0");
        assert_eq!(range("holes", "bytes=899999-900003").await.text(), "\0o!!\0");
        assert_eq!(range("holes", "bytes=999990-").await.text(), "\0".repeat(10));
        let known = app.get(format!("{data}?path=long")).header("If-None-Match", whole.header("etag")).await;
        assert_eq!(known.status, 304);
    }
});

story!(the_only_layer_of_an_image_deletes_nothing_that_an_image_shows, async |app| {
    let image = pushed(&[Tar::default().file("etc/motd", "one").file("etc/.wh.gone", "").end()]).await;
    let pull = pulled(app, json!({"ref": image.reference, "platforms": ["linux/amd64"]})).await;
    let paths = async |of: String| -> Vec<String> {
        let list = app.get(format!("/api/v1/{of}/files?recursive=true")).await.expect(200).json();
        let items = list["items"].as_array().expect("a list").iter();
        items.map(|entry| entry["path"].as_str().expect("a path").to_owned()).collect()
    };
    let layer = paths(format!("content/{}", sha256(&image.blobs[0]))).await;
    assert_eq!(layer, ["etc", "etc/gone", "etc/motd"]);
    let shown = paths(format!("images/{}", pull["image_id"].as_str().expect("an id"))).await;
    assert_eq!(shown, ["etc", "etc/motd"]);
});
