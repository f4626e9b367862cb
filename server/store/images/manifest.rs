//! The manifest of an image that suits a platform.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Result;
use crate::limits;
use crate::oci::manifest::{Manifest, Role};
use crate::oci::{Descriptor, Digest, Document, Platform};
use crate::store::Store;
use crate::store::edges::{Child, ChildPlatform, child_of, role_name};
use crate::store::images::target::Target;
use crate::store::images::tree::{Node, Tree};

/// What runs on a platform: the manifest and what it names.
#[derive(Debug, Clone, Serialize)]
pub struct ImageManifest {
    /// What its index, or else its config, says that it runs on; nothing says so of an artifact.
    pub platform: Option<ChildPlatform>,
    pub manifest: Child,
    pub config: Child,
    /// The lowest first.
    pub layers: Vec<Child>,
    pub artifact_type: Option<String>,
    /// The manifest that this one says something about.
    pub subject: Option<Digest>,
    pub annotations: BTreeMap<String, String>,
}

impl Store {
    /// The manifest for `platform`, or the server's own.
    ///
    /// # Errors
    /// `NotFound`; `NoPlatform`; `Conflict` (incomplete) when a document is not here; `Unprocessable` for what is no
    /// image, or one past a limit.
    pub async fn find_manifest(
        &self,
        namespace: &str,
        id: &str,
        platform: Option<&Platform>,
    ) -> Result<ImageManifest> {
        let image = self.find_image(namespace, id).await?;
        let tree = self.read_tree(&image.namespace, &image.target).await?;
        let (node, manifest) = tree.find_manifest(platform)?;
        Ok(describe(&tree, node, manifest))
    }

    /// The manifest that stored content has for `platform`, or for the server's own: one of an index, or what it is itself.
    ///
    /// # Errors
    /// `NotFound`; `NoPlatform`; `Conflict` (incomplete) when a document is not here; `Unprocessable` for what is no
    /// document, or is past a limit.
    pub async fn narrow_to_manifest(
        &self,
        namespace: &str,
        digest: &Digest,
        platform: Option<&Platform>,
    ) -> Result<Digest> {
        let bytes = self.read_blob(namespace, digest, limits::MANIFEST_BYTES).await?;
        let document = Document::parse(&bytes, None)?;
        if matches!(document, Document::Manifest(_)) {
            return Ok(digest.clone());
        }
        let target = Target {
            media_type: document.media_type().to_owned(),
            digest: digest.to_string(),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        };
        let tree = self.read_tree(namespace, &target).await?;
        let (node, _) = tree.find_manifest(platform)?;
        Ok(node.descriptor.digest.clone())
    }
}

pub(super) fn describe(tree: &Tree, node: &Node, manifest: &Manifest) -> ImageManifest {
    let child = |role: Role, descriptor: &Descriptor| {
        let place = node.children.iter().find(|at| tree.nodes[**at].descriptor.digest == descriptor.digest);
        child_of(role_name(role), descriptor, place.is_some_and(|at| tree.nodes[*at].present))
    };
    ImageManifest {
        platform: node.platform.as_ref().map(ChildPlatform::of),
        manifest: node.as_child(),
        config: child(Role::Config, &manifest.config),
        layers: manifest.layers.iter().map(|layer| child(Role::Layer, layer)).collect(),
        artifact_type: manifest.artifact_type.clone(),
        subject: manifest.subject.as_ref().map(|subject| subject.digest.clone()),
        annotations: manifest.annotations.clone(),
    }
}
