//! Descriptors that promise what cannot be: sizes and digests of no blob, wherever a document has a descriptor. Refused
//! before anything is asked for by such a name.

use base64::Engine;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::fixture_registry::{FixtureRegistry, INDEX, LAYER, MANIFEST, descriptor, sha256};
use crate::support::pulling::{digests, failed, kept, pulled, stored, with};

/// Stands in a document for the number that `serde_json` would not write.
const HOLE: &str = "\"the hole\"";

/// Where a document has a descriptor.
const PLACES: [&str; 6] =
    ["config", "layer", "manifest", "index in an index", "subject", "subject of an index"];

/// What the registry has in order: an image of one layer for one platform.
struct Whole {
    registry: FixtureRegistry,
    manifest: Vec<u8>,
    config: Value,
    layer: Value,
}

impl Whole {
    async fn start() -> Whole {
        let registry = FixtureRegistry::start().await;
        let manifest = registry.push_image("app", None, "linux/amd64", &[b"layer"]);
        let config = serde_json::from_slice::<Value>(&manifest).expect("a manifest")["config"].clone();
        Whole { registry, manifest, config, layer: descriptor(LAYER, b"layer") }
    }

    /// The descriptor that is right for a place.
    fn right(&self, place: &str) -> Value {
        match place {
            "config" => self.config.clone(),
            "layer" => self.layer.clone(),
            "index in an index" => with(self.entry(), "mediaType", INDEX.into()),
            _ => self.entry(),
        }
    }

    fn entry(&self) -> Value {
        let platform = json!({"os": "linux", "architecture": "amd64"});
        with(descriptor(MANIFEST, &self.manifest), "platform", platform)
    }

    /// A document with this descriptor in that place, and its type.
    fn document(&self, place: &str, bad: Value) -> (&'static str, Value) {
        let image = |config: &Value, layer: &Value| json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let index = |entry: &Value| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        match place {
            "config" => (MANIFEST, image(&bad, &self.layer)),
            "layer" => (MANIFEST, image(&self.config, &bad)),
            "subject" => (MANIFEST, with(image(&self.config, &self.layer), "subject", bad)),
            "subject of an index" => (INDEX, with(index(&self.entry()), "subject", bad)),
            _ => (INDEX, index(&bad)),
        }
    }

    /// Pushes the document under the tag `bad`, with `text` in place of [`HOLE`]; its reference.
    fn push(&self, place: &str, bad: Value, text: &str) -> (String, Vec<u8>) {
        let (media_type, document) = self.document(place, bad);
        let bytes = document.to_string().replace(HOLE, text).into_bytes();
        self.registry.push_document("app", Some("bad"), media_type, &bytes);
        (format!("{}/app:bad", self.registry.host()), bytes)
    }
}

/// Digests that are none. The first letters of those that could be a path are enough to find them in a request.
fn bad_digests() -> Vec<(String, &'static str)> {
    let hex = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c";
    vec![
        ("sha256:../../x".to_owned(), ".."),
        (format!("sha256:{}/..", &hex[3..]), "/.."),
        ("../../../../etc/passwd".to_owned(), "passwd"),
        ("sha256:%2e%2e%2f%2e%2e%2fx".to_owned(), "%2"),
        (format!("sha256:{}", hex.to_uppercase()), "B5BB9D"),
        (format!("SHA256:{hex}"), "SHA256"),
        (format!("sha256:{}", &hex[1..]), "5bb9d8"),
        (format!("sha256:{hex}0"), "b5bb9d"),
        (format!("sha256:{hex}\n"), "b5bb9d"),
        (format!("sha256:{}?x=y", &hex[4..]), "x=y"),
        (format!("sha512:{hex}"), "b5bb9d"),
        ("sha256:".to_owned(), "/blobs/sha256: "),
        ("md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(), "md5"),
        (String::new(), "/blobs/ "),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_that_is_none_is_asked_for_nowhere_and_its_document_is_not_kept() {
    let (app, whole) = (TestApp::start().await, Whole::start().await);
    for place in PLACES {
        for (bad, trace) in bad_digests() {
            let before = whole.registry.log().len();
            let (reference, _) =
                whole.push(place, with(whole.right(place), "digest", bad.clone().into()), "");
            let asked = json!({"ref": reference, "platforms": ["linux/amd64"], "referrers": true});
            let (code, detail) = failed(&app, asked).await;
            assert_eq!(code, "upstream-bad-answer", "{place} {bad:?}: {detail}");
            assert!(!detail.contains('\n'), "{detail:?}");
            let requests = whole.registry.log().split_off(before);
            assert_eq!(requests.len(), 2, "the tag, and the document that it names: {requests:?}");
            assert!(requests.iter().all(|line| !format!("{line} ").contains(trace)), "{requests:?}");
        }
    }
    assert_eq!(kept(&app).await, (vec![], vec![]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_size_that_no_blob_can_have_is_refused_wherever_it_stands() {
    let (app, whole) = (TestApp::start().await, Whole::start().await);
    let sizes = ["9223372036854775808", "18446744073709551616", "-1", "1.5", "1e3", "\"5\"", "null"];
    for place in PLACES {
        for size in sizes {
            let before = whole.registry.log().len();
            let hole = serde_json::from_str(HOLE).expect("a text");
            let (reference, _) = whole.push(place, with(whole.right(place), "size", hole), size);
            let (code, detail) = failed(&app, json!({"ref": reference, "platforms": ["linux/amd64"]})).await;
            assert_eq!(code, "upstream-bad-answer", "{place} {size}: {detail}");
            assert_eq!(whole.registry.log().len() - before, 2, "{place} {size}");
        }
    }
    assert_eq!(kept(&app).await, (vec![], vec![]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_size_of_nothing_with_bytes_beside_it_is_no_blob() {
    let (app, whole) = (TestApp::start().await, Whole::start().await);
    let base64 = |bytes: &[u8]| Value::from(base64::engine::general_purpose::STANDARD.encode(bytes));
    for place in ["config", "layer", "manifest", "index in an index"] {
        let right = whole.right(place);
        let name = right["digest"].as_str().expect("a digest").to_owned();
        let empty = with(with(right, "size", 0.into()), "data", base64(b"layer"));
        let before = whole.registry.log().len();
        let (reference, bytes) = whole.push(place, empty, "");
        let (code, detail) = failed(&app, json!({"ref": reference, "platforms": ["linux/amd64"]})).await;
        assert_eq!(code, "validation-failed", "{place}: {detail}");
        assert!(detail.contains("promised with 0 bytes, which cannot be"), "{place}: {detail}");
        let requests = whole.registry.log().split_off(before);
        assert!(requests.iter().all(|line| !line.contains(&name)), "{place}: {requests:?}");
        // The document is what it is named, and says what cannot be: it may stay, and its child may not be there.
        let kept = stored(&app).await;
        assert!(kept.contains(&sha256(&bytes)) && !kept.contains(&name), "{place}: {kept:?}");
    }
    assert_eq!(app.get("/api/v1/images").await.expect(200).json()["items"], json!([]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_size_that_can_be_said_is_too_large_and_not_begun() {
    let (app, whole) = (TestApp::start().await, Whole::start().await);
    for (place, code) in [("config", "too-large"), ("layer", "too-large"), ("manifest", "upstream-mismatch")]
    {
        let right = whole.right(place);
        let name = right["digest"].as_str().expect("a digest").to_owned();
        let before = whole.registry.sent(&format!("/blobs/{name}"));
        let (reference, _) = whole.push(place, with(right, "size", i64::MAX.into()), "");
        let (found, detail) = failed(&app, json!({"ref": reference, "platforms": ["linux/amd64"]})).await;
        assert_eq!(found, code, "{place}: {detail}");
        assert_eq!(whole.registry.sent(&format!("/blobs/{name}")), before, "no byte of it is asked for");
        assert!(!stored(&app).await.contains(&name), "{place}");
    }
    assert_eq!(app.get("/api/v1/ingests").await.expect(200).json()["items"], json!([]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_promised_twice_is_fetched_once_and_what_has_no_bytes_not_at_all() {
    let (app, whole) = (TestApp::start().await, Whole::start().await);
    let (empty, layer) = (descriptor(LAYER, b""), &whole.layer);
    let layers = [layer, &empty, layer, layer, &empty].map(Clone::clone);
    let image = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": whole.config, "layers": layers});
    let image = image.to_string().into_bytes();
    whole.registry.push_document("app", None, MANIFEST, &image);
    let platform = |name: &str| json!({"os": "linux", "architecture": name});
    let entry = |name: &str| with(descriptor(MANIFEST, &image), "platform", platform(name));
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
                       "manifests": [entry("amd64"), entry("amd64"), entry("arm64")]});
    let index = index.to_string().into_bytes();
    whole.registry.push_document("app", Some("v1"), INDEX, &index);
    let name = format!("{}/app:v1", whole.registry.host());
    let ended = pulled(&app, json!({"ref": name, "all_platforms": true})).await;
    assert_eq!(ended["blobs"].as_array().expect("blobs").len(), 5, "{ended}");
    let config = whole.config["digest"].as_str().expect("a digest");
    let mut requests: Vec<String> = whole.registry.log().into_iter().skip(1).collect();
    requests.sort();
    let mut expected = vec![
        format!("GET /v2/app/manifests/{}", sha256(&index)),
        format!("GET /v2/app/manifests/{}", sha256(&image)),
        format!("GET /v2/app/blobs/{config}"),
        format!("GET /v2/app/blobs/{}", sha256(b"layer")),
    ];
    expected.sort();
    assert_eq!(requests, expected);
    assert_eq!(whole.registry.sent(&sha256(b"layer")), 5);
    let mut content = digests(&[&index, &image, b"layer", b""]);
    content.push(config.to_owned());
    content.sort();
    assert_eq!(kept(&app).await, (content, vec![(name, sha256(&index))]));
    // An image of nothing but the empty layer is one as well.
    let nothing =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": whole.config, "layers": [empty]});
    whole.registry.push_document("app", Some("empty"), MANIFEST, nothing.to_string().as_bytes());
    let asked = json!({"ref": format!("{}/app:empty", whole.registry.host()), "platforms": ["linux/amd64"]});
    pulled(&app, asked).await;
    assert!(whole.registry.log().iter().all(|line| !line.contains(&sha256(b""))));
    let read = app.get(format!("/api/v1/content/{}/data", sha256(b""))).await.expect(200);
    assert_eq!(read.body.len(), 0);
    app.stop().await;
}
