//! A body on its way to a file: gathered into batches, handed over a short queue, hashed and written on a thread that may
//! block.

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;

use crate::disk::IngestFile;
use crate::error::Result;
use crate::oci::Hasher;
use crate::shutdown::Shutdown;

/// Bytes that are handed over at once: large enough that the hand-over costs nothing beside them.
const BATCH: usize = 256 << 10;
/// The most pieces of a batch: a body of tiny ones must not take more memory for them than for its bytes. As many as one
/// write takes (`IOV_MAX`).
const BATCH_FRAMES: usize = 1_024;
/// Batches between the network and the disk: what a slow disk makes a fast client wait for.
pub(super) const QUEUE: usize = 4;
/// Bytes of an ingest, and where in it they belong.
#[derive(Debug, Clone)]
pub struct Placed {
    pub at: u64,
    pub bytes: Bytes,
}

/// A file that grows, and the hash of what is in it.
pub(super) struct Sink {
    pub file: IngestFile,
    pub hasher: Hasher,
    /// The hash of this request's bytes alone, where that was asked for.
    pub chunk: Option<Hasher>,
}

/// Bytes that follow one another.
#[derive(Debug)]
struct Run {
    at: u64,
    end: u64,
    frames: Vec<Bytes>,
}

/// What has come of a body since the last time: from one end one run, from several as many.
#[derive(Debug, Default)]
pub(super) struct Batch {
    runs: Vec<Run>,
    bytes: usize,
    frames: usize,
}

/// Batches of a body, as they come.
pub(super) type Batches = mpsc::Receiver<Batch>;

impl Batch {
    fn push(&mut self, Placed { at, bytes }: Placed) {
        self.bytes += bytes.len();
        self.frames += 1;
        let end = at + bytes.len() as u64;
        match self.runs.iter_mut().rfind(|run| run.end == at) {
            Some(run) => {
                run.end = end;
                run.frames.push(bytes);
            }
            None => self.runs.push(Run { at, end, frames: vec![bytes] }),
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH || self.frames >= BATCH_FRAMES
    }
}

/// The frames of a body that begins at `offset`, each with its place.
pub(super) fn in_order<S, E>(
    body: S,
    mut offset: u64,
) -> impl Stream<Item = std::result::Result<Placed, E>> + Unpin
where
    S: Stream<Item = std::result::Result<Bytes, E>> + Unpin,
{
    body.map(move |frame| {
        let bytes = frame?;
        let at = offset;
        offset += bytes.len() as u64;
        Ok(Placed { at, bytes })
    })
}

impl Sink {
    /// Waits for a batch; writes it, and those that have come meanwhile, on one visit to a thread that may block, until
    /// `told` of the sink has had enough. Whether there was one.
    pub async fn write(
        mut self,
        shutdown: &Shutdown,
        mut batches: Batches,
        told: impl Fn(&Sink) -> bool + Send + 'static,
    ) -> (Sink, Batches, Result<bool>) {
        let Some(mut batch) = batches.recv().await else { return (self, batches, Ok(false)) };
        let writing = shutdown.spawn_blocking("write to a file", move || {
            loop {
                if let Err(error) = self.take(&batch) {
                    return (self, batches, Err(error));
                }
                // Asked first: a batch that is taken off the queue must be written.
                if !told(&self) {
                    return (self, batches, Ok(true));
                }
                match batches.try_recv() {
                    Ok(next) => batch = next,
                    Err(_) => return (self, batches, Ok(true)),
                }
            }
        });
        writing.await.expect("writing to a file does not panic")
    }

    fn take(&mut self, batch: &Batch) -> Result<()> {
        for Run { at, frames, .. } in &batch.runs {
            let length = self.file.length();
            if *at > length {
                self.file.append_ahead(*at, frames)?;
                continue;
            }
            let fresh;
            let frames = match length - at {
                0 => frames,
                // The end jumps over a part that it meets, and who sends from the front on sends that once more.
                known => {
                    fresh = behind(frames, known);
                    &fresh
                }
            };
            if frames.is_empty() {
                continue;
            }
            self.file.append(frames)?;
            frames.iter().for_each(|bytes| self.hasher.update(bytes));
            if let Some(chunk) = &mut self.chunk {
                frames.iter().for_each(|bytes| chunk.update(bytes));
            }
            self.file.join_ahead(&mut self.hasher)?;
        }
        Ok(())
    }

    pub async fn sync(mut self, shutdown: &Shutdown) -> (Sink, Result<()>) {
        let synced = shutdown.spawn_blocking("sync a file", move || {
            let synced = self.file.sync();
            (self, synced)
        });
        synced.await.expect("syncing a file does not panic")
    }
}

/// What is left of `frames` behind their first `bytes`.
fn behind(frames: &[Bytes], mut bytes: u64) -> Vec<Bytes> {
    let mut left = Vec::new();
    for frame in frames {
        let known = bytes.min(frame.len() as u64);
        bytes -= known;
        if known < frame.len() as u64 {
            left.push(frame.slice(known as usize..));
        }
    }
    left
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Whole,
    /// The connection broke; what came before counts.
    Cut,
    /// More came than is allowed.
    TooLong,
}

/// Reads a body into batches. A batch goes on its way when it is full, and also when the network pauses: the state
/// of an ingest is of the bytes received so far.
pub(super) async fn pump<S, E>(mut body: S, to: mpsc::Sender<Batch>, most: u64) -> Ending
where
    S: Stream<Item = std::result::Result<Placed, E>> + Unpin,
{
    let (mut batch, mut total) = (Batch::default(), 0u64);
    let ending = loop {
        let next = match body.next().now_or_never() {
            Some(next) => next,
            None => {
                if batch.bytes > 0 && to.send(std::mem::take(&mut batch)).await.is_err() {
                    return Ending::Cut;
                }
                body.next().await
            }
        };
        let Some(frame) = next else { break Ending::Whole };
        let Ok(placed) = frame else { break Ending::Cut };
        total += placed.bytes.len() as u64;
        if total > most {
            break Ending::TooLong;
        }
        batch.push(placed);
        if batch.is_full() && to.send(std::mem::take(&mut batch)).await.is_err() {
            return Ending::Cut;
        }
    };
    if batch.bytes > 0 {
        // The other side hears of the end by the queue's closing, and says itself why it stopped before.
        let _ = to.send(batch).await;
    }
    ending
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::disk::Disk;
    use crate::oci::{Algorithm, Digest};

    #[test]
    fn what_is_here_already_is_left_out_wherever_a_run_of_it_begins() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(directory.path()).expect("a data directory");
        let bytes: Vec<u8> = (0..60).collect();
        let file = disk.open_ingest("one").expect("a file");
        let mut sink = Sink { file, hasher: Hasher::new(Algorithm::Sha256), chunk: None };
        let mut take = |range: Range<usize>, length: u64| {
            let mut batch = Batch::default();
            let (first, second) = bytes[range.clone()].split_at(range.len() / 2);
            batch.push(Placed { at: range.start as u64, bytes: Bytes::copy_from_slice(first) });
            batch.push(Placed {
                at: (range.start + first.len()) as u64,
                bytes: Bytes::copy_from_slice(second),
            });
            sink.take(&batch).expect("it is written");
            assert_eq!(sink.file.length(), length, "after {range:?}");
        };
        take(20..30, 0);
        // The end jumps over a part that it meets, and the same bytes come once more from the front.
        take(0..20, 30);
        take(20..30, 30);
        take(40..44, 30);
        take(24..40, 44);
        take(40..60, 60);
        assert_eq!(sink.hasher.digest(), Digest::of(Algorithm::Sha256, &bytes));
        sink.file.sync().expect("synced");
        assert_eq!(std::fs::read(directory.path().join("ingests/one/data")).expect("the file"), bytes);
    }
}
