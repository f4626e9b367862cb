//! Pulls from a real registry, on both databases, and read back by somebody else's program.

use std::path::Path;
use std::time::Duration;

use orlop::clock::Clock;
use orlop::db::Db;
use orlop::disk::Disk;
use orlop::jobs::{AddressPolicy, Created, JobState, Jobs, Pull, PullRequest, Settings};
use orlop::shutdown::Shutdown;
use orlop::store::{Caller, Reach, Sharing, Store};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::docker_registry::{DockerRegistry, skopeo_copy};
use crate::support::fixture_registry::descriptor;
use crate::support::image::{Image, Kind, Layer, sha256};
use crate::support::postgres::fresh_database;

const LONG: Duration = Duration::from_secs(60);

fn store_over(directory: &Path, db: Db, shutdown: &Shutdown) -> Store {
    let settings = orlop::store::Settings {
        grace_lease: LONG,
        ingest_expiry: LONG,
        sharing: Sharing::Shared,
        max_blob_bytes: 1 << 30,
    };
    let disk = Disk::open(directory).expect("a data directory");
    Store::new(disk, db, Clock::system(), settings, shutdown.clone()).expect("a store")
}

async fn pull(jobs: &Jobs, reference: String, platforms: &[&str]) -> Pull {
    let caller = Caller { namespace: "default".into(), lease: None, reach: Reach::Everywhere };
    let platforms = platforms.iter().map(|&platform| platform.to_owned()).collect();
    let asked = PullRequest { reference, platforms, ..PullRequest::default() };
    let created = jobs.create_pull(&caller, &asked, Some("once")).await.expect("a pull");
    let (Created::New(pull) | Created::Existing(pull)) = created;
    jobs.wait("default", &pull.id, LONG).await.expect("its end")
}

/// Pulls every platform of an image of either kind, and compares what is stored with what was pushed.
async fn pull_whole(db: Db, shutdown: Shutdown, kind: Kind) {
    let directory = tempfile::tempdir().expect("a directory");
    let (out, data, back) =
        (directory.path().join("out"), directory.path().join("data"), directory.path().join("back"));
    let platforms = ["linux/amd64", "linux/arm64"];
    let image = Image::multi_platform(kind, &platforms).await;
    let registry = DockerRegistry::start();
    let name = format!("{}/cargo/rope:v1", registry.host());
    skopeo_copy(&image.write_dir(&out), &format!("docker://{name}"));

    let store = store_over(&data, db, &shutdown);
    store.repair().await.expect("a whole store");
    store.start_tasks();
    let settings = Settings::new(4, 4, AddressPolicy::Private);
    let jobs = Jobs::new(store.clone(), Clock::system(), shutdown.clone(), settings);
    let pulled = pull(&jobs, name.clone(), &platforms).await;
    assert_eq!(pulled.state, JobState::Succeeded, "{pulled:?}");
    assert_eq!(pulled.blobs.len(), image.blobs.len());
    for blob in &image.blobs {
        let digest = blob.digest.parse().expect("a digest");
        let stored = store.read_blob("default", &digest, 1 << 20).await.expect("every blob");
        assert_eq!(stored, blob.bytes, "{digest}");
        let record = store.find_content("default", &digest).await.expect("its record");
        assert_eq!(record.media_type.as_deref(), Some(blob.media_type));
    }
    shutdown.drain(LONG).await;
    if kind == Kind::Docker {
        // skopeo reads from a layout what has the media types of OCI only.
        return;
    }
    skopeo_copy(&format!("oci:{}:{name}", data.display()), &format!("dir:{}", back.display()));
    let read = std::fs::read(back.join("manifest.json")).expect("the image that skopeo read");
    assert_eq!(read, image.top().bytes, "{kind:?}");
}

async fn on_sqlite(kind: Kind) {
    let (directory, shutdown) = (tempfile::tempdir().expect("a directory"), Shutdown::new());
    let db = Db::open_sqlite(&directory.path().join("orlop.db"), &shutdown).await.expect("a database");
    pull_whole(db, shutdown, kind).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_whole_and_the_data_directory_is_a_layout_of_it() {
    on_sqlite(Kind::Oci).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_with_dockers_media_types_is_pulled_whole() {
    on_sqlite(Kind::Docker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_whole_with_its_metadata_in_postgres() {
    let (database, shutdown) = (fresh_database(), Shutdown::new());
    let db = Db::open_postgres(&database.url(), &shutdown).await.expect("a database");
    pull_whole(db, shutdown, Kind::Oci).await;
}

/// A pull through the door, to its end.
async fn pull_by_http(app: &TestApp, asked: serde_json::Value) -> serde_json::Value {
    let made = app.post("/api/v1/pulls").json(asked).await.expect(202);
    let ended = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nested_index_and_what_refers_to_it_come_from_a_real_registry() {
    let (app, registry) = (TestApp::start().await, DockerRegistry::start());
    let image = Image::multi_platform(Kind::Oci, &["linux/amd64", "linux/arm/v6"]).await;
    for blob in &image.blobs {
        match blob.media_type {
            text if text.contains("manifest") || text.contains("index") => {
                registry.push_document("cargo/rope", &blob.digest, blob.media_type, &blob.bytes).await;
            }
            _ => registry.push_blob("cargo/rope", &blob.bytes).await,
        }
    }
    let (index, manifest) =
        ("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json");
    let outer = json!({"schemaVersion": 2, "mediaType": index, "manifests": [image.top().descriptor()]});
    registry.push_document("cargo/rope", "nested", index, outer.to_string().as_bytes()).await;
    // A list of parts of one of the images, which this registry knows only by the tag that lists it.
    let amd =
        image.blobs.iter().find(|blob| blob.platform.as_deref() == Some("linux/amd64")).expect("pushed");
    registry.push_blob("cargo/rope", b"{}").await;
    registry.push_blob("cargo/rope", b"a list of parts").await;
    let parts = json!({
        "schemaVersion": 2, "mediaType": manifest, "artifactType": "application/spdx+json",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [descriptor("application/spdx+json", b"a list of parts")],
        "subject": descriptor(manifest, &amd.bytes),
    })
    .to_string();
    registry.push_document("cargo/rope", &sha256(parts.as_bytes()), manifest, parts.as_bytes()).await;
    let mut entry = descriptor(manifest, parts.as_bytes());
    entry["artifactType"] = "application/spdx+json".into();
    let list = json!({"schemaVersion": 2, "mediaType": index, "manifests": [entry]}).to_string();
    registry.push_document("cargo/rope", &amd.digest.replace(':', "-"), index, list.as_bytes()).await;

    let reference = format!("{}/cargo/rope:nested", registry.host());
    let arm = json!({"ref": reference, "platforms": ["linux/arm/v7"]});
    let planned = app.post("/api/v1/pulls?dry_run=true").json(arm.clone()).await.expect(200).json();
    assert_eq!((&planned["platforms"], &planned["blobs_total"]), (&json!(["linux/arm/v6"]), &json!(6)));
    let ended = pull_by_http(&app, arm).await;
    assert_eq!(ended["progress"]["bytes_network"], planned["bytes_to_fetch"]);
    let all = json!({"ref": reference, "all_platforms": true, "referrers": true});
    let ended = pull_by_http(&app, all).await;
    assert_eq!(ended["blobs"].as_array().expect("blobs").len(), image.blobs.len() + 1 + 3);
    let label = format!("containerd.io/gc.ref.content.referrer.sha256.{}", &sha256(parts.as_bytes())[7..19]);
    let record = app.get(format!("/api/v1/content/{}", amd.digest)).await.expect(200).json();
    assert_eq!(record["labels"][label], sha256(parts.as_bytes()));
    // The artifact alone, whatever it would run on.
    let artifact = format!("{}/cargo/rope@{}", registry.host(), sha256(parts.as_bytes()));
    pull_by_http(&app, json!({"ref": artifact, "platforms": ["windows"], "image_name": "parts"})).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_of_schema_1_that_a_real_registry_signed_becomes_an_image_that_others_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let (data, out, back) =
        (directory.path().join("data"), directory.path().join("out"), directory.path().join("back"));
    let app = TestApp::in_directory(&data, &[]).await;
    let registry = DockerRegistry::start();
    let layers = vec![
        Layer::new(Kind::Docker, &[("etc/os-release", b"ID=test\n")]).await,
        Layer::new(Kind::Docker, &[("app", b"runs")]).await,
    ];
    let image = Image::new(Kind::Docker, "linux/amd64", layers.clone());
    skopeo_copy(&image.write_dir(&out), &format!("docker://{}/cargo/rope:v1", registry.host()));
    // The registry makes and signs it for clients of old; kept under the tag, it is all that there is.
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let old = registry.fetch_document("cargo/rope", "v1", signed).await;
    registry.push_document("cargo/rope", "v1", signed, &old).await;

    let name = format!("{}/cargo/rope:v1", registry.host());
    let ended = pull_by_http(&app, json!({"ref": name, "convert_schema1": true})).await;
    assert!(ended["converted_from"].is_string(), "{ended}");
    let target = ended["target"]["digest"].as_str().expect("a digest").to_owned();
    let read =
        async |digest: &str| app.get(format!("/api/v1/content/{digest}/data")).await.expect(200).json();
    let manifest = read(&target).await;
    let config = read(manifest["config"]["digest"].as_str().expect("a digest")).await;
    let diff_ids: Vec<&String> = layers.iter().map(|layer| &layer.diff_id).collect();
    assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids));
    app.stop().await;
    skopeo_copy(&format!("oci:{}:{name}", data.display()), &format!("dir:{}", back.display()));
    let written = std::fs::read(back.join("manifest.json")).expect("the image that skopeo read");
    assert_eq!(sha256(&written), target);
}
