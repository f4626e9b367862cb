//! Between a pull's row and its task: an end is told of what has ended, and written over nothing else.

use super::*;
use crate::jobs::watch::Live;
use crate::store::list::{ListQuery, ListRequest};
use crate::store::lists;

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

/// A pull that has failed, and whose task has told so and is not gone.
async fn a_pull_at_its_end(server: &Server, reference: String) -> (String, Arc<Live>) {
    let failed = server.pull(ask(reference)).await;
    assert_eq!(failed.state, JobState::Failed);
    eventually("its task is gone", async || server.jobs.find_live(&failed.id).is_none().then_some(())).await;
    let row = server.store.find_pull("default", &failed.id).await.expect("its row");
    let live = Arc::new(Live::new(Record::of_row(row).expect("a record"), Default::default()));
    server.jobs.live().insert(failed.id.clone(), live.clone());
    (failed.id, live)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_waits_for_the_task_of_the_try_before() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let server = Server::start(directory.path()).await;
    let (id, old) = a_pull_at_its_end(&server, format!("{}/app:missing", registry.host())).await;
    let asking = {
        let (jobs, id) = (server.jobs.clone(), id.clone());
        server.shutdown.spawn("retry", async move { jobs.retry("default", &id, None).await })
    };
    eventually("the retry waits for it", async || old.is_awaited().then_some(())).await;
    server.jobs.let_go(&id, &old);
    let again = asking.await.ok().flatten().expect("no panic").expect("it is taken up");
    assert_eq!((again.state, again.attempt), (JobState::Queued, 1));
    assert_eq!(server.jobs.wait("default", &id, LONG).await.expect("its end").attempt, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_refused_while_the_end_of_the_try_before_may_still_be_written() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let server = Server::start(directory.path()).await;
    let (id, old) = a_pull_at_its_end(&server, format!("{}/app:missing", registry.host())).await;
    let refused = server.jobs.retry("default", &id, None).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::State { .. }))), "{refused:?}");
    assert_eq!(server.store.find_pull("default", &id).await.expect("its row").state, "failed");
    server.jobs.let_go(&id, &old);
    server.jobs.retry("default", &id, None).await.expect("it is taken up");
    server.jobs.wait("default", &id, LONG).await.expect("its end");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_lets_go_of_its_own_pull_alone() {
    let directory = directory();
    let server = Server::start(directory.path()).await;
    let row = record(&server, "registry.example/app:v1".into()).await;
    let live = || Arc::new(Live::new(Record::of_row(row.clone()).expect("a record"), Default::default()));
    let (old, new) = (live(), live());
    server.jobs.live().insert(row.id.clone(), new.clone());
    server.jobs.let_go(&row.id, &old);
    assert!(server.jobs.find_live(&row.id).is_some_and(|found| Arc::ptr_eq(&found, &new)));
    server.jobs.let_go(&row.id, &new);
    assert!(server.jobs.find_live(&row.id).is_none());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_attempt_has_to_say_is_not_written_over_a_later_one() {
    let directory = directory();
    let server = Server::start(directory.path()).await;
    let row = record(&server, "registry.example/app:v1".into()).await;
    let running = |attempt| PullRow { state: "running".into(), attempt, ..row.clone() };
    assert!(server.store.update_pull(&running(2), "queued").await.expect("an answer"));
    let late = PullRow { state: "failed".into(), finished_at: Some(1), ..running(1) };
    assert!(!server.store.update_pull(&late, "running").await.expect("an answer"));
    assert!(server.store.update_pull(&running(3), "running").await.expect("an answer"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_has_seen_an_earlier_attempt_takes_nothing_up() {
    let directory = directory();
    let server = Server::start(directory.path()).await;
    let row = record(&server, "registry.example/app:v1".into()).await;
    let queued = |attempt| PullRow { attempt, ..row.clone() };
    let failed = |attempt| PullRow { state: "failed".into(), attempt, finished_at: Some(1), ..row.clone() };
    for attempt in [1, 2] {
        assert!(server.store.update_pull(&failed(attempt), "queued").await.expect("an answer"));
        let stale = server.store.reopen_pull(&queued(attempt - 1), "failed", None).await;
        assert!(!stale.expect("an answer"), "before attempt {attempt}");
        assert!(server.store.reopen_pull(&queued(attempt), "failed", None).await.expect("an answer"));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_asked_for_is_handed_over_however_often_that_does_not_work() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let server = Server::start(directory.path()).await;
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON leases WHEN NEW.kind = 'user'
        BEGIN SELECT RAISE(ABORT, 'not now'); END";
    disturb(directory.path(), refuse).await;
    let keep = Some("24h".to_owned());
    let asked = PullRequest { keep, ..ask(format!("{}/app:v1", registry.host())) };
    let created = server.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing else runs") };
    let Follow::Stream(mut events) = server.jobs.follow("default", &pull.id, None).await.expect("events")
    else {
        panic!("nobody has seen the end");
    };
    let is_trouble = |event: &PullEvent| event.name() == "log" && event.data().contains("trying again");
    while !is_trouble(&events.next().await.expect("it has not ended")) {}
    disturb(directory.path(), "DROP TRIGGER refuse").await;
    let last = events.collect::<Vec<_>>().await.pop().expect("its end");
    assert!(matches!(&last.body, PullEventBody::End(end) if end.state == JobState::Succeeded), "{last:?}");
    let pull = server.jobs.find("default", &pull.id).await.expect("the pull");
    let lease = server.store.find_lease("default", &pull.lease_id.expect("a lease")).await.expect("it");
    let left = lease.expires_at.expect("a time").since(server.jobs.now());
    assert_eq!((lease.kind.as_str(), left > Duration::from_secs(23 * 3600)), ("user", true));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_be_handed_over_is_so_after_the_next_start() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let first = Server::start(directory.path()).await;
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON leases WHEN NEW.kind = 'user'
        BEGIN SELECT RAISE(ABORT, 'not now'); END";
    disturb(directory.path(), refuse).await;
    let keep = Some("24h".to_owned());
    let asked = PullRequest { keep, ..ask(format!("{}/app:v1", registry.host())) };
    let created = first.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
    let Created::New(pull) = created else { panic!("nothing else runs") };
    first.find_running(&pull.id, |pull| pull.image_id.is_some()).await;
    first.stop().await;
    disturb(directory.path(), "DROP TRIGGER refuse").await;
    let second = Server::start(directory.path()).await;
    let pull = second.jobs.wait("default", &pull.id, LONG).await.expect("its end");
    assert_eq!((pull.state, pull.lease_id.is_some()), (JobState::Succeeded, true), "{pull:?}");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_whose_request_cannot_be_read_is_shown_and_can_be_purged() {
    let (registry, directory) = (FixtureRegistry::start().await, directory());
    let server = Server::start(directory.path()).await;
    let failed = server.pull(ask(format!("{}/app:missing", registry.host()))).await;
    let other = server.pull(ask(format!("{}/app:other", registry.host()))).await;
    eventually("their tasks are gone", async || server.jobs.live().is_empty().then_some(())).await;
    disturb(directory.path(), "UPDATE pulls SET request = '{}' WHERE image_name LIKE '%:missing'").await;
    let query = ListQuery::parse(&lists::PULLS, ListRequest::default()).expect("a list");
    let page = server.jobs.list("default", &query, Default::default()).await.expect("a page");
    assert_eq!(page.items.iter().map(|pull| pull.id.as_str()).collect::<Vec<_>>(), [&other.id, &failed.id]);
    let shown = server.jobs.find("default", &failed.id).await.expect("it is shown");
    assert_eq!((shown.reference, shown.state, shown.error), (failed.reference, failed.state, failed.error));
    assert!(server.jobs.retry("default", &failed.id, None).await.is_err(), "nobody knows what it asked for");
    server.jobs.purge("default", &failed.id).await.expect("it goes");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_pull_whose_request_cannot_be_read_has_failed_at_the_next_start() {
    let directory = directory();
    let first = Server::start(directory.path()).await;
    let row = record(&first, "registry.example/app:v1".into()).await;
    first.stop().await;
    disturb(directory.path(), "UPDATE pulls SET request = '{}'").await;
    let second = Server::start(directory.path()).await;
    let pull = second.jobs.find("default", &row.id).await.expect("it is shown");
    let error = pull.error.expect("why");
    assert_eq!((pull.state, error.code), (JobState::Failed, JobErrorCode::Internal), "{error:?}");
    assert!(pull.finished_at.is_some());
    second.jobs.purge("default", &row.id).await.expect("it goes");
    second.stop().await;
}
