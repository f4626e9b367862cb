//! The stream is taken up again.

use futures_util::StreamExt;

use super::*;
use crate::cli::scripted;

/// A stream that breaks off.
fn broken(body: &str) -> String {
    scripted::broken("200 OK\r\nContent-Type: application/x-ndjson", body)
}

fn empty(status: &str) -> String {
    scripted::whole(status, "")
}

const IMPATIENT: Patience = Patience {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(2),
    total: Duration::from_millis(4),
    silence: Duration::from_secs(5),
};

/// Follows a pull on a server with these answers; what came, in a word each, and what the server was asked.
async fn follow_against(answers: Vec<String>) -> (Vec<String>, Vec<String>) {
    follow_against_as(Followed::pull("pull_1"), answers).await
}

async fn follow_against_as(followed: Followed, answers: Vec<String>) -> (Vec<String>, Vec<String>) {
    let asking = async |client: Client| {
        let steps = follow(&client, followed, IMPATIENT).map(|step| match step {
            Ok(Step::Event(event)) => format!("{} {}", event.name, event.id.unwrap_or_default()),
            Ok(Step::Lost(_)) => "lost".to_owned(),
            Ok(Step::Over) => "over".to_owned(),
            Err(failure) => format!("failed {}", failure.exit.number()),
        });
        steps.collect().await
    };
    scripted::against(answers, asking).await
}

const FIRST: &str = "{\"id\":\"1\",\"event\":\"snapshot\",\"snapshot\":{}}\n\n{\"id\":\"2\",\"event\":\"pro";
const LAST: &str =
    "{\"id\":\"2\",\"event\":\"progress\",\"progress\":{}}\n{\"id\":\"3\",\"event\":\"end\",\"end\":{}}\n";

#[tokio::test]
async fn a_broken_stream_is_taken_up_after_the_last_whole_event() {
    let (steps, requests) =
        follow_against(vec![broken(FIRST), empty("503 Service Unavailable"), broken(LAST)]).await;
    assert_eq!(steps, ["snapshot 1", "lost", "lost", "progress 2", "end 3"]);
    assert!(!requests[0].contains("last-event-id"), "{}", requests[0]);
    assert!(requests[0].contains("accept: application/x-ndjson"), "{}", requests[0]);
    assert!(requests[2].contains("last-event-id: 1"), "{}", requests[2]);
}

#[tokio::test]
async fn a_pull_whose_end_was_seen_is_over() {
    let (steps, _) = follow_against(vec![broken(FIRST), empty("204 No Content")]).await;
    assert_eq!(steps, ["snapshot 1", "lost", "over"]);
}

#[tokio::test]
async fn patience_with_a_server_that_is_gone_is_bounded() {
    let (steps, _) = follow_against(vec![broken(FIRST)]).await;
    assert_eq!(steps.last().map(String::as_str), Some("failed 7"), "{steps:?}");
    assert!((3..8).contains(&steps.len()), "{steps:?}");
}

#[tokio::test]
async fn a_pull_that_is_not_there_is_not_waited_for() {
    let (steps, _) = follow_against(vec![empty("404 Not Found")]).await;
    assert_eq!(steps, ["failed 4"]);
}

#[tokio::test]
async fn events_of_which_none_came_are_waited_for_from_the_place_that_was_asked_for() {
    let followed = Followed {
        path: vec!["events".to_owned()],
        query: vec![("after", "7".to_owned())],
        scoped: false,
        ..Followed::pull("")
    };
    let event = "{\"id\":8,\"topic\":\"/leases/create\",\"subject\":\"l\",\"event\":{}}\n";
    let answers =
        vec![broken("\n"), empty("503 Service Unavailable"), broken(event), broken("\n"), empty("410 Gone")];
    let (steps, requests) = follow_against_as(followed, answers).await;
    assert_eq!(steps, ["lost", "lost", "/leases/create 8", "lost", "lost", "failed 4"]);
    assert!(
        requests.iter().all(|request| request.starts_with("get /api/v1/events?after=7 ")),
        "{requests:?}"
    );
    assert!(!requests[2].contains("last-event-id"), "{}", requests[2]);
    assert!(requests[3].contains("last-event-id: 8"), "{}", requests[3]);
}
