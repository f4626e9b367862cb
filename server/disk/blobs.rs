//! `blobs/<algorithm>/<hex>`: read-only files, each named by its digest.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{Disk, cached_read, is_absent};
use crate::error::{Doing, Result};
use crate::id::{hex, random_bytes};
use crate::oci::{Algorithm, Digest, Hasher};

/// An open blob. Its bytes stay readable for as long as this lives, whatever happens to the name.
#[derive(Debug)]
pub struct BlobFile {
    file: File,
    size: u64,
}

impl BlobFile {
    /// Any file, open to be read.
    ///
    /// # Errors
    /// `Internal` when its size cannot be told.
    pub fn of(file: File) -> Result<BlobFile> {
        let size = file.metadata().doing("look at a file")?.len();
        Ok(BlobFile { file, size })
    }

    /// Its bytes, from the first on.
    pub fn into_reader(self) -> impl io::Read {
        self.file
    }

    /// Bytes in the file, as it was when opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads up to `limit` bytes at `offset` if the page cache has them.
    ///
    /// `None` when that would wait for the disk; fewer bytes than asked for when only those are cached.
    ///
    /// # Errors
    /// Those of `preadv2(2)`; `UnexpectedEof` when the file is shorter than it was.
    pub fn read_cached(&self, offset: u64, limit: usize) -> io::Result<Option<Vec<u8>>> {
        match cached_read::read_cached(&self.file, offset, limit) {
            Ok(bytes) if bytes.is_empty() && limit > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => Ok(Some(bytes)),
            // Nothing cached; or a file system that cannot say, where waiting is the only way.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported) => {
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads up to `limit` bytes at `offset`; blocks.
    ///
    /// # Errors
    /// As [`BlobFile::read_into`].
    pub fn read_at(&self, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; limit];
        let read = self.read_into(offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Reads as many bytes at `offset` as come at once; how many. Blocks.
    ///
    /// # Errors
    /// Those of `pread(2)`; `UnexpectedEof` when the file is shorter than it was.
    pub fn read_into(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.file.read_at(bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        match read == 0 && !bytes.is_empty() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(read),
        }
    }
}

impl BlobFile {
    /// The bytes, if they are a JSON object: only such can be a manifest.
    ///
    /// # Errors
    /// `Internal` when they cannot be read.
    pub fn read_document(&self) -> Result<Option<Vec<u8>>> {
        read_document(&self.file, self.size)
    }

    /// Reads it from the beginning; one at a time, for they share the place where they are.
    pub(super) fn reader(&self) -> impl io::Read {
        &self.file
    }
}

pub(super) fn read_document(file: &File, length: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let head = bytes.len().min(64);
    file.read_exact_at(&mut bytes[..head], 0).doing("look into a blob")?;
    if bytes[..head].iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, 0).doing("read a blob again")?;
    Ok(Some(bytes))
}

impl BlobFile {
    /// The digest that the bytes have: every one of them is read.
    ///
    /// # Errors
    /// `Internal` when they cannot be read.
    pub fn digest(&self, algorithm: Algorithm) -> Result<Digest> {
        const PIECE: usize = 1 << 20;
        let mut hasher = Hasher::new(algorithm);
        let mut at = 0;
        while at < self.size {
            let bytes = self.read_at(at, PIECE).doing("read a blob")?;
            hasher.update(&bytes);
            at += bytes.len() as u64;
        }
        Ok(hasher.digest())
    }
}

impl Disk {
    /// Opens a blob; `None` when there is no such file.
    ///
    /// # Errors
    /// `Internal` when the file is there and cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<BlobFile>> {
        let file = match File::open(self.blob_path(digest)) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error).doing(format!("open blob {digest}")),
        };
        let size = file.metadata().doing(format!("size blob {digest}"))?.len();
        Ok(Some(BlobFile { file, size }))
    }

    /// Removes a blob's file. That it is gone already is not an error.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`; the file is still there then.
    pub fn remove_blob(&self, digest: &Digest) -> Result<()> {
        self.remove_layer_tree(digest);
        match fs::remove_file(self.blob_path(digest)) {
            Err(error) if !is_absent(&error) => Err(error).doing(format!("remove blob {digest}")),
            _ => Ok(()),
        }
    }

    /// The digests and sizes of all blob files of one algorithm, in order, and the names that are no digests.
    ///
    /// # Errors
    /// `Internal` when the directory cannot be read.
    pub fn walk_blobs(&self, algorithm: Algorithm) -> Result<(Vec<Digest>, Vec<PathBuf>)> {
        let dir = self.root.join("blobs").join(algorithm.as_str());
        let (mut digests, mut strays) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&dir).doing("walk the blobs")? {
            let entry = entry.doing("walk the blobs")?;
            let parsed = entry
                .file_name()
                .to_str()
                .and_then(|hex| format!("{}:{hex}", algorithm.as_str()).parse::<Digest>().ok());
            match parsed {
                Some(digest) => digests.push(digest),
                None => strays.push(entry.path()),
            }
        }
        digests.sort_unstable();
        Ok((digests, strays))
    }

    /// Moves a file that does not belong where it is to `quarantine/`, where a person can look at it.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`.
    pub fn quarantine(&self, path: &std::path::Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = self.root.join("quarantine").join(format!("{name}.{}", hex(&random_bytes::<4>())));
        fs::rename(path, &to).doing(format!("move {} to quarantine", path.display()))
    }

    /// As [`Disk::quarantine`], of the file of a blob.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`.
    pub fn quarantine_blob(&self, digest: &Digest) -> Result<()> {
        self.quarantine(&self.blob_path(digest))
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }
}
