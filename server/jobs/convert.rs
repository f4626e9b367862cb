//! A manifest of Docker's schema 1 becomes an OCI image: its layers are fetched as they are, and what they are without
//! their compression goes into a config that is made here.

use std::collections::HashMap;

use bytes::Bytes;

use crate::error::{Error, Result, Unprocessable, UpstreamKind};
use crate::jobs::documents::document_labels;
use crate::jobs::pull::{add_label, fetch_all, join_labels, labels_of, note_target};
use crate::jobs::reader::BlobReader;
use crate::jobs::request::Request;
use crate::jobs::run::{Ended, Job};
use crate::jobs::select::upstream_of;
use crate::jobs::taken::Leaf;
use crate::jobs::view::{BlobRole, BlobState, Phase};
use crate::oci::config::platform_of;
use crate::oci::platform::NoMatch;
use crate::oci::schema1::{Schema1, UnpackedLayer};
use crate::oci::{Algorithm, Descriptor, Digest, Document, Platform, media_type};
use crate::registry::Repository;
use crate::store::{Labels, PutBody};
use crate::unpack::decompress::{self, Measured};

/// The label of a converted image and of its manifest: the digest of the manifest that it was made of.
pub(super) const CONVERTED_FROM: &str = "dev.orlop.converted-from";

/// Fetches the layers, and stores the image that they make. What it is named by then.
///
/// # Errors
/// `ValidationFailed` when nobody asked for a conversion, or a layer is damaged; `Upstream`; the store's own.
pub(super) async fn work(
    job: &Job,
    repository: &Repository,
    original: &Descriptor,
    schema1: &Schema1,
) -> Result<Descriptor, Ended> {
    check_asked(&job.request)?;
    check_platform(&job.request, schema1)?;
    job.live.change(|record| record.detail.converting = true);
    job.enter(Phase::Fetching).await?;
    let mut leaves = Vec::new();
    for digest in layers_to_fetch(schema1) {
        let size = job.ask(Some(&digest), || repository.find_size(&digest)).await?;
        leaves.push(leaf_of(digest, size));
    }
    job.draw(|picture| leaves.iter().for_each(|leaf| picture.add(&leaf.descriptor, leaf.role)));
    fetch_all(job, repository, &leaves).await?;
    let mut unpacked: HashMap<&Digest, UnpackedLayer> = HashMap::new();
    for leaf in &leaves {
        unpacked.insert(&leaf.descriptor.digest, unpack(job, &leaf.descriptor).await?);
    }
    let full = schema1.layers.iter().filter(|layer| !layer.empty);
    let layers: Vec<UnpackedLayer> = full.filter_map(|layer| unpacked.get(&layer.digest).cloned()).collect();
    let converted = schema1.convert(&layers);
    put(job, BlobRole::Config, media_type::OCI_CONFIG, converted.config, labels_of(job)).await?;
    let original = &original.digest;
    let document = Document::parse(&converted.manifest, Some(media_type::OCI_MANIFEST))?;
    let mut labels = document_labels(job, &document);
    add_label(&mut labels, CONVERTED_FROM.to_owned(), original.to_string());
    let target = put(job, BlobRole::Manifest, media_type::OCI_MANIFEST, converted.manifest, labels).await?;
    join_labels(job, leaves.iter().map(|leaf| &leaf.descriptor)).await?;
    job.draw(|picture| picture.know_all());
    note_target(job, &target);
    job.live.change(|record| record.detail.converted_from = Some(original.clone()));
    Ok(target)
}

/// # Errors
/// `ValidationFailed`, which says how to ask for it.
pub(super) fn check_asked(request: &Request) -> Result<()> {
    if request.selection.convert_schema1 {
        return Ok(());
    }
    let reason = "the image is a Docker manifest of schema 1, which nothing of today reads: with `convert_schema1` an OCI \
                  image is made of it"
        .to_owned();
    Err(Error::Unprocessable(Unprocessable::ValidationFailed { reason }))
}

/// What the image runs on, as far as it says so: one of the platforms asked for.
///
/// # Errors
/// `Upstream`, with `NoPlatform`.
pub(super) fn check_platform(request: &Request, schema1: &Schema1) -> Result<Option<Platform>> {
    let Some(offered) = platform_of(&schema1.convert(&[]).config) else { return Ok(None) };
    let wanted = request.wanted()?;
    if request.platforms.is_empty() || wanted.iter().any(|wanted| wanted.rank(&offered).is_some()) {
        return Ok(Some(offered.normalized()));
    }
    let missing = NoMatch { wanted: Box::new(wanted[0].clone()), available: vec![offered] };
    Err(upstream_of(request, UpstreamKind::NoPlatform, missing.to_string()))
}

/// The layers that are to be fetched, each once. How long they are only the registry tells.
pub(super) fn layers_to_fetch(schema1: &Schema1) -> Vec<Digest> {
    let mut digests: Vec<Digest> = Vec::new();
    for layer in schema1.layers.iter().filter(|layer| !layer.empty) {
        if !digests.contains(&layer.digest) {
            digests.push(layer.digest.clone());
        }
    }
    digests
}

pub(super) fn leaf_of(layer: Digest, size: u64) -> Leaf {
    let descriptor = Descriptor::new(media_type::OCI_LAYER_GZIP, layer, size);
    Leaf { descriptor, role: BlobRole::Layer, skipped: None }
}

async fn unpack(job: &Job, descriptor: &Descriptor) -> Result<UnpackedLayer, Ended> {
    let blob = job.jobs.0.store.open_blob(&job.caller.namespace, &descriptor.digest).await?;
    let stop = job.live.stop.clone();
    let reader = BlobReader::new(blob, stop.clone(), |_| ());
    let measuring =
        job.jobs.0.shutdown.spawn_blocking("measure a layer", move || decompress::measure(reader));
    let measured = match measuring.await? {
        Err(_) if stop.is_cancelled() => return Err(Ended::Stopped),
        settled => settled?,
    };
    let Measured { compression, diff_id, all_zero: empty, size_bytes: _ } = measured;
    let descriptor = Descriptor::new(compression.layer_type()?, descriptor.digest.clone(), descriptor.size);
    Ok(UnpackedLayer { descriptor, diff_id, empty })
}

/// Stores a document that was made here.
async fn put(
    job: &Job,
    role: BlobRole,
    media_type: &str,
    bytes: Vec<u8>,
    labels: Labels,
) -> Result<Descriptor, Ended> {
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let descriptor = Descriptor::new(media_type, digest.clone(), bytes.len() as u64);
    job.draw(|picture| picture.add(&descriptor, role));
    let body = PutBody {
        chunks: vec![Bytes::from(bytes)],
        expected: Some(digest.clone()),
        algorithm: digest.algorithm(),
        media_type: Some(media_type.to_owned()),
        labels,
    };
    job.jobs.0.store.put_bytes(&job.caller, body).await?;
    job.draw(|picture| {
        // Its bytes came from nowhere else.
        picture.reuse(&digest);
        picture.set_state(&digest, BlobState::Done);
    });
    Ok(descriptor)
}
