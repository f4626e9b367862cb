//! Whether what comes can be an archive at all, by its first bytes; and if not, what it seems to be.

use super::refuse;
use crate::error::Result;
use crate::oci::digest::excerpt;
use crate::oci::tar::BLOCK;
use crate::unpack::Compression;

/// What some files begin with that are sent by mistake.
const KINDS: [(&[u8], &str); 10] = [
    (b"PK\x03\x04", "a zip file"),
    (b"\x7fELF", "a program"),
    (b"hsqs", "a squashfs"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
    (b"QFI\xfb", "the image of a disk (qcow2)"),
    (b"SQLite format 3\0", "a database"),
    (b"!<arch>\n", "a Debian package or a library"),
    (b"%PDF-", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
];

/// Judges the first block of what comes, without its compression.
///
/// # Errors
/// `ValidationFailed` when no tar begins so, with what it looks like.
pub(super) fn check_first_block(first: &[u8], compression: Compression) -> Result<()> {
    if can_begin_tar(first) {
        return Ok(());
    }
    let what = match compression {
        Compression::None => look(first),
        Compression::Gzip => format!("a gzip of {}", look(first)),
        Compression::Zstd => format!("a zstd of {}", look(first)),
        Compression::Foreign(name) => format!("packed with {name}"),
    };
    let what = if what == NOTHING { "empty".to_owned() } else { what };
    Err(refuse(format!("this is no archive of images: it is {what}")))
}

/// Whether a block may be the header of an entry, if a damaged one; or the end of an archive without any.
fn can_begin_tar(block: &[u8]) -> bool {
    block.len() as u64 == BLOCK
        && (block[257..262] == *b"ustar" || has_checksum(block) || block.iter().all(|byte| *byte == 0))
}

/// The sum of all bytes, those of the sum taken as blanks, in octal digits (POSIX, *ustar Interchange Format*). Archives from
/// before POSIX have no other mark.
fn has_checksum(block: &[u8]) -> bool {
    let said = std::str::from_utf8(&block[148..156]).unwrap_or_default();
    let said = u32::from_str_radix(said.trim_matches([' ', '\0']), 8);
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    said == Ok(sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]))
}

const NOTHING: &str = "nothing";

fn look(first: &[u8]) -> String {
    if first.is_empty() {
        return NOTHING.to_owned();
    }
    if let Some((_, kind)) = KINDS.iter().find(|(magic, _)| first.starts_with(magic)) {
        return (*kind).to_owned();
    }
    match Compression::of(first) {
        Compression::None => {}
        Compression::Gzip => return "a gzip".to_owned(),
        Compression::Zstd => return "a zstd".to_owned(),
        Compression::Foreign(name) => return format!("packed with {name}"),
    }
    let Some(text) = text_of(first) else {
        let bytes: Vec<String> = first.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return format!("bytes that begin with {}", bytes.join(" "));
    };
    let begins = |words: &str| text.get(..words.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(words));
    match () {
        () if begins("<!doctype html") || begins("<html") => {
            "an HTML page, as a proxy or a login page answers".to_owned()
        }
        () if begins("<") => "XML".to_owned(),
        () if text.contains("\"schemaVersion\"") => "JSON, a manifest or an index alone".to_owned(),
        () if begins("{") || begins("[") => "JSON".to_owned(),
        () => {
            let line: String = text.lines().next().unwrap_or_default().chars().take(40).collect();
            format!("text, which begins with `{}`", excerpt(&line))
        }
    }
}

/// The bytes as text, from its first word on; of one that is cut in the middle of a sign, what is before that.
fn text_of(bytes: &[u8]) -> Option<&str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(cut) if cut.error_len().is_none() => std::str::from_utf8(&bytes[..cut.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let is_plain = |c: char| !c.is_control() || c.is_ascii_whitespace();
    let text = text.trim_start();
    (!text.is_empty() && text.chars().all(is_plain)).then_some(text)
}
