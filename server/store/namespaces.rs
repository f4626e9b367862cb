//! Namespaces: made on first use. Blobs are stored once; each namespace sees its own records only.

use serde::Serialize;

use super::labels::{self, LabelPatch, Labels};
use super::tell::{News, tell};
use super::{IfMatch, Store, tag_of};
use crate::clock::Time;
use crate::db;
use crate::db::namespaces::NamespaceRow;
use crate::error::{Conflict, Error, Result};
use crate::events::Topic;
use crate::limits;

/// The namespace of a caller who names none. It always exists.
pub const DEFAULT_NAMESPACE: &str = "default";

#[derive(Debug, Clone, Serialize)]
pub struct Namespace {
    pub name: String,
    pub labels: Labels,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Namespace {
    pub fn tag(&self) -> String {
        tag_of(self.updated_at)
    }
}

#[derive(Debug, Clone)]
pub struct NamespacePatch {
    pub labels: Option<LabelPatch>,
    pub if_match: IfMatch,
}

/// A name as containerd allows it: runs of letters and digits, joined by single `.`, `_` or `-`.
///
/// # Errors
/// `Invalid` for any other.
pub fn check_namespace(name: &str) -> Result<()> {
    let runs = || name.split(['.', '_', '-']);
    let fine = name.len() <= limits::NAMESPACE_BYTES
        && runs().all(|run| !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if fine {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a namespace has 1 to {} letters and digits, in runs joined by single `.`, `_` or `-`",
        limits::NAMESPACE_BYTES
    )))
}

impl Store {
    /// # Errors
    /// `Invalid`, `AlreadyExists`.
    pub async fn create_namespace(&self, name: &str, labels: Labels) -> Result<Namespace> {
        check_namespace(name).map_err(|e| e.in_field("name"))?;
        let labels = labels::new_labels(labels)?;
        let (name, now) = (name.to_owned(), self.now());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let row = new_row(&name, &labels, now);
                    if !db::namespaces::insert_namespace(tx, &name, &row.labels, now.0).await? {
                        return Err(Error::already_exists("namespace", &name));
                    }
                    tell(tx, now, News::of_namespace(Topic::NamespaceCreate, &row)).await?;
                    Ok(namespace_of(row))
                })
            })
            .await
    }

    /// # Errors
    /// `NotFound`.
    pub async fn find_namespace(&self, name: &str) -> Result<Namespace> {
        let mut conn = self.0.db.read().await?;
        let row = db::namespaces::find_namespace(&mut conn, name).await?;
        row.map(namespace_of).ok_or_else(|| Error::not_found("namespace", name))
    }

    /// # Errors
    /// `NotFound`, `PreconditionFailed`, `Invalid` for a label.
    pub async fn update_namespace(&self, name: &str, patch: NamespacePatch) -> Result<Namespace> {
        let (store, name, now) = (self.clone(), name.to_owned(), self.now());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut row = db::namespaces::lock_namespace(tx, &name)
                        .await?
                        .ok_or_else(|| Error::not_found("namespace", &name))?;
                    patch.if_match.check(&tag_of(Time(row.updated_at)))?;
                    if let Some(change) = patch.labels {
                        let mut labels = labels::from_json(&row.labels);
                        labels::apply_patch(&mut labels, change)?;
                        row.labels = labels::to_json(&labels);
                    }
                    row.updated_at = store.after(Time(row.updated_at)).0;
                    db::namespaces::update_namespace(tx, &row).await?;
                    tell(tx, now, News::of_namespace(Topic::NamespaceUpdate, &row)).await?;
                    Ok(namespace_of(row))
                })
            })
            .await
    }

    /// Removes an empty namespace. The default one is always there: of it, only the labels go.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed`; `Conflict` (not empty) with what is inside.
    pub async fn delete_namespace(&self, name: &str, if_match: IfMatch) -> Result<()> {
        let (store, name, now) = (self.clone(), name.to_owned(), self.now());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let row = db::namespaces::lock_namespace(tx, &name)
                        .await?
                        .ok_or_else(|| Error::not_found("namespace", &name))?;
                    if_match.check(&tag_of(Time(row.updated_at)))?;
                    let inside = what_is_inside(tx, &name, now).await?;
                    if !inside.is_empty() {
                        return Err(Error::Conflict(Conflict::NotEmpty {
                            what: "namespace",
                            id: name,
                            inside,
                        }));
                    }
                    if name == DEFAULT_NAMESPACE {
                        let updated_at = store.after(Time(row.updated_at)).0;
                        let row = NamespaceRow { labels: "{}".to_owned(), updated_at, ..row };
                        db::namespaces::update_namespace(tx, &row).await?;
                        return tell(tx, now, News::of_namespace(Topic::NamespaceUpdate, &row)).await;
                    }
                    db::namespaces::delete_namespace(tx, &name).await?;
                    tell(tx, now, News::of_namespace(Topic::NamespaceDelete, &row)).await
                })
            })
            .await
    }
}

/// Makes the namespace if this is its first use. Nobody deletes it before this transaction has ended.
pub(super) async fn touch(tx: &mut db::Tx, name: &str, now: Time) -> Result<()> {
    if db::namespaces::touch(tx, name, now.0).await? {
        let row = new_row(name, &Labels::new(), now);
        tell(tx, now, News::of_namespace(Topic::NamespaceCreate, &row)).await?;
    }
    Ok(())
}

fn new_row(name: &str, labels: &Labels, now: Time) -> NamespaceRow {
    NamespaceRow {
        name: name.to_owned(),
        labels: labels::to_json(labels),
        created_at: now.0,
        updated_at: now.0,
    }
}

async fn what_is_inside(tx: &mut db::Tx, name: &str, now: Time) -> Result<Vec<String>> {
    let (images, content, ingests, leases, pulls, unpacks, snapshots) =
        db::namespaces::count_inside(tx, name, now.0).await?;
    let counts = [
        (images, "images"),
        (content, "content"),
        (ingests, "ingests"),
        (leases, "leases"),
        (pulls, "pulls under way"),
        (unpacks, "unpacks under way"),
        (snapshots, "snapshots"),
    ];
    Ok(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect())
}

pub(super) fn namespace_of(row: NamespaceRow) -> Namespace {
    Namespace {
        name: row.name,
        labels: labels::from_json(&row.labels),
        created_at: Time(row.created_at),
        updated_at: Time(row.updated_at),
    }
}
