//! Disks that are full, or turn read-only: said so, nothing acknowledged is lost, and it passes without a restart.
//!
//! Only root can make such a disk. Where that is forbidden these tests fail and say so: a promise that was not tested
//! is not shown as kept.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::support::app::{TestApp, sha256};
use crate::support::disks::{SmallDisk, ThinDisk, succeeds};
use crate::support::eventually::eventually;
use crate::support::postgres::fresh_database;
use crate::support::raw::noise;

/// A directory that cannot be written while this value lives, whoever writes.
///
/// Mounted over itself: the file system below cannot be made read-only while the server holds its lock file.
struct ReadOnly<'a>(&'a Path);

impl ReadOnly<'_> {
    fn make(directory: &Path) -> ReadOnly<'_> {
        let bound = succeeds("mount", &["--bind", directory.to_str().expect("text")], directory);
        let guard = ReadOnly(directory);
        assert!(bound && succeeds("mount", &["-o", "remount,bind,ro"], directory), "{}", directory.display());
        guard
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        succeeds("umount", &["--lazy"], self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_so_and_service_resumes_with_space() {
    let disk = SmallDisk::mount("size=16m");
    let app = TestApp::in_directory(&disk.path().join("data"), &[]).await;
    let kept = noise(1, 1 << 20);
    let digest = app.put_blob(&kept).await;
    let ingest = app.filled_ingest("u", &noise(2, 100_000)).await;
    let ballast = disk.path().join("ballast");
    // All but a little: SQLite gets its rows written, a blob finds no room.
    std::fs::write(&ballast, vec![1; 12 << 20]).expect("room for the ballast");
    let large = noise(3, 4 << 20);
    for request in [
        app.put(format!("/api/v1/content/{}/data", sha256(&large))).body(&large),
        app.post("/api/v1/content").body(&large),
        app.append(&ingest, 100_000, &large),
    ] {
        match request.try_send().await {
            Ok(full) => {
                assert_eq!(full.to_string(), "507 out-of-space");
                assert!(!full.body.windows(4).any(|text| text == b"/tmp"), "no path of ours is told");
            }
            // The answer may be lost when it overtakes a body that is still being sent.
            Err(error) => assert!(!error.is_timeout(), "{error:?}"),
        }
    }
    assert_eq!(app.get(format!("/api/v1/content/{}", sha256(&large))).await.status, 404);
    assert!(app.get(format!("/api/v1/content/{digest}/data")).await.body == kept, "what is there is served");
    // Deleting works on a full disk, and makes room.
    std::fs::remove_file(&ballast).expect("the ballast goes");
    let offset = app.get(&ingest).await.json()["offset"].as_u64().expect("a number");
    assert!(offset >= 100_000, "nothing acknowledged is taken back: {offset}");
    app.put_blob(&large).await;
    let tail = noise(2, 300_000);
    app.truncate(&ingest).await.expect(200);
    app.append(&ingest, 0, &tail).await.expect(204);
    app.commit(&ingest, json!({"expected_digest": sha256(&tail)})).await.expect(201);
    app.restart().await;
    assert_eq!(app.repaired().missing_blobs, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_that_fills_the_disk_leaves_its_beginning_as_it_was_sent() {
    let disk = SmallDisk::mount("size=48m");
    let app = TestApp::in_directory(&disk.path().join("data"), &[]).await;
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).expect("room for the ballast");
    let (beginning, large) = (20 << 20, noise(4, 64 << 20));
    let ingest = app.filled_ingest("u", &large[..beginning]).await;
    // The answer may be lost when it overtakes a body that is still being sent.
    if let Ok(full) = app.append(&ingest, beginning as u64, &large[beginning..]).try_send().await {
        assert_eq!(full.to_string(), "507 out-of-space");
    }
    let status = app.get(&ingest).await.json();
    let offset = usize::try_from(status["offset"].as_u64().expect("a number")).expect("it fits");
    assert!((beginning..large.len()).contains(&offset), "{offset}");
    assert_eq!(status["digest"], sha256(&large[..offset]), "at {offset}");
    std::fs::remove_file(&ballast).expect("the ballast goes");
    app.restart().await;
    let status = app.get(&ingest).await.json();
    assert_eq!((&status["offset"], &status["digest"]), (&json!(offset), &json!(sha256(&large[..offset]))));
    app.delete(&ingest).await.expect(204);
    app.put_blob(&large[..beginning]).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_takes_back_only_what_was_not_acknowledged() {
    let (disk, database) = (ThinDisk::mount("size=24m"), fresh_database());
    let data = disk.mounted.path().join("data");
    let app = TestApp::in_directory(&data, &[("database_url", &database.url())]).await;
    let bytes = noise(4, 9 << 20);
    let ingest = app.filled_ingest("u", &bytes[..1 << 20]).await;
    let ballast = disk.device.path().join("ballast");
    assert!(std::fs::write(&ballast, vec![1; 24 << 20]).is_err(), "the device is full now");
    let refused = app.append(&ingest, 1 << 20, &bytes[1 << 20..]).await;
    assert!(matches!(refused.status, 503 | 507), "{refused}");
    std::fs::remove_file(&ballast).expect("the ballast goes");
    for restarted in [false, true] {
        if restarted {
            app.restart().await;
        }
        let left = app.get(&ingest).await.json();
        assert_eq!((&left["offset"], &left["digest"]), (&json!(1 << 20), &json!(sha256(&bytes[..1 << 20]))));
    }
    app.append(&ingest, 1 << 20, &bytes[1 << 20..]).await.expect(204);
    app.commit(&ingest, json!({"expected_digest": sha256(&bytes)})).await.expect(201);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_can_be_deleted_when_the_disk_is_full_to_the_last_byte() {
    let disk = SmallDisk::mount("size=12m");
    let app = TestApp::in_directory(&disk.path().join("data"), &[]).await;
    let digest = app.put_blob(&noise(1, 2 << 20)).await;
    let written = std::fs::write(disk.path().join("ballast"), vec![1; 12 << 20]);
    assert!(written.is_err(), "the disk is full now");
    let told = app.get("/readyz").await.expect(503).json();
    assert_eq!(told["checks"][0]["name"], "disk");
    app.restart().await;
    app.get(format!("/api/v1/content/{digest}/data")).await.expect(200);
    let deleted = app.delete(format!("/api/v1/content/{digest}")).await;
    assert!(matches!(deleted.status, 204 | 507), "{deleted}");
    std::fs::remove_file(disk.path().join("ballast")).expect("the ballast goes");
    if deleted.status == 507 {
        app.delete(format!("/api/v1/content/{digest}")).await.expect(204);
    }
    app.put_blob(b"room again").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_inodes_is_full_as_well() {
    let disk = SmallDisk::mount("size=64m,nr_inodes=60");
    let app = TestApp::in_directory(&disk.path().join("data"), &[]).await;
    let mut refused = None;
    for n in 0..100_u32 {
        let answer = app.post("/api/v1/content").body(n.to_string()).await;
        if answer.status != 201 {
            refused = Some((n, answer));
            break;
        }
    }
    let (stored, answer) = refused.expect("the inodes end");
    assert_eq!(answer.to_string(), "507 out-of-space");
    for n in 0..stored {
        let digest = sha256(n.to_string().as_bytes());
        assert_eq!(app.get(format!("/api/v1/content/{digest}/data")).await.body, n.to_string());
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_turns_read_only_is_unavailable_for_writes_and_readable() {
    let disk = SmallDisk::mount("size=32m");
    let database = crate::support::postgres::fresh_database();
    // The rows elsewhere: a read-only disk alone is looked at.
    let app = TestApp::in_directory(&disk.path().join("data"), &[("database_url", &database.url())]).await;
    let digest = app.put_blob(b"hello").await;
    let (ingests, blobs) = (app.data_dir().join("ingests"), app.data_dir().join("blobs"));
    let read_only = [ReadOnly::make(&ingests), ReadOnly::make(&blobs)];
    for request in
        [app.post("/api/v1/content").body("other"), app.delete(format!("/api/v1/content/{digest}"))]
    {
        let refused = request.await;
        assert_eq!(refused.to_string(), "503 unavailable");
        assert!(!refused.header("retry-after").is_empty());
    }
    assert_eq!(app.get(format!("/api/v1/content/{}", sha256(b"other"))).await.status, 404);
    drop(read_only);
    assert_eq!(app.post("/api/v1/content").body("other").await.status, 201);
    assert_eq!(app.put(format!("/api/v1/content/{digest}/data")).body("hello").await.status, 201);
    app.restart().await;
    assert_eq!(app.repaired().missing_blobs, 0);
    assert_eq!(app.get(format!("/api/v1/content/{digest}/data")).await.to_string(), "200 \"hello\"");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_found_no_room_is_written_when_there_is_some() {
    let (disk, database) = (SmallDisk::mount("size=8m"), fresh_database());
    let app = TestApp::in_directory(&disk.path().join("data"), &[("database_url", &database.url())]).await;
    let digest = app.put_blob(b"x").await;
    let ballast = disk.path().join("ballast");
    assert!(std::fs::write(&ballast, vec![1; 8 << 20]).is_err(), "the disk is full now");
    let target = json!({"digest": digest, "media_type": "text/plain", "size": 1});
    app.post("/api/v1/images").json(json!({"name": "app", "target": target})).await.expect(201);
    let staged = app.data_dir().join("ingests");
    // Longer than the writer waits for more names to change: a wait for time itself.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(std::fs::read_dir(&staged).expect("the ingests").count(), 0, "no junk is left");
    std::fs::remove_file(&ballast).expect("the ballast goes");
    eventually("the name is in the index", async || {
        let index = std::fs::read_to_string(app.data_dir().join("index.json")).expect("the index");
        index.contains(&digest).then_some(())
    })
    .await;
    app.stop().await;
}
