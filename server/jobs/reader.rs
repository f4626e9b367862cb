//! A stored blob as whoever unpacks it reads it: from its beginning or a place in it, until it is to stop.

use std::io::{self, Read};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::store::Blob;

/// How often somebody hears of how far it is, in bytes.
const TELL_EVERY: u64 = 1 << 20;

pub(super) struct BlobReader {
    blob: Arc<Blob>,
    offset: u64,
    told: u64,
    stop: CancellationToken,
    tell: Box<dyn Fn(u64) + Send>,
}

impl BlobReader {
    pub fn new(blob: Arc<Blob>, stop: CancellationToken, tell: impl Fn(u64) + Send + 'static) -> BlobReader {
        BlobReader { blob, offset: 0, told: 0, stop, tell: Box::new(tell) }
    }

    /// From a place on, without a word to anybody.
    pub fn from(offset: u64, blob: Arc<Blob>, stop: CancellationToken) -> BlobReader {
        BlobReader { offset, told: offset, ..BlobReader::new(blob, stop, |_| ()) }
    }
}

impl Read for BlobReader {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the job stops"));
        }
        if self.offset >= self.told + TELL_EVERY || self.offset == self.blob.size {
            (self.tell)(self.offset);
            self.told = self.offset;
        }
        if self.offset >= self.blob.size {
            return Ok(0);
        }
        // A file that has become shorter is the disk's fault, not the layer's.
        let read = self.blob.file.read_into(self.offset, chunk).map_err(io::Error::other)?;
        self.offset += read as u64;
        Ok(read)
    }
}
