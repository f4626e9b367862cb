//! The front page with made-up data: what it says, and what it must never do.

use std::collections::BTreeMap;

use super::*;
use crate::http::extract::Path;
use crate::http::ui::failure::tests::body_of;
use crate::http::ui::{Login, docs, problems};
use crate::jobs::{JobError, JobErrorCode, JobState, Phase, PullProgress};
use crate::store::Target;

pub const NOW: Time = Time(1_795_255_200_000_000);
pub const HOSTILE: &str = "\"><script>alert(1)</script>'&<img src=x onerror=alert(2)>";

pub fn before(seconds: i64) -> Time {
    Time(NOW.0 - seconds * 1_000_000)
}

fn usage() -> Usage {
    Usage {
        blobs: 12_480,
        damaged_blobs: 0,
        records: 14_002,
        images: 38,
        ingests: 1,
        leases: 6,
        namespaces: 2,
        on_disk_bytes: 195_850_000_000,
        ingest_bytes: 0,
        logical_bytes: 656_100_000_000,
        saved_bytes: 460_250_000_000,
        free_bytes: 126_700_000_000,
        capacity_bytes: 436_900_000_000,
        measured_at: NOW,
    }
}

pub fn pull(id: &str, reference: &str, state: JobState, progress: PullProgress) -> Pull {
    Pull {
        id: format!("pull_{id:0>26}"),
        kind: "pull",
        namespace: "default".to_owned(),
        reference: reference.to_owned(),
        platforms: vec!["linux/amd64".to_owned()],
        insecure: false,
        selection: Default::default(),
        max_concurrency: None,
        image_name: reference.to_owned(),
        state,
        phase: (state == JobState::Running).then_some(Phase::Fetching),
        attempt: 1,
        error: None,
        created_at: before(12),
        started_at: None,
        finished_at: state.is_final().then_some(NOW),
        labels: BTreeMap::new(),
        target: None,
        converted_from: None,
        lease_id: None,
        image_id: None,
        snapshots: Vec::new(),
        progress,
        blobs: Vec::new(),
        log: Vec::new(),
    }
}

pub fn progress(total: u64, reused: u64, resumed: u64, network: u64, blobs_done: u64) -> PullProgress {
    PullProgress {
        bytes_total: total,
        bytes_total_final: true,
        bytes_done: reused + resumed + network,
        bytes_network: network,
        bytes_resumed: resumed,
        bytes_reused: reused,
        blobs_total: 14,
        blobs_done,
        rate_bps: 65_011_712,
        eta_seconds: Some(4),
        stalled_seconds: 0,
        waiting_until: None,
    }
}

fn pulls() -> Vec<Pull> {
    const MIB: u64 = 1 << 20;
    let web = progress(980 * MIB, 318 * MIB, 20 * MIB, 392 * MIB, 9);
    let model = progress(13_422 * MIB, 0, 0, 812 * MIB, 1);
    let done = PullProgress { eta_seconds: None, ..progress(412 * MIB, 292 * MIB, 0, 120 * MIB, 14) };
    let mut failed = pull("4", "registry.example/models/llm:7b", JobState::Failed, PullProgress::default());
    failed.error = Some(JobError {
        code: JobErrorCode::UpstreamDenied,
        detail: "registry.example: the registry asked for credentials (status 401)".to_owned(),
        hint: None,
        host: Some("registry.example".to_owned()),
        status: Some(401),
    });
    vec![
        pull("1", "registry.example/team/app/web:1.8", JobState::Running, web),
        pull(
            "2",
            "ghcr.io/example-organisation/models/large-language-model:7b-instruct",
            JobState::Running,
            model,
        ),
        pull("3", "alpine", JobState::Queued, PullProgress::default()),
        failed,
        pull("5", "docker.io/library/postgres:17", JobState::Succeeded, done),
        pull(
            "6",
            "docker.io/library/debian:trixie-slim",
            JobState::Cancelled,
            progress(31 * MIB, 0, 0, 9 * MIB, 2),
        ),
    ]
}

fn image(name: &str, media_type: &str, age: i64) -> Image {
    Image {
        id: "img_01kakb2v3w4x5y6z7a8b9c0d1e".to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        target: Target {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", "4f1c9b20a7e3d5c6".repeat(4)),
            size: 1047,
            annotations: BTreeMap::new(),
        },
        labels: BTreeMap::new(),
        created_at: before(age),
        updated_at: before(age),
    }
}

pub fn lease(id: &str, kind: &str, left: Option<i64>, labels: &[(&str, &str)]) -> Lease {
    Lease {
        id: id.to_owned(),
        namespace: "default".to_owned(),
        kind: kind.to_owned(),
        expires_at: left.map(|left| before(-left)),
        expires_in_seconds: left,
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        flat: false,
        created_at: before(80_000),
        updated_at: before(80_000),
    }
}

fn front(pulls: &[Pull], images: &[Image], leases: &[Lease]) -> Front {
    let login = Login { name: "ann".to_owned(), csrf: "c0ffee".to_owned() };
    Front {
        shell: Shell { login: Some(login), ..Shell::plain(Place::Overview) },
        namespace: "default".to_owned(),
        now: NOW,
        writes: true,
        token_needed: false,
        base: "http://127.0.0.1:7070".to_owned(),
        usage: UsageView::new(&usage()),
        busy: pulls.iter().any(|pull| !pull.state.is_final()),
        pulls: pulls.iter().map(|pull| PullView::new(pull, NOW)).collect(),
        blank: PullView::blank(),
        server_flag: String::new(),
        images: images.iter().map(|image| ImageView::new(image, NOW)).collect(),
        leases: leases.iter().map(|lease| LeaseView::new(lease, NOW)).collect(),
        more_images: images.len() > 3,
        more_leases: false,
    }
}

fn full() -> Front {
    let oci = "application/vnd.oci.image.index.v1+json";
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let images = [
        image("docker.io/library/postgres:17", oci, 240),
        image("registry.example/team/app/web:1.7", docker, 90_000),
        image("ghcr.io/example-organisation/models/large-language-model:7b-instruct", oci, 400_000),
        image("docker.io/library/alpine:3.22", oci, 900_000),
    ];
    let leases = [
        lease("grace-01kakb2v3w4x5y6z7a8b9c0d1e", "grace", Some(431), &[]),
        lease("ci-4711", "user", Some(7_800), &[("team", "harbour"), ("build", "4711")]),
        lease("pull-01kakb2v3w4x5y6z7a8b9c0d1e", "pull", Some(86_000), &[]),
        lease("golden", "user", None, &[]),
    ];
    front(&pulls(), &images, &leases)
}

async fn html(page: &Front) -> String {
    body_of(render(StatusCode::OK, page).expect("a page")).await
}

#[tokio::test]
async fn the_page_shows_what_is_stored_what_runs_and_what_ends() {
    let text = html(&full()).await;
    for expected in
        ["182 GiB", "3.3×", "12\u{202f}480 blobs", "71", "62.0 MiB/s", "0:04", "74 %", "7 m 11 s", "never"]
    {
        assert!(text.contains(expected), "{expected}");
    }
    assert!(text.contains("the registry asked for credentials (status 401)"));
    assert!(text.contains("name=\"orlop-csrf\" content=\"c0ffee\""));
    let page = "href=\"/pulls/pull_00000000000000000000000001?namespace=default\"";
    assert!(text.contains(page), "a pull leads to its page");
    assert!(
        text.contains("<noscript><meta http-equiv=\"refresh\""),
        "a page with running pulls reloads itself"
    );
}

#[tokio::test]
async fn hostile_names_and_labels_stay_text() {
    let mut bad = pull("1", HOSTILE, JobState::Failed, PullProgress::default());
    bad.platforms = vec![HOSTILE.to_owned()];
    bad.error = Some(JobError {
        code: JobErrorCode::Internal,
        detail: HOSTILE.to_owned(),
        hint: None,
        host: None,
        status: None,
    });
    let mut page =
        front(&[bad], &[image(HOSTILE, HOSTILE, 1)], &[lease(HOSTILE, HOSTILE, None, &[(HOSTILE, HOSTILE)])]);
    page.shell.login = Some(Login { name: HOSTILE.to_owned(), csrf: HOSTILE.to_owned() });
    page.base = HOSTILE.to_owned();
    let text = html(&page).await;
    assert!(!text.contains("<script>") && !text.contains("<img src=x") && !text.contains("alert(1)</"));
    assert!(text.contains("&#60;script&#62;alert(1)"));
}

#[tokio::test]
async fn nothing_on_the_page_needs_what_the_content_policy_forbids() {
    let text = html(&full()).await;
    assert!(!text.contains("style=\"") && !text.contains("<style") && !text.contains("javascript:"));
    assert!(!text.contains(" onclick") && !text.contains("src=\"http") && !text.contains("href=\"http"));
    assert_eq!(text.matches("<script").count(), 1, "the module, and nothing inline");
}

#[tokio::test]
async fn who_may_only_read_gets_no_form_and_an_empty_store_says_what_to_do() {
    let mut page = front(&[], &[], &[]);
    page.writes = false;
    let text = html(&page).await;
    assert!(!text.contains("<form class=\"pull\""));
    page.writes = true;
    let text = html(&page).await;
    assert!(text.contains("Nothing pulled yet") && text.contains("orlop pull docker.io/library/alpine"));
    assert!(!text.contains("http-equiv=\"refresh\""));
}

/// Writes a page where a person, or a browser without a server, can look at it.
pub fn write_page(name: &str, text: &str) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pages");
    std::fs::create_dir_all(&folder).expect("a folder");
    let text = text.replace("\"/static/", "\"../../web/static/");
    std::fs::write(folder.join(name), text).expect("written");
}

#[tokio::test]
async fn the_pages_can_be_looked_at() {
    write_page("front.html", &html(&full()).await);
    write_page("empty.html", &html(&front(&[], &[], &[])).await);
    write_page("docs.html", &body_of(docs::page().await.expect("the page")).await);
    write_page("problems.html", &body_of(problems::index().await.expect("the page")).await);
    let problem = problems::page(Path("offset-mismatch".to_owned())).await;
    write_page("problem.html", &body_of(problem.expect("the page")).await);
}
