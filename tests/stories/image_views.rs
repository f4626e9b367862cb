//! What is behind an image's name: the manifest for a platform, its history, what is here of it, and what it shares.

use serde_json::{Value, json};

use crate::support::app::{TestApp, story};
use crate::support::fixture_registry::FixtureRegistry;
use crate::support::image::{Blob, Image, Kind, Layer};
use crate::support::stored::{document, silent};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A platform that no machine of ours is.
const OTHER: &str = "linux/s390x";

async fn layer(text: &str) -> Layer {
    Layer::new(Kind::Oci, &[("file", text.as_bytes())]).await
}

async fn image(platform: &str, layers: &[&str]) -> Image {
    let mut made = Vec::new();
    for text in layers {
        made.push(layer(text).await);
    }
    Image::new(Kind::Oci, platform, made)
}

fn index(manifests: &[Value]) -> Blob {
    document(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
}

/// Stores all blobs of the images, then names this one.
async fn named(app: &TestApp, images: &[&Image], top: &Blob) -> String {
    for image in images {
        app.put_blobs(&image.blobs).await;
    }
    app.put_blobs([top]).await;
    app.name_blob("a", top).await
}

async fn digest_for(app: &TestApp, path: &str, platform: &str) -> String {
    let found = app.get(format!("{path}/manifest?platform={platform}")).await;
    match found.status {
        200 => found.json()["manifest"]["digest"].as_str().expect("a digest").to_owned(),
        _ => found.to_string(),
    }
}

story!(a_platform_finds_its_manifest_config_and_layers, async |app| {
    let images =
        [image("linux/amd64", &["base", "amd"]).await, image("linux/arm64/v8", &["base", "arm"]).await];
    let whole = Image::index(Kind::Oci, images.to_vec());
    let path = app.put_image("a", &whole).await;
    let found = app.get(format!("{path}/manifest?platform=linux/arm64")).await.expect(200).json();
    assert_eq!(found["manifest"]["digest"], images[1].top().digest);
    assert_eq!(found["platform"]["variant"], Value::Null, "v8 is what arm64 means");
    let layers: Vec<_> =
        found["layers"].as_array().expect("layers").iter().map(|layer| &layer["digest"]).collect();
    assert_eq!(layers, [&images[1].blobs[0].digest, &images[1].blobs[1].digest]);
    assert_eq!((&found["config"]["role"], &found["config"]["present"]), (&json!("config"), &json!(true)));
    // An arm machine runs what a newer one does not refuse; an amd64 of any level runs the plain one.
    assert_eq!(digest_for(app, &path, "linux/amd64/v3").await, images[0].top().digest);
    let refused = app.get(format!("{path}/manifest?platform={OTHER}")).await;
    assert_eq!(refused.to_string(), "404 no-platform");
    assert_eq!(refused.json()["available"], json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(
        app.get(format!("{path}/manifest?platform=a/b/c/d")).await.to_string(),
        "400 invalid-argument"
    );
});

story!(the_platform_is_looked_for_in_nested_indexes_and_in_configs, async |app| {
    let (amd, arm, z) =
        (image("linux/amd64", &["1"]).await, image("linux/arm64", &["2"]).await, image(OTHER, &["3"]).await);
    // Nobody says what the two inner ones are for, but their configs.
    let inner = index(&[silent(amd.top()), silent(arm.top())]);
    app.put_blobs([&inner]).await;
    let top = index(&[silent(&inner), z.top().descriptor()]);
    let path = named(app, &[&amd, &arm, &z], &top).await;
    assert_eq!(digest_for(app, &path, "linux/amd64").await, amd.top().digest);
    assert_eq!(digest_for(app, &path, "linux/arm64").await, arm.top().digest);
    assert_eq!(digest_for(app, &path, OTHER).await, z.top().digest);
    assert_eq!(digest_for(app, &path, "linux/ppc64le").await, "404 no-platform");
});

story!(an_image_of_one_manifest_is_answered_whatever_it_is_for, async |app| {
    let only = image(OTHER, &["x"]).await;
    let path = app.put_image("only", &only).await;
    let found = app.get(format!("{path}/manifest")).await.expect(200).json();
    assert_eq!(found["manifest"]["digest"], only.top().digest);
    assert_eq!(found["platform"]["architecture"], "s390x");
    // Asked for by name it must fit.
    assert_eq!(digest_for(app, &path, "linux/ppc64le").await, "404 no-platform");
    // Attestations are no second manifest.
    let attestation = image("unknown/unknown", &["in-toto"]).await;
    let top = index(&[only.top().descriptor(), attestation.top().descriptor()]);
    let path = named(app, &[&attestation], &top).await;
    let found = app.get(format!("{path}/manifest")).await.expect(200).json();
    assert_eq!(found["manifest"]["digest"], only.top().digest);
});

story!(what_is_not_here_is_named_and_what_is_no_image_is_refused, async |app| {
    let (amd, arm) = (image("linux/amd64", &["1"]).await, image("linux/arm64", &["2"]).await);
    let top = index(&[amd.top().descriptor(), arm.top().descriptor()]);
    let path = named(app, &[&amd], &top).await;
    let refused = app.get(format!("{path}/manifest?platform=linux/arm64")).await;
    assert_eq!(refused.to_string(), "409 image-incomplete");
    assert_eq!(refused.json()["missing"], json!([arm.top().digest]));
    let unnamed = index(&[silent(&arm.blobs[2])]);
    let lost = app.name_blob("lost", &unnamed).await;
    let refused = app.get(format!("{lost}/manifest")).await;
    assert_eq!(
        (refused.to_string(), &refused.json()["missing"]),
        ("409 image-incomplete".into(), &json!([unnamed.digest]))
    );
    let text = Blob::new("text/plain", b"no manifest".to_vec());
    app.put_blobs([&text]).await;
    let text = app.name_blob("text", &text).await;
    for view in ["manifest", "history", "check", "usage", "archive"] {
        assert_eq!(app.get(format!("{text}/{view}")).await.to_string(), "422 not-a-manifest", "{view}");
        assert_eq!(app.get(format!("{text}/{view}")).namespace("other").await.to_string(), "404 not-found");
    }
});

story!(indexes_without_an_end_are_refused, async |app| {
    let mut top = image("linux/amd64", &["1"]).await.blobs;
    app.put_blobs(&top).await;
    let mut last = top.pop().expect("a manifest");
    for _ in 0..6 {
        last = index(&[silent(&last)]);
        app.put_blobs([&last]).await;
    }
    let path = app.name_blob("deep", &last).await;
    for view in ["manifest", "history", "check", "usage", "archive"] {
        assert_eq!(app.get(format!("{path}/{view}")).await.to_string(), "422 validation-failed", "{view}");
    }
    // Many manifests of many layers each: more than is looked through.
    let digest = |at: usize| format!("sha256:{at:064x}");
    let mut manifests = Vec::new();
    for at in 0..34 {
        let layers: Vec<Value> = (0..500)
            .map(|layer| json!({"mediaType": "a/b", "digest": digest(at * 1_000 + layer), "size": 1}))
            .collect();
        let config = json!({"mediaType": "a/b", "digest": digest(at), "size": 1});
        let manifest = document(MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": layers}));
        app.put_blobs([&manifest]).await;
        manifests.push(silent(&manifest));
    }
    let wide = index(&manifests);
    app.put_blobs([&wide]).await;
    let path = app.name_blob("wide", &wide).await;
    let refused = app.get(format!("{path}/usage")).await;
    assert_eq!(refused.to_string(), "422 validation-failed");
    assert!(refused.json()["detail"].as_str().expect("text").contains("16384 blobs"));
});

/// A manifest with this config over these layers.
fn built(config: &Value, layers: &[Layer]) -> Vec<Blob> {
    let config = document(CONFIG, config);
    let layers: Vec<Blob> = layers.iter().map(|layer| layer.blob.clone()).collect();
    let descriptors: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
    let manifest = json!({"schemaVersion": 2, "config": config.descriptor(), "layers": descriptors});
    let manifest = document(MANIFEST, &manifest);
    layers.into_iter().chain([config, manifest]).collect()
}

async fn history(app: &TestApp, name: &str, blobs: &[Blob]) -> Value {
    app.put_blobs(blobs).await;
    let path = app.name_blob(name, blobs.last().expect("a manifest")).await;
    app.get(format!("{path}/history")).await.expect(200).json()
}

story!(history_joins_each_step_with_its_layer, async |app| {
    let layers = [layer("1").await, layer("2").await];
    let diff_ids = [&layers[0].diff_id, &layers[1].diff_id];
    let config = json!({
        "os": "linux", "architecture": "amd64", "author": "us", "created": "2026-01-02T03:04:05Z",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [
            {"created": "2026-01-01T00:00:00Z", "created_by": "ADD base", "comment": "a"},
            {"created_by": "ENV A=b", "empty_layer": true},
            {"created_by": "RUN make"},
        ],
    });
    let told = history(app, "a", &built(&config, &layers)).await;
    assert_eq!((&told["author"], &told["findings"]), (&json!("us"), &json!([])));
    let steps = told["steps"].as_array().expect("steps");
    let of = |at: usize| (&steps[at]["created_by"], &steps[at]["layer"]["digest"], &steps[at]["diff_id"]);
    assert_eq!(of(0), (&json!("ADD base"), &json!(layers[0].blob.digest), &json!(layers[0].diff_id)));
    assert_eq!(of(1), (&json!("ENV A=b"), &Value::Null, &Value::Null));
    assert_eq!(of(2), (&json!("RUN make"), &json!(layers[1].blob.digest), &json!(layers[1].diff_id)));
    assert_eq!(steps[0]["layer"]["present"], true);
});

story!(a_history_that_does_not_fit_the_layers_is_told_plainly, async |app| {
    let layers = [layer("1").await, layer("2").await, layer("3").await];
    let few = json!({
        "rootfs": {"diff_ids": [layers[0].diff_id]}, "history": [{"created_by": "one"}],
    });
    let told = history(app, "few", &built(&few, &layers)).await;
    assert_eq!(told["steps"].as_array().map(Vec::len), Some(3));
    assert_eq!(told["steps"][2]["layer"]["digest"], layers[2].blob.digest);
    assert_eq!(
        told["findings"],
        json!([
            "the config lists 1 diff IDs, the manifest 3 layers",
            "the history has 1 steps with a layer, the manifest 3 layers",
        ])
    );
    let many = json!({"history": vec![json!({"created_by": "x"}); 5]});
    let told = history(app, "many", &built(&many, &layers[..1])).await;
    assert_eq!(told["steps"].as_array().map(Vec::len), Some(5));
    assert_eq!(told["findings"].as_array().map(Vec::len), Some(2));
    // No history at all is no contradiction.
    let none = json!({"rootfs": {"diff_ids": [layers[0].diff_id]}});
    assert_eq!(history(app, "none", &built(&none, &layers[..1])).await["findings"], json!([]));
});

story!(a_config_that_is_not_here_or_none_has_no_history, async |app| {
    let layers = [layer("1").await];
    let blobs = built(&json!({"history": "long"}), &layers);
    app.put_blobs(&blobs[2..]).await;
    let path = app.name_blob("a", &blobs[2]).await;
    let refused = app.get(format!("{path}/history")).await;
    assert_eq!(
        (refused.to_string(), &refused.json()["missing"]),
        ("409 image-incomplete".into(), &json!([blobs[1].digest]))
    );
    app.put_blobs(&blobs).await;
    assert_eq!(app.get(format!("{path}/history")).await.to_string(), "422 validation-failed");
    assert_eq!(app.get(format!("{path}/manifest")).await.status, 200);
});

fn bytes(blobs: &[Blob]) -> usize {
    blobs.iter().map(|blob| blob.bytes.len()).sum()
}

story!(usage_tells_what_is_shared_and_with_whom, async |app| {
    let [one, two] =
        [image("linux/amd64", &["base", "one"]).await, image("linux/amd64", &["base", "two"]).await];
    let path = app.put_image("one", &one).await;
    let alone = app.get(format!("{path}/usage")).await.expect(200).json();
    let all = bytes(&one.blobs);
    assert_eq!((&alone["total_bytes"], &alone["unique_bytes"]), (&json!(all), &json!(all)));
    assert_eq!((&alone["shared_with"], &alone["total_final"]), (&json!([]), &json!(true)));

    let whole = Image::index(Kind::Oci, vec![two.clone()]);
    app.put_image("two", &whole).await;
    app.put_image("unrelated", &image("linux/amd64", &["other"]).await).await;
    let base = one.blobs[0].bytes.len();
    let usage = app.get(format!("{path}/usage")).await.json();
    assert_eq!((&usage["unique_bytes"], &usage["shared_bytes"]), (&json!(all - base), &json!(base)));
    assert_eq!((&usage["unique_blobs"], &usage["shared_blobs"]), (&json!(3), &json!(1)));
    assert_eq!(usage["shared_with"][0]["name"], "two");
    assert_eq!((&usage["shared_with"][0]["bytes"], &usage["shared_with_count"]), (&json!(base), &json!(1)));

    // A second name for the same shares all of it; what another namespace has is none of our business.
    app.post("/api/v1/images").json(json!({"name": "again", "from_image": "one"})).await.expect(201);
    app.post("/api/v1/images")
        .namespace("elsewhere")
        .json(json!({"name": "x", "target": {"digest": one.top().digest, "media_type": MANIFEST, "size": 1}}))
        .await
        .expect(201);
    let usage = app.get(format!("{path}/usage")).await.json();
    let names: Vec<_> =
        usage["shared_with"].as_array().expect("sharers").iter().map(|s| &s["name"]).collect();
    assert_eq!((names, &usage["unique_bytes"]), (vec![&json!("again"), &json!("two")], &json!(0)));
    assert_eq!(usage["shared_bytes"], all);
});

story!(usage_of_a_part_counts_what_is_here, async |app| {
    let (amd, arm) = (image("linux/amd64", &["1"]).await, image("linux/arm64", &["2"]).await);
    let top = index(&[amd.top().descriptor(), arm.top().descriptor()]);
    let path = named(app, &[&amd], &top).await;
    let usage = app.get(format!("{path}/usage")).await.expect(200).json();
    let here = bytes(&amd.blobs) + top.bytes.len();
    assert_eq!((&usage["present_bytes"], &usage["total_final"]), (&json!(here), &json!(false)));
    assert_eq!(usage["total_bytes"], here + arm.top().bytes.len());
    assert_eq!(usage["unique_bytes"], here);
});

story!(the_sharers_named_are_the_hundred_that_share_the_most, async |app| {
    let base = image("linux/amd64", &["base"]).await;
    let path = app.put_image("base", &base).await;
    for at in 0..105 {
        app.post("/api/v1/images")
            .json(json!({"name": format!("tag-{at:03}"), "from_image": "base"}))
            .await
            .expect(201);
    }
    let usage = app.get(format!("{path}/usage")).await.expect(200).json();
    assert_eq!(usage["shared_with"].as_array().map(Vec::len), Some(100));
    assert_eq!(usage["shared_with_count"], 105);
});

story!(check_tells_for_each_platform_what_is_here_and_what_is_not, async |app| {
    let [amd, arm, z] = [
        image("linux/amd64", &["base", "1"]).await,
        image("linux/arm64", &["base", "2"]).await,
        image(OTHER, &["3"]).await,
    ];
    let top = index(&[amd.top().descriptor(), arm.top().descriptor(), z.top().descriptor()]);
    app.put_blobs(&arm.blobs[2..]).await;
    let path = named(app, &[&amd], &top).await;
    let check = app.get(format!("{path}/check")).await.expect(200).json();
    assert_eq!(check["state"], "incomplete");
    let states: Vec<_> =
        check["items"].as_array().expect("items").iter().map(|item| &item["state"]).collect();
    assert_eq!(states, ["complete", "incomplete", "unavailable"]);
    let arm_item = &check["items"][1];
    assert_eq!((&arm_item["required_blobs"], &arm_item["present_blobs"]), (&json!(4), &json!(3)));
    assert_eq!(arm_item["missing"][0]["digest"], arm.blobs[1].digest);
    assert_eq!(arm_item["present"][0]["digest"], arm.top().digest);
    // The index, four blobs of the first, two of the second and one missing, one missing of the third.
    assert_eq!((&check["required_blobs"], &check["present_blobs"]), (&json!(9), &json!(7)));

    let one = app.get(format!("{path}/check?platform=linux/amd64")).await.expect(200).json();
    assert_eq!((&one["state"], one["items"].as_array().map(Vec::len)), (&json!("complete"), Some(1)));
    let one = app.get(format!("{path}/check?platform={OTHER}")).await.expect(200).json();
    assert_eq!(one["state"], "unavailable");
    assert_eq!(app.get(format!("{path}/check?platform=linux/ppc64le")).await.to_string(), "404 no-platform");

    app.put_blobs(arm.blobs.iter().chain(&z.blobs)).await;
    assert_eq!(app.get(format!("{path}/check")).await.json()["state"], "complete");
});

story!(check_says_what_is_unavailable_or_broken, async |app| {
    let amd = image("linux/amd64", &["1"]).await;
    let path = app.name_blob("nothing", amd.top()).await;
    for path in [
        path.clone(),
        format!("{path}?platform=linux/amd64").replace('?', "/check?").replace("/check/check", "/check"),
    ] {
        let path = if path.contains("/check") { path } else { format!("{path}/check") };
        let check = app.get(&path).await.expect(200).json();
        assert_eq!(check["state"], "unavailable", "{path}");
        assert_eq!((&check["required_blobs"], &check["present_blobs"]), (&json!(1), &json!(0)));
    }
    // Said to be a manifest, and is none.
    let broken = Blob { media_type: MANIFEST, ..Blob::new("text/plain", b"broken".to_vec()) };
    let top = index(&[amd.top().descriptor(), broken.descriptor()]);
    app.put_blobs([&broken]).await;
    let path = named(app, &[&amd], &top).await;
    let check = app.get(format!("{path}/check")).await.expect(200).json();
    assert_eq!((&check["state"], &check["items"][1]["state"]), (&json!("incomplete"), &json!("invalid")));
    assert!(check["items"][1]["reason"].as_str().expect("a reason").contains("not a well-formed manifest"));
});

story!(what_a_pull_skips_an_image_is_complete_without, async |app| {
    const RESTRICTED: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let base = layer("base").await;
    let foreign = Blob::new(RESTRICTED, b"of restricted distribution".to_vec());
    let config = document(CONFIG, &json!({"os": "windows", "architecture": "amd64"}));
    let layers = [foreign.descriptor(), base.blob.descriptor()];
    let manifest = document(
        MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": layers}),
    );
    app.put_blobs([&base.blob, &config, &manifest]).await;
    let path = app.name_blob("docker.io/library/a:1", &manifest).await;
    let check = app.get(format!("{path}/check")).await.expect(200).json();
    let item = &check["items"][0];
    assert_eq!((&check["state"], &item["state"]), (&json!("complete"), &json!("complete")));
    assert_eq!((&check["required_blobs"], &check["present_blobs"]), (&json!(3), &json!(3)));
    assert_eq!((&item["missing"], &item["skipped"][0]["digest"]), (&json!([]), &json!(foreign.digest)));
    // What is not here is not in its archive either, and Docker, which would look for it, is told nothing.
    for query in ["", "?platform=windows/amd64", "?skip_missing=true"] {
        let archive = app.get(format!("{path}/archive{query}")).await.expect(200).body;
        let has = |text: &str| archive.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(
            !has(&foreign.digest.replace("sha256:", "blobs/sha256/")) && !has("manifest.json"),
            "{query}"
        );
        app.post("/api/v1/images/import").namespace("other").body(&archive).await.expect(201);
    }
    // Once it is here it is a part like all others.
    app.put_blobs([&foreign]).await;
    let check = app.get(format!("{path}/check")).await.expect(200).json();
    assert_eq!((&check["required_blobs"], &check["items"][0]["skipped"]), (&json!(4), &json!([])));
    let archive = app.get(format!("{path}/archive")).await.expect(200).body;
    assert!(archive.windows(foreign.bytes.len()).any(|window| window == foreign.bytes));
});

story!(a_config_that_names_a_system_alone_names_no_platform, async |app| {
    let config = document(CONFIG, &json!({"os": "linux"}));
    let manifest = document(
        MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": []}),
    );
    let registry = FixtureRegistry::start().await;
    registry.push_blob(&config.bytes);
    registry.push_document("app", Some("v1"), MANIFEST, &manifest.bytes);
    let asked = json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"]});
    let made = app.post("/api/v1/pulls").json(asked).await.expect(202);
    let ended = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert_eq!(
        (&ended["state"], &ended["platforms"]),
        (&json!("succeeded"), &json!(["linux/amd64"])),
        "{ended}"
    );
    let path = format!("/api/v1/images/{}", ended["image_id"].as_str().expect("an id"));
    let found = app.get(format!("{path}/manifest")).await.expect(200).json();
    assert_eq!(found["platform"], json!(null));
});
