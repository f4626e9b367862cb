//! kill -9 under load: what was acknowledged is there, what was not is absent or whole, and every start succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use orlop::id::random_bytes;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::app::sha256;
use crate::support::postgres::fresh_database;
use crate::support::raw::noise;
use crate::support::request::{Answer, Request};
use crate::support::served::Served;

const CLIENTS: u64 = 8;
/// Largest blob of the load.
const LARGEST: u64 = 4 << 20;

/// What the clients were told: acknowledged digests with what makes their bytes again, and offsets of ingests.
#[derive(Default, Clone)]
pub struct Told {
    blobs: BTreeMap<String, (u64, usize)>,
    /// By ref: the ingest's path, the seed of its bytes, the offset last acknowledged.
    ingests: BTreeMap<String, (String, u64, u64)>,
}

impl Told {
    /// Forgets what was told later than `before`. Of an ingest that stands then and was told of before, the offset of
    /// that time remains; one that was committed since is forgotten.
    pub fn hold_to(&mut self, before: &Told) {
        self.blobs.retain(|digest, _| before.blobs.contains_key(digest));
        self.ingests.retain(|name, (_, _, offset)| {
            let earlier = before.ingests.get(name);
            *offset = earlier.map_or(0, |(_, _, earlier)| *earlier);
            earlier.is_some()
        });
    }
}

/// How many cycles a run makes: few on every push, more by the environment.
fn cycles() -> u64 {
    std::env::var("ORLOP_TEST_KILLS").map_or(20, |text| text.parse().expect("ORLOP_TEST_KILLS is a number"))
}

pub fn seed() -> u64 {
    match std::env::var("ORLOP_TEST_SEED") {
        Ok(text) => text.parse().expect("ORLOP_TEST_SEED is a number"),
        Err(_) => u64::from_be_bytes(random_bytes()),
    }
}

/// The `n`th number of a seed.
pub fn number(seed: u64, n: u64) -> u64 {
    let bytes = noise(seed ^ n.wrapping_mul(0x2545_f491_4f6c_dd1d), 8);
    u64::from_le_bytes(bytes[..].try_into().expect("8 bytes"))
}

/// Small blobs are many, large ones few: as in a store.
fn size(random: u64) -> usize {
    let bits = random % (LARGEST.ilog2() as u64 + 1);
    usize::try_from(1 + (random >> 8) % (1 << bits)).expect("a size")
}

type Send<'a> = dyn Fn(Method, String) -> Request + std::marker::Send + Sync + 'a;

/// Why a client stopped.
pub enum Stopped {
    /// The connection went: the server is gone.
    Gone,
    /// The server could not do it, and said so: its disk is gone.
    Failed(Box<Answer>),
}

/// Sends a request that is answered with one of `statuses`, if the server is well.
async fn ask(request: Request, statuses: &[u16]) -> Result<Answer, Stopped> {
    let answer = request.try_send().await.map_err(|_| Stopped::Gone)?;
    if answer.status >= 500 {
        return Err(Stopped::Failed(Box::new(answer)));
    }
    assert!(statuses.contains(&answer.status), "{answer}");
    Ok(answer)
}

/// One client until the server is gone or fails: whole blobs, and ingests in chunks, some of them committed.
pub async fn load(send: &Send<'_>, told: &Mutex<Told>, client: u64, seed: u64) -> Stopped {
    for n in 0.. {
        let random = number(seed, client << 32 | n);
        let (blob_seed, size) = (random >> 16, size(random));
        let bytes = noise(blob_seed, size);
        let done = match random % 3 {
            0 => ingest(send, told, &format!("{seed}-{client}-{n}"), blob_seed, &bytes).await,
            _ => put(send, told, blob_seed, &bytes).await,
        };
        if let Err(stopped) = done {
            return stopped;
        }
    }
    unreachable!("there is always a next number")
}

async fn put(send: &Send<'_>, told: &Mutex<Told>, seed: u64, bytes: &Bytes) -> Result<(), Stopped> {
    let digest = sha256(bytes);
    let path = format!("/api/v1/content/{digest}/data");
    ask(send(Method::PUT, path).body(bytes), &[200, 201]).await?;
    told.lock().expect("no panic").blobs.insert(digest, (seed, bytes.len()));
    Ok(())
}

async fn ingest(
    send: &Send<'_>,
    told: &Mutex<Told>,
    name: &str,
    seed: u64,
    bytes: &Bytes,
) -> Result<(), Stopped> {
    let open = send(Method::POST, "/api/v1/ingests".into()).json(json!({"ref": name}));
    let path = ask(open, &[201]).await?.header("location").to_owned();
    let remember =
        |offset| told.lock().expect("no panic").ingests.insert(name.into(), (path.clone(), seed, offset));
    remember(0);
    let mut offset = 0;
    for chunk in bytes.chunks(bytes.len().div_ceil(3)) {
        let append = send(Method::PATCH, format!("{path}/data"));
        ask(append.header("Upload-Offset", &offset.to_string()).body(chunk), &[204]).await?;
        offset += chunk.len() as u64;
        remember(offset);
    }
    // Every other one stays open, to be resumed after the end.
    if seed.is_multiple_of(2) {
        return Ok(());
    }
    // From here the outcome is unknown until it is told: the ingest may be gone.
    told.lock().expect("no panic").ingests.remove(name);
    ask(send(Method::POST, format!("{path}/commit")), &[200, 201]).await?;
    told.lock().expect("no panic").blobs.insert(sha256(bytes), (seed, bytes.len()));
    Ok(())
}

/// Holds the restarted server to everything that was told.
async fn check(served: &Served, told: &mut Told, cycle: u64) {
    for (digest, (seed, size)) in &told.blobs {
        let read = served.request(Method::GET, format!("/api/v1/content/{digest}/data")).await;
        assert_eq!(read.status, 200, "cycle {cycle}: {digest} of {size} bytes was acknowledged: {read}");
        assert!(read.body == noise(*seed, *size), "cycle {cycle}: {digest} has other bytes");
    }
    check_events(served, told, cycle).await;
    for (name, (path, seed, acknowledged)) in std::mem::take(&mut told.ingests) {
        let resumed =
            served.request(Method::POST, "/api/v1/ingests").json(json!({"ref": name})).await.expect(200);
        assert_eq!(resumed.header("location"), path);
        let offset = resumed.json()["offset"].as_u64().expect("a number");
        // Every request syncs before it is acknowledged: also a power cut takes nothing of it back.
        assert!(offset >= acknowledged, "cycle {cycle}: {name} went from {acknowledged} back to {offset}");
        let bytes = noise(seed, usize::try_from(offset).expect("a size"));
        assert_eq!(resumed.json()["digest"], sha256(&bytes), "cycle {cycle}: {name} at {offset}");
        let committed = served.request(Method::POST, format!("{path}/commit")).await;
        assert!(matches!(committed.status, 200 | 201), "{committed}");
        told.blobs.insert(sha256(&bytes), (seed, bytes.len()));
    }
    // Whatever else is listed was not acknowledged, and is whole all the same.
    let listed = served.request(Method::GET, "/api/v1/content?limit=1000").await.expect(200).json();
    for item in listed["items"].as_array().expect("items") {
        let digest = item["digest"].as_str().expect("a digest");
        let read = served.request(Method::GET, format!("/api/v1/content/{digest}/data")).await.expect(200);
        assert_eq!(sha256(&read.body), digest, "cycle {cycle}");
    }
}

/// What was acknowledged is told of: the change and its event are one. A blob of a few bytes may have been there before.
async fn check_events(served: &Served, told: &Told, cycle: u64) {
    let acknowledged =
        told.blobs.iter().filter(|(_, (_, size))| *size >= 16).map(|(digest, _)| digest.as_str());
    let mut missing: BTreeSet<&str> = acknowledged.collect();
    let newest = "/api/v1/events?topic=/content/create&sort=-id&limit=1000";
    let mut path = newest.to_owned();
    while !missing.is_empty() {
        let page = served.request(Method::GET, &path).await.expect(200).json();
        for event in page["items"].as_array().expect("items") {
            missing.remove(event["subject"].as_str().expect("a digest"));
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("{newest}&cursor={cursor}");
    }
    assert_eq!(missing, BTreeSet::new(), "cycle {cycle}: acknowledged, and not told of");
}

/// Holds the restarted server to everything that was told since the last time; how many blobs that were.
///
/// Then it is forgotten: each cycle reads its own, and a run takes linear time.
pub async fn check_told(served: &Served, told: &Mutex<Told>, cycle: u64) -> usize {
    let mut told = std::mem::take(&mut *told.lock().expect("no panic"));
    check(served, &mut told, cycle).await;
    told.blobs.len()
}

/// Starts all clients.
pub fn start_load(served: &Arc<Served>, told: &Arc<Mutex<Told>>, seed: u64) -> Vec<JoinHandle<Stopped>> {
    let client = |client| {
        let (served, told) = (served.clone(), told.clone());
        tokio::spawn(async move {
            let send = |method, path| served.request(method, path);
            load(&send, &told, client, seed).await
        })
    };
    (0..CLIENTS).map(client).collect()
}

type Start = fn(&Path, &[(&str, &str)]) -> Served;

async fn kill_under_load(start: Start, settings: &[(&str, &str)]) {
    let (seed, cycles) = (seed(), cycles());
    println!("ORLOP_TEST_SEED={seed} ORLOP_TEST_KILLS={cycles}");
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let (mut acknowledged, told) = (0, Arc::new(Mutex::new(Told::default())));
    for cycle in 0..cycles {
        let served = start(&data, settings);
        acknowledged += check_told(&served, &told, cycle).await;
        let served = Arc::new(served);
        let clients = start_load(&served, &told, number(seed, cycle));
        // The random moment: the one wait here that is for time itself.
        let moment = Duration::from_millis(50 + number(!seed, cycle) % 500);
        tokio::time::sleep(moment).await;
        served.kill_now();
        for client in clients {
            let stopped = client.await.expect("every answer was one that a well server gives");
            if let Stopped::Failed(answer) = stopped {
                panic!("cycle {cycle}: a server whose disk is well failed: {answer}");
            }
        }
    }
    let served = start(&data, settings);
    acknowledged += check_told(&served, &told, cycles).await;
    assert!(served.terminate().success(), "a stop by SIGTERM is clean");
    println!("{cycles} kills, {acknowledged} acknowledged blobs, 0 lost");
    assert!(acknowledged as u64 >= cycles, "the load did something: {acknowledged} blobs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9_on_sqlite() {
    kill_under_load(Served::start_unprivileged, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9_on_postgres() {
    let database = fresh_database();
    kill_under_load(Served::start, &[("database_url", &database.url())]).await;
}
