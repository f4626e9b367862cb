//! Registries and networks that break, drip, lie and stop: what a pull makes of each, and what the registry saw of it.

use super::*;
use crate::registry::fixture::Seen;

pub(super) const MIB: usize = 1 << 20;
/// Longer than a pull waits for anything here.
const SLOW: Duration = Duration::from_millis(25);

/// Settings that wait for nothing long, and try three times.
pub(super) fn hasty(settings: &mut Settings) {
    settings.patience.header = Duration::from_millis(400);
    settings.patience.stall = Duration::from_millis(300);
    (settings.retry.max_attempts, settings.retry.attempts_once_answered) = (3, 3);
    settings.retry.longest_retry_after = Duration::from_millis(50);
}

/// The same, and large blobs come in parts of 1 MiB from their beginning on.
pub(super) fn in_parts(settings: &mut Settings) {
    hasty(settings);
    settings.parts = PartPolicy { bytes: MIB as u64, at_once: 4, help_after: Duration::ZERO };
}

/// A registry with an image of one layer, and a server that has never seen it.
pub(super) struct Trial {
    pub registry: FixtureRegistry,
    pub directory: TempDir,
    pub server: Server,
    pub layer: Vec<u8>,
    pub digest: String,
}

impl Trial {
    pub async fn begin(size: usize, settings: impl FnOnce(&mut Settings)) -> Trial {
        let (registry, directory) = (FixtureRegistry::start().await, directory());
        let layer = layer(size as u8, size);
        registry.push_image("app", Some("v1"), "linux/amd64", &[&layer]);
        let server = Server::start_with(directory.path(), settings).await;
        Trial { digest: sha256(&layer), registry, directory, server, layer }
    }

    pub fn fail(&self, fault: Fault, times: usize) {
        self.registry.fail(&self.digest, fault, times);
    }

    pub fn asked(&self) -> PullRequest {
        ask(format!("{}/app:v1", self.registry.host()))
    }

    pub async fn start(&self) -> String {
        let created = self.server.jobs.create_pull(&caller("default"), &self.asked(), None).await;
        let Ok(Created::New(pull)) = created else { panic!("{created:?}") };
        pull.id
    }

    /// Pulls, and holds that all went well in the end.
    pub async fn succeeds(&self) -> Pull {
        let pull = self.server.pull(self.asked()).await;
        assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
        assert!(self.server.read(&self.digest).await == self.layer);
        let progress = pull.progress;
        assert_eq!(progress.bytes_done, progress.bytes_total, "{progress:?}");
        pull
    }

    async fn fails(&self) -> JobErrorCode {
        let pull = self.server.pull(self.asked()).await;
        assert!(self.server.store.find_content("default", &self.digest.parse().expect("one")).await.is_err());
        pull.error.unwrap_or_else(|| panic!("it is {:?}", pull.state)).code
    }

    /// The ranges of all requests for the layer, in the order in which they came; empty where there was none.
    pub fn ranges(&self) -> Vec<String> {
        let of_layer = |seen: &Seen| seen.path.contains(&self.digest) && seen.method == "GET";
        let range = |seen: Seen| seen.headers.get("range").cloned().unwrap_or_default();
        self.registry.seen().into_iter().filter(of_layer).map(range).collect()
    }

    fn sent(&self) -> u64 {
        self.registry.sent(&self.digest)
    }

    pub async fn end(self) {
        self.server.stop().await;
    }
}

fn numbers(range: &str) -> (usize, usize) {
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
    (from.parse().expect("a number"), to.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_outlasted() {
    let wait = |seconds: &str| vec![("Retry-After", seconds.to_owned())];
    for (name, fault, ranges) in [
        ("500", Fault::Status(500, vec![]), vec!["", "", ""]),
        ("502", Fault::Status(502, vec![]), vec!["", "", ""]),
        ("503", Fault::Status(503, vec![]), vec!["", "", ""]),
        ("503 and a wait", Fault::Status(503, wait("3600")), vec!["", "", ""]),
        ("429", Fault::Status(429, vec![]), vec!["", "", ""]),
        ("429 and a wait", Fault::Status(429, wait("3600")), vec!["", "", ""]),
        ("408", Fault::Status(408, vec![]), vec!["", "", ""]),
        ("silence", Fault::Silent, vec!["", "", ""]),
        ("a server that dies and comes back", Fault::HangUp, vec!["", "", ""]),
        ("a slow head", Fault::DripHead(SLOW), vec!["", "", ""]),
        ("a body that stands still", Fault::StallAfter(0), vec!["", "", ""]),
        ("a cut before the first byte", Fault::CutAfter(0), vec!["", "", ""]),
        (
            "a body that stands still in its middle",
            Fault::StallAfter(70_000),
            vec!["", "bytes=70000-199999", "bytes=140000-199999"],
        ),
        ("a cut", Fault::CutAfter(70_000), vec!["", "bytes=70000-199999", "bytes=140000-199999"]),
        ("wrong bytes", Fault::WrongBytes, vec!["", ""]),
        ("one byte too few", Fault::Short, vec!["", ""]),
        ("too many bytes", Fault::Long, vec!["", ""]),
    ] {
        let trial = Trial::begin(200_000, hasty).await;
        trial.fail(fault, ranges.len() - 1);
        let pull = trial.succeeds().await;
        assert_eq!(trial.ranges(), ranges, "{name}");
        assert_eq!(pull.attempt, 1, "{name}");
        trial.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_pass_ends_in_words_and_after_few_requests() {
    use JobErrorCode::*;
    for (name, fault, code, requests) in [
        ("wrong bytes", Fault::WrongBytes, UpstreamMismatch, 2),
        ("one byte too few", Fault::Short, UpstreamMismatch, 2),
        ("too many bytes", Fault::Long, UpstreamMismatch, 2),
        ("bytes without end", Fault::Endless, UpstreamMismatch, 2),
        ("500", Fault::Status(500, vec![]), UpstreamServerError, 3),
        ("503", Fault::Status(503, vec![]), UpstreamServerError, 3),
        ("429", Fault::Status(429, vec![]), UpstreamRateLimited, 3),
        ("403", Fault::Status(403, vec![]), UpstreamDenied, 1),
        ("404", Fault::Status(404, vec![]), UpstreamNotFound, 1),
        ("a part that nobody asked for", Fault::Status(206, vec![]), UpstreamBadAnswer, 1),
        ("an encoding", Fault::Headers(vec![("Content-Encoding", "gzip".into())]), UpstreamBadAnswer, 1),
        ("silence", Fault::Silent, UpstreamUnreachable, 3),
        ("a dead server", Fault::HangUp, UpstreamUnreachable, 3),
        ("a slow head", Fault::DripHead(SLOW), UpstreamUnreachable, 3),
        ("a byte now and then", Fault::Drip(SLOW), UpstreamUnreachable, 3),
        ("a body that stands still", Fault::StallAfter(0), UpstreamUnreachable, 3),
        // Less than counts as progress, each time.
        ("a cut after next to nothing", Fault::CutAfter(1_000), UpstreamUnreachable, 3),
    ] {
        let trial = Trial::begin(200_000, hasty).await;
        trial.fail(fault, usize::MAX);
        assert_eq!(trial.fails().await, code, "{name}");
        assert_eq!(trial.ranges().len(), requests, "{name}");
        assert!(trial.sent() < 32 * MIB as u64, "{name}: {} bytes were sent", trial.sent());
        trial.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_without_end_or_of_another_kind_is_not_read_for_long() {
    let text = |value: &str| Fault::Headers(vec![("Content-Type", value.to_owned())]);
    for fault in [Fault::Endless, text(INDEX)] {
        let trial = Trial::begin(1_000, hasty).await;
        trial.registry.fail_method("GET", "/manifests/", fault.clone(), usize::MAX);
        assert_eq!(trial.fails().await, JobErrorCode::UpstreamBadAnswer, "{fault:?}");
        assert!(trial.registry.sent("/manifests/") < 32 * MIB as u64, "{fault:?}");
        assert_eq!(trial.ranges().len(), 0);
        trial.end().await;
    }
    // What is called by no name of its own is what it says itself, and a blob is its bytes.
    let trial = Trial::begin(1_000, hasty).await;
    trial.registry.fail_method("GET", "/manifests/", text("text/html"), 1);
    trial.fail(text("text/html"), 1);
    trial.succeeds().await;
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cut_the_range_decides_which_bytes_count() {
    let part = "bytes=70000-199999";
    for (name, fault, ranges) in [
        ("ignored", Fault::IgnoreRange, vec!["", part]),
        ("of another place", Fault::ContentRange("bytes 69999-199999/200000".into()), vec!["", part, ""]),
        ("of another blob", Fault::ContentRange("bytes 70000-199999/200001".into()), vec!["", part, ""]),
        ("not told", Fault::Without("Content-Range"), vec!["", part, ""]),
    ] {
        let trial = Trial::begin(200_000, hasty).await;
        trial.fail(Fault::CutAfter(70_000), 1);
        trial.fail(fault, usize::MAX);
        trial.succeeds().await;
        assert_eq!(trial.ranges(), ranges, "{name}");
        trial.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_may_be_somewhere_else_and_not_everywhere() {
    let trial = Trial::begin(3 * MIB, in_parts).await;
    let other = FixtureRegistry::start().await;
    other.push_blob(&trial.layer);
    let to = |place: String| Fault::Status(307, vec![("Location", place)]);
    // Every part asks the registry again: an address that was signed for one request is good for no other.
    trial.fail(to(format!("http://{}/v2/x/blobs/{}", other.host(), trial.digest)), 3);
    trial.succeeds().await;
    let count = |registry: &FixtureRegistry| count(registry, "GET", &trial.digest);
    assert_eq!((count(&trial.registry), count(&other)), (3, 3));
    assert_eq!(other.sent(&trial.digest), 3 * MIB as u64);
    trial.end().await;
    let address = "the address 169.254.169.254 is never contacted";
    for (place, code, words, requests) in [
        ("{self}", JobErrorCode::UpstreamBadAnswer, "redirects more than", 1 + limits::REDIRECTS),
        // By HTTPS: that plain HTTP is refused says nothing of the address.
        ("https://169.254.169.254/latest/meta-data", JobErrorCode::UpstreamForbiddenAddress, address, 1),
        ("https://2852039166/latest/meta-data", JobErrorCode::UpstreamForbiddenAddress, address, 1),
        ("file:///etc/passwd", JobErrorCode::UpstreamBadAnswer, "not a URL", 1),
    ] {
        let trial = Trial::begin(1_000, hasty).await;
        trial.fail(to(place.replace("{self}", &format!("/v2/app/blobs/{}", trial.digest))), usize::MAX);
        let error = trial.server.pull(trial.asked()).await.error.expect("it fails");
        assert_eq!(error.code, code, "{place}");
        assert!(error.detail.contains(words), "{place}: {}", error.detail);
        assert_eq!(trial.ranges().len(), requests, "{place}");
        trial.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_has_answered_is_waited_for_longer_than_one_that_never_has() {
    let patient = |settings: &mut Settings| {
        hasty(settings);
        settings.retry.first_wait = Duration::from_millis(1);
        (settings.retry.max_attempts, settings.retry.attempts_once_answered) = (2, 6);
    };
    let trial = Trial::begin(1_000, patient).await;
    trial.fail(Fault::HangUp, 5);
    let pull = trial.succeeds().await;
    assert_eq!(trial.ranges().len(), 6);
    let said: Vec<_> = pull.log.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(said.len(), 5, "{said:?}");
    assert!(said.iter().all(|line| line.contains("trying again in")), "{said:?}");
    trial.end().await;
    let trial = Trial::begin(1_000, patient).await;
    trial.registry.fail("/manifests/", Fault::HangUp, usize::MAX);
    assert_eq!(trial.fails().await, JobErrorCode::UpstreamUnreachable);
    // By HTTPS and by HTTP, each time.
    assert_eq!(trial.registry.seen().len(), 2);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_comes_in_parts_and_no_byte_of_it_twice() {
    let size = 6 * MIB + 123;
    let trial = Trial::begin(size, in_parts).await;
    let pull = trial.succeeds().await;
    let mut asked: Vec<_> = trial.ranges().iter().map(|range| numbers(range)).collect();
    asked.sort_unstable();
    let whole: Vec<_> = (0..7).map(|part| (part * MIB, size.min((part + 1) * MIB) - 1)).collect();
    assert_eq!(asked, whole);
    assert_eq!((trial.sent(), pull.progress.bytes_network), (size as u64, pull.progress.bytes_total));
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_cuts_every_connection_after_1_mib_sends_no_byte_twice() {
    let size = 64 * MIB + 4_321;
    for settings in [hasty, |settings: &mut Settings| in_parts(settings)] {
        let trial = Trial::begin(size, |given| {
            settings(given);
            given.parts.bytes = limits::PART_BYTES;
        })
        .await;
        trial.fail(Fault::CutAfter(MIB), usize::MAX);
        let pull = trial.succeeds().await;
        assert_eq!(trial.sent(), size as u64, "every byte came once");
        assert_eq!(pull.progress.bytes_network, pull.progress.bytes_total);
        assert!((65..=72).contains(&trial.ranges().len()), "{}", trial.ranges().len());
        trial.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_cut_goes_on_at_its_own_byte() {
    let size = 4 * MIB;
    let trial = Trial::begin(size, in_parts).await;
    trial.fail(Fault::CutAfter(400_000), usize::MAX);
    trial.succeeds().await;
    let mut asked: Vec<_> = trial.ranges().iter().map(|range| numbers(range)).collect();
    asked.sort_unstable();
    let steps = |part: usize| (0..3).map(move |n| (part * MIB + n * 400_000, (part + 1) * MIB - 1));
    assert_eq!(asked, (0..4).flat_map(steps).collect::<Vec<_>>());
    assert_eq!(trial.sent(), size as u64);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_ranges_is_read_once_from_its_first_answer() {
    let size = 4 * MIB;
    let trial = Trial::begin(size, in_parts).await;
    trial.fail(Fault::IgnoreRange, usize::MAX);
    trial.succeeds().await;
    assert_eq!((trial.ranges(), trial.sent()), (vec!["bytes=0-1048575".to_owned()], size as u64));
    // And it is remembered for the next blob.
    let next = layer(77, size);
    trial.registry.push_image("app", Some("v1"), "linux/amd64", &[&next]);
    assert_eq!(trial.server.pull(trial.asked()).await.state, JobState::Succeeded);
    let seen = trial.registry.seen().into_iter().filter(|seen| seen.path.contains(&sha256(&next)));
    assert!(seen.into_iter().all(|seen| !seen.headers.contains_key("range")));
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_a_server_is_known_to_ignore_ranges_a_part_that_fails_invites_no_help() {
    let trial = Trial::begin(5 * MIB, |settings| {
        in_parts(settings);
        settings.patience.header = LONG;
        settings.patience.stall = Duration::from_secs(2);
    })
    .await;
    let range = |part: usize| format!("bytes={}-{}", part * MIB, (part + 1) * MIB - 1);
    let late = |fault| Fault::Late(Duration::from_millis(2), Box::new(fault));
    // While the front stands still, the second part turns out to be all of the blob, and then the third one fails.
    trial.registry.fail_range(&range(0), &trial.digest, Fault::StallAfter(HELD_AT), 1);
    trial.registry.fail_range(&range(1), &trial.digest, Fault::IgnoreRange, 1);
    trial.registry.fail_range(&range(2), &trial.digest, late(Fault::Status(429, vec![])), 1);
    trial.succeeds().await;
    let again = format!("bytes={MIB}-{}", 3 * MIB - 1);
    assert!(trial.ranges().contains(&again), "the front asks for the rest alone: {:?}", trial.ranges());
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_ranges_halfway_is_still_read_right() {
    for (name, fault) in [
        ("ignored", Fault::IgnoreRange),
        ("too busy", Fault::Status(429, vec![])),
        ("refused", Fault::Status(416, vec![])),
        ("of another place", Fault::ContentRange("bytes 1-1048576/5242880".into())),
        ("of another blob", Fault::ContentRange("bytes 1048576-2097151/9".into())),
    ] {
        let trial = Trial::begin(5 * MIB, in_parts).await;
        trial.registry.fail(&trial.digest, Fault::Headers(vec![]), 1);
        trial.fail(fault, 2);
        let pull = trial.succeeds().await;
        assert_eq!(pull.attempt, 1, "{name}");
        assert_eq!(trial.ranges()[0], "bytes=0-1048575", "{name}");
        trial.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_is_never_more_than_there_is_whoever_forgets_ranges_behind_a_gap() {
    let patient = |settings: &mut Settings| {
        in_parts(settings);
        settings.patience.header = LONG;
    };
    let trial = Trial::begin(5 * MIB, patient).await;
    let range = |part: usize| format!("bytes={}-{}", part * MIB, (part + 1) * MIB - 1);
    let late = |millis, fault| Fault::Late(Duration::from_millis(millis), Box::new(fault));
    // The third part turns out to be all of the blob before its turn, and is left to the front. Then the fourth does so,
    // when the first two are here.
    trial.registry.fail_range(&range(1), &trial.digest, late(1, Fault::Headers(vec![])), 1);
    trial.registry.fail_range(&range(2), &trial.digest, Fault::IgnoreRange, 1);
    trial.registry.fail_range(&range(3), &trial.digest, late(4, Fault::IgnoreRange), 1);
    trial.succeeds().await;
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_answer_that_lies_about_its_range_is_not_taken() {
    for (fault, code, ranges) in [
        (Fault::ContentRange("bytes 0-1048575/99".into()), None, vec!["bytes=0-1048575", ""]),
        (Fault::ContentRange("bytes 0-1048576/3145728".into()), None, vec!["bytes=0-1048575", ""]),
        (Fault::Without("Content-Range"), None, vec!["bytes=0-1048575", ""]),
        (
            Fault::Status(416, vec![]),
            Some(JobErrorCode::UpstreamMismatch),
            vec!["bytes=0-1048575", "bytes=0-1048575"],
        ),
    ] {
        let trial = Trial::begin(3 * MIB, in_parts).await;
        // Without a range it would have told the truth.
        trial.fail(fault.clone(), ranges.len() - usize::from(code.is_none()));
        match code {
            None => drop(trial.succeeds().await),
            Some(code) => assert_eq!(trial.fails().await, code, "{fault:?}"),
        }
        assert_eq!(trial.ranges(), ranges, "{fault:?}");
        trial.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_shorter_than_asked_for_are_taken_if_they_are_worth_it() {
    let trial = Trial::begin(3 * MIB, in_parts).await;
    trial.fail(Fault::AtMost(500_000), usize::MAX);
    trial.succeeds().await;
    assert_eq!((trial.sent(), trial.ranges().len()), (3 * MIB as u64, 9));
    trial.end().await;
    let trial = Trial::begin(3 * MIB, in_parts).await;
    trial.fail(Fault::AtMost(1_000), usize::MAX);
    assert_eq!(trial.fails().await, JobErrorCode::UpstreamUnreachable);
    // Three attempts; whether the other parts are asked for as well before they fail is theirs to say.
    let front: Vec<_> = trial.ranges().into_iter().filter(|range| range.ends_with("-1048575")).collect();
    assert_eq!(front, ["bytes=0-1048575", "bytes=1000-1048575", "bytes=2000-1048575"]);
    trial.end().await;
}

/// A pull of four parts whose first stands still after so many bytes, while the others come.
const HELD_AT: usize = 300_000;

impl Trial {
    pub async fn hold_the_front(settings: impl FnOnce(&mut Settings)) -> Trial {
        let trial = Trial::begin(4 * MIB, |given| {
            in_parts(given);
            given.patience.stall = LONG;
            settings(given);
        })
        .await;
        trial.registry.fail(&trial.digest, Fault::StallAfter(HELD_AT), 1);
        trial
    }

    pub async fn all_but_the_front(&self, id: &str) {
        let there = (HELD_AT + 3 * MIB) as u64;
        self.server.find_running(id, |pull| pull.blobs.iter().any(|blob| blob.offset == there)).await;
    }

    /// What was asked for since the first four requests: the rest of the front, and nothing else.
    fn only_the_front_was_missing(&self) {
        assert_eq!(self.ranges()[4..], [format!("bytes={HELD_AT}-{}", MIB - 1)]);
        assert_eq!(self.sent(), 4 * MIB as u64, "every byte came once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_came_before_their_turn_outlive_a_failed_pull() {
    let trial = Trial::hold_the_front(|given| {
        given.patience.stall = Duration::from_millis(500);
        (given.retry.max_attempts, given.retry.attempts_once_answered) = (1, 1);
        // The cut is worth nothing: what is left of the front is not asked for at once.
        given.retry.progress_bytes = u64::MAX;
    })
    .await;
    assert_eq!(trial.fails().await, JobErrorCode::UpstreamUnreachable);
    let pull = trial.succeeds().await;
    assert_eq!(pull.progress.bytes_resumed, (HELD_AT + 3 * MIB) as u64);
    trial.only_the_front_was_missing();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_came_before_their_turn_outlive_a_stop() {
    let mut trial = Trial::hold_the_front(|_| ()).await;
    let id = trial.start().await;
    trial.all_but_the_front(&id).await;
    trial.server.stop().await;
    trial.server = Server::start_with(trial.directory.path(), in_parts).await;
    let pull = trial.server.jobs.wait("default", &id, LONG).await.expect("its end");
    assert_eq!((pull.state, pull.attempt), (JobState::Succeeded, 2), "{pull:?}");
    assert_eq!((pull.progress.bytes_network, pull.progress.bytes_reused), ((MIB - HELD_AT) as u64, 0));
    assert!(trial.server.read(&trial.digest).await == trial.layer);
    trial.only_the_front_was_missing();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_forgotten_ranges_since_a_stop_is_read_from_its_beginning() {
    let mut trial = Trial::hold_the_front(|_| ()).await;
    let id = trial.start().await;
    trial.all_but_the_front(&id).await;
    trial.server.stop().await;
    trial.registry.fail(&trial.digest, Fault::IgnoreRange, usize::MAX);
    trial.server = Server::start_with(trial.directory.path(), in_parts).await;
    let pull = trial.server.jobs.wait("default", &id, LONG).await.expect("its end");
    assert_eq!(pull.state, JobState::Succeeded, "{pull:?}");
    let progress = pull.progress;
    assert_eq!(progress.bytes_done, progress.bytes_total, "nothing is counted twice: {progress:?}");
    assert!(trial.server.read(&trial.digest).await == trial.layer);
    assert_eq!(trial.ranges().len(), 5);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_as_many_at_once_as_is_allowed() {
    type Change = fn(&mut Settings, &mut PullRequest);
    let changes: [(usize, Change); 5] = [
        (8, |_, _| ()),
        (2, |settings, _| settings.crowd = Crowd { host: 2, total: 64 }),
        (3, |settings, _| settings.crowd = Crowd { host: 64, total: 3 }),
        (4, |_, asked| asked.max_concurrency = Some(4)),
        (2, |settings, _| (settings.parts.at_once, settings.layers) = (1, 8)),
    ];
    for (most, change) in changes {
        let (registry, directory) = (FixtureRegistry::start().await, directory());
        let layers = [layer(1, 5 * MIB), layer(2, 5 * MIB)];
        registry.push_image("app", Some("v1"), "linux/amd64", &[&layers[0], &layers[1]]);
        let mut asked = ask(format!("{}/app:v1", registry.host()));
        let server = Server::start_with(directory.path(), |settings| {
            in_parts(settings);
            (settings.patience.stall, settings.layers) = (LONG, 8);
            change(settings, &mut asked);
        })
        .await;
        // No answer comes to its end: whoever may be asked at once is asked at once.
        let drip = Fault::Drip(Duration::from_millis(10));
        layers.iter().for_each(|layer| registry.fail(&sha256(layer), drip.clone(), usize::MAX));
        let created = server.jobs.create_pull(&caller("default"), &asked, None).await.expect("a pull");
        let Created::New(pull) = created else { panic!("nothing else runs") };
        server.find_running(&pull.id, |_| registry.most_at_once() >= most).await;
        server.stop().await;
        assert_eq!(registry.most_at_once(), most);
    }
}
