//! What lists know of each item: its sort keys, its labels, and the fields that a filter may name.

use std::borrow::Cow;

use super::text;
use crate::clock::Time;
use crate::db::content::ContentRow;
use crate::db::events::EventRow;
use crate::db::images::ImageRow;
use crate::db::ingests::IngestRow;
use crate::db::leases::LeaseRow;
use crate::db::namespaces::NamespaceRow;
use crate::db::pulls::PullRow;
use crate::db::snapshots::SnapshotRow;
use crate::db::tokens::TokenRow;
use crate::db::unpacks::UnpackRow;
use crate::events::Event;
use crate::store::filter::{Field, Fields, Value};
use crate::store::list::KeyValue;
use crate::store::{Content, Image, Ingest, Labels, Lease, Namespace, Snapshot, Token};

/// A row that knows its sort keys.
pub(in crate::store) trait Keyed {
    /// The value of the sort key of this name; each is one of the resource's own.
    fn key(&self, name: &str) -> KeyValue;
}

/// An item that has labels, or none.
pub trait Labelled {
    fn labels(&self) -> &Labels;
}

impl Keyed for ContentRow {
    fn key(&self, name: &str) -> KeyValue {
        match name {
            "size" => KeyValue::Number(self.size),
            "media_type" => text(self.media_type.as_deref().unwrap_or_default()),
            "created_at" => KeyValue::Number(self.created_at),
            "updated_at" => KeyValue::Number(self.updated_at),
            _ => text(&self.digest),
        }
    }
}

impl Keyed for IngestRow {
    fn key(&self, name: &str) -> KeyValue {
        match name {
            "ref" => text(&self.reference),
            "offset" => KeyValue::Number(self.durable_offset),
            "started_at" => KeyValue::Number(self.started_at),
            "updated_at" => KeyValue::Number(self.updated_at),
            "expires_at" => KeyValue::Number(self.expires_at),
            _ => text(&self.id),
        }
    }
}

impl Keyed for ImageRow {
    fn key(&self, name: &str) -> KeyValue {
        match name {
            "name" => text(&self.name),
            "created_at" => KeyValue::Number(self.created_at),
            "updated_at" => KeyValue::Number(self.updated_at),
            _ => text(&self.id),
        }
    }
}

impl Keyed for NamespaceRow {
    fn key(&self, name: &str) -> KeyValue {
        match name {
            "created_at" => KeyValue::Number(self.created_at),
            "updated_at" => KeyValue::Number(self.updated_at),
            _ => text(&self.name),
        }
    }
}

impl Keyed for LeaseRow {
    fn key(&self, name: &str) -> KeyValue {
        match name {
            "expires_at" => KeyValue::Number(self.expires_at.unwrap_or(i64::MAX)),
            "created_at" => KeyValue::Number(self.created_at),
            "updated_at" => KeyValue::Number(self.updated_at),
            _ => text(&self.id),
        }
    }
}

impl Keyed for SnapshotRow {
    fn key(&self, name: &str) -> KeyValue {
        match name {
            "size" => KeyValue::Number(self.size),
            "created_at" => KeyValue::Number(self.created_at),
            "updated_at" => KeyValue::Number(self.updated_at),
            _ => text(&self.key),
        }
    }
}

macro_rules! keyed_jobs {
    ($($row:ty),*) => {
        $(impl Keyed for $row {
            fn key(&self, name: &str) -> KeyValue {
                match name {
                    "state" => text(&self.state),
                    "created_at" => KeyValue::Number(self.created_at),
                    "started_at" => KeyValue::Number(self.started_at.unwrap_or(i64::MAX)),
                    "finished_at" => KeyValue::Number(self.finished_at.unwrap_or(i64::MAX)),
                    _ => text(&self.id),
                }
            }
        })*
    };
}

keyed_jobs!(PullRow, UnpackRow);

impl Keyed for TokenRow {
    fn key(&self, name: &str) -> KeyValue {
        match name {
            "name" => text(&self.name),
            "created_at" => KeyValue::Number(self.created_at),
            "expires_at" => KeyValue::Number(self.expires_at.unwrap_or(i64::MAX)),
            _ => text(&self.id),
        }
    }
}

impl Keyed for EventRow {
    fn key(&self, _name: &str) -> KeyValue {
        KeyValue::Number(self.id)
    }
}

static NO_LABELS: Labels = Labels::new();

impl Labelled for Event {
    fn labels(&self) -> &Labels {
        &NO_LABELS
    }
}

impl Labelled for Token {
    fn labels(&self) -> &Labels {
        &NO_LABELS
    }
}

macro_rules! labelled {
    ($($item:ty),*) => {
        $(impl Labelled for $item {
            fn labels(&self) -> &Labels {
                &self.labels
            }
        })*
    };
}

labelled!(Content, Ingest, Image, Namespace, Lease, Snapshot);

fn shown(value: &str) -> Option<Value<'_>> {
    Some(Value::Text(Cow::Borrowed(value)))
}

fn size(bytes: u64) -> Option<Value<'static>> {
    Some(Value::Number(i64::try_from(bytes).unwrap_or(i64::MAX)))
}

fn time(time: Time) -> Option<Value<'static>> {
    Some(Value::Time(time))
}

fn of_map<'a>(map: &'a Labels, key: &str) -> Option<Value<'a>> {
    map.get(key).and_then(|value| shown(value))
}

impl Fields for Content {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        match field {
            Field::Label(key) => of_map(&self.labels, key),
            Field::Named("digest") => shown(&self.digest),
            Field::Named("size") => size(self.size),
            Field::Named("media_type") => self.media_type.as_deref().and_then(shown),
            Field::Named("created_at") => time(self.created_at),
            Field::Named("updated_at") => time(self.updated_at),
            Field::Named(_) | Field::Annotation(_) => None,
        }
    }
}

impl Fields for Ingest {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        match field {
            Field::Label(key) => of_map(&self.labels, key),
            Field::Named("id") => shown(&self.id),
            Field::Named("ref") => shown(&self.reference),
            Field::Named("offset") => size(self.offset),
            Field::Named("total") => self.total.and_then(size),
            Field::Named("expected_digest") => self.expected_digest.as_deref().and_then(shown),
            Field::Named("state") => shown(self.state),
            Field::Named("started_at") => time(self.started_at),
            Field::Named("updated_at") => time(self.updated_at),
            Field::Named("expires_at") => time(self.expires_at),
            Field::Named(_) | Field::Annotation(_) => None,
        }
    }
}

impl Fields for Image {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        match field {
            Field::Label(key) => of_map(&self.labels, key),
            Field::Annotation(key) => of_map(&self.target.annotations, key),
            Field::Named("id") => shown(&self.id),
            Field::Named("name") => shown(&self.name),
            Field::Named("target.digest") => shown(&self.target.digest),
            Field::Named("target.media_type") => shown(&self.target.media_type),
            Field::Named("target.size") => size(self.target.size),
            Field::Named("created_at") => time(self.created_at),
            Field::Named("updated_at") => time(self.updated_at),
            Field::Named(_) => None,
        }
    }
}

impl Fields for Namespace {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        match field {
            Field::Label(key) => of_map(&self.labels, key),
            Field::Named("name") => shown(&self.name),
            Field::Named("created_at") => time(self.created_at),
            Field::Named("updated_at") => time(self.updated_at),
            Field::Named(_) | Field::Annotation(_) => None,
        }
    }
}

impl Fields for Lease {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        match field {
            Field::Label(key) => of_map(&self.labels, key),
            Field::Named("id") => shown(&self.id),
            Field::Named("kind") => shown(&self.kind),
            Field::Named("expires_at") => self.expires_at.and_then(time),
            Field::Named("created_at") => time(self.created_at),
            Field::Named("updated_at") => time(self.updated_at),
            Field::Named(_) | Field::Annotation(_) => None,
        }
    }
}

impl Fields for Snapshot {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        match field {
            Field::Label(key) => of_map(&self.labels, key),
            Field::Named("key") => shown(&self.key),
            Field::Named("parent") => self.parent.as_deref().and_then(shown),
            Field::Named("kind") => shown(self.kind.as_str()),
            Field::Named("diff_id") => self.diff_id.as_deref().and_then(shown),
            Field::Named("size") => self.size.and_then(size),
            Field::Named("inodes") => self.inodes.and_then(size),
            Field::Named("created_at") => time(self.created_at),
            Field::Named("updated_at") => time(self.updated_at),
            Field::Named(_) | Field::Annotation(_) => None,
        }
    }
}

impl Fields for Token {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        match field {
            Field::Named("id") => shown(&self.id),
            Field::Named("name") => shown(&self.name),
            Field::Named(_) | Field::Label(_) | Field::Annotation(_) => None,
        }
    }
}

impl Fields for Event {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        let text =
            |value: &'_ serde_json::Value| value.as_str().map(|text| Value::Text(text.to_owned().into()));
        match field {
            Field::Label(key) => self.event.get("labels")?.get(key).and_then(text),
            Field::Named("id") => Some(Value::Number(self.id)),
            Field::Named("time") => time(self.time),
            Field::Named("namespace") => shown(&self.namespace),
            Field::Named("topic") => shown(&self.topic),
            Field::Named("subject") => shown(&self.subject),
            Field::Named("event.size") => self.event.get("size")?.as_i64().map(Value::Number),
            Field::Named("event.expires_at") => {
                self.event.get("expires_at")?.as_str()?.parse().ok().and_then(time)
            }
            Field::Named(name) => self.event.get(name.strip_prefix("event.")?).and_then(text),
            Field::Annotation(_) => None,
        }
    }
}
