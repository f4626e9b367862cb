//! What is in layers, as it was read once.

use std::sync::Arc;

use super::{OpenFile, Store};
use crate::error::{Result, with_causes};
use crate::oci::Digest;
use crate::oci::tree::Tree;

impl Store {
    /// The tree of a layer, where it was read before.
    ///
    /// # Errors
    /// `Internal` when what was kept cannot be read.
    pub async fn find_layer_tree(&self, digest: &Digest) -> Result<Option<Arc<Tree>>> {
        let name = digest.to_string();
        if let Some(tree) = self.0.trees.get(&name) {
            return Ok(Some(tree));
        }
        let wanted = digest.clone();
        let read = self.on_disk(move |disk| disk.read_layer_tree(&wanted)).await?.map(Arc::new);
        if let Some(tree) = &read {
            self.0.trees.insert(name, tree.clone());
        }
        Ok(read)
    }

    /// Keeps the tree of a layer. Where there is no room for it, it is read again another time.
    pub async fn keep_layer_tree(&self, digest: &Digest, tree: Tree) -> Arc<Tree> {
        let tree = Arc::new(tree);
        self.0.trees.insert(digest.to_string(), tree.clone());
        let (wanted, kept) = (digest.clone(), tree.clone());
        if let Err(error) = self.on_disk(move |disk| disk.write_layer_tree(&wanted, &kept)).await {
            tracing::warn!(blob.digest = %digest, "Could not keep the tree of a layer: {}", with_causes(&error));
        }
        tree
    }

    /// The places from which a layer can be read on, where some are kept. Whoever reads them judges them.
    ///
    /// # Errors
    /// `Internal` when they cannot be opened.
    pub async fn open_layer_checkpoints(&self, digest: &Digest) -> Result<Option<OpenFile>> {
        let wanted = digest.clone();
        self.on_disk(move |disk| disk.open_layer_checkpoints(&wanted)).await
    }

    /// Keeps the places from which a layer can be read on. Where there is no room for them, files are read from its start.
    pub async fn keep_layer_checkpoints(&self, digest: &Digest, parts: Vec<Vec<u8>>) {
        let wanted = digest.clone();
        if let Err(error) = self.on_disk(move |disk| disk.write_layer_checkpoints(&wanted, &parts)).await {
            tracing::warn!(blob.digest = %digest, "Could not keep the checkpoints of a layer: {}", with_causes(&error));
        }
    }
}
