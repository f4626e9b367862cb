//! The documents of a pull: fetched, verified and stored, with the labels by which others find their children.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::{Result, UpstreamKind};
use crate::jobs::pull::{add_label, fetch_leaf, labels_of, recorded_type};
use crate::jobs::run::{Ended, Job};
use crate::jobs::select::{Shelf, Wanted, upstream_of};
use crate::jobs::taken::Leaf;
use crate::jobs::view::{BlobRole, BlobState, JobError};
use crate::limits;
use crate::oci::config::platform_of;
use crate::oci::manifest::{Child, Role};
use crate::oci::media_type::Kind;
use crate::oci::{Descriptor, Digest, Document, Platform};
use crate::registry::{Fetched, Repository};
use crate::store::PutBody;
use crate::store::labels::Labels;

/// The shelf of a job: what is taken from it is in the store.
pub(super) struct Stored<'a> {
    pub job: &'a Job,
    pub repository: &'a Repository,
}

impl Shelf for Stored<'_> {
    async fn document(&self, wanted: Wanted<'_>, fetched: Option<Fetched>) -> Result<Document, Ended> {
        Box::pin(fetch_document(self.job, self.repository, wanted, fetched)).await
    }

    async fn platform(&self, config: &Descriptor) -> Result<Option<Platform>, Ended> {
        if config.size > limits::PULL_CONFIG_BYTES {
            return Ok(None);
        }
        let job = self.job;
        let leaf = Leaf { descriptor: config.clone(), role: BlobRole::Config, skipped: None };
        job.draw(|picture| picture.add(config, leaf.role));
        Box::pin(fetch_leaf(job, self.repository, &leaf, &job.live.stop)).await?;
        let namespace = &job.caller.namespace;
        let bytes = job.jobs.0.store.read_blob(namespace, &config.digest, limits::PULL_CONFIG_BYTES).await?;
        Ok(platform_of(&bytes))
    }

    async fn referrers(&self, subject: &Digest, types: &[String]) -> Result<Vec<Descriptor>, Ended> {
        Box::pin(self.job.ask(None, || self.repository.list_referrers(subject, types))).await
    }

    fn leave_out(&self, referrer: &Descriptor, why: String) {
        self.job.warn(format!("the referrer {} is left out: {why}", referrer.digest));
        self.job.draw(|picture| {
            if !picture.is_here(&referrer.digest) {
                picture.skip(&referrer.digest, why);
            }
        });
    }
}

/// A document that the namespace then has, parsed as what its descriptor says it is.
async fn fetch_document(
    job: &Job,
    repository: &Repository,
    wanted: Wanted<'_>,
    fetched: Option<Fetched>,
) -> Result<Document, Ended> {
    let descriptor = wanted.descriptor;
    let digest = &descriptor.digest;
    let role = if descriptor.kind() == Kind::Index { BlobRole::Index } else { BlobRole::Manifest };
    job.draw(|picture| picture.add(descriptor, role));
    if let Some(document) = find_stored(job, descriptor).await? {
        // One that this pull has just fetched, and comes to again, was not here before.
        job.draw(|picture| {
            if !picture.is_here(digest) {
                picture.reuse(digest)
            }
        });
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
    let (bytes, document) = match (fetched, embedded(descriptor)) {
        (Some(fetched), _) => (fetched.bytes, fetched.document),
        (None, Some(known)) => known,
        (None, None) => {
            let ask = || async {
                repository.fetch_document(descriptor).await.map_err(|error| wanted.explain(error))
            };
            let fetched = job.ask(Some(digest), ask).await.map_err(failed)?;
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
        return Err(upstream_of(&job.request, UpstreamKind::Mismatch, reason));
    }
    // The bytes are what they are: it is the descriptor that promises another kind of document.
    let parsed = Document::parse(&bytes, Some(&descriptor.media_type));
    parsed.map(Some).map_err(|error| upstream_of(&job.request, UpstreamKind::BadAnswer, error.to_string()))
}

/// The document that its descriptor carries along, if it is whole.
pub(super) fn embedded(descriptor: &Descriptor) -> Option<(Bytes, Document)> {
    let bytes = descriptor.embedded()?;
    let document = Document::parse(&bytes, Some(&descriptor.media_type)).ok()?;
    Some((bytes.into(), document))
}

/// The labels by which containerd's collector follows a document to its children. Ours reads the bytes, so that a
/// document with more children than a record has room for loses nothing.
pub(super) fn document_labels(job: &Job, document: &Document) -> Labels {
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
