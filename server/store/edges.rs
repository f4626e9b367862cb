//! Edges: what refers to what. They come from the bytes of manifests, and from containerd's labels.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Labels, Store};
use crate::db;
use crate::db::content::EdgeRow;
use crate::error::{Error, Result, Unprocessable};
use crate::limits;
use crate::oci::manifest::{Document, Role};
use crate::oci::{Descriptor, Digest, Platform};

/// Labels by which containerd's clients say what a blob needs; what follows (`.0`, `.config`, …) is free.
const REF_CONTENT: &str = "containerd.io/gc.ref.content";
const REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot";

/// What a blob's bytes say about it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The media type that the document declares.
    pub media_type: Option<String>,
    pub edges: Vec<EdgeRow>,
}

/// The children of a manifest or index, in its own order.
#[derive(Debug, Clone, Serialize)]
pub struct Children {
    pub digest: String,
    pub media_type: String,
    pub items: Vec<Child>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Child {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub role: &'static str,
    /// Whether the namespace has it.
    pub present: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<ChildPlatform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ChildPlatform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
    pub os_version: Option<String>,
    pub os_features: Vec<String>,
}

impl ChildPlatform {
    /// In the form in which platforms are told everywhere, however the document spells it.
    pub(super) fn of(platform: &Platform) -> ChildPlatform {
        let Platform { os, architecture, variant, os_version, os_features } = platform.normalized();
        ChildPlatform { os, architecture, variant, os_version, os_features }
    }
}

/// What the bytes of a small JSON blob refer to. Bytes that are no document, or an ambiguous one, refer to nothing.
pub(super) fn edges_of(digest: &Digest, bytes: &[u8]) -> Found {
    let Ok(document) = Document::parse(bytes, None) else { return Found::default() };
    let edge = |label: &str, child: &Descriptor| EdgeRow {
        parent: digest.to_string(),
        child_type: "content".to_owned(),
        child: child.digest.to_string(),
        label: label.to_owned(),
    };
    let children = document.children();
    let edges = children.iter().map(|child| edge(role_name(child.role), child.descriptor)).collect();
    Found { media_type: Some(document.media_type().to_owned()), edges }
}

/// What containerd's labels on `parent` refer to. A value that nothing can have as its name refers to nothing.
///
/// Edges are keys of an index, which takes 2,704 bytes on Postgres: of a longer label its beginning says enough.
pub(super) fn label_edges(parent: &str, labels: &Labels) -> Vec<EdgeRow> {
    let edge = |child_type: &str, label: &str, child: &str| EdgeRow {
        parent: parent.to_owned(),
        child_type: child_type.to_owned(),
        child: child.to_owned(),
        label: label[..label.floor_char_boundary(limits::ID_BYTES)].to_owned(),
    };
    let of = |label: &str, prefix: &str| {
        label.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
    };
    let mut edges = Vec::new();
    for (label, value) in labels {
        if of(label, REF_CONTENT) && value.parse::<Digest>().is_ok() {
            edges.push(edge("content", label, value));
        } else if of(label, REF_SNAPSHOT) && value.len() <= limits::ID_BYTES {
            edges.push(edge("snapshot", label, value));
        }
    }
    edges
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Index | Role::Manifest | Role::Config | Role::Layer => role.as_str(),
        Role::Other => "blob",
    }
}

impl Store {
    /// The descriptors that a manifest or index names, in its own order.
    ///
    /// # Errors
    /// `NotFound`; `Unprocessable` when the blob is no manifest or index; `Corrupt`.
    pub async fn list_children(&self, namespace: &str, digest: &Digest) -> Result<Children> {
        let content = self.find_content(namespace, digest).await?;
        let refuse = |reason: String| {
            Error::Unprocessable(Unprocessable::NotAManifest { digest: digest.to_string(), reason })
        };
        if content.size > limits::MANIFEST_BYTES {
            return Err(refuse(format!("it is longer than {} bytes", limits::MANIFEST_BYTES)));
        }
        let bytes = self.read_blob(namespace, digest, limits::MANIFEST_BYTES).await?;
        let document = Document::parse(&bytes, None).map_err(|error| refuse(error.to_string()))?;
        let mut conn = self.0.db.read().await?;
        let mut items = Vec::new();
        for child in document.children() {
            let named = child.descriptor.digest.as_str();
            let state = db::content::find_state(&mut conn, namespace, named).await?;
            let present = matches!(&state, Some((_, state)) if state == "stored");
            items.push(child_of(role_name(child.role), child.descriptor, present));
        }
        Ok(Children { digest: digest.to_string(), media_type: document.media_type().to_owned(), items })
    }
}

pub(super) fn child_of(role: &'static str, descriptor: &Descriptor, present: bool) -> Child {
    Child {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size,
        role,
        present,
        platform: descriptor.platform.as_ref().map(ChildPlatform::of),
        annotations: descriptor.annotations.clone(),
        artifact_type: descriptor.artifact_type.clone(),
        urls: descriptor.urls.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerds_labels_become_edges_and_others_do_not() {
        let [one, other] = ["a", "b"].map(|digit| format!("sha256:{}", digit.repeat(64)));
        let long = "k".repeat(limits::ID_BYTES + 1);
        let labels = Labels::from(
            [
                ("containerd.io/gc.ref.content.0", &*one),
                ("containerd.io/gc.ref.content", &other),
                ("containerd.io/gc.ref.content.1", "sha256:aa"),
                ("containerd.io/gc.ref.contents", &one),
                ("containerd.io/gc.ref.snapshot.overlayfs", "key"),
                ("containerd.io/gc.ref.snapshot.native", &long),
                ("team", "cargo"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let edges: Vec<_> =
            label_edges("p", &labels).into_iter().map(|edge| (edge.child_type, edge.child)).collect();
        let expected = [("content", &*other), ("content", &one), ("snapshot", "key")];
        assert_eq!(edges, expected.map(|(kind, child)| (kind.to_owned(), child.to_owned())));
    }
}
