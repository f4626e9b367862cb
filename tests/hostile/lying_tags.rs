//! A tag that is one thing to HEAD and another to GET: one of them, whole and verified, or nothing.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::fixture_registry::{Fault, FixtureRegistry, INDEX, sha256};
use crate::support::pulling::{digests, failed, kept, pulled, stored};

/// A registry whose `app:v1` is the old image, and which has the new one by its digest alone.
struct Changing {
    registry: FixtureRegistry,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Changing {
    async fn start() -> Changing {
        let registry = FixtureRegistry::start().await;
        let old = registry.push_image("app", Some("v1"), "linux/amd64", &[b"old layer"]);
        let new = registry.push_image("app", None, "linux/amd64", &[b"new layer"]);
        Changing { registry, old, new }
    }

    fn name(&self) -> String {
        format!("{}/app:v1", self.registry.host())
    }

    /// What the next HEAD of the tag says.
    fn says(&self, headers: &[(&'static str, String)]) {
        self.registry.fail_method("HEAD", "/manifests/v1", Fault::Headers(headers.to_vec()), 1);
    }

    /// Method and last part of each request for a manifest.
    fn asked(&self) -> Vec<String> {
        let manifests = self.registry.log().into_iter().filter(|line| line.contains("/manifests/"));
        manifests.map(|line| line.replace("/v2/app/manifests/", "")).collect()
    }
}

/// The config that `push_image` makes for one layer.
fn config_of(layer: &[u8]) -> Vec<u8> {
    let config = json!({
        "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]},
    });
    config.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_head_names_is_what_is_pulled_whatever_the_tag_has_become() {
    let (app, tag) = (TestApp::start().await, Changing::start().await);
    let (digest, size) = (sha256(&tag.new), tag.new.len().to_string());
    tag.says(&[("Docker-Content-Digest", digest.clone()), ("Content-Length", size)]);
    let ended = pulled(&app, json!({"ref": tag.name(), "platforms": ["linux/amd64"]})).await;
    assert_eq!(ended["target"]["digest"], digest);
    assert_eq!(tag.asked(), ["HEAD v1".to_owned(), format!("GET {digest}")]);
    let new = digests(&[&tag.new, &config_of(b"new layer"), b"new layer"]);
    assert_eq!(kept(&app).await, (new, vec![(tag.name(), digest)]), "and nothing of the other");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_nothing_bears_out_is_no_image_and_leaves_nothing() {
    let (app, tag) = (TestApp::start().await, Changing::start().await);
    let size = tag.old.len().to_string();
    let absent = sha256(b"nobody has this");
    // What it names is there, and is something else than its name: the bytes of the tag.
    let named = sha256(b"another name");
    tag.registry.push_file(&format!("/v2/app/manifests/{named}"), &tag.old);
    for (name, headers, code) in [
        ("absent", vec![("Docker-Content-Digest", absent)], "upstream-not-found"),
        ("another", vec![("Docker-Content-Digest", named), ("Content-Length", size)], "upstream-mismatch"),
        ("longer", vec![("Content-Length", (tag.old.len() + 1).to_string())], "upstream-mismatch"),
        ("an index", vec![("Content-Type", INDEX.to_owned())], "upstream-bad-answer"),
        ("no digest", vec![("Docker-Content-Digest", "sha256:../../x".to_owned())], "upstream-bad-answer"),
        ("huge", vec![("Content-Length", "9223372036854775808".to_owned())], "upstream-bad-answer"),
    ] {
        tag.says(&headers);
        let (found, detail) = failed(&app, json!({"ref": tag.name(), "platforms": ["linux/amd64"]})).await;
        assert_eq!(found, code, "{name}: {detail}");
        assert_eq!(kept(&app).await, (vec![], vec![]), "{name}");
        assert!(!tag.asked().contains(&"GET v1".to_owned()), "what was named is asked for, and nothing else");
    }
    let blobs: Vec<String> = tag.registry.log().into_iter().filter(|line| line.contains("/blobs/")).collect();
    assert!(blobs.iter().all(|line| !line.contains(&sha256(b"old layer"))), "{blobs:?}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_is_got_without_head_is_held_to_its_own_word() {
    let (app, tag) = (TestApp::start().await, Changing::start().await);
    let asked = json!({"ref": tag.name(), "platforms": ["linux/amd64"]});
    let digest = |bytes: &[u8]| vec![("Docker-Content-Digest", sha256(bytes))];
    tag.registry.fail_method("HEAD", "/manifests/v1", Fault::Status(405, vec![]), usize::MAX);
    tag.registry.fail_method("GET", "/manifests/v1", Fault::Headers(digest(&tag.new)), 1);
    let (code, detail) = failed(&app, asked.clone()).await;
    assert_eq!(code, "upstream-mismatch", "{detail}");
    assert_eq!(kept(&app).await, (vec![], vec![]));
    // Where it says nothing, the bytes name themselves.
    tag.registry.fail_method("GET", "/manifests/v1", Fault::Without("Docker-Content-Digest"), 1);
    let ended = pulled(&app, asked).await;
    assert_eq!(ended["target"]["digest"], sha256(&tag.old));
    let old = digests(&[&tag.old, &config_of(b"old layer"), b"old layer"]);
    assert_eq!(kept(&app).await, (old, vec![(tag.name(), sha256(&tag.old))]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_changes_between_its_head_and_its_layers_mixes_nothing() {
    let (app, tag) = (TestApp::start().await, Changing::start().await);
    // The tag moves while the pull is under way: the new image's layer is served by the old one's name.
    tag.registry.push_file(&format!("/v2/app/blobs/{}", sha256(b"old layer")), b"new layer");
    let (code, _) = failed(&app, json!({"ref": tag.name(), "platforms": ["linux/amd64"]})).await;
    assert_eq!(code, "upstream-mismatch");
    let right = digests(&[&tag.old, &config_of(b"old layer")]);
    assert_eq!(stored(&app).await, right, "what was right may stay, and nothing else does");
    assert_eq!(app.get("/api/v1/images").await.expect(200).json()["items"], json!([]));
    app.stop().await;
}
