//! One of two unsafe modules: a read that never waits, into memory that nobody cleared first.
//!
//! Ranged reads are the hottest path there is. Clearing each buffer before the kernel fills it costs a tenth of a
//! 64 KiB range and a quarter of a full read, and no safe wrapper takes both uninitialised memory and flags.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Up to `limit` bytes of `file` at `offset`, if the page cache has them (`preadv2(2)` with `RWF_NOWAIT`).
///
/// # Errors
/// `WouldBlock` when the first byte is not cached, `Unsupported` when the file system cannot tell.
pub(super) fn read_cached(file: &File, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
    let offset = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut bytes: Vec<u8> = Vec::with_capacity(limit);
    let target = libc::iovec { iov_base: bytes.spare_capacity_mut().as_mut_ptr().cast(), iov_len: limit };
    // SAFETY: `target` is one vector over `limit` bytes of spare capacity that this function alone holds, and the
    // descriptor is open for as long as `file` is borrowed.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const target, 1, offset, libc::RWF_NOWAIT) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written the first `read` bytes, and says so only of at most `limit`.
    unsafe { bytes.set_len(read) };
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_is_empty_and_one_across_it_is_short() {
        let mut file = tempfile::tempfile().expect("a file");
        io::Write::write_all(&mut file, b"cargo").expect("written");
        assert_eq!(read_cached(&file, 3, 10).expect("cached"), b"go");
        assert_eq!(read_cached(&file, 5, 10).expect("cached"), b"");
        assert!(read_cached(&file, u64::MAX, 1).is_err());
    }
}
