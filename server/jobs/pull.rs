//! One attempt at a pull, read downward: resolve, fetch documents, fetch blobs, name the image.
//!
//! Children need not come before their parents: everything is held by the pull's lease until the image holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::jobs::documents::Stored;
use crate::jobs::fetch::Fetch;
use crate::jobs::run::{Ended, Job, to_the_last, unless};
use crate::jobs::select::Tree;
use crate::jobs::taken::Leaf;
use crate::jobs::unpack::pulling;
use crate::jobs::view::{BlobRole, JobError, Phase};
use crate::jobs::{convert, referrers};
use crate::limits;
use crate::oci::media_type;
use crate::oci::{Descriptor, Digest};
use crate::registry::{Repository, Resolved};
use crate::store::labels::{Labels, check_media_type};
use crate::store::{ImageSource, NameTaken, NewImage, NewTarget, Target};

/// Runs all steps. Each finds what an earlier attempt left, so that to resume is to run again.
pub(super) async fn work(job: &Job) -> Result<(), Ended> {
    let reference = &job.request.reference;
    // A helper that is asked for the credential may take half a minute, and leaves nothing behind when it is cut off.
    let repository = unless(&job.live.stop, job.repository()).await??;
    let resolved = job.ask(None, || repository.resolve(reference)).await?;
    match resolved {
        Resolved { descriptor, schema1: Some(schema1), .. } => {
            let converting = convert::work(job, &repository, &descriptor, &schema1);
            let converted = Box::pin(converting).await?;
            let chains = match job.request.selection.unpack {
                true => Box::pin(pulling::unpack_here(job, &converted.digest)).await?,
                false => Vec::new(),
            };
            pulling::note_snapshots(job, &chains);
            job.enter(Phase::Finishing).await?;
            name_image(job, converted, Some(descriptor.digest)).await?;
            pulling::drop_layers(job, &chains).await
        }
        Resolved { descriptor: target, document, schema1: None } => {
            note_target(job, &target);
            job.enter(Phase::Fetching).await?;
            let shelf = Stored { job, repository: &repository };
            // On the heap, as is each larger step: together they would fill the stack of a worker.
            let growing = Tree::grow(&shelf, &job.request, target.clone(), document);
            let tree = Box::pin(growing).await?;
            job.draw(|picture| {
                tree.leaves.iter().for_each(|leaf| picture.add(&leaf.descriptor, leaf.role));
                picture.know_all();
            });
            let chains = match job.request.selection.unpack {
                true => {
                    let manifests = tree.documents.iter().filter(|(role, _)| *role == BlobRole::Manifest);
                    let manifests = manifests.map(|(_, descriptor)| descriptor.digest.clone()).collect();
                    let work = pulling::fetch_and_unpack(job, &repository, manifests, &tree.leaves);
                    Box::pin(work).await?
                }
                false => {
                    fetch_all(job, &repository, &tree.leaves).await?;
                    Vec::new()
                }
            };
            pulling::note_snapshots(job, &chains);
            job.enter(Phase::Finishing).await?;
            referrers::join(job, &tree.referrers).await?;
            let documents = tree.documents.iter().map(|(_, descriptor)| descriptor);
            let leaves = tree.leaves.iter().map(|leaf| &leaf.descriptor);
            join_labels(job, documents.chain(leaves)).await?;
            name_image(job, target, None).await?;
            pulling::drop_layers(job, &chains).await
        }
    }
}

/// From now on the job shows what its reference stands for.
pub(super) fn note_target(job: &Job, target: &Descriptor) {
    job.live.change(|record| {
        record.row.digest = Some(target.digest.to_string());
        record.detail.target = Some(Target {
            media_type: target.media_type.clone(),
            digest: target.digest.to_string(),
            size: target.size,
            annotations: BTreeMap::new(),
        });
    });
}

/// Fetches all blobs; each takes a slot of the job when it is its turn. When one fails, the others stop where they are.
pub(super) async fn fetch_all(job: &Job, repository: &Repository, leaves: &[Leaf]) -> Result<(), Ended> {
    let halt = job.live.stop.child_token();
    // Gathered first: a stream over a closure that borrows would not be `Send` enough for a task.
    let fetches: Vec<_> = leaves.iter().map(|leaf| fetch_leaf(job, repository, leaf, &halt)).collect();
    to_the_last(fetches, limits::PULL_BLOBS, &halt).await
}

/// Fetches one blob, unless it is skipped, or this attempt has fetched it already.
pub(super) async fn fetch_leaf(
    job: &Job,
    repository: &Repository,
    leaf: &Leaf,
    halt: &CancellationToken,
) -> Result<(), Ended> {
    let digest = &leaf.descriptor.digest;
    if let Some(reason) = leaf.skipped {
        job.draw(|picture| picture.skip(digest, reason));
        return Ok(());
    }
    if job.live.read(|record| record.picture.as_ref().is_some_and(|picture| picture.is_here(digest))) {
        return Ok(());
    }
    let fetch = Fetch { job, repository, descriptor: &leaf.descriptor, halt, flight: OnceLock::new() };
    let outcome = fetch.run().await;
    if let Err(Ended::Failed(error)) = &outcome {
        job.draw(|picture| picture.fail(&leaf.descriptor.digest, JobError::of(error)));
    }
    outcome
}

/// The image comes last: a name that is there stands for something whole.
async fn name_image(job: &Job, target: Descriptor, converted_from: Option<Digest>) -> Result<(), Ended> {
    let mut labels = job.request.labels.clone();
    if let Some(digest) = converted_from {
        add_label(&mut labels, convert::CONVERTED_FROM.to_owned(), digest.to_string());
    }
    let image = NewImage {
        name: job.request.image_name.clone(),
        source: ImageSource::Target(NewTarget {
            digest: target.digest,
            media_type: Some(target.media_type),
            size: Some(target.size),
            annotations: BTreeMap::new(),
        }),
        labels,
    };
    let named = job.jobs.0.store.create_image(&job.caller, image, NameTaken::Move).await?;
    job.live.change(|record| record.detail.image_id = Some(named.image.id));
    Ok(())
}

/// The labels of what a pull stores: the client's, and where it came from, as containerd notes it.
pub(super) fn labels_of(job: &Job) -> Labels {
    let mut labels = job.request.labels.clone();
    add_label(&mut labels, source_key(job), job.request.reference.repository().to_owned());
    labels
}

/// What was here before gets the labels that it would have if the pull had brought it: the client's own, and among the
/// repositories that it can be had from this one (containerd's list, sorted, with commas). Where there is no room for a
/// label, it stays as it is. One question where nothing is to be changed.
pub(super) async fn join_labels(job: &Job, taken: impl Iterator<Item = &Descriptor>) -> Result<()> {
    let digests = taken.map(|descriptor| descriptor.digest.clone()).collect();
    let (own, reference) = (job.request.labels.clone(), &job.request.reference);
    let (key, repository) = (source_key(job), reference.repository().to_owned());
    let change = move |standing: &Labels| {
        let mut labels = standing.clone();
        for (key, value) in &own {
            if labels.len() < limits::LABELS || labels.contains_key(key) {
                labels.insert(key.clone(), value.clone());
            }
        }
        let known = labels.get(&key).map_or("", String::as_str);
        let repositories: BTreeSet<&str> =
            known.split(',').chain([repository.as_str()]).filter(|name| !name.is_empty()).collect();
        let joined = Vec::from_iter(repositories).join(",");
        let room = labels.len() < limits::LABELS || labels.contains_key(&key);
        if room && key.len() + joined.len() <= limits::LABEL_BYTES {
            labels.insert(key.clone(), joined);
        }
        labels
    };
    job.jobs.0.store.relabel_content(&job.caller.namespace, digests, change).await
}

/// containerd's label of the repositories of a host that a blob can be had from.
fn source_key(job: &Job) -> String {
    format!("containerd.io/distribution.source.{}", job.request.reference.host())
}

/// Adds a label of ours where there is room beside the client's own.
pub(super) fn add_label(labels: &mut Labels, key: String, value: String) {
    if labels.len() < limits::LABELS && key.len() + value.len() <= limits::LABEL_BYTES {
        labels.entry(key).or_insert(value);
    }
}

/// A descriptor's media type as a record keeps it; none where a peer wrote what is not one.
pub(super) fn recorded_type(descriptor: &Descriptor) -> Option<String> {
    let text = media_type::essence(&descriptor.media_type);
    check_media_type(text).is_ok().then(|| text.to_owned())
}
