//! The events of a job, as the contract has them; and those of a pull.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::clock::Time;
use crate::jobs::view::{JobError, JobState, Phase, Pull, PullBlob, PullProgress};
use crate::store::Target;

/// One event. As JSON it is a line of the NDJSON form; `id`, [`JobEvent::name`] and [`JobEvent::data`] are the
/// parts of an SSE frame.
#[derive(Debug, Clone)]
pub struct JobEvent<B> {
    /// Counts up, over restarts too.
    pub id: u64,
    pub body: B,
}

pub type PullEvent = JobEvent<PullEventBody>;

/// What an event says: its name, and as JSON its data.
pub trait EventBody: Serialize {
    fn name(&self) -> &'static str;
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum PullEventBody {
    /// The whole picture, first.
    Snapshot(Box<Pull>),
    Progress(PullProgress),
    Blob(PullBlob),
    Phase(PullPhaseChange),
    Log(PullLog),
    Reset(PullReset),
    /// The last.
    End(PullEnd),
}

impl EventBody for PullEventBody {
    fn name(&self) -> &'static str {
        match self {
            PullEventBody::Snapshot(_) => "snapshot",
            PullEventBody::Progress(_) => "progress",
            PullEventBody::Blob(_) => "blob",
            PullEventBody::Phase(_) => "phase",
            PullEventBody::Log(_) => "log",
            PullEventBody::Reset(_) => "reset",
            PullEventBody::End(_) => "end",
        }
    }
}

impl<B: EventBody> JobEvent<B> {
    pub fn name(&self) -> &'static str {
        self.body.name()
    }

    /// The `data:` of an SSE frame: JSON on one line.
    pub fn data(&self) -> String {
        serde_json::to_string(&self.body).expect("texts and numbers are JSON")
    }
}

impl<B: EventBody> Serialize for JobEvent<B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(Some(3))?;
        line.serialize_entry("id", &self.id.to_string())?;
        line.serialize_entry("event", self.name())?;
        line.serialize_entry(self.name(), &self.body)?;
        line.end()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PullPhaseChange {
    pub state: JobState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    pub attempt: u64,
}

/// Something that was said of a pull, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullLog {
    pub at: Time,
    pub level: LogLevel,
    /// For people. Never a credential.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Info,
    Warn,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct PullReset {
    pub reason: ResetReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetReason {
    /// The reader was too slow: what it missed is forgotten.
    Lagged,
    UnknownEventId,
    /// The server was started anew since.
    Restarted,
}

#[derive(Debug, Clone, Serialize)]
pub struct PullEnd {
    pub state: JobState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    pub image_id: Option<String>,
}
