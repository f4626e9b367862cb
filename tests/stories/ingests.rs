//! Ingests: resumable writes, from opening to commit, abort or expiry.

use std::time::Duration;

use serde_json::json;

use crate::support::app::{On, TestApp, hex, sha256, story};
use crate::support::eventually::eventually;
use crate::support::raw::noise;

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

story!(an_ingest_opens_empty_and_says_all_about_itself, async |app| {
    let announced = json!({"ref": "upload-1", "total": 5, "expected_digest": HELLO, "media_type": "text/plain",
        "labels": {"a": "1"}});
    let opened = app.open(announced).await.expect(201);
    let ingest = opened.json();
    let id = ingest["id"].as_str().expect("an id");
    assert!(id.starts_with("ing_"), "{id}");
    assert_eq!(opened.header("location"), format!("/api/v1/ingests/{id}"));
    assert_eq!(opened.header("upload-offset"), "0");
    assert_eq!(opened.header("upload-length"), "5");
    assert!(opened.header("upload-limit").starts_with("max-size="));
    assert_eq!(opened.header("orlop-lease"), ingest["lease_id"]);
    assert!(!opened.header("orlop-lease-expires").is_empty());
    let (now, tomorrow) = (app.clock.now(), app.clock.now().plus(Duration::from_secs(86_400)));
    assert_eq!(
        ingest,
        json!({
            "id": id, "namespace": "default", "ref": "upload-1", "state": "open", "shared": false, "offset": 0,
            "durable_offset": 0, "total": 5, "expected_digest": HELLO, "digest": EMPTY,
            "media_type": "text/plain", "labels": {"a": "1"}, "lease_id": ingest["lease_id"],
            "started_at": now.to_string(), "updated_at": now.to_string(), "expires_at": tomorrow.to_string(),
        })
    );
    let path = opened.place();
    assert_eq!(app.get(path).await.json(), ingest);
    assert_eq!(app.get("/api/v1/ingests?ref=upload-1").await.json()["items"], json!([ingest]));
    assert_eq!(app.get("/api/v1/ingests?ref=other").await.json()["items"], json!([]));
    let committed = app.append(path, 0, b"hello").await.expect(204);
    assert_eq!(committed.header("upload-offset"), "5");
    let content = app.commit(path, json!({})).await.expect(201).json();
    assert_eq!((&content["media_type"], &content["labels"]), (&json!("text/plain"), &json!({"a": "1"})));
});

story!(bytes_are_appended_where_the_offset_says_and_committed_as_content, async |app| {
    let ingest = app.filled_ingest("u", b"hel").await;
    let head = app.head(format!("{ingest}/data")).await.expect(200);
    assert_eq!((head.header("upload-offset"), head.header("upload-length")), ("3", ""));
    assert_eq!(app.append(&ingest, 3, b"").await.expect(204).header("upload-offset"), "3");
    app.append(&ingest, 3, b"lo").await.expect(204);
    let committed = app.commit(&ingest, json!({"expected_digest": HELLO, "total": 5})).await.expect(201);
    assert_eq!(committed.header("location"), format!("/api/v1/content/{HELLO}"));
    assert_eq!(committed.json(), app.get(format!("/api/v1/content/{HELLO}")).await.json());
    assert!(!committed.header("orlop-lease").is_empty());
    assert_eq!(app.get(format!("/api/v1/content/{HELLO}/data")).await.to_string(), "200 \"hello\"");
    assert_eq!(app.get(&ingest).await.to_string(), "404 not-found");
    assert_eq!(
        app.open(json!({"ref": "u"})).await.expect(201).json()["offset"],
        0,
        "the ref may be used again"
    );
});

story!(a_wrong_offset_is_told_the_right_one_and_changes_nothing, async |app| {
    let ingest = app.filled_ingest("u", b"hel").await;
    for offset in [0, 2, 4, i64::MAX as u64] {
        let refused = app.append(&ingest, offset, b"xx").await.expect(409);
        assert_eq!(refused.problem_code(), "offset-mismatch");
        assert_eq!(refused.header("upload-offset"), "3");
        assert_eq!(
            (&refused.json()["offset"], &refused.json()["provided_offset"]),
            (&json!(3), &json!(offset))
        );
    }
    for offset in ["-1", "x", "1.0", "9223372036854775808", "18446744073709551616", ""] {
        let refused = app.patch(format!("{ingest}/data")).header("Upload-Offset", offset).body("xx").await;
        assert!(matches!(refused.status, 400 | 409), "{offset:?}: {refused}");
    }
    assert_eq!(app.patch(format!("{ingest}/data")).body("xx").await.to_string(), "400 invalid-argument");
    app.append(&ingest, 3, b"lo").await.expect(204);
    app.commit(&ingest, json!({"expected_digest": HELLO})).await.expect(201);
});

story!(opening_again_resumes_at_the_offset_with_new_announcements, async |app| {
    let ingest = app.filled_ingest("u", b"hel").await;
    let begun = app.get(&ingest).await.json();
    app.clock.advance(Duration::from_secs(10));
    let resumed = app.open(json!({"ref": "u", "total": 5, "expected_digest": HELLO})).await.expect(200);
    let now = resumed.json();
    assert_eq!(resumed.header("location"), ingest);
    assert_eq!(resumed.header("upload-offset"), "3");
    assert_eq!((&now["offset"], &now["digest"]), (&json!(3), &json!(sha256(b"hel"))));
    assert_eq!((&now["total"], &now["expected_digest"]), (&json!(5), &json!(HELLO)));
    assert_eq!(now["started_at"], begun["started_at"]);
    assert_eq!(now["updated_at"], begun["updated_at"], "only bytes and truncation move it");
    let again = app.open(json!({"ref": "u", "total": 6})).await.expect(200).json();
    assert_eq!((&again["total"], &again["expected_digest"]), (&json!(6), &json!(HELLO)));
});

story!(an_announcement_judges_what_the_commit_does_not_name, async |app| {
    let announced = json!({"ref": "u", "total": 6, "expected_digest": sha256(b"other")});
    let ingest = app.open(announced).await.expect(201).place().to_owned();
    // Bytes past an announced total are taken: 413 is for the server's own limit.
    app.append(&ingest, 0, b"hello, world").await.expect(204);
    app.truncate(&ingest).await.expect(200);
    app.append(&ingest, 0, b"hello").await.expect(204);
    let size = app.commit(&ingest, json!({})).await.expect(409);
    assert_eq!(size.problem_code(), "size-mismatch");
    assert_eq!((&size.json()["expected_size"], &size.json()["actual_size"]), (&json!(6), &json!(5)));
    let digest = app.commit(&ingest, json!({"total": 5})).await;
    assert_eq!(digest.to_string(), "409 digest-mismatch");
    let size = app.commit(&ingest, json!({"expected_digest": HELLO})).await;
    assert_eq!(size.to_string(), "409 size-mismatch");
    app.commit(&ingest, json!({"total": 5, "expected_digest": HELLO})).await.expect(201);
});

story!(a_refused_commit_keeps_the_bytes, async |app| {
    let ingest = app.filled_ingest("u", b"hello").await;
    for (commit, refusal) in [
        (json!({"expected_digest": EMPTY}), "409 digest-mismatch"),
        (json!({"total": 4}), "409 size-mismatch"),
        (json!({"labels": {"k": "x".repeat(4_096)}}), "400 invalid-argument"),
        (json!({"expected_digest": "sha256:no"}), "400 invalid-argument"),
        (json!({"surprise": 1}), "400 invalid-argument"),
    ] {
        assert_eq!(app.commit(&ingest, commit.clone()).await.to_string(), refusal, "{commit}");
        assert_eq!(app.get(&ingest).await.json()["offset"], 5);
        assert_eq!(app.get("/api/v1/content").await.json()["items"], json!([]));
    }
    app.append(&ingest, 5, b"!").await.expect(204);
    app.commit(&ingest, json!({"expected_digest": sha256(b"hello!"), "total": 6})).await.expect(201);
});

story!(a_commit_without_a_body_takes_what_there_is, async |app| {
    let ingest = app.filled_ingest("u", b"hello").await;
    assert_eq!(app.post(format!("{ingest}/commit")).await.expect(201).json()["digest"], HELLO);
    let empty = app.new_ingest("v").await;
    assert_eq!(app.post(format!("{empty}/commit")).await.expect(201).json()["digest"], EMPTY);
});

story!(what_is_there_already_ends_the_ingest_and_keeps_its_labels, async |app| {
    app.post("/api/v1/content?label=first=yes").body("hello").await.expect(201);
    let ingest = app.filled_ingest("u", b"hello").await;
    let existed = app.commit(&ingest, json!({"labels": {"second": "yes"}})).await.expect(200);
    assert_eq!(existed.json()["labels"], json!({"first": "yes"}));
    assert_eq!(existed.header("location"), format!("/api/v1/content/{HELLO}"));
    assert!(!existed.header("orlop-lease").is_empty());
    assert_eq!(app.get(&ingest).await.status, 404);
});

story!(opening_for_a_digest_that_is_there_says_so_and_opens_nothing, async |app| {
    app.put_blob(b"hello").await;
    let exists = app.open(json!({"ref": "u", "expected_digest": HELLO})).await.expect(200);
    let body = exists.json();
    assert_eq!((&body["state"], &body["content"]["digest"]), (&json!("exists"), &json!(HELLO)));
    assert!(!exists.header("orlop-lease").is_empty());
    assert_eq!(app.get("/api/v1/ingests").await.json()["items"], json!([]));
});

story!(bytes_before_a_cut_connection_count, async |app| {
    let ingest = app.new_ingest("u").await;
    let bytes = noise(3, 300_000);
    let mut slow =
        app.raw().await.begin("PATCH", &format!("{ingest}/data"), &[("Upload-Offset", "0")], 400_000).await;
    slow.send(&bytes).await;
    eventually("the bytes are counted", async || {
        (app.get(&ingest).await.json()["offset"] == 300_000).then_some(())
    })
    .await;
    slow.hang_up();
    let resumed = eventually("the ingest is free again", async || {
        let opened = app.open(json!({"ref": "u"})).await;
        (opened.status == 200).then_some(opened)
    })
    .await;
    assert_eq!(resumed.header("upload-offset"), "300000");
    assert_eq!(resumed.json()["digest"], sha256(&bytes));
    app.append(&ingest, 300_000, b"end").await.expect(204);
    let whole = [&bytes[..], b"end"].concat();
    app.commit(&ingest, json!({"expected_digest": sha256(&whole), "total": whole.len()})).await.expect(201);
});

story!(an_ingest_goes_on_after_a_restart, async |app| {
    for (algorithm, digest) in [
        ("sha256", HELLO.to_owned()),
        ("sha384", format!("sha384:{}", hex(&<sha2::Sha384 as sha2::Digest>::digest(b"hello")))),
        ("sha512", format!("sha512:{}", hex(&<sha2::Sha512 as sha2::Digest>::digest(b"hello")))),
    ] {
        let open = json!({"ref": algorithm, "expected_digest": digest, "total": 5});
        let ingest = app.open(open.clone()).await.expect(201).place().to_owned();
        app.append(&ingest, 0, b"hel").await.expect(204);
        let before = app.get(&ingest).await.json();
        assert!(before["digest"].as_str().is_some_and(|digest| digest.starts_with(algorithm)), "{before}");
        app.restart().await;
        assert!(app.repaired().is_nothing(), "{:?}", app.repaired());
        assert_eq!(app.get(&ingest).await.json(), before);
        assert_eq!(app.open(open).await.expect(200).json()["offset"], 3);
        app.append(&ingest, 3, b"lo").await.expect(204);
        assert_eq!(app.commit(&ingest, json!({})).await.expect(201).json()["digest"], digest);
    }
});

story!(truncation_starts_over_and_takes_no_other_offset, async |app| {
    let ingest = app.filled_ingest("u", b"wrong").await;
    app.clock.advance(Duration::from_secs(1));
    let cut = app.truncate(&ingest).await.expect(200);
    assert_eq!((&cut.json()["offset"], &cut.json()["digest"]), (&json!(0), &json!(EMPTY)));
    assert_eq!(cut.json()["updated_at"], app.clock.now().to_string());
    for offset in [json!(1), json!(-1), json!("0")] {
        let refused = app.post(format!("{ingest}/truncate")).json(json!({"offset": offset})).await;
        assert_eq!(refused.to_string(), "400 invalid-argument", "{offset}");
    }
    app.append(&ingest, 0, b"hello").await.expect(204);
    app.commit(&ingest, json!({"expected_digest": HELLO})).await.expect(201);
});

story!(a_chunk_with_its_digest_counts_whole_or_not_at_all, async |app| {
    let ingest = app.filled_ingest("u", b"hel").await;
    let of_lo = "sha-256=:fSnFcBsuSkHdxbhnx77NdUMMtGmXSBmrbOmWmxMzqKs=:";
    let wrong = app.append(&ingest, 3, b"xx").header("Content-Digest", of_lo).await.expect(422);
    assert_eq!(wrong.problem_code(), "chunk-digest-mismatch");
    assert_eq!(wrong.header("upload-offset"), "3");
    assert_eq!(app.get(&ingest).await.json()["digest"], sha256(b"hel"));
    let malformed = app.append(&ingest, 3, b"lo").header("Content-Digest", "sha-256=fSn").await;
    assert_eq!(malformed.to_string(), "400 invalid-argument");
    use base64::Engine;
    let right =
        base64::engine::general_purpose::STANDARD.encode(<sha2::Sha256 as sha2::Digest>::digest(b"lo"));
    app.append(&ingest, 3, b"lo")
        .header("Content-Digest", &format!("md5=:AA==:, sha-256=:{right}:"))
        .await
        .expect(204);
    app.commit(&ingest, json!({"expected_digest": HELLO})).await.expect(201);
});

story!(an_aborted_ingest_is_gone_with_its_bytes, async |app| {
    let ingest = app.filled_ingest("u", b"hello").await;
    let id = ingest.rsplit('/').next().expect("an id");
    assert!(app.data_dir().join("ingests").join(id).exists());
    assert_eq!(app.delete(&ingest).await.to_string(), "204");
    assert!(!app.data_dir().join("ingests").join(id).exists());
    for gone in [
        app.get(&ingest),
        app.head(format!("{ingest}/data")),
        app.append(&ingest, 5, b"x"),
        app.truncate(&ingest),
        app.commit(&ingest, json!({})),
        app.delete(&ingest),
    ] {
        assert_eq!(gone.await.status, 404);
    }
    assert_eq!(app.open(json!({"ref": "u"})).await.expect(201).json()["offset"], 0);
});

story!(an_idle_ingest_expires_visibly_and_its_ref_begins_anew, async |app| {
    let ingest = app.filled_ingest("u", b"hello").await;
    app.clock.advance(Duration::from_secs(86_399));
    assert_eq!(app.append(&ingest, 5, b"!").await.status, 204, "in use until then");
    app.clock.advance(Duration::from_secs(86_400));
    assert_eq!(app.append(&ingest, 6, b"!").await.to_string(), "404 not-found");
    let listed = app.get("/api/v1/ingests").await.json();
    assert_eq!(listed["items"][0]["state"], "expired");
    let anew = app.open(json!({"ref": "u"})).await.expect(201);
    assert_eq!(anew.json()["offset"], 0);
    assert_ne!(anew.header("location"), ingest);
});

story!(a_ref_has_1_to_1024_bytes, async |app| {
    app.new_ingest(&"r".repeat(1_024)).await;
    app.new_ingest("any text: ä/..%00?&").await;
    for reference in [String::new(), "r".repeat(1_025), "a\nb".into(), "a\0b".into()] {
        assert_eq!(
            app.open(json!({"ref": reference})).await.to_string(),
            "400 invalid-argument",
            "{reference:?}"
        );
    }
    for wrong in [json!({}), json!({"ref": 1}), json!({"ref": "u", "total": -1}), json!({"ref": "u", "x": 1})]
    {
        assert_eq!(app.open(wrong.clone()).await.to_string(), "400 invalid-argument", "{wrong}");
    }
});

story!(a_commit_whose_answer_was_lost_is_repeated_by_its_key, async |app| {
    let ingest = app.filled_ingest("u", b"hello").await;
    let digest = sha256(b"hello");
    let ask = |body| app.post(format!("{ingest}/commit")).header("Idempotency-Key", "k").json(body);
    ask(json!({"expected_digest": digest})).await.expect(201);
    // Without the key nobody could say what became of the ingest.
    assert_eq!(app.commit(&ingest, json!({})).await.status, 404);
    let again = ask(json!({"expected_digest": digest})).await.expect(200);
    assert_eq!(again.json()["digest"], digest);
    assert!(!again.header("orlop-lease").is_empty());
    assert_eq!(ask(json!({})).await.to_string(), "422 idempotency-key-reused");
    // What was deleted meanwhile is no answer any more.
    app.delete(format!("/api/v1/content/{digest}")).await.expect(204);
    assert_eq!(ask(json!({"expected_digest": digest})).await.status, 404);
    // A refused commit is nothing that was made: the key is free for the right one.
    let ingest = app.filled_ingest("v", b"hello").await;
    let ask = |body| app.post(format!("{ingest}/commit")).header("Idempotency-Key", "k2").json(body);
    assert_eq!(ask(json!({"total": 6})).await.status, 409);
    ask(json!({"total": 5})).await.expect(201);
});

story!(a_ref_is_one_ingest_per_namespace, async |app| {
    let one = app.open(json!({"ref": "u"})).namespace("one").await.expect(201).place().to_owned();
    let two = app.open(json!({"ref": "u"})).namespace("two").await.expect(201).place().to_owned();
    assert_ne!(one, two);
    assert_eq!(app.get(&one).namespace("two").await.status, 404);
    assert_eq!(app.append(&one, 0, b"x").namespace("two").await.status, 404);
    assert_eq!(app.delete(&one).namespace("two").await.status, 404);
    assert_eq!(app.get(&one).namespace("one").await.status, 200);
});

story!(the_limit_of_a_blob_is_the_servers_own, [("max_blob_size", "1 KiB")], async |app| {
    let ingest = app.filled_ingest("u", &[b'x'; 1_000]).await;
    assert_eq!(app.head(format!("{ingest}/data")).await.header("upload-limit"), "max-size=1024");
    let too_large = app.append(&ingest, 1_000, &[b'x'; 25]).await.expect(413);
    assert_eq!((too_large.problem_code().as_str(), &too_large.json()["limit"]), ("too-large", &json!(1_024)));
    assert_eq!(
        app.get(&ingest).await.json()["offset"],
        1_000,
        "nothing of a body that is known to be too long"
    );
    app.append(&ingest, 1_000, &[b'x'; 24]).await.expect(204);
    app.commit(&ingest, json!({})).await.expect(201);
    assert_eq!(app.post("/api/v1/content").body([b'y'; 1_025]).await.to_string(), "413 too-large");
    assert_eq!(app.open(json!({"ref": "v", "total": 1_025})).await.to_string(), "413 too-large");
});

/// Each of the sizes of containerd's own suite, with and without a restart: the promise in numbers.
#[tokio::test]
async fn every_cut_of_a_blob_resumes_to_the_same_digest() {
    let app = TestApp::with(On::Sqlite, &[]).await;
    let bytes = noise(11, 70_000);
    for cut in [0, 1, 63, 64, 65, 4_095, 4_096, 65_536, 69_999, 70_000] {
        let ingest = app.filled_ingest(&format!("cut-{cut}"), &bytes[..cut]).await;
        app.restart().await;
        let offset = app.get(&ingest).await.json()["offset"].as_u64().expect("a number");
        assert_eq!(offset, cut as u64);
        app.append(&ingest, offset, &bytes[cut..]).await.expect(204);
        let status = app.commit(&ingest, json!({"expected_digest": sha256(&bytes)})).await.status;
        assert_eq!(status, if cut == 0 { 201 } else { 200 });
    }
    app.stop().await;
}
