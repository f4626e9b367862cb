//! The law of parts: whatever the gzip is like, and wherever a read begins, it has the bytes of the tar.

use std::cell::Cell;
use std::io::{Cursor, Write};

use flate2::{Compression as Level, GzBuilder};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Where;

use super::*;
use crate::oci::{Algorithm, Digest};
use crate::unpack::checkpoints::Recorder;
use crate::unpack::decompress::read_and_mark_layer;

const SPACING: u64 = 40_000;

/// One member of gzip.
#[derive(Debug, Clone)]
struct Member {
    level: u32,
    length: usize,
    bytes: Bytes,
    /// Blocks end here at least: short ones have fixed codes, and an empty stored block comes behind each.
    flush_every: usize,
    with_names: bool,
}

#[derive(Debug, Clone, Copy)]
enum Bytes {
    Zeros,
    Text,
    Noise,
}

impl Member {
    fn bytes(&self, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        match self.bytes {
            Bytes::Zeros => vec![0; self.length],
            Bytes::Noise => (0..self.length).map(|_| next() as u8).collect(),
            Bytes::Text => {
                let words = std::iter::repeat_with(|| format!("cargo {} ", next() % 5_000).into_bytes());
                words.flatten().take(self.length).collect()
            }
        }
    }

    fn pack(&self, bytes: &[u8]) -> Vec<u8> {
        let builder = match self.with_names {
            true => GzBuilder::new().filename("layer.tar").comment("a layer").extra(vec![7; 300]),
            false => GzBuilder::new(),
        };
        let mut encoder = builder.write(Vec::new(), Level::new(self.level));
        for chunk in bytes.chunks(self.flush_every) {
            encoder.write_all(chunk).expect("memory takes all bytes");
            encoder.flush().expect("memory takes all bytes");
        }
        encoder.finish().expect("memory takes all bytes")
    }
}

fn a_member(length: impl Strategy<Value = usize>) -> impl Strategy<Value = Member> {
    let level = prop_oneof![1 => Just(0), 1 => Just(1), 2 => Just(6), 2 => Just(9)];
    let bytes = prop_oneof![1 => Just(Bytes::Zeros), 3 => Just(Bytes::Text), 1 => Just(Bytes::Noise)];
    let flush_every = prop_oneof![2 => Just(usize::MAX), 1 => 500_usize..60_000];
    let made = (level, length, bytes, flush_every, any::<bool>());
    made.prop_map(|(level, length, bytes, flush_every, with_names)| Member {
        level,
        length,
        bytes,
        flush_every,
        with_names,
    })
}

/// Some members, and a long one: what is in the first piece is read from the start in any case.
fn some_members() -> impl Strategy<Value = Vec<Member>> {
    let short = vec(a_member(prop_oneof![0_usize..300, 0_usize..300_000]), 0..3);
    let long = a_member(800_000_usize..1_200_000);
    (short, long, any::<Where>()).prop_map(|(mut members, long, place)| {
        members.insert(place.index(members.len() + 1), long);
        members
    })
}

/// A layer, its tar, and the file of its checkpoints.
struct Layer {
    packed: Vec<u8>,
    tar: Vec<u8>,
    file: Vec<u8>,
    read_bytes: Cell<usize>,
}

impl Layer {
    fn of(packed: Vec<u8>, tar: Vec<u8>) -> Layer {
        let recorder = Recorder::new(SPACING).expect("memory");
        let read = read_and_mark_layer(Cursor::new(packed.clone()), recorder, |_| Ok(()));
        let ((), made) = read.expect("a whole layer");
        let file = made.map(|made| made.into_parts(&digest()).concat()).unwrap_or_default();
        Layer { packed, tar, file, read_bytes: Cell::new(0) }
    }

    fn text(length: usize) -> Layer {
        let member =
            Member { level: 6, length, bytes: Bytes::Text, flush_every: usize::MAX, with_names: true };
        let tar = member.bytes(1);
        Layer::of(member.pack(&tar), tar)
    }

    fn index(&self) -> Option<Index<'_>> {
        let read_at =
            |offset, length| Ok(self.file.iter().skip(offset as usize).take(length).copied().collect());
        Index::read(&digest(), self.file.len() as u64, read_at)
    }

    fn read(&self, index: Option<&Index<'_>>, start: usize, length: usize) -> Result<Vec<u8>> {
        let open = |offset: u64| Counting { bytes: &self.packed[offset as usize..], count: &self.read_bytes };
        let mut part = Part::open(open, index, start as u64)?;
        let mut read = Vec::new();
        while read.len() < length {
            read.extend_from_slice(part.next_bytes(length - read.len())?);
        }
        Ok(read)
    }
}

struct Counting<'b> {
    bytes: &'b [u8],
    count: &'b Cell<usize>,
}

impl Read for Counting<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        let read = self.bytes.read(room)?;
        self.count.set(self.count.get() + read);
        Ok(read)
    }
}

fn digest() -> Digest {
    Digest::of(Algorithm::Sha256, b"a layer")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_read_from_any_place_is_the_slice_of_the_tar(
        members in some_members(),
        zeros in prop_oneof![Just(0), 1_usize..2_000],
        places in vec((any::<Where>(), 0_usize..300_000), 8),
    ) {
        let tars: Vec<Vec<u8>> =
            members.iter().enumerate().map(|(seed, member)| member.bytes(seed as u64)).collect();
        let mut packed: Vec<u8> =
            members.iter().zip(&tars).flat_map(|(member, tar)| member.pack(tar)).collect();
        packed.resize(packed.len() + zeros, 0);
        let layer = Layer::of(packed, tars.concat());
        let index = layer.index();
        for (place, length) in places {
            let start = place.index(layer.tar.len() + 1);
            let end = layer.tar.len().min(start + length);
            let read = layer.read(index.as_ref(), start, end - start).expect("a whole layer");
            prop_assert!(read == layer.tar[start..end], "{start}..{end} of {}", layer.tar.len());
        }
    }
}

#[test]
fn little_is_read_for_a_file_deep_in_a_layer() {
    let layer = Layer::text(8 << 20);
    let index = layer.index().expect("checkpoints");
    let start = layer.tar.len() - 700_000;
    assert!(layer.read(Some(&index), start, 100).expect("whole") == layer.tar[start..start + 100]);
    let with = layer.read_bytes.take();
    assert!(layer.read(None, start, 100).expect("whole") == layer.tar[start..start + 100]);
    let without = layer.read_bytes.take();
    // The reader is asked for 256 KiB at once, whatever is needed of them.
    assert!(with < without / 2 && with <= 2 << 19, "{with} of {without}");
}

#[test]
fn a_plain_tar_is_read_where_the_part_is() {
    let tar = Layer::text(3 << 20).tar;
    let layer = Layer::of(tar.clone(), tar);
    assert!(layer.index().is_none(), "there is nothing to remember");
    let start = layer.tar.len() - 300_000;
    assert!(layer.read(None, start, 1_000).expect("whole") == layer.tar[start..start + 1_000]);
    assert!(layer.read_bytes.get() <= 300_000 + PREFIX, "{}", layer.read_bytes.get());
}

#[test]
fn what_was_damaged_since_is_told_and_never_handed_on() {
    let mut layer = Layer::text(2 << 20);
    let start = layer.tar.len() - 600_000;
    let from = layer.index().and_then(|index| index.place_before(start as u64)).expect("a place").0.packed;
    let mut told = 0;
    for at in (from as usize..layer.packed.len()).step_by(layer.packed.len() / 40) {
        layer.packed[at] ^= 4;
        let read = layer.read(layer.index().as_ref(), start, 600_000);
        layer.packed[at] ^= 4;
        match read {
            Ok(read) => assert!(read == layer.tar[start..], "damage at {at} gave other bytes"),
            Err(_) => told += 1,
        }
    }
    assert!(told > 5, "{told}");
}

#[test]
fn a_layer_of_nothing_but_empty_members_and_blocks_is_read_and_has_few_places() {
    let nothing = Member { level: 6, length: 0, bytes: Bytes::Zeros, flush_every: 1, with_names: false };
    let some = Member { level: 1, length: 100_000, bytes: Bytes::Text, flush_every: 10, with_names: false };
    let tar = some.bytes(3);
    let packed =
        [nothing.pack(b"").repeat(10_000), some.pack(&tar), nothing.pack(b"").repeat(10_000)].concat();
    let layer = Layer::of(packed, tar);
    let index = layer.index().expect("checkpoints");
    let places =
        (0..=100_000).step_by(500).filter_map(|at| index.place_before(at)).map(|(place, _)| place.unpacked);
    let places: std::collections::BTreeSet<u64> = places.collect();
    assert_eq!(places.len(), 2, "{places:?}");
    assert!(layer.read(Some(&index), 99_000, 1_000).expect("whole") == layer.tar[99_000..]);
}

#[test]
fn a_place_behind_the_end_is_refused() {
    let layer = Layer::text(1 << 20);
    for index in [layer.index(), None] {
        let open = |offset: u64| Cursor::new(layer.packed[offset as usize..].to_vec());
        assert!(Part::open(open, index.as_ref(), layer.tar.len() as u64 + 1).is_err());
    }
}
