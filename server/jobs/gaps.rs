//! Which bytes of a blob are still to be asked for.

use std::collections::BTreeMap;
use std::ops::Range;

/// The gaps of a blob: what nobody has, and nobody has been asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gaps {
    /// End by start; none touches another.
    ends: BTreeMap<u64, u64>,
    /// Parts end at multiples of this.
    part_bytes: u64,
}

impl Gaps {
    /// All of a blob of `size` bytes but the first `offset` and what is `ahead` of them.
    pub fn new(offset: u64, size: u64, ahead: &[Range<u64>], part_bytes: u64) -> Gaps {
        let mut gaps = Gaps { ends: BTreeMap::new(), part_bytes };
        let mut at = offset;
        for part in ahead {
            gaps.give_back(at..part.start.min(size));
            at = at.max(part.end);
        }
        gaps.give_back(at..size);
        gaps
    }

    /// Where the first gap begins.
    pub fn first(&self) -> Option<u64> {
        self.ends.keys().next().copied()
    }

    pub fn bytes(&self) -> u64 {
        self.ends.iter().map(|(start, end)| end - start).sum()
    }

    /// Takes the beginning of the first gap: all of it, or as much as `parts` parts have.
    pub fn take(&mut self, parts: u64) -> Option<Range<u64>> {
        let (start, end) = self.ends.pop_first()?;
        let whole = (start / self.part_bytes).saturating_add(parts).saturating_mul(self.part_bytes);
        let cut = end.min(whole);
        self.give_back(cut..end);
        Some(start..cut)
    }

    /// Forgets every gap: somebody has been asked for all of it.
    pub fn clear(&mut self) {
        self.ends.clear();
    }

    /// Makes a gap again of what nobody fetches any more.
    pub fn give_back(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let end = self.ends.remove(&range.end).unwrap_or(range.end);
        match self.ends.range_mut(..range.start).next_back() {
            Some((_, before)) if *before == range.start => *before = end,
            _ => drop(self.ends.insert(range.start, end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_end_at_multiples_and_leave_out_what_is_there() {
        let mut gaps = Gaps::new(150, 1_000, &[300..400, 450..500], 100);
        assert_eq!((gaps.first(), gaps.bytes()), (Some(150), 700));
        let taken: Vec<_> = std::iter::from_fn(|| gaps.take(1)).collect();
        assert_eq!(taken, [150..200, 200..300, 400..450, 500..600, 600..700, 700..800, 800..900, 900..1_000]);
        let mut gaps = Gaps::new(0, 1_000, &[], 300);
        assert_eq!((gaps.take(2), gaps.take(u64::MAX), gaps.take(1)), (Some(0..600), Some(600..1_000), None));
        assert_eq!(Gaps::new(7, 7, &[], 100).first(), None);
    }

    #[test]
    fn what_is_given_back_is_the_next_to_be_taken() {
        let mut gaps = Gaps::new(0, 500, &[], 100);
        let (first, second, third) = (gaps.take(1), gaps.take(1), gaps.take(1));
        gaps.give_back(150..200);
        assert_eq!(gaps.take(1), Some(150..200));
        for part in [third, first, second] {
            gaps.give_back(part.expect("a part"));
        }
        assert_eq!(gaps, Gaps::new(0, 500, &[], 100));
    }

    proptest! {
        #[test]
        fn every_byte_is_asked_for_once(
            size in 1..5_000u64, offset in 0..5_000u64, part in 1..700u64, parts in 1..4u64,
            ahead in prop::collection::vec((0..5_000u64, 1..400u64), 0..6),
        ) {
            let offset = offset.min(size);
            let mut there = vec![false; size as usize];
            there[..offset as usize].fill(true);
            let mut runs: Vec<Range<u64>> = ahead.into_iter().map(|(at, length)| at..at + length).collect();
            runs.sort_by_key(|run| run.start);
            for run in &runs {
                there[run.start.min(size) as usize..run.end.min(size) as usize].fill(true);
            }
            let mut gaps = Gaps::new(offset, size, &runs, part);
            while let Some(taken) = gaps.take(parts) {
                prop_assert!(taken.end % part == 0 || taken.end == size || there[taken.end as usize]);
                for at in taken {
                    prop_assert!(!std::mem::replace(&mut there[at as usize], true), "{at} twice");
                }
            }
            prop_assert!(there.into_iter().all(|there| there));
        }
    }
}
