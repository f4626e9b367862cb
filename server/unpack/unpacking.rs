//! A layer on its way to being its tar, from its start or from a place in it, and what it may grow to.

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::checkpoints::{Place, Recorder};
use super::compression::{Compression, PREFIX};
use super::gzip::Members;
use super::watch::invalid;
use crate::error::{Error, Result};
use crate::limits;

/// Read at once from a layer.
const READ_BYTES: usize = 256 << 10;

/// A layer that becomes its tar.
pub(super) struct Unpacking<'l> {
    decoder: Decoder<'l>,
    source: Arc<Source>,
    pub compression: Compression,
    /// What came of it, from where it was opened on.
    size_bytes: u64,
}

type Packed<'l> = BufReader<Box<dyn Read + 'l>>;

enum Decoder<'l> {
    Plain(Packed<'l>),
    Gzip(Members<Packed<'l>>),
    Zstd(zstd::stream::read::Decoder<'static, Packed<'l>>),
}

impl<'l> Unpacking<'l> {
    /// From the start.
    pub fn open(layer: impl Read + 'l) -> Result<Unpacking<'l>> {
        let source = Arc::new(Source::default());
        let mut layer = Counted { inner: layer, source: source.clone() };
        let mut prefix = Vec::with_capacity(PREFIX);
        let read = (&mut layer).take(PREFIX as u64).read_to_end(&mut prefix);
        read.map_err(|error| source.explain(&error))?;
        let compression = Compression::of(&prefix);
        compression.layer_type()?;
        let packed = buffered(io::Cursor::new(prefix).chain(layer));
        let decoder = match compression {
            Compression::None => Ok(Decoder::Plain(packed)),
            Compression::Gzip => Members::new(packed).map(Decoder::Gzip),
            Compression::Zstd => zstd_decoder(packed).map(Decoder::Zstd),
            Compression::Foreign(_) => {
                return Err(Error::internal("a compression that layers may have is not read"));
            }
        };
        let decoder = decoder.map_err(|error| source.explain(&error))?;
        Ok(Unpacking { decoder, source, compression, size_bytes: 0 })
    }

    /// From a place in a tar that is not compressed.
    pub fn plain(layer: impl Read + 'l) -> Unpacking<'l> {
        let source = Arc::new(Source::default());
        let decoder = Decoder::Plain(buffered(Counted { inner: layer, source: source.clone() }));
        Unpacking { decoder, source, compression: Compression::None, size_bytes: 0 }
    }

    /// From a place in gzip, where `layer` begins.
    pub fn resume(layer: impl Read + 'l, place: &Place, window: &[u8]) -> Result<Unpacking<'l>> {
        let source = Arc::new(Source::default());
        let packed = buffered(Counted { inner: layer, source: source.clone() });
        let members = Members::resume(packed, place, window).map_err(|error| source.explain(&error))?;
        Ok(Unpacking {
            decoder: Decoder::Gzip(members),
            source,
            compression: Compression::Gzip,
            size_bytes: 0,
        })
    }

    /// Fills a piece of so many bytes; a shorter one is the last, and an empty one the end.
    pub fn fill(
        &mut self,
        piece: &mut Vec<u8>,
        length: usize,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<()> {
        piece.resize(length, 0);
        let mut filled = 0;
        while filled < length {
            let room = &mut piece[filled..];
            let read = match &mut self.decoder {
                Decoder::Plain(packed) => packed.read(room),
                Decoder::Gzip(members) => members.read(room, recorder.as_deref_mut()),
                Decoder::Zstd(decoder) => decoder.read(room),
            };
            match read {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.source.explain(&error)),
            }
            check_growth(self.source.read_bytes.load(Ordering::Relaxed), self.size_bytes + filled as u64)?;
        }
        piece.truncate(filled);
        self.size_bytes += filled as u64;
        Ok(())
    }
}

fn buffered<'l>(layer: impl Read + 'l) -> Packed<'l> {
    BufReader::with_capacity(READ_BYTES, Box::new(layer))
}

fn zstd_decoder(packed: Packed<'_>) -> io::Result<zstd::stream::read::Decoder<'static, Packed<'_>>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(limits::ARCHIVE_WINDOW.ilog2())?;
    Ok(decoder)
}

/// What is known of the reader behind a decoder.
#[derive(Default)]
struct Source {
    /// What went into the decoder.
    read_bytes: AtomicU64,
    /// Its own failure, which is not one of the layer.
    failure: Mutex<Option<io::Error>>,
}

impl Source {
    fn failure(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explain(&self, _of_the_decoder: &io::Error) -> Error {
        match self.failure().take() {
            Some(own) => Error::Internal { doing: "read a layer".into(), source: Some(own.into()) },
            None => invalid("a layer is compressed, and its bytes are damaged or cut short".to_owned()),
        }
    }
}

/// Counts what is read, and keeps a failure apart from the decoder's.
struct Counted<R> {
    inner: R,
    source: Arc<Source>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(read) => {
                self.source.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                *self.source.failure() = Some(error);
                Err(io::Error::other("the layer cannot be read"))
            }
        }
    }
}

fn check_growth(compressed: u64, unpacked: u64) -> Result<()> {
    let limit = limits::UNPACKED_BYTES;
    if unpacked > limit {
        return Err(Error::TooLarge { what: "a layer without its compression", limit });
    }
    let grown = unpacked.saturating_sub(limits::UNPACK_RATIO_AFTER);
    if grown > compressed.saturating_mul(limits::UNPACK_RATIO) {
        let limit = limits::UNPACK_RATIO_AFTER + compressed.saturating_mul(limits::UNPACK_RATIO);
        return Err(Error::TooLarge { what: "a layer, for the bytes that it is made of,", limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_stopped_before_it_has_grown() {
        let refused =
            |compressed, unpacked| matches!(check_growth(compressed, unpacked), Err(Error::TooLarge { .. }));
        let free = limits::UNPACK_RATIO_AFTER;
        assert!(!refused(1, free) && !refused(1, free + limits::UNPACK_RATIO));
        assert!(refused(1, free + limits::UNPACK_RATIO + 1));
        assert!(!refused(limits::UNPACKED_BYTES, limits::UNPACKED_BYTES));
        assert!(refused(limits::UNPACKED_BYTES, limits::UNPACKED_BYTES + 1));
    }
}
