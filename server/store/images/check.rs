//! Whether an image is here: for each of its manifests what it needs, what of that is stored, and what is not.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::oci::Platform;
use crate::oci::manifest::Role;
use crate::store::Store;
use crate::store::edges::{Child, ChildPlatform};
use crate::store::images::tree::{Node, Tree};

/// How much of something is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wholeness {
    Complete,
    Incomplete,
    /// Its document is not here, so that nobody knows what it needs.
    Unavailable,
    /// Its document is here and says nothing that can be understood.
    Invalid,
}

#[derive(Debug, Clone, Serialize)]
pub struct ImageCheck {
    pub id: String,
    pub name: String,
    pub digest: String,
    /// Of all that was looked at.
    pub state: Wholeness,
    /// What is needed, as far as it is known: each blob once.
    pub required_blobs: u64,
    pub present_blobs: u64,
    pub required_bytes: u64,
    pub present_bytes: u64,
    /// Indexes that are not here or broken: what they name is not known.
    pub indexes: Vec<Child>,
    pub items: Vec<PlatformCheck>,
}

/// One manifest of the image, or another blob that its index names.
#[derive(Debug, Clone, Serialize)]
pub struct PlatformCheck {
    pub platform: Option<ChildPlatform>,
    pub target: Child,
    pub state: Wholeness,
    /// Of `invalid`: why.
    pub reason: Option<String>,
    pub required_blobs: u64,
    pub present_blobs: u64,
    pub required_bytes: u64,
    pub present_bytes: u64,
    pub present: Vec<Child>,
    pub missing: Vec<Child>,
    /// Layers of restricted distribution that are not here: they are not needed.
    pub skipped: Vec<Child>,
}

impl Store {
    /// # Errors
    /// `NotFound`; `NoPlatform` when nothing of the image is for `platform`; `Unprocessable` for what is no image, or
    /// one past a limit. That something is missing is an answer.
    pub async fn check_image(
        &self,
        namespace: &str,
        id: &str,
        platform: Option<&Platform>,
    ) -> Result<ImageCheck> {
        let image = self.find_image(namespace, id).await?;
        let tree = self.read_tree(&image.namespace, &image.target).await?;
        let chosen = match platform {
            Some(platform) => match tree.find_place(platform) {
                Ok(at) => Some(at),
                // Nobody knows whether it is for the platform: that is what the answer says.
                Err(Error::Conflict(_)) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let looked_at = |at: usize| chosen.is_none_or(|chosen| chosen == at);
        let leads = |node: &Node| matches!(node.role, Role::Manifest | Role::Other);
        let places = (0..tree.nodes.len()).filter(|at| leads(&tree.nodes[*at]) && looked_at(*at));
        let items: Vec<PlatformCheck> = places.map(|at| judge(&tree, at)).collect();
        let unread = |node: &&Node| node.role == Role::Index && (!node.present || node.invalid.is_some());
        let indexes: Vec<Child> = match chosen {
            Some(_) => Vec::new(),
            None => tree.nodes.iter().filter(unread).map(Node::as_child).collect(),
        };
        let counted: Vec<&Node> = match chosen {
            Some(at) => parts(&tree, at).collect(),
            None => tree.nodes.iter().collect(),
        };
        let sums = Sums::of(counted.into_iter());
        let state = match tree.nodes.first() {
            Some(root) if !root.present => Wholeness::Unavailable,
            _ if indexes.is_empty() && items.iter().all(|item| item.state == Wholeness::Complete) => {
                Wholeness::Complete
            }
            _ => match (chosen, items.as_slice()) {
                (Some(_), [only]) => only.state,
                _ => Wholeness::Incomplete,
            },
        };
        Ok(ImageCheck {
            id: image.id,
            name: image.name,
            digest: image.target.digest,
            state,
            required_blobs: sums.required_blobs,
            present_blobs: sums.present_blobs,
            required_bytes: sums.required_bytes,
            present_bytes: sums.present_bytes,
            indexes,
            items,
        })
    }
}

/// A node and what it names.
pub(super) fn parts(tree: &Tree, at: usize) -> impl Iterator<Item = &Node> {
    let mut seen = std::collections::HashSet::from([at]);
    let below = tree.nodes[at].children.iter().filter(move |child| seen.insert(**child));
    std::iter::once(&tree.nodes[at]).chain(below.map(|child| &tree.nodes[*child]))
}

/// How much of a manifest, or of a blob that stands by itself, is here.
pub(super) fn judge(tree: &Tree, at: usize) -> PlatformCheck {
    let node = &tree.nodes[at];
    let sums = Sums::of(parts(tree, at));
    let state = match (&node.invalid, node.present) {
        (Some(_), _) => Wholeness::Invalid,
        (None, false) => Wholeness::Unavailable,
        (None, true) if sums.present_blobs == sums.required_blobs => Wholeness::Complete,
        (None, true) => Wholeness::Incomplete,
    };
    PlatformCheck {
        platform: node.platform.as_ref().map(ChildPlatform::of),
        target: node.as_child(),
        state,
        reason: node.invalid.clone(),
        required_blobs: sums.required_blobs,
        present_blobs: sums.present_blobs,
        required_bytes: sums.required_bytes,
        present_bytes: sums.present_bytes,
        present: parts(tree, at).filter(|node| node.present).map(Node::as_child).collect(),
        missing: parts(tree, at).filter(|n| !n.present && !n.is_skipped()).map(Node::as_child).collect(),
        skipped: parts(tree, at).filter(|node| node.is_skipped()).map(Node::as_child).collect(),
    }
}

/// Numbers and bytes of some blobs, each counted once. What an image does without is not among them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub required_blobs: u64,
    pub present_blobs: u64,
    pub required_bytes: u64,
    pub present_bytes: u64,
}

impl Sums {
    pub fn of<'n>(nodes: impl Iterator<Item = &'n Node>) -> Sums {
        let mut sums = Sums::default();
        for node in nodes.filter(|node| !node.is_skipped()) {
            // A size that no blob has is only what a document says.
            let size = node.descriptor.size;
            sums.required_blobs += 1;
            sums.required_bytes = sums.required_bytes.saturating_add(size);
            if node.present {
                sums.present_blobs += 1;
                sums.present_bytes = sums.present_bytes.saturating_add(size);
            }
        }
        // What is sent is a number of 63 bits.
        sums.required_bytes = sums.required_bytes.min(i64::MAX as u64);
        sums.present_bytes = sums.present_bytes.min(i64::MAX as u64);
        sums
    }
}
