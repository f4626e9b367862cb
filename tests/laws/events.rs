//! What is told of changes: each of them once, nothing else, and for as long as it is promised.

use std::time::Duration;

use orlop::error::Error;
use serde_json::{Value, json};

use crate::support::app::{TestApp, sha256, story};
use crate::support::event_stream::{EventStream, id, told};
use crate::support::request::Request;

pub const EVENTS: &str = "/api/v1/events";

pub async fn page(app: &TestApp, query: &str) -> Vec<Value> {
    let page = app.get(format!("{EVENTS}?limit=1000&all_namespaces=true&{query}")).await.expect(200).json();
    assert_eq!(page["next_cursor"], Value::Null);
    page["items"].as_array().expect("items").clone()
}

pub async fn last_id(app: &TestApp) -> i64 {
    page(app, "").await.last().map_or(0, id)
}

/// What is told of one request: topic, subject and fields of each event.
async fn told_of(app: &TestApp, request: Request) -> Vec<(String, String, Value)> {
    let before = last_id(app).await;
    let answer = request.await;
    assert!(answer.status < 300, "{answer}");
    let news = page(app, &format!("after={before}")).await;
    assert!(news.iter().all(|event| event["time"] == app.clock.now().to_string().as_str()), "{news:?}");
    news.iter().map(|event| (told(event).0, told(event).1, event["event"].clone())).collect()
}

fn one(topic: &str, subject: &str, fields: Value) -> Vec<(String, String, Value)> {
    vec![(topic.to_owned(), subject.to_owned(), fields)]
}

story!(every_change_is_told_once_and_as_what_it_was, async |app| {
    let now = || app.clock.now();
    let digest = sha256(b"hello");
    let record = format!("/api/v1/content/{digest}");
    let data = format!("{record}/data?media_type=text/plain");
    let made = json!({"digest": digest, "size": 5, "media_type": "text/plain"});
    assert_eq!(told_of(app, app.put(&data).body("hello")).await, one("/content/create", &digest, made));
    assert_eq!(told_of(app, app.put(&data).body("hello")).await, [], "it was there");
    let label = json!({"labels": {"a": "1"}});
    let labelled = json!({"digest": digest, "media_type": "text/plain", "labels": {"a": "1"}});
    let patch = app.patch(&record).merge_patch(label.clone());
    assert_eq!(told_of(app, patch).await, one("/content/update", &digest, labelled));

    let target = json!({"digest": digest, "media_type": "text/plain", "size": 5});
    let before = last_id(app).await;
    let image = app.post("/api/v1/images").json(json!({"name": "i:1", "target": target})).await.expect(201);
    let image_id = image.json()["id"].clone();
    let told_image = json!({"name": "i:1", "id": image_id, "digest": digest, "labels": {}});
    let news = page(app, &format!("after={before}")).await;
    assert_eq!((told(&news[0]), &news[0]["event"]), (("/images/create".into(), "i:1".into()), &told_image));
    assert_eq!(news.len(), 1);
    let labelled = json!({"name": "i:1", "id": image_id, "digest": digest, "labels": {"a": "1"}});
    let patch = app.patch(image.place()).merge_patch(label.clone());
    assert_eq!(told_of(app, patch).await, one("/images/update", "i:1", labelled));
    let gone = json!({"name": "i:1", "id": image_id});
    assert_eq!(told_of(app, app.delete(image.place())).await, one("/images/delete", "i:1", gone));
    let gone = json!({"digest": digest});
    assert_eq!(told_of(app, app.delete(&record)).await, one("/content/delete", &digest, gone));

    let lease = |ends: &str| json!({"id": "l", "kind": "user", "expires_at": ends, "labels": {}});
    let ends = now().plus(Duration::from_secs(60)).to_string();
    let new = app.post("/api/v1/leases").json(json!({"id": "l", "ttl": "60s"}));
    assert_eq!(told_of(app, new).await, one("/leases/create", "l", lease(&ends)));
    let ends = now().plus(Duration::from_secs(90)).to_string();
    let longer = app.patch("/api/v1/leases/l").merge_patch(json!({"ttl": "90s"}));
    assert_eq!(told_of(app, longer).await, one("/leases/update", "l", lease(&ends)));
    let ever = app.patch("/api/v1/leases/l").merge_patch(json!({"never": true}));
    let told_ever = json!({"id": "l", "kind": "user", "labels": {}});
    assert_eq!(told_of(app, ever).await, one("/leases/update", "l", told_ever));
    let gone = json!({"id": "l", "kind": "user"});
    assert_eq!(told_of(app, app.delete("/api/v1/leases/l")).await, one("/leases/delete", "l", gone));

    let new = app.post("/api/v1/namespaces").json(json!({"name": "n", "labels": {"b": "2"}}));
    let named = json!({"name": "n", "labels": {"b": "2"}});
    assert_eq!(told_of(app, new).await, one("/namespaces/create", "n", named));
    let patch = app.patch("/api/v1/namespaces/n").merge_patch(json!({"labels": null}));
    let bare = json!({"name": "n", "labels": {}});
    assert_eq!(told_of(app, patch).await, one("/namespaces/update", "n", bare.clone()));
    let gone = app.delete("/api/v1/namespaces/n");
    assert_eq!(told_of(app, gone).await, one("/namespaces/delete", "n", json!({"name": "n"})));
    let first_use = told_of(app, app.post("/api/v1/leases").namespace("n").json(json!({"id": "l"}))).await;
    assert_eq!(first_use[0], one("/namespaces/create", "n", bare)[0]);
    assert_eq!((first_use.len(), first_use[1].0.as_str()), (2, "/leases/create"));
});

story!(an_ingest_is_told_of_when_it_begins_and_when_it_ends, async |app| {
    let topics = async |before: i64| -> Vec<(String, String)> {
        page(app, &format!("after={before}")).await.iter().map(told).collect()
    };
    let pair = |topic: &str, subject: &str| (topic.to_owned(), subject.to_owned());
    let name_of = |path: &str| path.rsplit('/').next().expect("an id").to_owned();
    let before = last_id(app).await;
    let ingest = app.filled_ingest("u", b"hello").await;
    app.open(json!({"ref": "u"})).await.expect(200);
    let (digest, name) = (sha256(b"hello"), name_of(&ingest));
    assert_eq!(topics(before).await, [pair("/ingests/open", &name)], "progress is not told");
    let before = last_id(app).await;
    app.commit(&ingest, json!({})).await.expect(201);
    assert_eq!(topics(before).await, [pair("/ingests/commit", &name), pair("/content/create", &digest)]);
    let committed = page(app, "topic=/ingests/commit").await;
    assert_eq!(committed[0]["event"], json!({"id": name, "ref": "u", "digest": digest}));
    // The bytes are known: only the ingest ends.
    let again = app.filled_ingest("u", b"hello").await;
    let before = last_id(app).await;
    app.commit(&again, json!({})).await.expect(200);
    assert_eq!(topics(before).await, [pair("/ingests/commit", &name_of(&again))]);

    let aborted = app.new_ingest("a").await;
    let before = last_id(app).await;
    app.delete(&aborted).await.expect(204);
    assert_eq!(topics(before).await, [pair("/ingests/abort", &name_of(&aborted))]);
    let (old, swept) = (app.new_ingest("old").await, app.new_ingest("swept").await);
    app.clock.advance(Duration::from_secs(26 * 3600));
    let before = last_id(app).await;
    app.open(json!({"ref": "old"})).await.expect(201);
    assert_eq!(topics(before).await[0], pair("/ingests/expire", &name_of(&old)));
    let before = last_id(app).await;
    app.state().store.sweep_now().await.expect("a sweep");
    assert_eq!(
        topics(before).await,
        [pair("/ingests/expire", &name_of(&swept))],
        "and nothing of grace leases"
    );
});

story!(a_lease_that_expires_is_told_of_and_a_grace_lease_is_not, async |app| {
    for name in ["swept", "reused"] {
        app.post("/api/v1/leases").json(json!({"id": name, "ttl": "10s"})).await.expect(201);
    }
    app.put_blob(b"held by a grace lease").await;
    app.clock.advance(Duration::from_secs(10));
    let ended = app.clock.now().to_string();
    app.clock.advance(Duration::from_secs(24 * 3600));
    let before = last_id(app).await;
    app.post("/api/v1/leases").json(json!({"id": "reused"})).await.expect(201);
    app.state().store.sweep_now().await.expect("a sweep");
    let news = page(app, &format!("after={before}")).await;
    let topics: Vec<_> = news.iter().map(told).collect();
    let pair = |topic: &str, subject: &str| (topic.to_owned(), subject.to_owned());
    let expected =
        [pair("/leases/expire", "reused"), pair("/leases/create", "reused"), pair("/leases/expire", "swept")];
    assert_eq!(topics, expected);
    assert_eq!(news[2]["event"], json!({"id": "swept", "kind": "user", "expires_at": ended}));
});

story!(a_change_that_is_refused_is_not_told, async |app| {
    let digest = app.put_blob(b"hello").await;
    let record = format!("/api/v1/content/{digest}");
    let target = json!({"digest": digest, "media_type": "text/plain", "size": 5});
    app.post("/api/v1/images").json(json!({"name": "i", "target": target})).await.expect(201);
    app.post("/api/v1/leases").json(json!({"id": "l"})).await.expect(201);
    let ingest = app.filled_ingest("u", b"other").await;
    let before = last_id(app).await;
    for refused in [
        app.put(format!("/api/v1/content/{}/data", sha256(b"x"))).body("y"),
        app.patch(&record).header("If-Match", "\"old\"").merge_patch(json!({"labels": {"a": "1"}})),
        app.delete(&record),
        app.post("/api/v1/images").json(json!({"name": "i", "target": target})),
        app.post("/api/v1/leases").json(json!({"id": "l"})),
        app.delete("/api/v1/namespaces/default"),
        app.commit(&ingest, json!({"total": 4})),
        // The namespace would have been new.
        app.post("/api/v1/images").namespace("new").json(json!({"name": "j", "from_image": "i"})),
        app.post("/api/v1/content").namespace("new").header("Orlop-Lease", "none").body("x"),
    ] {
        let answer = refused.await;
        assert!(answer.status >= 400, "{answer}");
    }
    assert_eq!(page(app, &format!("after={before}")).await, [Value::Null; 0]);
});

story!(old_events_go_in_time_and_their_ids_never_come_back, async |app| {
    app.put_blob(b"old").await;
    let old = last_id(app).await;
    app.clock.advance(orlop::limits::EVENTS_TIME - Duration::from_secs(60));
    app.put_blob(b"young").await;
    app.clock.advance(Duration::from_secs(120));
    app.state().store.sweep_now().await.expect("a sweep");
    let kept = page(app, "").await;
    assert_eq!(kept.iter().map(|event| told(event).1).collect::<Vec<_>>(), [sha256(b"young")]);
    let young = id(&kept[0]);
    // From the last that was dropped on nothing is missing; before it something is.
    assert_eq!(page(app, &format!("after={old}")).await, kept);
    let gone = app.get(format!("{EVENTS}?after={}", old - 1)).await;
    assert_eq!((gone.to_string(), &gone.json()["oldest_id"]), ("410 gone".to_owned(), &json!(old + 1)));
    app.clock.advance(orlop::limits::EVENTS_TIME);
    app.state().store.sweep_now().await.expect("a sweep");
    assert_eq!(page(app, "").await, [Value::Null; 0]);
    assert_eq!(page(app, &format!("after={young}")).await, [Value::Null; 0], "nothing after it was dropped");
    app.restart().await;
    app.put_blob(b"new").await;
    assert!(id(&page(app, &format!("after={young}")).await[0]) > young);
});

story!(a_reader_of_what_was_dropped_is_told_also_in_the_middle, async |app| {
    let store = app.state().store.clone();
    let mut slow = store.follow_events(Some(0)).await.expect("from the first on");
    let many = orlop::limits::EVENTS_KEPT + 700;
    let filled = format!(
        "INSERT INTO events (namespace, topic, subject, data, time) \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many}) \
         SELECT 'default', '/leases/create', 'l' || i, '{{}}', {} FROM n",
        app.clock.now().0
    );
    assert_eq!(crate::support::rows::execute(app, &filled).await, many);
    slow.next().await.expect("the first batch");
    store.sweep_now().await.expect("a sweep");
    let oldest = match slow.next().await {
        Err(Error::Gone { oldest, .. }) => oldest,
        other => panic!("{other:?}"),
    };
    let first = app.get(format!("{EVENTS}?limit=1")).await.expect(200).json();
    assert_eq!(id(&first["items"][0]), oldest);
    let last = app.get(format!("{EVENTS}?limit=1&sort=-id")).await.expect(200).json();
    assert_eq!(id(&last["items"][0]) + 1 - oldest, orlop::limits::EVENTS_KEPT as i64);
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let ask = app.get(EVENTS).header("Accept", accept).header("Last-Event-ID", "1");
        assert_eq!(ask.await.expect(410).json()["oldest_id"], oldest, "{accept}");
    }
    let mut again = EventStream::ndjson(app.get(format!("{EVENTS}?after={}", oldest - 1))).await;
    assert_eq!(id(&again.next().await), oldest);
    drop(store);
    drop(slow);
});

story!(labels_that_are_too_large_are_left_out, async |app| {
    let digest = app.put_blob(b"hello").await;
    let change = |length: usize| {
        let labels = json!({"labels": {"a": "v".repeat(length), "b": "v"}});
        app.patch(format!("/api/v1/content/{digest}")).merge_patch(labels)
    };
    for (length, told) in [(4_000, true), (4_090, false)] {
        change(length).await.expect(200);
        let events = page(app, "topic=/content/update").await;
        assert_eq!(events.last().expect("an event")["event"].get("labels").is_some(), told, "{length}");
    }
    assert_eq!(page(app, "filter=event.labels.b==v").await.len(), 1);
});
