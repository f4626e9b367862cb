//! A tar becomes a layer: packed, and measured.

use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;

use crate::error::{Doing, Result};
use crate::oci::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::oci::{Algorithm, Digest, Hasher};

/// Handed on at once.
const PIECE: usize = 256 << 10;

/// How a layer is packed: the levels are those that both formats have by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// The media type of such a layer.
    pub const fn media_type(self) -> &'static str {
        match self {
            Packing::None => OCI_LAYER,
            Packing::Gzip => OCI_LAYER_GZIP,
            Packing::Zstd => OCI_LAYER_ZSTD,
        }
    }

    /// By the media type of a layer.
    pub fn of(media_type: &str) -> Option<Packing> {
        [Packing::None, Packing::Gzip, Packing::Zstd].into_iter().find(|it| it.media_type() == media_type)
    }
}

/// Packs a tar that comes in pieces, and hands the layer on in pieces; the same tar makes the same layer. Its diff ID.
/// Blocks.
///
/// # Errors
/// Those of the pieces and of `hand_on`.
pub fn pack(
    packing: Packing,
    pieces: impl Iterator<Item = Result<Bytes>>,
    mut hand_on: impl FnMut(Bytes) -> Result<()>,
) -> Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut packer = Packer::new(packing)?;
    for piece in pieces {
        let piece = piece?;
        hasher.update(&piece);
        match &mut packer {
            Packer::None => hand_on(piece)?,
            packer => {
                packer.take(&piece).doing("pack a layer")?;
                if packer.packed().len() >= PIECE {
                    hand_on(std::mem::take(packer.packed()).into())?;
                }
            }
        }
    }
    let rest = packer.finish().doing("pack a layer")?;
    if !rest.is_empty() {
        hand_on(rest.into())?;
    }
    Ok(hasher.digest())
}

/// What is packed stands in its memory until it is handed on.
enum Packer {
    None,
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Packer {
    fn new(packing: Packing) -> Result<Packer> {
        Ok(match packing {
            Packing::None => Packer::None,
            // Neither a name nor a time stands in its header (RFC 1952, section 2.3.1).
            Packing::Gzip => Packer::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::default())),
            Packing::Zstd => {
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                Packer::Zstd(zstd::stream::write::Encoder::new(Vec::new(), level).doing("pack a layer")?)
            }
        })
    }

    fn take(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Packer::None => Ok(()),
            Packer::Gzip(encoder) => encoder.write_all(bytes),
            Packer::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn packed(&mut self) -> &mut Vec<u8> {
        match self {
            Packer::None => unreachable!("it holds nothing back"),
            Packer::Gzip(encoder) => encoder.get_mut(),
            Packer::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> std::io::Result<Vec<u8>> {
        match self {
            Packer::None => Ok(Vec::new()),
            Packer::Gzip(encoder) => encoder.finish(),
            Packer::Zstd(encoder) => encoder.finish(),
        }
    }
}
