//! What the store promises whatever happens at the same time, on both databases, through the HTTP door.

mod event_order;
mod events;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::app::{TestApp, sha256, story};
use crate::support::eventually::eventually;
use crate::support::raw::noise;
use crate::support::request::Request;

fn record(digest: &str) -> String {
    format!("/api/v1/content/{digest}")
}

fn data(digest: &str) -> String {
    format!("/api/v1/content/{digest}/data")
}

/// The names of all blob files.
fn files(app: &TestApp) -> Vec<String> {
    let entries = std::fs::read_dir(app.data_dir().join("blobs/sha256")).expect("the blobs");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("hex")).collect()
}

/// Directories of ingests that nobody has ended.
fn ingest_directories(app: &TestApp) -> usize {
    std::fs::read_dir(app.data_dir().join("ingests")).expect("the ingests").count()
}

story!(a_digest_is_absent_or_whole_never_in_between, async |app| {
    let bytes = noise(1, 3 << 20);
    let digest = sha256(&bytes);
    let mut slow = app.raw().await.begin("PUT", &data(&digest), &[], bytes.len() as u64).await;
    for piece in bytes.chunks(512 << 10) {
        assert_eq!(app.get(data(&digest)).await.status, 404);
        assert_eq!(app.get("/api/v1/content").await.json()["items"], json!([]));
        assert_eq!(files(app), [""; 0]);
        slow.send(piece).await;
    }
    slow.answer().await.expect("an answer").expect(201);
    assert!(app.get(data(&digest)).await.body == bytes);
});

story!(a_body_that_is_cut_short_leaves_nothing, async |app| {
    for size in [100, 3 << 20] {
        let bytes = noise(2, size);
        let mut slow = app.raw().await.begin("PUT", &data(&sha256(&bytes)), &[], size as u64).await;
        slow.send(&bytes[..size - 1]).await;
        slow.hang_up();
        eventually("what was half there is gone", async || (ingest_directories(app) == 0).then_some(()))
            .await;
        assert_eq!(app.get(data(&sha256(&bytes))).await.status, 404);
        assert_eq!(files(app), [""; 0]);
    }
});

story!(a_wrong_digest_of_a_whole_body_keeps_nothing, async |app| {
    for size in [10, 2 << 20] {
        let wrong = app.put(data(&sha256(b"other"))).body(noise(3, size)).await;
        assert_eq!(wrong.to_string(), "409 digest-mismatch");
        assert_eq!((files(app).len(), ingest_directories(app)), (0, 0));
    }
});

story!(a_wrong_digest_or_size_at_commit_keeps_the_bytes, async |app| {
    let bytes = noise(4, 100_000);
    let ingest = app.filled_ingest("u", &bytes).await;
    for commit in
        [json!({"expected_digest": sha256(b"other")}), json!({"total": 99_999}), json!({"total": 100_001})]
    {
        app.commit(&ingest, commit).await.expect(409);
        assert_eq!(files(app), [""; 0]);
    }
    app.commit(&ingest, json!({"expected_digest": sha256(&bytes), "total": 100_000})).await.expect(201);
    assert!(app.get(data(&sha256(&bytes))).await.body == bytes);
    assert_eq!((files(app).len(), ingest_directories(app)), (1, 0));
});

story!(sixty_four_commits_of_one_digest_make_one_file, async |app| {
    let bytes = noise(5, 50_000);
    let fill = (0..64).map(|n| {
        let bytes = bytes.clone();
        async move { app.filled_ingest(&format!("writer-{n}"), &bytes).await }
    });
    let ingests: Vec<String> = futures_util::stream::iter(fill).buffer_unordered(8).collect().await;
    let committed = join_all(ingests.iter().map(|ingest| app.commit(ingest, json!({})).send())).await;
    let count = |status: u16| committed.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201), count(200)), (1, 63), "all of them succeed, one of them first");
    assert_eq!((files(app).len(), ingest_directories(app)), (1, 0));
    assert!(app.get(data(&sha256(&bytes))).await.body == bytes);
    assert_eq!(app.get("/api/v1/ingests").await.json()["items"], json!([]));
});

story!(puts_and_ingests_of_one_digest_agree, async |app| {
    let bytes = noise(6, 200_000);
    let puts = (0..16).map(|n| {
        let (bytes, namespace) = (bytes.clone(), format!("n{}", n % 4));
        async move { app.put(data(&sha256(&bytes))).namespace(&namespace).body(&bytes).await.status }
    });
    let statuses = join_all(puts).await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 201)), "{statuses:?}");
    assert_eq!(
        statuses.iter().filter(|status| **status == 201).count(),
        4,
        "one for each namespace: {statuses:?}"
    );
    assert_eq!(files(app).len(), 1);
});

story!(a_commit_that_races_a_deletion_never_leaves_a_record_without_bytes, async |app| {
    for round in 0..25 {
        let bytes = noise(round, 20_000);
        let digest = sha256(&bytes);
        app.put_blob(&bytes).await;
        let deletion = app.delete(format!("{}?force=true", record(&digest))).send();
        let put = app.put(data(&digest)).body(&bytes).send();
        let other = app.put(data(&digest)).namespace("other").body(&bytes).send();
        let (deleted, put, other) = tokio::join!(deletion, put, other);
        assert_eq!(deleted.status, 204);
        assert!(matches!(put.status, 200 | 201), "{put}");
        assert_eq!(other.status, 201);
        for namespace in ["default", "other"] {
            let shown = app.get(record(&digest)).namespace(namespace).await.status;
            let read = app.get(data(&digest)).namespace(namespace).await;
            assert_eq!(
                shown, read.status,
                "round {round}: a record and its bytes are there together or not at all"
            );
            assert!(shown == 404 || read.body == bytes);
        }
        assert_eq!(app.get(data(&digest)).namespace("other").await.status, 200, "round {round}");
    }
});

story!(a_reader_goes_on_reading_what_is_deleted_meanwhile, async |app| {
    let bytes = noise(7, 8 << 20);
    let digest = app.put_blob(&bytes).await;
    let url = format!("http://{}{}", app.address(), data(&digest));
    let mut reading = app.client.get(url).send().await.expect("an answer").bytes_stream();
    let mut read = reading.next().await.expect("a piece").expect("bytes").to_vec();
    app.delete(record(&digest)).await.expect(204);
    while let Some(piece) = reading.next().await {
        read.extend_from_slice(&piece.expect("bytes to the end"));
    }
    assert!(read == bytes);
});

story!(a_referenced_blob_refuses_deletion_and_names_who_refers_to_it, async |app| {
    let layer = app.put_blob(b"layer").await;
    let config = app.put_blob(b"{}").await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 5}],
    });
    let manifest = app.put_blob(manifest.to_string().as_bytes()).await;
    let holder = app.put_blob(b"holder").await;
    let label = json!({"labels": {"containerd.io/gc.ref.content.0": manifest}});
    app.patch(record(&holder)).merge_patch(label).await.expect(200);
    for (digest, by) in [(&layer, &manifest), (&config, &manifest), (&manifest, &holder)] {
        let refused = app.delete(record(digest)).await.expect(409).json();
        assert_eq!((&refused["code"], &refused["holders"][0]["id"]), (&json!("content-in-use"), &json!(by)));
    }
    app.patch(record(&holder))
        .merge_patch(json!({"labels": {"containerd.io/gc.ref.content.0": null}}))
        .await
        .expect(200);
    for digest in [&manifest, &layer, &config] {
        app.delete(record(digest)).await.expect(204);
    }
});

story!(a_grace_lease_does_not_count_against_deletion, async |app| {
    let made = app.post("/api/v1/content").body("young").await.expect(201);
    assert!(!made.header("orlop-lease").is_empty());
    app.delete(record(&sha256(b"young"))).await.expect(204);
});

story!(a_leased_blob_refuses_deletion_until_the_second_the_lease_expires, async |app| {
    app.post("/api/v1/leases").json(json!({"id": "mine", "ttl": "60s"})).await.expect(201);
    let digest = sha256(b"leased");
    app.put(data(&digest)).header("Orlop-Lease", "mine").body("leased").await.expect(201);
    let refused = app.delete(record(&digest)).await.expect(409).json();
    assert_eq!(
        (&refused["code"], &refused["holders"]),
        (
            &json!("content-in-use"),
            &json!([
                {"kind": "lease", "id": "mine", "name": null}
            ])
        )
    );
    app.clock.advance(Duration::from_micros(59_999_999));
    app.delete(record(&digest)).await.expect(409);
    app.clock.advance(Duration::from_micros(1));
    app.delete(record(&digest)).await.expect(204);
    let late = app.post("/api/v1/content").header("Orlop-Lease", "mine").body("late").await;
    assert_eq!(late.to_string(), "404 not-found", "an expired lease takes nothing new");
});

story!(a_released_lease_holds_nothing_and_a_forced_deletion_asks_nobody, async |app| {
    app.post("/api/v1/leases").json(json!({"id": "mine", "never": true})).await.expect(201);
    for (bytes, force) in [("one", false), ("two", true)] {
        let digest = sha256(bytes.as_bytes());
        app.put(data(&digest)).header("Orlop-Lease", "mine").body(bytes).await.expect(201);
        app.delete(record(&digest)).await.expect(409);
        if force {
            app.delete(format!("{}?force=true", record(&digest))).await.expect(204);
        } else {
            app.delete(format!("/api/v1/leases/mine/resources/content/{digest}")).await.expect(204);
            app.delete(record(&digest)).await.expect(204);
        }
    }
    app.put(data(&sha256(b"three"))).header("Orlop-Lease", "mine").body("three").await.expect(201);
    app.delete("/api/v1/leases/mine").await.expect(204);
    app.delete(record(&sha256(b"three"))).await.expect(204);
});

story!(what_exists_is_leased_to_whoever_asks_for_it, async |app| {
    let digest = app.put_blob(b"hello").await;
    for (lease, ask) in [
        ("put", app.put(data(&digest)).body("hello")),
        ("open", app.open(json!({"ref": "u", "expected_digest": digest}))),
    ] {
        app.post("/api/v1/leases").json(json!({"id": lease, "ttl": "1h"})).await.expect(201);
        assert_eq!(ask.header("Orlop-Lease", lease).await.expect(200).header("orlop-lease"), lease);
        let held = app.get(format!("/api/v1/leases/{lease}/resources")).await.expect(200).json();
        assert_eq!(held["items"][0]["id"], digest, "{lease}");
    }
});

story!(deletion_frees_the_bytes_when_the_last_namespace_lets_go, async |app| {
    let digest = sha256(b"shared");
    for namespace in ["one", "two", "three"] {
        app.put(data(&digest)).namespace(namespace).body("shared").await.expect(201);
    }
    for (namespace, left) in [("one", 1), ("two", 1), ("three", 0)] {
        app.delete(record(&digest)).namespace(namespace).await.expect(204);
        assert_eq!(files(app).len(), left, "{namespace}");
    }
});

story!(an_ingest_that_is_ended_while_it_is_written_leaves_nothing, async |app| {
    for round in 0..10 {
        let ingest = app.new_ingest("u").await;
        let bytes = noise(round, 500_000);
        let append = app.append(&ingest, 0, &bytes).try_send();
        let (appended, aborted) = tokio::join!(append, app.delete(&ingest).send());
        assert_eq!(aborted.status, 204);
        // The append was before the abort, or found nothing; or its connection was closed under its body.
        if let Ok(answer) = appended {
            assert!(matches!(answer.status, 204 | 404), "{answer}");
        }
        eventually("its directory is gone", async || (ingest_directories(app) == 0).then_some(())).await;
    }
});

story!(what_is_acknowledged_is_there_after_any_number_of_restarts, async |app| {
    let mut digests = Vec::new();
    for round in 0..4 {
        for n in 0..5_usize {
            digests.push((app.put_blob(&noise(round, 1_000 * n + 1)).await, 1_000 * n + 1, round));
        }
        app.restart().await;
        app.clock.advance(Duration::from_secs(60));
        assert!(app.repaired().is_nothing(), "{:?}", app.repaired());
        for (digest, size, seed) in &digests {
            assert!(app.get(data(digest)).await.body == noise(*seed, *size));
        }
    }
});

/// Sends all of them at once; none may be refused.
async fn all_succeed(requests: Vec<Request>) {
    let answers = join_all(requests.into_iter().map(Request::send)).await;
    let refused: Vec<String> = answers.iter().filter(|a| a.status >= 300).map(ToString::to_string).collect();
    assert_eq!(refused, [""; 0]);
}

story!(changes_without_a_condition_all_succeed, async |app| {
    let digest = app.put_blob(b"hello").await;
    let target = json!({"digest": digest, "media_type": "text/plain", "size": 5});
    let image = app.post("/api/v1/images").json(json!({"name": "i", "target": target})).await.expect(201);
    app.post("/api/v1/leases").json(json!({"id": "l", "ttl": "1h"})).await.expect(201);
    app.post("/api/v1/namespaces").json(json!({"name": "n"})).await.expect(201);
    let image = format!("/api/v1/images/{}", image.json()["id"].as_str().expect("an id"));
    let things = [record(&digest), image, "/api/v1/leases/l".to_owned(), "/api/v1/namespaces/n".to_owned()];
    for thing in things {
        let change = |n| app.patch(&thing).merge_patch(json!({"labels": {format!("key-{n}"): "value"}}));
        all_succeed((0..16).map(change).collect()).await;
        let labels = app.get(&thing).await.json()["labels"].as_object().expect("labels").len();
        assert_eq!(labels, 16, "{thing}: no change is lost");
    }
});

story!(of_many_changes_with_one_condition_one_succeeds, async |app| {
    let digest = app.put_blob(b"hello").await;
    let tag = app.get(record(&digest)).await.header("etag").to_owned();
    let change = |n: usize| {
        let change = json!({"labels": {format!("key-{n}"): "value"}});
        app.patch(record(&digest)).header("If-Match", &tag).merge_patch(change).send()
    };
    let answers = join_all((0..16).map(change)).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(200), count(412)), (1, 15));
});

story!(a_namespace_with_something_in_it_is_there, async |app| {
    for round in 0..60 {
        let namespace = format!("n{round}");
        app.post("/api/v1/namespaces").json(json!({"name": namespace})).await.expect(201);
        let fill = |n: usize| {
            app.post("/api/v1/leases").namespace(&namespace).json(json!({"id": format!("l{n}")})).send()
        };
        let place = format!("/api/v1/namespaces/{namespace}");
        let (deleted, filled, _) = tokio::join!(app.delete(&place).send(), fill(0), fill(1));
        assert!(matches!(deleted.status, 204 | 409), "{deleted}");
        assert_eq!(filled.status, 201);
        assert_eq!(app.get(&place).await.status, 200, "round {round}: it holds two leases");
    }
});
