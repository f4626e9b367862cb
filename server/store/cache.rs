//! Open blobs that were read lately: a ranged read of a hot blob asks neither the database nor the file system.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderMap;
use quick_cache::Equivalent;
use quick_cache::sync::Cache;

use super::Store;
use crate::db;
use crate::disk::BlobFile;
use crate::error::{Doing, Error, Result};
use crate::oci::Digest;

/// Open files that are kept: well below the descriptors a process may have.
const OPEN_BLOBS: usize = 512;

/// Blobs up to this many bytes keep them while they are open: manifests and configs, which are asked for more often than
/// all else.
const KEPT_BYTES: u64 = 8 << 10;

/// A blob that is open for reading; it stays readable whatever happens to its name.
#[derive(Debug)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: Option<String>,
    pub file: BlobFile,
    /// What stands above its bytes wherever they are sent, for the sender to write down once.
    pub head: OnceLock<HeaderMap>,
    kept: OnceLock<Bytes>,
}

impl Blob {
    /// All bytes of a small blob, if they are in memory or can be read without waiting.
    pub fn at_hand(&self) -> Option<&Bytes> {
        if self.size > KEPT_BYTES {
            return None;
        }
        if let Some(bytes) = self.kept.get() {
            return Some(bytes);
        }
        let size = usize::try_from(self.size).ok()?;
        let bytes = self.file.read_cached(0, size).ok()??;
        (bytes.len() == size).then(|| self.kept.get_or_init(|| bytes.into()))
    }
}

/// What a blob is remembered by, borrowed; hashed as the pair that owns it.
#[derive(Hash)]
struct Key<'k>(&'k str, &'k Digest);

impl Equivalent<(String, Digest)> for Key<'_> {
    fn equivalent(&self, (namespace, digest): &(String, Digest)) -> bool {
        self.0 == namespace && self.1 == digest
    }
}

pub(super) struct Blobs(Cache<(String, Digest), Arc<Blob>>);

impl Blobs {
    pub fn new() -> Blobs {
        Blobs(Cache::new(OPEN_BLOBS))
    }

    pub fn forget(&self, namespace: &str, digest: &Digest) {
        self.0.remove(&Key(namespace, digest));
    }

    /// Forgets a digest in every namespace: its bytes changed, or are no longer trusted.
    pub fn forget_everywhere(&self, digest: &Digest) {
        self.0.retain(|(_, cached), _| cached != digest);
    }
}

impl Store {
    /// Opens a blob that the namespace records.
    ///
    /// # Errors
    /// `NotFound` when the namespace has no such record; `Corrupt` when the bytes are gone or too few;
    /// `Unavailable` when the database does not answer.
    pub async fn open_blob(&self, namespace: &str, digest: &Digest) -> Result<Arc<Blob>> {
        match self.find_open_blob(namespace, digest) {
            Some(blob) => Ok(blob),
            None => Box::pin(self.open_unopened(namespace, digest)).await,
        }
    }

    /// The blob, if it is open from an earlier read.
    pub fn find_open_blob(&self, namespace: &str, digest: &Digest) -> Option<Arc<Blob>> {
        self.0.cache.0.get(&Key(namespace, digest))
    }

    async fn open_unopened(&self, namespace: &str, digest: &Digest) -> Result<Arc<Blob>> {
        // Within the gate, so that what a deletion has just forgotten is not remembered again.
        let _turn = self.0.gate.enter(digest).await;
        let (record, state) = {
            let mut conn = self.0.db.read().await?;
            let record = db::content::find_record(&mut conn, namespace, digest.as_str())
                .await?
                .ok_or_else(|| Error::not_found("content", digest))?;
            (record, db::content::find_blob(&mut conn, digest.as_str()).await?)
        };
        let damaged = |reason: &str| Error::Corrupt { digest: digest.to_string(), reason: reason.to_owned() };
        if !matches!(&state, Some((_, state)) if state == "stored") {
            return Err(damaged("its bytes are missing or damaged"));
        }
        let wanted = digest.clone();
        let Some(file) = self.on_disk(move |disk| disk.open_blob(&wanted)).await? else {
            return Err(damaged("its file is missing"));
        };
        if file.size() != record.size.unsigned_abs() {
            return Err(damaged("its file has another size than its record"));
        }
        let blob = Arc::new(Blob {
            digest: digest.clone(),
            size: file.size(),
            media_type: record.media_type,
            file,
            head: OnceLock::new(),
            kept: OnceLock::new(),
        });
        self.0.cache.0.insert((namespace.to_owned(), digest.clone()), blob.clone());
        Ok(blob)
    }

    /// The whole of a small blob.
    ///
    /// # Errors
    /// As [`Store::open_blob`]; `TooLarge` when it is longer than `limit` bytes.
    pub async fn read_blob(&self, namespace: &str, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let blob = self.open_blob(namespace, digest).await?;
        if blob.size > limit {
            return Err(Error::TooLarge { what: "the document", limit });
        }
        self.on_disk(move |_| {
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < blob.size {
                let rest = usize::try_from(blob.size).unwrap_or(usize::MAX) - bytes.len();
                bytes.extend(blob.file.read_at(bytes.len() as u64, rest).doing("read a blob")?);
            }
            Ok(bytes)
        })
        .await
    }
}
