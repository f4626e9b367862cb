//! Text for a terminal: what a server sent made harmless, sizes and times made readable, tables.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

/// The text with every character that could steer a terminal, or reorder what is read, written as an escape.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => {
                let _ = write!(safe, "\\x{:02x}", c as u32);
            }
            c if is_unsafe(c) => {
                let _ = write!(safe, "\\u{{{:x}}}", c as u32);
            }
            c => safe.push(c),
        }
    }
    safe
}

/// Controls (a C1 control is an escape sequence to some terminals), line separators, and the marks that turn the
/// direction of writing.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line of JSON that is safe to show: serde escapes only the C0 controls.
pub fn to_json(value: &Value) -> String {
    json_safe(&value.to_string())
}

pub fn to_pretty_json(value: &Value) -> String {
    // A line break outside a string is layout; inside one serde has escaped it.
    let pretty = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
    pretty.lines().map(json_safe).collect::<Vec<_>>().join("\n")
}

fn json_safe(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unsafe(c) {
            // Such a character stands only inside strings, and all of them have four digits.
            let _ = write!(safe, "\\u{:04x}", c as u32);
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Bytes in powers of 1024 with one decimal: `980.1 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `412.3/980.1 MiB`: both in the unit of the second.
pub fn human_part(part: u64, whole: u64) -> String {
    let (whole_text, part_text) = (human_bytes(whole), human_bytes(part));
    let (Some((_, unit)), Some((number, part_unit))) =
        (whole_text.split_once(' '), part_text.split_once(' '))
    else {
        return format!("{part_text}/{whole_text}");
    };
    if unit == part_unit { format!("{number}/{whole_text}") } else { format!("{part_text}/{whole_text}") }
}

/// `0:09`, `12:30`, `1:02:03`.
pub fn clock_time(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A length of time in its two largest units: `3d 4h`, `5m 2s`.
pub fn human_time(length: Duration) -> String {
    let seconds = length.as_secs();
    let units =
        [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let from = units.iter().position(|(_, n)| *n > 0).unwrap_or(units.len() - 1);
    let shown = units[from..].iter().take(2).filter(|(unit, n)| *n > 0 || (*unit == "s" && from == 3));
    shown.map(|(unit, n)| format!("{n}{unit}")).collect::<Vec<_>>().join(" ")
}

/// A digest as a person tells it apart: its algorithm and twelve digits.
pub fn short_digest(digest: &str) -> String {
    match digest.split_once(':') {
        Some((algorithm, hex)) => format!("{algorithm}:{}", hex.chars().take(12).collect::<String>()),
        None => digest.to_owned(),
    }
}

/// A platform of the API's as it is written: `linux/arm64/v8`, `windows(10.0.20348.1)/amd64`. None without its two names.
pub fn platform(platform: &Value) -> Option<String> {
    let part = |name: &str| platform.get(name).and_then(Value::as_str).filter(|part| !part.is_empty());
    let (os, architecture) = (part("os")?, part("architecture")?);
    let version = part("os_version").map(|version| format!("({version})")).unwrap_or_default();
    let variant = part("variant").map(|variant| format!("/{variant}")).unwrap_or_default();
    Some(format!("{os}{version}/{architecture}{variant}"))
}

/// Rows below a header, columns as wide as their widest cell, two spaces between; the last is not padded.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escape(cell)).collect()).collect();
    let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&header).filter(|row| !row.iter().all(String::is_empty)).chain(&cells) {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_server_sends_steers_the_terminal() {
        assert_eq!(escape("a\u{1b}[31mb\n\u{9b}2J\u{202e}é"), "a\\x1b[31mb\\x0a\\x9b2J\\u{202e}é");
        let json = to_json(&Value::String("\u{1b}\u{9b}\u{7f}\u{2028}é".to_owned()));
        assert_eq!(json, "\"\\u001b\\u009b\\u007f\\u2028é\"");
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), "\u{1b}\u{9b}\u{7f}\u{2028}é");
    }

    #[test]
    fn sizes_and_times_are_readable() {
        assert_eq!(human_bytes(5), "5 B");
        assert_eq!(human_bytes(1_048_575), "1.0 MiB");
        assert_eq!(human_part(432_327_884, 1_027_708_518), "412.3/980.1 MiB");
        assert_eq!(human_part(5, 2048), "5 B/2.0 KiB");
        assert_eq!((clock_time(9), clock_time(3723)), ("0:09".to_owned(), "1:02:03".to_owned()));
        assert_eq!(human_time(Duration::from_secs(90_061)), "1d 1h");
        assert_eq!(human_time(Duration::from_secs(3600)), "1h");
        assert_eq!(human_time(Duration::ZERO), "0s");
    }

    #[test]
    fn a_table_lines_up_and_escapes_its_cells() {
        let rows = [vec!["a".to_owned(), "x\u{7}".to_owned()], vec!["bbbb".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID    NAME\na     x\\x07\nbbbb\n");
    }
}
