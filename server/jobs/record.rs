//! A pull's row and its picture, joined: what is shown is made here, from memory or from the row alone.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::jobs::event::PullLog;
use crate::jobs::progress::Picture;
use crate::jobs::request::Request;
use crate::jobs::trace::PullTrace;
use crate::jobs::view::{BlobState, ImageSnapshot, JobError, JobState, Phase, Pull, PullBlob, PullProgress};
use crate::limits;
use crate::oci::Digest;
use crate::store::{PullRow, Target, labels};

/// What a row remembers beside its columns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Detail {
    /// Counts the starts of the server that had this pull in hand: event ids of a later one are larger.
    pub epoch: u64,
    /// The id of the `end` event of a finished pull.
    pub end_id: Option<u64>,
    pub target: Option<Target>,
    /// Whether the registry has told what the reference stands for, though the target is yet to be made of it.
    #[serde(default)]
    pub converting: bool,
    /// The manifest of schema 1 that the target was made of.
    #[serde(default)]
    pub converted_from: Option<Digest>,
    pub image_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<ImageSnapshot>,
    /// Until when the lease of a finished pull goes on; `None` when it ended with it.
    pub lease_until: Option<Time>,
    pub progress: PullProgress,
    pub blobs: Vec<PullBlob>,
    /// What attempts before this one have brought here: to find it there is not to be spared it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fetched: BTreeSet<Digest>,
    /// The newest last, and no more than are worth to be kept.
    #[serde(default)]
    pub log: Vec<PullLog>,
    /// Where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<PullTrace>,
}

impl Detail {
    /// A row that another version wrote is shown without what cannot be read.
    pub fn from_json(text: &str) -> Detail {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Whether the registry has told what the reference stands for.
    pub fn is_resolved(&self) -> bool {
        self.target.is_some() || self.converting
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }
}

/// A pull in hand: its row, its request, its picture.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub row: PullRow,
    pub request: Request,
    pub state: JobState,
    pub phase: Option<Phase>,
    pub error: Option<JobError>,
    pub detail: Detail,
    /// `None` until this server works on it: then what the row remembers is shown.
    pub picture: Option<Picture>,
    /// The state that the row is known to have in the database.
    pub stored: JobState,
}

impl Record {
    /// # Errors
    /// `Internal` when the row was written by another version, or damaged.
    pub fn of_row(row: PullRow) -> crate::error::Result<Record> {
        Ok(Record::new(Request::from_json(&row.request)?, row))
    }

    /// The same, to be shown and not to be worked on: of a row whose request cannot be read, the columns are there.
    pub fn to_show(row: PullRow) -> Record {
        let request = Request::from_json(&row.request).unwrap_or_else(|_| Request::of_columns(&row));
        Record::new(request, row)
    }

    fn new(request: Request, row: PullRow) -> Record {
        let state = JobState::of_row(&row.state);
        Record {
            request,
            state,
            phase: Phase::of_row(&row.phase),
            error: row.error.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            detail: Detail::from_json(&row.detail),
            picture: None,
            stored: state,
            row,
        }
    }

    /// The pull is to stop, and its row says so.
    pub fn mark_cancelling(&mut self) {
        if !self.state.is_final() {
            self.state = JobState::Cancelling;
            self.stored = JobState::Cancelling;
        }
    }

    /// The row went from `before` to `written`, unless somebody has moved it on since.
    pub fn note_stored(&mut self, before: JobState, written: JobState) {
        if self.stored == before {
            self.stored = written;
        }
    }

    /// A new attempt begins, which finds what the ones before have brought here.
    pub fn begin_attempt(&mut self, now: Time) {
        if self.state == JobState::Queued {
            self.state = JobState::Running;
        }
        self.row.attempt += 1;
        self.row.started_at.get_or_insert(now.0);
        let done = self.blobs().into_iter().filter(|blob| blob.state == BlobState::Done);
        self.detail.fetched.extend(done.map(|blob| blob.digest));
        self.picture = Some(Picture::after(self.detail.fetched.clone()));
        self.phase = Some(Phase::Resolving);
    }

    /// Keeps what is said of the pull, as far as there is room.
    pub fn note(&mut self, line: PullLog) {
        let log = &mut self.detail.log;
        if log.len() >= limits::PULL_LOG {
            log.remove(0);
        }
        log.push(line);
    }

    pub fn progress(&self, now: Time) -> PullProgress {
        self.picture.as_ref().map_or(self.detail.progress, |picture| picture.progress(now))
    }

    pub fn blobs(&self) -> Vec<PullBlob> {
        self.picture.as_ref().map_or_else(|| self.detail.blobs.clone(), Picture::blobs)
    }

    /// The row as it should be written now.
    pub fn to_row(&self, now: Time) -> PullRow {
        let detail = Detail { progress: self.progress(now), blobs: self.blobs(), ..self.detail.clone() };
        PullRow {
            state: self.state.as_str().to_owned(),
            phase: self.phase.map_or("", Phase::as_str).to_owned(),
            error: self.error.as_ref().and_then(|error| serde_json::to_string(error).ok()),
            detail: detail.to_json(),
            ..self.row.clone()
        }
    }

    pub fn show(&self, now: Time) -> Pull {
        let row = &self.row;
        let leased = match self.state.is_final() {
            false => row.started_at.is_some(),
            true => self.detail.lease_until.is_some_and(|until| until > now),
        };
        Pull {
            id: row.id.clone(),
            kind: "pull",
            namespace: row.namespace.clone(),
            reference: row.reference.clone(),
            platforms: self.request.platforms.clone(),
            insecure: self.request.insecure,
            selection: self.request.selection.clone(),
            max_concurrency: self.request.max_concurrency,
            image_name: row.image_name.clone(),
            state: self.state,
            phase: self.phase,
            attempt: row.attempt.unsigned_abs(),
            error: self.error.clone(),
            created_at: Time(row.created_at),
            started_at: row.started_at.map(Time),
            finished_at: row.finished_at.map(Time),
            labels: labels::from_json(&row.labels),
            target: self.detail.target.clone(),
            converted_from: self.detail.converted_from.clone(),
            lease_id: leased.then(|| row.lease.clone()),
            image_id: self.detail.image_id.clone(),
            snapshots: self.detail.snapshots.clone(),
            progress: self.progress(now),
            blobs: self.blobs(),
            log: self.detail.log.clone(),
        }
    }
}
