//! Compressions, by the bytes that they begin with.

use std::io::{self, Cursor};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use super::watch::invalid;
use crate::error::Result;
use crate::limits;
use crate::oci::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};

/// How many bytes tell every compression apart.
pub const PREFIX: usize = 6;

/// A reader handed on, whatever it is made of.
pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// Bytes that are read from the body at once, and from a decoder.
const BUFFER: usize = 256 << 10;

/// How bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    /// One that is known and not read, by its name.
    Foreign(&'static str),
}

impl Compression {
    /// By the first bytes, [`PREFIX`] of them where there are so many.
    pub fn of(prefix: &[u8]) -> Compression {
        const MAGIC: [(&[u8], Compression); 4] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"BZh", Compression::Foreign("bzip2")),
            (b"\xfd7zXZ\0", Compression::Foreign("xz")),
        ];
        // A frame of zstd that holds nothing may come before the others (RFC 8878, section 3.1.2).
        if let [low, 0x2a, 0x4d, 0x18, ..] = prefix
            && low & 0xf0 == 0x50
        {
            return Compression::Zstd;
        }
        MAGIC
            .iter()
            .find(|(magic, _)| prefix.starts_with(magic))
            .map_or(Compression::None, |(_, found)| *found)
    }

    /// The media type of a layer whose tar is packed so.
    ///
    /// # Errors
    /// `ValidationFailed` for a compression that no layer may have.
    pub fn layer_type(self) -> Result<&'static str> {
        match self {
            Compression::None => Ok(OCI_LAYER),
            Compression::Gzip => Ok(OCI_LAYER_GZIP),
            Compression::Zstd => Ok(OCI_LAYER_ZSTD),
            Compression::Foreign(name) => {
                Err(invalid(format!("a layer is packed with {name}: only gzip and zstd are taken")))
            }
        }
    }
}

/// Up to so many bytes from the front of a reader.
pub(super) async fn read_prefix(reader: &mut Reader) -> io::Result<Vec<u8>> {
    let mut prefix = Vec::with_capacity(PREFIX);
    reader.take(PREFIX as u64).read_to_end(&mut prefix).await?;
    Ok(prefix)
}

/// The bytes that are packed in `prefix` and what follows it. `None` for a compression that is not read.
pub(super) fn decoded(prefix: Vec<u8>, rest: Reader, compression: Compression) -> Option<Reader> {
    let packed = BufReader::with_capacity(BUFFER, Cursor::new(prefix).chain(rest));
    Some(match compression {
        Compression::None => Box::new(packed),
        Compression::Gzip => {
            let mut decoder = GzipDecoder::new(packed);
            decoder.multiple_members(true);
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }
        Compression::Zstd => {
            let window = DParameter::window_log_max(limits::ARCHIVE_WINDOW.ilog2());
            let mut decoder = ZstdDecoder::with_params(packed, &[window]);
            decoder.multiple_members(true);
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }
        Compression::Foreign(_) => return None,
    })
}
