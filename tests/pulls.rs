//! Pulls from a real registry, on both databases, and read back by somebody else's program.

use std::path::Path;
use std::time::Duration;

use orlop::clock::Clock;
use orlop::db::Db;
use orlop::disk::Disk;
use orlop::jobs::{AddressPolicy, Created, JobState, Jobs, Pull, PullRequest, Settings};
use orlop::shutdown::Shutdown;
use orlop::store::{Caller, Reach, Sharing, Store};

use crate::support::docker_registry::{DockerRegistry, skopeo_copy};
use crate::support::image::{Image, Kind};
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
