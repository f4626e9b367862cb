//! What is known of a pull: the job as the server sent it, and the events that change it.

mod blob;
mod unpack;

use serde::Deserialize;
use serde_json::Value;

pub use self::blob::{Blob, BlobState, Wait};

/// A pull as far as the command line needs it; the server may say more.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Pull {
    #[serde(default)]
    pub id: String,
    #[serde(default, rename = "ref")]
    pub reference: String,
    #[serde(default)]
    pub state: State,
    #[serde(default)]
    pub phase: Option<String>,
    #[serde(default)]
    pub attempt: u64,
    #[serde(default)]
    pub error: Option<JobError>,
    #[serde(default)]
    pub progress: Progress,
    #[serde(default)]
    pub blobs: Vec<Blob>,
    /// What the server has kept of what was said, the newest last.
    #[serde(default)]
    pub log: Vec<Said>,
}

/// A line of a pull's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Said {
    pub at: String,
    pub level: String,
    pub message: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Queued,
    Running,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
}

impl State {
    pub fn is_final(self) -> bool {
        match self {
            State::Queued | State::Running | State::Cancelling => false,
            State::Succeeded | State::Failed | State::Cancelled => true,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Cancelling => "cancelling",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct JobError {
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub hint: Option<String>,
}

/// Bytes, counts and seconds as the server measured them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub bytes_total: u64,
    /// Whether every manifest is known, so that `bytes_total` is no longer a lower bound.
    pub bytes_total_final: bool,
    pub bytes_done: u64,
    pub bytes_network: u64,
    pub bytes_resumed: u64,
    pub bytes_reused: u64,
    /// None where nobody measures it.
    pub rate_bps: Option<u64>,
    pub eta_seconds: Option<u64>,
    pub stalled_seconds: u64,
    /// As the server wrote it.
    pub waiting_until: Option<String>,
}

/// One line of the event stream, as it was sent and as it was understood.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub value: Value,
}

impl Event {
    /// A line of NDJSON; `None` for one that keeps the connection alive and for one that is not an event.
    pub fn parse(line: &[u8]) -> Option<Event> {
        let value: Value = serde_json::from_slice(line).ok()?;
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        // One of a pull is named by `event`; one of the server's own by its topic.
        let name = text("event").or(text("topic"))?.to_owned();
        let id = match value.get("id") {
            Some(Value::String(id)) => Some(id.clone()),
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        };
        Some(Event { id, name, value })
    }

    pub fn is_end(&self) -> bool {
        self.name == "end"
    }

    /// What the event carries: the member named like it.
    fn payload(&self) -> Value {
        self.value.get(&self.name).cloned().unwrap_or_default()
    }
}

/// What an event changed, for those who print lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Nothing,
    Blob(usize),
    Phase,
    Log(Said),
    End,
}

impl Pull {
    /// Takes an event in. One that cannot be read changes nothing: the next snapshot says it again.
    pub fn apply(&mut self, event: &Event) -> Change {
        let payload = event.payload();
        match event.name.as_str() {
            "snapshot" => self.replace(payload),
            "progress" => {
                if let Ok(progress) = serde_json::from_value(payload) {
                    self.progress = progress;
                }
                Change::Nothing
            }
            "blob" => serde_json::from_value(payload).map_or(Change::Nothing, |blob| self.put_blob(blob)),
            "phase" => self.move_on(&payload),
            "log" => serde_json::from_value(payload).map_or(Change::Nothing, Change::Log),
            "end" => self.finish(&payload),
            // `reset` announces a snapshot; anything else is of a newer server.
            _ => Change::Nothing,
        }
    }

    fn replace(&mut self, payload: Value) -> Change {
        let Ok(pull) = serde_json::from_value::<Pull>(payload) else { return Change::Nothing };
        let moved = (self.state, &self.phase, self.attempt) != (pull.state, &pull.phase, pull.attempt);
        *self = pull;
        if moved { Change::Phase } else { Change::Nothing }
    }

    fn put_blob(&mut self, blob: Blob) -> Change {
        match self.blobs.iter().position(|known| known.digest == blob.digest) {
            Some(at) => {
                let moved = self.blobs[at].state != blob.state;
                self.blobs[at] = blob;
                if moved { Change::Blob(at) } else { Change::Nothing }
            }
            None => {
                self.blobs.push(blob);
                Change::Blob(self.blobs.len() - 1)
            }
        }
    }

    fn move_on(&mut self, payload: &Value) -> Change {
        let before = (self.state, self.phase.clone(), self.attempt);
        self.state = state(payload).unwrap_or(self.state);
        self.phase = payload.get("phase").and_then(Value::as_str).map(str::to_owned).or(self.phase.take());
        self.attempt = payload.get("attempt").and_then(Value::as_u64).unwrap_or(self.attempt);
        // The first phase that is told is often that of the snapshot before it.
        if before == (self.state, self.phase.clone(), self.attempt) { Change::Nothing } else { Change::Phase }
    }

    fn finish(&mut self, payload: &Value) -> Change {
        self.state = state(payload).unwrap_or(self.state);
        let error = payload.get("error").cloned().and_then(|error| serde_json::from_value(error).ok());
        self.error = error.or(self.error.take());
        Change::End
    }
}

fn state(payload: &Value) -> Option<State> {
    serde_json::from_value(payload.get("state")?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Event {
        Event::parse(line.as_bytes()).expect("an event")
    }

    #[test]
    fn events_change_the_picture_and_say_what_they_changed() {
        let mut pull = Pull::default();
        let snapshot = r#"{"id":"1","event":"snapshot","snapshot":{"id":"pull_1","ref":"a","state":"running",
            "blobs":[{"digest":"sha256:aa","role":"layer","size":9,"offset":0,"state":"waiting"}]}}"#;
        assert_eq!(pull.apply(&event(snapshot)), Change::Phase);
        let moved = r#"{"id":"2","event":"blob","blob":{"digest":"sha256:aa","size":9,"offset":4,"state":"downloading"}}"#;
        assert_eq!(pull.apply(&event(moved)), Change::Blob(0));
        assert_eq!(pull.apply(&event(moved)), Change::Nothing, "the same state again");
        assert_eq!(pull.blobs[0].offset, 4);
        let end = r#"{"id":"3","event":"end","end":{"state":"failed","image_id":null,"error":{"code":"upstream-denied","detail":"no"}}}"#;
        assert_eq!(pull.apply(&event(end)), Change::End);
        assert!(pull.state.is_final());
        assert_eq!(pull.error.expect("an error").code, "upstream-denied");
    }

    #[test]
    fn what_the_picture_shows_already_is_no_change_of_phase() {
        let mut pull = Pull::default();
        let snapshot = r#"{"id":"1","event":"snapshot","snapshot":{"id":"pull_1","ref":"a","state":"running",
            "phase":"resolving","attempt":1,"blobs":[]}}"#;
        assert_eq!(pull.apply(&event(snapshot)), Change::Phase);
        let phase = |attempt: u64| {
            let phase = r#"{"state":"running","phase":"resolving","attempt":"#;
            event(&format!(r#"{{"id":"2","event":"phase","phase":{phase}{attempt}}}}}"#))
        };
        assert_eq!(pull.apply(&phase(1)), Change::Nothing);
        assert_eq!(pull.apply(&phase(2)), Change::Phase);
    }

    #[test]
    fn what_a_newer_server_says_is_no_trouble() {
        let mut pull = Pull::default();
        assert_eq!(pull.apply(&event(r#"{"id":9,"event":"weather","weather":{}}"#)), Change::Nothing);
        let line = r#"{"id":"2","event":"blob","blob":{"digest":"sha256:aa","state":"marinating"}}"#;
        assert_eq!(pull.apply(&event(line)), Change::Blob(0));
        assert_eq!(pull.blobs[0].state, BlobState::Unknown);
        assert!(Event::parse(b"").is_none() && Event::parse(b": still here").is_none());
    }
}
