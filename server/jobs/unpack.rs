//! Layers become snapshots: each into a directory of its own, side by side and as soon as its blob is here; then named one
//! on the other, from the lowest up.

pub(super) mod ask;
pub(super) mod job;
pub(super) mod pulling;
mod record;
pub(super) mod view;
pub(super) mod watching;

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::StreamExt;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, Unprocessable};
use crate::jobs::Jobs;
use crate::jobs::reader::BlobReader;
use crate::jobs::run::{Ended, unless};
use crate::jobs::view::ImageSnapshot;
use crate::limits;
use crate::oci::manifest::{Document, Role};
use crate::oci::media_type::{self, Kind};
use crate::oci::tree::Tree;
use crate::oci::{Descriptor, Digest, ImageConfig, Platform, chain_ids};
use crate::store::{Caller, Form, Labels, Staged, UnpackedLayer, View};
use crate::unpack::{self, Owners, Unpacked};

/// containerd's label of a layer's blob: the digest of its tar.
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// containerd's label by which a config keeps the snapshot of its layers.
pub(super) const SNAPSHOT_REF: &str = "containerd.io/gc.ref.snapshot.orlop";

/// One image of one platform, as it is to be unpacked.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub manifest: Digest,
    pub config: Digest,
    /// As its config says.
    pub platform: Option<Platform>,
    /// The lowest first.
    pub layers: Vec<ChainLayer>,
    /// How many of them, from the lowest on, have a snapshot already.
    pub there: usize,
}

#[derive(Debug, Clone)]
pub(super) struct ChainLayer {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
    pub chain_id: Digest,
}

impl Chain {
    /// The chain ID of all its layers; `None` for an image without any.
    pub fn top(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain_id)
    }

    /// The snapshot of all its layers, as a job shows it.
    pub fn as_snapshot(&self) -> Option<ImageSnapshot> {
        let platform = self.platform.as_ref().map(|platform| platform.normalized().to_string());
        Some(ImageSnapshot { key: self.top()?.clone(), manifest: self.manifest.clone(), platform })
    }

    /// That all its layers are here.
    pub fn all_landed(&self) -> Landed {
        watch::Sender::new(self.layers.iter().map(|layer| layer.descriptor.digest.clone()).collect())
            .subscribe()
    }

    /// The layers that have no snapshot yet.
    pub fn missing(&self) -> &[ChainLayer] {
        &self.layers[self.there..]
    }
}

/// What somebody who follows an unpack hears of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// So many bytes of its blob are unpacked.
    Unpacking(u64),
    Committing,
    /// It has a snapshot, of this chain ID.
    Done(Digest),
    /// It had one before.
    Exists(Digest),
}

/// Says how a layer does.
pub(super) type Tell = Arc<dyn Fn(&ChainLayer, Told) + Send + Sync>;

/// Says what could not be kept as a layer has it.
pub(super) type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// Unpacks on somebody's behalf.
pub(super) struct Unpacker<'u> {
    pub jobs: &'u Jobs,
    pub caller: &'u Caller,
    pub halt: &'u CancellationToken,
    pub tell: Tell,
    pub warn: Warn,
}

/// The blobs that are here, as they come.
pub(super) type Landed = watch::Receiver<HashSet<Digest>>;

impl Unpacker<'_> {
    /// How a manifest's image is unpacked; `None` for what is no image of layers: an artifact, a list, an attestation.
    /// The snapshots that are there already are held for the caller.
    ///
    /// # Errors
    /// `NotFound` when the manifest or its config is not here; `ValidationFailed` when the config does not fit.
    pub async fn plan(&self, manifest: &Digest) -> Result<Option<Chain>> {
        let store = &self.jobs.0.store;
        let bytes = store.read_blob(&self.caller.namespace, manifest, limits::MANIFEST_BYTES).await?;
        let document = Document::parse(&bytes, None)?;
        let (mut config, mut layers) = (None, Vec::new());
        for child in document.children() {
            match child.role {
                Role::Config => config = Some(child.descriptor.clone()),
                Role::Layer if child.descriptor.kind() == Kind::Layer => {
                    layers.push(child.descriptor.clone())
                }
                Role::Index | Role::Manifest | Role::Layer | Role::Other => return Ok(None),
            }
        }
        let is_image = config.as_ref().is_some_and(|config| media_type::is_image_config(&config.media_type));
        let Some(config) = config.filter(|_| is_image) else { return Ok(None) };
        let bytes = store.read_blob(&self.caller.namespace, &config.digest, limits::MANIFEST_BYTES).await?;
        let read = ImageConfig::parse(&bytes)?;
        if read.diff_ids.len() != layers.len() {
            let (named, there) = (read.diff_ids.len(), layers.len());
            let config = &config.digest;
            return Err(invalid(format!(
                "the config {config} names {named} layers, and the manifest {manifest} has {there}"
            )));
        }
        let chain_ids = chain_ids(&read.diff_ids);
        let layers: Vec<ChainLayer> = layers
            .into_iter()
            .zip(read.diff_ids)
            .zip(chain_ids)
            .map(|((descriptor, diff_id), chain_id)| ChainLayer { descriptor, diff_id, chain_id })
            .collect();
        let mut there = layers.len();
        // What stands on something keeps it.
        while there > 0 {
            let key = layers[there - 1].chain_id.as_str();
            if store.hold_snapshot(self.caller, key).await?.is_some() {
                break;
            }
            there -= 1;
        }
        Ok(Some(Chain {
            manifest: manifest.clone(),
            config: config.digest,
            platform: read.platform,
            layers,
            there,
        }))
    }

    /// Unpacks what is missing of a chain. Each layer begins when its blob has landed, and no more at once than the server
    /// allows.
    ///
    /// # Errors
    /// `ValidationFailed` for a layer that is damaged, or is not what the config says; the store's own.
    pub async fn unpack(&self, chain: &Chain, landed: &Landed) -> Result<(), Ended> {
        for layer in &chain.layers[..chain.there] {
            (self.tell)(layer, Told::Exists(layer.chain_id.clone()));
        }
        let begun: Vec<_> =
            chain.missing().iter().map(|layer| Box::pin(self.fill(layer, landed.clone()))).collect();
        let mut filled = futures_util::stream::iter(begun).buffered(limits::MANIFEST_LAYERS);
        let mut parent = chain.there.checked_sub(1).map(|at| chain.layers[at].chain_id.clone());
        for layer in chain.missing() {
            let Some(filled) = filled.next().await else {
                return Err(Error::internal("unpack all layers of an image").into());
            };
            match filled? {
                Filled::There => {
                    (self.tell)(layer, Told::Exists(layer.chain_id.clone()));
                }
                Filled::New { staged, tree, _turn } => {
                    (self.tell)(layer, Told::Committing);
                    self.commit(layer, parent.take(), staged, tree).await?;
                    self.jobs.0.settings.metrics.layer_unpacked(layer.descriptor.size);
                    (self.tell)(layer, Told::Done(layer.chain_id.clone()));
                }
            }
            parent = Some(layer.chain_id.clone());
        }
        self.label(chain).await?;
        Ok(())
    }

    /// Fills a directory with a layer, unless somebody else has named its snapshot meanwhile.
    async fn fill(&self, layer: &ChainLayer, mut landed: Landed) -> Result<Filled, Ended> {
        let digest = &layer.descriptor.digest;
        let here = landed.wait_for(|landed| landed.contains(digest));
        if unless(self.halt, here).await?.is_err() {
            return Err(Ended::Stopped);
        }
        let store = &self.jobs.0.store;
        let name = format!("{} {}", self.caller.namespace, layer.chain_id);
        // Until the snapshot has its name: who unpacks the same image waits, and finds it.
        let turn = unless(self.halt, self.jobs.0.chains.enter(name)).await?;
        if store.hold_snapshot(self.caller, layer.chain_id.as_str()).await?.is_some() {
            return Ok(Filled::There);
        }
        let permit = unless(self.halt, self.jobs.0.unpacks.acquire()).await?.expect("nobody closes it");
        let blob = store.open_blob(&self.caller.namespace, digest).await?;
        let staged = store.stage_snapshot().await?;
        let (told, tell) = (layer.clone(), self.tell.clone());
        tell(layer, Told::Unpacking(0));
        let reader =
            BlobReader::new(blob, self.halt.clone(), move |bytes| tell(&told, Told::Unpacking(bytes)));
        let (directory, form) = (staged.directory()?, self.jobs.form_of(staged.form()));
        let work = move || unpack::unpack_into(directory.as_fd(), reader, form);
        let unpacked = self.jobs.0.shutdown.spawn_blocking("unpack-layer", work).await?;
        drop(permit);
        let Unpacked { tree, measured, warnings } = match unpacked {
            Err(_) if self.halt.is_cancelled() => return Err(Ended::Stopped),
            unpacked => unpacked?,
        };
        if measured.diff_id != layer.diff_id {
            let (is, named) = (measured.diff_id, &layer.diff_id);
            return Err(invalid(format!(
                "the layer {digest} has the diff ID {is}, and its config says {named}"
            ))
            .into());
        }
        for warning in warnings {
            tracing::debug!(blob.digest = %digest, "Unpacked a layer not quite as it is: {warning}");
            (self.warn)(format!("the layer {digest} is not quite as it was: {warning}"));
        }
        Ok(Filled::New { staged, tree, _turn: turn })
    }

    /// Makes the directory fit what is below it, and names it.
    async fn commit(
        &self,
        layer: &ChainLayer,
        parent: Option<Digest>,
        staged: Staged,
        mut tree: Tree,
    ) -> Result<()> {
        let store = &self.jobs.0.store;
        let (directory, form) = (staged.directory()?, self.jobs.form_of(staged.form()));
        let below = match &parent {
            Some(parent) => Some(store.view_snapshot(&self.caller.namespace, parent.as_str()).await?),
            None => None,
        };
        let settling = store.clone();
        let work = move || -> Result<Tree> {
            match &below {
                Some(view) => {
                    unpack::settle(directory.as_fd(), &mut tree, &view.merged(), form, |found| {
                        View::open_blocking(&settling, view, found)
                    })?;
                }
                None => unpack::settle_lowest(directory.as_fd(), &mut tree, form)?,
            }
            Ok(tree)
        };
        let tree = self.jobs.0.shutdown.spawn_blocking("settle-layer", work).await??;
        let named = UnpackedLayer {
            name: layer.chain_id.to_string(),
            parent: parent.map(|parent| parent.to_string()),
            diff_id: layer.diff_id.clone(),
            tree,
            labels: Labels::new(),
        };
        store.commit_staged(self.caller, staged, named).await.map(drop)
    }

    /// What containerd's clients look for: the diff ID on each layer, and the snapshot on the config.
    async fn label(&self, chain: &Chain) -> Result<()> {
        let store = &self.jobs.0.store;
        let mut wanted: HashMap<Digest, (&'static str, String)> = chain
            .layers
            .iter()
            .map(|layer| (layer.descriptor.digest.clone(), (UNCOMPRESSED, layer.diff_id.to_string())))
            .collect();
        if let Some(top) = chain.top() {
            wanted.insert(chain.config.clone(), (SNAPSHOT_REF, top.to_string()));
        }
        for (digest, (key, value)) in wanted {
            let change = set_label(key, value);
            store.relabel_content(&self.caller.namespace, vec![digest], change).await?;
        }
        Ok(())
    }
}

/// Sets a label, unless there are as many as a record may have.
pub(super) fn set_label(key: &'static str, value: String) -> impl Fn(&Labels) -> Labels + Clone + Send {
    move |standing: &Labels| {
        let mut labels = standing.clone();
        if labels.len() < limits::LABELS || labels.contains_key(key) {
            labels.insert(key.to_owned(), value.clone());
        }
        labels
    }
}

/// What became of a layer's directory.
enum Filled {
    There,
    New { staged: Staged, tree: Tree, _turn: OwnedMutexGuard<()> },
}

impl Jobs {
    /// How layers are kept in a directory of this form.
    pub(super) fn form_of(&self, form: Form) -> unpack::Form {
        let owners = match form {
            Form::Real => Owners::Real,
            Form::Ours => Owners::Ours,
        };
        unpack::Form { owners, devices: self.0.settings.devices }
    }
}

pub(super) fn invalid(reason: String) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

/// One unpack of a chain at a time. Somebody may hold several: always of layers that stand on each other, and the lowest of
/// them never waits for another.
#[derive(Default)]
pub(super) struct Chains(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Chains {
    pub async fn enter(&self, name: String) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            gates.retain(|_, gate| gate.strong_count() > 0);
            match gates.get(&name).and_then(Weak::upgrade) {
                Some(gate) => gate,
                None => {
                    let gate = Arc::default();
                    gates.insert(name, Arc::downgrade(&gate));
                    gate
                }
            }
        };
        gate.lock_owned().await
    }
}
