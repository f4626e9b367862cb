//! A data directory that is opened with the key of another one: what was sealed stays shut, is told of once, and can be
//! given anew.

use std::fs;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::fixture_registry::{Auth, Fault, FixtureRegistry};
use crate::support::request::Answer;
use crate::support::served::Served;

const PULLS: &str = "/api/v1/pulls";

/// Two data directories, of which the second gave the first its key.
struct Directories(tempfile::TempDir);

impl Directories {
    fn make() -> Directories {
        Directories(tempfile::tempdir().expect("a directory"))
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn start(&self, log: &str) -> Served {
        Served::start_with_log(&self.data(), &self.0.path().join(log), &[])
    }

    /// Lines of a log that tell of secrets of `name`.
    fn told_of(&self, log: &str, name: &str) -> usize {
        let text = fs::read_to_string(self.0.path().join(log)).expect("a log");
        let told = format!("The secrets of {name} were sealed in another data directory");
        text.lines().filter(|line| line.contains(&told)).count()
    }

    fn take_key_of_another(&self) {
        let other = self.0.path().join("other");
        assert!(Served::start(&other, &[]).terminate().success());
        let key = |of: &Path| of.join("secret.key");
        assert_ne!(fs::read(key(&other)).expect("a key"), fs::read(key(&self.data())).expect("a key"));
        fs::copy(key(&other), key(&self.data())).expect("the key of another directory");
    }
}

/// A registry with `app:v1`, for whoever has the password.
async fn private() -> FixtureRegistry {
    let registry = FixtureRegistry::start().await;
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    registry.require(Auth::Password("ci:s3cret"));
    registry
}

fn credential() -> Value {
    json!({"username": "ci", "password": "s3cret"})
}

fn of(host: &str) -> String {
    format!("/api/v1/registries/{host}")
}

fn asked(registry: &FixtureRegistry) -> Value {
    json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"]})
}

async fn begin(served: &Served, asked: Value) -> Answer {
    served.request(Method::POST, PULLS).json(asked).await.expect(202)
}

async fn end(served: &Served, begun: &Answer) -> Value {
    served.request(Method::GET, format!("{}?wait=60s", begun.place())).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_another_key_are_told_of_once_used_for_nothing_and_set_anew() {
    let (registry, directories) = (private().await, Directories::make());
    let host = registry.host();
    let served = directories.start("before.log");
    for name in [host.as_str(), "r.example.com"] {
        let settings = json!({"credential": credential()});
        served.request(Method::PUT, of(name)).json(settings).await.expect(201);
    }
    assert!(served.terminate().success());
    directories.take_key_of_another();

    let served = directories.start("after.log");
    for _ in 0..3 {
        let listed = served.request(Method::GET, "/api/v1/registries").await.expect(200).json();
        let items = listed["items"].as_array().expect("a list");
        assert!(items.len() == 2 && items.iter().all(|item| item["readable"] == false), "{listed}");
    }
    let failed = end(&served, &begin(&served, asked(&registry)).await).await;
    assert_eq!(failed["error"]["code"], "invalid-argument", "{failed}");
    assert!(failed["error"]["detail"].as_str().expect("words").contains("secret.key"), "{failed}");
    assert_eq!(registry.log(), [""; 0], "nobody is asked without what was configured");
    let settings = json!({"credential": credential()});
    served.request(Method::PUT, of(&host)).json(settings.clone()).await.expect(409);
    let tag = served.request(Method::GET, of(&host)).await.expect(200).header("etag").to_owned();
    let anew = served.request(Method::PUT, of(&host)).header("If-Match", &tag).json(settings);
    assert_eq!(anew.await.expect(200).json()["readable"], true);
    let pulled = end(&served, &begin(&served, asked(&registry)).await).await;
    assert_eq!(pulled["state"], "succeeded", "{pulled}");
    assert!(served.terminate().success());
    for name in [host.as_str(), "r.example.com"] {
        assert_eq!(directories.told_of("before.log", name), 0);
        assert_eq!(directories.told_of("after.log", name), 1, "once, however often it is read");
    }

    let served = directories.start("again.log");
    let shown = served.request(Method::GET, of(&host)).await.expect(200).json();
    assert_eq!((&shown["readable"], &shown["credential"]["username"]), (&json!(true), &json!("ci")));
    served.request(Method::DELETE, of("r.example.com")).await.expect(204);
    assert!(served.terminate().success());
    assert_eq!(directories.told_of("again.log", &host), 0);
    assert_eq!(directories.told_of("again.log", "r.example.com"), 1, "and once after each start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_whose_credential_was_sealed_by_another_key_asks_for_it_again() {
    let (registry, directories) = (private().await, Directories::make());
    registry.fail("/blobs/", Fault::Silent, usize::MAX);
    let served = directories.start("before.log");
    let mut own = asked(&registry);
    own["auth"] = credential();
    let begun = begin(&served, own).await;
    eventually("it asks for a blob", async || {
        registry.log().iter().any(|line| line.contains("/blobs/")).then_some(())
    })
    .await;
    assert!(served.terminate().success());
    directories.take_key_of_another();
    registry.forgive();
    let before = registry.log().len();

    let served = directories.start("after.log");
    let failed = end(&served, &begun).await;
    assert_eq!(failed["error"]["code"], "invalid-argument", "{failed}");
    let detail = failed["error"]["detail"].as_str().expect("words");
    assert!(detail.contains("sealed in another data directory: give it again"), "{detail}");
    assert_eq!(registry.log().len(), before, "nobody is asked without it");
    let retry = format!("{}/retry", begun.place());
    let refused = served.request(Method::POST, retry.clone()).await.expect(400);
    assert_eq!(refused.problem().expect("a problem")["field"], "auth");
    served.request(Method::POST, retry).json(json!({"auth": credential()})).await.expect(202);
    let pulled = end(&served, &begun).await;
    assert_eq!(pulled["state"], "succeeded", "{pulled}");
    let id = pulled["id"].as_str().expect("an id");
    assert!(served.terminate().success());
    assert_eq!(directories.told_of("after.log", id), 1);
}
