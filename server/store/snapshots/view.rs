//! A snapshot as the files that a mount of it would show, without one.

use std::sync::Arc;

use super::{CHAIN, SnapshotKind, Store};
use crate::db;
use crate::db::snapshots::SnapshotRow;
use crate::disk::BlobFile;
use crate::error::{Error, Result};
use crate::oci::tree::{Found, Merged, Mtime, Tree};
use crate::oci::{Algorithm, Digest};
use crate::store::files::{FileChange, FileLayer, Files, list_changes};

/// One layer of a view.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The key of its snapshot.
    pub key: String,
    pub diff_id: Option<String>,
    pub(super) id: String,
    pub(super) tree: Arc<Tree>,
}

/// The layers of a snapshot, the top one first.
#[derive(Debug, Clone)]
pub struct View {
    pub layers: Vec<Layer>,
}

/// A file that a view shows, open.
#[derive(Debug)]
pub struct ViewFile {
    pub file: BlobFile,
    /// Of its bytes, as far as its size and time tell them apart.
    pub tag: String,
}

impl View {
    /// Its files, and which layer brought each.
    pub fn files(&self) -> Files<'_> {
        let layers = self.layers.iter().map(|layer| FileLayer {
            snapshot: Some(layer.key.clone()),
            digest: None,
            diff_id: layer.diff_id.clone(),
        });
        Files { merged: self.merged(), layers: layers.collect() }
    }

    /// What its top layer changed of what is below it.
    pub fn changes(&self) -> Vec<FileChange> {
        let Some((top, below)) = self.layers.split_first() else { return Vec::new() };
        let below = Merged::new(below.iter().map(|layer| &*layer.tree).collect());
        let layer = FileLayer { snapshot: Some(top.key.clone()), digest: None, diff_id: top.diff_id.clone() };
        list_changes(&top.tree, &below, &layer)
    }

    pub fn merged(&self) -> Merged<'_> {
        Merged::new(self.layers.iter().map(|layer| &*layer.tree).collect())
    }
}

impl View {
    /// As [`Store::open_file`], for who may block.
    ///
    /// # Errors
    /// As [`Store::open_file`].
    pub fn open_blocking(
        store: &Store,
        view: &View,
        found: &Found<'_>,
    ) -> Result<impl std::io::Read + use<>> {
        let Some(layer) = view.layers.get(found.layer) else {
            return Err(Error::internal("find the layer of a file"));
        };
        let file = store.0.disk.open_snapshot_file(&layer.id, &found.path_in(&layer.tree))?;
        Ok(file.into_reader())
    }
}

impl Store {
    /// # Errors
    /// `NotFound`; `ValidationFailed` for an active snapshot with more files than a layer may have.
    pub async fn view_snapshot(&self, namespace: &str, key: &str) -> Result<View> {
        let chain = {
            let mut conn = self.0.db.read().await?;
            db::snapshots::list_chain(&mut conn, namespace, key, CHAIN).await?
        };
        if chain.is_empty() {
            return Err(Error::not_found("snapshot", key));
        }
        let mut layers = Vec::new();
        for row in chain {
            let tree = match SnapshotKind::of_row(&row.kind) {
                // There is nothing in it.
                SnapshotKind::View if row.parent.is_some() => continue,
                SnapshotKind::View | SnapshotKind::Active => {
                    Arc::new(self.read_active(row.id.clone()).await?.0)
                }
                SnapshotKind::Committed => self.read_committed(&row).await?,
            };
            layers.push(Layer { key: row.key, diff_id: row.diff_id, id: row.id, tree });
        }
        Ok(View { layers })
    }

    /// The tree of a committed snapshot, which never changes.
    async fn read_committed(&self, row: &SnapshotRow) -> Result<Arc<Tree>> {
        if let Some(tree) = self.0.trees.get(&row.id) {
            return Ok(tree);
        }
        let id = row.id.clone();
        let read = self.on_disk(move |disk| match disk.read_snapshot_tree(&id)? {
            Some(tree) => Ok(tree),
            // What an earlier version wrote, or a disk lost: the files say it themselves, but for devices.
            None => disk.read_snapshot(&id).map(|(tree, _)| tree),
        });
        let tree = Arc::new(read.await?);
        self.0.trees.insert(row.id.clone(), tree.clone());
        Ok(tree)
    }

    /// Opens a file that a view shows.
    ///
    /// # Errors
    /// `Internal` when it is not there, as in an active snapshot whose files go meanwhile.
    pub async fn open_file(&self, view: &View, found: &Found<'_>) -> Result<ViewFile> {
        let Some(layer) = view.layers.get(found.layer) else {
            return Err(Error::internal("find the layer of a file"));
        };
        let (id, path) = (layer.id.clone(), found.path_in(&layer.tree));
        let name = format!("{id}/{}", String::from_utf8_lossy(&path));
        let opened = self.on_disk(move |disk| disk.open_snapshot_file(&id, &path)).await?;
        let Mtime { seconds, nanos } = found.inode.meta.mtime;
        let state = format!("{name} {} {seconds}.{nanos}", opened.size());
        let tag = Digest::of(Algorithm::Sha256, state.as_bytes()).hex()[..32].to_owned();
        Ok(ViewFile { file: opened, tag })
    }
}
