//! Stored images are unpacked by jobs of their own.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::{TestApp, story};
use crate::support::event_stream::EventStream;
use crate::support::fixture_registry::sha256;
use crate::support::pulling::pulled;
use crate::support::request::Answer;
use crate::support::unpacking::{Pushed, keys, many_files, pushed, pushed_platforms, read, three_layers};

const UNPACKS: &str = "/api/v1/unpacks";
/// Files of a layer that takes a while.
const MANY: usize = 20_000;

/// The image, pulled and not unpacked; its name.
async fn stored(app: &TestApp, image: &Pushed) -> String {
    let pull = pulled(app, json!({"ref": image.reference, "platforms": ["linux/amd64"]})).await;
    assert_eq!(keys(app).await, [""; 0]);
    pull["image_name"].as_str().expect("a name").to_owned()
}

async fn asked(app: &TestApp, body: Value) -> Answer {
    app.post(UNPACKS).json(body).await.expect(202)
}

/// An unpack at its end.
async fn ended(app: &TestApp, made: &Answer) -> Value {
    let ended = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert!(ended["finished_at"].is_string(), "{ended}");
    ended
}

async fn unpacked(app: &TestApp, body: Value) -> Value {
    let ended = ended(app, &asked(app, body).await).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    ended
}

fn states(unpack: &Value) -> Vec<&str> {
    let layers = unpack["layers"].as_array().expect("layers");
    layers.iter().map(|layer| layer["unpack"]["state"].as_str().expect("a state")).collect()
}

story!(a_stored_image_is_unpacked_by_its_name, async |app| {
    let image = pushed(&three_layers()).await;
    let name = stored(app, &image).await;
    let unpack = unpacked(app, json!({"image": name})).await;
    let top = image.chain.last().expect("a top");
    assert_eq!(
        unpack["snapshots"],
        json!([{"key": top, "manifest": unpack["digest"], "platform": "linux/amd64"}])
    );
    assert_eq!(states(&unpack), ["done"; 3]);
    assert_eq!((&unpack["bytes_done"], &unpack["lease_id"]), (&unpack["bytes_total"], &Value::Null));
    assert_eq!(unpack["bytes_total"], image.blobs.iter().map(Vec::len).sum::<usize>());
    for (layer, (key, blob)) in
        unpack["layers"].as_array().expect("layers").iter().zip(image.chain.iter().zip(&image.blobs))
    {
        assert_eq!((&layer["chain_id"], &layer["digest"]), (&json!(key), &json!(sha256(blob))));
    }
    assert_eq!(read(app, top, "etc/new").await, "three");
    // It is held by the image, and by no lease.
    let labels = app.get(format!("/api/v1/content/{}", image.config)).await.json()["labels"].clone();
    assert_eq!(labels["containerd.io/gc.ref.snapshot.orlop"], *top);
    assert_eq!(app.get(format!("/api/v1/leases/{}", lease_of(&unpack))).await.status, 404);
});

/// The id of the lease that an unpack makes for itself.
fn lease_of(unpack: &Value) -> String {
    unpack["id"].as_str().expect("an id").replacen('_', "-", 1)
}

story!(a_manifest_is_unpacked_by_its_digest, async |app| {
    let image = pushed(&three_layers()).await;
    let name = stored(app, &image).await;
    let images = app.get("/api/v1/images").await.expect(200).json();
    let (id, digest) = (&images["items"][0]["id"], &images["items"][0]["target"]["digest"]);
    let unpack = unpacked(app, json!({"digest": digest, "platform": "linux/s390x"})).await;
    assert_eq!((&unpack["image"], &unpack["digest"]), (&Value::Null, digest), "it is taken as it is");
    assert_eq!(keys(app).await.len(), 3);
    // What is there is not made again, and what it was made of is not needed.
    for blob in &image.blobs {
        app.delete(format!("/api/v1/content/{}?force=true", sha256(blob))).await.expect(204);
    }
    for image in [json!(name), id.clone()] {
        assert_eq!(states(&unpacked(app, json!({"image": image})).await), ["exists"; 3]);
    }
});

story!(equal_unpacks_that_are_asked_for_at_once_are_one, async |app| {
    let image = pushed(&[many_files(MANY)]).await;
    let name = stored(app, &image).await;
    let asks = (0..6).map(|_| app.post(UNPACKS).json(json!({"image": name})).send());
    let answers = join_all(asks).await;
    let ids: Vec<Value> = answers.iter().map(|answer| answer.json()["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 1);
    let other = asked(app, json!({"image": name, "labels": {"another": "one"}})).await;
    assert_ne!(other.json()["id"], ids[0]);
    for made in [&answers[0], &other] {
        assert_eq!(ended(app, made).await["state"], "succeeded");
    }
});

story!(a_repeat_with_its_key_is_the_same_unpack, async |app| {
    let image = pushed(&three_layers()).await;
    let name = stored(app, &image).await;
    let ask = |labels: Value| {
        let body = json!({"image": name, "labels": labels});
        app.post(UNPACKS).header("Idempotency-Key", "once").json(body)
    };
    let first = ask(json!({})).await.expect(202);
    ended(app, &first).await;
    let again = ask(json!({})).await.expect(202);
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert_eq!(ask(json!({"a": "b"})).await.to_string(), "422 idempotency-key-reused");
});

story!(a_layer_that_is_missing_is_named, async |app| {
    let image = pushed(&three_layers()).await;
    let name = stored(app, &image).await;
    let gone = sha256(&image.blobs[1]);
    app.delete(format!("/api/v1/content/{gone}?force=true")).await.expect(204);
    let unpack = ended(app, &asked(app, json!({"image": name})).await).await;
    assert_eq!((&unpack["state"], &unpack["error"]["code"]), (&json!("failed"), &json!("image-incomplete")));
    let detail = unpack["error"]["detail"].as_str().expect("words");
    assert!(detail.contains(&gone) && !detail.contains(&sha256(&image.blobs[0])), "{detail}");
    assert_eq!(keys(app).await, [""; 0]);
    assert_eq!(unpack["lease_id"], Value::Null);
});

story!(what_is_no_image_of_layers_is_not_unpacked, async |app| {
    let blob = app.put_blob(b"cargo").await;
    let unpack = ended(app, &asked(app, json!({"digest": blob})).await).await;
    assert_eq!((&unpack["state"], &unpack["error"]["code"]), (&json!("failed"), &json!("validation-failed")));
});

story!(an_unpack_that_is_cancelled_leaves_nothing_half_made, async |app| {
    let image = pushed(&[many_files(MANY), many_files(3)]).await;
    let name = stored(app, &image).await;
    // More than have a turn at once: the last one waits.
    let mut made = Vec::new();
    for n in 0..6 {
        made.push(asked(app, json!({"image": name, "labels": {"n": n.to_string()}})).await);
    }
    for made in made.iter().rev() {
        let unfinished = app.delete(format!("{}?purge=true", made.place())).await;
        assert_eq!(unfinished.to_string(), "409 invalid-state");
        let cancelled = app.delete(made.place()).await;
        assert!(matches!(cancelled.status, 200 | 202), "{cancelled}");
    }
    for made in &made {
        assert_eq!(ended(app, made).await["state"], "cancelled");
        app.delete(made.place()).await.expect(200);
        app.delete(format!("{}?purge=true", made.place())).await.expect(204);
        app.get(made.place()).await.expect(404);
    }
    assert_eq!(app.get(UNPACKS).await.expect(200).json()["items"], json!([]));
    assert!(keys(app).await.len() < 2, "it was stopped before its end");
    // A later one finds nothing in its way.
    unpacked(app, json!({"image": name})).await;
    let refused = app.delete(
        app.get(UNPACKS).await.json()["items"][0]["id"]
            .as_str()
            .map_or_else(|| panic!("an id"), |id| format!("{UNPACKS}/{id}")),
    );
    assert_eq!(refused.await.to_string(), "409 invalid-state");
});

story!(an_unpack_goes_on_after_a_restart, async |app| {
    let image = pushed(&[many_files(MANY), many_files(3)]).await;
    let name = stored(app, &image).await;
    let made = asked(app, json!({"image": name})).await;
    let path = format!("{}/events", made.place());
    let before = EventStream::ndjson(app.get(&path)).await.next().await;
    app.restart().await;
    let unpack = ended(app, &made).await;
    assert_eq!(unpack["state"], "succeeded", "{unpack}");
    assert_eq!(BTreeSet::from_iter(keys(app).await), BTreeSet::from_iter(image.chain));
    let mut after = EventStream::ndjson(app.get(&path)).await;
    let number = |event: &Value| event["id"].as_str().expect("an id").parse::<u64>().expect("a number");
    assert!(number(&after.next().await) > number(&before), "ids count up over restarts");
    let snapshots = std::fs::read_dir(app.data_dir().join("snapshots")).expect("a directory");
    assert_eq!(snapshots.count(), 2, "what was begun before is gone");
});

story!(of_an_index_the_platform_that_is_asked_for_is_unpacked, async |app| {
    let registry = pushed_platforms().await;
    let reference = format!("{}/app:v1", registry.host());
    let pull = pulled(app, json!({"ref": reference, "all_platforms": true})).await;
    for arch in ["arm64", "amd64"] {
        let asked = json!({"digest": pull["target"]["digest"], "platform": format!("linux/{arch}")});
        let unpack = unpacked(app, asked).await;
        assert_eq!(unpack["snapshots"][0]["platform"], format!("linux/{arch}"));
        let key = unpack["snapshots"][0]["key"].as_str().expect("a key");
        assert_eq!(read(app, key, "arch").await, arch);
    }
    let none = asked(app, json!({"digest": pull["target"]["digest"], "platform": "linux/s390x"})).await;
    let none = ended(app, &none).await;
    assert_eq!((&none["state"], &none["error"]["code"]), (&json!("failed"), &json!("not-found")));
    assert!(none["error"]["detail"].as_str().expect("words").contains("linux/s390x"), "{none}");
});

story!(events_tell_the_whole_of_an_unpack_until_its_end, async |app| {
    let image = pushed(&[many_files(MANY), many_files(3)]).await;
    let name = stored(app, &image).await;
    let made = asked(app, json!({"image": name})).await;
    let path = format!("{}/events", made.place());
    let mut stream = EventStream::ndjson(app.get(&path)).await;
    let mut events = Vec::new();
    while let Some(event) = stream.try_next().await {
        events.push(event);
    }
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    let (first, last) = (names[0], names[names.len() - 1]);
    assert_eq!((first, last), ("snapshot", "end"));
    assert!(names[1..names.len() - 1].iter().all(|name| *name == "progress"), "{names:?}");
    let ids: Vec<u64> =
        events.iter().map(|event| event["id"].as_str().expect("an id").parse().expect("a number")).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert_eq!(events[events.len() - 1]["end"]["state"], "succeeded");
    // A later reader hears of the end, and whoever has seen it of nothing.
    let mut frames = EventStream::sse(app.get(&path)).await;
    assert_eq!(frames.frame().await, ["retry: 2000"]);
    assert_eq!(frames.frame().await[1], "event: snapshot");
    let end = frames.frame().await;
    assert_eq!(end[..2], [format!("id: {}", ids[ids.len() - 1]), "event: end".to_owned()]);
    let seen = app.get(&path).header("Last-Event-ID", &ids[ids.len() - 1].to_string());
    seen.header("Accept", "text/event-stream").await.expect(204);
});

story!(what_was_unpacked_is_kept_for_whoever_asks, async |app| {
    let image = pushed(&three_layers()).await;
    let name = stored(app, &image).await;
    let unpack = unpacked(app, json!({"image": name, "keep": "1h"})).await;
    let lease = unpack["lease_id"].as_str().expect("a lease");
    let resources = app.get(format!("/api/v1/leases/{lease}/resources")).await.expect(200).json();
    let top = json!({"type": "snapshot", "id": image.chain.last().expect("a top")});
    assert!(resources["items"].as_array().expect("a list").contains(&top), "{resources}");
    assert_eq!(app.get(format!("/api/v1/leases/{lease}")).await.json()["kind"], "user");
    app.post("/api/v1/leases").json(json!({"id": "mine", "ttl": "1h"})).await.expect(201);
    let ask = |keep: Value| {
        let body = json!({"image": name, "labels": {"on": "mine"}, "keep": keep});
        app.post(UNPACKS).header("Orlop-Lease", "mine").json(body)
    };
    assert_eq!(ask(json!("1h")).await.expect(400).json()["field"], "keep");
    let mine = ended(app, &ask(Value::Null).await.expect(202)).await;
    assert_eq!(mine["lease_id"], "mine");
    let resources = app.get("/api/v1/leases/mine/resources").await.expect(200).json();
    assert!(resources["items"].as_array().expect("a list").contains(&top), "{resources}");
});

story!(unpacks_and_the_layers_they_took_are_counted, async |app| {
    let image = pushed(&three_layers()).await;
    let name = stored(app, &image).await;
    unpacked(app, json!({"image": name})).await;
    // A layer that has its snapshot is not taken again.
    unpacked(app, json!({"image": name, "labels": {"once": "more"}})).await;
    let none = json!({"digest": image.config, "labels": {"no": "image"}});
    assert_eq!(ended(app, &asked(app, none).await).await["state"], "failed");
    let metrics = app.get("/metrics").await.expect(200).text();
    let bytes = image.blobs.iter().map(Vec::len).sum::<usize>();
    for line in [
        "orlop_unpacks_finished_total{state=\"succeeded\"} 2",
        "orlop_unpacks_finished_total{state=\"failed\"} 1",
        "orlop_layers_unpacked_total 3",
        &format!("orlop_unpacked_bytes_total {bytes}"),
        "orlop_unpacks_queued 0",
        "orlop_unpacks_running 0",
    ] {
        assert!(metrics.lines().any(|told| told == line), "{line}\n{metrics}");
    }
});

story!(a_request_that_means_nothing_is_refused, async |app| {
    let nothing = sha256(b"nothing");
    for (body, status, field) in [
        (json!({}), 400, json!("image")),
        (json!({"image": "a", "digest": nothing}), 400, json!("image")),
        (json!({"digest": "sha256:x"}), 400, json!("digest")),
        (json!({"image": "a", "platform": "beos"}), 400, json!("platform")),
        (json!({"image": "a", "keep": "soon"}), 400, json!("keep")),
        (json!({"image": "a"}), 404, Value::Null),
        (json!({"digest": nothing}), 404, Value::Null),
    ] {
        let refused = app.post(UNPACKS).json(body.clone()).await.expect(status).json();
        assert_eq!(refused["field"], field, "{body}");
    }
    assert_eq!(app.get(format!("{UNPACKS}?state=lost")).await.to_string(), "400 invalid-argument");
    assert_eq!(app.get(format!("{UNPACKS}/unpack_01m7z4bkprvpv503p3pmrevc0w")).await.status, 404);
});

story!(unpacks_are_listed_and_told_of, async |app| {
    let image = pushed(&three_layers()).await;
    let name = stored(app, &image).await;
    for team in ["cargo", "rope"] {
        unpacked(app, json!({"image": name, "labels": {"team": team}})).await;
    }
    let count = async |query: &str| {
        let list = app.get(format!("{UNPACKS}?{query}")).await.expect(200).json();
        list["items"].as_array().expect("a list").len()
    };
    assert_eq!(count("state=succeeded&sort=finished_at").await, 2);
    assert_eq!(count("label=team=rope").await, 1);
    assert_eq!(count("filter=state==failed").await, 0);
    assert_eq!(count("filter=labels.team==cargo").await, 1);
    assert_eq!(count("namespace=other").await, 0);
    let told = app.get("/api/v1/events?topic=/unpacks").await.expect(200).json();
    let topics: Vec<&str> = told["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["topic"].as_str().expect("a topic"))
        .collect();
    let each = ["/unpacks/create", "/unpacks/start", "/unpacks/finish"];
    assert_eq!(topics, [each, each].concat());
});
