//! One attempt at a pull, read downward: resolve, fetch documents, fetch blobs, name the image.
//!
//! Children need not come before their parents: everything is held by the pull's lease until the image holds it.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, Upstream, UpstreamKind};
use crate::jobs::documents::{Leaf, Tree};
use crate::jobs::fetch::Fetch;
use crate::jobs::run::{Ended, Job};
use crate::jobs::view::{JobError, Phase};
use crate::limits;
use crate::oci::media_type::{self, Kind};
use crate::oci::{Descriptor, Platform};
use crate::registry::Repository;
use crate::store::labels::{Labels, check_media_type};
use crate::store::{ImageSource, NameTaken, NewImage, NewTarget, Target};

/// Runs all steps. Each finds what an earlier attempt left, so that to resume is to run again.
pub(super) async fn work(job: &Job) -> Result<(), Ended> {
    let reference = &job.request.reference;
    let repository = job.repository().await?;
    let resolved = job.ask(|| repository.resolve(reference)).await?;
    let target = resolved.descriptor.clone();
    job.live.change(|record| {
        record.row.digest = Some(target.digest.to_string());
        record.detail.target = Some(Target {
            media_type: target.media_type.clone(),
            digest: target.digest.to_string(),
            size: target.size,
            annotations: BTreeMap::new(),
        });
    });
    job.enter(Phase::Fetching).await?;
    let tree = Tree::fetch(job, &repository, resolved).await?;
    job.draw(|picture| picture.know_all());
    fetch_all(job, &repository, &tree.leaves).await?;
    check_platforms(job, &tree.unproven).await?;
    job.enter(Phase::Finishing).await?;
    name_image(job, target).await
}

/// Fetches all blobs, so many at once as is allowed. When one fails, the others stop where they are.
async fn fetch_all(job: &Job, repository: &Repository, leaves: &[Leaf]) -> Result<(), Ended> {
    let halt = job.live.stop.child_token();
    // Gathered first: a stream over a closure that borrows would not be `Send` enough for a task.
    let fetches: Vec<_> = leaves.iter().map(|leaf| fetch_leaf(job, repository, leaf, &halt)).collect();
    let mut running = futures_util::stream::iter(fetches).buffer_unordered(job.jobs.0.settings.layers);
    let mut first = Ok(());
    // To the last one, also after a failure: each brings its bytes to the disk before it ends.
    while let Some(outcome) = running.next().await {
        match (&first, outcome) {
            (_, Ok(())) | (Err(Ended::Failed(_)), Err(_)) => {}
            (Ok(()), Err(ended)) | (Err(Ended::Stopped), Err(ended)) => {
                halt.cancel();
                first = Err(ended);
            }
        }
    }
    first
}

async fn fetch_leaf(
    job: &Job,
    repository: &Repository,
    leaf: &Leaf,
    halt: &CancellationToken,
) -> Result<(), Ended> {
    let outcome = Fetch { job, repository, descriptor: &leaf.descriptor, halt }.run().await;
    if let Err(Ended::Failed(error)) = &outcome {
        job.draw(|picture| picture.fail(&leaf.descriptor.digest, JobError::of(error)));
    }
    outcome
}

/// A manifest that was reached without an index to vouch for its platform must be of one that was asked for.
async fn check_platforms(job: &Job, configs: &[Descriptor]) -> Result<()> {
    if job.request.platforms.is_empty() {
        return Ok(());
    }
    let wanted = job.request.wanted()?;
    for config in configs.iter().filter(|config| config.kind() == Kind::Config) {
        let namespace = &job.caller.namespace;
        let bytes = job.jobs.0.store.read_blob(namespace, &config.digest, limits::MANIFEST_BYTES).await?;
        // A config that says nothing of its platform objects to none.
        let Ok(offered) = serde_json::from_slice::<Platform>(&bytes) else { continue };
        if !offered.os.is_empty() && wanted.iter().all(|wanted| wanted.rank(&offered).is_none()) {
            let reason = format!("the image is for {} only", offered.normalized());
            return Err(upstream(job, UpstreamKind::NoPlatform, reason));
        }
    }
    Ok(())
}

/// The image comes last: a name that is there stands for something whole.
async fn name_image(job: &Job, target: Descriptor) -> Result<(), Ended> {
    let image = NewImage {
        name: job.request.image_name.clone(),
        source: ImageSource::Target(NewTarget {
            digest: target.digest,
            media_type: Some(target.media_type),
            size: Some(target.size),
            annotations: BTreeMap::new(),
        }),
        labels: job.request.labels.clone(),
    };
    let (image, _held) = job.jobs.0.store.create_image(&job.caller, image, NameTaken::Move).await?;
    job.live.change(|record| record.detail.image_id = Some(image.id));
    Ok(())
}

/// The labels of what a pull stores: the client's, and where it came from, as containerd notes it.
pub(super) fn labels_of(job: &Job) -> Labels {
    let mut labels = job.request.labels.clone();
    let reference = &job.request.reference;
    let source = format!("containerd.io/distribution.source.{}", reference.host());
    add_label(&mut labels, source, reference.repository().to_owned());
    labels
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

/// A failure of the registry's that we found, not the client for it.
pub(super) fn upstream(job: &Job, kind: UpstreamKind, reason: String) -> Error {
    let host = job.request.reference.api_host().to_owned();
    Error::Upstream(Upstream { kind, host, reason, status: None, retry_after: None })
}
