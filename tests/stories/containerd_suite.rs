//! containerd's content store suite, as its users know it, over HTTP: what its daemon does, orlop does.
//!
//! CS-1 to CS-16, each in one story. Where containerd locks with a connection, a writer token does here.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{TestApp, sha256, story};
use crate::support::raw::noise;

/// Sizes, and the percentage of each that is there before the interruption.
const GRID: [(usize, usize); 15] = [
    (500, 0),
    (500, 10),
    (500, 50),
    (500, 90),
    (500, 100),
    (5_000, 0),
    (5_000, 10),
    (5_000, 50),
    (5_000, 90),
    (5_000, 100),
    (50_000, 0),
    (50_000, 10),
    (50_000, 50),
    (50_000, 90),
    (50_000, 100),
];

async fn status(app: &TestApp, ingest: &str) -> Value {
    app.get(ingest).await.expect(200).json()
}

/// An interrupted ingest of each point of the grid: its bytes, its path, and how many bytes it has.
async fn interrupted(app: &TestApp, size: usize, percent: usize) -> (bytes::Bytes, String, usize) {
    let bytes = noise((size * 101 + percent) as u64, size);
    let there = size * percent / 100;
    let reference = format!("{size}-{percent}");
    let ingest = app.filled_ingest(&reference, &bytes[..there]).await;
    let again = app
        .open(json!({"ref": reference, "total": size, "expected_digest": sha256(&bytes)}))
        .await
        .expect(200);
    assert_eq!(again.header("upload-offset"), there.to_string());
    (bytes, ingest, there)
}

story!(cs_1_writers_side_by_side_with_every_announcement, async |app| {
    let bytes: Vec<_> = [256, 1_000, 10_000, 100_000, 4 << 20].map(|size| noise(size as u64, size)).into();
    let mut opened = Vec::new();
    for (n, bytes) in bytes.iter().enumerate() {
        let mut open = json!({"ref": format!("writer-{n}")});
        if n % 2 == 1 {
            open["total"] = json!(bytes.len());
        }
        if n >= 2 {
            open["expected_digest"] = json!(sha256(bytes));
        }
        opened.push(app.open(open).await.expect(201).place().to_owned());
    }
    for (n, (ingest, bytes)) in opened.iter().zip(&bytes).enumerate() {
        app.append(ingest, 0, bytes).await.expect(204);
        let labels = json!({"n": n.to_string(), "testblob": "yes"});
        let before = app.clock.now().to_string();
        app.clock.advance(Duration::from_millis(1));
        let content = app.commit(ingest, json!({"labels": labels})).await.expect(201).json();
        assert_eq!((&content["digest"], &content["size"]), (&json!(sha256(bytes)), &json!(bytes.len())));
        assert_eq!(content["labels"], labels);
        assert!(content["created_at"].as_str() > Some(&before));
        assert_eq!(content["created_at"], content["updated_at"]);
    }
});

story!(cs_2_status_follows_every_write, async |app| {
    let bytes = noise(2, 256);
    let ingest = app.open(json!({"ref": "u", "total": 256})).await.expect(201).place().to_owned();
    let started = app.clock.now().to_string();
    let mut offset = 0;
    for next in [0, 64, 192, 256] {
        if next > offset {
            app.clock.advance(Duration::from_secs(1));
            app.append(&ingest, offset as u64, &bytes[offset..next]).await.expect(204);
        }
        offset = next;
        let status = status(app, &ingest).await;
        assert_eq!(status["ref"], "u");
        assert_eq!((&status["offset"], &status["total"]), (&json!(next), &json!(256)));
        assert_eq!(status["digest"], sha256(&bytes[..next]));
        assert_eq!(status["started_at"], started);
        assert_eq!(status["updated_at"], app.clock.now().to_string());
    }
    app.commit(&ingest, json!({"total": 256, "expected_digest": sha256(&bytes)})).await.expect(201);
    assert_eq!(app.get(format!("/api/v1/content/{}", sha256(&bytes))).await.expect(200).json()["size"], 256);
});

story!(cs_3_committing_what_exists_says_so_with_and_without_its_digest, async |app| {
    let digest = app.put_blob(b"there").await;
    for commit in [json!({}), json!({"expected_digest": digest})] {
        let ingest = app.filled_ingest("u", b"there").await;
        assert_eq!(app.commit(&ingest, commit).await.expect(200).json()["digest"], digest);
    }
});

story!(cs_4_a_reopened_ingest_has_the_same_status, async |app| {
    let bytes = noise(4, 256);
    let open = json!({"ref": "u", "total": 256});
    let ingest = app.open(open.clone()).await.expect(201).place().to_owned();
    app.clock.advance(Duration::from_secs(1));
    app.append(&ingest, 0, &bytes[..128]).await.expect(204);
    let before = status(app, &ingest).await;
    app.clock.advance(Duration::from_secs(1));
    let again = app.open(open).await.expect(200).json();
    for field in ["ref", "offset", "total", "digest", "started_at", "updated_at"] {
        assert_eq!(again[field], before[field], "{field}");
    }
    app.append(&ingest, 128, &bytes[128..]).await.expect(204);
    app.commit(&ingest, json!({"total": 256, "expected_digest": sha256(&bytes)})).await.expect(201);
});

story!(cs_5_truncated_and_written_again, async |app| {
    for (size, percent) in GRID {
        let (bytes, ingest, _) = interrupted(app, size, percent).await;
        app.truncate(&ingest).await.expect(200);
        app.append(&ingest, 0, &bytes).await.expect(204);
        app.commit(&ingest, json!({"total": size, "expected_digest": sha256(&bytes)})).await.expect(201);
    }
});

story!(cs_6_to_9_only_the_missing_tail_is_sent, async |app| {
    for (size, percent) in GRID {
        let (bytes, ingest, there) = interrupted(app, size, percent).await;
        // However a client comes by its tail (discarding, seeking, reading at): on the wire it is the same.
        app.append(&ingest, there as u64, &bytes[there..]).await.expect(204);
        app.commit(&ingest, json!({"total": size, "expected_digest": sha256(&bytes)})).await.expect(201);
    }
});

story!(cs_10_a_window_larger_than_a_small_blob_gives_the_blob, async |app| {
    let blob = format!("/api/v1/content/{}/data", app.put_blob(b"foobar").await);
    assert_eq!(app.get(&blob).range("bytes=0-6").await.to_string(), "206 bytes 0-5/6 \"foobar\"");
});

story!(cs_11_labels_are_replaced_set_and_removed, async |app| {
    let ingest = app.filled_ingest("u", b"labelled").await;
    let labels = json!({"k1": "v1", "k2": "v2", "containerd.io/gc.root": "yes"});
    let content = app.commit(&ingest, json!({"labels": labels})).await.expect(201);
    let path = content.place();
    assert_eq!(content.json()["labels"], labels);
    app.clock.advance(Duration::from_secs(1));
    let patch = json!({"labels": {"k1": "new", "k2": null, "k3": "v3"}});
    let patched = app.patch(path).merge_patch(patch).await.expect(200).json();
    assert_eq!(patched["labels"], json!({"k1": "new", "k3": "v3", "containerd.io/gc.root": "yes"}));
    assert_eq!(patched["created_at"], content.json()["created_at"]);
    assert_eq!(patched["updated_at"], app.clock.now().to_string());
    let patched =
        app.patch(path).merge_patch(json!({"labels": {"k3": "", "k1": "v1"}})).await.expect(200).json();
    assert_eq!(patched["labels"], json!({"k1": "v1", "containerd.io/gc.root": "yes"}));
});

story!(cs_12_every_failed_commit_frees_the_ref_and_keeps_the_bytes, async |app| {
    let (digest, other) = (app.put_blob(b"there").await, sha256(b"other"));
    // A writer that holds the ref, and everybody else told to wait.
    let open = async |offset: u64| {
        let opened = app.open(json!({"ref": "u", "writer_ttl": "1m"})).await;
        assert!(matches!(opened.status, 200 | 201), "{opened}");
        assert_eq!(opened.json()["offset"], offset);
        assert_eq!(app.open(json!({"ref": "u"})).await.to_string(), "423 ingest-busy");
        let token = opened.json()["writer"]["token"].as_str().expect("a token").to_owned();
        (opened.place().to_owned(), token)
    };
    for commit in [json!({"expected_digest": digest}), json!({})] {
        let (ingest, token) = open(0).await;
        app.append(&ingest, 0, b"there").header("Orlop-Writer", &token).await.expect(204);
        app.commit(&ingest, commit).header("Orlop-Writer", &token).await.expect(200);
    }
    let (ingest, token) = open(0).await;
    app.append(&ingest, 0, b"there and more").header("Orlop-Writer", &token).await.expect(204);
    let wrong = app.commit(&ingest, json!({"expected_digest": other})).header("Orlop-Writer", &token).await;
    assert_eq!(wrong.to_string(), "409 digest-mismatch");
    let (ingest, token) = open(14).await;
    let wrong = app.commit(&ingest, json!({"total": 15})).header("Orlop-Writer", &token).await;
    assert_eq!(wrong.to_string(), "409 size-mismatch");
    let (ingest, token) = open(14).await;
    app.commit(&ingest, json!({"total": 14})).header("Orlop-Writer", &token).await.expect(201);
    let (ingest, token) = open(0).await;
    app.append(&ingest, 0, b"there and more").header("Orlop-Writer", &token).await.expect(204);
    app.commit(&ingest, json!({})).header("Orlop-Writer", &token).await.expect(200);
    let (ingest, token) = open(0).await;
    app.append(&ingest, 0, b"x").header("Orlop-Writer", &token).await.expect(204);
    app.truncate(&ingest).header("Orlop-Writer", &token).await.expect(200);
    app.delete(format!("{ingest}/writer")).header("Orlop-Writer", &token).await.expect(204);
    open(0).await;
});

/// A blob in the namespace `lender`; the ingest of its digest in `borrower`.
async fn borrowed(app: &TestApp, bytes: &[u8]) -> (String, Value) {
    let digest = sha256(bytes);
    app.put(format!("/api/v1/content/{digest}/data")).namespace("lender").body(bytes).await.expect(201);
    let open = json!({"ref": "u", "expected_digest": digest, "total": bytes.len()});
    let opened = app.open(open).namespace("borrower").await.expect(201);
    (opened.place().to_owned(), opened.json())
}

fn read(app: &TestApp, bytes: &[u8], namespace: &str) -> crate::support::request::Request {
    app.get(format!("/api/v1/content/{}/data", sha256(bytes))).namespace(namespace)
}

story!(cs_13_appending_to_a_shared_blob_makes_a_second_one, async |app| {
    let (ingest, status) = borrowed(app, b"shared").await;
    assert_eq!((&status["offset"], &status["digest"]), (&json!(6), &json!(sha256(b"shared"))));
    app.append(&ingest, 6, b"and 14 bytes..").namespace("borrower").await.expect(204);
    let whole = b"sharedand 14 bytes..";
    let commit = json!({"total": whole.len(), "expected_digest": sha256(whole)});
    app.commit(&ingest, commit).namespace("borrower").await.expect(201);
    assert_eq!(&read(app, whole, "borrower").await.body[..], whole);
    assert_eq!(&read(app, b"shared", "lender").await.body[..], b"shared");
});

story!(cs_14_a_shared_blob_is_committed_and_read_in_both, async |app| {
    let (ingest, _) = borrowed(app, b"shared").await;
    app.commit(&ingest, json!({})).namespace("borrower").await.expect(201);
    for namespace in ["lender", "borrower"] {
        assert_eq!(&read(app, b"shared", namespace).await.body[..], b"shared");
    }
});

story!(cs_15_an_isolated_namespace_begins_at_nothing, [("sharing", "isolated")], async |app| {
    let (_, status) = borrowed(app, b"shared").await;
    assert_eq!((&status["offset"], &status["digest"]), (&json!(0), &json!(sha256(b""))));
    assert_eq!(status["started_at"], app.clock.now().to_string());
});

story!(
    cs_16_a_namespace_may_lend_its_content_where_others_are_isolated,
    [("sharing", "isolated")],
    async |app| {
        let labels = json!({"containerd.io/namespace.shareable": "true"});
        app.post("/api/v1/namespaces").json(json!({"name": "lender", "labels": labels})).await.expect(201);
        let (ingest, status) = borrowed(app, b"shared").await;
        assert_eq!((&status["offset"], &status["shared"]), (&json!(6), &json!(true)));
        app.commit(&ingest, json!({})).namespace("borrower").await.expect(201);
        for namespace in ["lender", "borrower"] {
            assert_eq!(&read(app, b"shared", namespace).await.body[..], b"shared");
        }
    }
);
