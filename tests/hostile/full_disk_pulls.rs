//! Disks that fill up, or lose what they took, in the middle of a pull: said so, nothing wrong is stored, and what had come
//! counts once there is room again.

use std::fs;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::disks::{SmallDisk, ThinDisk};
use crate::support::fixture_registry::{FixtureRegistry, sha256};
use crate::support::postgres::fresh_database;
use crate::support::pulling::{PULLS, kept, pulled, stored};
use crate::support::raw::noise;

const MIB: usize = 1 << 20;
/// Of the one layer: several parts.
const SIZE: usize = 28 * MIB;

/// A registry with an image of one large layer.
struct Cargo {
    registry: FixtureRegistry,
    layer: Vec<u8>,
    digest: String,
}

impl Cargo {
    async fn load() -> Cargo {
        let registry = FixtureRegistry::start().await;
        let layer = noise(6, SIZE).to_vec();
        registry.push_image("app", Some("v1"), "linux/amd64", &[&layer]);
        Cargo { registry, digest: sha256(&layer), layer }
    }

    fn asked(&self) -> Value {
        json!({"ref": format!("{}/app:v1", self.registry.host()), "platforms": ["linux/amd64"]})
    }

    /// Pulls onto a disk that cannot take it all; the place of the pull.
    async fn fails(&self, app: &TestApp) -> String {
        let pull = app.post(PULLS).json(self.asked()).await.expect(202).place().to_owned();
        let ended = app.get(format!("{pull}?wait=60s")).await.expect(200).json();
        let said = (&ended["state"], &ended["error"]["code"], &ended["error"]["detail"]);
        let words = json!("there is no space left to store what was fetched");
        assert_eq!(said, (&json!("failed"), &json!("out-of-space"), &words), "{ended}");
        // The documents are what they are named, and may stay.
        assert!(!stored(app).await.contains(&self.digest));
        let layer = self.digest.replace("sha256:", "blobs/sha256/");
        assert!(!app.data_dir().join(layer).exists());
        assert_eq!(app.get("/api/v1/images").await.expect(200).json()["items"], json!([]));
        pull
    }

    /// Takes the pull up again, now that there is room. What was there is not asked for once more; how much that was.
    async fn goes_on(&self, app: &TestApp, pull: &str) -> u64 {
        let before = self.registry.seen().len();
        app.post(format!("{pull}/retry")).await.expect(202);
        let ended = app.get(format!("{pull}?wait=60s")).await.expect(200).json();
        assert_eq!(ended["state"], "succeeded", "{ended}");
        let progress = |name: &str| ended["progress"][name].as_u64().expect("a number");
        let (resumed, total) = (progress("bytes_resumed"), progress("bytes_total"));
        let length = |range: Option<&String>| {
            let (from, to) = range?.strip_prefix("bytes=")?.split_once('-')?;
            Some(to.parse::<u64>().ok()? + 1 - from.parse::<u64>().ok()?)
        };
        let since = self.registry.seen().split_off(before).into_iter();
        let of_layer = since.filter(|seen| seen.path.contains(&self.digest));
        let asked: u64 = of_layer.map(|seen| length(seen.headers.get("range")).unwrap_or(SIZE as u64)).sum();
        assert_eq!(asked + resumed, total, "every byte that had come counts, and no other");
        let read = app.get(format!("/api/v1/content/{}/data", self.digest)).await.expect(200);
        assert!(read.body == self.layer, "the bytes are the right ones");
        let (content, images) = kept(app).await;
        assert_eq!((content.len(), images.len()), (3, 1));
        resumed
    }
}

/// Pulls onto a disk with room for half of the layer.
async fn fill_up(disk: &SmallDisk, settings: &[(&str, &str)]) {
    let app = TestApp::in_directory(&disk.path().join("data"), settings).await;
    let cargo = Cargo::load().await;
    let free = app.get("/api/v1/system/usage").await.expect(200).json()["free_bytes"].as_u64();
    let ballast = disk.path().join("ballast");
    let weight = usize::try_from(free.expect("a number")).expect("it fits") - SIZE / 2;
    fs::write(&ballast, vec![1; weight]).expect("room for the ballast");
    let pull = cargo.fails(&app).await;
    fs::remove_file(&ballast).expect("the ballast goes");
    let resumed = cargo.goes_on(&app, &pull).await;
    assert!(resumed > SIZE as u64 / 4, "{resumed}");
    app.restart().await;
    assert_eq!(app.repaired().missing_blobs, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_a_pull_fills_fails_it_and_what_had_come_counts_on_a_retry() {
    fill_up(&SmallDisk::mount("size=64m"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_a_pull_fills_fails_it_alike_with_its_rows_elsewhere() {
    let database = fresh_database();
    fill_up(&SmallDisk::mount("size=64m"), &[("database_url", &database.url())]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_in_a_pull_takes_back_what_was_not_certain_and_stores_nothing() {
    let (disk, database, cargo) = (ThinDisk::mount("size=48m"), fresh_database(), Cargo::load().await);
    let data = disk.mounted.path().join("data");
    let app = TestApp::in_directory(&data, &[("database_url", &database.url())]).await;
    // The documents come while there is room: what is lost then are bytes of the layer.
    let mut metadata = cargo.asked();
    metadata["metadata_only"] = true.into();
    metadata["image_name"] = "metadata".into();
    let known = pulled(&app, metadata).await;
    let image = format!("/api/v1/images/{}", known["image_id"].as_str().expect("an image"));
    app.delete(image).await.expect(204);
    let ballast = disk.device.path().join("ballast");
    assert!(fs::write(&ballast, vec![1; 48 * MIB]).is_err(), "the device is full now");
    cargo.fails(&app).await;
    let left = app.get("/api/v1/ingests").await.expect(200).json();
    assert_eq!(left["items"][0]["offset"], 0, "nothing was certain: {left}");
    // That a retry goes on is shown with disks that are only full: what this kernel says of a device after it has failed
    // a sync differs from time to time.
    app.stop().await;
}
