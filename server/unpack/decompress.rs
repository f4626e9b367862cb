//! A layer without its compression: its tar in pieces, and what they are together.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::GzDecoder;

use super::compression::{Compression, PREFIX};
use super::watch::invalid;
use crate::error::{Error, Result};
use crate::limits;
use crate::oci::{Algorithm, Digest, Hasher};

/// Read at once from a layer.
const READ_BYTES: usize = 256 << 10;
/// Handed on at once: a piece costs a turn of two threads.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces between the two threads: enough that neither waits for the other's every file.
const PIECES: usize = 4;

/// What a layer is without its compression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// By its first bytes: what its media type says is not always so.
    pub compression: Compression,
    /// The digest of the tar, what stands behind its end included.
    pub diff_id: Digest,
    pub size_bytes: u64,
    /// Whether there is nothing but zeros in it, as in an archive without entries.
    pub all_zero: bool,
}

/// Reads a layer to its end. Blocks.
///
/// # Errors
/// As [`read_layer`].
pub fn measure(layer: impl Read + Send) -> Result<Measured> {
    read_layer(layer, |_| Ok(())).map(|((), measured)| measured)
}

/// Hands a layer's tar to `work` in pieces, while another thread unpacks and hashes what comes next. What `work` leaves is
/// read as well: a layer is what it is to its last byte. Blocks.
///
/// # Errors
/// `ValidationFailed` for bytes that are compressed and damaged, or in a way that is not read; `TooLarge` past
/// [`limits::UNPACKED_BYTES`], and for what grows by more than [`limits::UNPACK_RATIO`]; `Internal` with the reader's own
/// error; those of `work`.
pub fn read_layer<T>(
    layer: impl Read + Send,
    work: impl FnOnce(&mut Pieces) -> Result<T>,
) -> Result<(T, Measured)> {
    let (full, filled) = sync_channel(PIECES);
    let (give_back, empty) = channel();
    std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || unpack(layer, &full, &empty));
        let mut pieces = Pieces { filled, give_back };
        let worked = work(&mut pieces).and_then(|worked| {
            while pieces.next(Vec::new())?.is_some() {}
            Ok(worked)
        });
        // Without a receiver the other thread ends.
        drop(pieces);
        let unpacked = unpacking.join().map_err(|_| Error::internal("unpack a layer"))?;
        let worked = worked?;
        match unpacked? {
            Some(measured) => Ok((worked, measured)),
            None => Err(Error::internal("unpack a layer to its end")),
        }
    })
}

/// The pieces of a tar, in order.
pub struct Pieces {
    filled: Receiver<Result<Vec<u8>>>,
    give_back: Sender<Vec<u8>>,
}

impl Pieces {
    /// The next piece for one that is done with; `None` at the end.
    ///
    /// # Errors
    /// As [`read_layer`].
    pub fn next(&mut self, done: Vec<u8>) -> Result<Option<Vec<u8>>> {
        if done.capacity() >= PIECE_BYTES {
            // Nobody fills it again at the end.
            let _ = self.give_back.send(done);
        }
        self.filled.recv().ok().transpose()
    }
}

/// A place in a tar that only moves on.
pub struct Cursor<'p> {
    pieces: &'p mut Pieces,
    piece: Vec<u8>,
    at: usize,
    /// Where in the tar `piece[at]` is.
    offset: u64,
}

impl<'p> Cursor<'p> {
    pub fn new(pieces: &'p mut Pieces) -> Cursor<'p> {
        Cursor { pieces, piece: Vec::new(), at: 0, offset: 0 }
    }

    /// Passes over what comes before this place.
    ///
    /// # Errors
    /// `ValidationFailed` when the tar ends before it; as the pieces' own.
    pub fn skip_to(&mut self, offset: u64) -> Result<()> {
        while self.offset < offset {
            let left = usize::try_from(offset - self.offset).unwrap_or(usize::MAX);
            self.next_bytes(left)?;
        }
        Ok(())
    }

    /// The next bytes, so many at most.
    ///
    /// # Errors
    /// As [`Cursor::skip_to`].
    pub fn next_bytes(&mut self, most: usize) -> Result<&[u8]> {
        if self.at == self.piece.len() {
            let done = std::mem::take(&mut self.piece);
            let next = self.pieces.next(done)?;
            self.piece = next.ok_or_else(|| invalid("the layer's tar is cut short".to_owned()))?;
            self.at = 0;
        }
        let from = self.at;
        let taken = most.min(self.piece.len() - from);
        self.at += taken;
        self.offset += taken as u64;
        Ok(&self.piece[from..from + taken])
    }
}

/// The other thread. `None` when nobody wants the rest.
fn unpack(
    layer: impl Read,
    full: &SyncSender<Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<Option<Measured>> {
    let mut unpacking = match Unpacking::open(layer) {
        Ok(unpacking) => unpacking,
        Err(error) => {
            let _ = full.send(Err(error));
            return Ok(None);
        }
    };
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        match unpacking.fill(&mut piece) {
            Ok(()) if piece.is_empty() => return Ok(Some(unpacking.measured())),
            Ok(()) => {
                if full.send(Ok(piece)).is_err() {
                    return Ok(None);
                }
            }
            Err(error) => {
                let _ = full.send(Err(error));
                return Ok(None);
            }
        }
    }
}

struct Unpacking<'l> {
    tar: Box<dyn Read + 'l>,
    source: Arc<Source>,
    compression: Compression,
    hasher: Hasher,
    size_bytes: u64,
    all_zero: bool,
}

impl<'l> Unpacking<'l> {
    fn open(layer: impl Read + 'l) -> Result<Unpacking<'l>> {
        let source = Arc::new(Source::default());
        let mut layer = Counted { inner: layer, source: source.clone() };
        let mut prefix = Vec::with_capacity(PREFIX);
        let read = (&mut layer).take(PREFIX as u64).read_to_end(&mut prefix);
        read.map_err(|error| source.explain(&error))?;
        let compression = Compression::of(&prefix);
        compression.layer_type()?;
        let packed = BufReader::with_capacity(READ_BYTES, io::Cursor::new(prefix).chain(layer));
        let tar: Box<dyn Read + 'l> = match compression {
            Compression::None => Box::new(packed),
            Compression::Gzip => Box::new(Members { decoder: Some(GzDecoder::new(packed)) }),
            Compression::Zstd => {
                let opened = zstd::stream::read::Decoder::with_buffer(packed);
                let mut decoder = opened.map_err(|error| source.explain(&error))?;
                let window = decoder.window_log_max(limits::ARCHIVE_WINDOW.ilog2());
                window.map_err(|error| source.explain(&error))?;
                Box::new(decoder)
            }
            Compression::Foreign(_) => {
                return Err(Error::internal("a compression that layers may have is not read"));
            }
        };
        let hasher = Hasher::new(Algorithm::Sha256);
        Ok(Unpacking { tar, source, compression, hasher, size_bytes: 0, all_zero: true })
    }

    /// Fills a piece; an empty one is the end.
    fn fill(&mut self, piece: &mut Vec<u8>) -> Result<()> {
        piece.resize(PIECE_BYTES, 0);
        let mut filled = 0;
        while filled < PIECE_BYTES {
            match self.tar.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.source.explain(&error)),
            }
            check_growth(self.source.read_bytes.load(Ordering::Relaxed), self.size_bytes + filled as u64)?;
        }
        piece.truncate(filled);
        self.size_bytes += filled as u64;
        self.all_zero = self.all_zero && piece.iter().all(|byte| *byte == 0);
        self.hasher.update(piece);
        Ok(())
    }

    fn measured(self) -> Measured {
        Measured {
            compression: self.compression,
            diff_id: self.hasher.digest(),
            size_bytes: self.size_bytes,
            all_zero: self.all_zero,
        }
    }
}

/// Gzip as layers have it: members one after the other (RFC 1952, section 2.2), and zeros behind the last, where a tape
/// ended.
struct Members<R> {
    /// `None` only while one decoder becomes the next.
    decoder: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(0) };
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut packed) = self.decoder.take().map(GzDecoder::into_inner) else { return Ok(0) };
            match packed.fill_buf()?.first() {
                None => return Ok(0),
                Some(0) => return skip_zeros(&mut packed).map(|()| 0),
                Some(_) => self.decoder = Some(GzDecoder::new(packed)),
            }
        }
    }
}

fn skip_zeros(packed: &mut impl BufRead) -> io::Result<()> {
    loop {
        let rest = packed.fill_buf()?;
        if rest.is_empty() {
            return Ok(());
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(io::Error::other("something stands behind the end"));
        }
        let length = rest.len();
        packed.consume(length);
    }
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
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("memory takes all bytes");
        encoder.finish().expect("memory takes all bytes")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 3).expect("memory takes all bytes")
    }

    /// A frame that holds nothing of the tar (RFC 8878, section 3.1.2).
    fn skippable(bytes: &[u8]) -> Vec<u8> {
        [&[0x5a, 0x2a, 0x4d, 0x18], &(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
    }

    fn of(layer: &[u8]) -> Result<Measured> {
        measure(io::Cursor::new(layer.to_vec()))
    }

    fn digest(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    #[test]
    fn a_layer_is_measured_by_its_bytes_and_not_by_its_name() {
        let tar = b"a tar of sorts".repeat(50_000);
        for (layer, compression) in [
            (tar.clone(), Compression::None),
            (gzip(&tar), Compression::Gzip),
            (zstd(&tar), Compression::Zstd),
            // Members one after the other are one file (RFC 1952, section 2.2).
            ([gzip(&tar[..9]), gzip(&tar[9..])].concat(), Compression::Gzip),
            // A tape is written in blocks.
            ([gzip(&tar), vec![0; 700_000]].concat(), Compression::Gzip),
            (
                [zstd(&tar[..9]), skippable(b"a table of contents"), zstd(&tar[9..])].concat(),
                Compression::Zstd,
            ),
            ([skippable(b""), zstd(&tar)].concat(), Compression::Zstd),
        ] {
            let measured = of(&layer).expect("a whole layer");
            assert_eq!((measured.compression, measured.size_bytes), (compression, tar.len() as u64));
            assert_eq!((measured.diff_id, measured.all_zero), (digest(&tar), false));
        }
        assert_eq!(of(b"").expect("nothing").diff_id, digest(b""));
        assert!(of(&gzip(&[0; 1024])).expect("an archive without entries").all_zero);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let whole = gzip(&b"cargo".repeat(1_000));
        let mut wrong_sum = whole.clone();
        let last = wrong_sum.len() - 6;
        wrong_sum[last] ^= 1;
        let packed = zstd(&b"cargo".repeat(1_000));
        let cut = |bytes: &[u8], by: usize| bytes[..bytes.len() - by].to_vec();
        for damaged in [
            cut(&whole, whole.len() / 2),
            cut(&whole, 1),
            wrong_sum,
            [&whole[..], b"garbage"].concat(),
            [&whole[..], &[0; 600], b"\x1f"].concat(),
            [&packed[..], b"garbage"].concat(),
            cut(&packed, packed.len() / 2),
            b"\x28\xb5\x2f\xfdgarbage".to_vec(),
            b"\xfd7zXZ\0and more".to_vec(),
        ] {
            let refused = of(&damaged).expect_err("not whole");
            assert!(matches!(refused, Error::Unprocessable(_)), "{refused}");
        }
    }

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

    #[test]
    fn what_is_not_asked_for_is_measured_as_well() {
        let tar = b"a tar of sorts".repeat(200_000);
        let whole = read_layer(io::Cursor::new(gzip(&tar)), |pieces| {
            let first = pieces.next(Vec::new())?.unwrap_or_default();
            Ok(first == tar[..PIECE_BYTES])
        });
        let (is_first, measured) = whole.expect("a whole layer");
        assert!(is_first);
        assert_eq!((measured.size_bytes, measured.diff_id), (tar.len() as u64, digest(&tar)));
        let refused =
            read_layer(io::Cursor::new(gzip(&tar)), |_| -> Result<()> { Err(Error::internal("no")) });
        assert!(refused.is_err(), "what the work says is what is said");
    }

    #[test]
    fn an_error_of_the_disk_is_not_one_of_the_layer() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        assert!(matches!(measure(Broken), Err(Error::Internal { .. })));
    }
}
