//! What a pull takes of an image: platforms, documents, referrers, foreign layers; and the plan of it.

use base64::Engine;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::app::{TestApp, story};
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{
    Auth, CONFIG, Fault, FixtureRegistry, INDEX, LAYER, MANIFEST, descriptor, sha256,
};
use crate::support::pulling::{PULLS, digests, failed, pulled, push, stored, with};

const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

async fn plan(app: &TestApp, asked: Value) -> Value {
    app.post(format!("{PULLS}?dry_run=true")).json(asked).await.expect(200).json()
}

fn has(ended: &Value, digest: &str) -> bool {
    ended["blobs"].as_array().expect("blobs").iter().any(|blob| blob["digest"] == digest)
}

fn blob<'v>(ended: &'v Value, digest: &str) -> &'v Value {
    let blobs = ended["blobs"].as_array().expect("blobs");
    blobs.iter().find(|blob| blob["digest"] == digest).unwrap_or_else(|| panic!("{digest} is not in {ended}"))
}

async fn labels(app: &TestApp, digest: &str) -> Value {
    app.get(format!("/api/v1/content/{digest}")).await.expect(200).json()["labels"].clone()
}

/// The config of an image that `push_image` makes of these layers.
fn config_of(manifest: &[u8]) -> String {
    let manifest: Value = serde_json::from_slice(manifest).expect("a manifest");
    manifest["config"]["digest"].as_str().expect("a digest").to_owned()
}

/// An image for two platforms with an attestation of the first, under `app:v1`.
struct Multi {
    registry: FixtureRegistry,
    index: String,
    amd: Vec<u8>,
    arm: Vec<u8>,
    attestation: Vec<u8>,
}

impl Multi {
    async fn push() -> Multi {
        let registry = FixtureRegistry::start().await;
        let amd = registry.push_image("app", None, "linux/amd64", &[b"amd layer", b"shared"]);
        let arm = registry.push_image("app", None, "linux/arm64", &[b"arm layer", b"shared"]);
        let attestation = registry.push_image("app", None, "unknown/unknown", &[b"attestation"]);
        let index = registry.push_index(
            "app",
            "v1",
            &[("linux/amd64", &amd), ("linux/arm64", &arm), ("unknown/unknown", &attestation)],
        );
        Multi { registry, index, amd, arm, attestation }
    }

    fn name(&self) -> String {
        format!("{}/app:v1", self.registry.host())
    }
}

story!(layers_are_those_of_the_platforms_asked_for, async |app| {
    let image = Multi::push().await;
    let one = pulled(app, json!({"ref": image.name(), "platforms": ["linux/arm64/v8"]})).await;
    assert_eq!(one["platforms"], json!(["linux/arm64"]));
    let mut expected = digests(&[&image.arm, b"arm layer", b"shared"]);
    expected.extend([image.index.clone(), config_of(&image.arm)]);
    expected.sort();
    assert_eq!(stored(app).await, expected);
    let two = pulled(app, json!({"ref": image.name(), "platforms": ["linux/amd64", "linux/arm64"]})).await;
    assert!(has(&two, &sha256(b"amd layer")) && has(&two, &sha256(b"arm layer")));
    assert!(!has(&two, &sha256(&image.attestation)), "nobody asked for it");
});

story!(a_platform_has_one_name_however_an_index_spells_it, async |app| {
    let registry = FixtureRegistry::start().await;
    let (arm, old) = (
        registry.push_image("app", None, "linux/arm64", &[b"arm"]),
        registry.push_image("app", None, "linux/arm", &[b"old"]),
    );
    let entry = |manifest: &[u8], architecture: &str, variant: &str| {
        let mut entry = descriptor(MANIFEST, manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture, "variant": variant});
        entry
    };
    let entries = [entry(&arm, "aarch64", "v8"), entry(&old, "arm", "7")];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    let digest = registry.push_document("app", Some("v1"), INDEX, index.as_bytes());
    let name = format!("{}/app:v1", registry.host());
    let (_, words) = failed(app, json!({"ref": name, "platforms": ["windows/amd64"]})).await;
    assert!(
        words.ends_with("there is no manifest for windows/amd64; there is linux/arm64, linux/arm/v7"),
        "{words}"
    );
    for asked in ["linux/arm64", "linux/arm64/v8", "linux/aarch64"] {
        let planned = plan(app, json!({"ref": name, "platforms": [asked]})).await;
        assert_eq!(planned["platforms"], json!(["linux/arm64"]), "{asked}");
    }
    let pull = pulled(app, json!({"ref": name, "platforms": ["linux/arm64/v8"]})).await;
    let image = format!("/api/v1/images/{}", pull["image_id"].as_str().expect("an id"));
    let children = app.get(format!("/api/v1/content/{digest}/children")).await.expect(200).json();
    let checked = app.get(format!("{image}/check")).await.expect(200).json();
    let manifest = app.get(format!("{image}/manifest?platform=linux/arm64/v8")).await.expect(200).json();
    let spelt = |platform: &Value| (platform["architecture"].clone(), platform["variant"].clone());
    for items in [&children["items"], &checked["items"]] {
        assert_eq!(spelt(&items[0]["platform"]), (json!("arm64"), Value::Null), "{items}");
        assert_eq!(spelt(&items[1]["platform"]), (json!("arm"), json!("v7")), "{items}");
    }
    assert_eq!(spelt(&manifest["platform"]), (json!("arm64"), Value::Null));
});

story!(all_platforms_are_all_that_the_index_names, async |app| {
    let image = Multi::push().await;
    let all = pulled(app, json!({"ref": image.name(), "all_platforms": true})).await;
    assert_eq!((&all["all_platforms"], &all["platforms"]), (&json!(true), &json!([])));
    let blobs: [&[u8]; 7] =
        [&image.amd, &image.arm, &image.attestation, b"amd layer", b"arm layer", b"shared", b"attestation"];
    let mut expected = digests(&blobs);
    expected.extend([&image.amd, &image.arm, &image.attestation].map(|manifest| config_of(manifest)));
    expected.push(image.index.clone());
    expected.sort();
    assert_eq!(stored(app).await, expected);
});

story!(metadata_comes_without_layers_of_the_platform_asked_for_or_of_all, async |app| {
    let image = Multi::push().await;
    let asked = json!({"ref": image.name(), "platforms": ["linux/amd64"], "metadata_only": true});
    let only = pulled(app, asked).await;
    let mut expected = vec![image.index.clone(), sha256(&image.amd), config_of(&image.amd)];
    expected.sort();
    assert_eq!(stored(app).await, expected);
    assert_eq!(only["progress"]["blobs_total"], 3);
    pulled(app, json!({"ref": image.name(), "all_platforms": true, "metadata_only": true})).await;
    let manifests = [&image.amd, &image.arm, &image.attestation];
    let mut expected: Vec<String> = manifests.iter().flat_map(|m| [sha256(m), config_of(m)]).collect();
    expected.push(image.index.clone());
    expected.sort();
    assert_eq!(stored(app).await, expected);
});

story!(all_metadata_comes_with_the_layers_of_the_platform_asked_for, async |app| {
    let image = Multi::push().await;
    let asked = json!({"ref": image.name(), "platforms": ["linux/amd64"], "all_metadata": true});
    pulled(app, asked).await;
    let manifests = [&image.amd, &image.arm, &image.attestation];
    let mut expected: Vec<String> = manifests.iter().flat_map(|m| [sha256(m), config_of(m)]).collect();
    expected.extend([image.index.clone(), sha256(b"amd layer"), sha256(b"shared")]);
    expected.sort();
    assert_eq!(stored(app).await, expected);
});

story!(what_was_here_is_told_where_it_can_be_had_as_well, async |app| {
    let registry = FixtureRegistry::start().await;
    let push =
        |repository: &str| registry.push_image(repository, Some("v1"), "linux/amd64", &[b"one", b"two"]);
    let manifest = push("team/app");
    for repository in ["app", "team/b"] {
        push(repository);
    }
    let source = format!("containerd.io/distribution.source.{}", registry.host());
    let name = |repository: &str| format!("{}/{repository}:v1", registry.host());
    pulled(app, json!({"ref": name("team/app"), "labels": {"team": "a"}})).await;
    let all = [sha256(&manifest), config_of(&manifest), sha256(b"one"), sha256(b"two")];
    // One has no room for another source, and says so by keeping what it has.
    let full = "x".repeat(4096 - source.len() - 2);
    let patch = json!({"labels": {&source: full}});
    app.patch(format!("/api/v1/content/{}", all[3])).merge_patch(patch).await.expect(200);
    for repository in ["team/b", "app", "team/b"] {
        pulled(app, json!({"ref": name(repository), "labels": {"team": "b", "new": "c"}})).await;
    }
    for digest in &all {
        let labels = labels(app, digest).await;
        let expected = if *digest == all[3] { &full } else { "app,team/app,team/b" };
        assert_eq!(labels[&source], expected, "{digest}");
        assert_eq!((&labels["team"], &labels["new"]), (&json!("b"), &json!("c")), "{digest}");
    }
    // Told once of each change, and not at all where there is none.
    let events =
        app.get("/api/v1/events?topic=/content/update&limit=1000").header("Accept", "application/json");
    let events = events.await.expect(200).json();
    let told = events["items"].as_array().expect("a list").iter();
    assert_eq!(told.filter(|event| event["event"]["digest"] == all[2]).count(), 2);
});

story!(what_contradicts_itself_is_refused_with_its_field, async |app| {
    for (asked, field) in [
        (json!({"ref": "a", "platforms": ["linux/amd64"], "all_platforms": true}), "all_platforms"),
        (json!({"ref": "a", "metadata_only": true, "convert_schema1": true}), "convert_schema1"),
        (json!({"ref": "a", "referrer_types": ["a/b"]}), "referrer_types"),
        (json!({"ref": "a", "referrers": true, "referrer_types": ["sbom"]}), "referrer_types"),
        (json!({"ref": "a", "platforms": ["beos"]}), "platforms"),
        (json!({"ref": "a", "platforms": ["unknown/unknown"]}), "platforms"),
        (json!({"ref": "a", "foreign_layers": "ask"}), "foreign_layers"),
    ] {
        for path in [PULLS, "/api/v1/pulls?dry_run=true"] {
            let refused = app.post(path).json(asked.clone()).await;
            assert_eq!((refused.status, &refused.json()["field"]), (400, &json!(field)), "{refused}");
        }
    }
    let refused = app.post(format!("{PULLS}?dry_run=perhaps")).json(json!({"ref": "a"})).await;
    assert_eq!(refused.to_string(), "400 invalid-argument");
});

story!(a_platform_that_is_missing_is_told_with_what_there_is, async |app| {
    let image = Multi::push().await;
    let asked = json!({"ref": image.name(), "platforms": ["linux/amd64", "linux/s390x"]});
    let (code, detail) = failed(app, asked.clone()).await;
    assert_eq!(code, "upstream-no-platform");
    assert!(
        detail.ends_with("there is no manifest for linux/s390x; there is linux/amd64, linux/arm64"),
        "{detail}"
    );
    assert!(stored(app).await.iter().all(|digest| *digest != sha256(b"amd layer")), "no layer was fetched");
    let refused = app.post(format!("{PULLS}?dry_run=true")).json(asked).await;
    assert_eq!(refused.to_string(), "424 upstream-no-platform");
    // A manifest alone, and one behind an index that does not say what it is for.
    image.registry.push_document("app", Some("arm"), MANIFEST, &image.arm);
    let silent = json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, &image.arm)]}).to_string();
    image.registry.push_document("app", Some("silent"), INDEX, silent.as_bytes());
    for tag in ["arm", "silent"] {
        let reference = format!("{}/app:{tag}", image.registry.host());
        let (code, detail) = failed(app, json!({"ref": reference, "platforms": ["linux/amd64"]})).await;
        assert_eq!(code, "upstream-no-platform");
        assert!(detail.ends_with("there is linux/arm64"), "{detail}");
    }
    assert!(stored(app).await.iter().all(|digest| *digest != sha256(b"arm layer")), "no layer was fetched");
});

story!(an_index_that_names_no_platform_is_looked_into, async |app| {
    let image = Multi::push().await;
    let inner = json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, &image.arm)]}).to_string();
    image.registry.push_document("app", None, INDEX, inner.as_bytes());
    let entries = [descriptor(MANIFEST, &image.amd), descriptor(INDEX, inner.as_bytes())];
    let outer = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    image.registry.push_document("app", Some("silent"), INDEX, outer.as_bytes());
    let reference = format!("{}/app:silent", image.registry.host());
    let ended = pulled(app, json!({"ref": reference, "platforms": ["linux/arm64"]})).await;
    assert!(has(&ended, &sha256(b"arm layer")) && !has(&ended, &sha256(b"amd layer")), "{ended}");
    let planned = plan(app, json!({"ref": reference, "platforms": ["linux/amd64"]})).await;
    assert_eq!(planned["platforms"], json!(["linux/amd64"]));
});

story!(nested_indexes_are_followed_within_bounds, async |app| {
    let image = Multi::push().await;
    let mut entry = descriptor(INDEX, &[]);
    let bytes = {
        let manifests = [descriptor(MANIFEST, &image.amd), descriptor(MANIFEST, &image.attestation)];
        json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes()
    };
    image.registry.push_document("app", None, INDEX, &bytes);
    entry["digest"] = sha256(&bytes).into();
    entry["size"] = bytes.len().into();
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let outer = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    image.registry.push_document("app", Some("nested"), INDEX, outer.as_bytes());
    let reference = format!("{}/app:nested", image.registry.host());
    let ended = pulled(app, json!({"ref": reference, "platforms": ["linux/amd64"]})).await;
    assert!(has(&ended, &sha256(b"amd layer")), "{ended}");
    // Many entries, in many indexes: each is within its own bound.
    let many = |seed: usize| {
        let entries: Vec<Value> =
            (0..1_000).map(|at| descriptor("a/b", format!("{seed} {at}").as_bytes())).collect();
        json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes()
    };
    let indexes: Vec<Vec<u8>> = (0..5).map(many).collect();
    let entries: Vec<Value> = indexes.iter().map(|bytes| descriptor(INDEX, bytes)).collect();
    indexes.iter().for_each(|bytes| drop(image.registry.push_document("app", None, INDEX, bytes)));
    let outer = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    image.registry.push_document("app", Some("many"), INDEX, outer.as_bytes());
    let reference = format!("{}/app:many", image.registry.host());
    let (code, detail) = failed(app, json!({"ref": reference, "all_platforms": true})).await;
    assert_eq!(code, "validation-failed");
    assert!(detail.contains("more than 4096"), "{detail}");
});

story!(documents_that_promise_what_cannot_be_are_refused, async |app| {
    let registry = FixtureRegistry::start().await;
    let config = json!({"os": "linux", "architecture": "amd64"}).to_string().into_bytes();
    for bytes in [&config[..], b"layer", b""] {
        registry.push_blob(bytes);
    }
    let (config, layer) = (descriptor(CONFIG, &config), descriptor(LAYER, b"layer"));
    let refused = [
        ("zero", vec![with(layer.clone(), "size", 0.into())], "validation-failed"),
        ("empty", vec![with(descriptor(LAYER, b""), "size", 7.into())], "validation-failed"),
        ("twice", vec![layer.clone(), with(layer.clone(), "size", 6.into())], "validation-failed"),
        ("short", vec![with(layer.clone(), "size", 4.into())], "upstream-mismatch"),
        ("negative", vec![with(layer.clone(), "size", (-1).into())], "upstream-bad-answer"),
        ("digest", vec![with(layer.clone(), "digest", "sha256:../x".into())], "upstream-bad-answer"),
        ("many", vec![layer.clone(); 513], "upstream-bad-answer"),
    ];
    for (tag, layers, code) in refused {
        let reference = push(&registry, tag, config.clone(), &layers);
        assert_eq!(failed(app, json!({"ref": reference})).await.0, code, "{tag}");
    }
    for (tag, text) in [
        ("both", json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []})),
        ("mistyped", json!({"schemaVersion": 2, "mediaType": INDEX, "config": config, "layers": []})),
        ("cased", json!({"schemaVersion": 2, "config": config, "layers": [], "Layers": [layer]})),
    ] {
        registry.push_document("app", Some(tag), MANIFEST, text.to_string().as_bytes());
        let reference = format!("{}/app:{tag}", registry.host());
        assert_eq!(failed(app, json!({"ref": reference})).await.0, "upstream-bad-answer", "{tag}");
    }
    let fine = push(&registry, "fine", config.clone(), &[layer.clone(), descriptor(LAYER, b""), layer]);
    let ended = pulled(app, json!({"ref": fine})).await;
    assert_eq!(ended["blobs"].as_array().expect("blobs").len(), 4, "each layer once: {ended}");
    assert_eq!(blob(&ended, &sha256(b""))["state"], "done");
    let fetched = registry.log().iter().filter(|line| line.contains(&sha256(b""))).count();
    assert_eq!(fetched, 0, "the empty blob is known");
});

story!(bytes_that_a_descriptor_carries_count_when_they_are_right, async |app| {
    let registry = FixtureRegistry::start().await;
    let base64 = |bytes: &[u8]| Value::from(base64::engine::general_purpose::STANDARD.encode(bytes));
    let right = with(descriptor(EMPTY, b"{}"), "data", base64(b"{}"));
    registry.push_blob(b"layer");
    let wrong = with(descriptor(LAYER, b"layer"), "data", base64(b"reyal"));
    let ended = pulled(app, json!({"ref": push(&registry, "v1", right, &[wrong])})).await;
    assert_eq!(blob(&ended, &sha256(b"{}"))["state"], "done");
    let asked = |name: &[u8]| registry.log().iter().filter(|line| line.contains(&sha256(name))).count();
    assert_eq!((asked(b"{}"), asked(b"layer")), (0, 1));
});

story!(artifacts_of_any_type_are_pulled_whatever_the_platform, async |app| {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"{}");
    for (tag, config, layer) in [
        ("oras", EMPTY, "application/vnd.example.text"),
        (
            "helm",
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ),
        ("wasm", "application/vnd.wasm.config.v0+json", "application/wasm"),
        ("cosign", CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json"),
    ] {
        registry.push_blob(tag.as_bytes());
        let layers = [descriptor(layer, tag.as_bytes())];
        let reference = push(&registry, tag, descriptor(config, b"{}"), &layers);
        let ended = pulled(app, json!({"ref": reference, "platforms": ["linux/riscv64"]})).await;
        assert_eq!(blob(&ended, &sha256(tag.as_bytes()))["state"], "done");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(config, b"{}"), "layers": layers,
        });
        // Several of them in an index that names no platform, beside a blob that is no manifest.
        let entries =
            [descriptor(MANIFEST, manifest.to_string().as_bytes()), descriptor("a/b", tag.as_bytes())];
        let index = json!({"schemaVersion": 2, "artifactType": "a/c", "manifests": entries}).to_string();
        registry.push_document("app", Some("index"), INDEX, index.as_bytes());
        let reference = format!("{}/app:index", registry.host());
        pulled(app, json!({"ref": reference, "platforms": ["linux/riscv64"]})).await;
    }
});

story!(a_config_of_any_bytes_is_read_as_one_and_the_digest_stays, async |app| {
    let registry = FixtureRegistry::start().await;
    let config = json!({"os": "linux", "architecture": "arm64"}).to_string().into_bytes();
    registry.push_blob(&config);
    registry.push_blob(b"layer");
    let layers = [descriptor(LAYER, b"layer")];
    let reference = push(&registry, "old", descriptor("application/octet-stream", &config), &layers);
    let asked = |platform: &str| json!({"ref": reference, "platforms": [platform]});
    assert_eq!(failed(app, asked("linux/amd64")).await.0, "upstream-no-platform");
    let ended = pulled(app, asked("linux/arm64")).await;
    assert_eq!(plan(app, asked("linux/arm64")).await["target"], ended["target"]);
    assert_eq!(blob(&ended, &sha256(&config))["media_type"], "application/octet-stream");
});

/// A manifest that refers to another one, pushed into `app`, and its entry in a list.
fn push_referrer(registry: &FixtureRegistry, subject: &[u8], artifact_type: &str) -> (Vec<u8>, Value) {
    registry.push_blob(b"{}");
    registry.push_blob(artifact_type.as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type,
        "config": descriptor(EMPTY, b"{}"), "layers": [descriptor("text/plain", artifact_type.as_bytes())],
        "subject": descriptor(MANIFEST, subject),
    });
    let manifest = manifest.to_string().into_bytes();
    registry.push_document("app", None, MANIFEST, &manifest);
    let entry = with(descriptor(MANIFEST, &manifest), "artifactType", artifact_type.into());
    (manifest, entry)
}

/// The label by which containerd keeps a referrer.
fn referrer_label(referrer: &[u8]) -> String {
    let digest = sha256(referrer);
    format!("containerd.io/gc.ref.content.referrer.sha256.{}", &digest[7..19])
}

story!(referrers_come_with_what_they_refer_to_and_are_kept_by_it, async |app| {
    let image = Multi::push().await;
    let registry = &image.registry;
    let (signature, signature_entry) =
        push_referrer(registry, &image.amd, "application/vnd.example.signature");
    let (sbom, sbom_entry) = push_referrer(registry, &image.amd, "application/spdx+json");
    let (deep, deep_entry) = push_referrer(registry, &sbom, "application/vnd.example.signature");
    registry.list_referrers("app", &sha256(&image.amd), &[vec![signature_entry], vec![sbom_entry]]);
    registry.list_referrers("app", &sha256(&sbom), &[vec![deep_entry]]);
    let asked = json!({"ref": image.name(), "platforms": ["linux/amd64"], "referrers": true});
    let ended = pulled(app, asked).await;
    for bytes in [&signature[..], &sbom, &deep, b"application/spdx+json"] {
        assert_eq!(blob(&ended, &sha256(bytes))["state"], "done");
    }
    let record = |digest: String| app.get(format!("/api/v1/content/{digest}"));
    let labels = record(sha256(&image.amd)).await.expect(200).json()["labels"].clone();
    assert_eq!(labels[referrer_label(&signature)], sha256(&signature));
    assert_eq!(labels[referrer_label(&sbom)], sha256(&sbom));
    let labels = record(sha256(&sbom)).await.expect(200).json()["labels"].clone();
    assert_eq!(labels[referrer_label(&deep)], sha256(&deep));
    // The subject is what keeps it: the pull's lease is gone.
    let refused = app.delete(format!("/api/v1/content/{}", sha256(&sbom))).await;
    assert_eq!(refused.to_string(), "409 content-in-use");
    assert_eq!(refused.json()["holders"][0]["id"], sha256(&image.amd));
    // Again, and there is nothing left to do.
    let again = json!({"ref": image.name(), "platforms": ["linux/amd64"], "referrers": true});
    let again = pulled(app, again).await;
    assert_eq!(again["progress"]["bytes_network"], 0);
});

story!(a_referrer_that_finds_no_room_is_left_out_and_the_pull_goes_on, async |app| {
    let image = Multi::push().await;
    let kinds = (0..5).map(|number| format!("application/vnd.example.n{number}"));
    let pushed: Vec<_> = kinds.map(|kind| push_referrer(&image.registry, &image.amd, &kind)).collect();
    let entries = pushed.iter().map(|(_, entry)| entry.clone()).collect();
    image.registry.list_referrers("app", &sha256(&image.amd), &[entries]);
    let labels: serde_json::Map<_, _> =
        (0..60).map(|number| (format!("team-{number}"), "x".into())).collect();
    let asked = json!({
        "ref": image.name(), "platforms": ["linux/amd64"], "referrers": true, "labels": labels,
    });
    pulled(app, asked).await;
    let record = app.get(format!("/api/v1/content/{}", sha256(&image.amd))).await.expect(200).json();
    let labels = record["labels"].as_object().expect("labels");
    let joined = pushed.iter().filter(|(referrer, _)| labels.contains_key(&referrer_label(referrer)));
    // Beside the client's own: where it came from, and its config.
    assert_eq!((labels.len(), joined.count()), (64, 2), "{labels:?}");
});

story!(referrers_may_be_chosen_by_their_type, async |app| {
    let image = Multi::push().await;
    let (signature, signature_entry) =
        push_referrer(&image.registry, &image.amd, "application/vnd.example.signature");
    let (sbom, sbom_entry) = push_referrer(&image.registry, &image.amd, "application/spdx+json");
    // The registry filters nothing.
    image.registry.list_referrers("app", &sha256(&image.amd), &[vec![signature_entry, sbom_entry]]);
    let ended = pulled(
        app,
        json!({
            "ref": image.name(), "platforms": ["linux/amd64"], "referrers": true,
            "referrer_types": ["application/spdx+json"],
        }),
    )
    .await;
    assert!(has(&ended, &sha256(&sbom)) && !has(&ended, &sha256(&signature)), "{ended}");
    let asked = format!("/v2/app/referrers/{}?artifactType=application%2Fspdx%2Bjson", sha256(&image.amd));
    assert!(image.registry.log().contains(&format!("GET {asked}")), "{:?}", image.registry.log());
});

story!(a_registry_without_the_api_lists_referrers_under_a_tag, async |app| {
    let image = Multi::push().await;
    let (signature, entry) = push_referrer(&image.registry, &image.amd, "application/vnd.example.signature");
    let (stranger, stranger_entry) =
        push_referrer(&image.registry, &image.arm, "application/vnd.example.stranger");
    let gone = with(descriptor(MANIFEST, b"gone"), "artifactType", "a/b".into());
    let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry, stranger_entry, gone]});
    let tag = sha256(&image.amd).replace(':', "-");
    image.registry.push_document("app", Some(&tag), INDEX, list.to_string().as_bytes());
    let ended =
        pulled(app, json!({"ref": image.name(), "platforms": ["linux/amd64"], "referrers": true})).await;
    assert_eq!(blob(&ended, &sha256(&signature))["state"], "done");
    // What was listed and is not there, and what refers to something else, stay away without harm.
    assert_eq!(blob(&ended, &sha256(b"gone"))["state"], "skipped");
    assert!(blob(&ended, &sha256(b"gone"))["reason"].is_string());
    let labels = app.get(format!("/api/v1/content/{}", sha256(&image.amd))).await.json()["labels"].clone();
    assert_eq!(
        (&labels[referrer_label(&stranger)], &labels[referrer_label(b"gone")]),
        (&Value::Null, &Value::Null)
    );
});

story!(a_list_of_referrers_has_bounds_and_stays_where_it_is, async |app| {
    let image = Multi::push().await;
    let asked = json!({"ref": image.name(), "platforms": ["linux/amd64"], "referrers": true});
    let many: Vec<Value> = (0..33).map(|at| descriptor(MANIFEST, format!("{at}").as_bytes())).collect();
    image.registry.list_referrers("app", &sha256(&image.amd), &[many]);
    let (code, detail) = failed(app, asked.clone()).await;
    assert_eq!(code, "validation-failed");
    assert!(detail.contains("at most 32"), "{detail}");
    image.registry.list_referrers("app", &sha256(&image.amd), &vec![Vec::new(); 9]);
    assert_eq!(failed(app, asked.clone()).await.0, "upstream-bad-answer");
    for elsewhere in ["http://169.254.169.254/v2/x?page=1", "/v2/other/referrers/x?page=1", "ftp://x", "?"] {
        let link = vec![("Link", format!("<{elsewhere}>; rel=\"next\""))];
        image.registry.fail("/referrers/", Fault::Headers(link), 1);
        assert_eq!(failed(app, asked.clone()).await.0, "upstream-bad-answer", "{elsewhere}");
        image.registry.forgive();
    }
});

story!(foreign_layers_are_fetched_where_that_is_asked_for, async |app| {
    let registry = FixtureRegistry::start().await;
    let stranger = FixtureRegistry::start().await;
    registry.require(Auth::Token { realm: None, expires_in: 60 });
    let config = json!({"os": "linux", "architecture": "amd64"}).to_string().into_bytes();
    registry.push_blob(&config);
    let place = stranger.push_file("/files/layer?sig=secret", b"foreign");
    let denied = stranger.push_file("/files/denied", b"foreign");
    stranger.fail("/files/denied", Fault::Status(401, vec![("WWW-Authenticate", "Basic realm=x".into())]), 9);
    let at = |urls: Value| with(descriptor(FOREIGN, b"foreign"), "urls", urls);
    let place = place.split('?').next().expect("a URL").to_owned();
    let _ = stranger.push_file("/files/layer", b"foreign");
    let reference = push(
        &registry,
        "v1",
        descriptor(CONFIG, &config),
        &[at(json!([denied, format!("{place}?sig=secret")]))],
    );
    let skipped = pulled(app, json!({"ref": reference})).await;
    assert_eq!(blob(&skipped, &sha256(b"foreign"))["state"], "skipped");
    assert!(
        blob(&skipped, &sha256(b"foreign"))["reason"]
            .as_str()
            .is_some_and(|why| why.contains("foreign_layers"))
    );
    assert_eq!(stranger.log(), [""; 0]);
    assert_eq!(plan(app, json!({"ref": reference})).await["blobs_skipped"], 1);
    let fetched = pulled(app, json!({"ref": reference, "foreign_layers": "fetch"})).await;
    assert_eq!(blob(&fetched, &sha256(b"foreign"))["state"], "done");
    let log = registry.log();
    assert!(
        log.contains(&format!("GET /v2/app/blobs/{}", sha256(b"foreign"))),
        "the registry comes first: {log:?}"
    );
    assert_eq!(stranger.log(), ["GET /files/denied", "GET /files/layer?sig=secret"]);
    assert!(stranger.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
});

story!(a_foreign_layer_is_what_its_digest_says_or_nothing, async |app| {
    let registry = FixtureRegistry::start().await;
    let config = json!({"os": "linux", "architecture": "amd64"}).to_string().into_bytes();
    registry.push_blob(&config);
    let other = registry.push_file("/files/other", b"for.ign");
    let with_secret = other.replace("http://", "http://user:secret@");
    let address = "the address 169.254.169.254 is never contacted";
    for (tag, url, code, words) in [
        ("other", other.as_str(), "upstream-mismatch", "digest"),
        ("nowhere", "http://127.0.0.1:1/x?sig=secret", "upstream-unreachable", "no connection"),
        // By HTTPS: that plain HTTP is refused says nothing of the address.
        ("metadata", "https://169.254.169.254/latest", "upstream-forbidden-address", address),
        ("decimal", "https://2852039166/latest", "upstream-forbidden-address", address),
        ("plain", "http://example.invalid/x", "upstream-forbidden-address", "plain HTTP"),
        ("scheme", "ftp://example.invalid/x", "upstream-forbidden-address", "over HTTP only"),
        ("user", with_secret.as_str(), "upstream-bad-answer", "not the URL of a host"),
        ("none", "not a url", "upstream-bad-answer", "not the URL of a host"),
    ] {
        let layer = with(descriptor(FOREIGN, b"foreign"), "urls", json!([url]));
        let reference = push(&registry, tag, descriptor(CONFIG, &config), &[layer]);
        let (found, detail) = failed(app, json!({"ref": reference, "foreign_layers": "fetch"})).await;
        assert_eq!(found, code, "{tag}: {detail}");
        assert!(detail.contains(words), "{tag}: {detail}");
        assert!(!detail.contains("secret"), "{detail}");
    }
    let reference = push(&registry, "v1", descriptor(CONFIG, &config), &[descriptor(FOREIGN, b"foreign")]);
    let (code, _) = failed(app, json!({"ref": reference, "foreign_layers": "fetch"})).await;
    assert_eq!(code, "upstream-not-found");
});

story!(a_place_that_has_something_else_is_passed_over, async |app| {
    let (registry, stranger) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    let config = json!({"os": "linux", "architecture": "amd64"}).to_string().into_bytes();
    registry.push_blob(&config);
    let longer = stranger.push_file("/files/longer", b"foreign, and more of it");
    let packed = stranger.push_file("/files/packed", b"foreign");
    stranger.fail("/files/packed", Fault::Headers(vec![("Content-Encoding", "gzip".to_owned())]), 9);
    let right = stranger.push_file("/files/right", b"foreign");
    let layer = with(descriptor(FOREIGN, b"foreign"), "urls", json!([longer, packed, right]));
    let reference = push(&registry, "v1", descriptor(CONFIG, &config), &[layer]);
    pulled(app, json!({"ref": reference, "foreign_layers": "fetch"})).await;
    assert_eq!(stranger.log(), ["GET /files/longer", "GET /files/packed", "GET /files/right"]);
    let layer = with(descriptor(FOREIGN, b"foreign"), "urls", json!([longer]));
    let wrong = push(&registry, "v2", descriptor(CONFIG, &config), &[layer]);
    assert_eq!(stored(app).await.len(), 3);
    let digest = sha256(b"foreign");
    app.delete(format!("/api/v1/content/{digest}?force=true")).await.expect(204);
    let asked = json!({"ref": wrong, "foreign_layers": "fetch"});
    assert_eq!(failed(app, asked).await.0, "upstream-mismatch");
});

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("memory takes all bytes");
    encoder.finish().expect("memory takes all bytes")
}

/// A manifest of schema 1 of two layers and one that is empty, without its layers.
fn schema1(base: &[u8], top: &[u8]) -> Value {
    let history = [
        json!({"id": "3", "os": "linux", "architecture": "amd64", "config": {"Cmd": ["sh"]}, "throwaway": true}),
        json!({"id": "2", "parent": "1", "created": "2015-01-02T00:00:00Z"}),
        json!({"id": "1", "created": "2015-01-01T00:00:00Z", "container_config": {"Cmd": ["add", "base"]}}),
    ];
    let history: Vec<Value> =
        history.iter().map(|entry| json!({"v1Compatibility": entry.to_string()})).collect();
    let layers: Vec<Value> =
        [b"never fetched", top, base].iter().map(|bytes| json!({"blobSum": sha256(bytes)})).collect();
    json!({"schemaVersion": 1, "name": "app", "tag": "v1", "fsLayers": layers, "history": history})
}

const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

story!(a_manifest_of_schema_1_is_converted_where_that_is_asked_for, async |app| {
    let registry = FixtureRegistry::start().await;
    let (base, top) = (gzip(b"the base's tar"), b"the top's tar, as it is".to_vec());
    registry.push_blob(&base);
    registry.push_blob(&top);
    let original = schema1(&base, &top).to_string();
    let digest = registry.push_document("app", Some("v1"), SCHEMA1, original.as_bytes());
    let reference = format!("{}/app:v1", registry.host());
    let (code, detail) = failed(app, json!({"ref": reference})).await;
    assert_eq!(code, "validation-failed");
    assert!(detail.contains("`convert_schema1`"), "{detail}");
    let refused = app.post(format!("{PULLS}?dry_run=true")).json(json!({"ref": reference})).await;
    assert_eq!(refused.to_string(), "422 validation-failed");

    let asked = json!({"ref": reference, "platforms": ["linux/amd64"], "convert_schema1": true});
    let planned = plan(app, asked.clone()).await;
    assert_eq!((&planned["converts"], &planned["target"]["digest"]), (&json!(true), &json!(digest)));
    assert_eq!(planned["bytes_to_fetch"], base.len() + top.len());
    let ended = pulled(app, asked.clone()).await;
    assert_eq!(ended["converted_from"], digest);
    let target = ended["target"]["digest"].as_str().expect("a digest").to_owned();
    let read =
        async |digest: &str| app.get(format!("/api/v1/content/{digest}/data")).await.expect(200).json();
    let manifest = read(&target).await;
    let layers = [
        descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &base),
        descriptor("application/vnd.oci.image.layer.v1.tar", &top),
    ];
    assert_eq!((&manifest["mediaType"], &manifest["layers"]), (&json!(MANIFEST), &json!(layers)));
    let config = read(manifest["config"]["digest"].as_str().expect("a digest")).await;
    assert_eq!(config["rootfs"]["diff_ids"], json!([sha256(b"the base's tar"), sha256(&top)]));
    assert_eq!(config["history"][0]["created_by"], "add base");
    assert_eq!(config["history"][2]["empty_layer"], true);
    let label = |record: &Value| record["labels"]["dev.orlop.converted-from"].clone();
    let record = app.get(format!("/api/v1/content/{target}")).await.expect(200).json();
    let image =
        app.get(format!("/api/v1/images/{}", ended["image_id"].as_str().expect("an id"))).await.json();
    assert_eq!((label(&record), label(&image)), (json!(digest), json!(digest)));
    // The same manifest gives the same image.
    let again = pulled(app, asked).await;
    assert_eq!((&again["target"], &again["progress"]["bytes_network"]), (&ended["target"], &json!(0)));
    let wrong = json!({"ref": reference, "platforms": ["linux/arm64"], "convert_schema1": true});
    assert_eq!(failed(app, wrong).await.0, "upstream-no-platform");
});

story!(layers_of_schema_1_are_known_by_their_bytes, async |app| {
    let registry = FixtureRegistry::start().await;
    let mut zstd = async_compression::tokio::write::ZstdEncoder::new(Vec::new());
    zstd.write_all(b"the base's tar").await.expect("memory takes all bytes");
    zstd.shutdown().await.expect("memory takes all bytes");
    let (base, xz) = (zstd.into_inner(), b"\xfd7zXZ\0and more".to_vec());
    let top = gzip(b"the top's tar");
    [&base, &top, &xz].into_iter().for_each(|layer| drop(registry.push_blob(layer)));
    registry.push_document("app", Some("v1"), SCHEMA1, schema1(&base, &top).to_string().as_bytes());
    let asked = json!({"ref": format!("{}/app:v1", registry.host()), "convert_schema1": true});
    let ended = pulled(app, asked).await;
    let read = async |digest: &Value| {
        let digest = digest.as_str().expect("a digest");
        app.get(format!("/api/v1/content/{digest}/data")).await.expect(200).json()
    };
    let manifest = read(&ended["target"]["digest"]).await;
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    let config = read(&manifest["config"]["digest"]).await;
    let diff_ids = [sha256(b"the base's tar"), sha256(b"the top's tar")];
    assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids));
    // Of what is packed otherwise nobody here knows the tar.
    registry.push_document("app", Some("v2"), SCHEMA1, schema1(&xz, &top).to_string().as_bytes());
    let asked = json!({"ref": format!("{}/app:v2", registry.host()), "convert_schema1": true});
    let (code, detail) = failed(app, asked).await;
    assert_eq!(code, "validation-failed");
    assert!(detail.contains("xz"), "{detail}");
});

story!(a_signed_manifest_is_known_by_what_it_signs, async |app| {
    let registry = FixtureRegistry::start().await;
    let layer = gzip(b"a tar");
    registry.push_blob(&layer);
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let payload = schema1(&layer, &layer).to_string();
    let (head, tail) = payload.split_at(payload.len() - 1);
    let protected = json!({"formatLength": head.len(), "formatTail": base64(tail.as_bytes())}).to_string();
    let signatures = json!([{"protected": base64(protected.as_bytes()), "signature": "x", "header": {}}]);
    let signed = format!(r#"{head},"signatures":{signatures}}}"#);
    registry.push_document("app", Some("v1"), SCHEMA1_SIGNED, signed.as_bytes());
    let asked = json!({"ref": format!("{}/app:v1", registry.host()), "convert_schema1": true});
    let named = |digest: String| Fault::Headers(vec![("Docker-Content-Digest", digest)]);
    registry.fail("/manifests/v1", named(sha256(payload.as_bytes())), 2);
    let ended = pulled(app, asked.clone()).await;
    assert_eq!(ended["converted_from"], sha256(payload.as_bytes()));
    registry.forgive();
    registry.fail("/manifests/v1", named(sha256(b"another")), 2);
    assert_eq!(failed(app, asked).await.0, "upstream-mismatch");
});

story!(a_layer_that_cannot_be_unpacked_converts_nothing, async |app| {
    let registry = FixtureRegistry::start().await;
    let (whole, mut damaged) = (gzip(b"a tar"), gzip(&b"another tar".repeat(100)));
    damaged.truncate(damaged.len() - 9);
    registry.push_blob(&whole);
    registry.push_blob(&damaged);
    let pushed = |tag: &str, text: Value| {
        registry.push_document("app", Some(tag), SCHEMA1, text.to_string().as_bytes());
        json!({"ref": format!("{}/app:{tag}", registry.host()), "convert_schema1": true})
    };
    let cut = pushed("cut", schema1(&whole, &damaged));
    assert_eq!(failed(app, cut).await.0, "validation-failed");
    let gone = pushed("gone", schema1(&whole, b"nobody has it"));
    assert_eq!(failed(app, gone).await.0, "upstream-not-found");
    let both = with(schema1(&whole, &whole), "layers", json!([]));
    assert_eq!(failed(app, pushed("both", both)).await.0, "upstream-bad-answer");
    assert_eq!(app.get("/api/v1/images").await.json()["items"], json!([]));
});

story!(a_pull_knows_what_it_takes_after_a_restart, async |app| {
    let image = Multi::push().await;
    image.registry.fail(&sha256(b"amd layer"), Fault::StallAfter(3), 1);
    let asked = json!({
        "ref": image.name(), "all_platforms": true, "referrers": true, "referrer_types": ["a/b"],
        "foreign_layers": "fetch",
    });
    let made = app.post(PULLS).json(asked.clone()).await.expect(202);
    loop {
        let shown = app.get(made.place()).await.expect(200).json();
        let blobs = shown["blobs"].as_array().expect("blobs");
        if blobs.iter().any(|blob| blob["digest"] == sha256(b"amd layer") && blob["offset"] == 3) {
            break;
        }
        assert!(shown["finished_at"].is_null(), "{shown}");
        tokio::task::yield_now().await;
    }
    app.stop().await;
    app.start_again().await;
    let ended = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    for (key, value) in asked.as_object().expect("an object") {
        assert_eq!(ended[key], *value);
    }
    assert!(stored(app).await.contains(&sha256(b"attestation")));
});

story!(a_plan_says_what_a_pull_would_take_and_leaves_no_trace, async |app| {
    let image = Multi::push().await;
    let asked = json!({"ref": image.name(), "platforms": ["linux/amd64"]});
    let planned = plan(app, asked.clone()).await;
    assert_eq!((&planned["kind"], &planned["platforms"]), (&json!("plan"), &json!(["linux/amd64"])));
    assert_eq!(planned["target"]["digest"], image.index);
    assert_eq!(
        (planned["bytes_total"].clone(), planned["blobs_total"].clone()),
        (planned["bytes_to_fetch"].clone(), json!(5))
    );
    assert_eq!(stored(app).await, [""; 0]);
    assert_eq!(app.get(PULLS).await.json()["items"], json!([]));
    assert_eq!(app.get("/api/v1/leases").await.json()["items"], json!([]));
    let fetched: Vec<String> = image.registry.log();
    assert!(!fetched.iter().any(|line| line.contains("/blobs/")), "{fetched:?}");

    app.put_blob(b"amd layer").await;
    let other = format!("/api/v1/content/{}/data", sha256(b"shared"));
    app.put(&other).namespace("other").body("shared").await.expect(201);
    let planned = plan(app, asked.clone()).await;
    let sizes = (&planned["bytes_present"], &planned["bytes_shared"]);
    assert_eq!(sizes, (&json!("amd layer".len()), &json!("shared".len())));
    assert_eq!(blob(&planned, &sha256(b"amd layer"))["present"], true);
    assert_eq!(blob(&planned, &sha256(b"shared"))["shared"], true);
    // It keeps its word.
    let ended = pulled(app, asked.clone()).await;
    let names = |value: &Value| -> Vec<String> {
        let blobs = value["blobs"].as_array().expect("blobs").iter();
        blobs.map(|blob| format!("{} {}", blob["role"], blob["digest"])).collect()
    };
    assert_eq!(names(&planned), names(&ended));
    assert_eq!(planned["bytes_to_fetch"], ended["progress"]["bytes_network"]);
    let after = plan(app, asked).await;
    assert_eq!((&after["bytes_to_fetch"], &after["bytes_present"]), (&json!(0), &after["bytes_total"]));
});

story!(a_plan_counts_what_a_pull_has_begun, async |app| {
    let image = Multi::push().await;
    let layer = sha256(b"amd layer");
    image.registry.fail(&layer, Fault::StallAfter(4), 1);
    let asked = json!({"ref": image.name(), "platforms": ["linux/amd64"]});
    let all = plan(app, asked.clone()).await["bytes_total"].as_u64().expect("a number");
    let made = app.post(PULLS).json(asked.clone()).await.expect(202);
    let shown = async || {
        let shown = app.get(made.place()).await.expect(200).json();
        let blobs = shown["blobs"].as_array().expect("blobs");
        let others = blobs.iter().filter(|blob| blob["digest"] != layer).all(|blob| blob["state"] == "done");
        (others && blobs.iter().any(|blob| blob["digest"] == layer && blob["offset"] == 4)).then_some(())
    };
    eventually("all is here but the rest of a layer", shown).await;
    app.delete(made.place()).await.expect(202);
    app.get(format!("{}?wait=60s", made.place())).await.expect(200);
    let planned = plan(app, asked.clone()).await;
    let part = blob(&planned, &layer);
    assert_eq!((&part["present"], &part["offset"]), (&json!(false), &json!(4)));
    assert_eq!((&planned["bytes_to_fetch"], &planned["blobs_to_fetch"]), (&json!(5), &json!(1)));
    assert_eq!((&planned["bytes_present"], &planned["bytes_total"]), (&json!(all - 5), &json!(all)));
    assert_eq!(pulled(app, asked).await["progress"]["bytes_network"], planned["bytes_to_fetch"]);
});

story!(a_plan_that_cannot_be_made_says_why_by_its_status, async |app| {
    let image = Multi::push().await;
    let host = image.registry.host();
    let planned =
        async |asked: Value| app.post(format!("{PULLS}?dry_run=true")).json(asked).await.to_string();
    assert_eq!(planned(json!({"ref": format!("{host}/app:none")})).await, "424 upstream-not-found");
    assert_eq!(planned(json!({"ref": "127.0.0.1:1/app:v1"})).await, "502 upstream-unreachable");
    let text = json!({"schemaVersion": 2, "manifests": [], "layers": []}).to_string();
    image.registry.push_document("app", Some("both"), MANIFEST, text.as_bytes());
    assert_eq!(planned(json!({"ref": format!("{host}/app:both")})).await, "502 upstream-bad-answer");
    image.registry.fail("/manifests/", Fault::WrongBytes, 9);
    assert_eq!(planned(json!({"ref": image.name()})).await, "502 upstream-mismatch");
    image.registry.forgive();
    let later = Fault::Status(429, vec![("Retry-After", "300".to_owned())]);
    image.registry.fail("/manifests/", later, 1);
    assert_eq!(
        planned(json!({"ref": image.name()})).await,
        "502 upstream-rate-limited",
        "nobody waits for that"
    );
    image.registry.require(Auth::Basic);
    assert_eq!(planned(json!({"ref": image.name()})).await, "424 upstream-denied");
});

story!(pulls_that_take_something_else_are_not_equal, async |app| {
    // Takes connections and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let reference = format!("{}/app:v1", mute.local_addr().expect("an address"));
    let ask = async |more: Value| {
        let mut asked = json!({"ref": reference});
        for (key, value) in more.as_object().expect("an object") {
            asked[key] = value.clone();
        }
        let answer = app.post(PULLS).json(asked).await;
        (answer.status, answer.json()["id"].as_str().expect("an id").to_owned())
    };
    let (_, first) = ask(json!({})).await;
    assert_eq!(ask(json!({"foreign_layers": "skip", "referrers": false})).await, (200, first.clone()));
    for other in [
        json!({"all_platforms": true}),
        json!({"metadata_only": true}),
        json!({"all_metadata": true}),
        json!({"referrers": true}),
        json!({"referrers": true, "referrer_types": ["a/b"]}),
        json!({"foreign_layers": "fetch"}),
        json!({"convert_schema1": true}),
    ] {
        let (status, id) = ask(other.clone()).await;
        assert_eq!(status, 202, "{other}");
        assert_eq!(ask(other.clone()).await, (200, id.clone()));
        let shown = app.get(format!("{PULLS}/{id}")).await.expect(200).json();
        for (key, value) in other.as_object().expect("an object") {
            assert_eq!(shown[key], *value, "{other}");
        }
    }
});
