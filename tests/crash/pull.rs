//! kill -9 in the middle of a pull: what came counts, also what came before its turn.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::kill::{number, seed};
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{Fault, FixtureRegistry, Seen, sha256};
use crate::support::postgres::fresh_database;
use crate::support::raw::noise;
use crate::support::served::Served;
use crate::support::slow_link::SlowLink;

const MIB: usize = 1 << 20;
/// So fast a connection of the pulls that are killed is: a pull lasts as long as the wait for a kill is exact.
const SPEED: u64 = 24 << 20;
/// As the server has it.
const PART: usize = 8 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_was_killed_asks_again_for_nothing_that_had_come() {
    let (registry, directory) = (FixtureRegistry::start().await, tempfile::tempdir().expect("a directory"));
    let layer = noise(21, 4 * PART + 12_345);
    let digest = sha256(&layer);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&layer]);
    // The first part comes byte by byte, so that the others come before it.
    registry.fail(&digest, Fault::Drip(std::time::Duration::from_millis(5)), 1);
    let data = directory.path().join("data");
    let server = Served::start(&data, &[("blob_concurrency", "5")]);
    let asked =
        json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"], "trace": true});
    let pull = server.request(Method::POST, "/api/v1/pulls").json(asked).await.expect(202).place().to_owned();
    eventually("all but the first part has come", async || {
        let shown = server.request(Method::GET, &pull).await.expect(200).json();
        let there = shown["progress"]["bytes_done"].as_u64()?;
        (there > (layer.len() - PART) as u64).then_some(())
    })
    .await;
    server.kill_now();
    drop(server);
    let before = registry.seen().len();

    let server = Served::start(&data, &[]);
    let ended = server.request(Method::GET, format!("{pull}?wait=60s")).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let progress = |name: &str| ended["progress"][name].as_u64().expect("a number");
    let resumed = progress("bytes_resumed");
    // What waited in memory for a whole block is lost with the process: for each part less than one write.
    assert!(resumed > (layer.len() - PART - 5 * (MIB / 2)) as u64, "{resumed}");
    let ranges = registry.seen().split_off(before).into_iter().filter(|seen| seen.path.contains(&digest));
    let asked_again: usize = ranges
        .map(|seen| {
            let range = seen.headers["range"].trim_start_matches("bytes=").to_owned();
            let (from, to) = range.split_once('-').expect("two numbers");
            to.parse::<usize>().expect("a number") + 1 - from.parse::<usize>().expect("a number")
        })
        .sum();
    // The documents are its own as far as its row had come.
    let here = resumed + progress("bytes_reused");
    assert_eq!(asked_again as u64 + here, progress("bytes_total"));
    let stored = server.request(Method::GET, format!("/api/v1/content/{digest}/data")).await;
    assert!(stored.expect(200).body == layer);
    // Its requests are told from the first on, those of the server that was killed as well.
    let trace = server.request(Method::GET, format!("{pull}/trace")).await.expect(200).json();
    let items = trace["items"].as_array().expect("items");
    let resolved = |line: &&Value| line["url"].as_str().is_some_and(|url| url.ends_with("/manifests/v1"));
    assert_eq!(items.iter().filter(resolved).filter(|line| line["status"] == 200).count(), 2, "{trace}");
    assert!(server.terminate().success());
}

/// What of the bytes that a pull has shown may be lost by a kill: those in the queue of each blob, and of each part those
/// that wait for a whole block.
const LOST_BY_A_KILL: u64 = 8 * MIB as u64;

/// How many pulls a run kills on each database: few on every push, more by the environment.
fn killed_pulls() -> u64 {
    let given = std::env::var("ORLOP_TEST_KILLED_PULLS");
    given.map_or(25, |text| text.parse().expect("ORLOP_TEST_KILLED_PULLS is a number"))
}

/// A large layer, often of more than one part, one of middle size and one of a few bytes.
fn layers(seed: u64) -> [Bytes; 3] {
    let size = |n: u64, most: u64| usize::try_from(1 + number(seed, n) % most).expect("a size");
    [noise(seed, size(1, 24 << 20)), noise(seed + 1, size(2, 2 << 20)), noise(seed + 2, 16 + size(3, 200))]
}

/// The bytes that these requests ask for of a blob of this size, each of them once.
fn asked_for(seen: &[Seen], digest: &str, size: usize) -> usize {
    let mut parts = Vec::new();
    for request in seen.iter().filter(|seen| seen.method == "GET" && seen.path.contains(digest)) {
        let range = request.headers.get("range").and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()? + 1))
        });
        parts.push(range.unwrap_or((0, size)));
    }
    parts.sort_unstable();
    assert!(parts.windows(2).all(|two| two[0].1 <= two[1].0), "{digest}: no byte twice: {parts:?}");
    parts.iter().map(|(from, to)| to - from).sum()
}

/// Pulls that are killed at a random moment, all on one data directory.
async fn kill_pulls(settings: &[(&str, &str)]) {
    let (seed, pulls) = (seed(), killed_pulls());
    println!("ORLOP_TEST_SEED={seed} ORLOP_TEST_KILLED_PULLS={pulls}");
    let (registry, directory) = (FixtureRegistry::start().await, tempfile::tempdir().expect("a directory"));
    let link = SlowLink::to(registry.host().parse().expect("an address"), SPEED).await;
    let data = directory.path().join("data");
    let (mut stored, mut midway) = (BTreeSet::new(), 0);
    let mut served = Served::start(&data, settings);
    for n in 0..pulls {
        let layers = layers(number(seed, n));
        let name = format!("app{n}");
        registry.push_image(&name, Some("v1"), "linux/amd64", &layers.each_ref().map(|layer| &layer[..]));
        let total: u64 = layers.iter().map(|layer| layer.len() as u64).sum();
        let (begun, moment) = (link.carried(), number(!seed, n) % (total + total / 8));
        let asked = json!({"ref": format!("{}/{name}:v1", link.address), "platforms": ["linux/amd64"]});
        let pull = served.request(Method::POST, "/api/v1/pulls").json(asked).await.expect(202);
        let pull = pull.place().to_owned();
        let came = eventually("the random moment", async || {
            let shown = served.request(Method::GET, &pull).await.expect(200).json();
            let came = shown["progress"]["bytes_done"].as_u64()?;
            (link.carried() - begun >= moment || shown["state"] == "succeeded").then_some(came)
        })
        .await;
        served.kill_now();
        drop(served);
        let before = registry.seen().len();

        served = Served::start(&data, settings);
        let ended = served.request(Method::GET, format!("{pull}?wait=60s")).await.expect(200).json();
        assert_eq!(ended["state"], "succeeded", "pull {n}: {ended}");
        let progress = |name: &str| ended["progress"][name].as_u64().expect("a number");
        assert_eq!(progress("bytes_done"), progress("bytes_total"), "pull {n}: {ended}");
        let again = registry.seen().split_off(before);
        let mut missing = 0;
        for layer in &layers {
            let digest = sha256(layer);
            missing += asked_for(&again, &digest, layer.len()) as u64;
            let read = served.request(Method::GET, format!("/api/v1/content/{digest}/data")).await;
            assert!(read.expect(200).body == layer, "pull {n}: {digest}");
        }
        let kept = total - missing;
        assert!(kept + LOST_BY_A_KILL >= came.min(total), "pull {n}: of {came} bytes {kept} were kept");
        midway += u64::from(missing > 0 && missing < total);
        stored.extend(blobs(&ended));
        check_nothing_left(&served, &data, &stored).await;
    }
    assert!(served.terminate().success());
    println!("{pulls} pulls killed, {midway} of them between the first byte of a layer and the last");
    assert!(midway > pulls / 4, "only {midway} kills came in the middle of the layers");
}

fn blobs(pull: &Value) -> impl Iterator<Item = String> {
    let blobs = pull["blobs"].as_array().expect("blobs");
    blobs.iter().map(|blob| blob["digest"].as_str().expect("a digest").to_owned())
}

/// After a pull there is what it stored, and no ingest: neither in the store nor on the disk.
async fn check_nothing_left(served: &Served, data: &Path, stored: &BTreeSet<String>) {
    let ingests = served.request(Method::GET, "/api/v1/ingests").await.expect(200).json();
    assert_eq!(ingests["items"], json!([]));
    let files = |name: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(data.join(name)).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a text")).collect()
    };
    assert_eq!(files("ingests"), BTreeSet::new());
    let expected = stored.iter().map(|digest| digest.replace("sha256:", "")).collect();
    assert_eq!(files("blobs/sha256"), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_that_are_killed_at_random_moments_end_by_themselves_on_sqlite() {
    kill_pulls(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_that_are_killed_at_random_moments_end_by_themselves_on_postgres() {
    let database = fresh_database();
    kill_pulls(&[("database_url", &database.url())]).await;
}
