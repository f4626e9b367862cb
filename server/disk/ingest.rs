//! `ingests/<id>/data`: bytes on their way in; and the rename that turns them into a blob.

use std::fs::{self, File};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::ahead::Ahead;
use super::blobs::read_document;
use super::direct::DirectTail;
use super::strays::remove_entry;
use super::{BlobFile, Disk, is_absent, sync_dir};
use crate::error::{Doing, Error, Result};
use crate::oci::{Digest, Hasher};

/// A file longer than this is large: what comes then is written past the page cache. Where the file system cannot do
/// that, it is how far the kernel may fall behind before it is told to write.
const LARGE: u64 = 16 << 20;
/// The size of a read when bytes are hashed again.
const READ_BUFFER: usize = 1 << 20;

/// The growing file of an ingest.
#[derive(Debug)]
pub struct IngestFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Of the contiguous bytes, from the beginning on.
    pub(super) length: u64,
    handed_over: u64,
    pub(super) tail: Tail,
    /// What is beyond them, where something is.
    pub(super) ahead: Option<Ahead>,
    /// Was empty, so perhaps never synced: its name may not be durable yet.
    fresh: bool,
}

/// How the next bytes are written.
#[derive(Debug)]
pub(super) enum Tail {
    /// By the page cache, while the file is small.
    Short,
    Direct(DirectTail),
    /// By the page cache, for its file system knows no other way.
    Plain,
}

/// A whole file, synced, that waits for its name.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    size: u64,
}

impl Staged {
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl IngestFile {
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends all of `chunks`.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`. What was written of them is cut off again, so that the file
    /// holds exactly what was acknowledged before.
    pub fn append(&mut self, chunks: &[Bytes]) -> Result<()> {
        if matches!(self.tail, Tail::Short) && self.length >= LARGE {
            let tail = DirectTail::open(&self.path, &self.file, self.length).doing("open an ingest")?;
            self.tail = tail.map_or(Tail::Plain, Tail::Direct);
        }
        let added: usize = chunks.iter().map(Bytes::len).sum();
        let written = match &mut self.tail {
            Tail::Direct(tail) => chunks.iter().try_for_each(|chunk| tail.push(chunk, &self.file)),
            Tail::Short | Tail::Plain => write_all(&mut self.file, chunks),
        };
        if let Err(error) = written {
            self.undo();
            return Err(error).doing("write to an ingest");
        }
        self.length += added as u64;
        let in_file = self.written();
        if let Some(ahead) = &mut self.ahead {
            ahead.forget_before(self.length);
            ahead.note_front(in_file).doing("write to an ingest")?;
        }
        if matches!(self.tail, Tail::Plain) && self.length - self.handed_over >= LARGE {
            self.start_write_back();
        }
        Ok(())
    }

    /// Takes away what a failed append has written. Best effort: a longer file is cut to its trusted length when the
    /// ingest is opened again.
    fn undo(&mut self) {
        if let Tail::Direct(tail) = &mut self.tail
            && !tail.cut(self.length)
        {
            self.tail = Tail::Short;
        }
        // Never made longer: bytes that still wait in memory would become zeros for whoever comes after a crash. And not
        // made shorter under what is ahead, where the journal says what counts.
        if self.ahead.is_none() && self.file.metadata().is_ok_and(|found| found.len() > self.length) {
            let _ = self.file.set_len(self.length);
        }
        let _ = self.file.seek(SeekFrom::Start(self.length));
    }

    /// How far the contiguous bytes are in the file.
    pub(super) fn written(&self) -> u64 {
        match &self.tail {
            Tail::Direct(tail) => tail.written(),
            Tail::Short | Tail::Plain => self.length,
        }
    }

    /// Writes what of the contiguous bytes waits in memory.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.tail {
            Tail::Direct(tail) => tail.flush(&self.file),
            Tail::Short | Tail::Plain => Ok(()),
        }
    }

    /// Asks the kernel to begin writing what is dirty, without waiting for it.
    fn start_write_back(&mut self) {
        let length = std::num::NonZeroU64::new(self.length - self.handed_over);
        // A hint: if it is refused, the last sync takes longer, and nothing else changes.
        let _ = rustix::fs::fadvise(&self.file, self.handed_over, length, rustix::fs::Advice::DontNeed);
        self.handed_over = self.length;
    }

    /// Makes every byte so far durable.
    ///
    /// # Errors
    /// As of `fsync(2)`. After a failure the kernel may have dropped the bytes: the ingest must not be committed.
    pub fn sync(&mut self) -> Result<()> {
        self.flush().doing("write to an ingest")?;
        self.flush_ahead().doing("write to an ingest")?;
        self.file.sync_data().doing("sync an ingest")?;
        self.tidy_journal();
        if self.fresh {
            sync_ingest_dir(self.path.parent().unwrap_or(&self.path))?;
            self.fresh = false;
        }
        Ok(())
    }

    /// Cuts the file to `length` bytes.
    ///
    /// # Errors
    /// `Internal` when there are fewer: a file that was made longer would hold bytes that nobody sent.
    pub fn truncate(&mut self, length: u64) -> Result<()> {
        if length > self.length {
            return Err(Error::internal("an ingest is shorter than its offset"));
        }
        self.flush().doing("truncate an ingest")?;
        self.tail = Tail::Short;
        self.file.set_len(length).doing("truncate an ingest")?;
        self.file.seek(SeekFrom::Start(length)).doing("truncate an ingest")?;
        self.length = length;
        self.handed_over = self.handed_over.min(length);
        self.fresh |= length == 0;
        self.end_journal().doing("truncate an ingest")
    }

    /// Feeds the bytes from `from` on into `hasher`.
    ///
    /// # Errors
    /// `Internal` when they cannot be read.
    pub fn hash_from(&self, from: u64, hasher: &mut Hasher) -> Result<()> {
        let mut buffer = vec![0; READ_BUFFER];
        let mut at = from;
        while at < self.length {
            let wanted = buffer.len().min(usize::try_from(self.length - at).unwrap_or(usize::MAX));
            let read = self.file.read_at(&mut buffer[..wanted], at).doing("read an ingest again")?;
            if read == 0 {
                return Err(Error::internal("an ingest is shorter than its record says"));
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
        Ok(())
    }

    /// Fills an empty ingest with the bytes of a stored blob: a private copy that may then grow.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub fn copy_from(&mut self, blob: &BlobFile, hasher: &mut Hasher) -> Result<()> {
        let mut at = 0;
        while at < blob.size() {
            let limit = READ_BUFFER.min(usize::try_from(blob.size() - at).unwrap_or(usize::MAX));
            let bytes = Bytes::from(blob.read_at(at, limit).doing("read a shared blob")?);
            hasher.update(&bytes);
            at += bytes.len() as u64;
            self.append(&[bytes])?;
        }
        Ok(())
    }

    /// As [`BlobFile::read_document`].
    ///
    /// # Errors
    /// `Internal` when they cannot be read.
    pub fn read_document(&self) -> Result<Option<Vec<u8>>> {
        read_document(&self.file, self.length)
    }

    /// Ends writing: the bytes are durable and wait for their name. The file stays one that can be written, for the
    /// commit may yet be refused.
    ///
    /// # Errors
    /// As [`IngestFile::sync`].
    pub fn stage(&mut self) -> Result<Staged> {
        self.flush().doing("write to an ingest")?;
        self.end_journal().doing("write to an ingest")?;
        self.file.sync_all().doing("sync an ingest")?;
        Ok(Staged { path: self.path.clone(), size: self.length })
    }
}

impl Drop for IngestFile {
    /// What was taken in is in the file also where nobody has synced it: a later opening counts on its length.
    fn drop(&mut self) {
        let flushed = self.flush();
        if let (Ok(()), Some(ahead)) = (flushed, &mut self.ahead) {
            let _ = ahead.note_front(self.length);
        }
        let _ = self.flush_ahead();
    }
}

impl Disk {
    /// The file of an ingest, made if it is not there. What it holds is for the caller to judge. Where the last writer
    /// wrote beyond the end, its journal says how long the contiguous bytes are.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub fn open_ingest(&self, id: &str) -> Result<IngestFile> {
        let path = self.make_ingest_dir(id)?.join("data");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .doing("open the file of an ingest")?;
        let longest = file.seek(SeekFrom::End(0)).doing("size the file of an ingest")?;
        let found = Ahead::open(&path, longest).doing("read the journal of an ingest")?;
        let (length, ahead) = found.map_or((longest, None), |(length, ahead)| (length, Some(ahead)));
        file.seek(SeekFrom::Start(length)).doing("size the file of an ingest")?;
        let fresh = length == 0;
        Ok(IngestFile { file, path, length, handed_over: length, tail: Tail::Short, ahead, fresh })
    }

    /// Stages a small blob in one go: written, synced, waiting for its name.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`; nothing is left behind.
    pub fn stage_bytes(&self, id: &str, chunks: &[Bytes]) -> Result<Staged> {
        let path = self.root.join("ingests").join(id);
        let write = || -> io::Result<u64> {
            let mut file = File::create_new(&path)?;
            write_all(&mut file, chunks)?;
            file.sync_all()?;
            Ok(chunks.iter().map(|chunk| chunk.len() as u64).sum())
        };
        match write() {
            Ok(size) => Ok(Staged { path, size }),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error).doing("write a blob")
            }
        }
    }

    /// Gives staged bytes their name, under which nobody writes. Any file that has it already is replaced: same digest,
    /// same bytes, and a damaged copy is healed. The name is durable once [`super::Flush::sync_names`] has returned.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`; the staged bytes are still there then, under one name or the other.
    pub fn name_staged(&self, staged: &Staged, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        fs::rename(&staged.path, &path).doing(format!("move {digest} into place"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).doing("make a blob read-only")
    }

    /// Removes what an ingest left on disk. That there is nothing is not an error.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`.
    pub fn remove_ingest(&self, id: &str) -> Result<()> {
        remove_entry(&self.ingest_dir(id)).doing("remove the directory of an ingest")
    }

    /// Cuts the file of an ingest to `length` bytes, where it has one.
    ///
    /// # Errors
    /// As [`IngestFile::truncate`].
    pub fn cut_ingest(&self, id: &str, length: u64) -> Result<()> {
        match self.ingest_has_data(id) {
            true => self.open_ingest(id)?.truncate(length),
            false => Ok(()),
        }
    }

    /// Whether an ingest's file is there.
    pub fn ingest_has_data(&self, id: &str) -> bool {
        self.ingest_dir(id).join("data").exists()
    }

    /// Undoes a rename whose record was never written: the blob's bytes are an ingest's again. Whether there was
    /// such a blob, of that size.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`.
    pub fn give_back(&self, digest: &Digest, size: u64, id: &str) -> Result<bool> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(found) if found.len() == size => {}
            Ok(_) => return Ok(false),
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(error).doing("look for the bytes of an ingest"),
        }
        let dir = self.make_ingest_dir(id)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .doing("give an ingest its bytes back")?;
        fs::rename(&path, dir.join("data")).doing("give an ingest its bytes back")?;
        sync_ingest_dir(&dir)?;
        Ok(true)
    }

    /// Gives an ingest a copy of a blob's bytes: all of them, or, if that fails, none.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub fn give_copy(&self, blob: &BlobFile, id: &str) -> Result<()> {
        let dir = self.make_ingest_dir(id)?;
        let growing = dir.join("copy");
        let copy = || -> io::Result<()> {
            let mut file = File::create(&growing)?;
            io::copy(&mut blob.reader(), &mut file)?;
            file.sync_all()?;
            fs::rename(&growing, dir.join("data"))
        };
        copy().doing("give an ingest a copy of its bytes").inspect_err(|_| {
            let _ = fs::remove_file(&growing);
        })?;
        sync_ingest_dir(&dir)
    }

    fn make_ingest_dir(&self, id: &str) -> Result<PathBuf> {
        let dir = self.ingest_dir(id);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).doing("make the directory of an ingest")
            }
            _ => Ok(dir),
        }
    }

    pub(super) fn ingest_dir(&self, id: &str) -> PathBuf {
        self.root.join("ingests").join(id)
    }
}

/// Makes the names of an ingest durable: that of its file, and its own.
fn sync_ingest_dir(dir: &Path) -> Result<()> {
    sync_dir(dir)?;
    sync_dir(dir.parent().unwrap_or(dir))
}

/// Writes every chunk with as few calls as the kernel allows.
fn write_all(file: &mut File, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
