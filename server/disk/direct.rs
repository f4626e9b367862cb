//! Writing past the page cache. A large body would fill it with bytes that nobody has asked for yet, and to fill it costs
//! more than everything else of a store.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// What direct writes are multiples of, in memory and in the file: no common device asks for more.
const BLOCK: usize = 4 << 10;
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
        let opened = File::options().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            opened => opened?,
        };
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
