//! From snapshots to layers and back: what leads from one snapshot to another becomes a blob, and a blob's files go onto a
//! snapshot that is being built (containerd's diff service).

use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Jobs;
use super::reader::BlobReader;
use super::unpack::{UNCOMPRESSED, invalid, set_label};
use crate::error::{Error, Result, Unprocessable};
use crate::oci::media_type::OCI_LAYER;
use crate::oci::{Algorithm, Digest};
use crate::store::{Between, Caller, Committed, Labels, PutStream, Staged, View, labels};
use crate::unpack::{self, Packing, Unpacked};

/// Pieces of a layer that wait to be written.
const PIECES: usize = 4;

/// A layer as a client asks for it.
#[derive(Debug, Clone)]
pub struct DiffRequest {
    pub upper: String,
    pub from: DiffFrom,
    pub packing: Packing,
    pub labels: Labels,
    pub source_date_epoch: Option<i64>,
}

/// What a layer will stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiffFrom {
    /// What the snapshot itself stands on.
    Parent,
    Snapshot(String),
    Nothing,
}

/// What was applied to a snapshot: the tar of a layer, without its compression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub media_type: &'static str,
    /// The diff ID.
    pub digest: Digest,
    pub size: u64,
}

impl Jobs {
    /// Stores the layer with which one snapshot is made of another: the same blob each time. A layer that is stored already is
    /// as good.
    ///
    /// # Errors
    /// `NotFound` for a snapshot or the caller's lease; `Invalid` for a label; `ValidationFailed` for a name that no layer can
    /// have; the store's own. Nothing is stored then.
    pub async fn diff_snapshots(&self, caller: &Caller, request: DiffRequest) -> Result<Committed> {
        let DiffRequest { upper, from, packing, labels, source_date_epoch } = request;
        let labels = labels::new_labels(labels)?;
        let store = &self.0.store;
        let lower = match from {
            DiffFrom::Parent => store.find_snapshot(&caller.namespace, &upper).await?.parent,
            DiffFrom::Snapshot(lower) => Some(lower),
            DiffFrom::Nothing => None,
        };
        let _place = self.0.unpacks.acquire().await.expect("nobody closes it");
        let between = Between { lower, upper, source_date_epoch };
        let tar = store.write_difference(&caller.namespace, &between).await?;
        let (sender, receiver) = mpsc::channel::<Result<Bytes>>(PIECES);
        let soft = self.0.shutdown.soft().clone();
        let packing_it = self.0.shutdown.spawn_blocking("pack-layer", move || {
            let packed = pack(packing, tar, &sender, &soft);
            if packed.is_err() {
                // What was written so far is not the layer.
                let _ = sender.blocking_send(Err(Error::invalid("the layer is cut short")));
            }
            packed
        });
        let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        let media_type = Some(packing.media_type().to_owned());
        let put =
            PutStream { expected: None, algorithm: Algorithm::Sha256, media_type, labels, length: None };
        let (stored, packed) = tokio::join!(store.put_stream(caller, put, Box::pin(body)), packing_it);
        let (diff_id, mut stored) = match (packed?, stored) {
            (Ok(diff_id), stored) => (diff_id, stored?),
            // Where the store refused, the other side only saw that nobody reads on.
            (Err(Ended::Gone), stored) => return Err(stored.err().unwrap_or_else(stopping)),
            (Err(Ended::Failed(error)), _) => return Err(error),
        };
        let digest: Digest = stored.content.digest.parse()?;
        let change = set_label(UNCOMPRESSED, diff_id.to_string());
        store.relabel_content(&caller.namespace, vec![digest.clone()], change).await?;
        stored.content = store.find_content(&caller.namespace, &digest).await?;
        Ok(stored)
    }

    /// Applies a layer to an active snapshot, as the next one on what is there. It is unpacked for itself first: one that is
    /// damaged changes nothing. The tar that it was.
    ///
    /// # Errors
    /// `NotFound` for either; `Conflict` (state) for a snapshot that is not active; `ValidationFailed` for what is no layer, or
    /// not the one of `diff_id`; the store's own.
    pub async fn apply_layer(
        &self,
        caller: &Caller,
        layer: &Digest,
        key: &str,
        diff_id: Option<Digest>,
    ) -> Result<Applied> {
        let (jobs, caller, layer, key) = (self.clone(), caller.clone(), layer.clone(), key.to_owned());
        // To the end: half a layer is of no use to whoever comes back.
        let work = async move { jobs.apply_now(&caller, &layer, &key, diff_id).await };
        self.to_the_end("apply-layer", Box::pin(work)).await
    }

    async fn apply_now(
        &self,
        caller: &Caller,
        layer: &Digest,
        key: &str,
        diff_id: Option<Digest>,
    ) -> Result<Applied> {
        let store = &self.0.store;
        let blob = store.open_blob(&caller.namespace, layer).await?;
        let building = store.build_snapshot(&caller.namespace, key).await?;
        let _place = self.0.unpacks.acquire().await.expect("nobody closes it");
        let staged = store.stage_snapshot().await?;
        let reader = BlobReader::new(blob, self.0.shutdown.soft().clone(), |_| ());
        let (directory, form) = (staged.directory()?, self.form_of(staged.form()));
        let work = move || unpack::unpack_into(directory.as_fd(), reader, form);
        let unpacked = self.0.shutdown.spawn_blocking("unpack-layer", work).await?;
        let Unpacked { mut tree, measured, .. } = unpacked.map_err(|error| match error {
            Error::Unprocessable(Unprocessable::ValidationFailed { reason }) => {
                Error::Unprocessable(Unprocessable::NotAnArchive { digest: layer.to_string(), reason })
            }
            other => other,
        })?;
        if let Some(named) = diff_id.filter(|named| *named != measured.diff_id) {
            let is = &measured.diff_id;
            return Err(invalid(format!("the layer {layer} has the diff ID {is}, and not {named}")));
        }
        let (directory, view, opener) = (staged.directory()?, building.view.clone(), store.clone());
        let work = move || {
            unpack::settle(directory.as_fd(), &mut tree, &view.merged(), form, |found| {
                View::open_blocking(&opener, &view, found)
            })?;
            Ok::<_, Error>(tree)
        };
        let tree = Arc::new(self.0.shutdown.spawn_blocking("settle-layer", work).await??);
        building.keep_records(&tree).await?;
        let (onto, below, from) = (building.directory()?, building.below(), staged.directory()?);
        let work = move || unpack::graft(onto.as_fd(), from.as_fd(), &tree, &below.merged(), form);
        self.0.shutdown.spawn_blocking("apply-layer", work).await??;
        drop::<Staged>(staged);
        Ok(Applied { media_type: OCI_LAYER, digest: measured.diff_id, size: measured.size_bytes })
    }
}

/// Why a layer is not packed to its end.
enum Ended {
    /// Nobody reads on.
    Gone,
    Failed(Error),
}

fn pack(
    packing: Packing,
    mut tar: mpsc::Receiver<Result<Bytes>>,
    sender: &mpsc::Sender<Result<Bytes>>,
    soft: &CancellationToken,
) -> Result<Digest, Ended> {
    let mut is_gone = false;
    let hand_on = |piece| {
        if soft.is_cancelled() {
            return Err(stopping());
        }
        sender.blocking_send(Ok(piece)).map_err(|_| {
            is_gone = true;
            stopping()
        })
    };
    let packed = unpack::pack(packing, std::iter::from_fn(|| tar.blocking_recv()), hand_on);
    packed.map_err(|error| if is_gone { Ended::Gone } else { Ended::Failed(error) })
}

fn stopping() -> Error {
    Error::Unavailable { what: "the server, which stops,", source: None }
}
