//! A committed snapshot made of a layer: its directory is filled first, where nobody sees it, and named at the end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Form, Snapshot, SnapshotKind, Store, is_opaque, with_usage};
use crate::db::snapshots::SnapshotRow;
use crate::error::{Error, Result};
use crate::oci::Digest;
use crate::oci::tree::Tree;
use crate::store::labels::{self, Labels};
use crate::store::{Caller, Held};

/// A directory that is being filled. It goes when this does, unless it was committed.
pub struct Staged {
    store: Store,
    /// `None` once a row has it.
    id: Option<String>,
    directory: OwnedFd,
    form: Form,
}

/// What a filled directory becomes.
#[derive(Debug)]
pub struct UnpackedLayer {
    /// The chain ID.
    pub name: String,
    /// The chain ID of what it stands on.
    pub parent: Option<String>,
    pub diff_id: Digest,
    pub tree: Tree,
    pub labels: Labels,
}

impl Staged {
    pub fn form(&self) -> Form {
        self.form
    }

    /// A handle of the directory, for whoever fills it.
    ///
    /// # Errors
    /// `Internal`.
    pub fn directory(&self) -> Result<OwnedFd> {
        self.directory.try_clone().map_err(|source| Error::Internal {
            doing: "open the directory of a snapshot".to_owned(),
            source: Some(source.into()),
        })
    }
}

impl Staged {
    /// A row has it now.
    fn keep(mut self) {
        self.id = None;
    }
}

impl AsFd for Staged {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.store.remove_snapshot_files(id);
        }
    }
}

impl Store {
    /// Makes a directory for a layer.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub async fn stage_snapshot(&self) -> Result<Staged> {
        let form = self.snapshot_form().await?;
        let store = self.clone();
        self.on_disk(move |disk| {
            let id = disk.make_snapshot()?;
            let directory = disk.open_snapshot(&id)?;
            Ok(Staged { store, id: Some(id), directory, form })
        })
        .await
    }

    /// Names a filled directory, once all of it is on the disk for certain. One that somebody else has named meanwhile is as
    /// good, and held for the caller.
    ///
    /// # Errors
    /// `NotFound` for the parent or the lease; `OutOfSpace`, `Unavailable` or `Internal`. Nothing is there then.
    pub async fn commit_staged(
        &self,
        caller: &Caller,
        staged: Staged,
        layer: UnpackedLayer,
    ) -> Result<(Snapshot, Held)> {
        let labels = labels::new_labels(layer.labels)?;
        let Some(id) = staged.id.clone() else { return Err(Error::internal("commit a directory twice")) };
        let (store, caller) = (self.clone(), caller.clone());
        self.to_the_end("commit an unpacked layer", async move {
            let tree = Arc::new(layer.tree);
            let (sealed, kept) = (tree.clone(), id.clone());
            store.on_disk(move |disk| disk.seal_snapshot(&kept, &sealed)).await?;
            let row = SnapshotRow {
                namespace: caller.namespace.clone(),
                key: layer.name,
                id: id.clone(),
                kind: SnapshotKind::Committed.as_str().to_owned(),
                parent: layer.parent,
                diff_id: Some(layer.diff_id.to_string()),
                form: staged.form.as_str().to_owned(),
                opaque: i64::from(is_opaque(&tree)),
                size: 0,
                inodes: 0,
                labels: labels::to_json(&labels),
                created_at: 0,
                updated_at: 0,
            };
            let key = row.key.clone();
            match store.record_committed(&caller, None, with_usage(row, tree.usage())).await {
                Ok(Some(committed)) => {
                    staged.keep();
                    store.0.trees.insert(id, tree);
                    Ok(committed)
                }
                Ok(None) => {
                    let standing = store.hold_snapshot(&caller, &key).await?;
                    standing.ok_or(Error::Unavailable { what: "the snapshot", source: None })
                }
                Err(error) => {
                    // There may be a row all the same: if there is none, the next start removes the directory.
                    if matches!(error, Error::Unavailable { .. }) {
                        staged.keep();
                    }
                    Err(error)
                }
            }
        })
        .await
    }
}
