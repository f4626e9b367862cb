//! Writing past the page cache. A large body would fill it with bytes that nobody has asked for yet, and to fill it costs
//! more than everything else of a store.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::oci::Hasher;

/// What direct writes are multiples of, in memory and in the file: no common device asks for more.
pub(super) const BLOCK: usize = 4 << 10;
/// Bytes in one write.
const BUFFER: usize = 512 << 10;

/// The end of a growing file, which collects bytes until they are worth a write.
#[derive(Debug)]
pub(super) struct DirectTail {
    file: File,
    /// `BUFFER` bytes from `start` on, where memory is aligned to `BLOCK`.
    memory: Vec<u8>,
    start: usize,
    filled: usize,
    /// Where in the file the buffer begins: a multiple of `BLOCK`.
    at: u64,
}

impl DirectTail {
    /// The tail of the file at `path`, which has `length` bytes and is open as `plain`; `None` where its file system
    /// has no direct writes.
    ///
    /// # Errors
    /// Those of `open(2)` and `pread(2)`.
    pub fn open(path: &Path, plain: &File, length: u64) -> io::Result<Option<DirectTail>> {
        let Some(file) = open_directly(path, File::options().write(true))? else { return Ok(None) };
        DirectTail::over(file, plain, length).map(Some)
    }

    fn over(file: File, plain: &File, length: u64) -> io::Result<DirectTail> {
        let memory = vec![0; BUFFER + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        let filled = (length % BLOCK as u64) as usize;
        let mut tail = DirectTail { file, memory, start, filled, at: length - filled as u64 };
        plain.read_exact_at(&mut tail.memory[start..start + filled], tail.at)?;
        Ok(tail)
    }

    /// Up to here the bytes are in the file; those that wait in memory come behind.
    pub fn written(&self) -> u64 {
        self.at
    }

    /// Takes bytes in, and writes when there are enough.
    ///
    /// # Errors
    /// Those of `pwrite(2)`. Then the tail still has every byte that is not written; [`DirectTail::cut`] takes away
    /// those that should not count.
    pub fn push(&mut self, mut bytes: &[u8], plain: &File) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = bytes.len().min(BUFFER - self.filled);
            let from = self.start + self.filled;
            self.memory[from..from + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == BUFFER {
                self.write_blocks(plain)?;
            }
        }
        Ok(())
    }

    /// Writes everything: whole blocks directly, the rest by the page cache. The rest stays here as well, for the block
    /// that it will become a part of.
    ///
    /// # Errors
    /// Those of `pwrite(2)`.
    pub fn flush(&mut self, plain: &File) -> io::Result<()> {
        self.write_blocks(plain)?;
        plain.write_all_at(&self.memory[self.start..self.start + self.filled], self.at)
    }

    /// Forgets bytes past `length`; whether the tail reaches back that far.
    pub fn cut(&mut self, length: u64) -> bool {
        match length.checked_sub(self.at) {
            Some(left) => self.filled = self.filled.min(usize::try_from(left).unwrap_or(BUFFER)),
            None => return false,
        }
        true
    }

    fn write_blocks(&mut self, plain: &File) -> io::Result<()> {
        let whole = self.filled - self.filled % BLOCK;
        let end = self.start + whole;
        let (mut from, mut at) = (self.start, self.at);
        while from < end {
            match self.file.write_at(&self.memory[from..end], at) {
                Ok(written) if written > 0 && written % BLOCK == 0 => {
                    from += written;
                    at += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A device that asks for another alignment, or a write that ended within a block.
                Ok(_) => return self.write_plainly(plain, whole),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return self.write_plainly(plain, whole);
                }
                Err(error) => return Err(error),
            }
        }
        self.advance(whole);
        Ok(())
    }

    fn write_plainly(&mut self, plain: &File, whole: usize) -> io::Result<()> {
        plain.write_all_at(&self.memory[self.start..self.start + whole], self.at)?;
        self.advance(whole);
        Ok(())
    }

    /// What was written is no longer the tail.
    fn advance(&mut self, whole: usize) {
        self.memory.copy_within(self.start + whole..self.start + self.filled, self.start);
        self.filled -= whole;
        self.at += whole as u64;
    }
}

/// Reads what was written directly, past the page cache as well.
#[derive(Debug)]
pub(super) struct DirectReader {
    file: File,
    /// `BUFFER` bytes from `start` on, where memory is aligned to `BLOCK`.
    memory: Vec<u8>,
    start: usize,
}

impl DirectReader {
    /// A reader of the file at `path`; `None` where its file system has no direct reads.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Option<DirectReader>> {
        let Some(file) = open_directly(path, File::options().read(true))? else { return Ok(None) };
        let memory = vec![0; BUFFER + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Ok(Some(DirectReader { file, memory, start }))
    }

    /// Feeds the bytes of `range` into `hasher`: whole blocks directly, the rest by the page cache.
    ///
    /// # Errors
    /// Those of `pread(2)`; `UnexpectedEof` when there are fewer.
    pub fn feed(&mut self, range: Range<u64>, plain: &File, hasher: &mut Hasher) -> io::Result<()> {
        let mut at = range.start;
        while at.is_multiple_of(BLOCK as u64) && range.end - at >= BLOCK as u64 {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(BUFFER);
            let whole = self.start..self.start + left - left % BLOCK;
            let read = match self.file.read_at(&mut self.memory[whole.clone()], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A device that asks for another alignment.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                read => read?,
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&self.memory[whole.start..whole.start + read]);
            at += read as u64;
        }
        feed_plainly(at..range.end, plain, hasher)
    }
}

/// Feeds the bytes of `range` into `hasher`, by the page cache.
///
/// # Errors
/// Those of `pread(2)`; `UnexpectedEof` when there are fewer.
pub(super) fn feed_plainly(range: Range<u64>, plain: &File, hasher: &mut Hasher) -> io::Result<()> {
    let mut at = range.start;
    let mut buffer = vec![0; BUFFER.min(usize::try_from(range.end - at).unwrap_or(BUFFER))];
    while at < range.end {
        let wanted = buffer.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
        plain.read_exact_at(&mut buffer[..wanted], at)?;
        hasher.update(&buffer[..wanted]);
        at += wanted as u64;
    }
    Ok(())
}

/// Opens a file for direct access; `None` where its file system knows none.
fn open_directly(path: &Path, options: &mut std::fs::OpenOptions) -> io::Result<Option<File>> {
    match options.custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
    }

    /// A file with these bytes, and its tail. Where `/tmp` has no direct writes, all but those is tested.
    fn begin(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf, File, DirectTail) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("data");
        std::fs::write(&path, bytes).expect("a file");
        let plain = File::options().read(true).write(true).open(&path).expect("the file");
        let length = bytes.len() as u64;
        let tail = DirectTail::open(&path, &plain, length).expect("opened").unwrap_or_else(|| {
            DirectTail::over(plain.try_clone().expect("a file"), &plain, length).expect("read")
        });
        (directory, path, plain, tail)
    }

    #[test]
    fn bytes_of_any_length_come_out_as_they_went_in() {
        let bytes = noise(2 * BUFFER + 12_345);
        for begun in [0, 1, BLOCK, BLOCK + 7] {
            for step in [777, BLOCK, BUFFER - 1, BUFFER + 1] {
                let (_directory, path, plain, mut tail) = begin(&bytes[..begun]);
                for (n, piece) in bytes[begun..].chunks(step).enumerate() {
                    tail.push(piece, &plain).expect("taken");
                    if n % 5 == 2 {
                        tail.flush(&plain).expect("written");
                    }
                }
                tail.flush(&plain).expect("written");
                assert!(std::fs::read(&path).expect("the file") == bytes, "from {begun} by {step}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_not_written() {
        let bytes = noise(3 * BLOCK);
        let (_directory, path, plain, mut tail) = begin(&[]);
        tail.push(&bytes, &plain).expect("taken");
        assert!(tail.cut(BLOCK as u64 + 5));
        tail.flush(&plain).expect("written");
        assert!(std::fs::read(&path).expect("the file") == bytes[..BLOCK + 5]);
        assert!(!tail.cut(3), "those bytes are no longer here");
    }
}
