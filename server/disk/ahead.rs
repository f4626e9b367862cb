//! What is written of an ingest beyond its contiguous end: in place, as it comes, where a writer gets its bytes from
//! several ends at once.
//!
//! While there is such a thing, the length of the file says nothing. A journal beside it does: a line for each run of
//! bytes whose write has returned. It is for the loss of the process, not of the machine: nobody syncs it, and after
//! another boot nobody believes it, neither that bytes are there nor that they are not. What it does not say is fetched
//! again, which is all that can go wrong.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::direct::{BLOCK, DirectReader, DirectTail};
use super::ingest::{IngestFile, Tail};
use super::{Disk, is_absent};
use crate::error::{Doing, Error, Result};
use crate::oci::Hasher;

/// The name of the journal, beside the file.
const JOURNAL: &str = "ahead";
/// A journal that has grown to so many bytes is written anew, with one line for each run.
const JOURNAL_BYTES: u64 = 64 << 10;
/// Parts that hold a buffer of their own for direct writes. More may be there, and wait for the contiguous end.
const OPEN_TAILS: usize = 4;

/// The parts of one file, and their journal.
#[derive(Debug)]
pub(super) struct Ahead {
    journal: PathBuf,
    lines: File,
    /// Bytes of the journal since it was written anew.
    grown: u64,
    /// In order; none overlaps another.
    parts: Vec<Part>,
    /// Up to here the journal knows of the contiguous bytes.
    noted: u64,
    reader: Option<DirectReader>,
}

/// A run of bytes that grows at its end.
#[derive(Debug)]
struct Part {
    start: u64,
    end: u64,
    noted: u64,
    /// `None`: by the page cache, or nobody has written to it for a while.
    tail: Option<DirectTail>,
}

impl Part {
    /// How far its bytes are in the file.
    fn written(&self) -> u64 {
        self.tail.as_ref().map_or(self.end, DirectTail::written)
    }

    fn flush(&mut self, plain: &File) -> io::Result<()> {
        self.tail.as_mut().map_or(Ok(()), |tail| tail.flush(plain))
    }
}

impl Ahead {
    /// Begins a journal for a file of which the first `written` bytes are there.
    fn begin(path: &Path, written: u64) -> io::Result<Ahead> {
        let journal = path.with_file_name(JOURNAL);
        // Never an empty one: it would say that nothing is there.
        let lines = write_journal(&journal, written, &[])?;
        Ok(Ahead { journal, lines, grown: 0, parts: Vec::new(), noted: written, reader: None })
    }

    /// What an earlier writer of the file at `path`, which has `longest` bytes, left: the length of its contiguous
    /// bytes, and the parts beyond them; `None` where it left no journal.
    ///
    /// # Errors
    /// Those of `open(2)` and `read(2)`.
    pub fn open(path: &Path, longest: u64) -> io::Result<Option<(u64, Ahead)>> {
        let journal = path.with_file_name(JOURNAL);
        let Some((length, beyond)) = read_journal(&journal, longest)? else { return Ok(None) };
        let lines = File::options().append(true).open(&journal)?;
        let part = |run: Range<u64>| Part { start: run.start, end: run.end, noted: run.end, tail: None };
        let parts = beyond.into_iter().map(part).collect();
        Ok(Some((length, Ahead { journal, lines, grown: 0, parts, noted: length, reader: None })))
    }

    /// Writes `chunks` at `at`: at the end of a part, or as the beginning of one.
    fn write(&mut self, at: u64, chunks: &[Bytes], path: &Path, plain: &File) -> io::Result<()> {
        let end = at + chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        // Of what is written over, the newer bytes count, and the older ones are forgotten.
        self.parts.retain(|part| part.end <= at || part.start >= end);
        let place = match self.parts.iter().position(|part| part.end == at) {
            Some(place) => place,
            None => {
                let place = self.parts.partition_point(|part| part.start < at);
                self.parts.insert(place, Part { start: at, end: at, noted: at, tail: None });
                place
            }
        };
        self.open_tail(place, path, plain)?;
        let part = &mut self.parts[place];
        let before = part.end;
        let mut next = before;
        let written = chunks.iter().try_for_each(|chunk| {
            match &mut part.tail {
                Some(tail) => tail.push(chunk, plain)?,
                None => plain.write_all_at(chunk, next)?,
            }
            next += chunk.len() as u64;
            Ok(())
        });
        if let Err(error) = written {
            if part.tail.as_mut().is_some_and(|tail| !tail.cut(before)) {
                part.tail = None;
            }
            return Err(error);
        }
        part.end = end;
        let (from, to) = (part.noted, part.written());
        part.noted = to;
        self.note(from, to)
    }

    /// Gives a part the buffer that it needs for direct writes, and takes it from another if there are too many.
    fn open_tail(&mut self, place: usize, path: &Path, plain: &File) -> io::Result<()> {
        let part = &self.parts[place];
        // A block that begins before the part would be written with bytes that are not the part's.
        if part.tail.is_some() || part.start > part.end - part.end % BLOCK as u64 {
            return Ok(());
        }
        let opened = self.parts.iter().filter(|part| part.tail.is_some()).count();
        if opened >= OPEN_TAILS {
            // The lowest is the one that its writer has most likely finished.
            let idle = self.parts.iter_mut().find(|part| part.tail.is_some());
            if let Some(part) = idle {
                part.flush(plain)?;
                part.tail = None;
                let (from, to) = (part.noted, part.end);
                part.noted = to;
                self.note(from, to)?;
            }
        }
        let end = self.parts[place].end;
        self.parts[place].tail = DirectTail::open(path, plain, end)?;
        Ok(())
    }

    /// Brings all bytes to the file.
    fn flush(&mut self, plain: &File) -> io::Result<()> {
        let mut noted = Vec::new();
        for part in &mut self.parts {
            part.flush(plain)?;
            noted.push((part.noted, part.end));
            part.noted = part.end;
        }
        noted.into_iter().try_for_each(|(from, to)| self.note(from, to))
    }

    /// Notes how far the contiguous bytes are in the file.
    pub fn note_front(&mut self, written: u64) -> io::Result<()> {
        let from = self.noted;
        self.noted = written.max(from);
        self.note(from, written)
    }

    fn note(&mut self, from: u64, to: u64) -> io::Result<()> {
        if to <= from {
            return Ok(());
        }
        let line = format!("{from}-{to}\n");
        self.lines.write_all(line.as_bytes())?;
        self.grown += line.len() as u64;
        if self.grown >= JOURNAL_BYTES {
            self.compact();
        }
        Ok(())
    }

    /// Writes the journal anew, as short as it can be. When that fails the old one goes on: it says no more than is true.
    fn compact(&mut self) {
        self.grown = 0;
        if let Ok(lines) = write_journal(&self.journal, self.noted, &self.parts) {
            self.lines = lines;
        }
    }

    /// Forgets the parts that begin before `length`: somebody has written over them.
    pub fn forget_before(&mut self, length: u64) {
        self.parts.retain(|part| part.start >= length);
    }

    /// Takes the first `length` bytes as contiguous, and whatever follows on them; how many these are in all.
    fn raise_front(&mut self, mut length: u64) -> u64 {
        self.parts.retain(|part| {
            let reached = part.start <= length;
            length = if reached { length.max(part.end) } else { length };
            !reached
        });
        self.noted = length;
        self.compact();
        length
    }
}

impl IngestFile {
    /// Writes `chunks` at `at`, beyond the end. They count once the bytes before them are there.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`; what was there before is as it was.
    pub fn append_ahead(&mut self, at: u64, chunks: &[Bytes]) -> Result<()> {
        if at <= self.length {
            return Err(Error::internal("bytes for what an ingest has already"));
        }
        let written = self.written();
        let ahead = match &mut self.ahead {
            Some(ahead) => ahead,
            None => self.ahead.insert(Ahead::begin(&self.path, written).doing("begin to write ahead")?),
        };
        ahead.write(at, chunks, &self.path, &self.file).doing("write to an ingest")
    }

    /// Goes on over the parts that the end has reached, and feeds their bytes into `hasher`.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub fn join_ahead(&mut self, hasher: &mut Hasher) -> Result<()> {
        while self.reaches_a_part() {
            self.flush().doing("write to an ingest")?;
            let Some(ahead) = &mut self.ahead else { return Ok(()) };
            let mut part = ahead.parts.remove(0);
            part.flush(&self.file).doing("write to an ingest")?;
            if ahead.reader.is_none() {
                ahead.reader = DirectReader::open(&self.path).doing("read an ingest again")?;
            }
            let read = match &mut ahead.reader {
                Some(reader) => reader.feed(part.start..part.end, &self.file, hasher),
                None => super::direct::feed_plainly(part.start..part.end, &self.file, hasher),
            };
            read.doing("read an ingest again")?;
            self.length = part.end;
            self.file.seek(SeekFrom::Start(self.length)).doing("write to an ingest")?;
            self.tail = part.tail.map_or(Tail::Short, Tail::Direct);
            ahead.note_front(self.length).doing("write to an ingest")?;
        }
        Ok(())
    }

    fn reaches_a_part(&self) -> bool {
        let first = self.ahead.as_ref().and_then(|ahead| ahead.parts.first());
        first.is_some_and(|part| part.start == self.length)
    }

    /// Whether something is written, or was, beyond the end.
    pub fn has_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Gives up what is written beyond the end.
    ///
    /// # Errors
    /// As [`IngestFile::truncate`].
    pub fn forget_ahead(&mut self) -> Result<()> {
        if self.has_ahead() { self.truncate(self.length) } else { Ok(()) }
    }

    /// Brings what is ahead to the file.
    pub(super) fn flush_ahead(&mut self) -> io::Result<()> {
        self.ahead.as_mut().map_or(Ok(()), |ahead| ahead.flush(&self.file))
    }

    /// After a sync: the journal as short as it can be, and none where nothing is ahead. That it could not be done is
    /// no failure of the sync: the old one says less than there is, and nothing that is not.
    pub(super) fn tidy_journal(&mut self) {
        match &mut self.ahead {
            Some(ahead) if !ahead.parts.is_empty() => {
                ahead.noted = self.length;
                ahead.compact();
            }
            Some(_) => drop(self.end_journal()),
            None => {}
        }
    }

    /// Believes that the first `length` bytes are there, whatever a journal says: somebody has synced them, and written
    /// that down. Whether the file has so many.
    ///
    /// # Errors
    /// `Internal` when the file cannot be asked.
    pub fn trust(&mut self, length: u64) -> Result<bool> {
        if self.length >= length {
            return Ok(true);
        }
        if self.file.metadata().doing("size the file of an ingest")?.len() < length {
            return Ok(false);
        }
        self.length = self.ahead.as_mut().map_or(length, |ahead| ahead.raise_front(length));
        self.file.seek(SeekFrom::Start(self.length)).doing("size the file of an ingest")?;
        Ok(true)
    }

    /// Cuts the file to its contiguous bytes, and only then takes the journal away: the length says the truth again.
    pub(super) fn end_journal(&mut self) -> io::Result<()> {
        let Some(ahead) = &self.ahead else { return Ok(()) };
        if self.file.metadata()?.len() > self.length {
            self.file.set_len(self.length)?;
        }
        match fs::remove_file(&ahead.journal) {
            Err(error) if !is_absent(&error) => return Err(error),
            _ => {}
        }
        self.ahead = None;
        Ok(())
    }
}

impl Disk {
    /// The parts of an ingest beyond its contiguous bytes, in order.
    ///
    /// # Errors
    /// `Internal` when the journal cannot be read.
    pub fn list_ahead(&self, id: &str) -> Result<Vec<Range<u64>>> {
        let journal = self.ingest_dir(id).join(JOURNAL);
        let found = read_journal(&journal, u64::MAX).doing("read the journal of an ingest")?;
        Ok(found.map(|(_, beyond)| beyond).unwrap_or_default())
    }
}

/// Puts a new journal in the place of the old one, with a line for the contiguous bytes and one for each part; opened to
/// be appended to.
fn write_journal(path: &Path, front: u64, parts: &[Part]) -> io::Result<File> {
    let fresh = path.with_extension("new");
    let mut text = format!("0-{front}\n");
    parts.iter().for_each(|part| text.push_str(&format!("{}-{}\n", part.start, part.noted)));
    let written = fs::write(&fresh, text)
        .and_then(|()| File::options().append(true).open(&fresh))
        .and_then(|lines| fs::rename(&fresh, path).map(|()| lines));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// What a journal says of a file of at most `longest` bytes: how many are there from the beginning on, and which runs
/// beyond. A last line that was cut short says nothing.
fn read_journal(path: &Path, longest: u64) -> io::Result<Option<(u64, Vec<Range<u64>>)>> {
    let text = match fs::read(path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let whole = text.rfind('\n').map_or("", |last| &text[..last]);
    let mut runs: Vec<Range<u64>> = whole.lines().map_while(|line| parse_line(line, longest)).collect();
    runs.sort_by_key(|run| run.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for run in runs.into_iter().filter(|run| run.start < run.end) {
        match merged.last_mut() {
            Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
            _ => merged.push(run),
        }
    }
    let length = merged.first().filter(|run| run.start == 0).map_or(0, |run| run.end);
    merged.retain(|run| run.start > 0);
    Ok(Some((length, merged)))
}

fn parse_line(line: &str, longest: u64) -> Option<Range<u64>> {
    let (start, end) = line.split_once('-')?;
    Some(start.parse().ok()?..end.parse::<u64>().ok()?.min(longest))
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of runs is what is meant")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::{Algorithm, Digest};

    const ID: &str = "ing_test";

    fn noise(length: usize) -> Bytes {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect::<Vec<u8>>().into()
    }

    fn disk() -> (tempfile::TempDir, Disk) {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(directory.path()).expect("a data directory");
        (directory, disk)
    }

    /// Writes the bytes of `range` where they belong, in steps.
    fn put(file: &mut IngestFile, hasher: &mut Hasher, bytes: &Bytes, range: Range<usize>, step: usize) {
        for at in range.clone().step_by(step) {
            let piece = bytes.slice(at..range.end.min(at + step));
            match at as u64 == file.length() {
                true => {
                    file.append(std::slice::from_ref(&piece)).expect("written");
                    hasher.update(&piece);
                    file.join_ahead(hasher).expect("joined");
                }
                false => file.append_ahead(at as u64, &[piece]).expect("written"),
            }
        }
    }

    /// Opens the file again and compares what it says to be there with what was sent.
    fn check(disk: &Disk, bytes: &Bytes) -> (u64, Vec<Range<u64>>) {
        let ahead = disk.list_ahead(ID).expect("a journal or none");
        let file = disk.open_ingest(ID).expect("the file");
        for run in ahead.iter().cloned().chain(std::iter::once(0..file.length())) {
            let mut there = vec![0; (run.end - run.start) as usize];
            file.file.read_exact_at(&mut there, run.start).expect("as many bytes");
            assert!(there == bytes[run.start as usize..run.end as usize], "{run:?}");
        }
        let length = file.length();
        std::mem::forget(file);
        (length, ahead.into_iter().filter(|run| run.start > length).collect())
    }

    #[test]
    fn bytes_from_several_ends_are_whole_and_hashed_once_all_are_there() {
        let bytes = noise(3_000_001);
        let (_directory, disk) = disk();
        let (mut file, mut hasher) = (disk.open_ingest(ID).expect("a file"), Hasher::new(Algorithm::Sha256));
        put(&mut file, &mut hasher, &bytes, 2_097_152..3_000_001, 70_000);
        put(&mut file, &mut hasher, &bytes, 0..500_000, 33_333);
        put(&mut file, &mut hasher, &bytes, 1_048_576..2_097_152, 200_000);
        assert_eq!(file.length(), 500_000);
        file.sync().expect("synced");
        assert_eq!(check(&disk, &bytes), (500_000, vec![1_048_576..3_000_001]));
        put(&mut file, &mut hasher, &bytes, 500_000..1_048_576, 100_000);
        assert_eq!(file.length(), 3_000_001, "the end has passed over what was ahead");
        assert_eq!(hasher.digest(), Digest::of(Algorithm::Sha256, &bytes));
        file.stage().expect("staged");
        assert!(!disk.ingest_dir(ID).join(JOURNAL).exists());
        assert_eq!(check(&disk, &bytes), (3_000_001, vec![]));
    }

    #[test]
    fn what_is_given_up_leaves_nothing_beyond_the_end() {
        let bytes = noise(100_000);
        let (_directory, disk) = disk();
        let (mut file, mut hasher) = (disk.open_ingest(ID).expect("a file"), Hasher::new(Algorithm::Sha256));
        put(&mut file, &mut hasher, &bytes, 40_960..100_000, 7_000);
        put(&mut file, &mut hasher, &bytes, 0..1_000, 1_000);
        file.forget_ahead().expect("cut");
        drop(file);
        assert_eq!(check(&disk, &bytes), (1_000, vec![]));
        assert_eq!(std::fs::metadata(disk.ingest_dir(ID).join("data")).expect("the file").len(), 1_000);
        assert!(disk.open_ingest(ID).expect("the file").append_ahead(10, &[noise(1)]).is_err());
    }

    #[test]
    fn a_journal_of_many_small_writes_stays_short() {
        let bytes = noise(600_000);
        let (_directory, disk) = disk();
        let (mut file, mut hasher) = (disk.open_ingest(ID).expect("a file"), Hasher::new(Algorithm::Sha256));
        put(&mut file, &mut hasher, &bytes, 500_000..600_000, 50_000);
        put(&mut file, &mut hasher, &bytes, 0..200_000, 10);
        let journal = std::fs::metadata(disk.ingest_dir(ID).join(JOURNAL)).expect("a journal");
        assert!(journal.len() < 2 * JOURNAL_BYTES, "{} bytes", journal.len());
        drop(file);
        assert_eq!(check(&disk, &bytes), (200_000, vec![500_000..600_000]));
    }

    #[test]
    fn a_journal_that_cannot_be_written_anew_goes_on() {
        let bytes = noise(100_000);
        let (_directory, disk) = disk();
        let (mut file, mut hasher) = (disk.open_ingest(ID).expect("a file"), Hasher::new(Algorithm::Sha256));
        put(&mut file, &mut hasher, &bytes, 50_000..60_000, 1_000);
        // A directory stands where the new one would be written.
        fs::create_dir(disk.ingest_dir(ID).join("ahead.new")).expect("a directory");
        file.sync().expect("the bytes are durable, whatever becomes of the journal");
        put(&mut file, &mut hasher, &bytes, 60_000..70_000, 1_000);
        drop(file);
        assert_eq!(check(&disk, &bytes), (0, vec![50_000..70_000]));
    }

    #[test]
    fn a_journal_that_was_cut_short_or_damaged_says_less_and_never_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = directory.path().join(JOURNAL);
        for (text, expected) in [
            ("", (0, vec![])),
            ("0-10\n20-30\n10-1", (10, vec![20..30])),
            ("0-10\n20-30\n10-15\n15-20\n", (30, vec![])),
            ("20-30\n", (0, vec![20..30])),
            ("0-10\nx\n10-20\n", (10, vec![])),
            ("0-10\n20-99\n", (10, vec![20..40])),
            ("0-10\n50-99\n9-5\n", (10, vec![])),
        ] {
            fs::write(&journal, text).expect("a journal");
            assert_eq!(read_journal(&journal, 40).expect("read"), Some(expected), "{text:?}");
        }
        assert_eq!(read_journal(&directory.path().join("none"), 40).expect("none"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_process_that_dies_leaves_what_its_journal_says(
            order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle(),
            kept in 0..8usize, step in 1_000..700_000usize, synced in 0..8usize,
        ) {
            const PART: usize = 1 << 20;
            let bytes = noise(8 * PART - 123);
            let (_directory, disk) = disk();
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut file = disk.open_ingest(ID).expect("a file");
            let range = |part: usize| part * PART..bytes.len().min((part + 1) * PART);
            for (n, part) in order.iter().take(kept).enumerate() {
                put(&mut file, &mut hasher, &bytes, range(*part), step);
                if n == synced {
                    file.sync().expect("synced");
                }
            }
            // Nothing is flushed any more: the process is gone.
            std::mem::forget(file);
            let (length, ahead) = check(&disk, &bytes);
            let mut file = disk.open_ingest(ID).expect("the file");
            let mut hasher = Hasher::new(Algorithm::Sha256);
            file.hash_from(0, &mut hasher).expect("read");
            // What is missing comes from several ends again.
            let mut gaps = Vec::new();
            let mut at = length;
            for run in &ahead {
                gaps.push(at as usize..run.start as usize);
                at = run.end;
            }
            gaps.push(at as usize..bytes.len());
            for gap in gaps.into_iter().rev() {
                put(&mut file, &mut hasher, &bytes, gap, step);
            }
            prop_assert_eq!(file.length(), bytes.len() as u64);
            prop_assert_eq!(hasher.digest(), Digest::of(Algorithm::Sha256, &bytes));
            file.stage().expect("staged");
            prop_assert_eq!(check(&disk, &bytes).0, bytes.len() as u64);
        }
    }
}
