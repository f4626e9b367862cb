//! A database that is away, or whose answers are lost: a pull goes on, and nobody waits for one that has ended.

use super::*;
use crate::jobs::watch::follow;

/// Every event until there are no more.
async fn told(events: impl Stream<Item = PullEvent>) -> Vec<PullEvent> {
    tokio::time::timeout(LONG, events.collect()).await.expect("the events end")
}

async fn begin(server: &Server, asked: &PullRequest) -> (Pull, Events<PullEventBody>) {
    let created = server.jobs.create_pull(&caller("default"), asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing else runs") };
    let Follow::Stream(events) = server.jobs.follow("default", &pull.id, None).await.expect("events") else {
        panic!("nobody has seen the end");
    };
    (pull, events)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_written_however_often_that_does_not_work() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start(directory.path()).await;
    let refuse = "CREATE TABLE refused (time BIGINT);
        CREATE TRIGGER refuse BEFORE UPDATE ON pulls
        WHEN NEW.finished_at IS NOT NULL AND (SELECT COUNT(*) FROM refused) < 40
        BEGIN INSERT INTO refused VALUES (NEW.finished_at); SELECT RAISE(IGNORE); END";
    disturb(directory.path(), refuse).await;
    let (pull, events) = begin(&server, &ask(format!("{}/app:v1", registry.host()))).await;
    assert_eq!(told(events).await.last().map(PullEvent::name), Some("end"));
    let row = server.store.find_pull("default", &pull.id).await.expect("its row");
    assert_eq!(row.state, "succeeded");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_whose_answer_was_lost_is_an_end() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start(directory.path()).await;
    let lose = "CREATE TRIGGER lose BEFORE UPDATE ON pulls WHEN NEW.finished_at IS NOT NULL BEGIN
        UPDATE pulls SET state = NEW.state, detail = NEW.detail, finished_at = NEW.finished_at
        WHERE id = NEW.id; SELECT RAISE(IGNORE); END";
    disturb(directory.path(), lose).await;
    let (_, events) = begin(&server, &ask(format!("{}/app:v1", registry.host()))).await;
    let last = told(events).await.pop().expect("events");
    assert!(matches!(&last.body, PullEventBody::End(end) if end.state == JobState::Succeeded), "{last:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_whose_answer_was_lost_is_a_start() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start(directory.path()).await;
    let lose = "CREATE TRIGGER lose AFTER INSERT ON pulls BEGIN
        UPDATE pulls SET state = 'running' WHERE id = NEW.id; END";
    disturb(directory.path(), lose).await;
    let (_, events) = begin(&server, &ask(format!("{}/app:v1", registry.host()))).await;
    let last = told(events).await.pop().expect("events");
    assert!(matches!(&last.body, PullEventBody::End(end) if end.state == JobState::Succeeded), "{last:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_pull_whose_row_is_gone() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"twenty bytes, slowly"]);
    registry.fail(&sha256(b"twenty bytes, slowly"), Fault::Drip(Duration::from_millis(20)), 1);
    let server = Server::start(directory.path()).await;
    let (pull, events) = begin(&server, &ask(format!("{}/app:v1", registry.host()))).await;
    server.find_running(&pull.id, |pull| pull.progress.bytes_total_final).await;
    disturb(directory.path(), "DELETE FROM pulls").await;
    assert!(told(events).await.iter().all(|event| event.name() != "end"), "there was none to tell");
    let found = server.jobs.find("default", &pull.id).await;
    assert!(matches!(found, Err(Error::NotFound { .. })), "{found:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_begins_while_the_database_is_away_waits_for_it() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start(directory.path()).await;
    let (caller, asked) = (caller("default"), ask(format!("{}/app:v1", registry.host())));
    let request = Request::check(&caller, &asked).expect("a request");
    let row = server.jobs.new_row(&caller, &asked, &request);
    server.store.record_pull(&row, None).await.expect("its row");
    // Rows can be written, and nobody gets to read one.
    let readers = futures_util::future::join_all((0..4).map(|_| server.db.read())).await;
    let id = row.id.clone();
    server.jobs.start(Record::of_row(row).expect("a record"));
    let live = server.jobs.find_live(&id).expect("it waits");
    let events = follow(live, None, Clock::system(), server.shutdown.soft().clone());
    let mut events = Box::pin(events.expect("it has not ended"));
    let is_trouble = |event: &PullEvent| event.name() == "log" && event.data().contains("trying again");
    while !is_trouble(&events.next().await.expect("it has not ended")) {}
    drop(readers);
    let last = told(events).await.pop().expect("events");
    assert!(matches!(&last.body, PullEventBody::End(end) if end.state == JobState::Succeeded), "{last:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_was_recorded_after_all_begins() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start(directory.path()).await;
    let (caller, asked) = (caller("default"), ask(format!("{}/app:v1", registry.host())));
    let request = Request::check(&caller, &asked).expect("a request");
    let row = server.jobs.new_row(&caller, &asked, &request);
    server.store.record_pull(&row, None).await.expect("its row");
    server.jobs.start_if_recorded(row.clone());
    server.jobs.start_if_recorded(server.jobs.new_row(&caller, &asked, &request));
    server.find_running(&row.id, |pull| pull.state == JobState::Succeeded).await;
    server.stop().await;
}
