//! What is in layers, as it was read once.

use std::sync::Arc;

use super::Store;
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
}
