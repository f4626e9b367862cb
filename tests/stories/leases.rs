//! Leases: made, extended, released, expired; and what they name.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{TestApp, story};
use crate::support::rows::execute;

const LEASES: &str = "/api/v1/leases";
const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const HOUR: Duration = Duration::from_secs(3600);

async fn leased(app: &TestApp, body: Value) -> Value {
    app.post(LEASES).json(body).await.expect(201).json()
}

fn ids(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item["id"].as_str().expect("an id")).collect()
}

story!(a_lease_without_a_word_lives_for_a_day, async |app| {
    let made = app.post(LEASES).await.expect(201);
    let lease = made.json();
    let id = lease["id"].as_str().expect("an id");
    let now = app.clock.now();
    assert_eq!(
        lease,
        json!({
            "id": id, "namespace": "default", "kind": "user", "labels": {}, "flat": false,
            "expires_at": now.plus(24 * HOUR).to_string(), "expires_in_seconds": 86_400,
            "created_at": now.to_string(), "updated_at": now.to_string(),
        })
    );
    assert_eq!(made.header("location"), format!("{LEASES}/{id}"));
    // Its time runs: no answer is like the one before, though its tag is.
    app.clock.advance(Duration::from_secs(1));
    let later = app.get(made.header("location")).header("If-None-Match", made.header("etag")).await;
    assert_eq!(later.clone().expect(200).json()["expires_in_seconds"], 86_399);
    assert_eq!(later.header("etag"), made.header("etag"));
});

story!(a_lease_ends_in_one_of_three_ways, async |app| {
    let at = app.clock.now().plus(HOUR).to_string();
    assert_eq!(leased(app, json!({"id": "a", "ttl": "1h"})).await["expires_at"], at);
    assert_eq!(leased(app, json!({"id": "b", "expires_at": at})).await["expires_at"], at);
    let never = leased(app, json!({"id": "c", "never": true})).await;
    assert_eq!(json!([never["expires_at"], never["expires_in_seconds"]]), json!([null, null]));
    assert_eq!(leased(app, json!({"id": "d", "never": false})).await["expires_in_seconds"], 86_400);
    for (field, body) in [
        ("ttl", json!({"ttl": "1h", "expires_at": at})),
        ("ttl", json!({"ttl": "1h", "never": true})),
        ("ttl", json!({"expires_at": at, "never": true})),
        ("ttl", json!({"ttl": "0s"})),
        ("ttl", json!({"ttl": "soon"})),
        ("ttl", json!({"ttl": null})),
        ("expires_at", json!({"expires_at": "2001-01-01T00:00:00Z"})),
        ("expires_at", json!({"expires_at": "tomorrow"})),
        ("id", json!({"id": "a/b"})),
        ("id", json!({"id": "x".repeat(256)})),
        ("labels.k", json!({"labels": {"k": "v".repeat(4096)}})),
    ] {
        let refused = app.post(LEASES).json(body.clone()).await.expect(400);
        assert_eq!(refused.json()["field"], field, "{body}");
    }
});

story!(an_expired_lease_is_not_there_and_its_id_is_free, async |app| {
    leased(app, json!({"id": "brief", "ttl": "10s"})).await;
    app.clock.advance(Duration::from_millis(9_999));
    assert_eq!(app.get(format!("{LEASES}/brief")).await.json()["expires_in_seconds"], 0);
    assert_eq!(app.post(LEASES).json(json!({"id": "brief"})).await.to_string(), "409 already-exists");
    app.clock.advance(Duration::from_millis(1));
    for answer in [
        app.get(format!("{LEASES}/brief")).await,
        app.patch(format!("{LEASES}/brief")).merge_patch(json!({"ttl": "1h"})).await,
        app.get(format!("{LEASES}/brief/resources")).await,
        app.delete(format!("{LEASES}/brief")).await,
    ] {
        assert_eq!(answer.to_string(), "404 not-found");
    }
    assert_eq!(ids(&app.get(LEASES).await.json()), [""; 0]);
    leased(app, json!({"id": "brief"})).await;
});

story!(a_patch_extends_shortens_and_labels, async |app| {
    assert_eq!(app.post(LEASES).json(json!([])).await.to_string(), "400 invalid-argument");
    let lease = leased(app, json!({"id": "mine", "ttl": "1h", "labels": {"a": "1"}})).await;
    app.clock.advance(HOUR / 2);
    let path = format!("{LEASES}/mine");
    let patch = |body: Value| app.patch(&path).merge_patch(body);
    let longer = patch(json!({"ttl": "2h", "labels": {"b": "2"}})).await.expect(200).json();
    assert_eq!(longer["expires_at"], app.clock.now().plus(2 * HOUR).to_string());
    assert_eq!(
        (&longer["labels"], &longer["created_at"]),
        (&json!({"a": "1", "b": "2"}), &lease["created_at"])
    );
    assert_eq!(patch(json!({"ttl": "1s"})).await.json()["expires_in_seconds"], 1);
    let ever = patch(json!({"never": true})).await.expect(200).json();
    assert_eq!(patch(json!({"labels": null})).await.json()["labels"], json!({}));
    assert_eq!(ever["expires_at"], Value::Null);
    assert_eq!(patch(json!({"ttl": "1h", "never": true})).await.to_string(), "400 invalid-argument");
    assert_eq!(patch(json!({"kind": "grace"})).await.to_string(), "400 invalid-argument");
    let many: serde_json::Map<_, _> = (0..65).map(|n| (n.to_string(), json!("v"))).collect();
    assert_eq!(patch(json!({"labels": many})).await.to_string(), "422 validation-failed");
    let stale = app.patch(&path).header("If-Match", "\"old\"").merge_patch(json!({})).await;
    assert_eq!(stale.to_string(), "412 precondition-failed");
});

story!(a_lease_belongs_to_its_namespace, async |app| {
    let made = app.post(LEASES).namespace("build").json(json!({"id": "mine"})).await.expect(201);
    assert_eq!(made.json()["namespace"], "build");
    assert_eq!(app.get(format!("{LEASES}/mine")).await.to_string(), "404 not-found");
    app.get(made.header("location")).await.expect(200);
    app.delete(made.header("location")).await.expect(204);
    assert_eq!(app.delete(made.header("location")).await.to_string(), "404 not-found");
});

story!(leases_are_listed_by_kind_label_and_end, async |app| {
    app.post("/api/v1/content").body("hello").await.expect(201);
    leased(app, json!({"id": "ever", "never": true})).await;
    leased(app, json!({"id": "long", "ttl": "9d", "labels": {"team": "harbour"}})).await;
    leased(app, json!({"id": "short", "ttl": "9m"})).await;
    for (query, found) in [
        ("?kind=user&sort=expires_at", vec!["short", "long", "ever"]),
        ("?kind=user&sort=-id", vec!["short", "long", "ever"]),
        ("?label=team", vec!["long"]),
        ("?filter=kind==user,labels.team!=harbour&sort=id", vec!["ever", "short"]),
        ("?kind=pull", vec![]),
    ] {
        let list = app.get(format!("{LEASES}{query}")).await.expect(200).json();
        assert_eq!(ids(&list), found, "{query}");
    }
    let grace = app.get(format!("{LEASES}?kind=grace")).await.json();
    assert_eq!(grace["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(app.get(format!("{LEASES}?kind=mine")).await.expect(400).json()["field"], "kind");
});

story!(a_lease_names_things_that_need_not_be_there, async |app| {
    leased(app, json!({"id": "mine"})).await;
    let image = "img_00000000000000000000000000";
    let of = |kind: &str, id: &str| format!("{LEASES}/mine/resources/{kind}/{id}");
    for (kind, id) in [("image", image), ("content", HELLO), ("content", HELLO)] {
        app.put(of(kind, id)).await.expect(204);
    }
    let resources = || app.get(format!("{LEASES}/mine/resources"));
    let both = json!([{"type": "content", "id": HELLO}, {"type": "image", "id": image}]);
    assert_eq!(resources().await.json(), json!({"items": both, "next_cursor": null}));
    let lines = resources().header("Accept", "application/x-ndjson").await.expect(200);
    assert_eq!(lines.body.iter().filter(|byte| **byte == b'\n').count(), 2);
    for _ in 0..2 {
        app.delete(of("content", HELLO)).await.expect(204);
    }
    assert_eq!(ids(&resources().await.json()), [image]);
    for (field, path) in [
        ("type", of("volume", "a")),
        ("rid", of("snapshot", "a%20b")),
        ("id", format!("{LEASES}/a%20b/resources/content/{HELLO}")),
        ("rid", of("content", "hello")),
        ("rid", of("image", HELLO)),
        ("rid", of("ingest", image)),
    ] {
        assert_eq!(app.put(&path).await.expect(400).json()["field"], field, "{path}");
    }
    let lost = app.put(format!("{LEASES}/other/resources/content/{HELLO}")).await;
    assert_eq!(lost.to_string(), "404 not-found");
});

story!(what_a_lease_holds_is_read_page_by_page_in_order, async |app| {
    leased(app, json!({"id": "mine"})).await;
    let mut digests: Vec<String> = (0..5).map(|n| crate::support::app::sha256(&[n])).collect();
    for digest in &digests {
        app.put(format!("{LEASES}/mine/resources/content/{digest}")).await.expect(204);
    }
    digests.sort();
    let mut path = format!("{LEASES}/mine/resources?limit=2");
    let mut seen = Vec::new();
    loop {
        let page = app.get(&path).await.expect(200).json();
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("{LEASES}/mine/resources?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, digests);
    let forged = app.get(format!("{LEASES}/mine/resources?cursor=Zm9yZ2Vk")).await;
    assert_eq!(forged.expect(400).json()["field"], "cursor");
});

story!(a_lease_that_was_named_holds_what_is_stored_until_it_is_released, async |app| {
    leased(app, json!({"id": "mine"})).await;
    let stored = app.post("/api/v1/content").header("Orlop-Lease", "mine").body("hello").await.expect(201);
    assert_eq!(stored.header("orlop-lease"), "mine");
    let blob = format!("/api/v1/content/{HELLO}");
    let refused = app.delete(&blob).await.expect(409);
    assert_eq!(refused.json()["holders"], json!([{"kind": "lease", "id": "mine", "name": null}]));
    app.delete(format!("{LEASES}/mine")).await.expect(204);
    app.delete(&blob).await.expect(204);
});

story!(a_lease_is_named_in_its_own_letters_or_not_at_all, async |app| {
    let target = json!({"media_type": "text/plain", "digest": HELLO, "size": 5});
    app.post("/api/v1/content").body("hello").await.expect(201);
    let image = || {
        let new = json!({"name": "app:1", "target": target});
        app.post("/api/v1/images").header("Idempotency-Key", "k1").json(new)
    };
    image().await.expect(201);
    for wrong in ["", "a b", "a/b", &"x".repeat(256)] {
        let store = app.post("/api/v1/content").body("hello");
        let open = app.post("/api/v1/ingests").json(json!({"ref": "u"}));
        // Also where the answer is remembered.
        for request in [store, open, image()] {
            let refused = request.header("Orlop-Lease", wrong).await.expect(400);
            assert_eq!(refused.json()["field"], "Orlop-Lease", "{wrong:?}");
        }
    }
});

story!(a_repeated_post_without_an_id_makes_one_lease, async |app| {
    let ask = || app.post(LEASES).header("Idempotency-Key", "k1");
    let first = ask().await.expect(201).json();
    assert_eq!(ask().json(json!({})).await.expect(201).json(), first);
    let (one, two) = tokio::join!(
        app.post(LEASES).header("Idempotency-Key", "k2").send(),
        app.post(LEASES).header("Idempotency-Key", "k2").send(),
    );
    assert_eq!(one.json(), two.json());
    assert_eq!(ask().json(json!({"ttl": "1h"})).await.to_string(), "422 idempotency-key-reused");
    // Another namespace has keys of its own.
    let other = ask().namespace("build").await.expect(201).json();
    assert_ne!(other["id"], first["id"]);
    app.delete(format!("{LEASES}/{}", first["id"].as_str().expect("an id"))).await.expect(204);
    assert_ne!(ask().await.expect(201).json()["id"], first["id"], "what was released is made anew");
});

story!(a_sweep_takes_every_expired_lease_and_no_other, async |app| {
    let rows: Vec<String> = (0..1_203)
        .map(|n| {
            format!("('default', 'l{n}', 'grace', 0, '{{}}', {}, 1, 1)", if n < 3 { i64::MAX } else { 1 })
        })
        .collect();
    let columns = "namespace, id, kind, flat, labels, expires_at, created_at, updated_at";
    execute(app, &format!("INSERT INTO leases ({columns}) VALUES {}", rows.join(", "))).await;
    app.state().store.sweep_now().await.expect("a sweep");
    assert_eq!(execute(app, "DELETE FROM leases").await, 3);
});
