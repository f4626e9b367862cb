//! An unpack's row and how it stands, joined: what is shown is made here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::view::{Unpack, UnpackLayer};
use crate::clock::Time;
use crate::error::{Doing, Result};
use crate::jobs::view::{ImageSnapshot, JobError, JobState};
use crate::jobs::watch::IDS_PER_EPOCH;
use crate::oci::{Digest, Platform};
use crate::store::{Caller, Labels, Reach, UnpackRow};

/// A checked request, with all that the job needs to run again after a restart. Equal requests have equal JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    pub image: Option<String>,
    pub target: Digest,
    pub platform: Option<String>,
    pub labels: Labels,
    pub keep_micros: Option<u64>,
    /// The lease that the caller named in place of one of the unpack's own.
    pub lease: Option<String>,
}

impl Request {
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts by text are JSON")
    }

    pub fn keep(&self) -> Option<Duration> {
        self.keep_micros.map(Duration::from_micros)
    }

    /// # Errors
    /// `Invalid` for a row that is damaged.
    pub fn wanted(&self) -> Result<Option<Platform>> {
        self.platform.as_deref().map(str::parse).transpose()
    }
}

/// What a row remembers beside its columns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Detail {
    /// Counts the starts of the server that had this unpack in hand: event ids of a later one are larger.
    pub epoch: u64,
    /// The id of the `end` event of a finished unpack.
    pub end_id: u64,
    /// Until when the lease of a finished unpack goes on; `None` when it ended with it.
    pub lease_until: Option<Time>,
    pub snapshots: Vec<ImageSnapshot>,
    pub layers: Vec<UnpackLayer>,
    pub warnings: Vec<String>,
}

/// An unpack: its row, its request, how it stands.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub row: UnpackRow,
    pub request: Request,
    pub state: JobState,
    pub error: Option<JobError>,
    pub digest: Option<Digest>,
    pub detail: Detail,
    /// Counts the changes since the server has it in hand.
    pub revision: u64,
    /// Nobody works on it.
    pub let_go: bool,
}

impl Record {
    /// As nobody has it in hand.
    ///
    /// # Errors
    /// `Internal` when the row was written by another version, or damaged.
    pub fn of_row(row: UnpackRow) -> Result<Record> {
        let request = serde_json::from_str(&row.request).doing("read the request of an unpack")?;
        Ok(Record {
            request,
            state: JobState::of_row(&row.state),
            error: row.error.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            digest: row.digest.as_deref().map(str::parse).transpose()?,
            detail: serde_json::from_str(&row.detail).doing("read what an unpack has come to")?,
            revision: 0,
            let_go: true,
            row,
        })
    }

    /// The row as it should be written now.
    pub fn to_row(&self) -> UnpackRow {
        UnpackRow {
            state: self.state.as_str().to_owned(),
            digest: self.digest.as_ref().map(ToString::to_string),
            error: self.error.as_ref().and_then(|error| serde_json::to_string(error).ok()),
            detail: serde_json::to_string(&self.detail).expect("texts and numbers are JSON"),
            ..self.row.clone()
        }
    }

    /// The id of an event that tells how it stands now.
    pub fn event_id(&self) -> u64 {
        self.detail.epoch * IDS_PER_EPOCH + self.revision
    }

    /// On whose behalf the job works, and under which lease. It borrows nothing of other namespaces.
    pub fn caller(&self) -> Caller {
        Caller {
            namespace: self.row.namespace.clone(),
            lease: Some(self.row.lease.clone()),
            reach: Reach::Only(vec![self.row.namespace.clone()]),
        }
    }

    pub fn show(&self, now: Time) -> Unpack {
        let (row, layers) = (&self.row, &self.detail.layers);
        let leased = match self.state.is_final() {
            false => row.started_at.is_some(),
            true => self.detail.lease_until.is_some_and(|until| until > now),
        };
        Unpack {
            id: row.id.clone(),
            kind: "unpack",
            namespace: row.namespace.clone(),
            image: self.request.image.clone(),
            target: self.request.target.clone(),
            digest: self.digest.clone(),
            platform: self.request.platform.clone(),
            state: self.state,
            error: self.error.clone(),
            created_at: Time(row.created_at),
            started_at: row.started_at.map(Time),
            finished_at: row.finished_at.map(Time),
            labels: self.request.labels.clone(),
            lease_id: leased.then(|| row.lease.clone()),
            snapshots: self.detail.snapshots.clone(),
            bytes_total: layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)),
            bytes_done: layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.unpack.offset)),
            layers: layers.clone(),
            warnings: self.detail.warnings.clone(),
        }
    }
}
