//! A pull as clients see it: the shapes of the contract, which are also what its row remembers.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::error::{Conflict, Error, Unprocessable, Upstream, UpstreamKind};
use crate::jobs::event::PullLog;
use crate::jobs::request::Selection;
use crate::oci::Digest;
use crate::oci::platform::NoMatch;
use crate::store::Target;
use crate::store::filter::{Field, Fields, Value};
use crate::store::labels::Labels;
use crate::store::lists::Labelled;

/// A pull, as a job.
#[derive(Debug, Clone, Serialize)]
pub struct Pull {
    pub id: String,
    pub kind: &'static str,
    pub namespace: String,
    /// As it was asked for.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Those asked for; none means the server's own.
    pub platforms: Vec<String>,
    pub insecure: bool,
    #[serde(flatten)]
    pub selection: Selection,
    /// The most requests at once that were asked for; none means as many as the server likes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<usize>,
    pub image_name: String,
    pub state: JobState,
    /// `None` before it first runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    pub attempt: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    pub created_at: Time,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    pub labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The manifest of schema 1 that `target` was made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converted_from: Option<Digest>,
    pub lease_id: Option<String>,
    pub image_id: Option<String>,
    /// What was unpacked.
    pub snapshots: Vec<ImageSnapshot>,
    pub progress: PullProgress,
    pub blobs: Vec<PullBlob>,
    /// What was said of it, the newest last: warnings, waits, what was tried again.
    pub log: Vec<PullLog>,
}

impl Pull {
    /// Names this state of the pull: equal only while nothing that is shown has changed.
    pub fn tag(&self) -> String {
        tag_of(self)
    }
}

/// The tag of what is shown so.
pub(super) fn tag_of(shown: &impl Serialize) -> String {
    let shown = serde_json::to_vec(shown).expect("texts and numbers are JSON");
    Digest::of(crate::oci::Algorithm::Sha256, &shown).hex()[..32].to_owned()
}

impl Labelled for Pull {
    fn labels(&self) -> &Labels {
        &self.labels
    }
}

impl Fields for Pull {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        let text = |text| Some(Value::Text(Cow::Borrowed(text)));
        match field {
            Field::Label(key) => self.labels.get(key).and_then(|value| text(value.as_str())),
            Field::Named("id") => text(&self.id),
            Field::Named("ref") => text(&self.reference),
            Field::Named("state") => text(self.state.as_str()),
            Field::Named("phase") => self.phase.and_then(|phase| text(phase.as_str())),
            Field::Named("image_name") => text(&self.image_name),
            Field::Named("created_at") => Some(Value::Time(self.created_at)),
            Field::Named("started_at") => self.started_at.map(Value::Time),
            Field::Named("finished_at") => self.finished_at.map(Value::Time),
            Field::Named(_) | Field::Annotation(_) => None,
        }
    }
}

/// Where a job stands; the last three are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Queued,
    Running,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    pub const ALL: [JobState; 6] = [
        JobState::Queued,
        JobState::Running,
        JobState::Cancelling,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Cancelling => "cancelling",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    pub const fn is_final(self) -> bool {
        match self {
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
            JobState::Queued | JobState::Running | JobState::Cancelling => false,
        }
    }

    /// The state of a row. The table allows no other text than these.
    pub(super) fn of_row(text: &str) -> JobState {
        JobState::ALL.into_iter().find(|state| state.as_str() == text).unwrap_or(JobState::Failed)
    }
}

/// What a running pull does, or what it did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Resolving,
    Fetching,
    Unpacking,
    Finishing,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Resolving => "resolving",
            Phase::Fetching => "fetching",
            Phase::Unpacking => "unpacking",
            Phase::Finishing => "finishing",
        }
    }

    /// The phase of a row; none in one that never ran.
    pub(super) fn of_row(text: &str) -> Option<Phase> {
        let all = [Phase::Resolving, Phase::Fetching, Phase::Unpacking, Phase::Finishing];
        all.into_iter().find(|phase| phase.as_str() == text)
    }
}

/// One blob of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullBlob {
    pub digest: Digest,
    pub media_type: String,
    pub role: BlobRole,
    /// In bytes, as its descriptor says.
    pub size: u64,
    /// Bytes that are here.
    pub offset: u64,
    pub state: BlobState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<PullWait>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// Why it is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a layer that is to be unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpack: Option<LayerUnpack>,
}

/// How far a layer is on its way to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerUnpack {
    pub state: UnpackState,
    /// Bytes of the blob that are unpacked.
    pub offset: u64,
    /// The key of its snapshot, once it has one: the chain ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnpackState {
    /// For its blob, for its turn, or for what it stands on.
    Waiting,
    Unpacking,
    Committing,
    Done,
    /// It had a snapshot before.
    Exists,
}

/// The snapshot of all layers of an image, on one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSnapshot {
    /// The chain ID.
    pub key: Digest,
    /// The manifest that it was unpacked from.
    pub manifest: Digest,
    /// As the config says; none where it says nothing.
    pub platform: Option<String>,
}

/// What a blob waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullWait {
    /// When it goes on; `None` when somebody else decides that.
    pub until: Option<Time>,
    /// In words. Never a credential.
    pub reason: String,
}

/// What a blob is to the image, in the order in which a pull lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobRole {
    Index,
    Manifest,
    Config,
    Layer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobState {
    Waiting,
    /// It was here before, or another namespace lent it.
    Exists,
    Downloading,
    Verifying,
    Committing,
    Done,
    Failed,
    /// Not fetched, or not to its end, for a reason that is told with it: it is not to be, or the pull ended before.
    Skipped,
}

impl BlobState {
    /// Whether the blob is here.
    pub const fn is_here(self) -> bool {
        match self {
            BlobState::Exists | BlobState::Done => true,
            BlobState::Waiting
            | BlobState::Downloading
            | BlobState::Verifying
            | BlobState::Committing
            | BlobState::Failed
            | BlobState::Skipped => false,
        }
    }
}

/// How far a pull is, in bytes and blobs. What is not to be fetched does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PullProgress {
    pub bytes_total: u64,
    /// Whether `bytes_total` stands.
    pub bytes_total_final: bool,
    pub bytes_done: u64,
    /// Of these, received by this pull.
    pub bytes_network: u64,
    /// Of these, left by an earlier try.
    pub bytes_resumed: u64,
    /// Of these, stored already.
    pub bytes_reused: u64,
    pub blobs_total: u64,
    pub blobs_done: u64,
    /// Network bytes per second, over the last seconds.
    pub rate_bps: u64,
    /// `None` when it cannot be said.
    pub eta_seconds: Option<u64>,
    /// How long nothing has arrived.
    pub stalled_seconds: u64,
    /// Until when nothing is asked for, because everything waits.
    #[serde(default)]
    pub waiting_until: Option<Time>,
}

/// Why a job, or one blob of it, failed. Never carries a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    pub code: JobErrorCode,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The host that was asked, for what is upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobErrorCode {
    UpstreamUnreachable,
    UpstreamUntrusted,
    UpstreamDenied,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamServerError,
    UpstreamBadAnswer,
    UpstreamMismatch,
    UpstreamNoPlatform,
    UpstreamForbiddenAddress,
    InvalidArgument,
    Forbidden,
    NotFound,
    NotAManifest,
    ImageIncomplete,
    ValidationFailed,
    TooLarge,
    OutOfSpace,
    Unavailable,
    CorruptContent,
    Internal,
}

/// What helps where the operator's lists do not allow a registry.
const OPERATORS_LISTS: &str = "no token helps: the server's settings denied_registries and allowed_registries decide, which its operator makes";

impl JobError {
    /// The error in words for the client. What is our own fault is for the log, and not told.
    pub(super) fn of(error: &Error) -> JobError {
        let code = match error {
            Error::Upstream(upstream) => return JobError::of_upstream(upstream),
            Error::Invalid(_) => JobErrorCode::InvalidArgument,
            Error::Refused { .. } => JobErrorCode::Forbidden,
            Error::NotFound { .. } | Error::NoPlatform { .. } => JobErrorCode::NotFound,
            Error::Conflict(Conflict::Incomplete { .. }) => JobErrorCode::ImageIncomplete,
            Error::Unprocessable(Unprocessable::NotAManifest { .. }) => JobErrorCode::NotAManifest,
            Error::Unprocessable(_) => JobErrorCode::ValidationFailed,
            Error::TooLarge { .. } => JobErrorCode::TooLarge,
            Error::OutOfSpace { .. } => JobErrorCode::OutOfSpace,
            Error::Unavailable { .. } | Error::Busy { .. } | Error::TooMany { .. } => {
                JobErrorCode::Unavailable
            }
            Error::Corrupt { .. } => JobErrorCode::CorruptContent,
            Error::AlreadyExists { .. }
            | Error::Conflict(_)
            | Error::Gone { .. }
            | Error::PreconditionFailed { .. }
            | Error::WriterLost
            | Error::Internal { .. } => JobErrorCode::Internal,
        };
        let detail = match code {
            JobErrorCode::Internal => "the server failed; its log says why".to_owned(),
            JobErrorCode::OutOfSpace => "there is no space left to store what was fetched".to_owned(),
            _ => error.to_string(),
        };
        let hint = (code == JobErrorCode::Forbidden).then(|| OPERATORS_LISTS.to_owned());
        JobError { code, detail, hint, host: None, status: None }
    }

    fn of_upstream(upstream: &Upstream) -> JobError {
        let code = match upstream.kind {
            UpstreamKind::Unreachable | UpstreamKind::CutShort => JobErrorCode::UpstreamUnreachable,
            UpstreamKind::Untrusted => JobErrorCode::UpstreamUntrusted,
            UpstreamKind::Denied
            | UpstreamKind::CredentialWanted
            | UpstreamKind::CredentialRefused
            | UpstreamKind::TokenHostUnknown
            | UpstreamKind::CertificateWanted => JobErrorCode::UpstreamDenied,
            UpstreamKind::NotFound | UpstreamKind::PartMissing => JobErrorCode::UpstreamNotFound,
            UpstreamKind::RateLimited => JobErrorCode::UpstreamRateLimited,
            UpstreamKind::ServerError => JobErrorCode::UpstreamServerError,
            UpstreamKind::BadAnswer => JobErrorCode::UpstreamBadAnswer,
            UpstreamKind::Mismatch => JobErrorCode::UpstreamMismatch,
            UpstreamKind::NoPlatform => JobErrorCode::UpstreamNoPlatform,
            UpstreamKind::PrivateAddress | UpstreamKind::Forbidden => JobErrorCode::UpstreamForbiddenAddress,
        };
        JobError {
            code,
            detail: format!("{}: {}", upstream.host, upstream.reason),
            hint: upstream_hint(upstream),
            host: Some(upstream.host.clone()),
            status: upstream.status,
        }
    }
}

/// What helps against a registry's failure, of a pull and of the plan of one.
pub fn upstream_hint(upstream: &Upstream) -> Option<String> {
    let hint = match upstream.kind {
        UpstreamKind::Unreachable => "is the registry's name right, and is it up?",
        UpstreamKind::CutShort => {
            "each try begins at the first byte and ends where the one before it did: a proxy on the way may limit the \
             length of answers, or their time"
        }
        UpstreamKind::Untrusted => {
            "a CA of the registry's own belongs into the registry's settings, as `ca`; `insecure` takes any \
             certificate, and is for tests"
        }
        UpstreamKind::Denied => {
            "the image may be private, or not exist: many registries do not tell the two apart"
        }
        UpstreamKind::CredentialWanted => {
            let host = &upstream.host;
            return Some(format!(
                "`orlop registry login {host}` gives the server a credential; one for this pull alone is its `auth`"
            ));
        }
        UpstreamKind::CredentialRefused => {
            "is the credential right? It is the one that the pull brought, or else the server's for this registry"
        }
        UpstreamKind::TokenHostUnknown => {
            "if the credential is meant for it, name it in `token_hosts` of the registry's settings (orlop registry put)"
        }
        UpstreamKind::CertificateWanted => {
            "the registry's settings take one as `client_certificate`, with its `client_key` (orlop registry put)"
        }
        UpstreamKind::NotFound => "are the repository and the tag spelt right?",
        UpstreamKind::PartMissing => {
            "the registry lacks a part of its own image: whoever pushed it must push it again"
        }
        UpstreamKind::RateLimited => "pull again later: what is here already stays",
        UpstreamKind::Mismatch => "the registry, or a proxy before it, is damaged",
        UpstreamKind::NoPlatform if upstream.reason.ends_with(NoMatch::NONE_AT_ALL) => {
            "there is nothing in it to run: `all_platforms` takes it as it is"
        }
        UpstreamKind::NoPlatform => "ask for one of those with `platforms`",
        UpstreamKind::PrivateAddress => {
            "a registry of the server's own network is allowed by its setting private_registries \
             (orlop serve --private-registries allow)"
        }
        UpstreamKind::ServerError | UpstreamKind::BadAnswer | UpstreamKind::Forbidden => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_helps_in_the_case_there_is() {
        let hint = |kind, reason: &str| {
            let (host, reason) = ("r.io".to_owned(), reason.to_owned());
            let upstream = Upstream { kind, host, reason, status: None, retry_after: None };
            JobError::of(&Error::Upstream(upstream)).hint.unwrap_or_default()
        };
        for (kind, words) in [
            (UpstreamKind::CutShort, "a proxy on the way"),
            (UpstreamKind::Denied, "may be private"),
            (UpstreamKind::CredentialWanted, "orlop registry login r.io"),
            (UpstreamKind::CredentialRefused, "is the credential right?"),
            (UpstreamKind::TokenHostUnknown, "`token_hosts`"),
            (UpstreamKind::CertificateWanted, "`client_certificate`"),
            (UpstreamKind::NotFound, "spelt right?"),
            (UpstreamKind::PartMissing, "a part of its own image"),
            (UpstreamKind::PrivateAddress, "private_registries"),
            (UpstreamKind::NoPlatform, "one of those with `platforms`"),
        ] {
            let hint = hint(kind, "x");
            assert!(hint.contains(words), "{kind:?}: {hint}");
        }
        assert_eq!(hint(UpstreamKind::Forbidden, "the address 169.254.169.254 is never contacted"), "");
        let wanted = "linux/amd64".parse().expect("a platform");
        let nothing = NoMatch { wanted: Box::new(wanted), available: Vec::new() }.to_string();
        assert!(hint(UpstreamKind::NoPlatform, &nothing).contains("`all_platforms`"), "{nothing}");
        let lists = JobError::of(&Error::Refused { reason: "x".to_owned() }).hint.unwrap_or_default();
        assert!(lists.contains("denied_registries"), "{lists}");
    }
}
