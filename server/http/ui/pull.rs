//! `GET /pulls/{id}`: one pull with its blobs, live; why it failed, or how to read what it brought.

mod blob;
pub mod view;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;

use self::blob::BlobView;
use self::view::{PullView, platforms_in_words};
use super::prose::{self, Line, Span};
use super::show::{self, Ends, Moment, plural};
use super::{Place, Shell, base_of, page as render, server_flag};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::access::Identity;
use crate::http::error::ApiError;
use crate::http::extract::Path;
use crate::http::problems;
use crate::id::PullId;
use crate::jobs::{
    BlobState, ForeignLayers, ImageSnapshot, JobError, JobErrorCode, JobState, LogLevel, Pull, PullLog,
    Selection,
};
use crate::store::{Caller, DEFAULT_NAMESPACE, Lease, Scope};

/// So many blobs are listed, and every one that failed: more than an image has, and a page that a browser can bear.
const BLOBS: usize = 500;
/// Seconds without a byte that are worth a word.
const STALLED_AFTER: u64 = 5;

#[derive(Template)]
#[template(path = "pull.html")]
struct PullPage {
    shell: Shell,
    namespace: String,
    now: Time,
    /// Whether the caller may cancel or retry.
    writes: bool,
    pull: PullView,
    /// What the reference led to, once that is known.
    digest: Option<String>,
    attempt: u64,
    started: Option<Moment>,
    finished: Option<Moment>,
    /// How many of its blobs are here.
    blobs: String,
    /// Why nothing arrives, or for how long, if that is worth a word.
    silence: String,
    lease: Option<LeaseView>,
    ending: Ending,
    rows: Vec<BlobView>,
    /// Blobs that the page has no room for.
    more_blobs: usize,
    log: Vec<LogView>,
    /// Where its requests are to be read, if it remembers them.
    trace: Option<String>,
    request: RequestView,
    shell_lines: ShellLines,
}

/// A line of what was said of the pull.
struct LogView {
    at: Moment,
    is_warning: bool,
    message: String,
}

/// What the top card says.
enum Ending {
    /// Nothing: it goes on.
    None,
    Problem(ProblemView),
    /// With what a retry starts from.
    Cancelled(String),
    Result {
        image_name: String,
        digest: String,
        /// The digest that the registry has it by, where it was converted.
        converted_from: Option<String>,
        /// The keys of its snapshots, each with its platform.
        snapshots: Vec<(String, String)>,
    },
}

struct ProblemView {
    code: String,
    title: &'static str,
    detail: Line,
    hint: Line,
    host: Option<String>,
    status: Option<u16>,
    /// What a retry starts from.
    left: String,
}

struct LeaseView {
    id: String,
    /// `None`: never.
    ends: Option<Ends>,
}

/// What was asked for.
struct RequestView {
    /// What of the image, beside the platforms; empty where that is the usual.
    selection: String,
    /// The most requests at once.
    at_once: Option<usize>,
    reference: String,
    image_name: String,
    platforms: String,
    insecure: bool,
    labels: Vec<(String, String)>,
}

pub async fn page(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<PullId>,
    parts: Parts,
) -> Result<Response, ApiError> {
    let identity = Identity::of(&parts);
    let pull = state.jobs.find(&caller.namespace, &id).await?;
    let lease = find_lease(&state, &pull).await?;
    let trace = match state.jobs.trace(&pull.namespace, &pull.id).await {
        Ok(_) => Some(format!("/api/v1/pulls/{}/trace?namespace={}", pull.id, pull.namespace)),
        Err(Error::Conflict(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let now = state.clock.now();
    let shell_lines = ShellLines::new(&pull, &base_of(&parts), state.auth_required);
    let writes = identity.scope() >= Some(Scope::Write);
    let shell = Shell::new(Place::Elsewhere, &identity);
    let page = PullPage { trace, ..PullPage::new(shell, writes, &pull, lease.as_ref(), shell_lines, now) };
    render(StatusCode::OK, &page)
}

/// The lease that holds what the pull brings, if there is one still.
async fn find_lease(state: &AppState, pull: &Pull) -> Result<Option<Lease>> {
    let Some(id) = &pull.lease_id else { return Ok(None) };
    match state.store.find_lease(&pull.namespace, id).await {
        Ok(lease) => Ok(Some(lease)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl PullPage {
    fn new(
        shell: Shell,
        writes: bool,
        pull: &Pull,
        lease: Option<&Lease>,
        shell_lines: ShellLines,
        now: Time,
    ) -> PullPage {
        let listed = pull.blobs.iter().enumerate();
        let listed = listed.filter(|(place, blob)| *place < BLOBS || blob.state == BlobState::Failed);
        let rows: Vec<BlobView> = listed.map(|(_, blob)| BlobView::new(blob)).collect();
        let at = |time: Option<Time>| time.map(|time| Moment::new(time, now));
        PullPage {
            shell,
            namespace: pull.namespace.clone(),
            now,
            writes,
            digest: pull.target.as_ref().map(|target| target.digest.clone()),
            attempt: pull.attempt,
            started: at(pull.started_at),
            finished: at(pull.finished_at),
            blobs: blobs_in_words(pull),
            silence: silence(pull),
            lease: lease.map(|lease| LeaseView {
                id: lease.id.clone(),
                ends: lease.expires_at.map(|at| Ends::new(at, now)),
            }),
            ending: Ending::new(pull, lease),
            more_blobs: pull.blobs.len() - rows.len(),
            rows,
            log: pull.log.iter().map(|line| LogView::new(line, now)).collect(),
            trace: None,
            request: RequestView {
                selection: selection_in_words(&pull.selection),
                at_once: pull.max_concurrency,
                reference: pull.reference.clone(),
                image_name: pull.image_name.clone(),
                platforms: platforms_in_words(pull),
                insecure: pull.insecure,
                labels: pull.labels.clone().into_iter().collect(),
            },
            pull: PullView::new(pull, now),
            shell_lines,
        }
    }

    /// Whether it can still be stopped.
    fn can_cancel(&self) -> bool {
        self.writes && matches!(self.pull.state, "queued" | "running")
    }
}

impl LogView {
    fn new(line: &PullLog, now: Time) -> LogView {
        let is_warning = line.level == LogLevel::Warn;
        LogView { at: Moment::new(line.at, now), is_warning, message: line.message.clone() }
    }
}

fn blobs_in_words(pull: &Pull) -> String {
    let progress = &pull.progress;
    match (progress.blobs_total, progress.bytes_total_final) {
        (0, _) => show::NONE.to_owned(),
        (total, true) => {
            format!("{} of {}", show::count(progress.blobs_done), plural(total, "blob", "blobs"))
        }
        (total, false) => {
            format!("{} of {} known so far", show::count(progress.blobs_done), show::count(total))
        }
    }
}

fn silence(pull: &Pull) -> String {
    let progress = &pull.progress;
    match (pull.state, progress.waiting_until, progress.stalled_seconds) {
        (JobState::Running, Some(until), _) => format!("Everything waits until {}.", show::utc(until)),
        (JobState::Running, None, seconds) if seconds > STALLED_AFTER => {
            format!("Nothing has arrived for {}.", show::precisely(seconds))
        }
        (_, _, _) => String::new(),
    }
}

fn selection_in_words(selection: &Selection) -> String {
    let Selection { all_platforms, metadata_only, all_metadata, referrers, .. } = *selection;
    let referrers = match selection.referrer_types.as_slice() {
        _ if !referrers => String::new(),
        [] => "what refers to it".to_owned(),
        types => format!("what refers to it, of {}", types.join(", ")),
    };
    let fetches_foreign = selection.foreign_layers == ForeignLayers::Fetch;
    let words = [
        (all_platforms, "every platform, with attestations"),
        (metadata_only, "documents and configs without layers"),
        (all_metadata, "documents and configs of every platform"),
        (!referrers.is_empty(), &referrers),
        (fetches_foreign, "layers of restricted distribution too"),
        (selection.convert_schema1, "schema 1 turned into an OCI manifest"),
    ];
    let said: Vec<&str> = words.into_iter().filter_map(|(is_so, word)| is_so.then_some(word)).collect();
    said.join("; ")
}

impl Ending {
    fn new(pull: &Pull, lease: Option<&Lease>) -> Ending {
        match pull.state {
            JobState::Queued | JobState::Running | JobState::Cancelling => Ending::None,
            JobState::Failed => Ending::Problem(ProblemView::new(pull.error.as_ref(), left(pull, lease))),
            JobState::Cancelled => Ending::Cancelled(left(pull, lease)),
            JobState::Succeeded => Ending::Result {
                image_name: pull.image_name.clone(),
                digest: pull.target.as_ref().map_or(String::new(), |target| target.digest.clone()),
                converted_from: pull.converted_from.as_ref().map(ToString::to_string),
                snapshots: pull.snapshots.iter().map(named_snapshot).collect(),
            },
        }
    }
}

fn named_snapshot(snapshot: &ImageSnapshot) -> (String, String) {
    (snapshot.key.to_string(), snapshot.platform.clone().unwrap_or_default())
}

impl ProblemView {
    /// A row that another version wrote may have lost the reason.
    fn new(error: Option<&JobError>, left: String) -> ProblemView {
        let code = code_of(error.map_or(JobErrorCode::Internal, |error| error.code));
        let kind = problems::find(&code).unwrap_or(problems::INTERNAL);
        let detail = error.map_or(kind.meaning, |error| &error.detail);
        let hint = error.and_then(|error| error.hint.as_deref()).unwrap_or(match kind.code {
            // What helps against these is told for the answer to a request, which this is not.
            "internal" => "The server's log has the cause under the id of this pull.",
            "unavailable" => "Try again in a while.",
            _ => kind.remedy,
        });
        ProblemView {
            title: kind.title,
            detail: prose::line(detail),
            hint: prose::line(hint),
            host: error.and_then(|error| error.host.clone()),
            status: error.and_then(|error| error.status),
            code,
            left,
        }
    }
}

/// The code as the contract writes it.
fn code_of(code: JobErrorCode) -> String {
    serde_json::json!(code).as_str().unwrap_or_default().to_owned()
}

/// What a retry starts from. Without its lease, nobody promises that it is still here.
fn left(pull: &Pull, lease: Option<&Lease>) -> String {
    match (pull.progress.bytes_done, lease) {
        (0, _) => "Nothing had arrived yet.".to_owned(),
        (here, Some(_)) => format!("A retry goes on with the {} that are here.", show::bytes(here)),
        (here, None) => {
            format!("{} had arrived; a retry goes on with what is still here.", show::bytes(here))
        }
    }
}

/// The same from a shell.
struct ShellLines {
    follow: [String; 2],
    cancel: [String; 2],
    retry: [String; 2],
    read: [String; 2],
}

impl ShellLines {
    fn new(pull: &Pull, base: &str, token_needed: bool) -> ShellLines {
        let token = if token_needed { " -H \"Authorization: Bearer $ORLOP_TOKEN\"" } else { "" };
        let server = server_flag(base);
        let (query, flag) = match pull.namespace.as_str() {
            DEFAULT_NAMESPACE => (String::new(), String::new()),
            other => (format!("?namespace={other}"), format!(" --namespace {other}")),
        };
        let id = &pull.id;
        let curl = |options: &str, path: &str| format!("curl{token}{options} '{base}/api/v1/{path}{query}'");
        let orlop = |words: &str| format!("orlop{server}{flag} {words}");
        let digest = pull.target.as_ref().map_or("", |target| &target.digest);
        ShellLines {
            follow: [orlop(&format!("pulls logs -f {id}")), curl(" -N", &format!("pulls/{id}/events"))],
            cancel: [orlop(&format!("pulls cancel {id}")), curl(" -X DELETE", &format!("pulls/{id}"))],
            retry: [orlop(&format!("pulls retry {id}")), curl(" -X POST", &format!("pulls/{id}/retry"))],
            read: [orlop(&format!("get {digest}")), curl("", &format!("content/{digest}/data"))],
        }
    }
}

#[cfg(test)]
mod tests;
