//! Between a pull's row and its task: an end is told of what has ended, and written over nothing else.

use super::*;

/// What is told now of a pull, up to where the stream ends.
async fn told(server: &Server, id: &str, last_seen: Option<u64>) -> Vec<PullEvent> {
    let last_seen = last_seen.map(|id| id.to_string());
    let Follow::Stream(events) =
        server.jobs.follow("default", id, last_seen.as_deref()).await.expect("events")
    else {
        panic!("nobody has seen the end");
    };
    tokio::time::timeout(LONG, events.collect()).await.expect("the events end")
}

fn names(events: &[PullEvent]) -> Vec<&'static str> {
    events.iter().map(PullEvent::name).collect()
}

/// The row of a pull, recorded and with no task.
async fn record(server: &Server, reference: String) -> PullRow {
    let (caller, asked) = (caller("default"), ask(reference));
    let request = Request::check(&caller, &asked).expect("a request");
    let row = server.jobs.new_row(&caller, &asked, &request);
    server.store.record_pull(&row, None).await.expect("its row");
    row
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_nobody_has_in_hand_yet_is_shown_and_comes_to_no_end() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"twenty bytes, slowly"]);
    registry.fail(&sha256(b"twenty bytes, slowly"), Fault::Drip(Duration::from_millis(20)), 1);
    let server = Server::start(directory.path()).await;
    let row = record(&server, format!("{}/app:v1", registry.host())).await;
    let before = told(&server, &row.id, None).await;
    assert_eq!(names(&before), ["snapshot"]);
    let again = told(&server, &row.id, Some(before[0].id)).await;
    assert_eq!((names(&again), again[0].id), (vec!["snapshot"], before[0].id));
    server.jobs.start(Record::of_row(row.clone()).expect("a record"));
    let after = told(&server, &row.id, Some(before[0].id)).await;
    assert!(after[0].id > before[0].id);
    assert!(!names(&after).contains(&"reset"), "what was shown stands: {:?}", names(&after));
    assert_eq!(names(&after).last(), Some(&"end"));
    server.stop().await;
}
