//! Gzip as layers have it: members one after the other (RFC 1952, section 2.2), and zeros behind the last, where a tape
//! ended.

use std::io::{self, BufRead};

use super::checkpoints::{Place, Recorder};
use super::inflate::{Inflater, Reached, Step, Stop};

/// The sums behind a member (RFC 1952, section 2.3.1).
const TRAILER_BYTES: usize = 8;

pub(super) struct Members<R> {
    packed: R,
    inflater: Inflater,
    stage: Stage,
    /// How much of the layer is behind, packed and unpacked.
    packed_bytes: u64,
    unpacked_bytes: u64,
    /// The last byte that was read: a block may begin within it.
    last: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In a member that is decoded from its header on, and held to its sums.
    Member,
    /// In one that is decoded from a place in its middle on.
    Rest,
    Over,
}

impl<R: BufRead> Members<R> {
    pub fn new(packed: R) -> io::Result<Members<R>> {
        let inflater = Inflater::new()?;
        Ok(Members { packed, inflater, stage: Stage::Member, packed_bytes: 0, unpacked_bytes: 0, last: 0 })
    }

    /// Goes on at a place, where `packed` begins.
    pub fn resume(packed: R, place: &Place, window: &[u8]) -> io::Result<Members<R>> {
        let inflater = Inflater::resume(place.unused_bits, place.unused, window)?;
        let (packed_bytes, unpacked_bytes) = (place.packed, place.unpacked);
        Ok(Members { packed, inflater, stage: Stage::Rest, packed_bytes, unpacked_bytes, last: 0 })
    }

    /// As `Read::read`; where the recorder wants a place, at the next one that there is.
    pub fn read(&mut self, room: &mut [u8], mut recorder: Option<&mut Recorder>) -> io::Result<usize> {
        let mut idle = false;
        while self.stage != Stage::Over && !room.is_empty() {
            let left = recorder.as_ref().map_or(u64::MAX, |recorder| recorder.left(self.unpacked_bytes));
            let (stop, most) = match usize::try_from(left).unwrap_or(usize::MAX) {
                0 if !idle => (Stop::AtBlock, room.len()),
                0 => (Stop::AtEnd, room.len()),
                left => (Stop::AtEnd, left.min(room.len())),
            };
            let packed = self.packed.fill_buf()?;
            let Step { read, written, reached } = self.inflater.inflate(packed, &mut room[..most], stop)?;
            // Without progress there is no more to come, or a stop was in the way, which is made only once.
            if (read, written) == (0, 0) && reached != Reached::End && (packed.is_empty() || idle) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            idle = (read, written) == (0, 0);
            if let Some(last) = read.checked_sub(1) {
                self.last = packed[last];
            }
            self.consume(read);
            self.unpacked_bytes += written as u64;
            match (reached, recorder.as_deref_mut()) {
                (Reached::Block { unused_bits }, Some(recorder)) => {
                    recorder.note(self.place(unused_bits), &self.inflater.window()?)?;
                }
                (Reached::End, _) => self.end_member()?,
                _ => {}
            }
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }

    fn place(&self, unused_bits: u8) -> Place {
        // Of no bits the shift would be one by all eight.
        let unused = self.last.checked_shr(8 - u32::from(unused_bits)).unwrap_or(0);
        Place { packed: self.packed_bytes, unpacked: self.unpacked_bytes, unused_bits, unused }
    }

    fn end_member(&mut self) -> io::Result<()> {
        if self.stage == Stage::Rest {
            self.skip_trailer()?;
        }
        self.stage = match self.packed.fill_buf()?.first() {
            None => Stage::Over,
            Some(0) => {
                self.skip_zeros()?;
                Stage::Over
            }
            Some(_) => {
                self.inflater.next_member()?;
                Stage::Member
            }
        };
        Ok(())
    }

    /// What it says is of the whole member.
    fn skip_trailer(&mut self) -> io::Result<()> {
        let mut left = TRAILER_BYTES;
        while left > 0 {
            let some = self.packed.fill_buf()?.len().min(left);
            if some == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.consume(some);
            left -= some;
        }
        Ok(())
    }

    fn skip_zeros(&mut self) -> io::Result<()> {
        loop {
            let rest = self.packed.fill_buf()?;
            if rest.is_empty() {
                return Ok(());
            }
            if rest.iter().any(|byte| *byte != 0) {
                return Err(io::Error::other("something stands behind the end"));
            }
            let length = rest.len();
            self.consume(length);
        }
    }

    fn consume(&mut self, read: usize) {
        self.packed.consume(read);
        self.packed_bytes += read as u64;
    }
}
