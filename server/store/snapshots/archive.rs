//! A snapshot's files as one tar, written as it is read.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Store, View};
use crate::disk::{BlobFile, Disk};
use crate::error::{Doing, Error, Result, with_causes};
use crate::oci::tar::{self, Entry};
use crate::oci::tree::{Dir, Found, Id, Kind, Listed, Merged, Meta, Mtime};

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
    ) -> Result<mpsc::Receiver<Result<Bytes>>> {
        let view = self.view_snapshot(namespace, key).await?;
        let (disk, key) = (self.0.disk.clone(), key.to_owned());
        Ok(self.write_tar("archive-snapshot", move |sender| {
            let written = Archive::new(&view, &disk, sender).write_all(&view.merged());
            if let Err(Ended::Failed(error)) = &written {
                let why = with_causes(error);
                tracing::error!(snapshot.key = %key, "An archive of a snapshot broke off: {why}");
            }
            written
        }))
    }

    /// Writes a tar on a thread of its own. What goes wrong is the last that comes.
    pub(super) fn write_tar(
        &self,
        name: &'static str,
        write: impl FnOnce(Chunks) -> Result<(), Ended> + Send + 'static,
    ) -> mpsc::Receiver<Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let work = move || {
            if let Err(Ended::Failed(error)) = write(sender.clone()) {
                // Whoever has gone does not want to know.
                let _ = sender.blocking_send(Err(error));
            }
        };
        let shutdown = self.0.shutdown.clone();
        let writing = async move { shutdown.spawn_blocking(name, work).await };
        self.0.shutdown.spawn(name, writing);
        receiver
    }
}

/// Where the bytes of a tar go.
pub(super) type Chunks = mpsc::Sender<Result<Bytes>>;

/// Why a tar is not written to its end.
pub(super) enum Ended {
    /// Nobody reads on.
    Gone,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

/// A tar of files of a view.
pub(super) struct Archive<'v> {
    view: &'v View,
    disk: &'v Disk,
    sender: Chunks,
    /// What is written and not handed on.
    text: Vec<u8>,
    /// The first name of each file of several, by layer and id.
    names: HashMap<(usize, Id), Vec<u8>>,
    /// No file is younger than this, in seconds since the Unix epoch.
    latest: i64,
}

impl<'v> Archive<'v> {
    pub fn new(view: &'v View, disk: &'v Disk, sender: Chunks) -> Archive<'v> {
        Archive { view, disk, sender, text: Vec::new(), names: HashMap::new(), latest: i64::MAX }
    }

    pub fn no_later_than(self, latest: i64) -> Archive<'v> {
        Archive { latest, ..self }
    }

    fn write_all(mut self, merged: &Merged<'_>) -> Result<(), Ended> {
        let root = merged.root();
        self.write_header(b"./", Entry::Directory, &root.inode.meta)?;
        if let Some(dir) = &root.dir {
            self.write_directory(merged, dir, b"./")?;
        }
        self.finish()
    }

    /// Ends the tar.
    pub fn finish(mut self) -> Result<(), Ended> {
        self.text.extend(tar::END);
        self.hand_on()
    }

    /// An entry that has no bytes.
    pub fn write_header(&mut self, path: &[u8], entry: Entry<'_>, meta: &Meta) -> Result<(), Ended> {
        let header = match meta.mtime.seconds >= self.latest {
            false => tar::full_header(path, entry, meta),
            true => {
                let mtime = Mtime { seconds: self.latest, nanos: 0 };
                tar::full_header(path, entry, &Meta { mtime, ..meta.clone() })
            }
        };
        self.text.extend(header);
        self.hand_on_if_much()
    }

    fn write_directory(&mut self, merged: &Merged<'_>, dir: &Dir, path: &[u8]) -> Result<(), Ended> {
        for (name, listed) in merged.list(dir) {
            let Listed::There(found) = listed else { continue };
            let path = [path, name].concat();
            match &found.dir {
                Some(below) => {
                    let path = [&path[..], b"/"].concat();
                    self.write_header(&path, Entry::Directory, &found.inode.meta)?;
                    self.write_directory(merged, below, &path)?;
                }
                None => self.write_file(&found, path)?,
            }
        }
        Ok(())
    }

    /// What is no directory, with its bytes if it has any.
    pub fn write_file(&mut self, found: &Found<'_>, path: Vec<u8>) -> Result<(), Ended> {
        let meta = &found.inode.meta;
        if found.inode.links > 1 {
            if let Some(first) = self.names.get(&(found.layer, found.id)) {
                let first = first.clone();
                return self.write_header(&path, Entry::Link(&first), meta);
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
                self.write_header(&path, entry, meta)?;
                let whole = [(0, content.size)];
                return self.write_content(&file, content.parts.as_deref().unwrap_or(&whole));
            }
            Kind::Symlink(target) => Entry::Symlink(target),
            Kind::Fifo => Entry::Fifo,
            Kind::Device(device) => Entry::Device(*device),
            Kind::Directory(_) | Kind::Whiteout | Kind::LowerLink(_) => return Ok(()),
        };
        self.write_header(&path, entry, meta)
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
