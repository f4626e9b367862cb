//! How registries are reached: settings, whose secrets go in and never come out, and pulls that go by them.

use serde_json::{Value, json};

use crate::support::app::{TestApp, story};
use crate::support::fixture_registry::{Auth, Fault, FixtureRegistry, TokenFor};
use crate::support::request::Answer;

const REGISTRIES: &str = "/api/v1/registries";
const PULLS: &str = "/api/v1/pulls";

fn of(host: &str) -> String {
    format!("{REGISTRIES}/{host}")
}

/// A registry that has `app:v1`, and lets in who knows this.
async fn private(auth: Auth) -> FixtureRegistry {
    let registry = FixtureRegistry::start().await;
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    registry.require(auth);
    registry
}

/// The pull of `app:v1`, at its end.
async fn pull(app: &TestApp, registry: &FixtureRegistry, more: Value) -> Value {
    let mut asked = json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"]});
    for (key, value) in more.as_object().expect("fields") {
        asked[key] = value.clone();
    }
    let made = app.post(PULLS).json(asked).await.expect(202);
    end(app, made).await
}

async fn end(app: &TestApp, made: Answer) -> Value {
    let pull = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert!(!pull.to_string().contains("s3cret"), "{pull}");
    pull
}

fn outcome(pull: &Value) -> (&str, &str) {
    (pull["state"].as_str().expect("a state"), pull["error"]["code"].as_str().unwrap_or_default())
}

fn certificate() -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["r.io".to_owned()]).expect("params");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

story!(settings_are_kept_and_their_secrets_never_come_out, async |app| {
    let (certificate, key) = certificate();
    let settings = json!({
        "ca": [certificate],
        "client_certificate": certificate,
        "client_key": key,
        "headers": {"X-Key": ["s3cret"]},
        "credential": {"username": "ci", "password": "s3cret"},
        "token_hosts": ["auth.example.com"],
        "connect_timeout": "5s",
        "mirrors": [{"url": "http://mirror.example.com:5000/hub", "capabilities": ["pull"],
                     "credential": {"token": "s3cret"}}],
    });
    let made = app.put(of("index.docker.io")).json(settings).await.expect(201);
    assert_eq!(made.place(), of("docker.io"), "Docker Hub by any of its names");
    let mine = app.get(of("docker.io")).await.expect(200);
    let all = app.get(REGISTRIES).await.expect(200);
    assert_eq!((mine.json(), all.json()["items"][0].clone()), (made.json(), made.json()));
    for answer in [&made, &mine, &all] {
        let text = String::from_utf8_lossy(&answer.body);
        assert!(!text.contains("s3cret") && !text.contains("PRIVATE KEY"), "{text}");
    }
    let shown = mine.json();
    assert_eq!(shown["credential"], json!({"kind": "password", "username": "ci"}));
    assert_eq!(shown["header_names"], json!(["X-Key"]));
    assert_eq!(shown["mirrors"][0]["url"], "http://mirror.example.com:5000/hub");
    assert_eq!(shown["connect_timeout"], 5.0);
    app.restart().await;
    assert_eq!(app.get(of("docker.io")).await.expect(200).json(), shown);
    app.delete(of("docker.io")).await.expect(204);
    app.get(of("docker.io")).await.expect(404);
    app.delete(of("docker.io")).await.expect(404);
});

story!(a_secret_that_is_not_mentioned_stays_and_null_removes_it, async |app| {
    let credential = json!({"username": "ci", "password": "s3cret"});
    app.put(of("r.io")).json(json!({"credential": credential, "headers": {"X": ["1"]}})).await.expect(201);
    let kept = app.put(of("r.io")).json(json!({"skip_verify": true})).await.expect(200).json();
    assert_eq!((&kept["credential"]["username"], &kept["header_names"]), (&json!("ci"), &json!(["X"])));
    let gone = app.put(of("r.io")).json(json!({"credential": null})).await.expect(200).json();
    assert_eq!((&gone["credential"], &gone["header_names"]), (&Value::Null, &json!(["X"])));
    app.put(of("r.io")).json(json!({"credential": credential})).await.expect(200);
    let moved = app.put(of("r.io")).json(json!({"url": "https://elsewhere.io"})).await.expect(200).json();
    assert_eq!(moved["credential"], Value::Null, "a secret is for the host that it was given for");
});

story!(settings_change_under_the_conditions_of_http, async |app| {
    let first = app.put(of("r.io")).header("If-None-Match", "*").json(json!({})).await.expect(201);
    app.put(of("r.io")).header("If-None-Match", "*").json(json!({})).await.expect(412);
    let tag = first.header("etag").to_owned();
    let changed = json!({"skip_verify": true});
    let second = app.put(of("r.io")).header("If-Match", &tag).json(changed.clone()).await.expect(200);
    app.put(of("r.io")).header("If-Match", &tag).json(changed.clone()).await.expect(412);
    app.delete(of("r.io")).header("If-Match", &tag).await.expect(412);
    app.put(of("q.io")).header("If-Match", "*").json(changed).await.expect(412);
    let known = app.get(of("r.io")).header("If-None-Match", second.header("etag")).await;
    assert_eq!(known.status, 304);
    app.delete(of("r.io")).header("If-Match", second.header("etag")).await.expect(204);
});

story!(each_refusal_names_its_field_and_no_secret, async |app| {
    for (settings, field) in [
        (json!({"url": "ftp://r.io"}), "url"),
        (json!({"url": "s3cret"}), "url"),
        (json!({"ca": ["s3cret"]}), "ca"),
        (json!({"client_certificate": "s3cret"}), "client_key"),
        (json!({"client_certificate": "x", "client_key": "s3cret"}), "client_certificate"),
        (json!({"headers": {"Range": ["s3cret"]}}), "headers"),
        (json!({"headers": {"X": ["s3cret\n"]}}), "headers"),
        (json!({"connect_timeout": "0s"}), "connect_timeout"),
        (json!({"token_hosts": ["https://s3cret"]}), "token_hosts"),
        (json!({"credential": {"username": "a:b", "password": "s3cret"}}), "credential"),
        (json!({"credential": {"username": "s3cret"}}), "credential"),
        (json!({"credential": {"token": "s3cret", "password": "s3cret"}}), "credential"),
        (json!({"mirrors": [{}]}), "mirrors[0].url"),
        (json!({"mirrors": [{"url": "https://m", "capabilities": []}]}), "mirrors[0].capabilities"),
    ] {
        let refused = app.put(of("r.io")).json(settings.clone()).await.expect(400);
        let problem = refused.problem().expect("a problem");
        assert_eq!(problem["field"], field, "{settings}: {problem}");
        assert!(!problem.to_string().contains("s3cret"), "{problem}");
    }
    for host in ["nodots", "a%2Fb.io", "r.io:99999", "_other"] {
        app.put(of(host)).json(json!({})).await.expect(400);
    }
    app.get(of("r.io")).await.expect(404);
});

story!(a_pull_uses_the_credential_that_is_configured_or_its_own_or_none, async |app| {
    let registry = private(Auth::Password("ci:s3cret")).await;
    let denied = pull(app, &registry, json!({})).await;
    assert_eq!(outcome(&denied), ("failed", "upstream-denied"));
    let own = json!({"auth": {"username": "ci", "password": "s3cret"}, "image_name": "own"});
    assert_eq!(outcome(&pull(app, &registry, own).await), ("succeeded", ""));
    let wrong = json!({"auth": {"username": "ci", "password": "other"}, "image_name": "wrong"});
    assert_eq!(outcome(&pull(app, &registry, wrong).await), ("failed", "upstream-denied"));
    let credential = json!({"credential": {"username": "ci", "password": "s3cret"}});
    app.put(of(&registry.host())).json(credential).await.expect(201);
    let configured = json!({"image_name": "configured"});
    assert_eq!(outcome(&pull(app, &registry, configured).await), ("succeeded", ""));
    let nobody = json!({"credential": "none", "image_name": "nobody"});
    assert_eq!(outcome(&pull(app, &registry, nobody).await), ("failed", "upstream-denied"));
    let both = json!({"ref": "r.io/a", "credential": "none", "auth": {"token": "s3cret"}});
    let refused = app.post(PULLS).json(both).await.expect(400);
    assert_eq!(refused.problem().expect("a problem")["field"], "auth");
});

story!(a_secret_goes_to_no_host_that_only_a_pull_names, async |app| {
    let registry = private(Auth::Password("ci:s3cret")).await;
    for (settings, field) in [
        (json!({"credential": {"username": "ci", "password": "s3cret"}}), "credential"),
        (json!({"headers": {"X-Key": ["s3cret"]}}), "headers"),
    ] {
        let refused = app.put(of("_default")).json(settings).await.expect(400);
        assert_eq!(refused.problem().expect("a problem")["field"], field);
    }
    app.put(of("_default")).json(json!({"connect_timeout": "5s"})).await.expect(201);
    assert_eq!(outcome(&pull(app, &registry, json!({})).await), ("failed", "upstream-denied"));
    assert!(registry.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
});

story!(an_insecure_pull_takes_no_credential_of_the_settings_along, async |app| {
    let registry = private(Auth::Password("ci:s3cret")).await;
    let url = format!("https://{}", registry.host());
    let settings = json!({"url": url, "credential": {"username": "ci", "password": "s3cret"}});
    app.put(of(&registry.host())).json(settings).await.expect(201);
    let denied = pull(app, &registry, json!({"insecure": true})).await;
    assert_eq!(outcome(&denied), ("failed", "upstream-denied"));
    let why = denied["error"]["detail"].as_str().expect("words");
    assert!(why.contains("not sent over an unverified connection"), "{why}");
    assert!(registry.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    let own =
        json!({"insecure": true, "auth": {"username": "ci", "password": "s3cret"}, "image_name": "own"});
    assert_eq!(outcome(&pull(app, &registry, own).await), ("succeeded", ""));
});

story!(a_secret_is_in_no_file_of_the_data_directory, async |app| {
    let registry = private(Auth::Basic).await;
    let secret = "s3cret-that-is-long-enough";
    let credential = json!({"credential": {"username": "ci", "password": secret}});
    app.put(of("r.io")).json(credential).await.expect(201);
    let own = json!({"auth": {"username": "ci", "password": secret}});
    assert_eq!(outcome(&pull(app, &registry, own).await), ("failed", "upstream-denied"));
    app.stop().await;
    let found = files_with(app.data_dir(), secret.as_bytes());
    assert!(found.is_empty(), "{found:?}");
    app.start_again().await;
});

/// The files below `directory` that hold `bytes`.
fn files_with(directory: &std::path::Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files_with(&path, bytes)),
            false => {
                let text = std::fs::read(&path).expect("a file");
                found.extend(text.windows(bytes.len()).any(|part| part == bytes).then_some(path));
            }
        }
    }
    found
}

story!(a_failed_pull_is_taken_up_again_with_what_it_has, async |app| {
    let registry = private(Auth::Password("ci:s3cret")).await;
    registry.fail("/blobs/", Fault::Status(404, vec![]), 1);
    let own = json!({"auth": {"username": "ci", "password": "s3cret"}});
    let failed = pull(app, &registry, own).await;
    assert_eq!(outcome(&failed), ("failed", "upstream-not-found"));
    let place = format!("{PULLS}/{}", failed["id"].as_str().expect("an id"));
    let again = app.post(format!("{place}/retry")).await.expect(202);
    assert_eq!(again.place(), place);
    let pulled = end(app, again).await;
    assert_eq!((outcome(&pulled), &pulled["attempt"]), (("succeeded", ""), &json!(2)));
    let refused = app.post(format!("{place}/retry")).await.expect(409);
    assert_eq!(refused.problem_code(), "invalid-state");
    let events =
        app.get(format!("{place}/events")).header("Accept", "application/x-ndjson").await.expect(200);
    assert!(String::from_utf8_lossy(&events.body).contains(r#""state":"succeeded""#));
});

story!(a_cancelled_pull_forgets_its_credential_and_needs_it_again, async |app| {
    let registry = private(Auth::Password("ci:s3cret")).await;
    registry.fail("/blobs/", Fault::Silent, 100);
    let asked = json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"],
                       "auth": {"username": "ci", "password": "s3cret"}});
    let made = app.post(PULLS).json(asked).await.expect(202);
    let place = made.place().to_owned();
    app.delete(place.clone()).await.expect(202);
    assert_eq!(outcome(&end(app, made).await), ("cancelled", ""));
    registry.forgive();
    let refused = app.post(format!("{place}/retry")).await.expect(400);
    assert_eq!(refused.problem().expect("a problem")["field"], "auth");
    let auth = json!({"auth": {"username": "ci", "password": "s3cret"}});
    let again = app.post(format!("{place}/retry")).json(auth).await.expect(202);
    assert_eq!(outcome(&end(app, again).await), ("succeeded", ""));
});

story!(a_trace_tells_each_request_and_no_secret, async |app| {
    let registry = private(Auth::Token { realm: None, expires_in: 300 }).await;
    registry.hand_tokens_to(TokenFor::Password("ci:s3cret"));
    let own = json!({"auth": {"username": "ci", "password": "s3cret"}, "trace": true});
    let pulled = pull(app, &registry, own).await;
    let place = format!("{PULLS}/{}/trace", pulled["id"].as_str().expect("an id"));
    for _ in 0..2 {
        let trace = app.get(place.clone()).await.expect(200);
        let text = String::from_utf8_lossy(&trace.body).into_owned();
        assert!(!text.contains("s3cret") && !text.contains("secret-"), "{text}");
        let items = trace.json()["items"].as_array().expect("a list").clone();
        let told = |line: &Value| (line["authorization"].clone(), line["status"].clone());
        let token = items.iter().find(|line| line["url"].as_str().is_some_and(|url| url.contains("/token")));
        assert_eq!(told(token.expect("a request for a token")), (json!("Basic"), json!(200)));
        assert_eq!(told(items.last().expect("a request")), (json!("Bearer"), json!(200)));
        app.restart().await;
    }
    let silent = pull(app, &registry, json!({"image_name": "other", "credential": "none"})).await;
    let place = format!("{PULLS}/{}/trace", silent["id"].as_str().expect("an id"));
    assert_eq!(app.get(place).await.expect(409).problem_code(), "invalid-state");
});

story!(a_test_goes_step_by_step_to_the_one_that_fails, async |app| {
    let registry = private(Auth::Token { realm: None, expires_in: 300 }).await;
    registry.hand_tokens_to(TokenFor::Password("ci:s3cret"));
    let credential = |word: &str| json!({"credential": {"username": "ci", "password": word}});
    let test = format!("{}/test", of(&registry.host()));
    let mut seen = Vec::new();
    for settings in [None, Some(credential("wrong")), Some(credential("s3cret"))] {
        if let Some(settings) = settings {
            app.put(of(&registry.host())).json(settings).await;
        }
        let tested = app.post(test.clone()).json(json!({"repository": "app"})).await.expect(200).json();
        assert!(!tested.to_string().contains("s3cret"), "{tested}");
        let steps = tested["hosts"][0]["steps"].as_array().expect("steps").clone();
        let names: Vec<_> =
            steps.iter().map(|step| step["step"].as_str().expect("a name").to_owned()).collect();
        assert_eq!(names, ["dns", "connect", "tls", "ping", "auth"]);
        seen.push((tested["ok"].clone(), steps[4]["detail"].as_str().expect("words").to_owned()));
    }
    let [nobody, wrong, right] = &seen[..] else { panic!("three tests") };
    assert!(nobody.0 == json!(false) && nobody.1.contains("without credentials"), "{nobody:?}");
    assert!(wrong.0 == json!(false) && wrong.1.contains("refuses these credentials"), "{wrong:?}");
    assert_eq!(*right, (json!(true), "let in as `ci`".to_owned()));
    let nowhere = app.post(format!("{}/test", of("127.0.0.1:1"))).await.expect(200).json();
    let steps = nowhere["hosts"][0]["steps"].as_array().expect("steps").clone();
    assert_eq!((steps.len(), &steps[1]["ok"]), (2, &json!(false)), "{nowhere}");
    app.post(format!("{}/test", of("_default"))).await.expect(400);
});

story!(
    what_the_operator_denies_is_not_pulled,
    [("allowed_registries", "127.0.0.1:1, *.example.com/team"), ("denied_registries", "bad.example.com")],
    async |app| {
        for refused in ["alpine", "a.example.com/other/app", "bad.example.com/team/app"] {
            let answer = app.post(PULLS).json(json!({"ref": refused})).await.expect(403);
            assert_eq!(answer.problem_code(), "forbidden", "{refused}");
        }
        app.post(PULLS).json(json!({"ref": "127.0.0.1:1/app"})).await.expect(202);
        app.post(format!("{}/test", of("ghcr.io"))).await.expect(403);
    }
);
