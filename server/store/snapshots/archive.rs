//! A snapshot's files as one tar, written as it is read.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Store, View};
use crate::disk::{BlobFile, Disk};
use crate::error::{Doing, Error, Result, with_causes};
use crate::oci::tar::{self, Entry};
use crate::oci::tree::{Dir, Found, Id, Kind, Listed, Merged};

/// Read at once, and handed on at once.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for a slow reader.
const CHUNKS: usize = 4;

impl Store {
    /// All files of a snapshot, its root first: what `tar x` makes a root file system of.
    ///
    /// # Errors
    /// As [`Store::view_snapshot`]. What goes wrong later breaks the stream off.
    pub async fn archive_snapshot(
        &self,
        namespace: &str,
        key: &str,
    ) -> Result<mpsc::Receiver<io::Result<Bytes>>> {
        let view = self.view_snapshot(namespace, key).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (disk, key) = (self.0.disk.clone(), key.to_owned());
        let write = move || {
            let mut archive =
                Archive { view: &view, disk: &disk, sender, text: Vec::new(), names: HashMap::new() };
            let merged = view.merged();
            let written = archive.write_all(&merged);
            match written {
                Ok(()) | Err(Ended::Gone) => {}
                Err(Ended::Failed(error)) => {
                    let why = with_causes(&error);
                    tracing::error!(snapshot.key = %key, "An archive of a snapshot broke off: {why}");
                    let _ = archive.sender.blocking_send(Err(io::Error::other("the archive broke off")));
                }
            }
        };
        let shutdown = self.0.shutdown.clone();
        let writing = async move { shutdown.spawn_blocking("archive-snapshot", write).await };
        self.0.shutdown.spawn("archive-snapshot", writing);
        Ok(receiver)
    }
}

enum Ended {
    /// Nobody reads on.
    Gone,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

struct Archive<'v> {
    view: &'v View,
    disk: &'v Disk,
    sender: mpsc::Sender<io::Result<Bytes>>,
    /// What is written and not handed on.
    text: Vec<u8>,
    /// The first name of each file of several, by layer and id.
    names: HashMap<(usize, Id), Vec<u8>>,
}

impl Archive<'_> {
    fn write_all(&mut self, merged: &Merged<'_>) -> Result<(), Ended> {
        let root = merged.root();
        self.text.extend(tar::full_header(b"./", Entry::Directory, &root.inode.meta));
        if let Some(dir) = &root.dir {
            self.write_directory(merged, dir, b"./")?;
        }
        self.text.extend(tar::END);
        self.hand_on()
    }

    fn write_directory(&mut self, merged: &Merged<'_>, dir: &Dir, path: &[u8]) -> Result<(), Ended> {
        for (name, listed) in merged.list(dir) {
            let Listed::There(found) = listed else { continue };
            let path = [path, name].concat();
            match &found.dir {
                Some(below) => {
                    let path = [&path[..], b"/"].concat();
                    self.text.extend(tar::full_header(&path, Entry::Directory, &found.inode.meta));
                    self.write_directory(merged, below, &path)?;
                }
                None => self.write_file(&found, path)?,
            }
        }
        Ok(())
    }

    fn write_file(&mut self, found: &Found<'_>, path: Vec<u8>) -> Result<(), Ended> {
        let meta = &found.inode.meta;
        if found.inode.links > 1 {
            if let Some(first) = self.names.get(&(found.layer, found.id)) {
                self.text.extend(tar::full_header(&path, Entry::Link(first), meta));
                return self.hand_on_if_much();
            }
            self.names.insert((found.layer, found.id), path.clone());
        }
        let entry = match &found.inode.kind {
            Kind::File(content) => {
                let layer = self.view.layers.get(found.layer);
                let layer = layer.ok_or_else(|| Error::internal("find the layer of a file"))?;
                let file = self.disk.open_snapshot_file(&layer.id, &found.path_in(&layer.tree))?;
                let entry = match &content.parts {
                    Some(parts) => Entry::Sparse { size: content.size, parts },
                    None => Entry::File { size: content.size },
                };
                self.text.extend(tar::full_header(&path, entry, meta));
                let whole = [(0, content.size)];
                return self.write_content(&file, content.parts.as_deref().unwrap_or(&whole));
            }
            Kind::Symlink(target) => Entry::Symlink(target),
            Kind::Fifo => Entry::Fifo,
            Kind::Device(device) => Entry::Device(*device),
            Kind::Directory(_) | Kind::Whiteout | Kind::LowerLink(_) => return Ok(()),
        };
        self.text.extend(tar::full_header(&path, entry, meta));
        self.hand_on_if_much()
    }

    fn write_content(&mut self, file: &BlobFile, parts: &[(u64, u64)]) -> Result<(), Ended> {
        let mut written = 0;
        for (start, length) in parts {
            let (mut at, end) = (*start, start + length);
            while at < end {
                self.hand_on_if_much()?;
                let room = CHUNK - self.text.len();
                let wanted = room.min(usize::try_from(end - at).unwrap_or(room));
                let bytes = file.read_at(at, wanted).doing("read a file of a snapshot")?;
                self.text.extend_from_slice(&bytes);
                at += bytes.len() as u64;
            }
            written += length;
        }
        self.text.resize(self.text.len() + tar::padding(written), 0);
        self.hand_on_if_much()
    }

    fn hand_on_if_much(&mut self) -> Result<(), Ended> {
        if self.text.len() < CHUNK { Ok(()) } else { self.hand_on() }
    }

    fn hand_on(&mut self) -> Result<(), Ended> {
        let chunk = std::mem::replace(&mut self.text, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(Bytes::from(chunk))).map_err(|_| Ended::Gone)
    }
}
