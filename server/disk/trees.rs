//! `trees/`: what is in layers, read once and kept, and places to read them on from. Both are of use and no more: without a
//! tree the layer is read anew, without checkpoints a file of it is read from the layer's start.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{BlobFile, Disk, is_absent};
use crate::error::{Doing, Result};
use crate::id::{hex, random_bytes};
use crate::oci::Digest;
use crate::oci::tree::Tree;

impl Disk {
    fn tree_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("trees").join(digest.to_string().replace(':', "-"))
    }

    fn checkpoints_path(&self, digest: &Digest) -> PathBuf {
        self.tree_path(digest).with_added_extension("checkpoints")
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
        self.write_of_layer(&self.tree_path(digest), &[tree.to_bytes()])
    }

    /// # Errors
    /// `Internal` when they cannot be opened. What is in the file is for its reader to judge.
    pub fn open_layer_checkpoints(&self, digest: &Digest) -> Result<Option<BlobFile>> {
        match File::open(self.checkpoints_path(digest)) {
            Ok(file) => BlobFile::of(file).map(Some),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).doing("open the checkpoints of a layer"),
        }
    }

    /// Keeps the checkpoints of a layer, as its tree.
    ///
    /// # Errors
    /// As [`Disk::write_layer_tree`].
    pub fn write_layer_checkpoints(&self, digest: &Digest, parts: &[Vec<u8>]) -> Result<()> {
        self.write_of_layer(&self.checkpoints_path(digest), parts)
    }

    fn write_of_layer(&self, path: &Path, parts: &[Vec<u8>]) -> Result<()> {
        let staged = self.root.join("ingests").join(format!("tree.{}", hex(&random_bytes::<8>())));
        let written = write_parts(&staged, parts)
            .doing("write what is known of a layer")
            .and_then(|()| fs::rename(&staged, path).doing("name what is known of a layer"));
        if written.is_err() {
            // The next start would find it as well.
            let _ = fs::remove_file(&staged);
        }
        written
    }

    /// Forgets what is known of a layer that goes. What stays behind takes room until its layer comes and goes again.
    pub(super) fn remove_layer_tree(&self, digest: &Digest) {
        for path in [self.tree_path(digest), self.checkpoints_path(digest)] {
            match fs::remove_file(path) {
                Err(error) if !is_absent(&error) => {
                    tracing::warn!(blob.digest = %digest, "Could not remove what is known of a layer: {error}");
                }
                _ => {}
            }
        }
    }
}

fn write_parts(path: &Path, parts: &[Vec<u8>]) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}
