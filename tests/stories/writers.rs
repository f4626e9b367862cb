//! One writer at a time: a request in flight, or the holder of a writer token; and what others see meanwhile.

use std::time::Duration;

use serde_json::json;

use crate::support::app::{TestApp, sha256, story};
use crate::support::eventually::eventually;
use crate::support::raw::SlowRequest;

/// A request that appends 10 bytes at 0, of which "hello" was sent and counted.
async fn half_an_append(app: &TestApp, ingest: &str, token: Option<&str>) -> SlowRequest {
    let mut headers = vec![("Upload-Offset", "0")];
    headers.extend(token.map(|token| ("Orlop-Writer", token)));
    let mut slow = app.raw().await.begin("PATCH", &format!("{ingest}/data"), &headers, 10).await;
    slow.send("hello").await;
    eventually("the first bytes are counted", async || {
        (app.get(ingest).await.json()["offset"] == 5).then_some(())
    })
    .await;
    slow
}

/// Opens with a writer token: the ingest's path, and the token.
async fn held(app: &TestApp, ttl: &str) -> (String, String) {
    let opened = app.open(json!({"ref": "u", "writer_ttl": ttl})).await.expect(201);
    let token = opened.json()["writer"]["token"].as_str().expect("a token").to_owned();
    (opened.place().to_owned(), token)
}

story!(state_is_live_in_the_middle_of_a_request, async |app| {
    let ingest = app.new_ingest("u").await;
    let begun = app.get(&ingest).await.json();
    app.clock.advance(Duration::from_secs(7));
    let mut slow = half_an_append(app, &ingest, None).await;
    let midway = app.get(&ingest).await.json();
    assert_eq!((&midway["offset"], &midway["digest"]), (&json!(5), &json!(sha256(b"hello"))));
    assert_eq!(midway["started_at"], begun["started_at"]);
    assert_eq!(midway["updated_at"], app.clock.now().to_string());
    assert_eq!(app.head(format!("{ingest}/data")).await.header("upload-offset"), "5");
    assert_eq!(app.get("/api/v1/ingests").await.json()["items"][0]["offset"], 5);
    slow.send("world").await;
    let done = slow.answer().await.expect("an answer").expect(204);
    assert_eq!(done.header("upload-offset"), "10");
});

story!(while_a_request_writes_others_wait_and_readers_do_not, async |app| {
    let ingest = app.new_ingest("u").await;
    let mut slow = half_an_append(app, &ingest, None).await;
    for other in [
        app.open(json!({"ref": "u"})),
        app.append(&ingest, 5, b"x"),
        app.truncate(&ingest),
        app.commit(&ingest, json!({})),
    ] {
        let busy = other.await.expect(423);
        assert_eq!(busy.problem_code(), "ingest-busy");
        assert_eq!(busy.header("upload-offset"), "5");
        assert!(busy.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{busy:?}");
    }
    assert_eq!(app.get(&ingest).await.status, 200);
    slow.send("world").await;
    slow.answer().await.expect("an answer").expect(204);
    app.commit(&ingest, json!({"expected_digest": sha256(b"helloworld")})).await.expect(201);
});

story!(an_abort_is_never_held_up_and_ends_the_writer, async |app| {
    let ingest = app.new_ingest("u").await;
    let mut slow = half_an_append(app, &ingest, None).await;
    assert_eq!(app.delete(&ingest).await.to_string(), "204");
    slow.send("world").await;
    // The answer, or a connection that is closed under a body that nobody wants: both end the writer.
    if let Some(answer) = slow.answer().await {
        assert_eq!(answer.to_string(), "404 not-found");
    }
    let anew = app.open(json!({"ref": "u"})).await.expect(201);
    assert_eq!(anew.json()["offset"], 0);
});

story!(the_holder_of_a_token_keeps_others_out_between_its_requests, async |app| {
    let (ingest, token) = held(app, "30s").await;
    let shown = app.get(&ingest).await.json();
    let in_30_s = app.clock.now().plus(Duration::from_secs(30)).to_string();
    assert_eq!(shown["writer"], json!({"expires_at": in_30_s}), "the token is told once");
    for other in [
        app.open(json!({"ref": "u"})),
        app.append(&ingest, 0, b"x"),
        app.truncate(&ingest),
        app.commit(&ingest, json!({})),
    ] {
        let busy = other.await.expect(423);
        assert_eq!((busy.header("upload-offset"), busy.header("retry-after")), ("0", "30"));
    }
    app.append(&ingest, 0, b"hel").header("Orlop-Writer", &token).await.expect(204);
    app.append(&ingest, 3, b"lo").header("Orlop-Writer", &token).await.expect(204);
    app.commit(&ingest, json!({})).header("Orlop-Writer", &token).await.expect(201);
});

story!(every_request_of_the_holder_renews_it_and_silence_ends_it, async |app| {
    let (ingest, token) = held(app, "30s").await;
    app.clock.advance(Duration::from_secs(29));
    app.append(&ingest, 0, b"hel").header("Orlop-Writer", &token).await.expect(204);
    app.clock.advance(Duration::from_secs(29));
    assert_eq!(app.append(&ingest, 3, b"x").await.status, 423, "renewed");
    app.clock.advance(Duration::from_secs(1));
    app.append(&ingest, 3, b"lo").await.expect(204);
    let lost = app.append(&ingest, 5, b"x").header("Orlop-Writer", &token).await;
    assert_eq!(lost.to_string(), "412 writer-lost");
    assert_eq!(app.get(&ingest).await.json()["offset"], 5);
});

story!(a_token_that_is_not_the_writers_is_refused_everywhere, async |app| {
    let free = app.filled_ingest("free", b"x").await;
    let (taken, _) = held(app, "30s").await;
    for ingest in [&free, &taken] {
        for request in [
            app.append(ingest, 1, b"x"),
            app.truncate(ingest),
            app.commit(ingest, json!({})),
            app.delete(format!("{ingest}/writer")),
        ] {
            let lost = request.header("Orlop-Writer", "0123456789abcdef0123456789abcdef").await;
            assert_eq!(lost.to_string(), "412 writer-lost");
        }
    }
    assert_eq!(app.get(&free).await.json()["offset"], 1);
    assert_eq!(app.append(&taken, 0, b"x").await.status, 423, "still held");
});

story!(the_holders_newer_request_ends_its_older_one, async |app| {
    let (ingest, token) = held(app, "1m").await;
    let slow = half_an_append(app, &ingest, Some(&token)).await;
    let newer = app.append(&ingest, 5, b" there").header("Orlop-Writer", &token).await.expect(204);
    assert_eq!(newer.header("upload-offset"), "11");
    // Ended: by an answer that is no success, or by a closed connection.
    if let Some(older) = slow.answer().await {
        assert!(older.status >= 400, "{older}");
    }
    let committed = app.commit(&ingest, json!({})).header("Orlop-Writer", &token).await.expect(201);
    assert_eq!(committed.json()["digest"], sha256(b"hello there"));
});

story!(every_commit_gives_the_ingest_back_whatever_its_outcome, async |app| {
    for refused in [
        json!({"expected_digest": sha256(b"other")}),
        json!({"total": 4}),
        json!({"labels": {"k": "x".repeat(4_096)}}),
        json!({"labels": {"": "x"}}),
        json!({"expected_digest": "sha256:no"}),
        json!({"total": -1}),
    ] {
        let opened = app.open(json!({"ref": "u", "writer_ttl": "1m"})).await;
        assert!(matches!(opened.status, 200 | 201), "{opened}");
        let token = opened.json()["writer"]["token"].as_str().expect("a token").to_owned();
        let ingest = opened.place().to_owned();
        let offset = opened.json()["offset"].as_u64().expect("a number");
        app.append(&ingest, offset, b"hello").header("Orlop-Writer", &token).await.expect(204);
        let answer = app.commit(&ingest, refused.clone()).header("Orlop-Writer", &token).await;
        assert!(matches!(answer.status, 400 | 409), "{refused}: {answer}");
        assert_eq!(app.get(&ingest).await.json().get("writer"), None, "{refused}");
        let lost = app.append(&ingest, offset + 5, b"x").header("Orlop-Writer", &token).await;
        assert_eq!(lost.to_string(), "412 writer-lost", "{refused}");
    }
});

story!(a_release_gives_the_ingest_back_with_its_bytes, async |app| {
    let (ingest, token) = held(app, "1m").await;
    app.append(&ingest, 0, b"hel").header("Orlop-Writer", &token).await.expect(204);
    let writer = format!("{ingest}/writer");
    assert_eq!(app.delete(&writer).await.status, 400, "the holder names itself");
    assert_eq!(app.delete(&writer).header("Orlop-Writer", &token).await.to_string(), "204");
    assert_eq!(app.delete(&writer).header("Orlop-Writer", &token).await.to_string(), "412 writer-lost");
    let resumed = app.open(json!({"ref": "u"})).await.expect(200);
    assert_eq!(resumed.json()["offset"], 3);
    app.delete(&ingest).await.expect(204);
    assert_eq!(app.delete(&writer).header("Orlop-Writer", &token).await.to_string(), "404 not-found");
});

story!(a_restart_gives_the_ingest_back, async |app| {
    let (ingest, token) = held(app, "10m").await;
    app.append(&ingest, 0, b"hel").header("Orlop-Writer", &token).await.expect(204);
    app.restart().await;
    assert_eq!(
        app.append(&ingest, 3, b"x").header("Orlop-Writer", &token).await.to_string(),
        "412 writer-lost"
    );
    app.append(&ingest, 3, b"lo").await.expect(204);
});

story!(the_holder_may_resume_and_is_given_a_new_token, async |app| {
    let (ingest, token) = held(app, "1m").await;
    app.append(&ingest, 0, b"hel").header("Orlop-Writer", &token).await.expect(204);
    let again =
        app.open(json!({"ref": "u", "writer_ttl": "1m"})).header("Orlop-Writer", &token).await.expect(200);
    assert_eq!(again.json()["offset"], 3);
    let newer = again.json()["writer"]["token"].as_str().expect("a token").to_owned();
    app.append(&ingest, 3, b"lo").header("Orlop-Writer", &newer).await.expect(204);
});

story!(a_writer_is_held_for_1_second_to_10_minutes, async |app| {
    for ttl in ["1s", "10m"] {
        app.open(json!({"ref": ttl, "writer_ttl": ttl})).await.expect(201);
    }
    for ttl in ["0s", "999ms", "601s", "soon", "-1s"] {
        let refused = app.open(json!({"ref": "u", "writer_ttl": ttl})).await;
        assert_eq!(refused.to_string(), "400 invalid-argument", "{ttl}");
    }
});

story!(of_a_hundred_writers_one_gets_the_ingest, async |app| {
    let ingest = app.new_ingest("u").await;
    let slow = half_an_append(app, &ingest, None).await;
    let attempts = (0..100).map(|_| async { app.append(&ingest, 5, b"x").await.status });
    let statuses = futures_util::future::join_all(attempts).await;
    assert!(statuses.iter().all(|status| *status == 423), "{statuses:?}");
    slow.hang_up();
    eventually("the turn is given back", async || (app.truncate(&ingest).await.status == 200).then_some(()))
        .await;
    let attempts = (0..100).map(|_| async { app.append(&ingest, 0, b"x").await.status });
    let statuses = futures_util::future::join_all(attempts).await;
    assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 204 | 409 | 423)), "{statuses:?}");
    assert_eq!(app.get(&ingest).await.json()["offset"], 1);
});
