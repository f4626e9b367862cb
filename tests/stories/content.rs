//! Content: records of blobs, and whole blobs in and out.

use std::time::Duration;

use http::header::{ETAG, LOCATION};
use serde_json::json;

use crate::support::app::{hex, sha256, story};
use crate::support::raw::noise;

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn record(digest: &str) -> String {
    format!("/api/v1/content/{digest}")
}

fn data(digest: &str) -> String {
    format!("/api/v1/content/{digest}/data")
}

story!(a_posted_blob_gets_the_digest_that_it_has, async |app| {
    let made =
        app.post("/api/v1/content?media_type=text/plain&label=team=harbour").body("hello").await.expect(201);
    let now = app.clock.now().to_string();
    assert_eq!(
        made.json(),
        json!({
            "digest": HELLO, "size": 5, "media_type": "text/plain", "namespace": "default",
            "labels": {"team": "harbour"}, "created_at": now, "updated_at": now,
        })
    );
    assert_eq!(made.header(LOCATION.as_str()), record(HELLO));
    assert_eq!(app.get(data(HELLO)).await.to_string(), "200 \"hello\"");
    assert_eq!(app.get(record(HELLO)).await.json(), made.json());
});

story!(what_is_new_is_kept_for_an_hour_by_a_lease_of_its_own, async |app| {
    let made = app.post("/api/v1/content").body("hello").await.expect(201);
    assert!(!made.header("orlop-lease").is_empty());
    let in_an_hour = app.clock.now().plus(Duration::from_secs(3_600)).to_string();
    assert_eq!(made.header("orlop-lease-expires"), in_an_hour);
});

story!(an_unknown_lease_refuses_the_write_and_keeps_nothing, async |app| {
    let lost = app.post("/api/v1/content").header("Orlop-Lease", "nobody").body("hello").await;
    assert_eq!(lost.to_string(), "404 not-found");
    assert_eq!(app.get(record(HELLO)).await.to_string(), "404 not-found");
});

story!(every_algorithm_names_the_same_bytes, async |app| {
    for (algorithm, digest) in [
        ("sha256", HELLO.to_owned()),
        ("sha384", format!("sha384:{}", hex(&<sha2::Sha384 as sha2::Digest>::digest(b"hello")))),
        ("sha512", format!("sha512:{}", hex(&<sha2::Sha512 as sha2::Digest>::digest(b"hello")))),
    ] {
        let made = app.post(format!("/api/v1/content?algorithm={algorithm}")).body("hello").await.expect(201);
        assert_eq!(made.json()["digest"], digest);
        let read = app.get(data(&digest)).await.expect(200);
        assert_eq!(&read.body[..], b"hello");
        assert_eq!(read.header("docker-content-digest"), digest);
        let again = app.put(data(&digest)).body("hello").await;
        assert_eq!(again.status, 200, "{again}");
    }
    let unknown = app.post("/api/v1/content?algorithm=md5").body("hello").await;
    assert_eq!(unknown.to_string(), "400 invalid-argument");
});

story!(a_put_blob_is_new_once_and_then_there, async |app| {
    let first = app.put(data(HELLO)).body("hello").await.expect(201);
    assert_eq!(first.header(LOCATION.as_str()), record(HELLO));
    let again = app.put(format!("{}?label=late=yes", data(HELLO))).body("hello").await.expect(200);
    assert_eq!(again.json(), first.json(), "the labels stay as they were");
    assert!(!again.header("orlop-lease").is_empty());
});

story!(a_blob_that_is_there_is_answered_before_its_body_is_sent, async |app| {
    app.put_blob(b"hello").await;
    // The body never comes: an answer proves that nobody waited for it.
    let request = app.raw().await.begin("PUT", &data(HELLO), &[], 5).await;
    assert_eq!(request.answer().await.expect("an answer").status, 200);
});

story!(if_none_match_star_creates_only, async |app| {
    assert_eq!(app.put(data(HELLO)).header("If-None-Match", "*").body("hello").await.status, 201);
    let leases = app.get("/api/v1/leases").await.json();
    let again = app.put(data(HELLO)).header("If-None-Match", "*").body("hello").await;
    assert_eq!(app.get("/api/v1/leases").await.json(), leases, "what is refused holds nothing");
    assert_eq!(again.to_string(), "412 precondition-failed");
});

story!(bytes_under_a_digest_that_is_not_theirs_are_refused_and_not_kept, async |app| {
    for size in [5, 3 << 20] {
        let bytes = noise(1, size);
        let wrong = app.put(data(HELLO)).body(&bytes).await.expect(409);
        let problem = wrong.json();
        assert_eq!(problem["code"], "digest-mismatch");
        assert_eq!(problem["expected"], HELLO);
        assert_eq!(problem["actual"], sha256(&bytes));
        for digest in [HELLO, &sha256(&bytes)] {
            assert_eq!(app.get(record(digest)).await.status, 404);
            assert_eq!(app.get(data(digest)).await.status, 404);
        }
    }
    assert_eq!(app.get("/api/v1/content").await.json()["items"], json!([]));
});

story!(blobs_of_every_size_come_back_as_they_went_in, async |app| {
    for size in [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20] {
        let bytes = noise(size as u64, size);
        let digest = sha256(&bytes);
        let made = app.put(data(&digest)).body(&bytes).await.expect(201);
        assert_eq!(made.json()["size"], size);
        let read = app.get(data(&digest)).await.expect(200);
        assert!(read.body == bytes, "{size} bytes come back");
        let head = app.head(data(&digest)).await.expect(200);
        assert_eq!(head.header("content-length"), size.to_string());
    }
});

story!(a_body_without_a_length_is_stored_whole, async |app| {
    let bytes = noise(7, 2 << 20);
    let chunks = bytes.chunks(100_000).map(|chunk| bytes.slice_ref(chunk)).collect();
    let made = app.post("/api/v1/content").chunked(chunks).await.expect(201);
    assert_eq!(made.json()["digest"], sha256(&bytes));
    assert_eq!(made.json()["size"], bytes.len());
});

story!(blob_answers_say_what_they_are_and_run_nowhere, async |app| {
    app.post("/api/v1/content?media_type=text/html").body("hello").await.expect(201);
    let read = app.get(data(HELLO)).await.expect(200);
    for (name, value) in [
        ("etag", format!("\"{HELLO}\"").as_str()),
        ("repr-digest", "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"),
        ("docker-content-digest", HELLO),
        ("accept-ranges", "bytes"),
        ("cache-control", "private, max-age=31536000, immutable"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("content-disposition", "attachment"),
        ("content-type", "application/octet-stream"),
        ("content-encoding", ""),
    ] {
        assert_eq!(read.header(name), value, "{name}");
    }
    let shown = app.get(format!("{}?inline=true", data(HELLO))).await.expect(200);
    assert_eq!(shown.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(shown.header("content-disposition"), "");
});

story!(what_is_no_text_stays_an_attachment_also_inline, async |app| {
    app.post("/api/v1/content?media_type=image/svg%2Bxml").body("hello").await.expect(201);
    let shown = app.get(format!("{}?inline=true", data(HELLO))).await.expect(200);
    assert_eq!(shown.header("content-type"), "application/octet-stream");
    assert_eq!(shown.header("content-disposition"), "attachment");
});

story!(a_record_has_a_tag_of_its_own_that_moves_with_its_labels, async |app| {
    app.put_blob(b"hello").await;
    let before = app.get(record(HELLO)).await.expect(200);
    let tag = before.header(ETAG.as_str()).to_owned();
    assert_ne!(tag, format!("\"{HELLO}\""), "the record is not the data");
    assert_eq!(app.get(record(HELLO)).header("If-None-Match", &tag).await.to_string(), "304");
    app.clock.advance(Duration::from_secs(5));
    let patched = app.patch(record(HELLO)).merge_patch(json!({"labels": {"a": "1"}})).await.expect(200);
    assert_ne!(patched.header(ETAG.as_str()), tag);
    assert_eq!(patched.json()["updated_at"], app.clock.now().to_string());
    assert_eq!(patched.json()["created_at"], before.json()["created_at"]);
    assert_eq!(app.get(record(HELLO)).header("If-None-Match", &tag).await.status, 200);
    let late =
        app.patch(record(HELLO)).header("If-Match", &tag).merge_patch(json!({"labels": {"b": "2"}})).await;
    assert_eq!(late.to_string(), "412 precondition-failed");
    assert_eq!(app.get(record(HELLO)).await.json()["labels"], json!({"a": "1"}));
});

story!(labels_are_merged_and_null_or_nothing_removes_one, async |app| {
    let made = app.post("/api/v1/content?label=a=1&label=b=2&label=c=3").body("hello").await.expect(201);
    assert_eq!(made.json()["labels"], json!({"a": "1", "b": "2", "c": "3"}));
    let patch = json!({"labels": {"a": null, "b": "", "d": "4"}, "media_type": "text/plain"});
    let patched = app.patch(record(HELLO)).merge_patch(patch).await.expect(200);
    assert_eq!(patched.json()["labels"], json!({"c": "3", "d": "4"}));
    assert_eq!(patched.json()["media_type"], "text/plain");
    let cleared = app.patch(record(HELLO)).merge_patch(json!({"media_type": null})).await.expect(200);
    assert_eq!(cleared.json()["media_type"], json!(null));
    assert_eq!(cleared.json()["labels"], json!({"c": "3", "d": "4"}));
});

story!(a_label_over_4096_bytes_is_refused_on_every_way_in, async |app| {
    app.put_blob(b"hello").await;
    let (fits, too_long) = ("x".repeat(4_095), "x".repeat(4_096));
    let patched = app.patch(record(HELLO)).merge_patch(json!({"labels": {"k": fits}})).await;
    assert_eq!(patched.status, 200);
    let refused = app.patch(record(HELLO)).merge_patch(json!({"labels": {"k": too_long}})).await;
    assert_eq!(refused.to_string(), "400 invalid-argument");
    let refused = app.post(format!("/api/v1/content?label=k={too_long}")).body("other").await;
    assert_eq!(refused.to_string(), "400 invalid-argument");
    assert_eq!(app.get(record(&sha256(b"other"))).await.status, 404);
    assert_eq!(app.get(record(HELLO)).await.json()["labels"]["k"], fits);
});

story!(a_patch_takes_only_what_may_change, async |app| {
    app.put_blob(b"hello").await;
    for patch in [json!({"size": 6}), json!({"digest": HELLO}), json!({"labels": "none"}), json!([])] {
        let refused = app.patch(record(HELLO)).merge_patch(patch.clone()).await;
        assert!(matches!(refused.status, 400 | 422), "{patch}: {refused}");
    }
    let as_json = app.patch(record(HELLO)).header("Content-Type", "text/plain").body("{}").await;
    assert_eq!(as_json.to_string(), "415 unsupported-media-type");
});

story!(a_deleted_blob_is_gone_and_so_is_its_file, async |app| {
    app.put_blob(b"hello").await;
    let file = app.data_dir().join("blobs/sha256").join(&HELLO[7..]);
    assert!(file.exists());
    assert_eq!(app.delete(record(HELLO)).await.to_string(), "204");
    assert!(!file.exists());
    for gone in
        [app.get(record(HELLO)), app.get(data(HELLO)), app.head(data(HELLO)), app.delete(record(HELLO))]
    {
        assert_eq!(gone.await.status, 404);
    }
    assert_eq!(app.put(data(HELLO)).body("hello").await.status, 201, "it may come back");
    assert_eq!(app.get(data(HELLO)).await.to_string(), "200 \"hello\"");
});

story!(a_deletion_with_an_old_tag_is_refused, async |app| {
    app.put_blob(b"hello").await;
    let tag = app.get(record(HELLO)).await.header("etag").to_owned();
    app.clock.advance(Duration::from_secs(1));
    app.patch(record(HELLO)).merge_patch(json!({"labels": {"a": "1"}})).await.expect(200);
    assert_eq!(
        app.delete(record(HELLO)).header("If-Match", &tag).await.to_string(),
        "412 precondition-failed"
    );
    assert_eq!(app.get(record(HELLO)).await.status, 200);
});

story!(namespaces_see_their_own_records_of_one_file, async |app| {
    app.put(data(HELLO)).namespace("one").body("hello").await.expect(201);
    assert_eq!(app.get(data(HELLO)).namespace("two").await.status, 404);
    assert_eq!(app.get(data(HELLO)).await.status, 404);
    app.put(data(HELLO)).namespace("two").body("hello").await.expect(201);
    app.delete(record(HELLO)).namespace("one").await.expect(204);
    assert_eq!(app.get(data(HELLO)).namespace("two").await.to_string(), "200 \"hello\"");
    assert_eq!(app.get(data(HELLO)).namespace("one").await.status, 404);
    for name in ["", "a..b", "-a", &"x".repeat(77), "a/b", "%20"] {
        let refused = app.get("/api/v1/content").namespace(name).await;
        assert_eq!(refused.to_string(), "400 invalid-argument", "{name:?}");
    }
});

story!(who_needs_a_blob_twice_is_one_holder, async |app| {
    app.put_blob(b"hello").await;
    let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": HELLO, "size": 5});
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": HELLO, "size": 5});
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer]});
    let digest = app.put_blob(manifest.to_string().as_bytes()).await;
    let refused = app.delete(record(HELLO)).await.expect(409).json();
    let holders = refused["holders"].as_array().expect("holders");
    assert_eq!(*holders, [json!({"kind": "content", "id": digest, "name": "config"})]);
    assert!(refused["detail"].as_str().expect("words").contains("kept by 1 other"), "{refused}");
});

story!(children_are_those_of_the_manifest, async |app| {
    let config = app.put_blob(b"{}").await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": HELLO, "size": 5}],
    });
    let digest = app.put_blob(manifest.to_string().as_bytes()).await;
    let children = app.get(format!("{}/children", record(&digest))).await.expect(200).json();
    let digests: Vec<_> =
        children["items"].as_array().expect("items").iter().map(|child| &child["digest"]).collect();
    assert_eq!(digests, [&json!(config), &json!(HELLO)]);
    let none = app.get(format!("{}/children", record(&config))).await;
    assert_eq!(none.to_string(), "422 not-a-manifest");
    let held = app.delete(record(&config)).await.expect(409).json();
    assert_eq!(held["code"], "content-in-use");
    assert_eq!(held["holders"][0]["id"], digest);
    assert_eq!(app.delete(format!("{}?force=true", record(&config))).await.status, 204);
});

story!(a_manifest_keeps_its_blobs_wherever_its_keys_stand, async |app| {
    let config = app.put_blob(b"{}").await;
    let manifest = json!({
        "annotations": {"long": "x".repeat(10_000)},
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [],
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "schemaVersion": 2,
    });
    app.put_blob(manifest.to_string().as_bytes()).await;
    assert_eq!(app.delete(record(&config)).await.to_string(), "409 content-in-use");
});

story!(a_malformed_digest_is_refused_before_anything_is_looked_up, async |app| {
    let upper = HELLO.to_uppercase();
    for digest in [
        "hello",
        "sha256:",
        "sha256:abc",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        &upper,
        &format!("{HELLO}0"),
        &format!("{HELLO}%00"),
        &HELLO.replace("sha256", "sha512"),
    ] {
        for request in [
            app.get(record(digest)),
            app.get(data(digest)),
            app.put(data(digest)).body("hello"),
            app.delete(record(digest)),
            app.get(format!("{}/children", record(digest))),
            app.patch(record(digest)).merge_patch(json!({})),
        ] {
            assert_eq!(request.await.to_string(), "400 invalid-argument", "{digest}");
        }
    }
});

story!(stored_content_is_there_after_a_restart, async |app| {
    app.post("/api/v1/content?media_type=text/plain&label=a=1").body("hello").await.expect(201);
    let before = app.get(record(HELLO)).await;
    app.restart().await;
    assert!(app.repaired().is_nothing(), "{:?}", app.repaired());
    let after = app.get(record(HELLO)).await;
    assert_eq!((after.json(), after.header("etag")), (before.json(), before.header("etag")));
    assert_eq!(app.get(data(HELLO)).await.to_string(), "200 \"hello\"");
});

story!(a_location_leads_to_what_was_made_in_whichever_namespace, async |app| {
    for namespace in ["default", "other"] {
        let content = app.post("/api/v1/content").namespace(namespace).body("hello").await.expect(201);
        let put = app.put(format!("/api/v1/content/{}/data", sha256(b"hallo"))).namespace(namespace);
        let ingest = app.open(json!({"ref": "u"})).namespace(namespace).await.expect(201);
        let known = app.open(json!({"ref": "v", "expected_digest": sha256(b"hello")})).namespace(namespace);
        for made in [content, put.body("hallo").await.expect(201), ingest, known.await.expect(200)] {
            app.get(made.header("location")).await.expect(200);
        }
    }
});

// The first read opens the blob, the second finds it open: a mistake is the same mistake in both.
story!(a_read_is_judged_alike_whether_the_blob_is_open_or_not, async |app| {
    let data = format!("/api/v1/content/{}/data", app.put_blob(b"hello").await);
    for _ in 0..2 {
        let two = app.get(&data).header("Orlop-Lease", "a").header("Orlop-Lease", "b").await;
        assert_eq!(two.to_string(), "400 invalid-argument");
        for wrong in ["surprise=1", "namespace=", "namespace=a&namespace=b", "inline=maybe"] {
            assert_eq!(
                app.get(format!("{data}?{wrong}")).await.to_string(),
                "400 invalid-argument",
                "{wrong}"
            );
        }
        assert_eq!(app.get(format!("{data}?namespace=other")).await.to_string(), "404 not-found");
        assert_eq!(app.get(&data).header("Authorization", "Bearer orl_nobody").await.status, 401);
        assert_eq!(app.get(&data).header("Range", "bytes=9-").await.to_string(), "416 range-not-satisfiable");
        assert_eq!(app.post(&data).await.status, 405);
        let read = app.get(&data).header("Range", "bytes=1-3").await.expect(206);
        assert_eq!((&read.body[..], read.header("content-range")), (&b"ell"[..], "bytes 1-3/5"));
    }
});

story!(of_the_media_type_that_a_document_declares_the_type_itself_is_kept, async |app| {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    for parameters in [format!("; padding={}", "x".repeat(1 << 20)), ";\0".to_owned(), ";\r\n".to_owned()] {
        let document = json!({
            "schemaVersion": 2, "mediaType": format!("{MANIFEST}{parameters}"),
            "config": {"mediaType": "application/x", "digest": HELLO, "size": 5}, "layers": [],
        });
        let digest = app.put_blob(document.to_string().as_bytes()).await;
        assert_eq!(app.get(record(&digest)).await.expect(200).json()["media_type"], MANIFEST);
        let children = app.get(format!("{}/children", record(&digest))).await.expect(200).json();
        assert_eq!(children["media_type"], MANIFEST);
    }
});

story!(a_label_that_refers_to_nothing_is_a_label_like_others, async |app| {
    let digest = app.put_blob(b"hello").await;
    let (other, long) = (app.put_blob(b"other").await, hex(&noise(1, 1_750)));
    let long_key = format!("containerd.io/gc.ref.content.{long}");
    for labels in [
        json!({"containerd.io/gc.ref.content.0": long, "containerd.io/gc.ref.snapshot.overlayfs": long}),
        json!({"containerd.io/gc.ref.content.0": "sha256:short"}),
        json!({long_key: other}),
    ] {
        app.patch(record(&digest)).merge_patch(json!({"labels": labels})).await.expect(200);
    }
    let refused = app.delete(record(&other)).await.expect(409).json();
    assert_eq!(refused["holders"][0]["id"], digest, "a long key refers as a short one does");
});
