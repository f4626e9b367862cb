//! Tar headers as orlop writes them (POSIX ustar, pax where that is too short): the same for the same file every time.

use super::tree::{Device, DeviceClass, Meta, Mtime};

/// A tar is made of blocks of this many bytes.
pub const BLOCK: u64 = 512;
/// What ends an archive: two blocks of zeros.
pub const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'e> {
    File {
        size: u64,
    },
    /// A file with holes: its size with them, and the parts between them, `(offset, length)`, in order. The bytes of the
    /// parts follow, one after the other.
    Sparse {
        size: u64,
        parts: &'e [(u64, u64)],
    },
    Directory,
    Symlink(&'e [u8]),
    /// A further name of an entry before.
    Link(&'e [u8]),
    Fifo,
    Device(Device),
}

/// The header of an entry that nothing is known of but its path: owner and time are 0.
pub fn header(path: &str, entry: Entry<'_>) -> Vec<u8> {
    let mode = if entry == Entry::Directory { 0o755 } else { 0o644 };
    full_header(path.as_bytes(), entry, &Meta { mode, ..Meta::default() })
}

/// The header of an entry with all that is known of it, in as many blocks as it takes: one, unless something does not fit.
/// The bytes of a file follow, and [`padding`] for as many as follow.
pub fn full_header(path: &[u8], entry: Entry<'_>, meta: &Meta) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 * BLOCK as usize);
    let map = match entry {
        Entry::Sparse { parts, .. } => sparse_map(parts),
        _ => Vec::new(),
    };
    let stored = stored_bytes(entry) + map.len() as u64;
    let records = pax_records(path, entry, meta, stored);
    if !records.is_empty() {
        let of_records = Meta { mode: 0o644, ..Meta::default() };
        bytes.extend(block(b"pax", b'x', b"", &of_records, records.len() as u64, None));
        bytes.extend(&records);
        bytes.resize(bytes.len() + padding(records.len() as u64), 0);
    }
    let (kind, link, device): (u8, &[u8], _) = match entry {
        Entry::File { .. } | Entry::Sparse { .. } => (b'0', b"", None),
        Entry::Directory => (b'5', b"", None),
        Entry::Symlink(target) => (b'2', target, None),
        Entry::Link(target) => (b'1', target, None),
        Entry::Fifo => (b'6', b"", None),
        Entry::Device(device) => match device.class {
            DeviceClass::Block => (b'4', b"", Some(device)),
            DeviceClass::Character => (b'3', b"", Some(device)),
        },
    };
    bytes.extend(block(path, kind, link, meta, stored, device));
    bytes.extend(map);
    bytes
}

/// The bytes that follow the header of an entry.
pub fn stored_bytes(entry: Entry<'_>) -> u64 {
    match entry {
        Entry::File { size } => size,
        Entry::Sparse { parts, .. } => parts.iter().map(|(_, length)| length).sum(),
        Entry::Directory | Entry::Symlink(_) | Entry::Link(_) | Entry::Fifo | Entry::Device(_) => 0,
    }
}

/// The zeros behind so many bytes, up to the next block.
pub fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK) - size) as usize
}

/// The map of a sparse file, as GNU tar writes it before the bytes (its format 1.0): padded to a block.
fn sparse_map(parts: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", parts.len());
    for (offset, length) in parts {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

/// What does not fit into a header block.
fn pax_records(path: &[u8], entry: Entry<'_>, meta: &Meta, stored: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.extend(pax_record(key, value));
    if let Entry::Sparse { size, .. } = entry {
        add(b"GNU.sparse.major", b"1");
        add(b"GNU.sparse.minor", b"0");
        add(b"GNU.sparse.name", path);
        add(b"GNU.sparse.realsize", size.to_string().as_bytes());
    }
    if path.len() > 100 {
        add(b"path", path);
    }
    if let Entry::Symlink(target) | Entry::Link(target) = entry
        && target.len() > 100
    {
        add(b"linkpath", target);
    }
    if stored >= 1 << 33 && !matches!(entry, Entry::File { .. }) {
        add(b"size", stored.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", meta.uid), (b"gid", meta.gid)] {
        if id >= 1 << 21 {
            add(key, id.to_string().as_bytes());
        }
    }
    let Mtime { seconds, nanos } = meta.mtime;
    if nanos > 0 || !(0..1 << 33).contains(&seconds) {
        add(b"mtime", time_text(meta.mtime).as_bytes());
    }
    for (name, value) in &meta.xattrs {
        add(&[b"SCHILY.xattr.", &**name].concat(), value);
    }
    records
}

/// Decimal seconds; a fraction of a time before 1970 counts away from zero.
fn time_text(Mtime { seconds, nanos }: Mtime) -> String {
    let (sign, seconds, nanos) = match seconds < 0 {
        true if nanos > 0 => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
        true => ("-", seconds.unsigned_abs(), 0),
        false => ("", seconds.unsigned_abs(), nanos),
    };
    match nanos {
        0 => format!("{sign}{seconds}"),
        nanos => format!("{sign}{seconds}.{nanos:09}").trim_end_matches('0').to_owned(),
    }
}

/// One header block, with as much of the path and the link as there is room for.
fn block(
    path: &[u8],
    kind: u8,
    link: &[u8],
    meta: &Meta,
    size: u64,
    device: Option<Device>,
) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let name = &path[..path.len().min(100)];
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], u64::from(meta.mode));
    octal(&mut block[108..116], u64::from(meta.uid).min((1 << 21) - 1));
    octal(&mut block[116..124], u64::from(meta.gid).min((1 << 21) - 1));
    match size < 1 << 33 {
        true => octal(&mut block[124..136], size),
        // Eleven octal digits are too few: the number itself, marked by its first bit, as all readers take it.
        false => {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
    }
    octal(&mut block[136..148], meta.mtime.seconds.clamp(0, (1 << 33) - 1).unsigned_abs());
    block[156] = kind;
    let link = &link[..link.len().min(100)];
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    if let Some(device) = device {
        octal(&mut block[329..337], u64::from(device.major));
        octal(&mut block[337..345], u64::from(device.minor));
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    octal(&mut block[148..155], u64::from(sum));
    block
}

/// Digits up to the last byte of the field, which is NUL.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    // A device of more digits than there is room for: only the last of them, as all writers do.
    field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
    field[digits] = 0;
}

/// `LENGTH key=value\n`, where the length counts its own digits.
fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use proptest::prelude::*;

    use super::*;

    async fn read_back(archive: Vec<u8>) -> (String, u64) {
        let mut archive = tokio_tar::Archive::new(std::io::Cursor::new(archive));
        let mut entries = archive.entries().expect("an archive");
        let entry = entries.next().await.expect("an entry").expect("a good one");
        let path = entry.path().expect("a path").display().to_string();
        (path, entry.effective_size())
    }

    proptest! {
        #[test]
        fn another_reader_finds_path_and_size(path in "[a-z0-9]{1,100}(/[a-z0-9]{1,150})?", size in 0..u64::MAX / 2) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let found = runtime.block_on(read_back(header(&path, Entry::File { size })));
            prop_assert_eq!(found, (path, size));
        }
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for length in 1..200 {
            let record = String::from_utf8(pax_record(b"path", "x".repeat(length).as_bytes())).expect("text");
            assert_eq!(record.split(' ').next(), Some(record.len().to_string().as_str()));
        }
    }
}
