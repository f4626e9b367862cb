//! Numbers, times and names as the pages show them. `web/static/orlop.js` says the same in the same words: a value
//! must not change its shape when it becomes live.

use crate::clock::Time;

/// For a value that is not known.
pub const NONE: &str = "–";

/// A count of bytes in IEC units, with one decimal below 100: `64 B`, `9.1 KiB`, `980 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // What would be printed as 1024 of a unit is 1.0 of the next.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 99.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A count with a thin space between thousands: `12 480`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 * 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// So many of a thing: `1 blob`, `12 480 blobs`.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A length of time in its largest unit: `12 s`, `4 m`, `2 h`, `3 d`.
pub fn roughly(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} m", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A length of time in its two largest units, for what runs down: `9 m 05 s`, `2 h 10 m`, `3 d 4 h`.
pub fn precisely(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A length of time as a stop watch has it: `0:09`, `3:41`, `1:02:03`.
pub fn watch(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    if hours == 0 { format!("{minutes}:{rest:02}") } else { format!("{hours}:{minutes:02}:{rest:02}") }
}

/// A name cut in two, so that what is too long loses its middle: the first part shrinks, the second never does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub whole: String,
    pub head: String,
    pub tail: String,
    /// Whether the cut is at a slash, and so worth showing.
    pub apart: bool,
}

impl Name {
    /// The second part is what stands after the last slash, as far as it is short.
    pub fn new(text: &str) -> Name {
        const LONGEST_TAIL: usize = 24;
        let after_slash = text.rfind('/').map_or(0, |at| at + 1);
        let starts = text.char_indices().map(|(at, _)| at);
        let tail_start = starts.rev().take(LONGEST_TAIL).last().unwrap_or(0).max(after_slash);
        let (head, tail) = text.split_at(tail_start);
        let apart = tail_start == after_slash;
        Name { whole: text.to_owned(), head: head.to_owned(), tail: tail.to_owned(), apart }
    }
}

/// A digest as tables show it: 12 digits, the algorithm only where it is not the usual one.
pub fn short_digest(digest: &str) -> String {
    const DIGITS: usize = 12;
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("", digest));
    let shown: String = hex.chars().take(DIGITS).collect();
    if algorithm == "sha256" { format!("{shown}…") } else { format!("{algorithm}:{shown}…") }
}

/// A point in time for people: `2026-11-21 10:00:00 UTC`.
pub fn utc(time: Time) -> String {
    let iso = time.to_string();
    format!("{} UTC", iso.get(..19).unwrap_or(&iso).replace('T', " "))
}

/// A point in time: for programs, for people, and how long ago it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub iso: String,
    pub utc: String,
    pub ago: String,
}

impl Moment {
    pub fn new(time: Time, now: Time) -> Moment {
        let iso = time.to_string();
        Moment { utc: utc(time), ago: format!("{} ago", roughly(now.since(time).as_secs())), iso }
    }
}

/// When something ends, and how long that is from now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    pub at: Moment,
    pub left: String,
    /// Within ten minutes.
    pub soon: bool,
}

impl Ends {
    pub fn new(time: Time, now: Time) -> Ends {
        const SOON: u64 = 600;
        let left = time.since(now).as_secs();
        Ends { at: Moment::new(time, now), left: precisely(left), soon: left < SOON }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_decimal_below_a_hundred_and_never_say_1024() {
        let shown = [0, 1023, 1024, 9_318, 102_348, 102_400, 1_048_063, 1_048_064, 1 << 30, u64::MAX];
        let shown: Vec<String> = shown.into_iter().map(bytes).collect();
        let expected =
            ["0 B", "1023 B", "1.0 KiB", "9.1 KiB", "99.9 KiB", "100 KiB", "1023 KiB", "1.0 MiB", "1.0 GiB"];
        assert_eq!(shown[..9], expected);
        assert_eq!(shown[9], "16.0 EiB");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(999), "999");
    }

    #[test]
    fn lengths_of_time_are_as_fine_as_their_use() {
        assert_eq!([5, 65, 7_260, 90_000].map(roughly), ["5 s", "1 m", "2 h", "1 d"]);
        assert_eq!([5, 65, 7_260, 90_000].map(precisely), ["5 s", "1 m 05 s", "2 h 01 m", "1 d 1 h"]);
        assert_eq!([9, 221, 3_723].map(watch), ["0:09", "3:41", "1:02:03"]);
    }

    #[test]
    fn a_name_keeps_its_last_part_whole_and_a_digest_its_first() {
        let name = Name::new("registry.example/team/app:1.8");
        assert_eq!((&*name.head, &*name.tail), ("registry.example/team/", "app:1.8"));
        let name = Name::new(&"é".repeat(40));
        assert_eq!((name.head.chars().count(), name.tail.chars().count(), name.apart), (16, 24, false));
        assert_eq!(Name::new("").tail, "");
        assert_eq!(short_digest(&format!("sha256:{}", "ab".repeat(32))), "abababababab…");
        assert_eq!(short_digest("sha512:0123456789abcdef"), "sha512:0123456789ab…");
    }
}
