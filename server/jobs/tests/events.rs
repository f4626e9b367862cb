//! What a pull tells: in the shapes of the contract, and from where the reader was.

use super::*;
use crate::jobs::record::Record;
use crate::jobs::watch::{Live, follow};
use crate::oci::{Algorithm, Descriptor, Digest};

#[allow(dead_code, reason = "the contract can more than is needed here")]
#[path = "../../../tests/support/contract.rs"]
mod contract;

fn check(path: &str, body: &str, media_type: &'static str) {
    let text = include_str!("../../../openapi.yaml");
    let mut document: serde_json::Value = serde_norway::from_str(text).expect("YAML");
    document["servers"][0]["url"] = "/".into();
    let contract = contract::Contract::load(document);
    let mut headers = http::HeaderMap::new();
    for (name, value) in [
        ("content-type", media_type),
        ("etag", "\"x\""),
        ("x-request-id", "req"),
        ("cache-control", "no-store"),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    let answer =
        contract::Answer { method: "GET", path, status: 200, headers: &headers, body: body.as_bytes() };
    if let Err(why) = contract.check(&answer) {
        panic!("{why}\n{body}");
    }
}

fn a_pull(server: &Server) -> Arc<Live> {
    let asked = ask("registry.example/app:v1".into());
    let request = Request::check(&caller("default"), &asked).expect("a request");
    let row = server.jobs.new_row(&caller("default"), &asked, &request);
    Arc::new(Live::new(Record::of_row(row).expect("our own row"), Default::default()))
}

async fn next(events: &mut (impl Stream<Item = PullEvent> + Unpin)) -> PullEvent {
    tokio::time::timeout(LONG, events.next()).await.expect("in time").expect("not its end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_and_its_events_are_as_the_contract_says() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let big = layer(1, 100_000);
    registry.push_image("app", Some("v1"), "linux/amd64", &[&big]);
    registry.fail(&sha256(&big), Fault::CutAfter(10_000), 1);
    registry.fail("missing", Fault::Status(404, Vec::new()), 9);
    let server = Server::start(directory.path()).await;
    for name in ["app:v1", "missing:v1"] {
        let asked = ask(format!("{}/{name}", registry.host()));
        let created = server.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
        let Created::New(pull) = created else { panic!("nothing else runs") };
        let path = format!("/api/v1/pulls/{}", pull.id);
        check(&path, &serde_json::to_string(&pull).expect("JSON"), "application/json");
        let Follow::Stream(events) = server.jobs.follow("default", &pull.id, None).await.expect("events")
        else {
            panic!("nobody has seen the end");
        };
        let events: Vec<PullEvent> = events.collect().await;
        assert_eq!(events.last().map(PullEvent::name), Some("end"));
        for event in events {
            let line = serde_json::to_string(&event).expect("JSON");
            check(&format!("{path}/events"), &line, "application/x-ndjson");
            assert!(line.ends_with(&format!("{}}}", event.data())), "{line}");
        }
        let pull = server.jobs.find("default", &pull.id).await.expect("the pull");
        check(&path, &serde_json::to_string(&pull).expect("JSON"), "application/json");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_comes_back_goes_on_and_one_that_was_away_too_long_begins_anew() {
    let directory = directory();
    let server = Server::start(directory.path()).await;
    let live = a_pull(&server);
    let (clock, soft) = (Clock::system(), server.shutdown.soft().clone());
    let from = |last: Option<u64>| {
        let last = last.map(|id| id.to_string());
        let events = follow(live.clone(), last.as_deref(), clock.clone(), soft.clone());
        Box::pin(events.expect("it has not ended"))
    };
    let mut first = from(None);
    let snapshot = next(&mut first).await;
    assert_eq!(snapshot.name(), "snapshot");
    live.log(clock.now(), LogLevel::Info, "one".into());
    live.log(clock.now(), LogLevel::Info, "two".into());
    let one = next(&mut first).await;
    assert!(one.id > snapshot.id);
    let two = next(&mut from(Some(one.id))).await;
    assert_eq!((two.name(), two.id, two.data().contains("two")), ("log", one.id + 1, true));
    // More than the log holds: the reader who stood still is told so, and memory is bounded.
    for _ in 0..2 * limits::EVENT_QUEUE {
        live.log(clock.now(), LogLevel::Info, "more".into());
    }
    for mut late in [from(Some(one.id)), from(Some(u64::MAX))] {
        let (reset, snapshot) = (next(&mut late).await, next(&mut late).await);
        assert_eq!((reset.name(), snapshot.name()), ("reset", "snapshot"));
    }
    assert_eq!(next(&mut first).await.id, two.id, "what was handed out already is whole");
    assert_eq!(next(&mut first).await.name(), "reset");
    server.stop().await;
    let rest: Vec<PullEvent> = first.collect().await;
    assert!(rest.iter().all(|event| event.name() != "end"), "a stop is not an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thing_is_told_once_with_its_last_value() {
    let directory = directory();
    let server = Server::start(directory.path()).await;
    let live = a_pull(&server);
    let now = server.jobs.now();
    let blob = Descriptor::new("a/b", Digest::of(Algorithm::Sha256, b"x"), 100);
    live.change(|record| record.picture = Some(Default::default()));
    live.change(|record| record.picture.as_mut().map(|picture| picture.add(&blob, BlobRole::Layer)));
    live.tell(now);
    let events = follow(live.clone(), Some("0"), Clock::system(), server.shutdown.soft().clone());
    let mut events = Box::pin(events.expect("it has not ended"));
    let told = [next(&mut events).await, next(&mut events).await, next(&mut events).await];
    assert_eq!(told.map(|event| event.name()), ["phase", "blob", "progress"]);
    for _ in 0..50 {
        live.change(|record| record.picture.as_mut().map(|picture| picture.receive(&blob.digest, 1, now)));
    }
    live.tell(now);
    live.tell(now);
    let (told, progress) = (next(&mut events).await, next(&mut events).await);
    assert!(matches!(&told.body, PullEventBody::Blob(blob) if blob.offset == 50), "{told:?}");
    assert!(matches!(progress.body, PullEventBody::Progress(progress) if progress.bytes_done == 50));
    live.end(now);
    assert_eq!(next(&mut events).await.name(), "end");
    assert!(events.next().await.is_none());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_attempt_tells_again_what_is_as_it_was() {
    let directory = directory();
    let server = Server::start(directory.path()).await;
    let live = a_pull(&server);
    let now = server.jobs.now();
    let blob = Descriptor::new("a/b", Digest::of(Algorithm::Sha256, b"x"), 100);
    let attempt = || {
        live.change(|record| {
            record.row.attempt += 1;
            let picture = record.picture.insert(Default::default());
            picture.add(&blob, BlobRole::Layer);
            picture.reuse(&blob.digest);
        });
        live.tell(now);
    };
    attempt();
    attempt();
    live.tell(now);
    let events = follow(live.clone(), Some("0"), Clock::system(), server.shutdown.soft().clone());
    live.let_go();
    let told: Vec<_> = events.expect("it has not ended").map(|event| event.name()).collect().await;
    // Whoever hears of a new attempt forgets the blobs of the one before.
    assert_eq!(told, ["phase", "blob", "progress", "phase", "blob"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_pull_is_told_at_once_and_no_reader_falls_behind() {
    let directory = directory();
    let server = Server::start(directory.path()).await;
    let live = a_pull(&server);
    let blobs = limits::PULL_BLOBS + limits::PULL_DOCUMENTS;
    let mut events = follow(live.clone(), Some("0"), Clock::system(), server.shutdown.soft().clone())
        .map(Box::pin)
        .expect("it has not ended");
    live.change(|record| {
        let picture = record.picture.get_or_insert_default();
        for number in 0..blobs {
            let digest = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
            picture.add(&Descriptor::new("a/b", digest, 1), BlobRole::Layer);
        }
    });
    live.tell(server.jobs.now());
    let mut told = Vec::new();
    while told.last() != Some(&"progress") {
        told.push(next(&mut events).await.name());
    }
    assert_eq!((told[0], told.len()), ("phase", blobs + 2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_has_the_id_that_was_written_down_however_much_is_told_before_it() {
    let directory = directory();
    let server = Server::start(directory.path()).await;
    let live = a_pull(&server);
    let events = follow(live.clone(), Some("0"), Clock::system(), server.shutdown.soft().clone());
    let events = events.expect("it has not ended");
    live.change(|record| {
        let picture = record.picture.get_or_insert_default();
        for number in 0..limits::PULL_BLOBS + limits::PULL_DOCUMENTS {
            let digest = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
            picture.add(&Descriptor::new("a/b", digest, 1), BlobRole::Layer);
        }
    });
    let reserved = live.reserve_end();
    live.change(|record| (record.state, record.detail.end_id) = (JobState::Failed, Some(reserved)));
    live.end(server.jobs.now());
    let told: Vec<PullEvent> = events.collect().await;
    let last = told.last().expect("its end");
    assert_eq!((last.name(), last.id), ("end", reserved));
    server.stop().await;
}
