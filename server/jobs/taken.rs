//! What a pull has taken so far of an image: each thing once, within the limits, and no promise that cannot be.

use std::collections::HashMap;

use crate::error::{Error, Result, Unprocessable};
use crate::jobs::request::ForeignLayers;
use crate::jobs::view::BlobRole;
use crate::limits;
use crate::oci::media_type::{self, Kind};
use crate::oci::{Descriptor, Digest};

/// Why a layer is skipped, in words for the client.
const RESTRICTED: &str =
    "its distribution is restricted: it is fetched where the pull asks for `foreign_layers`";

/// A blob that names no others: a config, a layer, or an artifact of any type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub descriptor: Descriptor,
    pub role: BlobRole,
    /// Why it is not fetched.
    pub skipped: Option<&'static str>,
}

pub(super) struct Taken {
    pub documents: Vec<(BlobRole, Descriptor)>,
    pub leaves: Vec<Leaf>,
    foreign_layers: ForeignLayers,
    /// The sizes by which documents and blobs are known.
    sizes: HashMap<Digest, u64>,
    embedded_bytes: usize,
}

impl Taken {
    pub fn new(foreign_layers: ForeignLayers) -> Taken {
        let (documents, leaves, sizes) = (Vec::new(), Vec::new(), HashMap::new());
        Taken { documents, leaves, foreign_layers, sizes, embedded_bytes: 0 }
    }

    /// # Errors
    /// `ValidationFailed` past [`limits::PULL_DOCUMENTS`], and for a size that cannot be.
    pub fn take_document(&mut self, descriptor: &Descriptor) -> Result<()> {
        if !self.is_new(descriptor)? {
            return Ok(());
        }
        if self.documents.len() >= limits::PULL_DOCUMENTS {
            return Err(too_many("documents", limits::PULL_DOCUMENTS));
        }
        let role = if descriptor.kind() == Kind::Index { BlobRole::Index } else { BlobRole::Manifest };
        self.documents.push((role, bare(descriptor)));
        Ok(())
    }

    /// # Errors
    /// `ValidationFailed` past [`limits::PULL_BLOBS`], and for a size that cannot be.
    pub fn take_leaf(&mut self, role: BlobRole, descriptor: Descriptor) -> Result<()> {
        if !self.is_new(&descriptor)? {
            return Ok(());
        }
        if self.leaves.len() >= limits::PULL_BLOBS {
            return Err(too_many("blobs", limits::PULL_BLOBS));
        }
        let mut kept = bare(&descriptor);
        let embedded_bytes = self.embedded_bytes + descriptor.data.as_ref().map_or(0, String::len);
        if embedded_bytes <= limits::PULL_EMBEDDED_BYTES {
            (self.embedded_bytes, kept.data) = (embedded_bytes, descriptor.data);
        }
        let is_skipped = match self.foreign_layers {
            ForeignLayers::Skip => media_type::is_restricted(&kept.media_type),
            ForeignLayers::Fetch => {
                let usable = descriptor.urls.into_iter().filter(|url| url.len() <= limits::URI_BYTES);
                kept.urls = usable.take(limits::FOREIGN_URLS).collect();
                false
            }
        };
        self.leaves.push(Leaf { descriptor: kept, role, skipped: is_skipped.then_some(RESTRICTED) });
        Ok(())
    }

    /// Whether the digest was not named before. Two promises about one digest must be the same.
    fn is_new(&mut self, descriptor: &Descriptor) -> Result<bool> {
        check_size(descriptor)?;
        let (digest, size) = (&descriptor.digest, descriptor.size);
        match self.sizes.insert(digest.clone(), size) {
            None => Ok(true),
            Some(known) if known == size => Ok(false),
            Some(known) => Err(refused(format!("{digest} is promised with {known} bytes and with {size}"))),
        }
    }
}

/// What a pull keeps of a descriptor: not the texts of a peer that nobody reads.
fn bare(descriptor: &Descriptor) -> Descriptor {
    Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size)
}

/// There is one empty blob, and nothing else has no bytes.
pub(super) fn check_size(descriptor: &Descriptor) -> Result<()> {
    let (digest, size) = (&descriptor.digest, descriptor.size);
    let is_empty = *digest == Digest::of(digest.algorithm(), b"");
    if is_empty == (size == 0) {
        return Ok(());
    }
    Err(refused(format!("{digest} is promised with {size} bytes, which cannot be")))
}

pub(super) fn refused(reason: String) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

pub(super) fn too_many(what: &str, limit: usize) -> Error {
    refused(format!("the pull needs more than {limit} {what}, which is the limit"))
}
