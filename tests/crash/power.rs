//! Power cuts under load, on a file system of our own that forgets what was not forced to the device.
//!
//! kill -9 never finds a missing sync: the kernel still has every page. This does. Only root can make such a file
//! system; where that is forbidden the test fails and says so, for a promise that was not tested is not kept.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use super::kill::{Told, check_told, number, seed, start_load};
use crate::support::app::TestApp;
use crate::support::command::run;
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{FixtureRegistry, sha256};
use crate::support::postgres::{Database, execute, fresh_database};
use crate::support::raw::noise;
use crate::support::served::Served;
use crate::support::slow_link::SlowLink;

const LIMIT: Duration = Duration::from_secs(60);
/// As the server has it: so many bytes of a stream at the most are not certain.
const CHECKPOINT: u64 = 64 << 20;
const LAYER_BYTES: usize = 160 << 20;
/// Of a connection, in bytes a second.
const SPEED: u64 = 24 << 20;

/// An ext4 in a file, which keeps what was synced and nothing else: its journal is not committed by time.
struct Device {
    directory: tempfile::TempDir,
}

impl Device {
    fn make() -> Device {
        let device = Device { directory: tempfile::tempdir().expect("a directory") };
        std::fs::create_dir(device.mount_point()).expect("a mount point");
        let image = device.image();
        run(Command::new("truncate").args(["-s", "1G"]).arg(&image), LIMIT).expect_success();
        run(Command::new("mkfs.ext4").args(["-qF", "-E", "lazy_itable_init=0"]).arg(&image), LIMIT)
            .expect_success();
        device.mount();
        device
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn mount(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,noatime,commit=1000"]).arg(self.image()).arg(self.mount_point());
        let mounted = run(&mut mount, LIMIT);
        assert!(mounted.status.success(), "a power cut needs root and loop devices: {}", mounted.stderr);
    }

    fn cut(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/power-cut.py");
        run(Command::new(script).arg(self.mount_point()), LIMIT).expect_success();
    }

    /// Mounts it again, as after the boot: nobody may have it open.
    async fn boot(&self) {
        eventually("the file system is free", async || {
            run(Command::new("umount").arg(self.mount_point()), LIMIT).status.success().then_some(())
        })
        .await;
        self.mount();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(self.mount_point()), LIMIT);
    }
}

const FORGET_THE_BOOT: &str = "UPDATE ingests SET boot = 'the boot before'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_a_power_cut_on_sqlite() {
    cut_under_load(None).await;
}

/// The rows are on another disk here, and survive. On one disk the database's own syncs often carry a forgotten sync of
/// a directory with them: this way it shows sooner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_a_power_cut_with_the_rows_elsewhere() {
    cut_under_load(Some(fresh_database())).await;
}

/// The machine did not really boot, so the record of the boot is made to say that it did.
async fn forget_the_boot(data: &Path, database: Option<&Database>) {
    if let Some(database) = database {
        return execute(&database.url(), FORGET_THE_BOOT).expect("the rows change");
    }
    let path = data.join("orlop.db");
    let mut connection =
        SqliteConnection::connect(path.to_str().expect("text")).await.expect("the database opens");
    sqlx::raw_sql(FORGET_THE_BOOT).execute(&mut connection).await.expect("the rows change");
    connection.close().await.expect("it closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_blob_does_not_come_back_with_the_power() {
    let (device, database) = (Device::make(), fresh_database());
    let data = device.mount_point().join("data");
    let app = TestApp::in_directory(&data, &[("database_url", &database.url())]).await;
    let digest = app.put_blob(b"cargo").await;
    app.delete(format!("/api/v1/content/{digest}")).await.expect(204);
    device.cut();
    app.stop().await;
    device.boot().await;
    let left = std::fs::read_dir(data.join("blobs/sha256")).expect("the blobs").count();
    assert_eq!(left, 0, "the file is back, and no row knows that it was deleted");
}

/// The rows survive on another disk, and with them what they say to be certain, also where parts were written ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_goes_on_after_a_power_cut_from_what_was_certain() {
    let (device, database, registry) = (Device::make(), fresh_database(), FixtureRegistry::start().await);
    let layer = noise(33, LAYER_BYTES);
    let digest = sha256(&layer);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&layer]);
    let link = SlowLink::to(registry.host().parse().expect("an address"), SPEED).await;
    let (data, log) = (device.mount_point().join("data"), device.directory.path().join("log"));
    let (url, blobs) = (database.url(), "4".to_owned());
    let settings = [("database_url", url.as_str()), ("blob_concurrency", blobs.as_str())];
    let served = Served::start_with_log(&data, &log, &settings);
    let asked = json!({"ref": format!("{}/app:v1", link.address), "platforms": ["linux/amd64"]});
    let pull = served.request(Method::POST, "/api/v1/pulls").json(asked).await.expect(202);
    let pull = pull.place().to_owned();
    let certain = eventually("some of the layer is certain", async || {
        let open = served.request(Method::GET, "/api/v1/ingests").await.expect(200).json();
        let certain =
            open["items"].as_array()?.iter().filter_map(|item| item["durable_offset"].as_u64()).max();
        certain.filter(|certain| *certain >= CHECKPOINT)
    })
    .await;
    // In this order: a server that outlived its disk would record that the pull has failed.
    served.kill_now();
    drop(served);
    device.cut();
    device.boot().await;
    forget_the_boot(&data, Some(&database)).await;

    link.be_fast();
    let served = Served::start_with_log(&data, &log, &settings);
    let ended = served.request(Method::GET, format!("{pull}?wait=60s")).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let resumed = ended["progress"]["bytes_resumed"].as_u64().expect("a number");
    assert!(resumed >= certain, "{certain} bytes were certain, and {resumed} were kept");
    let read = served.request(Method::GET, format!("/api/v1/content/{digest}/data")).await.expect(200);
    assert!(read.body == layer);
    assert!(served.terminate().success());
}

async fn cut_under_load(database: Option<Database>) {
    let url = database.as_ref().map(Database::url);
    let settings: Vec<(&str, &str)> = url.iter().map(|url| ("database_url", url.as_str())).collect();
    let cycles =
        std::env::var("ORLOP_TEST_CUTS").map_or(5, |text| text.parse().expect("ORLOP_TEST_CUTS is a number"));
    let seed = seed();
    println!("ORLOP_TEST_SEED={seed} ORLOP_TEST_CUTS={cycles}");
    let device = Device::make();
    let data = device.mount_point().join("data");
    let told = Arc::new(Mutex::new(Told::default()));
    let mut acknowledged = 0;
    let log = device.directory.path().join("log");
    for cycle in 0..=cycles {
        let served = Arc::new(Served::start_with_log(&data, &log, &settings));
        acknowledged += check_told(&served, &told, cycle).await;
        if cycle == cycles {
            break;
        }
        let clients = start_load(&served, &told, number(seed, cycle));
        // The random moment: a wait for time itself.
        tokio::time::sleep(Duration::from_millis(100 + number(!seed, cycle) % 700)).await;
        // The kernel says yes to some syncs that a shutdown overtakes: what is told from here on counts for nothing.
        let before = told.lock().expect("no panic").clone();
        device.cut();
        served.kill_now();
        for client in clients {
            client.await.expect("every answer was one that the server may give");
        }
        told.lock().expect("no panic").hold_to(&before);
        drop(served);
        device.boot().await;
        forget_the_boot(&data, database.as_ref()).await;
    }
    println!("{cycles} power cuts, {acknowledged} acknowledged blobs, 0 lost");
    assert!(acknowledged as u64 >= cycles, "the load did something: {acknowledged} blobs");
}
