//! Sharing between namespaces: bytes that another namespace has need not be sent again, unless that is forbidden.

use serde_json::json;

use crate::support::app::{TestApp, sha256, story};

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

async fn put_in(app: &TestApp, namespace: &str) {
    app.put(format!("/api/v1/content/{HELLO}/data")).namespace(namespace).body("hello").await.expect(201);
}

fn read(app: &TestApp, digest: &str, namespace: &str) -> crate::support::request::Request {
    app.get(format!("/api/v1/content/{digest}/data")).namespace(namespace)
}

story!(a_digest_of_another_namespace_is_committed_without_a_byte, async |app| {
    put_in(app, "one").await;
    let opened = app.open(json!({"ref": "u", "expected_digest": HELLO})).namespace("two").await.expect(201);
    let ingest = opened.json();
    assert_eq!(
        (&ingest["shared"], &ingest["offset"], &ingest["digest"]),
        (&json!(true), &json!(5), &json!(HELLO))
    );
    assert_eq!(opened.header("upload-offset"), "5");
    assert_eq!(read(app, HELLO, "two").await.status, 404, "not before the commit");
    app.commit(opened.place(), json!({})).namespace("two").await.expect(201);
    assert_eq!(read(app, HELLO, "two").await.to_string(), "200 \"hello\"");
    app.delete(format!("/api/v1/content/{HELLO}")).namespace("one").await.expect(204);
    assert_eq!(read(app, HELLO, "two").await.to_string(), "200 \"hello\"", "it stays while one records it");
});

story!(appending_to_lent_bytes_continues_a_private_copy, async |app| {
    put_in(app, "one").await;
    let opened = app.open(json!({"ref": "u", "expected_digest": HELLO})).namespace("two").await.expect(201);
    let ingest = opened.place();
    app.append(ingest, 5, b", world").namespace("two").await.expect(204);
    assert_eq!(app.get(ingest).namespace("two").await.json()["shared"], json!(false));
    let whole = sha256(b"hello, world");
    app.commit(ingest, json!({"expected_digest": whole})).namespace("two").await.expect(201);
    assert_eq!(read(app, &whole, "two").await.to_string(), "200 \"hello, world\"");
    assert_eq!(read(app, HELLO, "one").await.to_string(), "200 \"hello\"", "the lender's is as it was");
    assert_eq!(read(app, HELLO, "two").await.status, 404);
});

story!(a_lent_ingest_survives_a_restart, async |app| {
    put_in(app, "one").await;
    let opened = app.open(json!({"ref": "u", "expected_digest": HELLO})).namespace("two").await.expect(201);
    app.restart().await;
    assert_eq!(app.get(opened.place()).namespace("two").await.json()["offset"], 5);
    app.commit(opened.place(), json!({})).namespace("two").await.expect(201);
    assert_eq!(read(app, HELLO, "two").await.to_string(), "200 \"hello\"");
});

story!(another_digest_expected_of_a_lent_ingest_has_its_own_bytes_or_none, async |app| {
    put_in(app, "one").await;
    let longer = sha256(b"hello, world");
    app.put(format!("/api/v1/content/{longer}/data")).namespace("one").body("hello, world").await.expect(201);
    let open =
        async |digest: &str| app.open(json!({"ref": "u", "expected_digest": digest})).namespace("two").await;
    let ingest = open(HELLO).await.expect(201).place().to_owned();
    let lent = open(&longer).await.expect(200).json();
    assert_eq!(
        (&lent["shared"], &lent["offset"], &lent["digest"]),
        (&json!(true), &json!(12), &json!(longer))
    );
    let unknown = open(&sha256(b"nowhere")).await.expect(200).json();
    assert_eq!((&unknown["shared"], &unknown["offset"]), (&json!(false), &json!(0)));
    app.restart().await;
    assert_eq!(app.get(&ingest).namespace("two").await.json()["offset"], 0);
    app.append(&ingest, 0, b"nowhere").namespace("two").await.expect(204);
    app.commit(&ingest, json!({})).namespace("two").await.expect(201);

    let ingest = open(HELLO).await.expect(201).place().to_owned();
    open(&longer).await.expect(200);
    app.restart().await;
    let committed = app.commit(&ingest, json!({})).namespace("two").await.expect(201).json();
    assert_eq!((&committed["digest"], &committed["size"]), (&json!(longer), &json!(12)));
    assert_eq!(read(app, &longer, "two").await.to_string(), "200 \"hello, world\"");
});

story!(a_manifest_taken_from_another_namespace_keeps_its_blobs, async |app| {
    put_in(app, "one").await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": HELLO, "size": 5},
        "layers": []
    })
    .to_string();
    let digest = sha256(manifest.as_bytes());
    app.put(format!("/api/v1/content/{digest}/data")).namespace("one").body(manifest).await.expect(201);
    for digest in [HELLO, &digest] {
        let opened = app.open(json!({"ref": digest, "expected_digest": digest})).namespace("two").await;
        assert_eq!(opened.json()["shared"], json!(true));
        app.commit(opened.place(), json!({})).namespace("two").await.expect(201);
    }
    let record = app.get(format!("/api/v1/content/{digest}")).namespace("two").await.json();
    assert_eq!(record["media_type"], "application/vnd.oci.image.manifest.v1+json");
    let refused = app.delete(format!("/api/v1/content/{HELLO}")).namespace("two").await;
    assert_eq!(refused.to_string(), "409 content-in-use");
});

story!(what_nobody_records_any_more_is_not_lent, async |app| {
    put_in(app, "one").await;
    let opened = app.open(json!({"ref": "u", "expected_digest": HELLO})).namespace("two").await.expect(201);
    app.delete(format!("/api/v1/content/{HELLO}?force=true")).namespace("one").await.expect(204);
    let late = app.commit(opened.place(), json!({})).namespace("two").await;
    assert!(matches!(late.status, 409), "{late}");
    assert_eq!(read(app, HELLO, "two").await.status, 404, "never a record without bytes");
    let anew = app.open(json!({"ref": "v", "expected_digest": HELLO})).namespace("two").await.expect(201);
    assert_eq!((&anew.json()["shared"], &anew.json()["offset"]), (&json!(false), &json!(0)));
});

story!(a_wrong_total_is_not_shared, async |app| {
    put_in(app, "one").await;
    let opened = app
        .open(json!({"ref": "u", "expected_digest": HELLO, "total": 6}))
        .namespace("two")
        .await
        .expect(201);
    let committed = app.commit(opened.place(), json!({})).namespace("two").await;
    assert_eq!(committed.to_string(), "409 size-mismatch");
});

story!(isolated_namespaces_send_every_byte, [("sharing", "isolated")], async |app| {
    put_in(app, "one").await;
    let opened = app.open(json!({"ref": "u", "expected_digest": HELLO})).namespace("two").await.expect(201);
    let ingest = opened.json();
    assert_eq!((&ingest["shared"], &ingest["offset"]), (&json!(false), &json!(0)));
    let early = app.commit(opened.place(), json!({})).namespace("two").await;
    assert_eq!(early.to_string(), "409 digest-mismatch");
    app.append(opened.place(), 0, b"hello").namespace("two").await.expect(204);
    app.commit(opened.place(), json!({})).namespace("two").await.expect(201);
});
