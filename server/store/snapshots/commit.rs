//! An active snapshot becomes a committed one.

use super::{
    CommitSnapshot, Snapshot, SnapshotKind, Store, check_active, is_opaque, lock_parent, snapshot_of,
    with_usage,
};
use crate::db;
use crate::db::snapshots::SnapshotRow;
use crate::error::{Error, Result};
use crate::events::Topic;
use crate::store::labels;
use crate::store::leases::hold;
use crate::store::namespaces::touch;
use crate::store::tell::{News, tell};
use crate::store::{Caller, Held, ResourceKind};

impl Store {
    /// Makes an active snapshot a committed one, under a new name: what it holds now, on the disk for certain.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` when the name is taken (it is held for the caller then, and the active snapshot stays);
    /// `Conflict` (state) for what is not active; `Invalid` for another parent than it has, or a label;
    /// `ValidationFailed` for more files than a layer may have.
    pub async fn commit_snapshot(
        &self,
        caller: &Caller,
        key: &str,
        commit: CommitSnapshot,
    ) -> Result<(Snapshot, Held)> {
        let labels = labels::new_labels(commit.labels.clone())?;
        self.check_lease(caller).await?;
        let (store, caller, key) = (self.clone(), caller.clone(), key.to_owned());
        self.to_the_end("commit a snapshot", async move {
            let _turn = store.0.snapshots.enter(&(&caller.namespace, &key)).await;
            let row = store.find_snapshot_row(&caller.namespace, &key).await?;
            check_active(&row)?;
            check_new_parent(&row, commit.parent.as_deref())?;
            let id = row.id.clone();
            let sealed = store.on_disk(move |disk| {
                let (tree, usage) = disk.read_snapshot(&id)?;
                disk.seal_snapshot(&id, &tree)?;
                Ok((tree, usage))
            });
            let (tree, usage) = sealed.await?;
            let committed = SnapshotRow {
                key: commit.name.to_string(),
                kind: SnapshotKind::Committed.as_str().to_owned(),
                parent: commit.parent.as_ref().map(ToString::to_string).or_else(|| row.parent.clone()),
                opaque: i64::from(is_opaque(&tree)),
                labels: labels::to_json(&labels),
                ..with_usage(row, usage)
            };
            match store.record_committed(&caller, Some(key), committed).await? {
                Some(committed) => Ok(committed),
                None => {
                    store.hold_snapshot(&caller, &commit.name).await?;
                    Err(Error::already_exists("snapshot", &commit.name))
                }
            }
        })
        .await
    }

    /// Records a committed snapshot, in place of an active one if there was one. `None` when the name is taken.
    pub(super) async fn record_committed(
        &self,
        caller: &Caller,
        active: Option<String>,
        row: SnapshotRow,
    ) -> Result<Option<(Snapshot, Held)>> {
        let (owner, now, grace) = (caller.clone(), self.now(), self.0.settings.grace_lease);
        let row = SnapshotRow { created_at: now.0, updated_at: now.0, ..row };
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    touch(tx, &owner.namespace, now).await?;
                    if let Some(parent) = &row.parent {
                        lock_parent(tx, &owner.namespace, parent).await?;
                    }
                    if let Some(active) = &active {
                        let found = db::snapshots::lock_snapshot(tx, &owner.namespace, active).await?;
                        let found = found.ok_or_else(|| Error::not_found("snapshot", active))?;
                        check_active(&found)?;
                        let taken = db::snapshots::find_snapshot(tx, &owner.namespace, &row.key).await?;
                        if taken.is_some() {
                            return Ok(None);
                        }
                        db::snapshots::delete_snapshot(tx, &owner.namespace, active).await?;
                        db::leases::forget_resource(tx, &owner.namespace, "snapshot", active).await?;
                    }
                    if !db::snapshots::insert_snapshot(tx, &row).await? {
                        return match active {
                            // Somebody took the name meanwhile: all of this is undone.
                            Some(_) => Err(Error::already_exists("snapshot", &row.key)),
                            None => Ok(None),
                        };
                    }
                    let held = hold(tx, &owner, ResourceKind::Snapshot, &row.key, grace, now).await?;
                    let news = News::of_snapshot(Topic::SnapshotCommit, &row);
                    tell(tx, now, news.with("key", active.as_deref().unwrap_or(&row.key))).await?;
                    Ok(Some((snapshot_of(row), held)))
                })
            })
            .await
    }
}

fn check_new_parent(row: &SnapshotRow, parent: Option<&str>) -> Result<()> {
    match (&row.parent, parent) {
        (Some(own), Some(parent)) if own != parent => {
            Err(Error::invalid_field("parent", format!("the snapshot stands on `{own}` already")))
        }
        _ => Ok(()),
    }
}
