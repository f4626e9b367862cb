//! The documents of an image: from what a reference stands for down to the manifests of the platforms asked for.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use crate::error::{Error, Result, Unprocessable, UpstreamKind};
use crate::jobs::pull::{add_label, labels_of, recorded_type, upstream};
use crate::jobs::run::{Ended, Job};
use crate::jobs::view::{BlobRole, BlobState, JobError};
use crate::limits;
use crate::oci::manifest::{Child, Index, Manifest, Role};
use crate::oci::media_type::Kind;
use crate::oci::{Descriptor, Digest, Document, Platform};
use crate::registry::{Fetched, Repository, Resolved};
use crate::store::PutBody;
use crate::store::labels::Labels;

/// A blob that names no others: a config, a layer, or an artifact of any type.
pub(super) struct Leaf {
    pub descriptor: Descriptor,
}

/// What the documents of a pull name.
#[derive(Default)]
pub(super) struct Tree {
    /// Configs first, each blob once.
    pub leaves: Vec<Leaf>,
    /// Configs of manifests whose platform no index told.
    pub unproven: Vec<Descriptor>,
}

/// A document to be looked into.
struct Node {
    descriptor: Descriptor,
    /// Where it came along already.
    fetched: Option<Fetched>,
    wanted: Vec<Platform>,
    /// Whether an index said that it is of a platform asked for.
    proven: bool,
    /// The documents above it.
    path: Vec<Digest>,
}

impl Tree {
    /// Fetches and stores the documents, and gathers what they name.
    ///
    /// # Errors
    /// `Upstream`, with `NoPlatform` when an index has nothing for a platform; `Unprocessable` for indexes that are
    /// nested too deep or in a circle; the store's own.
    pub async fn fetch(job: &Job, repository: &Repository, root: Resolved) -> Result<Tree, Ended> {
        let mut blobs: Vec<(BlobRole, Descriptor)> = Vec::new();
        let mut tree = Tree::default();
        let mut open = vec![Node {
            descriptor: root.descriptor,
            fetched: root.document,
            wanted: job.request.wanted()?,
            proven: false,
            path: Vec::new(),
        }];
        while let Some(node) = open.pop() {
            check_path(&node)?;
            match fetch_document(job, repository, &node).await? {
                Document::Index(index) => {
                    for next in choose(job, &node, &index)? {
                        match next.descriptor.kind() {
                            Kind::Index | Kind::Manifest => open.push(next),
                            Kind::Config | Kind::Layer | Kind::Other => {
                                blobs.push((BlobRole::Layer, next.descriptor));
                            }
                        }
                    }
                }
                Document::Manifest(manifest) => {
                    if !node.proven {
                        tree.unproven.push(manifest.config.clone());
                    }
                    gather(manifest, &mut blobs);
                }
            }
        }
        let mut known = HashSet::new();
        // A stable sort: configs first, because what they say may end the pull; layers in their order.
        blobs.sort_by_key(|(role, _)| *role);
        blobs.retain(|(_, descriptor)| known.insert(descriptor.digest.clone()));
        if blobs.len() > limits::PULL_BLOBS {
            let (count, limit) = (blobs.len(), limits::PULL_BLOBS);
            return Err(refused(format!("the image has {count} blobs; a pull takes at most {limit}")).into());
        }
        job.draw(|picture| blobs.iter().for_each(|(role, descriptor)| picture.add(descriptor, *role)));
        tree.leaves = blobs.into_iter().map(|(_, descriptor)| Leaf { descriptor }).collect();
        Ok(tree)
    }
}

fn gather(manifest: Manifest, blobs: &mut Vec<(BlobRole, Descriptor)>) {
    blobs.push((BlobRole::Config, manifest.config));
    blobs.extend(manifest.layers.into_iter().map(|layer| (BlobRole::Layer, layer)));
}

fn refused(reason: String) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

fn check_path(node: &Node) -> Result<()> {
    if node.path.contains(&node.descriptor.digest) {
        return Err(refused(format!("the index {} is its own child", node.descriptor.digest)));
    }
    if node.path.len() > limits::INDEX_DEPTH {
        return Err(refused(format!("indexes are nested deeper than {} levels", limits::INDEX_DEPTH)));
    }
    Ok(())
}

/// The entries of an index that the platforms asked for need, each once.
fn choose(job: &Job, node: &Node, index: &Index) -> Result<Vec<Node>> {
    let mut chosen: BTreeMap<Digest, Node> = BTreeMap::new();
    for platform in &node.wanted {
        let entry = platform
            .choose(&index.manifests)
            .map_err(|missing| upstream(job, UpstreamKind::NoPlatform, missing.to_string()))?;
        let next = chosen.entry(entry.digest.clone()).or_insert_with(|| Node {
            descriptor: entry.clone(),
            fetched: None,
            wanted: Vec::new(),
            proven: entry.platform.is_some(),
            path: node.path.iter().cloned().chain([node.descriptor.digest.clone()]).collect(),
        });
        next.wanted.push(platform.clone());
    }
    Ok(chosen.into_values().collect())
}

/// A document that the namespace then has, parsed as what its descriptor says it is.
async fn fetch_document(job: &Job, repository: &Repository, node: &Node) -> Result<Document, Ended> {
    let (descriptor, digest) = (&node.descriptor, &node.descriptor.digest);
    let role = if descriptor.kind() == Kind::Index { BlobRole::Index } else { BlobRole::Manifest };
    job.draw(|picture| picture.add(descriptor, role));
    if let Some(document) = find_stored(job, descriptor).await? {
        job.draw(|picture| picture.reuse(digest));
        return Ok(document);
    }
    job.draw(|picture| {
        picture.begin(job.now());
        picture.resume(digest, 0);
    });
    let failed = |ended: Ended| {
        if let Ended::Failed(error) = &ended {
            job.draw(|picture| picture.fail(digest, JobError::of(error)));
        }
        ended
    };
    let (bytes, document) = match (&node.fetched, embedded(descriptor)) {
        (Some(fetched), _) => (fetched.bytes.clone(), fetched.document.clone()),
        (None, Some(known)) => known,
        (None, None) => {
            let fetched = job.ask(|| repository.fetch_document(descriptor)).await.map_err(failed)?;
            (fetched.bytes, fetched.document)
        }
    };
    job.draw(|picture| {
        picture.receive(digest, bytes.len() as u64, job.now());
        picture.set_state(digest, BlobState::Committing);
    });
    let body = PutBody {
        chunks: vec![bytes],
        expected: Some(digest.clone()),
        algorithm: digest.algorithm(),
        media_type: recorded_type(descriptor),
        labels: document_labels(job, &document),
    };
    job.jobs.0.store.put_bytes(&job.caller, body).await.map_err(Ended::from).map_err(failed)?;
    job.draw(|picture| picture.set_state(digest, BlobState::Done));
    Ok(document)
}

/// The document, if the namespace has it; its lease holds it then.
async fn find_stored(job: &Job, descriptor: &Descriptor) -> Result<Option<Document>> {
    let store = &job.jobs.0.store;
    if store.put_existing(&job.caller, &descriptor.digest).await?.is_none() {
        return Ok(None);
    }
    let bytes = store.read_blob(&job.caller.namespace, &descriptor.digest, limits::MANIFEST_BYTES).await?;
    if bytes.len() as u64 != descriptor.size {
        let (actual, promised) = (bytes.len(), descriptor.size);
        let reason = format!("a document has {actual} bytes where {promised} were promised");
        return Err(upstream(job, UpstreamKind::Mismatch, reason));
    }
    // The bytes are what they are: it is the descriptor that promises another kind of document.
    let parsed = Document::parse(&bytes, Some(&descriptor.media_type));
    parsed.map(Some).map_err(|error| upstream(job, UpstreamKind::BadAnswer, error.to_string()))
}

/// The document that its descriptor carries along, if it is whole.
fn embedded(descriptor: &Descriptor) -> Option<(Bytes, Document)> {
    let bytes = descriptor.embedded()?;
    let document = Document::parse(&bytes, Some(&descriptor.media_type)).ok()?;
    Some((bytes.into(), document))
}

/// The labels by which containerd's collector follows a document to its children. Ours reads the bytes, so that a
/// document with more children than a record has room for loses nothing.
fn document_labels(job: &Job, document: &Document) -> Labels {
    let mut labels = labels_of(job);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for Child { role, descriptor } in document.children() {
        let kind = match role {
            Role::Index | Role::Manifest => "m.",
            Role::Config => "config",
            Role::Layer => "l.",
            Role::Other => "",
        };
        let count = counts.entry(kind).or_default();
        let key = match kind {
            "config" => "containerd.io/gc.ref.content.config".to_owned(),
            _ => format!("containerd.io/gc.ref.content.{kind}{count}"),
        };
        *count += 1;
        add_label(&mut labels, key, descriptor.digest.to_string());
    }
    labels
}
