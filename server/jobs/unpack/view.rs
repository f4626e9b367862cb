//! An unpack as clients see it: the shapes of the contract, which are also what its row remembers.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{ChainLayer, Told};
use crate::clock::Time;
use crate::jobs::event::EventBody;
use crate::jobs::view::{ImageSnapshot, JobError, JobState, LayerUnpack, UnpackState, tag_of};
use crate::oci::Digest;
use crate::store::filter::{Field, Fields, Value};
use crate::store::labels::Labels;
use crate::store::lists::Labelled;

/// An unpack of a stored image, as a job.
#[derive(Debug, Clone, Serialize)]
pub struct Unpack {
    pub id: String,
    pub kind: &'static str,
    pub namespace: String,
    /// The name or id that was asked for; none where it was a digest.
    pub image: Option<String>,
    /// The digest that was asked for, or that the image stood for then.
    pub target: Digest,
    /// That of the manifest, once it is known.
    pub digest: Option<Digest>,
    /// The one asked for; none means the server's own.
    pub platform: Option<String>,
    pub state: JobState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    pub created_at: Time,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    pub labels: Labels,
    pub lease_id: Option<String>,
    /// What was unpacked.
    pub snapshots: Vec<ImageSnapshot>,
    /// Bytes of the blobs of all layers, and how many of them are unpacked.
    pub bytes_total: u64,
    pub bytes_done: u64,
    /// The lowest first; none before the manifest is known.
    pub layers: Vec<UnpackLayer>,
    /// What could not be kept as the layers have it, in words.
    pub warnings: Vec<String>,
}

impl Unpack {
    /// Names this state of the unpack: equal only while nothing that is shown has changed.
    pub fn tag(&self) -> String {
        tag_of(self)
    }
}

/// One layer of an image on its way to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackLayer {
    /// Of its blob, whose size is in bytes.
    pub digest: Digest,
    pub size: u64,
    pub diff_id: Digest,
    pub chain_id: Digest,
    pub unpack: LayerUnpack,
}

impl UnpackLayer {
    pub(super) fn of(layer: &ChainLayer) -> UnpackLayer {
        UnpackLayer {
            digest: layer.descriptor.digest.clone(),
            size: layer.descriptor.size,
            diff_id: layer.diff_id.clone(),
            chain_id: layer.chain_id.clone(),
            unpack: LayerUnpack { state: UnpackState::Waiting, offset: 0, snapshot: None },
        }
    }

    pub(super) fn note(&mut self, told: Told) {
        let (state, offset, snapshot) = match told {
            Told::Unpacking(offset) => (UnpackState::Unpacking, offset, None),
            Told::Committing => (UnpackState::Committing, self.size, None),
            Told::Done(snapshot) => (UnpackState::Done, self.size, Some(snapshot)),
            Told::Exists(snapshot) => (UnpackState::Exists, self.size, Some(snapshot)),
        };
        self.unpack = LayerUnpack { state, offset, snapshot };
    }
}

/// What is told to whoever follows an unpack: the whole of it each time.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum UnpackEventBody {
    /// First.
    Snapshot(Box<Unpack>),
    Progress(Box<Unpack>),
    /// The last.
    End(Box<Unpack>),
}

impl EventBody for UnpackEventBody {
    fn name(&self) -> &'static str {
        match self {
            UnpackEventBody::Snapshot(_) => "snapshot",
            UnpackEventBody::Progress(_) => "progress",
            UnpackEventBody::End(_) => "end",
        }
    }
}

impl Labelled for Unpack {
    fn labels(&self) -> &Labels {
        &self.labels
    }
}

impl Fields for Unpack {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        let text = |text| Some(Value::Text(Cow::Borrowed(text)));
        match field {
            Field::Label(key) => self.labels.get(key).and_then(|value| text(value.as_str())),
            Field::Named("id") => text(&self.id),
            Field::Named("image") => self.image.as_deref().and_then(text),
            Field::Named("target") => text(self.target.as_str()),
            Field::Named("digest") => self.digest.as_ref().and_then(|digest| text(digest.as_str())),
            Field::Named("platform") => self.platform.as_deref().and_then(text),
            Field::Named("state") => text(self.state.as_str()),
            Field::Named("created_at") => Some(Value::Time(self.created_at)),
            Field::Named("started_at") => self.started_at.map(Value::Time),
            Field::Named("finished_at") => self.finished_at.map(Value::Time),
            Field::Named(_) | Field::Annotation(_) => None,
        }
    }
}
