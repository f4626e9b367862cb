//! The page of a pull with made-up data: what it says, and what it must never do.

use std::collections::BTreeMap;

use super::*;
use crate::http::ui::Login;
use crate::http::ui::failure::tests::body_of;
use crate::http::ui::front::tests::{HOSTILE, NOW, before, lease, progress, pull, write_page};
use crate::jobs::{BlobRole, LayerUnpack, PullBlob, PullProgress, PullWait, UnpackState};
use crate::oci::{Algorithm, Digest};
use crate::store::Target;

const MIB: u64 = 1 << 20;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn blob(role: BlobRole, media_type: &str, state: BlobState, offset: u64, size: u64) -> PullBlob {
    let digest = Digest::of(Algorithm::Sha256, format!("{media_type} {size}").as_bytes());
    PullBlob {
        digest,
        media_type: media_type.to_owned(),
        role,
        size,
        offset,
        state,
        wait: None,
        error: None,
        reason: (state == BlobState::Skipped).then(|| "its distribution is restricted".to_owned()),
        unpack: None,
    }
}

fn blobs() -> Vec<PullBlob> {
    vec![
        blob(BlobRole::Index, INDEX, BlobState::Done, 9_318, 9_318),
        blob(BlobRole::Manifest, MANIFEST, BlobState::Exists, 2_150, 2_150),
        blob(BlobRole::Config, CONFIG, BlobState::Done, 8_192, 8_192),
        blob(BlobRole::Layer, LAYER, BlobState::Exists, 318 * MIB, 318 * MIB),
        blob(BlobRole::Layer, LAYER, BlobState::Downloading, 220 * MIB, 400 * MIB),
        blob(BlobRole::Layer, LAYER, BlobState::Verifying, 192 * MIB, 192 * MIB),
        blob(BlobRole::Layer, LAYER, BlobState::Waiting, 0, 70 * MIB),
        blob(
            BlobRole::Layer,
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            BlobState::Skipped,
            0,
            12 * MIB,
        ),
    ]
}

fn sample(state: JobState) -> Pull {
    let shown = progress(980 * MIB, 318 * MIB, 20 * MIB, 392 * MIB, 9);
    let mut sample = pull("1", "registry.example/team/app/web:1.8", state, shown);
    sample.attempt = 2;
    sample.started_at = Some(before(12));
    sample.lease_id = Some("pull-01kakb2v3w4x5y6z7a8b9c0d1e".to_owned());
    sample.labels = BTreeMap::from([("team".to_owned(), "harbour".to_owned())]);
    sample.target = Some(Target {
        media_type: INDEX.to_owned(),
        digest: format!("sha256:{}", "4f1c9b20a7e3d5c6".repeat(4)),
        size: 9_318,
        annotations: BTreeMap::new(),
    });
    sample.blobs = blobs();
    sample
}

fn failed() -> Pull {
    let mut failed = sample(JobState::Failed);
    let error = JobError {
        code: JobErrorCode::UpstreamDenied,
        detail: "registry.example: the registry asked for credentials (status 401)".to_owned(),
        hint: Some(
            "the image may be private, or not exist: many registries do not tell the two apart".to_owned(),
        ),
        host: Some("registry.example".to_owned()),
        status: Some(401),
    };
    failed.error = Some(error.clone());
    failed.blobs[4].state = BlobState::Failed;
    failed.blobs[4].error = Some(error);
    failed.blobs[5].state = BlobState::Waiting;
    failed
}

fn page_of(pull: &Pull) -> PullPage {
    let login = Login { name: "ann".to_owned(), csrf: "c0ffee".to_owned() };
    let shell = Shell { login: Some(login), ..Shell::plain(Place::Elsewhere) };
    let lines = ShellLines::new(pull, "http://127.0.0.1:7070", true);
    let held = pull.lease_id.as_ref().map(|id| lease(id, "pull", Some(431), &[]));
    PullPage::new(shell, true, pull, held.as_ref(), lines, NOW)
}

async fn html(page: &PullPage) -> String {
    body_of(render(StatusCode::OK, page).expect("a page")).await
}

#[track_caller]
fn assert_has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted}");
    }
}

#[tokio::test]
async fn a_running_pull_shows_its_numbers_its_blobs_and_how_to_stop_it() {
    let text = html(&page_of(&sample(JobState::Running))).await;
    assert_has(
        &text,
        &["registry.example/team/app/web:1.8", "↓", "running", "fetching", "attempt 2", "12 s ago"],
    );
    assert_has(&text, &["730 MiB of 980 MiB", "74 %", "62.0 MiB/s", "0:04", "9 of 14 blobs"]);
    assert_has(&text, &["width=\"32.4%\"", "x=\"32.4%\" width=\"2.0%\"", "x=\"34.4%\" width=\"40.0%\""]);
    assert_has(&text, &["pull-01kakb2v3w4x5y6z7a8b9c0d1e", "7 m 11 s"]);
    assert_has(&text, &["OCI index of manifests", "tar archive, gzip", "220 MiB of 400 MiB", "55 %"]);
    for state in ["waiting", "exists", "downloading", "verifying", "done", "skipped"] {
        assert!(text.contains(&format!("data-k=\"word\">{state}</span>")), "{state}");
    }
    assert_has(&text, &["its distribution is restricted", "team=harbour"]);
    let mut unpacked = sample(JobState::Running);
    let state = UnpackState::Unpacking;
    unpacked.blobs[3].unpack = Some(LayerUnpack { state, offset: 159 * MIB, snapshot: None });
    assert_has(&html(&page_of(&unpacked)).await, &["data-k=\"unpack\">unpacking, 50 %</span>"]);
    assert_has(&text, &["data-do=\"cancel\" disabled", "name=\"orlop-csrf\" content=\"c0ffee\""]);
    assert_has(&text, &["<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>"]);
    assert_has(&text, &["orlop pulls cancel pull_00000000000000000000000001"]);
    assert!(!text.contains("data-do=\"retry\"") && !text.contains("Nothing has arrived"));
}

#[tokio::test]
async fn silence_is_told_in_words_and_a_total_that_may_grow_is_told_as_such() {
    let mut silent = sample(JobState::Running);
    silent.progress.stalled_seconds = 12;
    silent.progress.bytes_total_final = false;
    let text = html(&page_of(&silent)).await;
    assert_has(&text, &["Nothing has arrived for 12 s.", "9 of 14 known so far", "730 MiB of ≥ 980 MiB"]);
    let share = text.split("<dt>Share</dt>").nth(1).expect("its share");
    assert!(share.starts_with("<dd class=\"num\" data-k=\"percent\">–</dd>"), "{}", &share[..80]);
    silent.progress = PullProgress::default();
    (silent.blobs, silent.target, silent.attempt) = (Vec::new(), None, 0);
    (silent.state, silent.started_at) = (JobState::Queued, None);
    let text = html(&page_of(&silent)).await;
    assert_has(&text, &["waits for its turn", "asked for", "No blob is known yet"]);
    assert!(!text.contains("leads to"));
}

#[tokio::test]
async fn a_pull_that_ended_before_its_blobs_were_known_shows_no_share_of_them() {
    let mut early = sample(JobState::Failed);
    early.progress.bytes_total_final = false;
    early.progress.bytes_total = early.progress.bytes_done;
    let text = html(&page_of(&early)).await;
    assert_has(&text, &["730 MiB of unknown"]);
    let share = text.split("<dt>Share</dt>").nth(1).expect("its share");
    assert!(share.starts_with("<dd class=\"num\" data-k=\"percent\">–</dd>"), "{}", &share[..80]);
}

#[tokio::test]
async fn what_waits_says_for_what_and_what_was_chosen_is_told() {
    let mut waits = sample(JobState::Running);
    waits.progress.waiting_until = Some(before(-300));
    waits.progress.stalled_seconds = 12;
    waits.blobs[6].wait = Some(PullWait { until: None, reason: "another pull fetches it".to_owned() });
    let chosen = ["application/spdx+json".to_owned()].into();
    waits.selection = Selection { referrers: true, referrer_types: chosen, ..Selection::default() };
    waits.max_concurrency = Some(2);
    let text = html(&page_of(&waits)).await;
    assert_has(&text, &[&format!("Everything waits until {}.", show::utc(before(-300)))]);
    assert_has(&text, &["data-k=\"why\">another pull fetches it</span>"]);
    assert_has(&text, &["what refers to it, of application/spdx+json", "at most 2"]);
    assert!(
        !text.contains("Nothing has arrived") && !html(&page_of(&failed())).await.contains("<dt>Takes</dt>")
    );
}

#[tokio::test]
async fn a_pull_of_every_platform_names_none() {
    let mut every = sample(JobState::Running);
    (every.platforms, every.selection.all_platforms) = (Vec::new(), true);
    assert_eq!(PullView::new(&every, NOW).note, "every platform · 9 of 14 blobs");
    assert_has(&html(&page_of(&every)).await, &["<dt>Platforms</dt><dd>every platform</dd>"]);
    every.selection = Selection::default();
    assert_eq!(PullView::new(&every, NOW).note, "this server's platform · 9 of 14 blobs");
}

#[test]
fn a_selection_is_told_in_words() {
    let all = Selection {
        all_platforms: true,
        foreign_layers: ForeignLayers::Fetch,
        convert_schema1: true,
        ..Selection::default()
    };
    let words = "every platform, with attestations; layers of restricted distribution too; schema 1 turned into an \
                 OCI manifest";
    assert_eq!(selection_in_words(&all), words);
    assert_eq!(selection_in_words(&Selection::default()), "");
}

#[tokio::test]
async fn a_failed_pull_says_why_and_what_a_retry_keeps() {
    let text = html(&page_of(&failed())).await;
    assert_has(&text, &["Denied by the registry", "asked for credentials (status 401)", "may be private"]);
    assert_has(
        &text,
        &["<code>registry.example</code>", "<code>401</code>", "href=\"/problems/upstream-denied\""],
    );
    assert_has(&text, &["A retry goes on with the 730 MiB that are here.", "data-do=\"retry\" disabled"]);
    let reason = "data-k=\"why\">registry.example: the registry asked for credentials (status 401)</span>";
    assert_has(&text, &[reason, "orlop pulls retry pull_00000000000000000000000001"]);
    assert!(!text.contains("http-equiv=\"refresh\"") && !text.contains("data-do=\"cancel\""));
}

#[tokio::test]
async fn nobody_is_promised_what_no_lease_holds() {
    let mut pull = failed();
    pull.lease_id = None;
    assert_has(
        &html(&page_of(&pull)).await,
        &["730 MiB had arrived; a retry goes on with what is still here."],
    );
    pull.progress = PullProgress::default();
    assert_has(&html(&page_of(&pull)).await, &["Nothing had arrived yet."]);
}

#[tokio::test]
async fn a_failure_of_the_server_itself_is_a_problem_too() {
    let mut pull = failed();
    pull.error = None;
    let text = html(&page_of(&pull)).await;
    assert_has(&text, &["Internal error", "under the id of this pull", "href=\"/problems/internal\""]);
}

/// Every reason that a pull can have leads to a page that explains it.
#[test]
fn every_reason_has_its_page() {
    let contract: serde_json::Value =
        serde_norway::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml")))
            .expect("YAML");
    let codes = contract.pointer("/components/schemas/JobErrorCode/enum").and_then(|codes| codes.as_array());
    for code in codes.expect("the codes") {
        assert!(problems::find(code.as_str().expect("a code")).is_some(), "{code}");
    }
    assert_eq!(code_of(JobErrorCode::UpstreamForbiddenAddress), "upstream-forbidden-address");
}

#[tokio::test]
async fn a_pull_that_has_succeeded_says_how_to_read_it() {
    let mut done = sample(JobState::Succeeded);
    done.namespace = "team-a".to_owned();
    let key = Digest::of(Algorithm::Sha256, b"top");
    done.snapshots = vec![ImageSnapshot {
        key: key.clone(),
        manifest: done.blobs[1].digest.clone(),
        platform: Some("linux/amd64".to_owned()),
    }];
    let text = html(&page_of(&done)).await;
    let digest = format!("sha256:{}", "4f1c9b20a7e3d5c6".repeat(4));
    assert_has(&text, &["<code>pull-01kakb2v3w4x5y6z7a8b9c0d1e</code>, until <time"]);
    assert_has(&text, &[&format!("<dt>Snapshot</dt><dd class=\"mono whole\">{key} (linux/amd64)</dd>")]);
    assert_has(&text, &["The image is here", &format!("orlop --namespace team-a get {digest}")]);
    let curl = format!(
        "curl -H &#34;Authorization: Bearer $ORLOP_TOKEN&#34; \
         &#39;http://127.0.0.1:7070/api/v1/content/{digest}/data?namespace=team-a&#39;"
    );
    assert_has(&text, &[&curl]);
    assert!(!text.contains("data-do=") && !text.contains("http-equiv=\"refresh\""));
}

#[tokio::test]
async fn a_pull_without_a_lease_says_so_once_and_commands_ask_this_very_server() {
    let mut done = sample(JobState::Succeeded);
    done.lease_id = None;
    let mut page = page_of(&done);
    page.shell_lines = ShellLines::new(&done, "https://store.example", false);
    let text = html(&page).await;
    assert_has(&text, &["none: its name keeps it", "Nothing was said of it."]);
    assert_has(&text, &["orlop --server &#39;https://store.example&#39; get sha256:"]);
    assert!(!text.contains("This pull has no lease") && !text.contains("Its trace"));
    page.trace = Some("/api/v1/pulls/pull_1/trace".to_owned());
    assert_has(&html(&page).await, &["<a href=\"/api/v1/pulls/pull_1/trace\">Its trace</a>"]);
}

#[tokio::test]
async fn hostile_text_of_a_registry_stays_text() {
    let mut bad = failed();
    bad.reference = HOSTILE.to_owned();
    bad.image_name = HOSTILE.to_owned();
    bad.platforms = vec![HOSTILE.to_owned()];
    bad.labels = BTreeMap::from([(HOSTILE.to_owned(), HOSTILE.to_owned())]);
    let error = JobError {
        code: JobErrorCode::UpstreamBadAnswer,
        detail: HOSTILE.to_owned(),
        hint: Some(HOSTILE.to_owned()),
        host: Some(HOSTILE.to_owned()),
        status: Some(200),
    };
    bad.error = Some(error.clone());
    bad.blobs[0].media_type = HOSTILE.to_owned();
    bad.blobs[4].error = Some(error);
    bad.log = vec![PullLog { at: before(3), level: LogLevel::Warn, message: HOSTILE.to_owned() }];
    let mut page = page_of(&bad);
    page.shell.login = Some(Login { name: HOSTILE.to_owned(), csrf: HOSTILE.to_owned() });
    page.shell_lines = ShellLines::new(&bad, HOSTILE, false);
    page.lease = Some(LeaseView { id: HOSTILE.to_owned(), ends: None });
    for state in [JobState::Failed, JobState::Succeeded] {
        bad.state = state;
        page.ending = Ending::new(&bad, None);
        let text = html(&page).await;
        assert!(!text.contains("<script>") && !text.contains("<img src=x") && !text.contains("alert(1)</"));
        assert!(text.contains("&#60;script&#62;alert(1)"));
    }
}

#[tokio::test]
async fn nothing_on_the_page_needs_what_the_content_policy_forbids() {
    for pull in [sample(JobState::Running), failed(), sample(JobState::Succeeded)] {
        let text = html(&page_of(&pull)).await;
        assert!(!text.contains("style=\"") && !text.contains("<style") && !text.contains("javascript:"));
        assert!(!text.contains(" onclick") && !text.contains("src=\"http") && !text.contains("href=\"http"));
        assert_eq!(text.matches("<script").count(), 1, "the module, and nothing inline");
    }
}

#[tokio::test]
async fn what_was_said_stands_on_the_page_from_the_beginning() {
    let empty = html(&page_of(&failed())).await;
    assert!(empty.contains(r#"aria-live="off" hidden></ol>"#), "{empty}");
    let mut pull = failed();
    for (level, message) in [(LogLevel::Info, "it waits"), (LogLevel::Warn, "r.io: gone")] {
        pull.log.push(PullLog { at: before(3), level, message: message.to_owned() });
    }
    let text = html(&page_of(&pull)).await;
    assert!(text.contains("</time> it waits</li><li data-level=\"warn\">"), "{text}");
    assert!(text.contains("</time> warning: r.io: gone</li></ol>"), "{text}");
    assert!(text.contains(r#"id="no-log" hidden"#));
}

#[tokio::test]
async fn who_may_only_read_gets_no_buttons() {
    for pull in [sample(JobState::Running), failed(), sample(JobState::Cancelled)] {
        let mut page = page_of(&pull);
        page.writes = false;
        let text = html(&page).await;
        assert!(!text.contains("data-do=") && !text.contains("orlop pulls cancel"));
    }
    // What stops already is not stopped once more.
    assert!(!html(&page_of(&sample(JobState::Cancelling))).await.contains("data-do="));
}

#[tokio::test]
async fn of_very_many_blobs_those_that_failed_are_listed_always() {
    let mut many = failed();
    many.blobs = (0..BLOBS as u64 + 20)
        .map(|size| blob(BlobRole::Layer, LAYER, BlobState::Done, size, size))
        .collect();
    many.blobs[BLOBS + 7].state = BlobState::Failed;
    let text = html(&page_of(&many)).await;
    assert_eq!(text.matches("data-blob=").count(), BLOBS + 1);
    assert_has(
        &text,
        &["And 19 more", "data-full", &format!("data-blob=\"{}\"", many.blobs[BLOBS + 7].digest)],
    );
}

#[tokio::test]
async fn the_pages_of_pulls_can_be_looked_at() {
    for state in [JobState::Running, JobState::Cancelled, JobState::Succeeded] {
        let name = format!("pull-{}.html", state.as_str());
        write_page(&name, &html(&page_of(&sample(state))).await);
    }
    write_page("pull-failed.html", &html(&page_of(&failed())).await);
}
