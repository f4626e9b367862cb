//! kill -9 in the middle of a pull: what came counts, also what came before its turn.

use http::Method;
use serde_json::json;

use crate::support::eventually::eventually;
use crate::support::fixture_registry::{Fault, FixtureRegistry, sha256};
use crate::support::raw::noise;
use crate::support::served::Served;

const MIB: usize = 1 << 20;
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
    let asked = json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"]});
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
    let resumed = ended["progress"]["bytes_resumed"].as_u64().expect("a number");
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
    let total = ended["progress"]["bytes_total"].as_u64().expect("a number");
    assert_eq!(asked_again as u64 + resumed, layer.len() as u64, "of {total} bytes in all");
    let stored = server.request(Method::GET, format!("/api/v1/content/{digest}/data")).await;
    assert!(stored.expect(200).body == layer);
    assert!(server.terminate().success());
}
