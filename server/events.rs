//! What happened, as it is told: topics in containerd's names where it has them, and in its manner where it has not.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::clock::Time;

/// Something that has happened, with its place among all that has.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Counts up; never given twice.
    pub id: i64,
    pub time: Time,
    pub namespace: String,
    pub topic: String,
    /// What it happened to: a digest, the name of an image or namespace, the id of anything else.
    pub subject: String,
    /// The fields of the topic.
    pub event: Map<String, Value>,
}

/// Declares each topic once: its variant, its name, its place in [`Topic::ALL`].
macro_rules! topics {
    ($($topic:ident $name:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Topic {
            $($topic),*
        }

        impl Topic {
            pub const ALL: &[Topic] = &[$(Topic::$topic),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Topic::$topic => $name),*
                }
            }
        }
    };
}

topics! {
    ContentCreate "/content/create";
    ContentUpdate "/content/update";
    ContentDelete "/content/delete";
    ImageCreate "/images/create";
    ImageUpdate "/images/update";
    ImageDelete "/images/delete";
    IngestOpen "/ingests/open";
    IngestCommit "/ingests/commit";
    IngestAbort "/ingests/abort";
    IngestExpire "/ingests/expire";
    LeaseCreate "/leases/create";
    LeaseUpdate "/leases/update";
    LeaseDelete "/leases/delete";
    LeaseExpire "/leases/expire";
    NamespaceCreate "/namespaces/create";
    NamespaceUpdate "/namespaces/update";
    NamespaceDelete "/namespaces/delete";
    PullCreate "/pulls/create";
    PullStart "/pulls/start";
    PullUpdate "/pulls/update";
    PullFinish "/pulls/finish";
    PullDelete "/pulls/delete";
    SnapshotPrepare "/snapshot/prepare";
    SnapshotCommit "/snapshot/commit";
    SnapshotUpdate "/snapshot/update";
    SnapshotRemove "/snapshot/remove";
    UnpackCreate "/unpacks/create";
    UnpackStart "/unpacks/start";
    UnpackFinish "/unpacks/finish";
    UnpackDelete "/unpacks/delete";
}
