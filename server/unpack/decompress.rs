//! A layer without its compression: how its bytes are told apart, and what they are together.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::compression::{Compression, Reader, decoded, read_prefix};
use super::watch::invalid;
use crate::error::{Error, Result};
use crate::limits;
use crate::oci::{Algorithm, Digest, Hasher};

/// Read at once: larger than a page, small beside what a worker has in hand.
const CHUNK_BYTES: usize = 128 * 1024;

/// What a layer is without its compression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// By its first bytes: what its media type says is not always so.
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
/// `ValidationFailed` for bytes that are compressed and damaged, or in a way that is not read; `TooLarge` past
/// [`limits::UNPACKED_BYTES`], and for what grows by more than [`limits::UNPACK_RATIO`]; `Internal` with the reader's own
/// error.
pub fn measure(layer: impl Read + Send + Unpin + 'static) -> Result<Measured> {
    let source = Arc::new(Source::default());
    let mut layer: Reader = Box::new(Blocking { inner: layer, source: source.clone() });
    let prefix = at_once(read_prefix(&mut layer))?.map_err(|error| source.explain(error))?;
    let compression = Compression::of(&prefix);
    compression.layer_type()?;
    let Some(mut tar) = decoded(prefix, layer, compression) else {
        return Err(Error::internal("a compression that layers may have is not read"));
    };
    let (mut hasher, mut size_bytes, mut all_zero) = (Hasher::new(Algorithm::Sha256), 0u64, true);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match at_once(tar.read(&mut chunk))?.map_err(|error| source.explain(error))? {
            0 => break,
            read => &chunk[..read],
        };
        size_bytes += read.len() as u64;
        check_growth(source.read_bytes.load(Ordering::Relaxed), size_bytes)?;
        all_zero = all_zero && read.iter().all(|byte| *byte == 0);
        hasher.update(read);
    }
    Ok(Measured { compression, diff_id: hasher.digest(), size_bytes, all_zero })
}

/// What a reader that blocks gives. It never waits, nor do decoders over it.
fn at_once<T>(reading: impl Future<Output = T>) -> Result<T> {
    reading.now_or_never().ok_or_else(|| Error::internal("a reader that blocks wants to be asked again"))
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

    fn explain(&self, _of_the_decoder: io::Error) -> Error {
        match self.failure().take() {
            Some(own) => Error::Internal { doing: "read a layer".into(), source: Some(own.into()) },
            None => invalid("a layer is compressed, and its bytes are damaged or cut short".to_owned()),
        }
    }
}

/// A reader that blocks, as the decoders take one.
struct Blocking<R> {
    inner: R,
    source: Arc<Source>,
}

impl<R: Read + Unpin> AsyncRead for Blocking<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = loop {
            match self.inner.read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        Poll::Ready(match read {
            Ok(read) => {
                buffer.advance(read);
                self.source.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                *self.source.failure() = Some(error);
                Err(io::Error::other("the layer cannot be read"))
            }
        })
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
        use tokio::io::AsyncWriteExt;
        let mut encoder = async_compression::tokio::write::ZstdEncoder::new(Vec::new());
        let packing = async {
            encoder.write_all(bytes).await?;
            encoder.shutdown().await
        };
        at_once(packing).expect("memory never waits").expect("memory takes all bytes");
        encoder.into_inner()
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
