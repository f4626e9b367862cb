//! A part of a layer's tar, with as little of the layer read as can be: a plain one at the part itself, a gzip one from the
//! checkpoint before it, any other from its start.

use std::io::Read;

use super::checkpoints::Index;
use super::compression::{Compression, PREFIX};
use super::decompress::PIECE_BYTES;
use super::unpacking::Unpacking;
use super::watch::invalid;
use crate::error::{Doing, Error, Result};

/// A place in a tar that only moves on.
pub struct Part<'l> {
    unpacking: Unpacking<'l>,
    index: Option<&'l Index<'l>>,
    piece: Vec<u8>,
    at: usize,
    /// Where in the tar `piece[at]` is.
    offset: u64,
}

impl<'l> Part<'l> {
    /// Goes to a place in the tar of a layer, which `open` reads from any place of its own on. Blocks.
    ///
    /// # Errors
    /// `ValidationFailed` for bytes that are compressed and damaged, or when the tar ends before the place; `TooLarge` as
    /// for a whole layer; `Internal` with the reader's own error.
    pub fn open<L: Read + 'l>(
        open: impl Fn(u64) -> L,
        index: Option<&'l Index<'l>>,
        start: u64,
    ) -> Result<Part<'l>> {
        let mut prefix = Vec::with_capacity(PREFIX);
        open(0).take(PREFIX as u64).read_to_end(&mut prefix).doing("read a layer")?;
        let (unpacking, index, offset) = match (Compression::of(&prefix), index) {
            (Compression::None, _) => (Unpacking::plain(open(start)), None, start),
            (Compression::Gzip, Some(index)) => {
                // A piece is only known as a whole.
                let wanted = start - start % PIECE_BYTES as u64;
                match index.place_before(wanted) {
                    Some((place, window)) => {
                        let unpacking = Unpacking::resume(open(place.packed), &place, &window)?;
                        (unpacking, Some(index), place.unpacked)
                    }
                    None => (Unpacking::open(open(0))?, Some(index), 0),
                }
            }
            (Compression::Gzip | Compression::Zstd | Compression::Foreign(_), _) => {
                (Unpacking::open(open(0))?, None, 0)
            }
        };
        let mut part = Part { unpacking, index, piece: Vec::new(), at: 0, offset };
        part.go_to_a_piece(start)?;
        part.skip_to(start)?;
        Ok(part)
    }

    /// Passes over what comes before this place.
    ///
    /// # Errors
    /// As [`Part::next_bytes`].
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
    /// As [`Part::open`]; `Internal` for other bytes than the layer had when it was read as a whole.
    pub fn next_bytes(&mut self, most: usize) -> Result<&[u8]> {
        if self.at == self.piece.len() {
            self.unpacking.fill(&mut self.piece, PIECE_BYTES, None)?;
            self.at = 0;
            if self.piece.is_empty() {
                return Err(cut_short());
            }
            if self.index.is_some_and(|index| !index.knows(self.offset, &self.piece)) {
                return Err(Error::internal("read from a layer what was once there: it is damaged"));
            }
        }
        let from = self.at;
        let taken = most.min(self.piece.len() - from);
        self.at += taken;
        self.offset += taken as u64;
        Ok(&self.piece[from..from + taken])
    }

    /// A checkpoint stands anywhere between two pieces.
    fn go_to_a_piece(&mut self, start: u64) -> Result<()> {
        let wanted = start - start % PIECE_BYTES as u64;
        while self.offset < wanted {
            let left = usize::try_from(wanted - self.offset).unwrap_or(usize::MAX);
            self.unpacking.fill(&mut self.piece, left.min(PIECE_BYTES), None)?;
            if self.piece.is_empty() {
                return Err(cut_short());
            }
            self.offset += self.piece.len() as u64;
        }
        self.piece.clear();
        Ok(())
    }
}

fn cut_short() -> Error {
    invalid("the layer's tar is cut short".to_owned())
}

#[cfg(test)]
mod tests;
