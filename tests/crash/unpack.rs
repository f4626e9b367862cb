//! kill -9 in the middle of an unpack: what has a snapshot has all of it, and the next start goes on with the rest.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::kill::{number, seed};
use crate::support::postgres::fresh_database;
use crate::support::served::Served;
use crate::support::unpacking::{Tar, many_files, pushed};

/// How many unpacks are killed on each database.
const KILLS: u64 = 10;
/// Files of a layer.
const FILES: usize = 1_000;

/// Every snapshot that is listed has each file of its layers; their keys.
async fn check_snapshots(served: &Served, data: &Path, round: u64) -> BTreeSet<String> {
    let list = served.request(Method::GET, "/api/v1/snapshots?sort=created_at").await.expect(200).json();
    let mut listed = BTreeSet::new();
    for (at, snapshot) in list["items"].as_array().expect("a list").iter().enumerate() {
        let key = snapshot["key"].as_str().expect("a key").to_owned();
        let list = format!("/api/v1/snapshots/{key}/files?recursive=true");
        let files =
            served.request(Method::GET, list).header("Accept", "application/x-ndjson").await.expect(200);
        let is_own = |line: &&str| {
            let entry: Value = serde_json::from_str(line).expect("a line of JSON");
            entry["type"] == "file" && entry["layer"]["snapshot"] == key
        };
        // The lowest has two more.
        let own = FILES + if snapshot["parent"].is_null() { 2 } else { 0 };
        assert_eq!(files.text().lines().filter(is_own).count(), own, "round {round}: snapshot {at}");
        let file = format!("/api/v1/snapshots/{key}/files/data?path=last");
        assert_eq!(served.request(Method::GET, file).await.expect(200).text(), "the last", "round {round}");
        listed.insert(key);
    }
    let directories = std::fs::read_dir(data.join("snapshots")).expect("a directory").count();
    assert_eq!(directories, listed.len(), "round {round}: a directory for each, and no other");
    listed
}

async fn kill_unpacks(settings: &[(&str, &str)]) {
    let seed = seed();
    println!("ORLOP_TEST_SEED={seed}");
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut served = Served::start(&data, settings);
    let mut midway = 0;
    for round in 0..KILLS {
        let last = Tar::default().file("last", "the last").file(&format!("round{round}"), "x").end();
        let image = pushed(&[[endless(many_files(FILES)), last].concat(), many_files(FILES)]).await;
        let asked = json!({"ref": image.reference, "platforms": ["linux/amd64"]});
        let pull = served.request(Method::POST, "/api/v1/pulls").json(asked).await.expect(202);
        let pulled =
            served.request(Method::GET, format!("{}?wait=60s", pull.place())).await.expect(200).json();
        let asked = json!({"image": pulled["image_name"]});
        let unpack = served.request(Method::POST, "/api/v1/unpacks").json(asked).await.expect(202);
        // The random moment: the one wait here that is for time itself.
        tokio::time::sleep(Duration::from_millis(number(seed, round) % 600)).await;
        served.kill_now();
        drop(served);

        served = Served::start(&data, settings);
        let stands = served.request(Method::GET, unpack.place()).await.expect(200).json();
        midway += u64::from(stands["finished_at"] == Value::Null);
        let path = format!("{}?wait=60s", unpack.place());
        let ended = served.request(Method::GET, path).await.expect(200).json();
        assert_eq!(ended["state"], "succeeded", "round {round}: {ended}");
        let listed = check_snapshots(&served, &data, round).await;
        assert!(image.chain.iter().all(|key| listed.contains(key)), "round {round}");
    }
    assert!(served.terminate().success());
    println!("{KILLS} unpacks killed, {midway} of them before their end");
}

/// A tar without its end: another one may follow.
fn endless(mut tar: Vec<u8>) -> Vec<u8> {
    tar.truncate(tar.len() - orlop::oci::tar::END.len());
    tar
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unpacks_that_are_killed_at_random_moments_end_by_themselves_on_sqlite() {
    kill_unpacks(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unpacks_that_are_killed_at_random_moments_end_by_themselves_on_postgres() {
    let database = fresh_database();
    kill_unpacks(&[("database_url", &database.url())]).await;
}
