//! A tree as bytes, to be kept beside what it describes.

use super::Tree;
use crate::oci::{Algorithm, Digest};

/// Names the form. Another one is another tree's: it is made anew from what it describes.
const MAGIC: &[u8] = b"orlop tree 1\n";
const DIGEST_BYTES: usize = 64;

impl Tree {
    /// The form, the digest of what follows, and the tree (`postcard`).
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = postcard::to_allocvec(self).expect("a tree has no part without a form");
        let digest = Digest::of(Algorithm::Sha256, &body);
        [MAGIC, digest.hex().as_bytes(), &body].concat()
    }

    /// `None` for bytes that are no tree, or not all of one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Tree> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (digest, body) = rest.split_at_checked(DIGEST_BYTES)?;
        let is_whole = Digest::of(Algorithm::Sha256, body).hex().as_bytes() == digest;
        is_whole.then(|| postcard::from_bytes(body).ok()).flatten()
    }
}
