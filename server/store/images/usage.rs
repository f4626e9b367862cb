//! What an image takes, and what of that it shares with which other images of its namespace.
//!
//! From the blobs of the image the edges lead upwards, to what refers to them and at last to what has a name; from each
//! name they lead down again, to the blobs that it shares.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::db;
use crate::error::Result;
use crate::limits;
use crate::oci::manifest::Role;
use crate::store::Store;
use crate::store::images::check::Sums;
use crate::store::images::tree::{Node, json_list};

#[derive(Debug, Clone, Serialize)]
pub struct ImageUsage {
    pub id: String,
    pub name: String,
    pub digest: String,
    /// What the image needs, as its documents say, each blob once.
    pub total_bytes: u64,
    pub total_blobs: u64,
    /// Whether every document is here: if not, the total may be more.
    pub total_final: bool,
    /// What of it is stored here.
    pub present_bytes: u64,
    pub present_blobs: u64,
    /// What of the present no other image of the namespace needs.
    pub unique_bytes: u64,
    pub unique_blobs: u64,
    pub shared_bytes: u64,
    pub shared_blobs: u64,
    /// The images that share the most, the first of them first.
    pub shared_with: Vec<Sharer>,
    pub shared_with_count: u64,
    /// Whether everything was followed: if not, more may be shared, and with more images.
    pub shared_final: bool,
}

/// Another image of the namespace that needs some of the same blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sharer {
    pub id: String,
    pub name: String,
    pub bytes: u64,
    pub blobs: u64,
}

/// Digests of one question to the database.
const ASKED_AT_ONCE: usize = 1_000;

/// What leads from the blobs of an image to the names of others.
#[derive(Debug, Default)]
struct Above {
    /// Child and parent.
    edges: Vec<(String, String)>,
    /// Id, name and digest.
    images: Vec<(String, String, String)>,
    exhausted: bool,
}

impl Store {
    /// # Errors
    /// `NotFound`; `Unprocessable` for what is no image, or one past a limit.
    pub async fn measure_image(&self, namespace: &str, id: &str) -> Result<ImageUsage> {
        let image = self.find_image(namespace, id).await?;
        let tree = self.read_tree(&image.namespace, &image.target).await?;
        let here: Vec<&Node> = tree.nodes.iter().filter(|node| node.present).collect();
        let own: HashMap<&str, u64> =
            here.iter().map(|node| (node.descriptor.digest.as_str(), node.descriptor.size)).collect();
        // Also what is not here may be what another image stands for, but nothing of that is shared.
        let above = self.look_above(namespace, own.keys().copied()).await?;
        let others: Vec<_> = above.images.iter().filter(|(other, _, _)| *other != image.id).collect();
        let (mut sharers, shared) = find_sharers(&own, &above.edges, &others);
        let sums = Sums::of(tree.nodes.iter());
        let shared_bytes = shared.iter().map(|digest| own[digest]).fold(0, u64::saturating_add);
        let shared_with_count = sharers.len() as u64;
        sharers.truncate(limits::USAGE_SHARERS);
        let unread = |node: &Node| matches!(node.role, Role::Index | Role::Manifest) && !node.present;
        Ok(ImageUsage {
            id: image.id,
            name: image.name,
            digest: image.target.digest,
            total_bytes: sums.required_bytes,
            total_blobs: sums.required_blobs,
            total_final: !tree.nodes.iter().any(unread),
            present_bytes: sums.present_bytes,
            present_blobs: sums.present_blobs,
            unique_bytes: sums.present_bytes - shared_bytes.min(sums.present_bytes),
            unique_blobs: sums.present_blobs - shared.len() as u64,
            shared_bytes: shared_bytes.min(sums.present_bytes),
            shared_blobs: shared.len() as u64,
            shared_with: sharers,
            shared_with_count,
            shared_final: !above.exhausted,
        })
    }

    /// Follows what refers to these blobs, level by level, up to [`limits::USAGE_REFERENCES`] references.
    async fn look_above<'d>(&self, namespace: &str, digests: impl Iterator<Item = &'d str>) -> Result<Above> {
        let mut above = Above::default();
        let mut level: Vec<String> = digests.map(str::to_owned).collect();
        let mut seen: HashSet<String> = level.iter().cloned().collect();
        while !level.is_empty() && !above.exhausted {
            let mut next = Vec::new();
            for some in level.chunks(ASKED_AT_ONCE) {
                let list = json_list(some.iter().map(String::as_str));
                let left = limits::USAGE_REFERENCES - above.edges.len() - above.images.len();
                let limit = i64::try_from(left).unwrap_or(i64::MAX);
                let mut conn = self.0.db.read().await?;
                let images = db::images::list_by_digests(&mut conn, namespace, &list, limit).await?;
                let limit = limit - i64::try_from(images.len()).unwrap_or(limit);
                let edges = db::content::list_references(&mut conn, namespace, &list, limit).await?;
                for (_, parent) in &edges {
                    if seen.insert(parent.clone()) {
                        next.push(parent.clone());
                    }
                }
                above.images.extend(images);
                above.edges.extend(edges);
                if above.images.len() + above.edges.len() >= limits::USAGE_REFERENCES {
                    above.exhausted = true;
                    break;
                }
            }
            level = next;
        }
        Ok(above)
    }
}

/// Who shares how much of `own`, the most first; and what is shared with anybody.
fn find_sharers<'o>(
    own: &HashMap<&'o str, u64>,
    edges: &[(String, String)],
    images: &[&(String, String, String)],
) -> (Vec<Sharer>, HashSet<&'o str>) {
    let mut below: HashMap<&str, Vec<&str>> = HashMap::new();
    for (child, parent) in edges {
        below.entry(parent).or_default().push(child);
    }
    let mut shared = HashSet::new();
    // Several names for one digest share the same.
    let mut known: HashMap<&str, (u64, u64)> = HashMap::new();
    let mut sharers = Vec::new();
    for (id, name, digest) in images {
        let (bytes, blobs) = *known.entry(digest).or_insert_with(|| {
            let (mut bytes, mut blobs) = (0u64, 0);
            let mut seen = HashSet::from([digest.as_str()]);
            let mut open = vec![digest.as_str()];
            while let Some(next) = open.pop() {
                if let Some((digest, size)) = own.get_key_value(next) {
                    (bytes, blobs) = (bytes.saturating_add(*size), blobs + 1);
                    shared.insert(*digest);
                }
                let children = below.get(next).into_iter().flatten().copied();
                open.extend(children.filter(|child| seen.insert(child)));
            }
            (bytes, blobs)
        });
        sharers.push(Sharer { id: id.clone(), name: name.clone(), bytes, blobs });
    }
    sharers.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    (sharers, shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let pair =
            |pair: &str| pair.split_once('<').map(|(child, parent)| (child.to_owned(), parent.to_owned()));
        text.split_whitespace().filter_map(pair).collect()
    }

    #[test]
    fn images_that_share_blobs_are_found_through_their_indexes_and_manifests() {
        // m is ours, with a base and a layer; n has the base, and is in the index i; o stands for m itself.
        let own = HashMap::from([("m", 1), ("base", 100), ("layer", 10)]);
        let edges = pairs("base<m layer<m base<n n<i");
        let images = [("1", "one", "i"), ("2", "two", "m"), ("3", "three", "n"), ("4", "four", "n")]
            .map(|(id, name, digest)| (id.to_owned(), name.to_owned(), digest.to_owned()));
        let images: Vec<_> = images.iter().collect();
        let (sharers, shared) = find_sharers(&own, &edges, &images);
        let told: Vec<_> = sharers.iter().map(|s| (s.name.as_str(), s.bytes, s.blobs)).collect();
        assert_eq!(told, [("two", 111, 3), ("four", 100, 1), ("one", 100, 1), ("three", 100, 1)]);
        assert_eq!(shared, HashSet::from(["m", "base", "layer"]));
        let (_, shared) = find_sharers(&own, &edges, &images[2..]);
        assert_eq!(shared, HashSet::from(["base"]));
    }

    #[test]
    fn a_circle_of_edges_ends() {
        let own = HashMap::from([("a", 1)]);
        let image = ("1".to_owned(), "x".to_owned(), "c".to_owned());
        let (sharers, _) = find_sharers(&own, &pairs("a<b b<c c<b"), &[&image]);
        assert_eq!(sharers[0].blobs, 1);
    }
}
