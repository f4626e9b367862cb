//! Pulls from a registry that lies on demand, over a store in a directory of its own.

use std::path::Path;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tempfile::TempDir;

use super::record::Record;
use super::request::Request;
use super::*;
use crate::db::Db;
use crate::disk::Disk;
use crate::error::Conflict;
use crate::registry::fixture::{Fault, FixtureRegistry, INDEX, LAYER, MANIFEST, descriptor, sha256};
use crate::shutdown::Drained;
use crate::store::{Caller, PullRow, Reach, Sharing};

mod control_characters;
mod ends;
mod events;
mod faults;
mod flights;
mod foreign;
mod hostile_transport;
mod leases;
mod plans;
mod ranges;
mod restarts;
mod settings;
mod silent_http2;
mod trouble;
mod waits;

#[path = "../../tests/support/eventually.rs"]
mod eventually;

use eventually::eventually;

const LONG: Duration = Duration::from_secs(60);

/// A server without its doors.
struct Server {
    store: Store,
    jobs: Jobs,
    db: Db,
    shutdown: Shutdown,
}

impl Server {
    async fn start(directory: &Path) -> Server {
        Server::start_with(directory, |_| ()).await
    }

    async fn start_with(directory: &Path, change: impl FnOnce(&mut Settings)) -> Server {
        Server::start_at(Clock::system(), directory, change).await
    }

    async fn start_at(clock: Clock, directory: &Path, change: impl FnOnce(&mut Settings)) -> Server {
        let shutdown = Shutdown::new();
        let disk = open_disk(directory).await;
        let db = Db::open_sqlite(&directory.join("orlop.db"), &shutdown).await.expect("a database");
        let settings = crate::store::Settings {
            grace_lease: Duration::from_secs(3600),
            ingest_expiry: Duration::from_secs(3600),
            sharing: Sharing::Shared,
            max_blob_bytes: 1 << 30,
        };
        let store = Store::new(disk, db.clone(), clock.clone(), settings, shutdown.clone()).expect("a store");
        store.repair().await.expect("a whole store");
        let mut settings = Settings::new(16, 4, AddressPolicy::Private);
        settings.retry.first_wait = Duration::from_millis(10);
        settings.retry.longest_wait = Duration::from_millis(100);
        change(&mut settings);
        let jobs = Jobs::new(store.clone(), clock, shutdown.clone(), settings);
        jobs.resume_unfinished().await.expect("the unfinished pulls");
        Server { store, jobs, db, shutdown }
    }

    async fn stop(self) {
        assert_eq!(self.shutdown.drain(LONG).await, Drained::Clean);
    }

    async fn pull(&self, asked: PullRequest) -> Pull {
        let created = self.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
        let (Created::New(pull) | Created::Existing(pull)) = created;
        self.jobs.wait("default", &pull.id, LONG).await.expect("its end")
    }

    async fn read(&self, digest: &str) -> Vec<u8> {
        let digest = digest.parse().expect("a digest");
        self.store.read_blob("default", &digest, 1 << 30).await.expect("a stored blob")
    }

    async fn find_running(&self, id: &str, enough: impl Fn(&Pull) -> bool) -> Pull {
        self.find_running_in("default", id, enough).await
    }

    async fn find_running_in(&self, namespace: &str, id: &str, enough: impl Fn(&Pull) -> bool) -> Pull {
        eventually(&format!("the pull {id} gets there"), async || {
            let pull = self.jobs.find(namespace, id).await.expect("the pull");
            if enough(&pull) {
                return Some(pull);
            }
            assert!(!pull.state.is_final(), "{pull:?}");
            None
        })
        .await
    }
}

/// A server that stops lets go of its directory a moment after its last task.
async fn open_disk(directory: &Path) -> Disk {
    eventually("the directory is let go of", async || match Disk::open(directory) {
        Ok(disk) => Some(disk),
        Err(Error::AlreadyExists { .. }) => None,
        Err(error) => panic!("{error}"),
    })
    .await
}

/// Does to the server's database what only trouble does.
async fn disturb(directory: &Path, sql: &'static str) {
    use sqlx::Connection;
    let file = format!("sqlite://{}", directory.join("orlop.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&file).await.expect("the server's database");
    sqlx::raw_sql(sql).execute(&mut connection).await.expect("a statement");
    connection.close().await.expect("nobody else has it");
}

fn caller(namespace: &str) -> Caller {
    Caller { namespace: namespace.into(), lease: None, reach: Reach::Everywhere }
}

fn ask(reference: String) -> PullRequest {
    PullRequest { reference, platforms: vec!["linux/amd64".into()], ..PullRequest::default() }
}

fn layer(seed: u8, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) ^ (at >> 8) as u8).collect()
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn count(registry: &FixtureRegistry, start: &str, part: &str) -> usize {
    registry.log().iter().filter(|line| line.starts_with(start) && line.contains(part)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_stores_the_platform_asked_for_whole_and_names_it() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let (mine, other) = (layer(1, 300_000), layer(2, 10));
    let amd = registry.push_image("app", None, "linux/amd64", &[&mine, b""]);
    let arm = registry.push_image("app", None, "linux/arm64", &[&other]);
    let index = registry.push_index("app", "v1", &[("linux/amd64", &amd), ("linux/arm64", &arm)]);
    let server = Server::start(directory.path()).await;
    let name = format!("{}/app:v1", registry.host());
    let labels = [("team".to_owned(), "harbour".to_owned())].into();
    let pull = server.pull(PullRequest { labels, ..ask(name.clone()) }).await;
    assert_eq!(
        (pull.state, pull.attempt, pull.phase),
        (JobState::Succeeded, 1, Some(Phase::Finishing)),
        "{pull:?}"
    );
    let roles: Vec<_> = pull.blobs.iter().map(|blob| blob.role).collect();
    assert_eq!(
        roles,
        [BlobRole::Index, BlobRole::Manifest, BlobRole::Config, BlobRole::Layer, BlobRole::Layer]
    );
    assert!(
        pull.blobs.iter().all(|blob| blob.state == BlobState::Done && blob.offset == blob.size),
        "{pull:?}"
    );
    let progress = pull.progress;
    assert_eq!((progress.bytes_done, progress.bytes_network), (progress.bytes_total, progress.bytes_total));
    assert_eq!((progress.eta_seconds, progress.rate_bps, progress.blobs_done), (Some(0), 0, 5));
    assert_eq!(server.read(&sha256(&mine)).await, mine);
    let image = server.store.find_image_by("default", &name).await.expect("the image");
    assert_eq!((image.target.digest.as_str(), Some(&image.id)), (index.as_str(), pull.image_id.as_ref()));
    assert_eq!((pull.lease_id, image.labels["team"].as_str()), (None, "harbour"));
    // What of the other platform is not needed stays where it is; its manifest is one of the index's labels.
    let stored =
        server.store.find_content("default", &index.parse().expect("a digest")).await.expect("the index");
    assert_eq!(stored.labels["containerd.io/gc.ref.content.m.1"], sha256(&arm));
    assert_eq!(stored.labels[&format!("containerd.io/distribution.source.{}", registry.host())], "app");
    assert_eq!(count(&registry, "GET", &sha256(&other)), 0);
    let again = server.pull(ask(name)).await;
    assert_eq!(again.progress.bytes_reused, again.progress.bytes_total);
    assert!(again.blobs.iter().all(|blob| blob.state == BlobState::Exists));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_pulls_of_one_image_fetch_each_blob_once() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let layers = [layer(5, 200_000), layer(6, 100_000)];
    registry.push_image("app", Some("v1"), "linux/amd64", &[&layers[0], &layers[1]]);
    let server = Server::start(directory.path()).await;
    // Another name for each: equal ones would be the same pull.
    let pulls = (0..10).map(|number| {
        let image_name = Some(format!("copy-{number}"));
        server.pull(PullRequest { image_name, ..ask(format!("{}/app:v1", registry.host())) })
    });
    for pull in futures_util::future::join_all(pulls).await {
        assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    }
    for layer in &layers {
        assert_eq!(count(&registry, "GET", &sha256(layer)), 1);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_the_stop_interrupts_goes_on_at_the_next_start() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let big = layer(7, 600_000);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&big]);
    registry.fail(&sha256(&big), Fault::StallAfter(250_000), 1);
    let first = Server::start(directory.path()).await;
    let asked = ask(format!("{}/app:v1", registry.host()));
    let Created::New(pull) = first.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull")
    else {
        panic!("nothing else runs");
    };
    let moved = |pull: &Pull| pull.blobs.iter().any(|blob| blob.offset == 250_000);
    first.find_running(&pull.id, moved).await;
    let Follow::Stream(mut events) = first.jobs.follow("default", &pull.id, None).await.expect("events")
    else {
        panic!("it has not ended");
    };
    let seen = events.next().await.expect("a snapshot");
    assert_eq!(seen.name(), "snapshot");
    first.stop().await;
    while events.next().await.is_some_and(|event| event.name() != "end") {}
    drop(events);

    let second = Server::start(directory.path()).await;
    let last = seen.id.to_string();
    let Follow::Stream(events) = second.jobs.follow("default", &pull.id, Some(&last)).await.expect("events")
    else {
        panic!("it has not ended");
    };
    let events: Vec<PullEvent> = events.collect().await;
    let names: Vec<_> = events.iter().map(PullEvent::name).collect();
    assert_eq!((&names[..2], names[names.len() - 1]), (&["reset", "snapshot"][..], "end"), "{names:?}");
    assert!(events.iter().zip(&events[1..]).all(|(before, after)| before.id < after.id));
    assert!(events[0].id > seen.id);
    let done = second.jobs.find("default", &pull.id).await.expect("the pull");
    assert_eq!((done.state, done.attempt), (JobState::Succeeded, 2), "{done:?}");
    let progress = done.progress;
    assert_eq!((progress.bytes_network, progress.bytes_resumed), (350_000, progress.bytes_total - 350_000));
    assert_eq!(second.read(&sha256(&big)).await, big);
    let end = events[events.len() - 1].id.to_string();
    let ended = second.jobs.follow("default", &pull.id, Some(&end)).await.expect("an answer");
    assert!(matches!(ended, Follow::Finished));
    let Follow::Stream(again) = second.jobs.follow("default", &pull.id, None).await.expect("events") else {
        panic!("nobody has seen the end");
    };
    let again: Vec<_> = again.map(|event| (event.name(), event.id)).collect().await;
    assert_eq!(again, [("snapshot", events[events.len() - 1].id - 1), ("end", events[events.len() - 1].id)]);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_pull_stops_and_leaves_its_bytes_to_the_next() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let big = layer(8, 300_000);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&big]);
    registry.fail(&sha256(&big), Fault::StallAfter(100_000), 1);
    let server = Server::start(directory.path()).await;
    let asked = ask(format!("{}/app:v1", registry.host()));
    let created = server.jobs.create_pull(&caller("default"), &asked, Some("key")).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing else runs") };
    let equal = server.jobs.create_pull(&caller("default"), &asked, None).await.expect("the same");
    assert!(matches!(&equal, Created::Existing(same) if same.id == pull.id));
    let moved = |pull: &Pull| pull.blobs.iter().any(|blob| blob.offset == 100_000);
    let running = server.find_running(&pull.id, moved).await;
    let lease = running.lease_id.expect("its lease");
    assert_eq!(server.store.find_lease("default", &lease).await.expect("the lease").kind, "pull");
    assert!(matches!(
        server.jobs.purge("default", &pull.id).await,
        Err(Error::Conflict(Conflict::State { .. }))
    ));
    server.jobs.cancel("default", &pull.id).await.expect("it stops");
    let ended = server.jobs.wait("default", &pull.id, LONG).await.expect("its end");
    assert_eq!((ended.state, ended.error), (JobState::Cancelled, None));
    assert!(matches!(server.jobs.cancel("default", &pull.id).await, Ok(Cancelled::Already(_))));
    let next = server.pull(asked.clone()).await;
    assert_eq!((next.state, next.progress.bytes_resumed), (JobState::Succeeded, 100_000), "{next:?}");
    assert!(server.jobs.cancel("default", &next.id).await.is_err());
    let repeated =
        server.jobs.create_pull(&caller("default"), &asked, Some("key")).await.expect("the first answer");
    assert!(matches!(&repeated, Created::New(same) if same.id == pull.id));
    let other = PullRequest { insecure: true, ..asked };
    assert!(server.jobs.create_pull(&caller("default"), &other, Some("key")).await.is_err());
    server.jobs.purge("default", &pull.id).await.expect("it goes");
    assert!(matches!(server.jobs.find("default", &pull.id).await, Err(Error::NotFound { .. })));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_waits_for_its_turn_can_be_cancelled() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    registry.fail(&sha256(b"layer"), Fault::StallAfter(1), 1);
    let server = Server::start_with(directory.path(), |settings| settings.pulls = 1).await;
    let create = async |name: &str| {
        let image_name = Some(name.to_owned());
        let asked = PullRequest { image_name, ..ask(format!("{}/app:v1", registry.host())) };
        match server.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull") {
            Created::New(pull) | Created::Existing(pull) => pull.id,
        }
    };
    let first = create("first").await;
    server.find_running(&first, |pull| pull.progress.bytes_total_final).await;
    let second = create("second").await;
    server.jobs.cancel("default", &second).await.expect("it stops");
    let ended = server.jobs.wait("default", &second, LONG).await.expect("its end");
    assert_eq!((ended.state, ended.attempt, ended.started_at), (JobState::Cancelled, 0, None));
    server.jobs.cancel("default", &first).await.expect("it stops");
    server.jobs.wait("default", &first, LONG).await.expect("its end");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_survives_the_loss_of_its_process() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let big = layer(11, 500_000);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&big]);
    registry.fail(&sha256(&big), Fault::StallAfter(200_000), 1);
    let first = Server::start(directory.path()).await;
    let asked = ask(format!("{}/app:v1", registry.host()));
    let created = first.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing else runs") };
    first.find_running(&pull.id, |pull| pull.blobs.iter().any(|blob| blob.offset == 200_000)).await;
    // Every task ends where it is: nothing is synced, nothing is written down any more.
    first.shutdown.hard().cancel();
    drop(first);
    let second = Server::start(directory.path()).await;
    let done = second.jobs.wait("default", &pull.id, LONG).await.expect("its end");
    assert_eq!((done.state, done.attempt), (JobState::Succeeded, 2), "{done:?}");
    assert_eq!(second.read(&sha256(&big)).await, big);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_what_is_new_and_answers_what_is_not() {
    let directory = directory();
    // Takes connections and never says a word: no pull ends.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let reference = format!("{}/app:v1", mute.local_addr().expect("it is bound"));
    let server = Server::start_with(directory.path(), |settings| settings.pulls = 1).await;
    let create = async |name: usize, key: Option<&str>| {
        let asked = PullRequest { image_name: Some(name.to_string()), ..ask(reference.clone()) };
        server.jobs.create_pull(&caller("default"), &asked, key).await
    };
    create(0, Some("key")).await.expect("the first");
    for name in 1..=limits::PULL_QUEUE {
        create(name, None).await.expect("room for it");
    }
    let refused = create(limits::PULL_QUEUE + 1, None).await;
    assert!(matches!(refused, Err(Error::TooMany { .. })), "{refused:?}");
    let (repeated, equal) = (create(0, Some("key")).await, create(7, None).await);
    assert!(matches!(repeated, Ok(Created::New(_))), "{repeated:?}");
    assert!(matches!(equal, Ok(Created::Existing(_))), "{equal:?}");
    server.stop().await;
}
