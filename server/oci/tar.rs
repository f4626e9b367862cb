//! Tar headers as orlop writes them (POSIX ustar, pax where that is too short): the same for the same file every time.

/// A tar is made of blocks of this many bytes.
pub const BLOCK: u64 = 512;
/// What ends an archive: two blocks of zeros.
pub const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    File { size: u64 },
    Directory,
}

/// The header of an entry: one block, or three where the path does not fit in one. Owner and time are 0.
///
/// # Panics
/// For a path of more than 255 bytes: orlop writes none.
pub fn header(path: &str, entry: Entry) -> Vec<u8> {
    assert!(path.len() < 256, "paths of an image layout are short");
    let mut bytes = Vec::with_capacity(3 * BLOCK as usize);
    if path.len() > 100 {
        let record = pax_record("path", path);
        bytes.extend(block("pax", b'x', 0o644, record.len() as u64));
        bytes.extend(record.as_bytes());
        bytes.resize(2 * BLOCK as usize, 0);
    }
    let (kind, mode, size) = match entry {
        Entry::File { size } => (b'0', 0o644, size),
        Entry::Directory => (b'5', 0o755, 0),
    };
    bytes.extend(block(path, kind, mode, size));
    bytes
}

/// The zeros behind a file of this size, up to the next block.
pub fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK) - size) as usize
}

/// One header block, with as much of the path as there is room for.
fn block(path: &str, kind: u8, mode: u32, size: u64) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let name = &path.as_bytes()[..path.len().min(100)];
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], u64::from(mode));
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    match size < 1 << 33 {
        true => octal(&mut block[124..136], size),
        // Eleven octal digits are too few: the number itself, marked by its first bit, as all readers take it.
        false => {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
    }
    octal(&mut block[136..148], 0);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    octal(&mut block[148..155], u64::from(sum));
    block
}

/// Digits up to the last byte of the field, which is NUL.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    field[digits] = 0;
}

/// `LENGTH key=value\n`, where the length counts its own digits.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
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
            let record = pax_record("path", &"x".repeat(length));
            assert_eq!(record.split(' ').next(), Some(record.len().to_string().as_str()));
        }
    }
}
