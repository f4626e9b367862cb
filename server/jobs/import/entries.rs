//! The files of an archive, as they come: each is stored where it is met, but for the few that say what the others are.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;

use super::layout::check_layout;
use super::looks::check_first_block;
use super::names::{check_names, target_of};
use super::{Found, Import, Imported, Stored, refuse};
use crate::error::{Conflict, Error, Result};
use crate::limits;
use crate::oci::layout::{DOCKER_FILE, INDEX_FILE, LAYOUT_FILE, blob_at};
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::{Committed, Labels, Put, PutBody, PutStream};
use crate::unpack::{Archive, Compression, Entry, EntryKind};

/// A file up to this many bytes is taken whole and written in one go; a longer one streams to the disk.
const IN_MEMORY: u64 = 1 << 20;
/// The first bytes of a file, which tell its compression.
const PREFIX: usize = 6;

impl Import<'_> {
    pub(super) async fn run<S, E>(mut self, body: S) -> Result<Imported>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut archive = Archive::open(body).await?;
        check_first_block(archive.first_block(), archive.compression())?;
        while let Some(entry) = archive.next().await? {
            self.take(entry).await?;
        }
        archive.finish().await?;
        let found = match (self.is_layout, self.index.take(), self.docker.take()) {
            (true, Some(index), _) => self.read_layout(&index).await?,
            (_, _, Some(docker)) => self.read_docker(&docker).await?,
            (true, None, None) => return Err(refuse("the layout has no index.json")),
            (false, _, None) => {
                return Err(refuse(
                    "this is no archive of images: it has neither oci-layout and index.json nor manifest.json",
                ));
            }
        };
        check_names(&found)?;
        // Names come last: one that is there stands for something that is stored.
        for Found { names, target } in found {
            if names.is_empty() {
                self.done.unnamed.push(target_of(&target));
            }
            for name in names {
                self.name(name, &target).await?;
            }
        }
        Ok(self.done)
    }

    async fn take(&mut self, entry: Entry) -> Result<()> {
        let path = entry.path.clone();
        match (&entry.kind, path.as_str()) {
            (EntryKind::Directory, _) => {}
            (EntryKind::Link(target), _) => {
                self.links.insert(path, target.clone());
            }
            (EntryKind::File, LAYOUT_FILE) => {
                check_layout(&entry.read("oci-layout", limits::LAYOUT_FILE_BYTES).await?)?;
                self.is_layout = true;
            }
            (EntryKind::File, INDEX_FILE) => {
                self.index = Some(entry.read("index.json", limits::MANIFEST_BYTES).await?);
            }
            (EntryKind::File, DOCKER_FILE) => {
                self.docker = Some(entry.read("manifest.json", limits::MANIFEST_BYTES).await?);
            }
            // Of older forms, which say less than the files that they are beside: unless the list names them after all.
            (EntryKind::File, "repositories") => {}
            (EntryKind::File, other)
                if (other.ends_with("/VERSION") || other.ends_with("/json"))
                    && entry.size <= self.shelf_left =>
            {
                self.shelf_left -= entry.size;
                let bytes = entry.read("a file of the archive", limits::ARCHIVE_SHELF_BYTES).await?;
                self.shelf.insert(path, bytes.into());
            }
            (EntryKind::File, other) => {
                let expected = blob_at(other).transpose().map_err(|error| {
                    refuse(format!("the archive has a file below blobs/ that no blob is named by: {error}"))
                })?;
                let stored = self.store_file(entry, expected).await?;
                self.files.insert(path, stored);
            }
        }
        Ok(())
    }

    async fn store_file(&mut self, mut entry: Entry, expected: Option<Digest>) -> Result<Stored> {
        let mut first = Vec::new();
        let mut prefix = Vec::new();
        while prefix.len() < PREFIX
            && let Some(bytes) = entry.next_bytes().await?
        {
            prefix.extend_from_slice(&bytes[..bytes.len().min(PREFIX)]);
            first.push(bytes);
        }
        let compression = Compression::of(&prefix);
        if let Some(digest) = &expected
            && let Some(existing) = self.store.put_existing(&self.caller, digest).await?
        {
            // The bytes are not needed; that they are what they are named is still the archive's promise.
            check_bytes(&mut entry, first, digest).await?;
            return self.count(&existing, compression);
        }
        let committed = match entry.size <= IN_MEMORY {
            true => {
                while let Some(bytes) = entry.next_bytes().await? {
                    first.push(bytes);
                }
                self.put_bytes(first, expected, None).await?
            }
            false => self.put_stream(entry, first, expected).await?,
        };
        self.count(&committed, compression)
    }

    pub(super) async fn put_bytes(
        &self,
        chunks: Vec<Bytes>,
        expected: Option<Digest>,
        media_type: Option<&str>,
    ) -> Result<Committed> {
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let media_type = media_type.map(str::to_owned);
        let body = PutBody { chunks, expected, algorithm, media_type, labels: Labels::new() };
        self.store.put_bytes(&self.caller, body).await
    }

    async fn put_stream(
        &self,
        entry: Entry,
        first: Vec<Bytes>,
        expected: Option<Digest>,
    ) -> Result<Committed> {
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let length = Some(entry.size);
        let put = PutStream { expected, algorithm, media_type: None, labels: Labels::new(), length };
        // The store only hears that the bytes broke off; why they did is known here.
        let mut failed = None;
        let state = (first.into_iter(), entry, &mut failed);
        let bytes = unfold(state, async |(mut first, mut entry, failed)| {
            if let Some(bytes) = first.next() {
                return Some((Ok(bytes), (first, entry, failed)));
            }
            match entry.next_bytes().await {
                Ok(Some(bytes)) => Some((Ok(bytes), (first, entry, failed))),
                Ok(None) => None,
                Err(error) => {
                    *failed = Some(error);
                    Some((Err(()), (first, entry, failed)))
                }
            }
        });
        let committed = self.store.put_stream(&self.caller, put, Box::pin(bytes)).await;
        match failed {
            Some(error) => Err(error),
            None => committed,
        }
    }

    pub(super) fn count(&mut self, committed: &Committed, compression: Compression) -> Result<Stored> {
        let size = committed.content.size;
        let (blobs, bytes) = match committed.put {
            Put::New => (&mut self.done.stored_blobs, &mut self.done.stored_bytes),
            Put::Existed => (&mut self.done.existing_blobs, &mut self.done.existing_bytes),
        };
        *blobs += 1;
        *bytes += size;
        Ok(Stored { digest: committed.content.digest.parse()?, size, compression })
    }
}

/// # Errors
/// `Conflict` (digest mismatch) when the rest of a file, after what was read of it, is not what it is named.
async fn check_bytes(entry: &mut Entry, first: Vec<Bytes>, digest: &Digest) -> Result<()> {
    let mut hasher = Hasher::new(digest.algorithm());
    first.iter().for_each(|bytes| hasher.update(bytes));
    while let Some(bytes) = entry.next_bytes().await? {
        hasher.update(&bytes);
    }
    let actual = hasher.digest();
    if actual == *digest {
        return Ok(());
    }
    let (expected, actual) = (digest.to_string(), actual.to_string());
    Err(Error::Conflict(Conflict::DigestMismatch { expected, actual }))
}
