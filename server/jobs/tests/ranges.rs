//! Registries that cannot go on in the middle of a blob: they ignore ranges, or answer them wrong.

use super::hostile_transport::{MIB, Trial, hasty, in_parts};
use super::*;

fn said(pull: &Pull) -> String {
    pull.log.iter().map(|line| format!("{}\n", line.message)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_ranges_wrong_is_asked_for_the_whole_and_for_no_more_parts() {
    for fault in [Fault::ShiftRange, Fault::Without("Content-Range")] {
        let trial = Trial::begin(5 * MIB, in_parts).await;
        trial.fail(fault, usize::MAX);
        let pull = trial.succeeds().await;
        assert_eq!(trial.ranges().last().map(String::as_str), Some(""), "{:?}", trial.ranges());
        assert!(said(&pull).contains("answers parts wrong"), "{}", said(&pull));
        let next = layer(77, 5 * MIB);
        trial.registry.push_image("app", Some("v1"), "linux/amd64", &[&next]);
        assert_eq!(trial.server.pull(trial.asked()).await.state, JobState::Succeeded);
        let seen = trial.registry.seen().into_iter().filter(|seen| seen.path.contains(&sha256(&next)));
        let ranges: Vec<_> = seen.map(|seen| seen.headers.get("range").cloned()).collect();
        assert_eq!(ranges, [None]);
        trial.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_here_of_a_blob_does_not_keep_it_from_whom_answers_ranges_wrong() {
    let mut trial = Trial::hold_the_front(|_| ()).await;
    let id = trial.start().await;
    trial.all_but_the_front(&id).await;
    trial.server.stop().await;
    trial.registry.fail(&trial.digest, Fault::ShiftRange, usize::MAX);
    trial.server = Server::start_with(trial.directory.path(), in_parts).await;
    let pull = trial.server.jobs.wait("default", &id, LONG).await.expect("its end");
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    assert!(trial.server.read(&trial.digest).await == trial.layer);
    assert_eq!(trial.ranges().last().map(String::as_str), Some(""), "{:?}", trial.ranges());
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_come_once_more_are_told() {
    let trial = Trial::begin(3 * MIB, hasty).await;
    trial.fail(Fault::CutAfter(MIB + MIB / 2), 1);
    trial.fail(Fault::IgnoreRange, usize::MAX);
    let pull = trial.succeeds().await;
    let line = format!(
        "{} ignores Range: the first 1.5 MiB of {} come once more",
        trial.registry.host(),
        trial.digest
    );
    assert_eq!(pull.log.iter().filter(|said| said.message == line).count(), 1, "{}", said(&pull));
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_breaks_off_and_cannot_go_on_is_said_to_do_so() {
    let trial = Trial::begin(300_000, hasty).await;
    trial.fail(Fault::CutWhole(100_000), usize::MAX);
    let error = trial.server.pull(trial.asked()).await.error.expect("it fails");
    assert_eq!(error.code, JobErrorCode::UpstreamUnreachable);
    for words in ["breaks off", "before byte 100000", "ignores Range", "3 times in a row"] {
        assert!(error.detail.contains(words), "{words}: {}", error.detail);
    }
    let hint = error.hint.expect("a hint");
    assert!(hint.contains("proxy") && !hint.contains("name right"), "{hint}");
    trial.end().await;
}
