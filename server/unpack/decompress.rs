//! A layer without its compression: its tar in pieces, and what they are together.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::checkpoints::{Checkpoints, Recorder};
use super::compression::Compression;
use super::unpacking::Unpacking;
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, Hasher};

/// Handed on at once: a piece costs a turn of two threads.
pub(super) const PIECE_BYTES: usize = 512 << 10;
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
    let measuring = Measuring { hasher: Hasher::new(Algorithm::Sha256), size_bytes: 0, all_zero: true };
    let (worked, compression, measuring) = in_two_threads(layer, measuring, work)?;
    let Measuring { hasher, size_bytes, all_zero } = measuring;
    Ok((worked, Measured { compression, diff_id: hasher.digest(), size_bytes, all_zero }))
}

/// As [`read_layer`], with checkpoints of it where it has places for them, and without its digest.
///
/// # Errors
/// As [`read_layer`].
pub(super) fn read_and_mark_layer<T>(
    layer: impl Read + Send,
    recorder: Recorder,
    work: impl FnOnce(&mut Pieces) -> Result<T>,
) -> Result<(T, Option<Checkpoints>)> {
    let (worked, _, recorder) = in_two_threads(layer, recorder, work)?;
    Ok((worked, recorder.finish()))
}

/// Whoever sees every piece of a tar as it is made.
trait Watch: Send {
    fn see(&mut self, piece: &[u8]);

    fn recorder(&mut self) -> Option<&mut Recorder>;
}

struct Measuring {
    hasher: Hasher,
    size_bytes: u64,
    all_zero: bool,
}

impl Watch for Measuring {
    fn see(&mut self, piece: &[u8]) {
        self.size_bytes += piece.len() as u64;
        self.all_zero = self.all_zero && piece.iter().all(|byte| *byte == 0);
        self.hasher.update(piece);
    }

    fn recorder(&mut self) -> Option<&mut Recorder> {
        None
    }
}

impl Watch for Recorder {
    fn see(&mut self, piece: &[u8]) {
        self.sum(piece);
    }

    fn recorder(&mut self) -> Option<&mut Recorder> {
        Some(self)
    }
}

fn in_two_threads<T, W: Watch>(
    layer: impl Read + Send,
    watch: W,
    work: impl FnOnce(&mut Pieces) -> Result<T>,
) -> Result<(T, Compression, W)> {
    let (full, filled) = sync_channel(PIECES);
    let (give_back, empty) = channel();
    std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || unpack(layer, watch, &full, &empty));
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
            Some((compression, watch)) => Ok((worked, compression, watch)),
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

/// The other thread. `None` when nobody wants the rest.
fn unpack<W: Watch>(
    layer: impl Read,
    mut watch: W,
    full: &SyncSender<Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<Option<(Compression, W)>> {
    let mut unpacking = match Unpacking::open(layer) {
        Ok(unpacking) => unpacking,
        Err(error) => {
            let _ = full.send(Err(error));
            return Ok(None);
        }
    };
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        match unpacking.fill(&mut piece, PIECE_BYTES, watch.recorder()) {
            Ok(()) if piece.is_empty() => return Ok(Some((unpacking.compression, watch))),
            Ok(()) => {
                watch.see(&piece);
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

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

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
