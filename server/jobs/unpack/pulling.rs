//! The layers of a pull become snapshots while others are still on their way.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Chain, ChainLayer, Unpacker};
use crate::error::{Conflict, Error};
use crate::jobs::event::LogLevel;
use crate::jobs::pull::fetch_leaf;
use crate::jobs::request::LayerBlobs;
use crate::jobs::run::{Ended, Job, to_the_last};
use crate::jobs::taken::Leaf;
use crate::jobs::view::{BlobRole, Phase};
use crate::limits;
use crate::oci::{Descriptor, Digest};
use crate::registry::Repository;
use crate::store::{IfMatch, Presence, WhenHeld};

/// Why a layer is not fetched, in words for the client.
const NOT_NEEDED: &str = "its snapshot is here: nothing needs the layer itself";

/// Fetches what is to be fetched, and unpacks each layer when it is here: configs first, for they say what the layers are.
/// What was unpacked.
pub(in crate::jobs) async fn fetch_and_unpack(
    job: &Job,
    repository: &Repository,
    manifests: Vec<Digest>,
    leaves: &[Leaf],
) -> Result<Vec<Chain>, Ended> {
    let halt = job.live.stop.child_token();
    let (layers, others): (Vec<&Leaf>, Vec<&Leaf>) =
        leaves.iter().partition(|leaf| leaf.role == BlobRole::Layer);
    let (landing, landed) = watch::channel(HashSet::new());
    fetch_each(job, repository, &others, &halt, &landing).await?;
    let unpacker = unpacker_of(job, &halt);
    let chains = plan(job, &unpacker, &manifests, &layers).await?;
    let needed = find_needed(job, &chains, &layers).await?;
    let fetching = async {
        let fetched = fetch_each(job, repository, &needed, &halt, &landing).await;
        if fetched.is_ok() && chains.iter().any(|chain| !chain.missing().is_empty()) {
            job.enter(Phase::Unpacking).await?;
        }
        fetched
    };
    let unpacking = unpack_all(&unpacker, &chains, &landed, &halt);
    let (fetched, unpacked) = futures_util::join!(fetching, unpacking);
    // Where one failed the other was stopped: the failure is what is told.
    match (fetched, unpacked) {
        (Ok(()), Ok(())) => Ok(chains),
        (Err(Ended::Failed(error)), _) | (_, Err(Ended::Failed(error))) => Err(Ended::Failed(error)),
        (Err(Ended::Stopped), _) | (_, Err(Ended::Stopped)) => Err(Ended::Stopped),
    }
}

/// Unpacks what is here already.
pub(in crate::jobs) async fn unpack_here(job: &Job, manifest: &Digest) -> Result<Vec<Chain>, Ended> {
    let halt = job.live.stop.child_token();
    let unpacker = unpacker_of(job, &halt);
    let Some(chain) = unpacker.plan(manifest).await? else { return Ok(Vec::new()) };
    job.enter(Phase::Unpacking).await?;
    let landed = chain.all_landed();
    let chains = vec![chain];
    unpack_all(&unpacker, &chains, &landed, &halt).await?;
    Ok(chains)
}

fn unpacker_of<'j>(job: &'j Job, halt: &'j CancellationToken) -> Unpacker<'j> {
    let live = job.live.clone();
    let tell = Arc::new(move |layer: &ChainLayer, told| {
        let digest = &layer.descriptor.digest;
        live.change(|record| record.picture.as_mut().map(|picture| picture.note_unpack(digest, told)));
    });
    let (live, clock) = (job.live.clone(), job.jobs.0.clock.clone());
    let warn = Arc::new(move |warning| live.log(clock.now(), LogLevel::Warn, warning));
    Unpacker { jobs: &job.jobs, caller: &job.caller, halt, tell, warn }
}

async fn plan(
    job: &Job,
    unpacker: &Unpacker<'_>,
    manifests: &[Digest],
    layers: &[&Leaf],
) -> Result<Vec<Chain>, Ended> {
    let mut chains = Vec::new();
    for manifest in manifests {
        let Some(chain) = unpacker.plan(manifest).await? else { continue };
        let is_taken = |digest: &Digest| {
            layers.iter().any(|leaf| leaf.descriptor.digest == *digest && leaf.skipped.is_none())
        };
        // Of a platform whose layers were not asked for, or may not be fetched, there is nothing to unpack.
        match chain.missing().iter().find(|layer| !is_taken(&layer.descriptor.digest)) {
            None => chains.push(chain),
            Some(layer) if layers.iter().any(|leaf| leaf.descriptor.digest == layer.descriptor.digest) => {
                job.warn(format!(
                    "{manifest} is not unpacked: its layer {} is not fetched",
                    layer.descriptor.digest
                ));
            }
            Some(_) => {}
        }
    }
    if chains.is_empty() {
        job.warn("there is nothing to unpack: no image of layers is taken".to_owned());
    }
    for chain in &chains {
        for layer in chain.missing() {
            job.draw(|picture| picture.await_unpack(&layer.descriptor.digest));
        }
    }
    Ok(chains)
}

/// The layers to fetch: those that are to be unpacked, those that no snapshot stands for, and those that are here anyway.
async fn find_needed<'l>(job: &Job, chains: &[Chain], layers: &[&'l Leaf]) -> Result<Vec<&'l Leaf>, Ended> {
    let missing: HashSet<&Digest> =
        chains.iter().flat_map(Chain::missing).map(|layer| &layer.descriptor.digest).collect();
    let there: HashSet<&Digest> = chains
        .iter()
        .flat_map(|chain| &chain.layers[..chain.there])
        .map(|layer| &layer.descriptor.digest)
        .collect();
    let mut needed = Vec::new();
    for leaf in layers {
        let Descriptor { digest, size, .. } = &leaf.descriptor;
        let is_needed = missing.contains(digest) || !there.contains(digest) || leaf.skipped.is_some();
        let store = &job.jobs.0.store;
        if is_needed || store.find_presence(&job.caller, digest, *size).await? == Presence::Here {
            needed.push(*leaf);
        } else {
            job.draw(|picture| picture.skip(digest, NOT_NEEDED));
        }
    }
    Ok(needed)
}

/// Fetches blobs, and says of each when it is here.
async fn fetch_each(
    job: &Job,
    repository: &Repository,
    leaves: &[&Leaf],
    halt: &CancellationToken,
    landing: &watch::Sender<HashSet<Digest>>,
) -> Result<(), Ended> {
    let fetch = |leaf: &Leaf| {
        let leaf = leaf.clone();
        Box::pin(async move {
            fetch_leaf(job, repository, &leaf, halt).await?;
            landing.send_modify(|landed| {
                landed.insert(leaf.descriptor.digest.clone());
            });
            Ok(())
        })
    };
    let fetches: Vec<_> = leaves.iter().map(|leaf| fetch(leaf)).collect();
    to_the_last(fetches, limits::PULL_BLOBS, halt).await
}

async fn unpack_all(
    unpacker: &Unpacker<'_>,
    chains: &[Chain],
    landed: &super::Landed,
    halt: &CancellationToken,
) -> Result<(), Ended> {
    let unpacks: Vec<_> = chains.iter().map(|chain| Box::pin(unpacker.unpack(chain, landed))).collect();
    to_the_last(unpacks, limits::PULL_DOCUMENTS, halt).await
}

/// From now on the job shows what was unpacked.
pub(in crate::jobs) fn note_snapshots(job: &Job, chains: &[Chain]) {
    let snapshots: Vec<_> = chains.iter().filter_map(Chain::as_snapshot).collect();
    job.live.change(|record| record.detail.snapshots = snapshots);
}

/// Removes the layers' blobs where that was asked for: but for those that something else refers to, or somebody holds.
pub(in crate::jobs) async fn drop_layers(job: &Job, chains: &[Chain]) -> Result<(), Ended> {
    if job.request.selection.layer_blobs == LayerBlobs::Keep {
        return Ok(());
    }
    let mut own: Vec<String> = chains.iter().map(|chain| chain.manifest.to_string()).collect();
    own.push(job.lease.clone());
    let layers: HashSet<&Digest> =
        chains.iter().flat_map(|chain| &chain.layers).map(|layer| &layer.descriptor.digest).collect();
    for digest in layers {
        let held = WhenHeld::RefuseUnlessBy(own.clone());
        let store = &job.jobs.0.store;
        match store.delete_content(&job.caller.namespace, digest, IfMatch::Absent, held).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(Error::Conflict(Conflict::ContentInUse { .. })) => {
                job.warn(format!("the layer {digest} stays: something else needs it"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
