//! Snapshots go: when somebody says so, and when a start finds that half of one is gone.

use super::{NAMED_CHILDREN, Store};
use crate::clock::Time;
use crate::db;
use crate::disk;
use crate::error::{Conflict, Error, Result};
use crate::events::Topic;
use crate::store::tell::{News, tell};
use crate::store::{IfMatch, tag_of};

impl Store {
    /// Removes a snapshot. Its key is free at once; its files go in the background.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed`; `Conflict` (has children) while others stand on it.
    pub async fn remove_snapshot(&self, namespace: &str, key: &str, if_match: IfMatch) -> Result<()> {
        let (store, owner, key, now) = (self.clone(), namespace.to_owned(), key.to_owned(), self.now());
        self.to_the_end("remove a snapshot", async move {
            let _turn = store.0.snapshots.enter(&(&owner, &key)).await;
            let removing = store.0.db.write(move |tx| {
                Box::pin(async move {
                    let found = db::snapshots::lock_snapshot(tx, &owner, &key).await?;
                    let row = found.ok_or_else(|| Error::not_found("snapshot", &key))?;
                    if_match.check(&tag_of(Time(row.updated_at)))?;
                    let children = db::snapshots::list_children(tx, &owner, &key, NAMED_CHILDREN).await?;
                    if !children.is_empty() {
                        let children = children.into_iter().map(|(key,)| key).collect();
                        return Err(Error::Conflict(Conflict::HasChildren { key, children }));
                    }
                    db::leases::forget_resource(tx, &owner, "snapshot", &key).await?;
                    db::snapshots::delete_snapshot(tx, &owner, &key).await?;
                    tell(tx, now, News::of_snapshot(Topic::SnapshotRemove, &row)).await?;
                    Ok(row.id)
                })
            });
            let id = removing.await?;
            store.0.trees.remove(&id);
            store.remove_snapshot_files(id);
            Ok(())
        })
        .await
    }

    /// Removes a directory that no row names, in the background. What a stop interrupts the next start finishes.
    pub(super) fn remove_snapshot_files(&self, id: String) {
        let store = self.clone();
        self.0.shutdown.spawn("remove-snapshot", async move {
            if let Err(error) = store.on_disk(move |disk| disk.remove_snapshot(&id)).await {
                let why = crate::error::with_causes(&error);
                tracing::warn!("Could not remove the files of a snapshot: {why}");
            }
        });
    }

    /// Makes directories and rows of snapshots agree after any end: a directory without a row goes, a row without a
    /// directory as well, with all that stands on it. How many of each.
    pub(in crate::store) async fn repair_snapshots(&self) -> Result<(u64, u64)> {
        const PAGE: i64 = 1000;
        let mut on_disk: std::collections::BTreeSet<String> =
            self.on_disk(disk::Disk::walk_snapshots).await?.into_iter().collect();
        let mut lost = Vec::new();
        let mut after = String::new();
        loop {
            let rows = {
                let mut conn = self.0.db.read().await?;
                db::snapshots::list_ids_after(&mut conn, &after, PAGE).await?
            };
            let Some((last, ..)) = rows.last() else { break };
            after.clone_from(last);
            lost.extend(rows.into_iter().filter(|(id, ..)| !on_disk.remove(id)));
        }
        let strays = on_disk.len() as u64;
        for id in on_disk {
            self.on_disk(move |disk| disk.remove_snapshot(&id)).await?;
        }
        let mut dropped = 0;
        for (_, namespace, key) in lost {
            dropped += self.drop_lost(&namespace, &key).await?;
        }
        Ok((strays, dropped))
    }

    /// Drops a row whose directory is gone, and those that stand on it.
    async fn drop_lost(&self, namespace: &str, key: &str) -> Result<u64> {
        let mut dropped = 0;
        let mut left = vec![key.to_owned()];
        while let Some(key) = left.last().cloned() {
            let children = {
                let mut conn = self.0.db.read().await?;
                db::snapshots::list_children(&mut conn, namespace, &key, NAMED_CHILDREN).await?
            };
            if !children.is_empty() {
                left.extend(children.into_iter().map(|(key,)| key));
                continue;
            }
            left.pop();
            match self.remove_snapshot(namespace, &key, IfMatch::Absent).await {
                Ok(()) => {
                    tracing::error!(snapshot.key = %key, "The files of snapshot `{key}` are gone: it is dropped");
                    dropped += 1;
                }
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }
}
