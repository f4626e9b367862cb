//! Images as files: their archives, out and in.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::{TestApp, sha256, story};
use crate::support::eventually::eventually;
use crate::support::image::{Blob, Image, Kind};
use crate::support::request::Answer;
use crate::support::stored::{Tar, document, silent};

/// The files of a tar, by another reader than the server's own writer.
async fn files(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tokio_tar::Archive::new(tar);
    let mut entries = archive.entries().expect("an archive");
    let mut found = Vec::new();
    while let Some(entry) = entries.next().await {
        let mut entry = entry.expect("a good entry");
        let header = entry.header();
        assert_eq!((header.mtime().expect("a time"), header.uid().expect("an owner")), (0, 0));
        let path = entry.path().expect("a path").display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).await.expect("the bytes");
        found.push((path, bytes));
    }
    found
}

async fn multi_platform() -> Image {
    Image::multi_platform(Kind::Oci, &["linux/amd64", "linux/arm64/v8"]).await
}

async fn whole(app: &TestApp, path: &str) -> Answer {
    let answer = app.get(path).await.expect(200);
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    answer
}

fn index_of(files: &[(String, Vec<u8>)]) -> Value {
    let (_, bytes) = files.iter().find(|(path, _)| path == "index.json").expect("an index");
    serde_json::from_slice(bytes).expect("JSON")
}

story!(an_archive_is_a_layout_with_every_blob_and_the_name, async |app| {
    let image = multi_platform().await;
    let path = format!("{}/archive", app.put_image("docker.io/library/a:1", &image).await);
    let answer = whole(app, &path).await;
    assert_eq!(answer.header("content-type"), "application/x-tar");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"a-1.tar\"");
    let found = files(&answer.body).await;
    let names: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).take(4).collect();
    assert_eq!(names, ["oci-layout", "index.json", "blobs/", "blobs/sha256/"]);
    let blobs: BTreeMap<_, _> =
        found.iter().filter(|(_, bytes)| !bytes.is_empty()).skip(2).cloned().collect();
    let expected: BTreeMap<_, _> = image
        .blobs
        .iter()
        .map(|blob| (blob.digest.replace("sha256:", "blobs/sha256/"), blob.bytes.clone()))
        .collect();
    assert!(blobs == expected, "every blob once");
    let entry = &index_of(&found)["manifests"][0];
    assert_eq!(entry["digest"], image.top().digest);
    for key in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        assert_eq!(entry["annotations"][key], "docker.io/library/a:1");
    }
});

story!(an_archive_is_the_same_every_time_and_known_by_its_tag, async |app| {
    let image = multi_platform().await;
    let path = format!("{}/archive", app.put_image("a", &image).await);
    let (first, again) = (whole(app, &path).await, whole(app, &path).await);
    assert!(first.body == again.body && first.header("etag") == again.header("etag"));
    let known = app.get(&path).header("If-None-Match", first.header("etag")).await.expect(304);
    assert!(known.body.is_empty());
    let head = app.head(&path).await.expect(200);
    assert_eq!(head.header("content-length"), first.header("content-length"));
    assert_eq!(head.header("etag"), first.header("etag"));
    // Another name is another archive.
    app.post("/api/v1/images").json(json!({"name": "b", "from_image": "a"})).await.expect(201);
    let list = app.get("/api/v1/images?name=b").await.json();
    let other = format!("/api/v1/images/{}/archive", list["items"][0]["id"].as_str().expect("an id"));
    assert_ne!(app.head(&other).await.header("etag"), first.header("etag"));
    assert_eq!(app.get(&path).header("If-Match", "\"x\"").await.to_string(), "412 precondition-failed");
});

story!(ranges_at_every_boundary_are_parts_of_the_whole, async |app| {
    let image = Image::multi_platform(Kind::Oci, &["linux/amd64"]).await;
    let path = format!("{}/archive", app.put_image("a", &image).await);
    let whole = whole(app, &path).await.body;
    let size = whole.len();
    let mut edges: Vec<usize> =
        (0..=size).step_by(512).flat_map(|at| [at.saturating_sub(1), at, at + 1]).collect();
    for blob in &image.blobs {
        let at = whole.windows(blob.bytes.len()).position(|window| window == blob.bytes).expect("the blob");
        edges.extend([at, at + blob.bytes.len(), at + blob.bytes.len() - 1]);
    }
    edges.retain(|edge| *edge < size);
    edges.sort_unstable();
    edges.dedup();
    for pair in edges.windows(5) {
        let (from, to) = (pair[0], pair[4]);
        let part = app.get(&path).range(&format!("bytes={from}-{to}")).await.expect(206);
        assert!(part.body == whole[from..=to], "{from}-{to}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{to}/{size}"));
    }
    for from in edges.iter().step_by(7) {
        let part = app.get(&path).range(&format!("bytes={from}-")).await.expect(206);
        assert!(part.body == whole[*from..], "{from}-");
    }
    assert!(app.get(&path).range("bytes=-700").await.expect(206).body == whole[size - 700..]);
    let several = app.get(&path).range("bytes=0-9,600-1200,-5").await.expect(206);
    assert!(several.header("content-type").starts_with("multipart/byteranges"));
    for part in [&whole[..10], &whole[600..1201], &whole[size - 5..]] {
        assert!(several.body.windows(part.len()).any(|window| window == part));
    }
    assert_eq!(
        app.get(&path).range(&format!("bytes={size}-")).await.to_string(),
        "416 range-not-satisfiable"
    );
});

story!(an_archive_of_one_platform_is_of_that_manifest_alone, async |app| {
    let image = multi_platform().await;
    let path = format!("{}/archive", app.put_image("docker.io/library/a:1", &image).await);
    let found = files(&whole(app, &format!("{path}?platform=linux/arm64")).await.body).await;
    let manifest =
        app.get(format!("{}?platform=linux/arm64", path.replace("archive", "manifest"))).await.json();
    let entry = &index_of(&found)["manifests"][0];
    assert_eq!(entry["digest"], manifest["manifest"]["digest"]);
    assert_eq!(entry["platform"]["architecture"], "arm64");
    assert_eq!(found.iter().filter(|(path, _)| path.starts_with("blobs/sha256/")).count(), 1 + 4);
    let (_, listed) = found.iter().find(|(path, _)| path == "manifest.json").expect("for docker load");
    let listed: Value = serde_json::from_slice(listed).expect("JSON");
    assert_eq!(listed[0]["RepoTags"], json!(["docker.io/library/a:1"]));
    let blob =
        |child: &Value| child["digest"].as_str().expect("a digest").replace("sha256:", "blobs/sha256/");
    assert_eq!(listed[0]["Config"], blob(&manifest["config"]));
    assert_eq!(listed[0]["Layers"], json!([blob(&manifest["layers"][0]), blob(&manifest["layers"][1])]));
    assert_eq!(app.get(format!("{path}?platform=linux/s390x")).await.to_string(), "404 no-platform");
});

story!(an_archive_of_a_part_is_made_only_when_that_is_asked_for, async |app| {
    let image = multi_platform().await;
    // The last of the blobs are the index and, before it, the second platform's own layer, config and manifest.
    let count = image.blobs.len();
    let path = format!("{}/archive", app.name_blob("a", image.top()).await);
    let refused = app.get(&path).await;
    assert_eq!(
        (refused.to_string(), &refused.json()["missing"]),
        ("409 image-incomplete".into(), &json!([image.top().digest]))
    );
    app.put_blobs(image.blobs.iter().enumerate().filter(|(at, _)| *at != count - 4).map(|(_, blob)| blob))
        .await;
    let refused = app.get(&path).await;
    assert_eq!(refused.to_string(), "409 image-incomplete");
    assert_eq!(refused.json()["missing"], json!([image.blobs[count - 4].digest]));
    assert_eq!(app.head(&path).await.status, 409);
    let found = files(&whole(app, &format!("{path}?skip_missing=true")).await.body).await;
    assert_eq!(index_of(&found)["manifests"][0]["digest"], image.top().digest);
    // The index, and of the first platform two layers, config and manifest.
    assert_eq!(found.iter().filter(|(path, _)| path.starts_with("blobs/sha256/")).count(), 1 + 5);
    whole(app, &format!("{path}?platform=linux/amd64")).await;
    let both = app.get(format!("{path}?platform=linux/amd64&skip_missing=true")).await;
    assert_eq!(
        (both.to_string(), &both.json()["field"]),
        ("400 invalid-argument".into(), &json!("skip_missing"))
    );
});

story!(a_blob_of_another_digest_algorithm_is_in_its_own_folder, async |app| {
    let layer = b"a layer".to_vec();
    let stored = app.post("/api/v1/content?algorithm=sha512").body(&layer).await.expect(201).json();
    let config = app.put_blob(b"{}").await;
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "a/b", "digest": stored["digest"], "size": layer.len()}],
    });
    let bytes = manifest.to_string();
    app.put_blob(bytes.as_bytes()).await;
    let target = json!({"digest": sha256(bytes.as_bytes()), "media_type": "application/vnd.oci.image.manifest.v1+json", "size": bytes.len()});
    let made = app.post("/api/v1/images").json(json!({"name": "a", "target": target})).await.expect(201);
    let found = files(&whole(app, &format!("{}/archive", made.place())).await.body).await;
    let path = stored["digest"].as_str().expect("a digest").replace("sha512:", "blobs/sha512/");
    assert!(found.iter().any(|(found, bytes)| *found == path && *bytes == layer));
});

const IMPORT: &str = "/api/v1/images/import";
const NAME: &str = "io.containerd.image.name";
const TAG: &str = "org.opencontainers.image.ref.name";

/// A descriptor of a layout's index, with annotations.
fn listed(blob: &Blob, annotations: &[(&str, &str)]) -> Value {
    let mut descriptor = silent(blob);
    let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
    descriptor["annotations"] = Value::Object(annotations.collect());
    descriptor
}

fn names_of(imported: &Value) -> Vec<&str> {
    let images = imported["images"].as_array().expect("images");
    images.iter().map(|image| image["name"].as_str().expect("a name")).collect()
}

async fn import(app: &TestApp, query: &str, archive: &[u8]) -> Value {
    app.post(format!("{IMPORT}{query}")).body(archive).await.expect(201).json()
}

story!(what_was_exported_comes_in_again_as_it_was, async |app| {
    let image = multi_platform().await;
    let path = app.put_image("docker.io/library/a:1", &image).await;
    let archive = whole(app, &format!("{path}/archive")).await.body;
    let answer = app.post(IMPORT).namespace("other").body(&archive).await.expect(201);
    assert!(answer.header("orlop-lease").starts_with("grace_"));
    let imported = answer.json();
    assert_eq!(names_of(&imported), ["docker.io/library/a:1"]);
    assert_eq!(imported["images"][0]["target"]["digest"], image.top().digest);
    assert_eq!(
        (&imported["stored_blobs"], &imported["existing_blobs"]),
        (&json!(image.blobs.len()), &json!(0))
    );
    let id = imported["images"][0]["id"].as_str().expect("an id");
    let there = format!("/api/v1/images/{id}/archive?namespace=other");
    assert!(whole(app, &there).await.body == archive, "the same bytes");
    // One lease holds it all, and layers are known for what they are.
    let leases = app.get("/api/v1/leases?namespace=other").await.json();
    assert_eq!(leases["items"].as_array().map(Vec::len), Some(1));
    let layer = app.get(format!("/api/v1/content/{}?namespace=other", image.blobs[0].digest)).await.json();
    assert_eq!(layer["media_type"], image.blobs[0].media_type);
    // Again changes nothing.
    let again = import(app, "?namespace=other", &archive).await;
    assert_eq!((&again["stored_blobs"], &again["existing_blobs"]), (&json!(0), &json!(image.blobs.len())));
    assert_eq!(again["images"][0]["id"], imported["images"][0]["id"]);
});

story!(an_archive_comes_packed_and_in_any_order, async |app| {
    let image = multi_platform().await;
    let entry = listed(image.top(), &[(NAME, "a:1")]);
    let archive = Tar::default().blobs(image.blobs.iter().rev()).layout(&[entry]).end();
    let mut gzip = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    gzip.write_all(&archive).await.expect("memory takes all bytes");
    gzip.shutdown().await.expect("memory takes all bytes");
    let mut zstd = async_compression::tokio::write::ZstdEncoder::new(Vec::new());
    zstd.write_all(&archive).await.expect("memory takes all bytes");
    zstd.shutdown().await.expect("memory takes all bytes");
    let two_members = {
        let (head, tail) = archive.split_at(archive.len() / 2);
        let mut both = Vec::new();
        for part in [head, tail] {
            let mut gzip = async_compression::tokio::write::GzipEncoder::new(Vec::new());
            gzip.write_all(part).await.expect("memory takes all bytes");
            gzip.shutdown().await.expect("memory takes all bytes");
            both.extend(gzip.into_inner());
        }
        both
    };
    for (at, body) in [archive, gzip.into_inner(), zstd.into_inner(), two_members].into_iter().enumerate() {
        let imported = import(app, &format!("?namespace=n{at}"), &body).await;
        assert_eq!(imported["images"][0]["target"]["digest"], image.top().digest, "{at}");
        assert_eq!(imported["stored_blobs"], image.blobs.len());
    }
    // Without a length, in small pieces.
    let chunks = Tar::default().blobs(&image.blobs).layout(&[listed(image.top(), &[(NAME, "b")])]).end();
    let chunks = chunks.chunks(700).map(bytes::Bytes::copy_from_slice).collect();
    assert_eq!(names_of(&app.post(IMPORT).chunked(chunks).await.expect(201).json()), ["b"]);
});

story!(names_come_from_the_archive_or_from_the_caller, async |app| {
    let (one, two) = (multi_platform().await, Image::multi_platform(Kind::Docker, &["linux/amd64"]).await);
    // They share a layer, which an archive has once.
    let own = || two.blobs.iter().filter(|blob| !one.blobs.iter().any(|other| other.digest == blob.digest));
    let blobs = || Tar::default().blobs(&one.blobs).blobs(own());
    let both = blobs()
        .layout(&[
            listed(one.top(), &[(TAG, "1.0")]),
            listed(two.top(), &[(TAG, "1.1"), (NAME, "x.example/b:2")]),
        ])
        .end();
    assert_eq!(names_of(&import(app, "", &both).await), ["1.0", "x.example/b:2"]);
    let based = import(app, "?base_name=docker.io/library/a", &both).await;
    assert_eq!(names_of(&based), ["docker.io/library/a:1.0", "x.example/b:2"]);
    // One name for several: the list itself.
    let listed_as_one = import(app, "?name=all", &both).await;
    assert_eq!(names_of(&listed_as_one), ["all"]);
    assert_eq!(listed_as_one["images"][0]["target"]["media_type"], "application/vnd.oci.image.index.v1+json");
    let check = format!("/api/v1/images/{}/check", listed_as_one["images"][0]["id"].as_str().expect("an id"));
    assert_eq!(app.get(check).await.json()["state"], "complete");

    let bare = blobs().layout(&[listed(one.top(), &[])]).end();
    let unnamed = import(app, "", &bare).await;
    assert_eq!((names_of(&unnamed).len(), &unnamed["unnamed"][0]["digest"]), (0, &json!(one.top().digest)));
    assert_eq!(names_of(&import(app, "?name=mine", &bare).await), ["mine"]);

    let twice = blobs().layout(&[listed(one.top(), &[(TAG, "x")]), listed(two.top(), &[(TAG, "x")])]).end();
    assert_eq!(app.post(IMPORT).body(&twice).await.to_string(), "422 validation-failed");
    let refused = app.post(format!("{IMPORT}?name=a%0Ab")).body(&bare).await;
    assert_eq!(
        (refused.to_string(), &refused.json()["field"]),
        ("400 invalid-argument".into(), &json!("name"))
    );
});

/// What `docker save` wrote for years: a folder for each layer, the same one a link, and the list at the end.
fn saved(layers: &[(&str, &[u8])], links: &[(&str, &str)], tags: &Value) -> Tar {
    let listed: Vec<&str> =
        layers.iter().map(|(path, _)| *path).chain(links.iter().map(|(path, _)| *path)).collect();
    let bytes_of = |path: &str| layers.iter().find(|(found, _)| *found == path).map(|(_, bytes)| *bytes);
    let diff_ids: Vec<String> = listed
        .iter()
        .map(|path| match bytes_of(path) {
            Some(bytes) => sha256(bytes),
            None => sha256(layers[0].1),
        })
        .collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let name = format!("{}.json", sha256(config.as_bytes()).replace("sha256:", ""));
    let mut tar = Tar::default();
    for (path, bytes) in layers {
        let folder = path.split('/').next().expect("a folder");
        tar = tar.entry(b'5', &format!("{folder}/"), "", b"");
        tar = tar
            .file(&format!("{folder}/VERSION"), b"1.0")
            .file(&format!("{folder}/json"), b"{}")
            .file(path, bytes);
    }
    for (path, target) in links {
        tar = tar.link(path, target);
    }
    let manifest = json!([{"Config": name, "RepoTags": tags, "Layers": listed}]);
    tar.file(&name, config.as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("repositories", b"{}")
}

story!(what_docker_saved_becomes_an_oci_image, async |app| {
    let layers: [(&str, &[u8]); 2] = [("aa/layer.tar", b"one"), ("bb/layer.tar", b"two")];
    let tar = saved(&layers, &[("cc/layer.tar", "../aa/layer.tar")], &json!(["a:1", "x.example/b:2"])).end();
    let imported = import(app, "", &tar).await;
    assert_eq!(names_of(&imported), ["docker.io/library/a:1", "x.example/b:2"]);
    let id = imported["images"][0]["id"].as_str().expect("an id");
    let found =
        app.get(format!("/api/v1/images/{id}/manifest?platform=linux/amd64")).await.expect(200).json();
    let told: Vec<Value> = found["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|layer| json!([layer["digest"], layer["media_type"], layer["present"]]))
        .collect();
    let plain = "application/vnd.oci.image.layer.v1.tar";
    let expected = [b"one", b"two", b"one"].map(|bytes| json!([sha256(bytes), plain, true]));
    assert_eq!(told, expected);
    // Its files beside the image are not stored: two layers, a config, a manifest.
    assert_eq!(imported["stored_blobs"], 4);
    assert_eq!(import(app, "", &tar).await["images"][0]["target"], imported["images"][0]["target"]);
    assert_eq!(
        names_of(&import(app, "?name=mine", &saved(&layers, &[], &Value::Null).end()).await),
        ["mine"]
    );
});

story!(what_docker_saved_wrongly_is_refused, async |app| {
    let refused = async |tar: Vec<u8>| app.post(IMPORT).body(&tar).await.to_string();
    let layers: [(&str, &[u8]); 1] = [("aa/layer.tar", b"one")];
    // A link that leads to nothing, in a circle, or out.
    let lost = saved(&layers, &[("bb/layer.tar", "../zz/layer.tar")], &json!([])).end();
    assert_eq!(refused(lost).await, "422 validation-failed");
    let circle = saved(
        &layers,
        &[("bb/layer.tar", "../cc/layer.tar"), ("cc/layer.tar", "../bb/layer.tar")],
        &json!([]),
    );
    assert_eq!(refused(circle.end()).await, "422 validation-failed");
    let out = saved(&layers, &[("bb/layer.tar", "../../../etc/passwd")], &json!([])).end();
    assert_eq!(refused(out).await, "422 validation-failed");
    // A layer that is not what the config says.
    let config = json!({"rootfs": {"diff_ids": [sha256(b"other")]}}).to_string();
    let manifest = json!([{"Config": "c.json", "Layers": ["l.tar"]}]).to_string();
    let wrong =
        || Tar::default().file("c.json", config.as_bytes()).file("manifest.json", manifest.as_bytes());
    assert_eq!(refused(wrong().file("l.tar", b"one").end()).await, "409 digest-mismatch");
    assert_eq!(refused(wrong().end()).await, "422 validation-failed");
    assert_eq!(refused(wrong().file("l.tar", b"BZh91AY").end()).await, "422 validation-failed");
    for manifest in ["", "{}", "[]", "[1]", r#"[{"Config":"c.json","Layers":["l.tar","l.tar"]}]"#] {
        let tar = Tar::default()
            .file("c.json", config.as_bytes())
            .file("l.tar", b"one")
            .file("manifest.json", manifest.as_bytes());
        assert_eq!(refused(tar.end()).await, "422 validation-failed", "{manifest}");
    }
    assert_eq!(app.get("/api/v1/images").await.json()["items"], json!([]));
});

story!(an_import_is_held_by_the_lease_that_is_named, async |app| {
    let image = multi_platform().await;
    let tar = Tar::default().blobs(&image.blobs).layout(&[listed(image.top(), &[(NAME, "a")])]).end();
    let lost = app.post(IMPORT).header("Orlop-Lease", "nobody").body(&tar).await;
    assert_eq!(lost.to_string(), "404 not-found");
    app.post("/api/v1/leases").json(json!({"id": "mine"})).await.expect(201);
    let held = app.post(IMPORT).header("Orlop-Lease", "mine").body(&tar).await.expect(201);
    assert_eq!(held.header("orlop-lease"), "mine");
    let resources = app.get("/api/v1/leases/mine/resources").await.json();
    assert_eq!(resources["items"].as_array().map(Vec::len), Some(image.blobs.len() + 1));
});

story!(what_came_in_is_held_for_the_grace_time_from_its_end_on, [("grace_lease", "1s")], async |app| {
    let image = multi_platform().await;
    let tar = Tar::default().blobs(&image.blobs).layout(&[listed(image.top(), &[(NAME, "a")])]).end();
    let (first, rest) = tar.split_at(tar.len() / 2);
    let mut sending = app.raw().await.begin("POST", IMPORT, &[], tar.len() as u64).await;
    sending.send(first).await;
    let lease = async || app.get("/api/v1/leases").await.expect(200).json()["items"].get(0).cloned();
    let begun = eventually("the import has a lease", lease).await;
    // The server's own renewals are not told: whoever listens would hear of nothing else.
    let renewed = async || lease().await.filter(|lease| lease["updated_at"] != begun["updated_at"]);
    eventually("the lease is renewed", renewed).await;
    app.clock.advance(Duration::from_millis(900));
    sending.send(rest).await;
    let answer = sending.answer().await.expect("an answer").expect(201);
    assert_eq!(
        answer.header("orlop-lease-expires"),
        app.clock.now().plus(Duration::from_secs(1)).to_string()
    );
    let events = app.get("/api/v1/events").header("Accept", "application/json").await.expect(200).json();
    let events = events["items"].as_array().expect("a list");
    let topics: Vec<&str> = events.iter().filter_map(|event| event["topic"].as_str()).collect();
    assert!(!topics.iter().any(|topic| topic.starts_with("/leases/")), "{topics:?}");
});

story!(a_file_of_any_name_may_be_a_config_or_a_layer, async |app| {
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [sha256(b"one")]}});
    let manifest = json!([{"Config": "image/json", "RepoTags": ["a:1"], "Layers": ["image/VERSION"]}]);
    let tar = Tar::default()
        .file("image/json", config.to_string().as_bytes())
        .file("image/VERSION", b"one")
        .file("other/json", b"{}")
        .file("manifest.json", manifest.to_string().as_bytes());
    let imported = import(app, "", &tar.end()).await;
    // The config, the layer and the manifest: nobody names the other.
    assert_eq!((names_of(&imported), &imported["stored_blobs"]), (vec!["docker.io/library/a:1"], &json!(3)));
});

story!(a_part_of_an_image_comes_in_and_its_check_says_so, async |app| {
    let image = multi_platform().await;
    let some = image.blobs.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, blob)| blob);
    let tar = Tar::default().blobs(some).layout(&[listed(image.top(), &[(NAME, "a")])]).end();
    let imported = import(app, "", &tar).await;
    let check = format!("/api/v1/images/{}/check", imported["images"][0]["id"].as_str().expect("an id"));
    assert_eq!(app.get(check).await.json()["state"], "incomplete");
});

story!(a_large_blob_streams_through, async |app| {
    let layer = crate::support::raw::noise(7, 5 << 20).to_vec();
    let blob = Blob::new("application/vnd.oci.image.layer.v1.tar", layer);
    let config = Blob::new("application/vnd.oci.image.config.v1+json", b"{}".to_vec());
    let manifest = document(
        "application/vnd.oci.image.manifest.v1+json",
        &json!({"schemaVersion": 2, "config": config.descriptor(), "layers": [blob.descriptor()]}),
    );
    let tar = || Tar::default().blobs([&blob, &config, &manifest]);
    let imported = import(app, "", &tar().layout(&[listed(&manifest, &[(NAME, "a")])]).end()).await;
    assert_eq!(imported["stored_bytes"], blob.bytes.len() + config.bytes.len() + manifest.bytes.len());
    let back = app.get(format!("/api/v1/content/{}/data", blob.digest)).await;
    assert!(back.body == blob.bytes);
    // The same name over other bytes, new or not.
    for (namespace, digest) in [("default", &blob.digest), ("new", &blob.digest)] {
        let wrong = Tar::default()
            .file(&digest.replace("sha256:", "blobs/sha256/"), &crate::support::raw::noise(8, 5 << 20));
        let refused = app.post(IMPORT).namespace(namespace).body(wrong.end()).await;
        assert_eq!(refused.to_string(), "409 digest-mismatch", "{namespace}");
    }
});

story!(an_import_says_which_names_it_moved, async |app| {
    let image = async |platform| Image::multi_platform(Kind::Oci, &[platform]).await;
    let (first, second) = (image("linux/amd64").await, image("linux/arm64").await);
    let archive = |image: &Image| {
        let named = listed(image.top(), &[("io.containerd.image.name", "a")]);
        Tar::default().layout(&[named]).blobs(&image.blobs).end()
    };
    for again in [&first, &first] {
        assert_eq!(import(app, "", &archive(again)).await["moved"], json!([]), "it stays where it is");
    }
    let moved = import(app, "", &archive(&second)).await["moved"].clone();
    assert_eq!(moved, json!([{"name": "a", "from": first.top().digest, "to": second.top().digest}]));
});
