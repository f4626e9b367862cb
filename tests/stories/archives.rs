//! Images as files: their archives, out and in.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::app::{TestApp, sha256, story};
use crate::support::image::{Image, Kind};
use crate::support::request::Answer;

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
