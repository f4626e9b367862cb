//! A blob of a pull, from the registry to where it is needed.

use serde::Deserialize;

/// A blob, as far as it is from what it is fetched for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "SentBlob")]
pub struct Blob {
    pub digest: String,
    pub role: String,
    pub size: u64,
    pub offset: u64,
    pub state: BlobState,
    pub wait: Option<Wait>,
    /// Why it is skipped.
    pub reason: Option<String>,
}

/// A blob as the server tells of it.
#[derive(Debug, Deserialize)]
struct SentBlob {
    digest: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    state: BlobState,
    #[serde(default)]
    wait: Option<Wait>,
    #[serde(default)]
    reason: Option<String>,
    /// How far a layer is on its way to a snapshot, which begins where the blob is here.
    #[serde(default)]
    unpack: Option<LayerUnpack>,
}

#[derive(Debug, Deserialize)]
struct LayerUnpack {
    #[serde(default)]
    state: BlobState,
    #[serde(default)]
    offset: u64,
}

impl From<SentBlob> for Blob {
    fn from(sent: SentBlob) -> Blob {
        let SentBlob { digest, role, size, offset, state, wait, reason, unpack } = sent;
        let is_here = matches!(state, BlobState::Done | BlobState::Exists | BlobState::Skipped);
        match unpack.filter(|_| is_here) {
            Some(unpack) => {
                let (offset, state) = (unpack.offset, unpack.state);
                Blob { digest, role, size, offset, state, wait: None, reason: None }
            }
            None => Blob { digest, role, size, offset, state, wait, reason },
        }
    }
}

/// What a blob waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Wait {
    #[serde(default)]
    pub until: Option<String>,
    #[serde(default)]
    pub reason: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobState {
    #[default]
    Waiting,
    Exists,
    Downloading,
    Verifying,
    Unpacking,
    Committing,
    Done,
    Failed,
    Skipped,
    /// Of a newer server.
    #[serde(other)]
    Unknown,
}

impl BlobState {
    pub fn as_str(self) -> &'static str {
        match self {
            BlobState::Waiting => "waiting",
            BlobState::Exists => "exists",
            BlobState::Downloading => "downloading",
            BlobState::Verifying => "verifying",
            BlobState::Unpacking => "unpacking",
            BlobState::Committing => "committing",
            BlobState::Done => "done",
            BlobState::Failed => "failed",
            BlobState::Skipped => "skipped",
            BlobState::Unknown => "working",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_layer_that_is_here_stands_as_its_unpack_does() {
        let blob = |state: &str, unpack: Value| -> (BlobState, u64) {
            let sent =
                json!({"digest": "sha256:aa", "size": 9, "offset": 9, "state": state, "unpack": unpack});
            let blob: Blob = serde_json::from_value(sent).expect("a blob");
            (blob.state, blob.offset)
        };
        let unpacking = json!({"state": "unpacking", "offset": 4});
        assert_eq!(blob("done", unpacking.clone()), (BlobState::Unpacking, 4));
        assert_eq!(blob("downloading", unpacking), (BlobState::Downloading, 9));
        assert_eq!(blob("skipped", json!({"state": "exists", "offset": 9})), (BlobState::Exists, 9));
        assert_eq!(blob("done", Value::Null), (BlobState::Done, 9));
    }
}
