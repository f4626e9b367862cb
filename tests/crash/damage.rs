//! Pulls whose bytes on their way were damaged while the server was stopped: they end with the right ones, and nothing else
//! is stored.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{On, TestApp};
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{Fault, FixtureRegistry, sha256};
use crate::support::pulling::{PULLS, kept};
use crate::support::raw::noise;

const MIB: usize = 1 << 20;
/// Of a layer that comes in one piece.
const SIZE: usize = 600_000;
/// So many bytes of its front come before the server is stopped.
const HELD_AT: usize = 250_000;

/// A pull that was stopped in the middle of its layer.
struct Stopped {
    app: TestApp,
    registry: FixtureRegistry,
    layer: Vec<u8>,
    digest: String,
    pull: String,
    /// The directory of its ingest.
    ingest: PathBuf,
    requests: usize,
}

impl Stopped {
    /// Stops the server when the front of the layer has stood still.
    async fn at_front() -> Stopped {
        Stopped::when(SIZE, Fault::StallAfter(HELD_AT), |there| there == HELD_AT as u64).await
    }

    /// Stops the server when enough of the layer has come, whose first answer goes wrong like this.
    async fn when(size: usize, fault: Fault, enough: impl Fn(u64) -> bool) -> Stopped {
        let (app, registry) = (TestApp::with(On::Sqlite, &[]).await, FixtureRegistry::start().await);
        let layer = noise(5, size).to_vec();
        let digest = sha256(&layer);
        registry.push_image("app", Some("v1"), "linux/amd64", &[&layer]);
        registry.fail(&digest, fault, 1);
        let asked = json!({"ref": format!("{}/app:v1", registry.host()), "platforms": ["linux/amd64"]});
        let pull = app.post(PULLS).json(asked).await.expect(202).place().to_owned();
        eventually("enough of the layer is there", async || {
            let shown = app.get(&pull).await.expect(200).json();
            let blobs = shown["blobs"].as_array().expect("blobs");
            let layer = blobs.iter().find(|blob| blob["digest"] == digest)?;
            // Help comes to whoever takes his time.
            app.clock.advance(Duration::from_millis(100));
            enough(layer["offset"].as_u64()?).then_some(())
        })
        .await;
        let ingests = app.get("/api/v1/ingests").await.expect(200).json();
        let id = ingests["items"][0]["id"].as_str().expect("an ingest").to_owned();
        app.stop().await;
        let ingest = app.data_dir().join("ingests").join(id);
        let requests = registry.seen().len();
        Stopped { app, registry, layer, digest, pull, ingest, requests }
    }

    /// Starts the server again; the ranges that it then asks for of the layer, when the pull has succeeded.
    async fn go_on(self, name: &str) -> Vec<String> {
        self.app.start_again().await;
        let ended = self.app.get(format!("{}?wait=60s", self.pull)).await.expect(200).json();
        assert_eq!((&ended["state"], &ended["attempt"]), (&json!("succeeded"), &json!(2)), "{name}: {ended}");
        let read = self.app.get(format!("/api/v1/content/{}/data", self.digest)).await.expect(200);
        assert!(read.body == self.layer, "{name}: the bytes are the right ones");
        let (content, images) = kept(&self.app).await;
        let text = |value: &Value| value.as_str().expect("a digest").to_owned();
        let mut expected: Vec<String> =
            ended["blobs"].as_array().expect("blobs").iter().map(|blob| text(&blob["digest"])).collect();
        expected.sort();
        assert_eq!((content, images.len()), (expected, 1), "{name}");
        self.app.stop().await;
        let since = self.registry.seen().split_off(self.requests).into_iter();
        let of_layer = since.filter(|seen| seen.path.contains(&self.digest));
        of_layer.map(|seen| seen.headers.get("range").cloned().unwrap_or_default()).collect()
    }
}

/// What happens to the directory of an ingest.
type Damage = fn(&Path);

fn cut(file: &Path, length: u64) {
    let file = fs::File::options().write(true).open(file).expect("the file");
    file.set_len(length).expect("it is cut");
}

/// Puts `bytes` where the journal stands, or would.
fn journal(ingest: &Path, bytes: &[u8]) {
    fs::write(ingest.join("ahead"), bytes).expect("a journal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_gone_are_fetched_again() {
    let damages: [(&str, Damage); 7] = [
        ("no file", |ingest| fs::remove_file(ingest.join("data")).expect("it was there")),
        ("no directory", |ingest| fs::remove_dir_all(ingest).expect("it was there")),
        ("cut", |ingest| cut(&ingest.join("data"), 100_000)),
        ("emptied", |ingest| cut(&ingest.join("data"), 0)),
        ("a file in place of the directory", |ingest| {
            fs::remove_dir_all(ingest).expect("it was there");
            fs::write(ingest, "not a directory").expect("a file");
        }),
        ("a directory in place of the file", |ingest| {
            fs::remove_file(ingest.join("data")).expect("it was there");
            fs::create_dir(ingest.join("data")).expect("a directory");
        }),
        ("a cut file and a journal that knows of more", |ingest| {
            cut(&ingest.join("data"), 100_000);
            journal(ingest, b"0-250000\n400000-600000\n");
        }),
    ];
    for (name, damage) in damages {
        let stopped = Stopped::at_front().await;
        damage(&stopped.ingest);
        assert_eq!(stopped.go_on(name).await, [""], "{name}: all of it, once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_says_nothing_takes_nothing_back_that_is_certain() {
    let damages: [(&str, Damage); 6] = [
        ("nothing", |ingest| journal(ingest, b"")),
        ("bytes", |ingest| journal(ingest, &noise(9, 70_000))),
        ("words", |ingest| journal(ingest, b"../../etc/passwd\n0-x\n-\n")),
        ("backwards", |ingest| journal(ingest, b"250000-0\n9-3\n")),
        ("too large a number", |ingest| journal(ingest, b"0-99999999999999999999999999\n")),
        ("a directory", |ingest| fs::create_dir(ingest.join("ahead")).expect("a directory")),
    ];
    for (name, damage) in damages {
        let stopped = Stopped::at_front().await;
        damage(&stopped.ingest);
        assert_eq!(stopped.go_on(name).await, [format!("bytes={HELD_AT}-{}", SIZE - 1)], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_nobody_sent_are_found_out_before_they_are_stored() {
    let damages: [(&str, Damage, Vec<String>); 3] = [
        (
            "a longer file",
            |ingest| {
                let mut bytes = fs::read(ingest.join("data")).expect("the file");
                bytes.resize(SIZE - 1, 7);
                fs::write(ingest.join("data"), bytes).expect("a longer file");
            },
            vec![format!("bytes={}-{}", SIZE - 1, SIZE - 1), String::new()],
        ),
        (
            "a file longer than the layer",
            |ingest| {
                fs::write(ingest.join("data"), vec![7; SIZE + 1]).expect("a longer file");
            },
            vec![String::new()],
        ),
        (
            "a journal of bytes that are not there",
            |ingest| journal(ingest, b"0-250000\n400000-600000\n"),
            // What is said to be ahead is not asked for, until it is looked for.
            vec!["bytes=250000-399999".to_owned(), "bytes=400000-599999".to_owned()],
        ),
    ];
    for (name, damage, ranges) in damages {
        let stopped = Stopped::at_front().await;
        damage(&stopped.ingest);
        assert_eq!(stopped.go_on(name).await, ranges, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_lies_about_parts_ahead_costs_their_bytes_and_no_truth() {
    let size = 32 * MIB;
    for (name, lie) in [
        ("all is there", format!("0-{size}\n")),
        ("more than there is", format!("0-9\n{}-{}\n", 8 * MIB, u64::MAX)),
        ("cut in the middle of a line", format!("0-9\n{}-{}", 8 * MIB, 32 * MIB)),
    ] {
        // The first part comes byte by byte, so that the others come before it.
        let drip = Fault::Drip(Duration::from_millis(5));
        let stopped = Stopped::when(size, drip, |there| there > 24 * MIB as u64).await;
        assert!(stopped.ingest.join("ahead").exists(), "parts are ahead");
        journal(&stopped.ingest, lie.as_bytes());
        let ranges = stopped.go_on(name).await;
        assert!(!ranges.is_empty(), "{name}: something was missing");
    }
}
