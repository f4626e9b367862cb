//! Media types of OCI and of Docker, and the kind of document or blob each names.

use crate::error::{Error, Result};
use crate::limits::MEDIA_TYPE_BYTES;
use crate::oci::digest::excerpt;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const DOCKER_LAYER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
/// Docker's first schema, unsigned and signed: refused by name, or converted where that is asked for.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
pub const OCTET_STREAM: &str = "application/octet-stream";

/// The documents asked for at a registry, in order of preference.
pub const DOCUMENTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// What a media type says about the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A list of manifests, one per platform.
    Index,
    /// A config and its layers.
    Manifest,
    Config,
    /// A file system change set, in whatever compression.
    Layer,
    /// Anything else; stored and never looked into.
    Other,
}

impl Kind {
    pub fn of(media_type: &str) -> Kind {
        match essence(media_type) {
            OCI_INDEX | DOCKER_INDEX => Kind::Index,
            OCI_MANIFEST | DOCKER_MANIFEST => Kind::Manifest,
            OCI_CONFIG | DOCKER_CONFIG => Kind::Config,
            DOCKER_LAYER | DOCKER_LAYER_GZIP | DOCKER_LAYER_FOREIGN => Kind::Layer,
            // With every compression and encryption suffix, and the non-distributable ones.
            other
                if other.starts_with(OCI_LAYER)
                    || other.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
                    || other == "application/vnd.docker.image.rootfs.diff.tar.zstd" =>
            {
                Kind::Layer
            }
            _ => Kind::Other,
        }
    }

    /// Whether bytes of this kind name other blobs.
    pub fn is_document(self) -> bool {
        matches!(self, Kind::Index | Kind::Manifest)
    }
}

/// Whether a manifest's config of this type says what the image runs on. Old tools of Docker wrote no better type than
/// that of any bytes; the document stays as it is, or its digest would be another one.
pub fn is_image_config(media_type: &str) -> bool {
    Kind::of(media_type) == Kind::Config || essence(media_type) == OCTET_STREAM
}

/// Whether layers of this type are those whose distribution is restricted (image spec, layer.md, "Non-Distributable
/// Layers"), which Docker calls foreign.
pub fn is_restricted(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// The media type without its parameters: what stands before the first `;`.
pub fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// Whether `media_type` says nothing about the bytes: what servers send when they do not know.
pub fn is_generic(media_type: &str) -> bool {
    matches!(essence(media_type), "" | OCTET_STREAM | "application/json" | "text/plain" | "text/html")
}

/// Refuses what cannot be a media type in a descriptor: it goes into headers as it is. Looser than what callers may
/// write into a record (`store::labels::check_media_type`), for images that others have made are to be pulled.
///
/// # Errors
/// `Invalid` unless it has a slash, visible ASCII only, and at most [`MEDIA_TYPE_BYTES`].
pub fn check(media_type: &str) -> Result<()> {
    let visible = media_type.bytes().all(|c| c.is_ascii_graphic() || c == b' ');
    let (kind, name) = essence(media_type).split_once('/').unwrap_or_default();
    if !visible || kind.is_empty() || name.is_empty() || media_type.len() > MEDIA_TYPE_BYTES {
        return Err(Error::invalid(format!("`{}` is not a media type", excerpt(media_type))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_of_both_worlds_are_known_by_kind() {
        assert_eq!(DOCUMENTS.map(Kind::of), [Kind::Index, Kind::Manifest, Kind::Index, Kind::Manifest]);
        assert_eq!(Kind::of("application/vnd.oci.image.index.v1+json; charset=utf-8"), Kind::Index);
        assert_eq!([OCI_CONFIG, DOCKER_CONFIG].map(Kind::of), [Kind::Config; 2]);
        for layer in [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_FOREIGN] {
            assert_eq!(Kind::of(layer), Kind::Layer, "{layer}");
        }
        assert_eq!(Kind::of("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), Kind::Layer);
        assert_eq!([OCI_EMPTY, OCTET_STREAM, ""].map(Kind::of), [Kind::Other; 3]);
    }

    #[test]
    fn configs_and_restricted_layers_are_known_by_their_type() {
        for config in [OCI_CONFIG, DOCKER_CONFIG, OCTET_STREAM, "application/octet-stream; x=y"] {
            assert!(is_image_config(config), "{config}");
        }
        for other in [OCI_EMPTY, OCI_LAYER, "application/vnd.cncf.helm.config.v1+json"] {
            assert!(!is_image_config(other), "{other}");
        }
        for foreign in [
            DOCKER_LAYER_FOREIGN,
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        ] {
            assert!(is_restricted(foreign), "{foreign}");
        }
        assert!(![OCI_LAYER, OCI_LAYER_GZIP, DOCKER_LAYER_GZIP].into_iter().any(is_restricted));
    }

    #[test]
    fn what_would_break_a_header_is_not_a_media_type() {
        check("application/vnd.in-toto+json").expect("a media type");
        for bad in ["", "json", "/", "a/", "a/b\r\nSet-Cookie: x", "a/ü", &format!("a/{}", "b".repeat(255))]
        {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
