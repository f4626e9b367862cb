//! Power cuts under load, on a file system of our own that forgets what was not forced to the device.
//!
//! kill -9 never finds a missing sync: the kernel still has every page. This does. Only root can make such a file
//! system; where that is forbidden the test fails and says so, for a promise that was not tested is not kept.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};

use super::kill::{Told, check_told, number, seed, start_load};
use crate::support::app::TestApp;
use crate::support::command::run;
use crate::support::eventually::eventually;
use crate::support::postgres::{Database, execute, fresh_database};
use crate::support::served::Served;

const LIMIT: Duration = Duration::from_secs(60);

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
