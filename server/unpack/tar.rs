//! The tar of a layer, entry by entry (POSIX pax, GNU and old forms). What two readers could take for two different things
//! is refused: a record that is no record, a size that nothing has room for, a lone block of zeros.

use tar_core::parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, SparseEntry};

use super::decompress::Pieces;
use super::watch::invalid;
use crate::error::{Error, Result};
use crate::limits;
use crate::oci::digest::excerpt;
use crate::oci::tree::{Change, Content, Device, DeviceClass, Meta, Mtime, PATH_BYTES, What, Xattrs};

const BLOCK: usize = 512;
/// The largest user or group id: beyond it are those that some systems take for none, or for a negative one.
const LARGEST_ID: u64 = (1 << 31) - 1;
/// How many bytes a sparse file's map may have, as text.
const MAP_BYTES: usize = 1 << 20;
/// What a name and a value of an extended attribute may have (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const XATTR_NAME_BYTES: usize = 255;
const XATTR_VALUE_BYTES: usize = 64 << 10;
/// Attributes that mean something to the kernel or to us where a layer is kept: from a layer they would be lies.
const OUR_XATTRS: [&[u8]; 3] = [b"trusted.", b"user.overlay.", b"user.containers."];

/// A tar that is being read.
pub struct Tar<'p> {
    pieces: &'p mut Pieces,
    parser: Parser,
    /// What has come and is not read yet: from `at` on.
    window: Vec<u8>,
    at: usize,
    /// Where in the tar `window[at]` is.
    offset: u64,
    /// Bytes of the entry in hand that are still to come, and the zeros behind them.
    left: u64,
    padding: u64,
    entries: usize,
}

impl<'p> Tar<'p> {
    pub fn new(pieces: &'p mut Pieces) -> Tar<'p> {
        let limits = Limits {
            max_metadata_size: limits::ARCHIVE_HEADER_BYTES as u32,
            max_path_len: Some(PATH_BYTES as u32),
            ..Limits::default()
        };
        let mut parser = Parser::new(limits);
        // Every record is looked at below: the parser would take a time before 1970 for an error.
        parser.set_ignore_pax_errors(true);
        let window = Vec::new();
        Tar { pieces, parser, window, at: 0, offset: 0, left: 0, padding: 0, entries: 0 }
    }

    /// The next entry; `None` at the end. Its bytes, if it is a file, are read with [`Tar::bytes`] before the next is asked
    /// for, or not at all.
    ///
    /// # Errors
    /// `ValidationFailed` for what is no tar, and for entries that are no files; as the pieces' own.
    pub fn next(&mut self) -> Result<Option<Change>> {
        while self.bytes()?.is_some() {}
        self.skip(self.padding)?;
        self.padding = 0;
        loop {
            self.check_zeros()?;
            let before = self.window.len() - self.at;
            let taken = match self.parser.parse(&self.window[self.at..]) {
                Ok(ParseEvent::NeedData { .. }) => Taken::More,
                Ok(ParseEvent::End { consumed: _ }) => return Ok(None),
                Ok(ParseEvent::GlobalExtensions { consumed, .. }) => Taken::Nothing(consumed),
                Ok(ParseEvent::Entry { consumed, entry }) => {
                    Taken::Entry(consumed, read_entry(&entry, None, self.offset + consumed as u64)?)
                }
                Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size }) => {
                    let map = Some((sparse_map, real_size));
                    Taken::Entry(consumed, read_entry(&entry, map, self.offset + consumed as u64)?)
                }
                Err(error) => return Err(explain(&error)),
            };
            match taken {
                Taken::Nothing(consumed) => self.pass(consumed),
                Taken::Entry(consumed, (change, stored)) => {
                    self.pass(consumed);
                    self.entries += 1;
                    if self.entries > limits::LAYER_ENTRIES {
                        let most = limits::LAYER_ENTRIES;
                        return Err(invalid(format!("the layer has more than {most} entries")));
                    }
                    self.left = stored;
                    self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
                    return Ok(Some(change));
                }
                Taken::More if before > limits::ARCHIVE_HEADER_BYTES as usize + MAP_BYTES => {
                    return Err(invalid("the layer has a header without an end".to_owned()));
                }
                Taken::More if self.refill()? => {}
                // Some that write tars leave out the blocks of zeros at the end; nothing is missing then.
                Taken::More if self.is_at_end() => return Ok(None),
                Taken::More => return Err(cut_short()),
            }
        }
    }

    /// The next bytes of the entry in hand; `None` at its end.
    ///
    /// # Errors
    /// `ValidationFailed` where the tar ends before; as the pieces' own.
    pub fn bytes(&mut self) -> Result<Option<&[u8]>> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.at == self.window.len() && !self.refill()? {
            return Err(cut_short());
        }
        let from = self.at;
        let there = self.window.len() - from;
        let taken = usize::try_from(self.left).unwrap_or(there).min(there);
        self.pass(taken);
        self.left -= taken as u64;
        Ok(Some(&self.window[from..from + taken]))
    }

    fn pass(&mut self, bytes: usize) {
        self.at += bytes;
        self.offset += bytes as u64;
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            if self.at == self.window.len() && !self.refill()? {
                // The zeros behind the last file may be missing as well.
                return Ok(());
            }
            let there = (self.window.len() - self.at) as u64;
            let skipped = there.min(bytes);
            self.pass(skipped as usize);
            bytes -= skipped;
        }
        Ok(())
    }

    /// Adds what comes next to what is left; whether anything came.
    fn refill(&mut self) -> Result<bool> {
        if self.at == self.window.len() {
            let done = std::mem::take(&mut self.window);
            self.at = 0;
            let Some(piece) = self.pieces.next(done)? else { return Ok(false) };
            self.window = piece;
            return Ok(true);
        }
        let Some(piece) = self.pieces.next(Vec::new())? else { return Ok(false) };
        self.window.drain(..self.at);
        self.at = 0;
        self.window.extend_from_slice(&piece);
        Ok(true)
    }

    fn is_at_end(&self) -> bool {
        self.window[self.at..].iter().all(|byte| *byte == 0) && self.window.len() - self.at <= BLOCK
    }

    /// A block of zeros is the end, and the next is one too. Alone, some readers stop at it and others go on.
    fn check_zeros(&mut self) -> Result<()> {
        let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let rest = &self.window[self.at..];
        if rest.len() < BLOCK || !is_zero(&rest[..BLOCK]) {
            return Ok(());
        }
        while self.window.len() - self.at < 2 * BLOCK {
            if !self.refill()? {
                return Ok(());
            }
        }
        match is_zero(&self.window[self.at + BLOCK..self.at + 2 * BLOCK]) {
            true => Ok(()),
            false => Err(invalid("the layer goes on after a block of zeros, which is its end".to_owned())),
        }
    }
}

/// What came of a look at the window: how many bytes it took.
enum Taken {
    More,
    Nothing(usize),
    /// And how many bytes of the file follow.
    Entry(usize, (Change, u64)),
}

fn cut_short() -> Error {
    invalid("the layer's tar is cut short".to_owned())
}

/// A parser's failure in our words. It may repeat what the archive says.
fn explain(error: &ParseError) -> Error {
    invalid(format!("the layer's tar is damaged, or is none: {}", excerpt(&error.to_string())))
}

/// The entry as a change, and how many bytes of it follow in the tar.
fn read_entry(
    entry: &ParsedEntry<'_>,
    sparse: Option<(Vec<SparseEntry>, u64)>,
    offset: u64,
) -> Result<(Change, u64)> {
    let path = entry.path.to_vec();
    let refuse = |why: &'static str| refused(&path, why);
    let pax = Pax::read(entry.pax.unwrap_or_default()).map_err(refuse)?;
    check_numbers(entry).map_err(refuse)?;
    let id = |id: u64| match id <= LARGEST_ID {
        true => Ok(id as u32),
        false => Err(refuse("has a user or group id that is larger than any")),
    };
    let meta = Meta {
        mode: entry.mode & 0o7777,
        uid: id(entry.uid)?,
        gid: id(entry.gid)?,
        // The parser keeps the bits of a negative number.
        mtime: pax.mtime.unwrap_or(Mtime { seconds: entry.mtime.cast_signed(), nanos: 0 }),
        xattrs: read_xattrs(entry).map_err(refuse)?,
    };
    let target = || match &entry.link_target {
        Some(target) => Ok(target.to_vec()),
        None => Err(refuse("is a link that leads nowhere")),
    };
    let device = |class| match (entry.dev_major, entry.dev_minor) {
        (Some(major), Some(minor)) => Ok(What::Device(Device { class, major, minor })),
        _ => Err(refuse("is a device without a number")),
    };
    let what = match entry.entry_type {
        _ if sparse.is_some() => {
            let (map, size) = sparse.unwrap_or_default();
            let parts = read_map(map, size).map_err(refuse)?;
            let content = Content { size, offset, parts: Some(parts) };
            let stored = content.stored_bytes();
            // A map that stands before the bytes counts in the size that pax gives, and not in the header's.
            let is_right = entry.size == stored || (pax.has_size && entry.size > stored);
            if !is_right {
                return Err(refuse("is a sparse file whose parts are not its size"));
            }
            return Ok((Change { path, what: What::File(content), meta }, stored));
        }
        // Before POSIX, a directory was a file whose name ends so.
        EntryType::Regular if entry.header.as_bytes()[156] == 0 && path.ends_with(b"/") => What::Directory,
        EntryType::Regular | EntryType::Continuous => {
            let content = Content { size: entry.size, offset, parts: None };
            return Ok((Change { path, what: What::File(content), meta }, entry.size));
        }
        EntryType::Directory => What::Directory,
        EntryType::Link => What::Link(target()?),
        EntryType::Symlink => What::Symlink(target()?),
        EntryType::Char => device(DeviceClass::Character)?,
        EntryType::Block => device(DeviceClass::Block)?,
        EntryType::Fifo => What::Fifo,
        EntryType::GnuLongName
        | EntryType::GnuLongLink
        | EntryType::GnuSparse
        | EntryType::XHeader
        | EntryType::XGlobalHeader
        | EntryType::Other(_) => return Err(refuse("is of a type that no layer has")),
    };
    // No bytes follow those, whatever size they name: so it is with all readers that count.
    Ok((Change { path, what, meta }, 0))
}

pub(super) fn refused(path: &[u8], why: &str) -> Error {
    invalid(format!("`{}` in the layer {why}", excerpt(&String::from_utf8_lossy(path))))
}

/// Numbers that do not fit are cut by the parser, and would be other numbers.
fn check_numbers(entry: &ParsedEntry<'_>) -> Result<(), &'static str> {
    let header = entry.header.as_bytes();
    for field in [&header[108..116], &header[116..124], &header[124..136]] {
        let room = field.len() - 8;
        let is_binary = field[0] & 0x80 != 0;
        let is_small = match room {
            0 => field[0] == 0x80,
            _ => field[0] == 0x80 && field[1..room].iter().all(|byte| *byte == 0),
        };
        if is_binary && !is_small {
            return Err("has a size or an owner that is no number, or larger than any");
        }
    }
    if entry.size > i64::MAX as u64 {
        return Err("is larger than any file");
    }
    Ok(())
}

/// What is read of pax records beside what the parser does.
#[derive(Default)]
struct Pax {
    mtime: Option<Mtime>,
    has_size: bool,
}

impl Pax {
    /// Looks at every record: `LENGTH KEY=VALUE\n` (POSIX, *pax Header Block*).
    fn read(mut records: &[u8]) -> Result<Pax, &'static str> {
        const BROKEN: &str = "has a pax record that is none";
        let mut pax = Pax::default();
        while !records.is_empty() {
            let space = records.iter().take(20).position(|byte| *byte == b' ').ok_or(BROKEN)?;
            let digits = std::str::from_utf8(&records[..space]).map_err(|_| BROKEN)?;
            let length: usize = digits.parse().map_err(|_| BROKEN)?;
            let record = records.get(space + 1..length).ok_or(BROKEN)?;
            let [record @ .., b'\n'] = record else { return Err(BROKEN) };
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BROKEN)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                // The parser compares keys as text.
                key if std::str::from_utf8(key).is_err() => return Err(BROKEN),
                b"mtime" => pax.mtime = Some(read_time(value).ok_or("has a time that is none")?),
                b"size" | b"uid" | b"gid" => {
                    pax.has_size |= key == b"size";
                    let text = std::str::from_utf8(value).map_err(|_| BROKEN)?;
                    let is_number = !text.starts_with('+') && text.parse::<u64>().is_ok();
                    if !is_number {
                        return Err("has a size or an owner that is no number, or larger than any");
                    }
                }
                b"path" | b"linkpath" | b"GNU.sparse.name" if value.contains(&0) => {
                    return Err("has a NUL in its path");
                }
                key if key.starts_with(b"GNU.sparse.") && std::str::from_utf8(value).is_err() => {
                    return Err(BROKEN);
                }
                _ => {}
            }
            records = &records[length..];
        }
        Ok(pax)
    }
}

/// Decimal seconds with a fraction, which may be negative: what is finer than a nanosecond is cut off.
fn read_time(text: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = whole.starts_with('-');
    if whole.starts_with('+') || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    Some(match is_negative && nanos > 0 {
        // A fraction counts away from zero in the text, and upwards in a time.
        true => Mtime { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos },
        false => Mtime { seconds, nanos },
    })
}

/// The parts of a sparse file, in order, those without bytes left out.
fn read_map(map: Vec<SparseEntry>, size: u64) -> Result<Box<[(u64, u64)]>, &'static str> {
    const BROKEN: &str =
        "is a sparse file that is larger than any, or whose parts are not in it, or not in order";
    if size > limits::SPARSE_FILE_BYTES {
        return Err(BROKEN);
    }
    let mut end = 0;
    let mut parts = Vec::new();
    for SparseEntry { offset, length } in map {
        let next = offset.checked_add(length).ok_or(BROKEN)?;
        if offset < end || next > size {
            return Err(BROKEN);
        }
        end = next;
        if length > 0 {
            parts.push((offset, length));
        }
    }
    Ok(parts.into())
}

fn read_xattrs(entry: &ParsedEntry<'_>) -> Result<Xattrs, &'static str> {
    let mut xattrs: Xattrs = Vec::new();
    for (name, value) in &entry.xattrs {
        if OUR_XATTRS.iter().any(|ours| name.starts_with(ours)) {
            continue;
        }
        if name.is_empty() || name.len() > XATTR_NAME_BYTES || name.contains(&0) {
            return Err("has an extended attribute whose name is none");
        }
        if value.len() > XATTR_VALUE_BYTES {
            return Err("has an extended attribute that is larger than any");
        }
        // As with all records, the last of a key counts.
        xattrs.retain(|(known, _)| **known != **name);
        xattrs.push((Box::from(&**name), Box::from(&**value)));
    }
    xattrs.sort();
    Ok(xattrs)
}
