//! A tar, as it comes: plain, or packed with gzip or zstd.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tokio_tar::EntryType;
use tokio_util::io::StreamReader;

use super::compression::{Compression, Reader, decoded, read_prefix};
use super::path;
use super::watch::{Incoming, Outgoing, Watch, invalid};
use crate::error::{Error, Result};
use crate::limits;
use crate::oci::digest::excerpt;
use crate::oci::tar::BLOCK;

/// Bytes that a file is handed on in.
const CHUNK: usize = 256 << 10;

/// An archive that is being read.
pub struct Archive {
    archive: tokio_tar::Archive<Outgoing>,
    entries: tokio_tar::Entries<Outgoing>,
    watch: Arc<Watch>,
    compression: Compression,
    /// What it begins with, without its compression: less than a block where there is no more.
    first_block: Vec<u8>,
    /// Files and links that were there, by their plain paths.
    known: HashSet<String>,
    count: usize,
}

/// One entry: its bytes are read before the next is asked for, or not at all.
pub struct Entry {
    /// In its plain form; empty for the root.
    pub path: String,
    pub kind: EntryKind,
    /// As the archive says, in bytes.
    pub size: u64,
    entry: tokio_tar::Entry<tokio_tar::Archive<Outgoing>>,
    left: u64,
    watch: Arc<Watch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
    /// A further name for what the archive has at this path, if it has something there.
    Link(String),
}

impl Archive {
    /// # Errors
    /// `ValidationFailed` for a compression that is not read; `Invalid` when the body breaks off.
    pub async fn open<S, E>(body: S) -> Result<Archive>
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Send + Unpin + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let watch = Watch::new();
        let body = StreamReader::new(body.map(|frame| frame.map_err(io::Error::other)));
        let mut incoming: Reader = Box::new(Incoming { reader: Box::new(body), watch: watch.clone() });
        let prefix = read_prefix(&mut incoming).await.map_err(|error| watch.explain(&error))?;
        let compression = Compression::of(&prefix);
        let Some(mut reader) = decoded(prefix, incoming, compression) else {
            let name = match compression {
                Compression::Foreign(name) => name,
                Compression::None | Compression::Gzip | Compression::Zstd => "something else",
            };
            return Err(invalid(format!(
                "the archive is packed with {name}: send it plain, or as gzip or zstd"
            )));
        };
        let mut first_block = Vec::new();
        let reading = (&mut reader).take(BLOCK).read_to_end(&mut first_block).await;
        reading.map_err(|error| watch.explain(&error))?;
        let reader = Box::new(io::Cursor::new(first_block.clone()).chain(reader));
        let mut archive = tokio_tar::Archive::new(Outgoing { reader, watch: watch.clone() });
        let entries = archive.entries().map_err(|error| watch.explain(&error))?;
        Ok(Archive { archive, entries, watch, compression, first_block, known: HashSet::new(), count: 0 })
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }

    pub fn first_block(&self) -> &[u8] {
        &self.first_block
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// `ValidationFailed` for an archive that is damaged, has something in it that is no plain file, directory or link,
    /// has two entries of one path, or leads out of itself; `TooLarge` for headers without an end; `Invalid` when the
    /// body breaks off.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        let Some(next) = self.entries.next().await else {
            // An archive ends with zeros. One that only stops, if between two files, was cut there.
            return if self.watch.has_ended() { Err(cut_short()) } else { Ok(None) };
        };
        let mut entry = next.map_err(|error| self.watch.explain(&error))?;
        self.count += 1;
        if self.count > limits::ARCHIVE_ENTRIES {
            return Err(invalid(format!("the archive has more than {} entries", limits::ARCHIVE_ENTRIES)));
        }
        let path = entry.path_bytes().map_err(|error| self.watch.explain(&error))?;
        let path = path::plain(&path)?;
        let kind = self.kind_of(&mut entry, &path).await?;
        if kind != EntryKind::Directory {
            if path.is_empty() {
                return Err(invalid("the archive has a file without a name".to_owned()));
            }
            if !self.known.insert(path.clone()) {
                return Err(invalid(format!("the archive has `{}` twice", excerpt(&path))));
            }
        }
        let size = match kind {
            EntryKind::File => entry.effective_size(),
            EntryKind::Directory | EntryKind::Link(_) => 0,
        };
        self.watch.allow(entry.raw_file_position().saturating_add(entry.effective_size()));
        Ok(Some(Entry { path, kind, size, entry, left: size, watch: self.watch.clone() }))
    }

    async fn kind_of(
        &self,
        entry: &mut tokio_tar::Entry<tokio_tar::Archive<Outgoing>>,
        path: &str,
    ) -> Result<EntryKind> {
        let kind = entry.header().entry_type();
        // What it holds is not what follows its header: zeros that nobody sent could be read from it without an end.
        let sparse = match entry.pax_extensions().await.map_err(|error| self.watch.explain(&error))? {
            Some(mut records) => records
                .any(|record| record.is_ok_and(|record| record.key_bytes().starts_with(b"GNU.sparse."))),
            None => false,
        };
        let target = |entry: &tokio_tar::Entry<tokio_tar::Archive<Outgoing>>| match entry.link_name_bytes() {
            Ok(Some(target)) => Ok(target.into_owned()),
            Ok(None) => Err(invalid("the archive has a link that leads nowhere".to_owned())),
            Err(error) => Err(self.watch.explain(&error)),
        };
        match kind {
            EntryType::Regular | EntryType::Continuous if !sparse => Ok(EntryKind::File),
            EntryType::Directory => Ok(EntryKind::Directory),
            EntryType::Symlink => Ok(EntryKind::Link(path::follow(path, &target(entry)?)?)),
            EntryType::Link => Ok(EntryKind::Link(path::plain(&target(entry)?)?)),
            _ => {
                let shown = excerpt(path);
                Err(invalid(format!("`{shown}` in the archive is no plain file, directory or link")))
            }
        }
    }

    /// Reads what stands behind the end of the archive, which is padding, so that a packed one is checked to its end.
    ///
    /// The end is two blocks of zeros, by all tools that are known, of which the first has been read: where the second
    /// is something else, the first was a hole, and files come after it.
    ///
    /// # Errors
    /// As [`Archive::next`].
    pub async fn finish(self) -> Result<()> {
        drop(self.entries);
        let Ok(mut rest) = self.archive.into_inner() else {
            return Err(Error::internal("an entry outlived its archive"));
        };
        let mut scratch = vec![0; CHUNK];
        let mut second = Vec::with_capacity(BLOCK as usize);
        let reading = (&mut rest).take(BLOCK).read_to_end(&mut second).await;
        reading.map_err(|error| self.watch.explain(&error))?;
        if second.iter().any(|byte| *byte != 0) {
            return Err(invalid("the archive goes on after its end".to_owned()));
        }
        while rest.read(&mut scratch).await.map_err(|error| self.watch.explain(&error))? > 0 {}
        Ok(())
    }
}

impl Entry {
    /// Its next bytes, as they come; `None` at its end.
    ///
    /// # Errors
    /// As [`Archive::next`]; also `ValidationFailed` when the archive ends before it does.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let room = CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK));
        let mut bytes = BytesMut::with_capacity(room);
        let read = self.entry.read_buf(&mut bytes).await.map_err(|error| self.watch.explain(&error))?;
        if read == 0 {
            return Err(cut_short());
        }
        self.left = self.left.saturating_sub(read as u64);
        Ok(Some(bytes.freeze()))
    }

    /// All of its bytes.
    ///
    /// # Errors
    /// `TooLarge` when there are more than `limit`; as [`Entry::next_bytes`].
    pub async fn read(mut self, what: &'static str, limit: u64) -> Result<Vec<u8>> {
        if self.size > limit {
            return Err(Error::TooLarge { what, limit });
        }
        let mut bytes = Vec::new();
        while let Some(piece) = self.next_bytes().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

fn cut_short() -> Error {
    invalid("the archive is cut short".to_owned())
}

#[cfg(test)]
mod tests;
