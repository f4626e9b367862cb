//! Pulls as jobs: what asking for one answers. That they bring an image whole is told in `tests/pulls.rs`.

use std::net::TcpListener;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::{TestApp, story};
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{Auth, Fault, FixtureRegistry, sha256};
use crate::support::request::{Answer, Request};

const PULLS: &str = "/api/v1/pulls";

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1/cargo/rope:v1";

/// A registry that takes connections and never says a word: a pull from it does not end by itself.
struct MuteRegistry(TcpListener);

impl MuteRegistry {
    fn open() -> MuteRegistry {
        MuteRegistry(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    fn pull(&self, image_name: &str) -> Value {
        let address = self.0.local_addr().expect("a bound listener has an address");
        json!({"ref": format!("{address}/app:v1"), "image_name": image_name})
    }
}

async fn send_together(asks: Vec<Request>) -> Vec<Answer> {
    join_all(asks.into_iter().map(Request::send)).await
}

/// How many of the answers have this status; all of them must show one and the same pull.
fn count_of_one_pull(answers: &[Answer], status: u16) -> usize {
    let ids: Vec<Value> = answers.iter().map(|answer| answer.json()["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    answers.iter().filter(|answer| answer.status == status).count()
}

async fn count_pulls(app: &TestApp) -> usize {
    app.get(PULLS).await.expect(200).json()["items"].as_array().expect("a list").len()
}

story!(equal_pulls_that_are_asked_for_at_once_are_one, async |app| {
    let registry = MuteRegistry::open();
    for round in 0..3 {
        let asked = registry.pull(&format!("image-{round}"));
        let answers = send_together((0..8).map(|_| app.post(PULLS).json(asked.clone())).collect()).await;
        assert_eq!((count_of_one_pull(&answers, 202), count_of_one_pull(&answers, 200)), (1, 7));
    }
    assert_eq!(count_pulls(app).await, 3);
});

story!(a_repeat_that_overtakes_its_first_request_makes_no_second_pull, async |app| {
    let registry = MuteRegistry::open();
    for round in 0..3 {
        let (asked, key) = (registry.pull(&format!("image-{round}")), format!("key-{round}"));
        let ask = || app.post(PULLS).header("Idempotency-Key", &key).json(asked.clone());
        let answers = send_together((0..8).map(|_| ask()).collect()).await;
        assert_eq!(count_of_one_pull(&answers, 202), 8, "each is told what the first was");
        let other = app.post(PULLS).header("Idempotency-Key", &key).json(registry.pull("other")).await;
        assert_eq!(other.to_string(), "422 idempotency-key-reused");
    }
    assert_eq!(count_pulls(app).await, 3);
});

story!(cancelling_twice_at_once_is_as_good_as_once, async |app| {
    let registry = MuteRegistry::open();
    for round in 0..3 {
        let asked = registry.pull(&format!("image-{round}"));
        let pull = app.post(PULLS).json(asked).await.expect(202).place().to_owned();
        let answers = send_together((0..8).map(|_| app.delete(&pull)).collect()).await;
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 202)), "{answers:?}");
    }
});

story!(a_pull_is_answered_with_its_place_and_its_tag, async |app| {
    let made = app.post("/api/v1/pulls").json(json!({"ref": NOWHERE})).await.expect(202);
    assert!(made.header("etag").starts_with('"'));
    let shown = app.get(made.header("location")).await.expect(200);
    assert_eq!(
        (shown.header("cache-control"), shown.json()["id"].clone()),
        ("no-cache", made.json()["id"].clone())
    );
    for answer in [app.delete(made.place()).await, app.get(format!("{}?wait=30s", made.place())).await] {
        assert!(answer.header("etag").starts_with('"'), "{answer}");
    }
    let ended = app.get(made.place()).await.expect(200);
    let known = app.get(made.place()).header("If-None-Match", ended.header("etag")).await;
    assert_eq!((known.status, known.header("cache-control")), (304, "no-cache"));
    app.delete(format!("{}?purge=true", made.place())).await.expect(204);
});

story!(events_come_in_the_form_that_weighs_most, async |app| {
    let made = app.post("/api/v1/pulls").json(json!({"ref": NOWHERE})).await.expect(202);
    app.delete(made.place()).await.expect(202);
    let events = format!("{}/events", made.place());
    for (accepts, form) in [
        ("text/event-stream", "text/event-stream"),
        ("Text/Event-Stream;q=0.2, Application/X-NDJSON", "application/x-ndjson"),
        ("application/x-ndjson, */*;q=0.1", "application/x-ndjson"),
        ("text/event-stream;q=0, */*", "application/x-ndjson"),
    ] {
        let answer = app.get(&events).header("Accept", accepts).await.expect(200);
        assert_eq!(answer.header("content-type"), form, "{accepts}");
    }
    assert_eq!(app.get(&events).header("Accept", "text/html").await.to_string(), "406 not-acceptable");
});

/// A pull at its end.
async fn ended(app: &TestApp, asked: Value) -> Value {
    let made = app.post(PULLS).json(asked).await.expect(202);
    app.get(format!("{}?wait=60s", made.place())).await.expect(200).json()
}

story!(what_a_failed_pull_has_not_fetched_waits_no_more, async |app| {
    let registry = FixtureRegistry::start().await;
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"first", b"second"]);
    registry.fail(&sha256(b"first"), Fault::Status(404, vec![]), 1);
    registry.fail(&sha256(b"second"), Fault::StallAfter(2), 100);
    let asked = json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"]});
    let pull = ended(app, asked).await;
    assert_eq!(pull["state"], "failed", "{pull}");
    let blob = |bytes: &[u8]| {
        let blobs = pull["blobs"].as_array().expect("blobs");
        blobs.iter().find(|blob| blob["digest"] == sha256(bytes)).expect("the blob").clone()
    };
    assert_eq!(blob(b"first")["state"], "failed");
    let second = blob(b"second");
    assert_eq!(
        (&second["state"], &second["error"], &second["wait"]),
        (&json!("skipped"), &Value::Null, &Value::Null)
    );
    assert!(second["reason"].as_str().expect("words").starts_with("the pull failed before"), "{second}");
    // It was wanted all the same: without it the pull would seem to be at its end.
    let progress = &pull["progress"];
    assert!(progress["bytes_done"].as_u64() < progress["bytes_total"].as_u64(), "{progress}");
    assert_eq!((&progress["blobs_total"], &progress["eta_seconds"]), (&json!(4), &Value::Null), "{progress}");
});

story!(what_a_cancelled_pull_has_not_fetched_waits_no_more, async |app| {
    let registry = FixtureRegistry::start().await;
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    registry.fail(&sha256(b"layer"), Fault::StallAfter(2), 100);
    let asked = json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"]});
    let made = app.post(PULLS).json(asked).await.expect(202);
    let is_there =
        |pull: &Value| pull["blobs"].as_array().is_some_and(|blobs| blobs.iter().any(|b| b["offset"] == 2));
    eventually("two bytes are there", async || {
        is_there(&app.get(made.place()).await.expect(200).json()).then_some(())
    })
    .await;
    app.delete(made.place()).await.expect(202);
    let pull = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    let layer = pull["blobs"].as_array().expect("blobs").last().expect("the layer").clone();
    assert_eq!((&layer["state"], &layer["offset"]), (&json!("skipped"), &json!(2)), "{layer}");
    assert_eq!(layer["reason"], "the pull was cancelled before all of it was here");
});

story!(a_manifest_that_its_registry_lacks_is_no_misspelt_tag, async |app| {
    let registry = FixtureRegistry::start().await;
    let index = registry.push_index("app", "v1", &[("linux/amd64", b"gone"), ("linux/arm64", b"gone too")]);
    let asked = json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/arm64"]});
    let words = format!(
        "the registry does not have the manifest {} for linux/arm64, which its index {index} names (status 404)",
        sha256(b"gone too")
    );
    let pull = ended(app, asked.clone()).await;
    for error in [&pull["error"], &pull["blobs"][1]["error"]] {
        assert_eq!(error["code"], "upstream-not-found", "{pull}");
        assert!(error["detail"].as_str().expect("words").ends_with(&words), "{error}");
        assert!(!error["hint"].as_str().expect("a hint").contains("spelt"), "{error}");
    }
    let plan = app.post(format!("{PULLS}?dry_run=true")).json(asked).await.json();
    assert!(plan["detail"].as_str().expect("words").ends_with(&words), "{plan}");
});

story!(a_time_to_keep_that_is_none_is_refused_in_words, async |app| {
    for keep in ["0s", "-1h", "soon", "1.5h", ""] {
        for query in ["", "?dry_run=true"] {
            let asked = json!({"ref": NOWHERE, "keep": keep});
            let refused = app.post(format!("{PULLS}{query}")).json(asked).await.expect(400).json();
            let detail = refused["detail"].as_str().expect("words");
            assert_eq!(refused["field"], "keep", "{refused}");
            assert!(
                detail.starts_with(
                    "`keep` is a length of time from 1s to ten years, as in 90s, 15m, 24h or 7d"
                ),
                "{detail}"
            );
        }
    }
});

story!(a_host_without_a_repository_is_no_image_of_docker_hub, async |app| {
    for host in ["127.0.0.1:15000", "localhost:5000", "registry.example.com:443"] {
        let refused = app.post(PULLS).json(json!({"ref": host})).await.expect(400).json();
        let detail = refused["detail"].as_str().expect("words");
        assert_eq!(refused["field"], "ref", "{refused}");
        assert!(detail.contains("no repository"), "{detail}");
        assert!(detail.contains(&format!("{host}/REPOSITORY")), "{detail}");
        assert!(detail.contains(&format!("docker.io/library/{host}")), "{detail}");
    }
});

story!(a_retry_with_another_credential_is_equal_to_pulls_with_that_one, async |app| {
    let registry = FixtureRegistry::start().await;
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    registry.require(Auth::Password("ci:right"));
    registry.fail(&sha256(b"layer"), Fault::StallAfter(2), 100);
    let asked = |word: &str| {
        json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"],
               "auth": {"username": "ci", "password": word}})
    };
    let failed = ended(app, asked("wrong")).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    let place = format!("{PULLS}/{}", failed["id"].as_str().expect("an id"));
    let right = json!({"auth": {"username": "ci", "password": "right"}});
    app.post(format!("{place}/retry")).json(right).await.expect(202);
    let equal = app.post(PULLS).json(asked("right")).await.expect(200).json();
    assert_eq!(equal["id"], failed["id"]);
    let other = app.post(PULLS).json(asked("wrong")).await.expect(202);
    for running in [place.as_str(), other.place()] {
        app.delete(running).await;
        app.get(format!("{running}?wait=60s")).await.expect(200);
    }
});
