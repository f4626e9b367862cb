//! Ranges and preconditions of a read (RFC 9110, sections 13 and 14), as values. A strong ETag is all there is to
//! go by: blobs never change, so they have no date.

use http::HeaderMap;
use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};

use crate::limits;

/// Bytes from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

impl ByteRange {
    pub fn length(self) -> u64 {
        self.end - self.start
    }
}

/// What of a representation is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    /// In the order asked for; those that overlap or touch are one. Never empty, none is.
    Ranges(Vec<ByteRange>),
    /// None of the ranges lies within it.
    Unsatisfiable,
    /// The caller has it.
    NotModified,
    PreconditionFailed,
}

/// Judges the headers of a read of `size` bytes whose strong tag is `tag` (with its quotes).
pub fn judge(headers: &HeaderMap, tag: &str, size: u64) -> Wanted {
    let lines = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    if headers.contains_key(IF_MATCH) && !lines(IF_MATCH).any(|line| lists(line, tag, Comparison::Strong)) {
        return Wanted::PreconditionFailed;
    }
    if lines(IF_NONE_MATCH).any(|line| lists(line, tag, Comparison::Weak)) {
        return Wanted::NotModified;
    }
    // A date, or a weak tag, never matches: then the range is not to be honoured (section 13.1.5).
    let current = headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == tag.as_bytes());
    let mut ranges = headers.get_all(RANGE).iter();
    match (ranges.next().and_then(|value| value.to_str().ok()), ranges.next()) {
        (Some(line), None) if current => parse(line, size),
        _ => Wanted::Whole,
    }
}

/// How tags are compared (section 8.8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Strong,
    Weak,
}

/// Whether an `If-Match` or `If-None-Match` line names the tag.
pub fn lists(line: &str, tag: &str, comparison: Comparison) -> bool {
    if line.trim() == "*" {
        return true;
    }
    line.split(',').map(str::trim).any(|listed| match (listed.strip_prefix("W/"), comparison) {
        (Some(weak), Comparison::Weak) => weak == tag,
        (Some(_), Comparison::Strong) => false,
        (None, Comparison::Strong | Comparison::Weak) => listed == tag,
    })
}

/// Reads a `Range` line. One that is malformed, or in another unit, or asks for too many, is as if it were not there.
fn parse(line: &str, size: u64) -> Wanted {
    let Some((unit, set)) = line.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let mut ranges: Vec<ByteRange> = Vec::new();
    let mut asked = 0;
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        asked += 1;
        let Some(parsed) = parse_spec(spec, size) else { return Wanted::Whole };
        if asked > limits::RANGES {
            return Wanted::Whole;
        }
        if let Some(range) = parsed {
            add(&mut ranges, range);
        }
    }
    match (asked, ranges.is_empty()) {
        (0, _) => Wanted::Whole,
        (_, true) => Wanted::Unsatisfiable,
        (_, false) => Wanted::Ranges(ranges),
    }
}

/// One range: `None` when it is malformed, `Some(None)` when nothing of it lies within.
fn parse_spec(spec: &str, size: u64) -> Option<Option<ByteRange>> {
    let (first, last) = spec.split_once('-')?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // A number too large for 64 bits is past every end.
        true => Some(text.parse::<u64>().unwrap_or(u64::MAX)),
        false => None,
    };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let suffix = number(last)?.min(size);
        return Some((suffix > 0).then(|| ByteRange { start: size - suffix, end: size }));
    }
    let start = number(first)?;
    let end = match last {
        "" => size,
        last => {
            let last = number(last)?;
            if last < start {
                return None;
            }
            last.saturating_add(1).min(size)
        }
    };
    Some((start < size).then_some(ByteRange { start, end }))
}

/// Adds a range; those that it overlaps or touches become one with it, where the first of them stood.
fn add(ranges: &mut Vec<ByteRange>, mut range: ByteRange) {
    let mut place = ranges.len();
    while let Some(at) = ranges.iter().position(|other| range.start <= other.end && other.start <= range.end)
    {
        let other = ranges.remove(at);
        range = ByteRange { start: range.start.min(other.start), end: range.end.max(other.end) };
        place = place.min(at);
    }
    ranges.insert(place.min(ranges.len()), range);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"sha256:aa\"";

    fn ranges(line: &str, size: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, line.parse().expect("a header"));
        judge(&headers, TAG, size)
    }

    fn of(pairs: &[(u64, u64)]) -> Wanted {
        Wanted::Ranges(pairs.iter().map(|&(first, last)| ByteRange { start: first, end: last + 1 }).collect())
    }

    /// RFC 9110, section 14.1.2: its own examples, of 10,000 bytes.
    #[test]
    fn the_examples_of_the_rfc_are_read_as_it_says() {
        assert_eq!(ranges("bytes=0-499", 10_000), of(&[(0, 499)]));
        assert_eq!(ranges("bytes=500-999", 10_000), of(&[(500, 999)]));
        assert_eq!(ranges("bytes=-500", 10_000), of(&[(9_500, 9_999)]));
        assert_eq!(ranges("bytes=9500-", 10_000), of(&[(9_500, 9_999)]));
        assert_eq!(ranges("bytes=0-0,-1", 10_000), of(&[(0, 0), (9_999, 9_999)]));
        assert_eq!(
            ranges("bytes= 0-999, 4500-5499, -1000", 10_000),
            of(&[(0, 999), (4_500, 5_499), (9_000, 9_999)])
        );
        assert_eq!(ranges("bytes=500-600,601-999", 10_000), of(&[(500, 999)]));
        assert_eq!(ranges("bytes=500-700,601-999", 10_000), of(&[(500, 999)]));
    }

    #[test]
    fn a_range_that_is_malformed_or_of_another_unit_is_ignored() {
        for line in [
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=1",
            "bytes=--1",
            "bytes=+1-2",
            "lines=0-1",
            "bytes=0-1,x",
            "bytes=0x0-1",
            "bytes=-",
        ] {
            assert_eq!(ranges(line, 10_000), Wanted::Whole, "{line}");
        }
    }

    #[test]
    fn numbers_at_the_edge_of_64_bits_are_past_the_end_and_nothing_overflows() {
        let most = u64::MAX;
        assert_eq!(ranges(&format!("bytes=0-{most}"), 5), of(&[(0, 4)]));
        assert_eq!(ranges(&format!("bytes=-{most}"), 5), of(&[(0, 4)]));
        assert_eq!(ranges(&format!("bytes={most}-"), 5), Wanted::Unsatisfiable);
        assert_eq!(ranges("bytes=0-99999999999999999999999", 5), of(&[(0, 4)]));
        assert_eq!(ranges("bytes=99999999999999999999999-", 5), Wanted::Unsatisfiable);
    }

    #[test]
    fn nothing_of_an_empty_blob_can_be_had_by_range() {
        for line in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
            assert_eq!(ranges(line, 0), Wanted::Unsatisfiable, "{line}");
        }
        assert_eq!(ranges("bytes=-0", 5), Wanted::Unsatisfiable);
        assert_eq!(ranges("bytes=5-", 5), Wanted::Unsatisfiable);
    }

    #[test]
    fn many_ranges_cost_no_more_than_the_whole() {
        let many =
            |n: u64| (0..n).map(|i| format!("{}-{}", i * 10, i * 10 + 1)).collect::<Vec<_>>().join(",");
        assert!(
            matches!(ranges(&format!("bytes={}", many(16)), 1_000), Wanted::Ranges(found) if found.len() == 16)
        );
        assert_eq!(ranges(&format!("bytes={}", many(17)), 1_000), Wanted::Whole);
        assert_eq!(ranges("bytes=0-,0-,0-,0-,0-", 1_000), of(&[(0, 999)]));
        assert_eq!(ranges("bytes=900-,0-10,5-950", 1_000), of(&[(0, 999)]));
    }

    #[test]
    fn preconditions_come_before_ranges() {
        let with = |name: http::HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, "bytes=0-1".parse().expect("a header"));
            headers.insert(name, value.parse().expect("a header"));
            judge(&headers, TAG, 10)
        };
        assert_eq!(with(IF_NONE_MATCH, TAG), Wanted::NotModified);
        assert_eq!(with(IF_NONE_MATCH, "\"other\", W/\"sha256:aa\""), Wanted::NotModified);
        assert_eq!(with(IF_NONE_MATCH, "*"), Wanted::NotModified);
        assert_eq!(with(IF_NONE_MATCH, "\"other\""), of(&[(0, 1)]));
        assert_eq!(with(IF_MATCH, "W/\"sha256:aa\""), Wanted::PreconditionFailed);
        assert_eq!(with(IF_MATCH, TAG), of(&[(0, 1)]));
        assert_eq!(with(IF_RANGE, TAG), of(&[(0, 1)]));
        assert_eq!(with(IF_RANGE, "W/\"sha256:aa\""), Wanted::Whole);
        assert_eq!(with(IF_RANGE, "Wed, 21 Oct 2015 07:28:00 GMT"), Wanted::Whole);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_for_lies_within_and_is_not_longer_than_the_whole(line in "bytes=[-0-9, ]{0,60}", size in 0u64..200) {
            if let Wanted::Ranges(found) = ranges(&line, size) {
                proptest::prop_assert!(found.iter().all(|range| range.start < range.end && range.end <= size));
                proptest::prop_assert!(found.iter().map(|range| range.length()).sum::<u64>() <= size);
            }
        }
    }
}
