//! A layer without its compression: how its bytes are told apart, and what they are together.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result, Unprocessable};
use crate::limits;
use crate::oci::{Algorithm, Digest, Hasher};

/// Read at once: larger than a page, small beside what a worker has in hand.
const CHUNK_BYTES: usize = 128 * 1024;

/// How a layer is compressed, by its first bytes: what its media type says is not always so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
}

/// What a layer is without its compression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    pub compression: Compression,
    /// The digest of the tar.
    pub diff_id: Digest,
    pub size_bytes: u64,
    /// Whether there is nothing but zeros in it, as in an archive without entries.
    pub all_zero: bool,
}

/// Reads a layer to its end. Blocks.
///
/// # Errors
/// `ValidationFailed` for bytes that are compressed and damaged; `TooLarge` past [`limits::UNPACKED_BYTES`], and for
/// what grows by more than [`limits::UNPACK_RATIO`]; `Internal` with the reader's own error.
pub fn measure(layer: impl Read) -> Result<Measured> {
    let mut source = BufReader::with_capacity(CHUNK_BYTES, Counted { inner: layer, read_bytes: 0 });
    let compression = match source.fill_buf().map_err(failed)? {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        _ => Compression::None,
    };
    let mut tar = match compression {
        Compression::None => Tar::Plain(source),
        Compression::Gzip => Tar::Gzip(Box::new(MultiGzDecoder::new(source))),
    };
    let (mut hasher, mut size_bytes, mut all_zero) = (Hasher::new(Algorithm::Sha256), 0u64, true);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match tar.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => &chunk[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        size_bytes += read.len() as u64;
        check_growth(tar.source().read_bytes, size_bytes)?;
        all_zero = all_zero && read.iter().all(|byte| *byte == 0);
        hasher.update(read);
    }
    Ok(Measured { compression, diff_id: hasher.digest(), size_bytes, all_zero })
}

enum Tar<R> {
    Plain(BufReader<Counted<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Counted<R>>>>),
}

impl<R: Read> Tar<R> {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        match self {
            Tar::Plain(source) => source.read(chunk),
            Tar::Gzip(decoder) => decoder.read(chunk),
        }
    }

    fn source(&self) -> &Counted<R> {
        match self {
            Tar::Plain(source) => source.get_ref(),
            Tar::Gzip(decoder) => decoder.get_ref().get_ref(),
        }
    }
}

/// Counts what goes into a decoder.
struct Counted<R> {
    inner: R,
    read_bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(chunk)?;
        self.read_bytes += read as u64;
        Ok(read)
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

fn failed(error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    if matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof) {
        let reason = "a layer is compressed, and its bytes are damaged or cut short".to_owned();
        return Error::Unprocessable(Unprocessable::ValidationFailed { reason });
    }
    Error::Internal { doing: "read a layer".into(), source: Some(error.into()) }
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

    fn digest(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    #[test]
    fn a_layer_is_measured_by_its_bytes_and_not_by_its_name() {
        let tar = b"a tar of sorts".repeat(50_000);
        for (layer, compression) in [
            (tar.clone(), Compression::None),
            (gzip(&tar), Compression::Gzip),
            // Members one after the other are one file (RFC 1952, section 2.2).
            ([gzip(&tar[..9]), gzip(&tar[9..])].concat(), Compression::Gzip),
        ] {
            let measured = measure(&layer[..]).expect("a whole layer");
            assert_eq!((measured.compression, measured.size_bytes), (compression, tar.len() as u64));
            assert_eq!((measured.diff_id, measured.all_zero), (digest(&tar), false));
        }
        assert_eq!(measure(&b""[..]).expect("nothing").diff_id, digest(b""));
        assert!(measure(&gzip(&[0; 1024])[..]).expect("an archive without entries").all_zero);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let whole = gzip(&b"cargo".repeat(1_000));
        let mut wrong_sum = whole.clone();
        let last = wrong_sum.len() - 6;
        wrong_sum[last] ^= 1;
        for damaged in [whole[..whole.len() / 2].to_vec(), whole[..whole.len() - 1].to_vec(), wrong_sum] {
            let refused = measure(&damaged[..]).expect_err("not whole");
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
