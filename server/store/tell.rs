//! Telling what happened: an event is written in the transaction of the change, so that none is lost and none is told
//! of a change that did not come to be.
//!
//! What the server does by itself with grace leases is not told: one comes and goes with every upload. Nor is progress.

use serde_json::{Map, Value, json};

use super::labels;
use crate::clock::Time;
use crate::db::content::ContentRow;
use crate::db::events::EventRow;
use crate::db::images::ImageRow;
use crate::db::leases::LeaseRow;
use crate::db::namespaces::NamespaceRow;
use crate::db::pulls::PullRow;
use crate::db::snapshots::SnapshotRow;
use crate::db::unpacks::UnpackRow;
use crate::db::{self, Tx};
use crate::error::Result;
use crate::events::Topic;
use crate::limits;

/// What is told of a change.
pub(super) struct News<'n> {
    pub topic: Topic,
    pub namespace: &'n str,
    pub subject: &'n str,
    /// An object; what is null in it is left out.
    pub fields: Value,
}

/// Writes down what happened, as a part of it.
pub(super) async fn tell(tx: &mut Tx, time: Time, news: News<'_>) -> Result<()> {
    let News { topic, namespace, subject, fields } = news;
    let fields: Map<String, Value> = match fields {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    let row = EventRow {
        id: 0,
        namespace: namespace.to_owned(),
        topic: topic.as_str().to_owned(),
        subject: subject.to_owned(),
        data: Value::Object(fields).to_string(),
        time: time.0,
    };
    db::events::insert_event(tx, &row).await
}

impl<'n> News<'n> {
    /// With one field more.
    pub fn with(mut self, name: &str, value: &str) -> News<'n> {
        self.fields[name] = value.into();
        self
    }

    pub fn of_content(topic: Topic, row: &'n ContentRow) -> News<'n> {
        let fields = match topic {
            Topic::ContentUpdate => {
                let labels = told_labels(&row.labels);
                json!({"digest": row.digest, "media_type": row.media_type, "labels": labels})
            }
            Topic::ContentDelete => json!({"digest": row.digest}),
            _ => json!({"digest": row.digest, "size": row.size, "media_type": row.media_type}),
        };
        News { topic, namespace: &row.namespace, subject: &row.digest, fields }
    }

    pub fn of_image(topic: Topic, row: &'n ImageRow) -> News<'n> {
        let fields = match topic {
            Topic::ImageDelete => json!({"name": row.name, "id": row.id}),
            _ => {
                let labels = told_labels(&row.labels);
                json!({"name": row.name, "id": row.id, "digest": row.digest, "labels": labels})
            }
        };
        News { topic, namespace: &row.namespace, subject: &row.name, fields }
    }

    pub fn of_namespace(topic: Topic, row: &'n NamespaceRow) -> News<'n> {
        let fields = match topic {
            Topic::NamespaceDelete => json!({"name": row.name}),
            _ => json!({"name": row.name, "labels": told_labels(&row.labels)}),
        };
        News { topic, namespace: &row.name, subject: &row.name, fields }
    }

    pub fn of_lease(topic: Topic, row: &'n LeaseRow) -> News<'n> {
        let expires_at = row.expires_at.map(Time);
        let fields = match topic {
            Topic::LeaseDelete => json!({"id": row.id, "kind": row.kind}),
            Topic::LeaseExpire => json!({"id": row.id, "kind": row.kind, "expires_at": expires_at}),
            _ => {
                let labels = told_labels(&row.labels);
                json!({"id": row.id, "kind": row.kind, "expires_at": expires_at, "labels": labels})
            }
        };
        News { topic, namespace: &row.namespace, subject: &row.id, fields }
    }

    pub fn of_ingest(topic: Topic, namespace: &'n str, id: &'n str, reference: &str) -> News<'n> {
        News { topic, namespace, subject: id, fields: json!({"id": id, "ref": reference}) }
    }

    pub fn of_snapshot(topic: Topic, row: &'n SnapshotRow) -> News<'n> {
        let fields = match topic {
            Topic::SnapshotRemove => json!({"key": row.key}),
            Topic::SnapshotCommit => json!({"name": row.key, "parent": row.parent}),
            _ => json!({"key": row.key, "parent": row.parent, "labels": told_labels(&row.labels)}),
        };
        News { topic, namespace: &row.namespace, subject: &row.key, fields }
    }

    pub fn of_pull(topic: Topic, row: &'n PullRow) -> News<'n> {
        let fields = json!({
            "id": row.id, "ref": row.reference, "image_name": row.image_name, "state": row.state,
            "digest": row.digest, "error": code_of(row.error.as_deref()),
        });
        News { topic, namespace: &row.namespace, subject: &row.id, fields }
    }

    pub fn of_unpack(topic: Topic, row: &'n UnpackRow) -> News<'n> {
        let error = code_of(row.error.as_deref());
        let fields = json!({"id": row.id, "state": row.state, "digest": row.digest, "error": error});
        News { topic, namespace: &row.namespace, subject: &row.id, fields }
    }
}

/// The code of a job's error.
fn code_of(error: Option<&str>) -> Option<Value> {
    let mut error: Value = serde_json::from_str(error?).ok()?;
    error.get_mut("code").map(Value::take)
}

/// Labels as they are told: those of one record may be larger than all else that is kept of many events.
fn told_labels(json: &str) -> Option<Value> {
    (json.len() <= limits::EVENT_LABELS_BYTES).then(|| json!(labels::from_json(json)))
}
