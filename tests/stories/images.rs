//! Images: names for descriptors, moved, tagged, found and removed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{TestApp, sha256, story};
use crate::support::eventually::eventually;

const IMAGES: &str = "/api/v1/images";
const ALPINE: &str = "docker.io/library/alpine:3.22";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const OTHER: &str = "sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752";

fn target() -> Value {
    json!({"digest": DIGEST, "media_type": MANIFEST, "size": 1047})
}

async fn named(app: &TestApp, name: &str) -> Value {
    app.post(IMAGES).json(json!({"name": name, "target": target()})).await.expect(201).json()
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|image| image["name"].as_str().expect("a name")).collect()
}

story!(an_image_is_named_before_its_bytes_are_there, async |app| {
    let labels = json!({"team": "harbour", "nothing": ""});
    let body = json!({"name": ALPINE, "target": target(), "labels": labels});
    let made = app.post(IMAGES).json(body).await.expect(201);
    let now = app.clock.now().to_string();
    let image = made.json();
    let id = image["id"].as_str().expect("an id");
    assert_eq!(
        image,
        json!({
            "id": id, "namespace": "default", "name": ALPINE, "labels": {"team": "harbour"},
            "target": {"media_type": MANIFEST, "digest": DIGEST, "size": 1047, "annotations": {}},
            "created_at": now, "updated_at": now,
        })
    );
    let path = format!("{IMAGES}/{id}");
    assert_eq!(made.header("location"), path);
    let found = app.get(&path).await.expect(200);
    assert_eq!((found.json(), found.header("etag")), (image, made.header("etag")));
    let known = app.get(&path).header("If-None-Match", made.header("etag")).await;
    assert_eq!(known.expect(304).body.len(), 0);
});

story!(where_a_new_image_is_said_to_be_it_is_found, async |app| {
    let body = json!({"name": ALPINE, "target": target()});
    let made = app.post(IMAGES).namespace("build").json(body).await.expect(201);
    assert_eq!(app.get(made.header("location")).await.expect(200).json(), made.json());
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(app.get(format!("{IMAGES}/{id}")).await.to_string(), "404 not-found");
});

story!(what_is_stored_completes_the_target_and_contradicts_a_wrong_one, async |app| {
    let stored = app
        .post(format!("/api/v1/content?media_type={}", MANIFEST.replace('+', "%2B")))
        .body("{}")
        .await
        .expect(201)
        .json();
    let digest = &stored["digest"];
    let made = app.post(IMAGES).json(json!({"name": "a", "target": {"digest": digest}})).await.expect(201);
    assert_eq!(made.json()["target"]["size"], 2);
    assert_eq!(made.json()["target"]["media_type"], MANIFEST);
    let wrong = json!({"name": "b", "target": {"digest": digest, "size": 3}});
    assert_eq!(app.post(IMAGES).json(wrong).await.to_string(), "422 validation-failed");
    let unknown = json!({"name": "b", "target": {"digest": OTHER}});
    assert_eq!(app.post(IMAGES).json(unknown).await.to_string(), "422 validation-failed");
});

story!(a_tag_shares_the_target_of_another_image_by_id_or_name, async |app| {
    let first = named(app, "first").await;
    for (name, from) in [("by-id", &first["id"]), ("by-name", &first["name"])] {
        let tagged = app.post(IMAGES).json(json!({"name": name, "from_image": from})).await.expect(201);
        assert_eq!(tagged.json()["target"], first["target"]);
    }
    let lost = app.post(IMAGES).json(json!({"name": "lost", "from_image": "nobody"})).await;
    assert_eq!(lost.to_string(), "404 not-found");
});

story!(a_name_is_given_once_in_a_namespace, async |app| {
    named(app, ALPINE).await;
    let body = json!({"name": ALPINE, "target": target()});
    assert_eq!(app.post(IMAGES).json(body.clone()).await.to_string(), "409 already-exists");
    app.post(IMAGES).namespace("build").json(body).await.expect(201);
});

story!(an_image_that_cannot_be_understood_is_not_made, async |app| {
    let target = target();
    for (field, body) in [
        ("target", json!({"name": "a"})),
        ("target", json!({"name": "a", "target": target, "from_image": "b"})),
        ("target", json!({"name": "a", "target": null})),
        ("name", json!({"name": "", "target": target})),
        ("name", json!({"name": "   ", "target": target})),
        ("name", json!({"name": "a\nb", "target": target})),
        ("name", json!({"name": "x".repeat(1025), "target": target})),
        ("target.digest", json!({"name": "a", "target": {"digest": "sha256:short"}})),
        (
            "target.size",
            json!({"name": "a", "target": {"digest": DIGEST, "media_type": MANIFEST, "size": 0}}),
        ),
        ("target", json!({"name": "a", "target": [DIGEST, MANIFEST, 1047, {}]})),
        ("tags", json!({"name": "a", "target": target, "tags": []})),
    ] {
        let refused = app.post(IMAGES).json(body.clone()).await.expect(400);
        assert_eq!(refused.json()["field"], field, "{body}");
    }
    let bare = app.post(IMAGES).body("{}").await;
    assert_eq!(bare.to_string(), "415 unsupported-media-type");
    assert_eq!(app.get(IMAGES).await.json()["items"], json!([]));
});

story!(a_lease_that_is_named_holds_the_new_image, async |app| {
    let lost =
        app.post(IMAGES).header("Orlop-Lease", "nobody").json(json!({"name": "a", "target": target()}));
    assert_eq!(lost.await.to_string(), "404 not-found");
    app.post("/api/v1/leases").json(json!({"id": "mine"})).await.expect(201);
    let body = json!({"name": "a", "target": target()});
    let image = app.post(IMAGES).header("Orlop-Lease", "mine").json(body).await.expect(201).json();
    let held = app.get("/api/v1/leases/mine/resources").await.json();
    assert_eq!(held["items"], json!([{"type": "image", "id": image["id"]}]));
});

story!(a_new_image_is_answered_with_the_lease_that_holds_it, async |app| {
    let make =
        || app.post(IMAGES).header("Idempotency-Key", "k").json(json!({"name": "a", "target": target()}));
    let made = make().await.expect(201);
    let lease = made.header("orlop-lease").to_owned();
    assert!(lease.starts_with("grace_"));
    let shown = app.get(format!("/api/v1/leases/{lease}")).await.expect(200).json();
    assert_eq!(shown["expires_at"], made.header("orlop-lease-expires"));
    let held = app.get(format!("/api/v1/leases/{lease}/resources")).await.json();
    assert_eq!(held["items"], json!([{"type": "image", "id": made.json()["id"]}]));
    // A repeat is held anew: nobody knows whether the first answer was heard.
    let again = make().await.expect(201);
    assert!(again.header("orlop-lease").starts_with("grace_") && again.header("orlop-lease") != lease);
    app.post("/api/v1/leases").json(json!({"id": "mine", "never": true})).await.expect(201);
    let body = json!({"name": "b", "target": target()});
    let mine = app.post(IMAGES).header("Orlop-Lease", "mine").json(body).await.expect(201);
    assert_eq!(mine.header("orlop-lease"), "mine");
    assert!(!mine.headers.contains_key("orlop-lease-expires"));
});

story!(a_patch_of_a_target_changes_what_it_mentions, async |app| {
    let body = json!({"name": "a", "target": target()});
    let path = app.post(IMAGES).json(body).await.expect(201).place().to_owned();
    let target_after = async |patch: Value| {
        app.patch(&path).merge_patch(json!({"target": patch})).await.expect(200).json()["target"].clone()
    };
    let of = |digest: &str, size: u64, annotations: Value| json!({"media_type": MANIFEST, "digest": digest, "size": size, "annotations": annotations});
    let both = json!({"a": "1", "b": "2"});
    assert_eq!(target_after(json!({"annotations": both})).await, of(DIGEST, 1047, both.clone()));
    let changed = target_after(json!({"annotations": {"a": null, "c": "3"}})).await;
    assert_eq!(changed, of(DIGEST, 1047, json!({"b": "2", "c": "3"})));
    // Of other bytes the type and the length are told anew, or known; the annotations are the name's own.
    let unknown = app.patch(&path).merge_patch(json!({"target": {"digest": OTHER}})).await;
    assert_eq!(unknown.to_string(), "422 validation-failed");
    let moved = target_after(json!({"digest": OTHER, "media_type": MANIFEST, "size": 7})).await;
    assert_eq!(moved, of(OTHER, 7, json!({"b": "2", "c": "3"})));
    let stored = app.post(format!("/api/v1/content?media_type={}", MANIFEST.replace('+', "%2B")));
    let stored = stored.body("{}").await.expect(201).json();
    let digest = stored["digest"].as_str().expect("a digest");
    assert_eq!(target_after(json!({"digest": digest})).await, of(digest, 2, json!({"b": "2", "c": "3"})));
    assert_eq!(target_after(json!({"annotations": null})).await, of(digest, 2, json!({})));
    assert_eq!(target_after(json!({})).await, of(digest, 2, json!({})));
});

story!(a_patch_moves_the_name_and_keeps_what_it_does_not_mention, async |app| {
    let body = json!({"name": "a", "target": target(), "labels": {"a": "1", "b": "2", "c": "3"}});
    let image = app.post(IMAGES).json(body).await.expect(201).json();
    let path = format!("{IMAGES}/{}", image["id"].as_str().expect("an id"));
    app.clock.advance(Duration::from_secs(1));
    let moved = json!({"digest": OTHER, "media_type": MANIFEST, "size": 7, "annotations": {"k": "v"}});
    let patch = json!({"target": moved, "labels": {"a": null, "b": "", "d": "4"}});
    let patched = app.patch(&path).merge_patch(patch).await.expect(200);
    assert_eq!(patched.json()["target"], moved);
    assert_eq!(patched.json()["labels"], json!({"c": "3", "d": "4"}));
    assert_eq!(patched.json()["created_at"], image["created_at"]);
    assert_eq!(patched.json()["updated_at"], app.clock.now().to_string());
    let cleared = app.patch(&path).merge_patch(json!({"labels": null})).await.expect(200);
    assert_eq!((&cleared.json()["labels"], &cleared.json()["target"]), (&json!({}), &moved));
    let nothing = app.patch(&path).merge_patch(json!({"target": null})).await;
    assert_eq!(nothing.to_string(), "400 invalid-argument");
});

story!(of_two_who_change_an_image_the_slower_is_told, async |app| {
    let image = named(app, "a").await;
    let path = format!("{IMAGES}/{}", image["id"].as_str().expect("an id"));
    let seen = app.get(&path).await.header("etag").to_owned();
    let change =
        |label: &str| app.patch(&path).header("If-Match", &seen).merge_patch(json!({"labels": {label: "x"}}));
    let first = change("one").await.expect(200);
    assert_ne!(first.header("etag"), seen);
    assert_eq!(change("two").await.to_string(), "412 precondition-failed");
    assert_eq!(app.delete(&path).header("If-Match", &seen).await.to_string(), "412 precondition-failed");
    app.delete(&path).header("If-Match", first.header("etag")).await.expect(204);
    assert_eq!(app.delete(&path).await.to_string(), "404 not-found");
});

story!(images_are_found_by_name_prefix_digest_label_and_filter, async |app| {
    for name in ["b/one", "a/two", "a/one"] {
        named(app, name).await;
    }
    let other = json!({"digest": OTHER, "media_type": MANIFEST, "size": 7});
    let body = json!({"name": "c", "target": other, "labels": {"example.org/team": "harbour"}});
    app.post(IMAGES).json(body).await.expect(201);
    for (query, found) in [
        ("", vec!["a/one", "a/two", "b/one", "c"]),
        ("?sort=-name", vec!["c", "b/one", "a/two", "a/one"]),
        ("?name=a/one", vec!["a/one"]),
        ("?name_prefix=a/", vec!["a/one", "a/two"]),
        (&format!("?digest={OTHER}"), vec!["c"]),
        ("?label=example.org/team=harbour", vec!["c"]),
        ("?label=example.org/team=yard", vec![]),
        ("?filter=target.size>1000,name~=one$", vec!["a/one", "b/one"]),
        ("?filter=name==c&filter=name==a/two", vec!["a/two", "c"]),
    ] {
        let list = app.get(format!("{IMAGES}{query}")).await.expect(200).json();
        assert_eq!(names(&list), found, "{query}");
    }
    for query in ["?digest=sha256:short", "?sort=target", "?filter=name==", "?colour=red"] {
        assert_eq!(app.get(format!("{IMAGES}{query}")).await.to_string(), "400 invalid-argument", "{query}");
    }
});

story!(a_long_list_is_read_page_by_page_or_line_by_line, async |app| {
    for n in 0..5 {
        named(app, &format!("n{n}")).await;
    }
    let first = app.get(format!("{IMAGES}?limit=2")).await.expect(200);
    let link = first.header("link").to_owned();
    let next = link.strip_prefix('<').and_then(|rest| rest.split_once('>')).expect("a link").0;
    let second = app.get(next).await.expect(200).json();
    assert_eq!((names(&first.json()), names(&second)), (vec!["n0", "n1"], vec!["n2", "n3"]));
    let cursor = second["next_cursor"].as_str().expect("a cursor");
    let last = app.get(format!("{IMAGES}?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!((names(&last.json()), last.header("link")), (vec!["n4"], ""));
    let other = app.get(format!("{IMAGES}?name_prefix=n&cursor={cursor}")).await;
    assert_eq!(other.expect(400).json()["field"], "cursor");
    let lines = app.get(IMAGES).header("Accept", "application/x-ndjson").await.expect(200);
    assert_eq!(lines.body.iter().filter(|byte| **byte == b'\n').count(), 5);
});

story!(a_repeated_post_with_one_key_makes_one_image, async |app| {
    let body = json!({"name": "a", "target": target()});
    let ask = |body: &Value| app.post(IMAGES).header("Idempotency-Key", "k1").json(body.clone());
    let first = ask(&body).await.expect(201);
    let again = ask(&body).await.expect(201);
    assert_eq!((again.json(), again.header("location")), (first.json(), first.header("location")));
    let other = json!({"name": "b", "target": target()});
    assert_eq!(ask(&other).await.to_string(), "422 idempotency-key-reused");
    app.clock.advance(Duration::from_secs(24 * 3600 + 1));
    ask(&other).await.expect(201);
    for key in ["", "a b", &"k".repeat(256)] {
        let refused = app.post(IMAGES).header("Idempotency-Key", key).json(body.clone()).await;
        assert_eq!(refused.to_string(), "400 invalid-argument", "`{key}`");
    }
});

story!(an_id_that_no_server_could_have_made_is_malformed, async |app| {
    assert_eq!(app.get(format!("{IMAGES}/alpine")).await.expect(400).json()["field"], "id");
    let lost = format!("{IMAGES}/img_00000000000000000000000000");
    assert_eq!(app.get(&lost).await.to_string(), "404 not-found");
    assert_eq!(app.patch(&lost).merge_patch(json!({})).await.to_string(), "404 not-found");
});

story!(the_list_of_the_layout_names_what_is_stored, async |app| {
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": OTHER, "size": 5}});
    let bytes = manifest.to_string();
    let digest = sha256(bytes.as_bytes());
    let target = json!({"digest": digest, "media_type": MANIFEST, "size": bytes.len()});
    app.post("/api/v1/images").json(json!({"name": "a:1", "target": target})).await.expect(201);
    let listed = async |wanted: usize| {
        eventually(&format!("index.json names {wanted} images"), async || {
            let index = std::fs::read(app.data_dir().join("index.json")).expect("the list");
            let index: Value = serde_json::from_slice(&index).expect("JSON");
            (index["manifests"].as_array().map(Vec::len) == Some(wanted)).then_some(())
        })
        .await;
    };
    listed(0).await;
    app.put_blob(bytes.as_bytes()).await;
    listed(1).await;
    app.delete(format!("/api/v1/content/{digest}?force=true")).await.expect(204);
    listed(0).await;
});
