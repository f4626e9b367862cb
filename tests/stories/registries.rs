//! How registries are reached: settings, whose secrets go in and never come out, and pulls that go by them.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::app::{On, TestApp, story};
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
        (json!({"client_key": "s3cret"}), "client_certificate"),
        (json!({"url": format!("https://r.io/{}", "x".repeat(2048))}), "url"),
        (json!({"token_hosts": [format!("{}.io", "x".repeat(253))]}), "token_hosts"),
        (json!({"headers": {"X": []}}), "headers"),
        (json!({"headers": "s3cret"}), "headers"),
        (json!({"headers": {"X": "s3cret"}}), "headers.X"),
        (json!({"client_key": ["s3cret"]}), "client_key"),
        (json!({"credential": "s3cret, expected s3cret"}), "credential"),
        (json!({"credential": {"username": "ci", "password": ["s3cret"]}}), "credential.password"),
        (json!({"mirrors": [{"credential": "s3cret"}]}), "mirrors[0].credential"),
        (json!({"capabilities": ["s3cret"]}), "capabilities[0]"),
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

story!(a_trace_tells_of_a_credential_that_was_configured_as_a_header, async |app| {
    let registry = private(Auth::Password("ci:s3cret")).await;
    let basic = "Basic Y2k6czNjcmV0";
    let settings = json!({"headers": {"Authorization": [basic]}});
    app.put(of(&registry.host())).json(settings).await.expect(201);
    let pulled = pull(app, &registry, json!({"trace": true})).await;
    assert_eq!(outcome(&pulled), ("succeeded", ""));
    let place = format!("{PULLS}/{}/trace", pulled["id"].as_str().expect("an id"));
    let trace = app.get(place).await.expect(200).json();
    let items = trace["items"].as_array().expect("a list");
    assert!(items.iter().any(|line| line["authorization"] == "Basic" && line["status"] == 200), "{trace}");
    assert!(!trace.to_string().contains("Y2k6"), "{trace}");
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

story!(a_trace_tells_how_much_came_of_each_body_and_why_it_ended_early, async |app| {
    let registry = private(Auth::Token { realm: None, expires_in: 300 }).await;
    registry.fail("/blobs/", Fault::CutAfter(3), 1);
    let pulled = pull(app, &registry, json!({"trace": true})).await;
    assert_eq!(outcome(&pulled), ("succeeded", ""));
    let id = pulled["id"].as_str().expect("an id");
    let trace = app.get(format!("{PULLS}/{id}/trace")).await.expect(200).json();
    let items = trace["items"].as_array().expect("a list");
    let cut = items.iter().find(|line| line["cut"].is_string()).unwrap_or_else(|| panic!("{trace}"));
    assert_eq!((&cut["status"], &cut["received_bytes"]), (&json!(200), &json!(3)));
    assert!(cut["cut"].as_str().expect("words").contains("the connection broke"), "{cut}");
    let whole: u64 = items.iter().filter_map(|line| line["received_bytes"].as_u64()).sum();
    assert!(whole >= pulled["progress"]["bytes_network"].as_u64().expect("bytes"), "{trace}");
    let unread = items.iter().filter(|line| line["method"] == "HEAD" || line["status"] == 401);
    assert!(unread.clone().count() > 0 && unread.clone().all(|line| line["received_bytes"].is_null()));

    let (exit, said) = orlop(app, &["pulls", "trace", id], "").await;
    assert!(exit == 0 && said.contains("  BODY  ") && said.contains("  3 B  "), "{said}");
    assert!(said.contains("\n  cut: ") && said.contains("the connection broke"), "{said}");
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

story!(
    a_test_without_a_repository_is_of_the_registry,
    [("allowed_registries", "127.0.0.1:1/team, r.io"), ("denied_registries", "r.io")],
    async |app| {
        let test = |host: &str| app.post(format!("{}/test", of(host)));
        test("127.0.0.1:1").await.expect(200);
        test("127.0.0.1:1").json(json!({"repository": "team/app"})).await.expect(200);
        let refused = test("127.0.0.1:1").json(json!({"repository": "other"})).await.expect(403);
        assert!(refused.json()["detail"].as_str().expect("words").contains("`127.0.0.1:1/other`"));
        for host in ["r.io", "ghcr.io"] {
            let refused = test(host).await.expect(403).json();
            let detail = refused["detail"].as_str().expect("words");
            assert!(detail.contains(&format!("pull from `{host}`")), "{detail}");
        }
    }
);

story!(null_is_as_good_as_nothing_where_the_contract_says_so, async |app| {
    let nothing = json!({"url": null, "client_certificate": null, "connect_timeout": null});
    app.put(of("127.0.0.1:1")).json(nothing).await.expect(201);
    let test = app.post(format!("{}/test", of("127.0.0.1:1")));
    test.json(json!({"repository": null})).await.expect(200);
    let failed = app.post(PULLS).json(json!({"ref": "127.0.0.1:1/app", "auth": null})).await.expect(202);
    let place = failed.place().to_owned();
    app.delete(place.clone()).await.expect(202);
    end(app, failed).await;
    app.post(format!("{place}/retry")).json(json!({"auth": null})).await.expect(202);
});

story!(what_is_shown_can_be_sent_back_as_it_is, async |app| {
    let (certificate, key) = certificate();
    let credential = json!({"username": "ci", "password": "s3cret"});
    let settings = json!({
        "ca": certificate, "client_certificate": certificate, "client_key": key, "headers": {"X": ["s3cret"]},
        "credential": credential, "connect_timeout": "90s", "token_hosts": ["auth.r.io"],
        "mirrors": [{"url": "https://m.io", "credential": {"token": "s3cret"}, "connect_timeout": 2.5}],
    });
    let mut shown = app.put(of("r.io")).json(settings).await.expect(201).json();
    assert_eq!((&shown["ca"], &shown["mirrors"][0]["connect_timeout"]), (&json!([certificate]), &json!(2.5)));
    assert_eq!(shown["capabilities"], json!(["pull", "resolve", "referrers"]), "nothing is pushed");
    let again = app.put(of("r.io")).json(shown.clone()).await.expect(200).json();
    shown["updated_at"] = again["updated_at"].clone();
    assert_eq!(again, shown);
    let (exit, printed) = orlop(app, &["registry", "get", "r.io"], "").await;
    assert_eq!(
        (exit, orlop(app, &["registry", "put", "r.io", "-"], &printed).await),
        (0, (0, "r.io\n".into()))
    );
    // Of another registry no secret is known that could stay.
    for (field, shown_as) in [("headers", "header_names"), ("credential", "credential")] {
        let mut told = json!({});
        told[shown_as] = shown[shown_as].clone();
        let refused = app.put(of("other.io")).json(told).await.expect(400).json();
        assert_eq!(refused["field"], field);
    }
});

story!(what_is_shown_can_be_put_again_and_keeps_its_secrets, async |app| {
    let credential = json!({"username": "ci", "password": "s3cret"});
    let host = json!({"url": "https://m.io/hub/", "credential": credential});
    let mut both = host.clone();
    both["mirrors"] = json!([host]);
    let before = app.put(of("r.io")).json(both).await.expect(201).json();
    assert_eq!(
        (&before["url"], &before["mirrors"][0]["url"]),
        (&json!("https://m.io/hub"), &json!("https://m.io/hub"))
    );
    let again = json!({"url": before["url"], "mirrors": [{"url": before["mirrors"][0]["url"]}]});
    let after = app.put(of("r.io")).json(again).await.expect(200).json();
    assert_eq!(after["credential"], before["credential"]);
    assert_eq!(after["mirrors"], before["mirrors"]);
});

/// `orlop` as somebody calls it: how it exits, and what it says.
async fn orlop(app: &TestApp, arguments: &[&str], stdin: &str) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_orlop"));
    command.args(["--server", &format!("http://{}", app.address())]).args(arguments);
    command
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("the built binary starts");
    let mut input = child.stdin.take().expect("stdin is piped");
    // One that reads nothing may be gone by now.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    let ended = ended.expect("it ends").expect("its output can be read");
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.code().expect("no signal ended it"), String::from_utf8_lossy(&said).into_owned())
}

story!(a_login_and_a_logout_change_the_credential_alone, async |app| {
    let login = async |host: &str, password: &str| {
        orlop(app, &["registry", "login", host, "-u", "ci"], &format!("{password}\n")).await
    };
    let registry = private(Auth::Password("ci:s3cret")).await;
    let host = registry.host();
    for (password, expected) in [("wrong", 10), ("s3cret", 0)] {
        let (exit, said) = login(&host, password).await;
        assert!(exit == expected && !said.contains(password), "{exit}: {said}");
    }
    assert_eq!(outcome(&pull(app, &registry, json!({})).await), ("succeeded", ""));
    let (exit, said) = orlop(app, &["registry", "logout", &host], "").await;
    assert_eq!(exit, 0, "{said}");
    app.get(of(&host)).await.expect(404);
    assert_eq!(orlop(app, &["registry", "logout", &host], "").await.0, 4, "it has none");

    let settings = json!({"connect_timeout": "5s", "headers": {"X": ["1"]}, "token_hosts": ["a.io"],
                          "mirrors": [{"url": "https://m.io", "credential": {"token": "s3cret"}}]});
    app.put(of("r.io")).json(settings).await.expect(201);
    let before = app.get(of("r.io")).await.expect(200).json();
    assert_eq!(login("r.io", "s3cret").await.0, 10, "it is stored, and cannot be tried");
    let with = app.get(of("r.io")).await.expect(200).json();
    assert_eq!(with["credential"], json!({"kind": "password", "username": "ci"}));
    assert_eq!(orlop(app, &["registry", "logout", "r.io"], "").await.0, 0);
    let mut after = app.get(of("r.io")).await.expect(200).json();
    after["updated_at"] = before["updated_at"].clone();
    assert_eq!(after, before);
});

story!(a_login_says_whether_the_credential_opens_anything, async |app| {
    let registry = private(Auth::Password("ci:s3cret")).await;
    let host = registry.host();
    let login =
        async |host: &str, word: &str| orlop(app, &["registry", "login", host, "-u", "ci"], word).await;
    let (exit, said) = login(&host, "wrong\n").await;
    assert_eq!(exit, 10, "it is stored, and opens nothing: {said}");
    assert!(said.contains("stored, and a try fails at auth: what we send is refused"), "{said}");
    let (exit, said) = login(&host, "s3cret\n").await;
    assert!(exit == 0 && said.contains("stored, and tried: let in as `ci`"), "{said}");
    let (exit, said) = login("127.0.0.1:1", "s3cret\n").await;
    assert!(exit == 10 && said.contains("stored, and a try fails at connect"), "{said}");
    assert_eq!(app.get(of("127.0.0.1:1")).await.expect(200).json()["credential"]["username"], "ci");
});

story!(a_login_takes_no_registry_away_from_the_mirrors_of_all, async |app| {
    app.put(of("_default")).json(json!({"mirrors": [{"url": "https://m.io"}]})).await.expect(201);
    let (exit, said) = orlop(app, &["registry", "login", "r.io", "-u", "ci"], "s3cret\n").await;
    assert!(exit == 5 && said.contains("_default") && !said.contains("s3cret"), "{exit}: {said}");
    app.get(of("r.io")).await.expect(404);
});

story!(a_secret_that_is_too_long_is_not_sent_cut, async |app| {
    let long = "s3cret".repeat(4096);
    let (exit, said) = orlop(app, &["registry", "login", "r.io", "--token"], &long).await;
    assert!(exit == 2 && said.contains("16384 bytes") && !said.contains("s3cret"), "{exit}: {said}");
    app.get(of("r.io")).await.expect(404);
});

story!(of_several_first_settings_at_once_one_is_the_first, async |app| {
    for round in 0..10 {
        let path = of(&format!("r{round}.io"));
        let put = |at: usize| {
            let settings = json!({"connect_timeout": format!("{}s", at + 1)});
            app.put(path.clone()).header("If-None-Match", "*").json(settings)
        };
        let answers = join_all((0..8).map(async |at| put(at).await)).await;
        let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 412, 412, 412, 412, 412, 412, 412]);
        let first = answers.iter().find(|answer| answer.status == 201).expect("one is");
        assert_eq!(app.get(path).await.expect(200).json(), first.json());
    }
});

/// How a test of `repository` ended: whether it went well, and its last words.
async fn tested(app: &TestApp, host: &str, repository: &str) -> (bool, String) {
    let test = app.post(format!("{}/test", of(host))).json(json!({"repository": repository}));
    let tested = test.await.expect(200).json();
    let last = tested["hosts"][0]["steps"].as_array().expect("steps").last().expect("a step").clone();
    (tested["ok"] == json!(true), last["detail"].as_str().expect("words").to_owned())
}

story!(a_test_asks_for_the_repository_with_the_credential_of_now, async |app| {
    let registry = private(Auth::Token { realm: None, expires_in: 300 }).await;
    let host = registry.host();
    registry.hand_tokens_to(TokenFor::Password("ci:s3cret"));
    app.put(of(&host))
        .json(json!({"credential": {"username": "ci", "password": "s3cret"}}))
        .await
        .expect(201);
    assert_eq!(tested(app, &host, "app").await, (true, "let in as `ci`".to_owned()));
    assert!(registry.log().contains(&"GET /v2/app/tags/list?n=1".to_owned()), "{:?}", registry.log());
    let (ok, said) = tested(app, &host, "other").await;
    assert!(ok && said.contains("no such repository"), "{said}");
    // A token server gives anybody a token that opens nothing. The first request has none yet.
    registry.fail("/tags/list", Fault::Status(403, vec![]), 2);
    let (ok, said) = tested(app, &host, "app").await;
    assert!(!ok && said.contains("403"), "{said}");
    assert_eq!(outcome(&pull(app, &registry, json!({})).await), ("succeeded", ""));
    // The password is another one now, and pulls still have a token.
    registry.hand_tokens_to(TokenFor::Password("ci:rotated"));
    let (ok, said) = tested(app, &host, "app").await;
    assert!(!ok && said.contains("refuses these credentials"), "{said}");
    for wrong in ["app:v1", "app@sha256:x", "App"] {
        let test = app.post(format!("{}/test", of(&host))).json(json!({"repository": wrong}));
        assert_eq!(test.await.expect(400).problem().expect("a problem")["field"], "repository", "{wrong}");
    }
});

story!(a_test_names_a_repository_as_pulls_do, async |app| {
    let registry = private(Auth::Password("ci:s3cret")).await;
    let hub = json!({"url": format!("http://{}", registry.host())});
    app.put(of("docker.io")).json(hub).await.expect(201);
    let (ok, _) = tested(app, "docker.io", "alpine").await;
    assert!(!ok);
    let asked = "GET /v2/library/alpine/tags/list?ns=docker.io&n=1".to_owned();
    assert!(registry.log().contains(&asked), "{:?}", registry.log());
});

story!(settings_that_cannot_be_opened_are_told_of_and_not_lost, async |app| {
    let registry = private(Auth::Basic).await;
    let host = registry.host();
    let settings = json!({"credential": {"token": "s3cret"}, "mirrors": [{"url": "https://m.io"}]});
    app.put(of(&host)).json(settings.clone()).await.expect(201);
    app.stop().await;
    // What a database has that is restored without its key.
    let key = app.data_dir().join("secret.key");
    let kept = fs::read(&key).expect("a key");
    fs::remove_file(&key).expect("a key");
    app.start_again().await;
    let sealed = app.get(of(&host)).await.expect(200);
    assert_eq!(sealed.json()["readable"], false);
    let failed = pull(app, &registry, json!({})).await;
    assert_eq!(outcome(&failed), ("failed", "invalid-argument"));
    let said = failed["error"]["detail"].as_str().expect("words");
    assert!(said.contains(&host) && said.contains("secret.key"), "{said}");
    let refused = app.put(of(&host)).json(json!({})).await.expect(409);
    assert_eq!(refused.problem_code(), "invalid-state");
    assert_eq!(orlop(app, &["registry", "login", &host, "--token"], "other\n").await.0, 5);
    app.stop().await;
    let other = fs::read(&key).expect("another key");
    fs::write(&key, kept).expect("the key is back");
    app.start_again().await;
    assert_eq!(app.get(of(&host)).await.expect(200).json()["mirrors"][0]["url"], "https://m.io");
    app.stop().await;
    fs::write(&key, other).expect("the other key");
    app.start_again().await;
    let replace = app.put(of(&host)).header("If-Match", sealed.header("etag"));
    assert_eq!(replace.json(json!({})).await.expect(200).json()["readable"], true);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_shown_as_they_are_at_that_moment() {
    let hosts = tempfile::tempdir().expect("a directory");
    let own = hosts.path().join("r.io");
    for directory in [&own, &hosts.path().join("empty.io"), &hosts.path().join("lost+found")] {
        fs::create_dir(directory).expect("a directory");
    }
    let write = |text: &str| fs::write(own.join("hosts.toml"), text).expect("a file");
    write("server = \"https://one.io\"");
    let app = TestApp::with(On::Sqlite, &[("hosts_dir", hosts.path().to_str().expect("a path"))]).await;
    let listed = async || {
        let items = app.get(REGISTRIES).await.expect(200).json()["items"].clone();
        items.as_array().expect("a list").clone()
    };
    let first = app.get(of("r.io")).await.expect(200);
    assert_eq!(app.get(of("r.io")).header("If-None-Match", first.header("etag")).await.status, 304);
    assert_eq!(listed().await, [app.get(of("empty.io")).await.expect(200).json(), first.json()]);

    write("server = \"https://two.io\"");
    let second = app.get(of("r.io")).header("If-None-Match", first.header("etag")).await.expect(200);
    assert_eq!(second.json()["url"], "https://two.io");

    write("header = \"Authorization: s3cret\"");
    let broken = app.get(of("r.io")).await.expect(200).json();
    assert_eq!((&broken["readable"], &broken["source"]), (&json!(false), &json!("file")));
    assert_eq!(listed().await[1], broken);
    let made = app.post(PULLS).json(json!({"ref": "r.io/app"})).await.expect(202);
    let failed = end(&app, made).await;
    assert_eq!(outcome(&failed), ("failed", "invalid-argument"));
    let said = failed["error"]["detail"].as_str().expect("words");
    assert!(said.contains("`r.io`") && said.contains("hosts.toml, line 1, column 10"), "{said}");
    app.get(of("other.io")).await.expect(404);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hosts_directory_that_is_not_there_is_no_start() {
    let data = tempfile::tempdir().expect("a directory");
    let said = TestApp::refused_with(data.path(), &[("hosts_dir", "/nonexistent/certs.d")]).await;
    assert!(said.contains("/nonexistent/certs.d"), "{said}");
}
