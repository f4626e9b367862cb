//! Files of layers and of images that nobody has unpacked: each layer is read through once, to know what is in it; then a
//! file is where its tree says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::{Error, Result, Unprocessable, with_causes};
use crate::jobs::Jobs;
use crate::jobs::reader::BlobReader;
use crate::limits;
use crate::oci::manifest::Role;
use crate::oci::tree::{Content, Found, Kind, Merged, Tree};
use crate::oci::{Algorithm, Digest, Platform, media_type};
use crate::store::{Blob, Child, FileLayer, Files, OpenFile};
use crate::unpack::{self, Index, Part};

/// Chunks of a file that wait for a slow reader, and the bytes of one.
const CHUNKS: usize = 4;
const CHUNK: usize = 256 << 10;

/// Layers on each other, as their blobs have them.
pub struct LayerView {
    layers: Vec<ViewedLayer>,
    /// One layer by itself, which shows what it deletes, and no image.
    alone: bool,
}

struct ViewedLayer {
    digest: Digest,
    tree: Arc<Tree>,
}

/// What looking into layers comes to.
pub enum Looked {
    Ready(LayerView),
    /// They are being read for the first time: ask again soon.
    Reading,
}

impl LayerView {
    pub fn files(&self) -> Files<'_> {
        let merged = match self.layers.as_slice() {
            [layer] if self.alone => Merged::alone(&layer.tree),
            layers => Merged::new(layers.iter().map(|layer| &*layer.tree).collect()),
        };
        let layer_of = |layer: &ViewedLayer| FileLayer {
            snapshot: None,
            digest: Some(layer.digest.to_string()),
            diff_id: None,
        };
        Files { merged, layers: self.layers.iter().map(layer_of).collect() }
    }
}

/// A file of a layer, to be read from any place.
pub struct LayerFile {
    jobs: Jobs,
    blob: Arc<Blob>,
    checkpoints: Option<OpenFile>,
    content: Content,
    /// Names its bytes.
    pub tag: String,
}

impl Jobs {
    /// What is in one layer.
    ///
    /// # Errors
    /// `NotFound`; `Unprocessable` (not an archive); `TooLarge` for a bomb.
    pub async fn look_into_layer(&self, namespace: &str, digest: &Digest) -> Result<Looked> {
        let layers = self.look_into(namespace, vec![digest.clone()]).await?;
        Ok(layers.map_or(Looked::Reading, |layers| Looked::Ready(LayerView { layers, alone: true })))
    }

    /// What an image has on a platform, its layers on each other.
    ///
    /// # Errors
    /// As the store's `find_manifest`; `Conflict` (incomplete) when a layer is not here; as [`Jobs::look_into_layer`].
    pub async fn look_into_image(
        &self,
        namespace: &str,
        id: &str,
        platform: Option<&Platform>,
    ) -> Result<Looked> {
        let found = self.0.store.find_manifest(namespace, id, platform).await?;
        let is_layer = |layer: &&Child| media_type::Kind::of(&layer.media_type) == media_type::Kind::Layer;
        let layers: Vec<&Child> = found.layers.iter().filter(is_layer).collect();
        debug_assert!(layers.iter().all(|layer| layer.role == Role::Layer.as_str()));
        let missing: Vec<String> =
            layers.iter().filter(|layer| !layer.present).map(|layer| layer.digest.clone()).collect();
        if !missing.is_empty() {
            let count = missing.len();
            return Err(Error::Conflict(crate::error::Conflict::Incomplete { count, missing }));
        }
        // The top one first.
        let digests = layers.iter().rev().map(|layer| layer.digest.parse()).collect::<Result<Vec<_>>>()?;
        let layers = self.look_into(namespace, digests).await?;
        Ok(layers.map_or(Looked::Reading, |layers| Looked::Ready(LayerView { layers, alone: false })))
    }

    /// `None` while one of them is read for the first time.
    async fn look_into(&self, namespace: &str, digests: Vec<Digest>) -> Result<Option<Vec<ViewedLayer>>> {
        let reading = digests.iter().map(|digest| self.read_layer(namespace, digest));
        let mut layers = Vec::new();
        for (digest, read) in digests.iter().zip(futures_util::future::join_all(reading).await) {
            match read? {
                Some(tree) => layers.push(ViewedLayer { digest: digest.clone(), tree }),
                None => return Ok(None),
            }
        }
        Ok(Some(layers))
    }

    /// The tree of a layer; `None` while it takes longer than somebody waits.
    async fn read_layer(&self, namespace: &str, digest: &Digest) -> Result<Option<Arc<Tree>>> {
        // Also where it is known: a tree is nobody's who has not the layer.
        let blob = self.0.store.open_blob(namespace, digest).await?;
        if let Some(tree) = self.0.store.find_layer_tree(digest).await? {
            return Ok(Some(tree));
        }
        let (jobs, digest) = (self.clone(), digest.clone());
        let reading = self.to_the_end("read-layer", async move { jobs.read_layer_now(blob, &digest).await });
        match tokio::time::timeout(limits::LAYER_WAIT, reading).await {
            Ok(read) => read.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn read_layer_now(&self, blob: Arc<Blob>, digest: &Digest) -> Result<Arc<Tree>> {
        let _turn = self.0.chains.enter(format!("read {digest}")).await;
        if let Some(tree) = self.0.store.find_layer_tree(digest).await? {
            return Ok(tree);
        }
        let _place = self.0.unpacks.acquire().await.expect("nobody closes it");
        let reader = BlobReader::new(blob, self.0.shutdown.soft().clone(), |_| ());
        let read = self.0.shutdown.spawn_blocking("read-layer", move || unpack::read_tree(reader)).await?;
        let (tree, checkpoints) = read.map_err(|error| match error {
            Error::Unprocessable(Unprocessable::ValidationFailed { reason }) => {
                Error::Unprocessable(Unprocessable::NotAnArchive { digest: digest.to_string(), reason })
            }
            other => other,
        })?;
        // The tree comes last: with it nobody reads all of the layer again.
        if let Some(checkpoints) = checkpoints {
            self.0.store.keep_layer_checkpoints(digest, checkpoints.into_parts(digest)).await;
        }
        Ok(self.0.store.keep_layer_tree(digest, tree).await)
    }

    /// Opens a file that layers show.
    ///
    /// # Errors
    /// `NotFound` when its layer has gone meanwhile; `Internal` for what is no file.
    pub async fn open_layer_file(
        &self,
        namespace: &str,
        view: &LayerView,
        found: &Found<'_>,
    ) -> Result<LayerFile> {
        let layer =
            view.layers.get(found.layer).ok_or_else(|| Error::internal("find the layer of a file"))?;
        let Kind::File(content) = &found.inode.kind else {
            return Err(Error::internal("open what is no file of a layer"));
        };
        let blob = self.0.store.open_blob(namespace, &layer.digest).await?;
        let checkpoints = self.0.store.open_layer_checkpoints(&layer.digest).await?;
        let name = format!("{} {} {}", layer.digest, content.offset, content.size);
        let tag = Digest::of(Algorithm::Sha256, name.as_bytes()).hex()[..32].to_owned();
        Ok(LayerFile { jobs: self.clone(), blob, checkpoints, content: content.clone(), tag })
    }
}

impl LayerFile {
    pub fn size(&self) -> u64 {
        self.content.size
    }

    /// Its bytes from `start` to `end`, as they come out of the layer.
    pub fn read(self: &Arc<LayerFile>, start: u64, end: u64) -> mpsc::Receiver<std::io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (file, shutdown) = (self.clone(), self.jobs.0.shutdown.clone());
        let work = move || {
            let send = |bytes: Bytes| sender.blocking_send(Ok(bytes)).map_err(|_| Ended::Gone);
            match file.read_spans(start, end, send) {
                Ok(()) | Err(Ended::Gone) => {}
                Err(Ended::Failed(error)) => {
                    let digest = &file.blob.digest;
                    tracing::error!(blob.digest = %digest, "Reading a file of a layer failed: {}", with_causes(&error));
                    let broken = std::io::Error::other("the layer cannot be read");
                    let _ = sender.blocking_send(Err(broken));
                }
            }
        };
        let spawning = shutdown.clone();
        let working = async move { spawning.spawn_blocking("read-layer-file", work).await };
        shutdown.spawn("read-layer-file", working);
        receiver
    }

    fn read_spans(
        &self,
        start: u64,
        end: u64,
        send: impl Fn(Bytes) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        let index = self.index();
        let soft = self.jobs.0.shutdown.soft();
        let open = |offset| BlobReader::from(offset, self.blob.clone(), soft.clone());
        let mut part = None;
        for span in spans_of(&self.content, start, end) {
            match span {
                Span::Hole(length) => zeros(length, &send)?,
                Span::Bytes { offset, length } => {
                    if part.is_none() {
                        part = Some(Part::open(open, index.as_ref(), offset).map_err(Ended::Failed)?);
                    }
                    copy(part.as_mut().expect("it was opened above"), offset, length, &send)?;
                }
            }
        }
        Ok(())
    }

    fn index(&self) -> Option<Index<'_>> {
        let file = self.checkpoints.as_ref()?;
        let digest = &self.blob.digest;
        let index = Index::read(digest, file.size(), |offset, length| file.read_at(offset, length));
        if index.is_none() {
            tracing::warn!(blob.digest = %digest, "The checkpoints of a layer are damaged: a file is read from its start");
        }
        index
    }
}

enum Ended {
    /// Nobody reads on.
    Gone,
    Failed(Error),
}

/// What a file is made of.
enum Span {
    Hole(u64),
    /// A place in the layer's tar.
    Bytes {
        offset: u64,
        length: u64,
    },
}

/// The spans of a file from `start` to `end`, in order.
fn spans_of(content: &Content, start: u64, end: u64) -> Vec<Span> {
    let whole = [(0, content.size)];
    let parts = content.parts.as_deref().unwrap_or(&whole);
    let mut spans = Vec::new();
    let (mut stored, mut at) = (content.offset, start);
    for (offset, length) in parts {
        let (from, to) = ((*offset).max(at), (offset + length).min(end));
        if from < to {
            spans.push(Span::Hole(from - at));
            spans.push(Span::Bytes { offset: stored + (from - offset), length: to - from });
            at = to;
        }
        stored += length;
    }
    spans.push(Span::Hole(end.saturating_sub(at)));
    spans
}

fn copy(
    part: &mut Part<'_>,
    offset: u64,
    length: u64,
    send: &impl Fn(Bytes) -> Result<(), Ended>,
) -> Result<(), Ended> {
    part.skip_to(offset).map_err(Ended::Failed)?;
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let bytes = part.next_bytes(most).map_err(Ended::Failed)?;
        left -= bytes.len() as u64;
        send(Bytes::copy_from_slice(bytes))?;
    }
    Ok(())
}

/// A hole.
fn zeros(mut length: u64, send: &impl Fn(Bytes) -> Result<(), Ended>) -> Result<(), Ended> {
    const ZEROS: &[u8; CHUNK] = &[0; CHUNK];
    while length > 0 {
        let some = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
        send(Bytes::from_static(&ZEROS[..some]))?;
        length -= some as u64;
    }
    Ok(())
}

/// How soon to ask again for what is being read.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);
