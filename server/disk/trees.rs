//! `trees/`: what is in layers, read once and kept. Made anew from the layer when it is not there.

use std::fs;
use std::path::PathBuf;

use super::{Disk, is_absent};
use crate::error::{Doing, Result};
use crate::id::{hex, random_bytes};
use crate::oci::Digest;
use crate::oci::tree::Tree;

impl Disk {
    fn tree_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("trees").join(digest.to_string().replace(':', "-"))
    }

    /// # Errors
    /// `Internal` when it cannot be read. That it is not there, or was cut off, is an answer.
    pub fn read_layer_tree(&self, digest: &Digest) -> Result<Option<Tree>> {
        match fs::read(self.tree_path(digest)) {
            Ok(bytes) => Ok(Tree::from_bytes(&bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).doing("read the tree of a layer"),
        }
    }

    /// Keeps the tree of a layer. Nothing is synced: what a power cut leaves of it is told by its digest.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub fn write_layer_tree(&self, digest: &Digest, tree: &Tree) -> Result<()> {
        let staged = self.root.join("ingests").join(format!("tree.{}", hex(&random_bytes::<8>())));
        let written = fs::write(&staged, tree.to_bytes())
            .doing("write the tree of a layer")
            .and_then(|()| fs::rename(&staged, self.tree_path(digest)).doing("name the tree of a layer"));
        if written.is_err() {
            // The next start would find it as well.
            let _ = fs::remove_file(&staged);
        }
        written
    }

    /// Forgets the tree of a layer that goes. One that stays behind takes room until its layer comes and goes again.
    pub(super) fn remove_layer_tree(&self, digest: &Digest) {
        match fs::remove_file(self.tree_path(digest)) {
            Err(error) if !is_absent(&error) => {
                tracing::warn!(blob.digest = %digest, "Could not remove the tree of a layer: {error}");
            }
            _ => {}
        }
    }
}
