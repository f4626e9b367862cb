//! Places in a gzip layer from which it can be read on, kept beside its tree so that a file deep in it costs little.
//!
//! A file of them is a form, the digest of the index, the index's length, the index (`postcard`), and the windows one after
//! the other: what deflate may look back on at each place, packed. Of the windows only one is read. The index has a sum of
//! each of them, and of each piece of the tar: nothing that is read from a place is handed on but what the layer had when
//! all of it was read and measured.

use std::io;

use flate2::Crc;
use serde::{Deserialize, Serialize};
use zstd::bulk::Compressor;

use super::decompress::PIECE_BYTES;
use super::inflate::WINDOW_BYTES;
use crate::error::{Doing, Result};
use crate::limits;
use crate::oci::{Algorithm, Digest};

/// Names the form. Files of another one are no use.
const MAGIC: &[u8] = b"orlop checkpoints 1\n";
const DIGEST_BYTES: usize = 64;
const HEAD_BYTES: usize = MAGIC.len() + DIGEST_BYTES + size_of::<u64>();
/// A window is packed once and read seldom.
const WINDOW_LEVEL: i32 = 3;

/// Where a block of deflate begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Bytes of the layer before it, the one that it shares with the block before as well.
    pub packed: u64,
    /// Bytes of the tar before it.
    pub unpacked: u64,
    /// The bits of that shared byte that belong to it, and how many they are.
    pub unused: u8,
    pub unused_bits: u8,
}

/// Makes checkpoints of a layer while it is read.
pub(super) struct Recorder {
    spacing: u64,
    made: Vec<(Place, Vec<u8>)>,
    sums: Vec<u32>,
    compressor: Compressor<'static>,
}

impl Recorder {
    /// Of places so many bytes of the tar apart.
    ///
    /// # Errors
    /// `Internal` without memory.
    pub fn new(spacing: u64) -> Result<Recorder> {
        let compressor = Compressor::new(WINDOW_LEVEL).doing("make checkpoints of a layer")?;
        Ok(Recorder { spacing, made: Vec::new(), sums: Vec::new(), compressor })
    }

    /// Bytes of the tar until it is time for a place; none from then on.
    pub fn left(&self, unpacked: u64) -> u64 {
        let last = self.made.last().map_or(0, |(place, _)| place.unpacked);
        (last + self.spacing).saturating_sub(unpacked)
    }

    pub fn note(&mut self, place: Place, window: &[u8]) -> io::Result<()> {
        let mut window = self.compressor.compress(window)?;
        // It has room for a window that cannot be packed.
        window.shrink_to_fit();
        self.made.push((place, window));
        if self.made.len() == limits::CHECKPOINTS {
            let mut nth = 0;
            self.made.retain(|_| {
                nth += 1;
                nth % 2 == 0
            });
            self.spacing *= 2;
        }
        Ok(())
    }

    /// A piece of the tar, all of [`PIECE_BYTES`] but for the last.
    pub fn sum(&mut self, piece: &[u8]) {
        self.sums.push(sum_of(piece));
    }

    /// `None` where nothing would be gained.
    pub fn finish(self) -> Option<Checkpoints> {
        (!self.made.is_empty()).then_some(Checkpoints { made: self.made, sums: self.sums })
    }
}

/// The checkpoints of a layer, as they were made.
pub struct Checkpoints {
    made: Vec<(Place, Vec<u8>)>,
    sums: Vec<u32>,
}

impl Checkpoints {
    /// The file of them, in parts: all of it in one would take as much memory again.
    pub fn into_parts(self, layer: &Digest) -> Vec<Vec<u8>> {
        let piece_bytes = PIECE_BYTES as u64;
        let (places, windows): (Vec<Place>, Vec<Vec<u8>>) = self.made.into_iter().unzip();
        let kept = windows.iter().map(|window| Kept { length: window.len() as u64, sum: sum_of(window) });
        let kept = kept.collect();
        let body = Body { layer: layer.to_string(), piece_bytes, sums: self.sums, places, windows: kept };
        let body = postcard::to_allocvec(&body).expect("an index has no part without a form");
        let digest = Digest::of(Algorithm::Sha256, &body);
        let length = (body.len() as u64).to_le_bytes();
        let head = [MAGIC, digest.hex().as_bytes(), &length, &body].concat();
        std::iter::once(head).chain(windows).collect()
    }
}

#[derive(Serialize, Deserialize)]
struct Body {
    /// The layer whose checkpoints they are.
    layer: String,
    piece_bytes: u64,
    sums: Vec<u32>,
    places: Vec<Place>,
    windows: Vec<Kept>,
}

/// A window in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    length: u64,
    sum: u32,
}

/// The index of a file of checkpoints. The windows stay in the file.
pub struct Index<'f> {
    read_at: Box<dyn Fn(u64, usize) -> io::Result<Vec<u8>> + 'f>,
    body: Body,
    windows_at: u64,
}

impl<'f> Index<'f> {
    /// Reads the index of a layer's file of so many bytes; `read_at` reads that many at a place of it. `None` for what is
    /// no such file, or is damaged.
    pub fn read(
        layer: &Digest,
        size_bytes: u64,
        read_at: impl Fn(u64, usize) -> io::Result<Vec<u8>> + 'f,
    ) -> Option<Index<'f>> {
        let head = read_at(0, HEAD_BYTES).ok()?;
        let (digest, length) = head.strip_prefix(MAGIC)?.split_at_checked(DIGEST_BYTES)?;
        let length = u64::from_le_bytes(length.try_into().ok()?);
        let windows_at = (HEAD_BYTES as u64).checked_add(length).filter(|end| *end <= size_bytes)?;
        let body = read_at(HEAD_BYTES as u64, usize::try_from(length).ok()?).ok()?;
        if Digest::of(Algorithm::Sha256, &body).hex().as_bytes() != digest {
            return None;
        }
        let body: Body = postcard::from_bytes(&body).ok()?;
        let is_its = body.layer == layer.to_string() && body.piece_bytes == PIECE_BYTES as u64;
        is_its.then_some(Index { read_at: Box::new(read_at), body, windows_at })
    }

    /// The last place that is not behind this one of the tar, with its window. `None` where there is none, or its window
    /// is damaged.
    pub(super) fn place_before(&self, unpacked: u64) -> Option<(Place, Vec<u8>)> {
        let at = self.body.places.partition_point(|place| place.unpacked <= unpacked).checked_sub(1)?;
        let before: u64 = self.body.windows.get(..at)?.iter().map(|window| window.length).sum();
        let Kept { length, sum } = self.body.windows.get(at)?;
        let packed = (self.read_at)(self.windows_at + before, usize::try_from(*length).ok()?).ok()?;
        if sum_of(&packed) != *sum {
            return None;
        }
        let window = zstd::bulk::decompress(&packed, WINDOW_BYTES).ok()?;
        Some((self.body.places[at], window))
    }

    /// Whether this is the piece that stood at this place of the tar, a whole number of [`PIECE_BYTES`] from its start.
    pub(super) fn knows(&self, offset: u64, piece: &[u8]) -> bool {
        let nth = usize::try_from(offset / PIECE_BYTES as u64).ok();
        nth.and_then(|nth| self.body.sums.get(nth)) == Some(&sum_of(piece))
    }
}

fn sum_of(piece: &[u8]) -> u32 {
    let mut sum = Crc::new();
    sum.update(piece);
    sum.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(packed: u64, unpacked: u64) -> Place {
        Place { packed, unpacked, unused: 0, unused_bits: 0 }
    }

    /// A file of three checkpoints at every thousandth byte, whose windows are told apart.
    fn file(layer: &Digest) -> Vec<u8> {
        let mut recorder = Recorder::new(1_000).expect("memory");
        recorder.sum(b"the only piece");
        for nth in 1..=3_u8 {
            recorder.note(place(nth.into(), u64::from(nth) * 1_000), &[nth; 500]).expect("memory");
        }
        recorder.finish().expect("places").into_parts(layer).concat()
    }

    fn index<'f>(layer: &Digest, file: &'f [u8]) -> Option<Index<'f>> {
        let read_at = move |offset: u64, length: usize| {
            let from = (offset as usize).min(file.len());
            Ok(file[from..file.len().min(from + length)].to_vec())
        };
        Index::read(layer, file.len() as u64, read_at)
    }

    #[test]
    fn a_place_is_the_last_one_before_with_its_own_window() {
        let layer = Digest::of(Algorithm::Sha256, b"a layer");
        let file = file(&layer);
        let index = index(&layer, &file).expect("whole");
        for (wanted, found) in [(999, None), (1_000, Some(1)), (2_999, Some(2)), (u64::MAX, Some(3))] {
            let expected = found.map(|nth: u8| (place(nth.into(), u64::from(nth) * 1_000), vec![nth; 500]));
            assert_eq!(index.place_before(wanted), expected, "{wanted}");
        }
        assert!(index.knows(0, b"the only piece"));
        assert!(!index.knows(0, b"another piece") && !index.knows(PIECE_BYTES as u64, b"the only piece"));
    }

    #[test]
    fn what_is_damaged_cut_off_or_of_another_layer_is_no_index() {
        let layer = Digest::of(Algorithm::Sha256, b"a layer");
        let file = file(&layer);
        assert!(index(&Digest::of(Algorithm::Sha256, b"another"), &file).is_none());
        let windows = index(&layer, &file).expect("whole").windows_at as usize;
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            let Some(index) = index(&layer, &damaged) else {
                assert!(at < windows, "a window is not part of the index");
                continue;
            };
            assert!(at >= windows, "byte {at} of the index is not looked at");
            let found = (1..=3).filter(|nth| index.place_before(nth * 1_000).is_some()).count();
            assert_eq!(found, 2, "byte {at} of a window is not looked at");
            let cut = &file[..at];
            assert!((1..=3).any(|nth| {
                self::index(&layer, cut).is_none_or(|index| index.place_before(nth * 1_000).is_none())
            }));
        }
        assert!((0..windows).all(|length| index(&layer, &file[..length]).is_none()));
    }

    #[test]
    fn places_of_a_layer_without_end_are_bounded_and_lie_everywhere() {
        let mut recorder = Recorder::new(1_000).expect("memory");
        let mut most = 0;
        for at in (0..10_000_000_u64).step_by(100) {
            if recorder.left(at) == 0 {
                recorder.note(place(at, at), b"a window").expect("memory");
            }
            most = most.max(recorder.made.len());
        }
        assert!(most < limits::CHECKPOINTS);
        let places: Vec<u64> = recorder.made.iter().map(|(place, _)| place.unpacked).collect();
        assert!(places.len() >= limits::CHECKPOINTS / 2 - 1, "{}", places.len());
        assert!(places.iter().zip(&places[1..]).all(|(a, b)| b - a == recorder.spacing), "{places:?}");
    }
}
