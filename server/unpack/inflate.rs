//! The other unsafe module: zlib's own interface, which tells where a block ends and goes on from there.
//!
//! `flate2` and the safe interface of `zlib-rs` decode from the first byte on, or not at all: neither tells how many bits of
//! a byte a block has left, nor takes them back. The calls here are those of zlib's example `zran.c`. The decoder behind
//! them is `zlib-rs`, in Rust, which `flate2` uses as well.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;

use libz_rs_sys as zlib;

/// How far back deflate looks (RFC 1951, section 2).
pub(super) const WINDOW_BYTES: usize = 32 << 10;

/// `windowBits` of zlib: a member of gzip with its header and its sums, and deflate alone.
const GZIP: c_int = 16 + 15;
const RAW: c_int = -15;

/// A decoder of one member of gzip after the other.
pub(super) struct Inflater {
    /// Boxed, as zlib lets a state point back at its stream. Between two calls it points at no bytes.
    stream: Box<zlib::z_stream>,
}

/// Where a call ends before there is no more room, or no more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    AtEnd,
    AtBlock,
}

/// What one call came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub read: usize,
    pub written: usize,
    pub reached: Reached,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    Inside,
    /// A block follows. So many bits of the last byte that was read are part of it, the upper ones: fewer than eight.
    Block {
        unused_bits: u8,
    },
    End,
}

impl Inflater {
    /// At the header of a member.
    pub fn new() -> io::Result<Inflater> {
        Inflater::of(GZIP)
    }

    /// At the beginning of a block, with the bits that belong to it of the byte before, and what stands before it in the
    /// member. Its end is the end of deflate: the member's sums are not read.
    pub fn resume(unused_bits: u8, unused: u8, window: &[u8]) -> io::Result<Inflater> {
        let mut inflater = Inflater::of(RAW)?;
        let length = u32::try_from(window.len()).map_err(|_| refused())?;
        // SAFETY: the stream was opened above. zlib refuses a number of bits that it cannot take.
        check(unsafe { zlib::inflatePrime(&raw mut *inflater.stream, unused_bits.into(), unused.into()) })?;
        // SAFETY: as above; `window` is as long as it is said to be, and is copied.
        check(unsafe { zlib::inflateSetDictionary(&raw mut *inflater.stream, window.as_ptr(), length) })?;
        Ok(inflater)
    }

    fn of(window_bits: c_int) -> io::Result<Inflater> {
        let mut stream = Box::new(zlib::z_stream::default());
        let size = size_of::<zlib::z_stream>() as c_int;
        // SAFETY: the stream is a new one with an allocator, of the version and the size that are said.
        check(unsafe { zlib::inflateInit2_(&raw mut *stream, window_bits, zlib::zlibVersion(), size) })?;
        Ok(Inflater { stream })
    }

    /// Goes on to the header of another member, with nothing of the one before.
    pub fn next_member(&mut self) -> io::Result<()> {
        // SAFETY: the stream is open for as long as this lives.
        check(unsafe { zlib::inflateReset2(&raw mut *self.stream, GZIP) })
    }

    /// Unpacks what there is room for. That nothing was read and nothing written is not an error.
    ///
    /// # Errors
    /// `InvalidData` for what is no gzip, or damaged.
    pub fn inflate(&mut self, packed: &[u8], room: &mut [u8], stop: Stop) -> io::Result<Step> {
        let flush = match stop {
            Stop::AtEnd => zlib::Z_NO_FLUSH,
            Stop::AtBlock => zlib::Z_BLOCK,
        };
        let countable = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let (given, free) = (countable(packed.len()), countable(room.len()));
        let stream = &mut *self.stream;
        (stream.next_in, stream.avail_in) = (packed.as_ptr(), given);
        (stream.next_out, stream.avail_out) = (room.as_mut_ptr(), free);
        // SAFETY: the stream is open; `packed` and `room` are borrowed until the pointers to them are taken away below, and
        // have at least the bytes that are said.
        let told = unsafe { zlib::inflate(&raw mut *stream, flush) };
        let (read, written) = ((given - stream.avail_in) as usize, (free - stream.avail_out) as usize);
        (stream.next_in, stream.avail_in) = (std::ptr::null(), 0);
        (stream.next_out, stream.avail_out) = (std::ptr::null_mut(), 0);
        let reached = match told {
            zlib::Z_STREAM_END => Reached::End,
            // zlib.h of `data_type`: 128 at the end of a block or a header, 64 in the last block, and the unused bits.
            zlib::Z_OK | zlib::Z_BUF_ERROR if stop == Stop::AtBlock && stream.data_type & !7 == 128 => {
                Reached::Block { unused_bits: (stream.data_type & 7) as u8 }
            }
            zlib::Z_OK | zlib::Z_BUF_ERROR => Reached::Inside,
            _ => return Err(refused()),
        };
        Ok(Step { read, written, reached })
    }

    /// What a block that follows may look back on.
    pub fn window(&self) -> io::Result<Vec<u8>> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut length = 0;
        // SAFETY: the stream is open and is not changed; `window` has room for the longest window there is.
        check(unsafe {
            zlib::inflateGetDictionary(
                (&raw const *self.stream).cast_mut(),
                window.as_mut_ptr(),
                &raw mut length,
            )
        })?;
        window.truncate(length as usize);
        Ok(window)
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: the stream was opened, and is closed here alone.
        let _ = unsafe { zlib::inflateEnd(&raw mut *self.stream) };
    }
}

fn check(told: c_int) -> io::Result<()> {
    if told == zlib::Z_OK { Ok(()) } else { Err(refused()) }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "zlib refuses it")
}
