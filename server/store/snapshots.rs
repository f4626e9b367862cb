//! Snapshots: file systems of layers on each other (containerd's snapshotter). Committed ones never change; active ones are
//! written through a mount, or filled by an unpack; views are looked at.

use serde::Serialize;

use super::labels::{self, LabelPatch, Labels};
use super::leases::hold;
use super::namespaces::touch;
use super::tell::{News, tell};
use super::{Caller, Held, IfMatch, ResourceKind, Store, tag_of};
use crate::clock::Time;
use crate::db;
use crate::db::Tx;
use crate::db::snapshots::SnapshotRow;
use crate::disk;
use crate::error::{Conflict, Error, Result};
use crate::events::Topic;
use crate::id::SnapshotKey;
use crate::limits;
use crate::oci::tree::{ROOT, Tree, Usage};

mod archive;
mod building;
mod commit;
mod difference;
mod mounts;
mod remove;
mod unpacked;
mod view;

pub use building::Building;
pub use difference::Between;
pub use mounts::Mount;
pub use unpacked::{Staged, UnpackedLayer};
pub use view::{Layer, View, ViewFile};

/// containerd's label for a snapshot that somebody else provides under another key.
const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// How many children a refusal names: enough to act on.
const NAMED_CHILDREN: i64 = 20;

/// A snapshot as its namespace sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    pub key: String,
    pub namespace: String,
    pub kind: SnapshotKind,
    pub parent: Option<String>,
    /// The layer that it was unpacked from.
    pub diff_id: Option<String>,
    /// What it takes itself, once it is committed: bytes, and files of any kind.
    pub size: Option<u64>,
    pub inodes: Option<u64>,
    pub labels: Labels,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Snapshot {
    pub fn tag(&self) -> String {
        tag_of(self.updated_at)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    Active,
    View,
    Committed,
}

impl SnapshotKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            SnapshotKind::Active => "active",
            SnapshotKind::View => "view",
            SnapshotKind::Committed => "committed",
        }
    }

    /// The kind of a row. The table allows no other text than these.
    fn of_row(text: &str) -> SnapshotKind {
        match text {
            "active" => SnapshotKind::Active,
            "view" => SnapshotKind::View,
            _ => SnapshotKind::Committed,
        }
    }
}

/// What may be made of a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewKind {
    Active,
    View,
}

#[derive(Debug, Clone)]
pub struct NewSnapshot {
    pub key: SnapshotKey,
    pub parent: Option<SnapshotKey>,
    pub kind: NewKind,
    pub labels: Labels,
}

#[derive(Debug, Clone)]
pub struct CommitSnapshot {
    pub name: SnapshotKey,
    /// They take the place of those of the active snapshot.
    pub labels: Labels,
    /// Only for one that was prepared without a parent, or the same again.
    pub parent: Option<SnapshotKey>,
}

#[derive(Debug, Clone)]
pub struct SnapshotPatch {
    pub labels: Option<LabelPatch>,
    pub if_match: IfMatch,
}

impl Store {
    /// Makes an active snapshot or a view on a committed one, or on nothing.
    ///
    /// # Errors
    /// `AlreadyExists` when the key is taken, by whatever kind: what has it is held for the caller then. `NotFound` for the
    /// parent or the lease; `Invalid` for a parent that is not committed, or a label.
    pub async fn prepare_snapshot(
        &self,
        caller: &Caller,
        new: NewSnapshot,
    ) -> Result<(Snapshot, Vec<Mount>, Held)> {
        let labels = labels::new_labels(new.labels.clone())?;
        self.check_lease(caller).await?;
        let (store, caller) = (self.clone(), caller.clone());
        // To the end: a directory that was made for a client that hung up is somebody's to remove.
        self.to_the_end("prepare a snapshot", async move {
            let taken = [Some(new.key.to_string()), labels.get(SNAPSHOT_REF).cloned()];
            for key in taken.into_iter().flatten() {
                if store.hold_snapshot(&caller, &key).await?.is_some() {
                    return Err(Error::already_exists("snapshot", key));
                }
            }
            let id = store.on_disk(|disk| disk.make_snapshot()).await?;
            let recorded = store.record_prepared(&caller, &new, labels, id.clone()).await;
            match &recorded {
                // There may be a row all the same: if there is none, the next start removes the directory.
                Ok(Some(_)) | Err(Error::Unavailable { .. }) => {}
                Ok(None) | Err(_) => store.remove_snapshot_files(id),
            }
            match recorded? {
                Some((snapshot, held)) => {
                    let mounts = store.mounts_of(&snapshot.namespace, &snapshot.key).await?;
                    Ok((snapshot, mounts, held))
                }
                None => {
                    store.hold_snapshot(&caller, &new.key).await?;
                    Err(Error::already_exists("snapshot", &new.key))
                }
            }
        })
        .await
    }

    /// `None` when the key is taken.
    async fn record_prepared(
        &self,
        caller: &Caller,
        new: &NewSnapshot,
        labels: Labels,
        id: String,
    ) -> Result<Option<(Snapshot, Held)>> {
        let form = self.match_root(caller, new, &id).await?;
        let (owner, now, grace) = (caller.clone(), self.now(), self.0.settings.grace_lease);
        let kind = match new.kind {
            NewKind::Active => SnapshotKind::Active,
            NewKind::View => SnapshotKind::View,
        };
        let row = SnapshotRow {
            namespace: caller.namespace.clone(),
            key: new.key.to_string(),
            id,
            kind: kind.as_str().to_owned(),
            parent: new.parent.as_ref().map(ToString::to_string),
            diff_id: None,
            form: form.as_str().to_owned(),
            opaque: 0,
            size: 0,
            inodes: 0,
            labels: labels::to_json(&labels),
            created_at: now.0,
            updated_at: now.0,
        };
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    touch(tx, &owner.namespace, now).await?;
                    if let Some(parent) = &row.parent {
                        lock_parent(tx, &owner.namespace, parent).await?;
                    }
                    if !db::snapshots::insert_snapshot(tx, &row).await? {
                        return Ok(None);
                    }
                    let held = hold(tx, &owner, ResourceKind::Snapshot, &row.key, grace, now).await?;
                    // A view is nobody's news, as with containerd.
                    if row.kind == SnapshotKind::Active.as_str() {
                        tell(tx, now, News::of_snapshot(Topic::SnapshotPrepare, &row)).await?;
                    }
                    Ok(Some((snapshot_of(row), held)))
                })
            })
            .await
    }

    /// Makes the root of a new snapshot as that of its parent: a mount shows the root of the top one.
    async fn match_root(&self, caller: &Caller, new: &NewSnapshot, id: &str) -> Result<Form> {
        let form = self.snapshot_form().await?;
        let Some(parent) = &new.parent else { return Ok(form) };
        let view = match self.view_snapshot(&caller.namespace, parent).await {
            // What is wrong with the parent is said where it is locked.
            Err(Error::NotFound { .. }) => return Ok(form),
            view => view?,
        };
        let (meta, id) = (view.merged().root().inode.meta.clone(), id.to_owned());
        self.on_disk(move |disk| disk.dress_root(&id, &meta, form == Form::Real)).await?;
        Ok(form)
    }

    /// Whether new snapshots are as their layers say; looked at once.
    pub(super) async fn snapshot_form(&self) -> Result<Form> {
        let form = &self.0.snapshot_form;
        let find = async { self.on_disk(disk::Disk::can_keep_owners).await };
        let real = *form.get_or_try_init(|| find).await?;
        Ok(if real { Form::Real } else { Form::Ours })
    }

    /// Holds a snapshot for the caller; `None` when there is none.
    ///
    /// # Errors
    /// `NotFound` for the lease.
    pub async fn hold_snapshot(&self, caller: &Caller, key: &str) -> Result<Option<(Snapshot, Held)>> {
        let (owner, key, now) = (caller.clone(), key.to_owned(), self.now());
        let grace = self.0.settings.grace_lease;
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let found = db::snapshots::lock_snapshot(tx, &owner.namespace, &key).await?;
                    let Some(row) = found else { return Ok(None) };
                    let held = hold(tx, &owner, ResourceKind::Snapshot, &key, grace, now).await?;
                    Ok(Some((snapshot_of(row), held)))
                })
            })
            .await
    }

    /// # Errors
    /// `NotFound`.
    pub async fn find_snapshot(&self, namespace: &str, key: &str) -> Result<Snapshot> {
        self.find_snapshot_row(namespace, key).await.map(snapshot_of)
    }

    async fn find_snapshot_row(&self, namespace: &str, key: &str) -> Result<SnapshotRow> {
        let mut conn = self.0.db.read().await?;
        let row = db::snapshots::find_snapshot(&mut conn, namespace, key).await?;
        row.ok_or_else(|| Error::not_found("snapshot", key))
    }

    /// # Errors
    /// `NotFound`, `PreconditionFailed`, `Invalid` for a label.
    pub async fn update_snapshot(
        &self,
        namespace: &str,
        key: &str,
        patch: SnapshotPatch,
    ) -> Result<Snapshot> {
        let (store, owner, key, now) = (self.clone(), namespace.to_owned(), key.to_owned(), self.now());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let found = db::snapshots::lock_snapshot(tx, &owner, &key).await?;
                    let mut row = found.ok_or_else(|| Error::not_found("snapshot", &key))?;
                    patch.if_match.check(&tag_of(Time(row.updated_at)))?;
                    if let Some(change) = patch.labels {
                        let mut labels = labels::from_json(&row.labels);
                        labels::apply_patch(&mut labels, change)?;
                        row.labels = labels::to_json(&labels);
                    }
                    row.updated_at = store.after(Time(row.updated_at)).0;
                    db::snapshots::update_labels(tx, &row).await?;
                    tell(tx, now, News::of_snapshot(Topic::SnapshotUpdate, &row)).await?;
                    Ok(snapshot_of(row))
                })
            })
            .await
    }

    /// What a snapshot takes itself, its parents apart: as it was committed, or as it is now; a view takes nothing.
    ///
    /// # Errors
    /// `NotFound`; `ValidationFailed` for an active one with more files than a layer may have.
    pub async fn measure_snapshot(&self, namespace: &str, key: &str) -> Result<Usage> {
        let row = self.find_snapshot_row(namespace, key).await?;
        match SnapshotKind::of_row(&row.kind) {
            SnapshotKind::Committed => {
                Ok(Usage { bytes: row.size.unsigned_abs(), inodes: row.inodes.unsigned_abs() })
            }
            SnapshotKind::View => Ok(Usage::default()),
            SnapshotKind::Active => self.read_active(row.id).await.map(|(_, usage)| usage),
        }
    }

    async fn read_active(&self, id: String) -> Result<(Tree, Usage)> {
        self.on_disk(move |disk| disk.read_snapshot(&id)).await
    }
}

/// How the files of a snapshot are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Theirs are the owners and attributes that layers say.
    Real,
    /// They are ours, and what layers say stands in attributes of theirs.
    Ours,
}

impl Form {
    const fn as_str(self) -> &'static str {
        match self {
            Form::Real => "real",
            Form::Ours => "ours",
        }
    }
}

/// A parent that stays as it is until the transaction ends.
async fn lock_parent(tx: &mut Tx, namespace: &str, parent: &str) -> Result<()> {
    let found = db::snapshots::lock_snapshot(tx, namespace, parent).await?;
    let found = found.ok_or_else(|| Error::not_found("snapshot", parent))?;
    if found.kind == SnapshotKind::Committed.as_str() {
        return Ok(());
    }
    let reason = format!("`{parent}` is {}: only a committed snapshot can be a parent", found.kind);
    Err(Error::invalid_field("parent", reason))
}

fn check_active(row: &SnapshotRow) -> Result<()> {
    if row.kind == SnapshotKind::Active.as_str() {
        return Ok(());
    }
    let reason = format!("the snapshot `{}` is {}: only an active one can be committed", row.key, row.kind);
    Err(Error::Conflict(Conflict::State { reason }))
}

fn is_opaque(tree: &Tree) -> bool {
    tree.directory(ROOT).is_some_and(|root| root.opaque)
}

fn with_usage(row: SnapshotRow, usage: Usage) -> SnapshotRow {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    SnapshotRow { size: signed(usage.bytes), inodes: signed(usage.inodes), ..row }
}

pub(super) fn snapshot_of(row: SnapshotRow) -> Snapshot {
    let kind = SnapshotKind::of_row(&row.kind);
    let committed = kind == SnapshotKind::Committed;
    Snapshot {
        kind,
        size: committed.then(|| row.size.unsigned_abs()),
        inodes: committed.then(|| row.inodes.unsigned_abs()),
        labels: labels::from_json(&row.labels),
        created_at: Time(row.created_at),
        updated_at: Time(row.updated_at),
        key: row.key,
        namespace: row.namespace,
        parent: row.parent,
        diff_id: row.diff_id,
    }
}

/// The chain of a snapshot: as many as an image may have layers, and one on top.
const CHAIN: i64 = limits::MANIFEST_LAYERS as i64 + 1;
