//! Bytes on their way in: into an ingest, one after the other or from several ends at once, or whole as a blob.

use std::ops::Range;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use super::body::{Batches, Ending, Placed, QUEUE, Sink, in_order, pump};
use super::live::{self, Live, Turn};
use super::progress::certain_bytes;
use super::{Ingest, Store};
use crate::db;
use crate::db::ingests::IngestRow;
use crate::error::{Conflict, Error, Result, Unprocessable};
use crate::oci::{Digest, Hasher};

/// How often the running hash of a long request is written down, in bytes.
const CHECKPOINT: u64 = 64 << 20;

/// A chunk to append, and where.
#[derive(Debug, Clone)]
pub struct Append {
    pub offset: u64,
    pub token: Option<String>,
    /// The digest of this chunk alone (`Content-Digest`, RFC 9530): if it does not match, none of it counts.
    pub chunk_digest: Option<Digest>,
    /// The length of the body, if it is known.
    pub length: Option<u64>,
    /// The size that the whole will have: an announcement, as when the ingest was opened.
    pub announced: Option<u64>,
}

/// How the pieces of a body come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// One after the other.
    Given,
    /// From several ends at once.
    Any,
}

impl Store {
    /// Appends a body to an ingest at an offset. Bytes that arrive before the connection is cut count.
    ///
    /// # Errors
    /// `Conflict` (offset mismatch), `Busy`, `WriterLost`, `NotFound`, `TooLarge`, `OutOfSpace`,
    /// `Unprocessable` (chunk digest): then the ingest is as it was, but for the bytes before a cut or a limit.
    pub async fn append_ingest<S, E>(
        &self,
        namespace: &str,
        id: &str,
        append: Append,
        body: S,
    ) -> Result<Ingest>
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Unpin,
    {
        let body = in_order(body, append.offset);
        self.append_placed(namespace, id, append, Order::Given, body).await
    }

    /// Fills an ingest that has `offset` bytes from several ends at once: each piece of the body says where it belongs.
    /// What comes beyond the contiguous bytes is written in its place, and counts once all before it is there; the
    /// offset that the ingest shows stays that of the contiguous bytes, over which nothing is written: what comes of
    /// them once more is left out.
    ///
    /// # Errors
    /// As [`Store::append_ingest`].
    pub async fn fill_ingest<S, E>(&self, namespace: &str, id: &str, offset: u64, body: S) -> Result<Ingest>
    where
        S: Stream<Item = std::result::Result<Placed, E>> + Unpin,
    {
        let append = Append { offset, token: None, chunk_digest: None, length: None, announced: None };
        self.append_placed(namespace, id, append, Order::Any, body).await
    }

    /// What an ingest has beyond its offset, in order: bytes that need not be sent again.
    ///
    /// # Errors
    /// `NotFound`; `Internal` when it cannot be read.
    pub async fn list_ahead(&self, namespace: &str, id: &str) -> Result<Vec<Range<u64>>> {
        let offset = self.find_ingest(namespace, id).await?.offset;
        let id = id.to_owned();
        let mut ahead = self.on_disk(move |disk| disk.list_ahead(&id)).await?;
        ahead.retain(|part| part.start > offset);
        Ok(ahead)
    }

    async fn append_placed<S, E>(
        &self,
        namespace: &str,
        id: &str,
        append: Append,
        order: Order,
        body: S,
    ) -> Result<Ingest>
    where
        S: Stream<Item = std::result::Result<Placed, E>> + Unpin,
    {
        let row = self.find_row(namespace, id).await?;
        let live = self.0.ingests.get(id);
        let turn = live.take_turn(id, append.token.as_deref(), self.now()).await?;
        let mut row = self.reread(&row).await?;
        row.total = append.announced.map(super::ingests::signed).or(row.total);
        let offset = live.progress(self.load(&row)).await?.bytes.offset();
        if offset != append.offset {
            let mismatch = Conflict::OffsetMismatch { expected: offset, provided: append.offset };
            return Err(Error::Conflict(mismatch));
        }
        let limit = self.0.settings.max_blob_bytes;
        let most = limit.saturating_sub(offset);
        if append.length.is_some_and(|length| length > most) {
            return Err(Error::TooLarge { what: "the blob", limit });
        }
        let (to, batches) = mpsc::channel(QUEUE);
        let (whole, ended) = tokio::sync::oneshot::channel();
        let cancel = turn.cancel.clone();
        let store = self.clone();
        let mut writing = Box::pin(self.to_the_end("append", async move {
            let (live, id) = (turn.live.clone(), row.id.clone());
            let chunk = append.chunk_digest;
            let written = store.write_batches(turn, row, batches, (chunk, order), ended).await;
            if live.has_ended() {
                // The abort took the directory away under this write, which may have failed by it, or made it again.
                let name = id.clone();
                store.on_disk(move |disk| disk.remove_ingest(&name)).await?;
            }
            if live.is_gone() {
                return Err(Error::not_found("ingest", id));
            }
            written
        }));
        let ending = tokio::select! {
            // The writer task is polled here so that it starts even if the body never yields.
            biased;
            () = cancel.cancelled() => Ending::Cut,
            failed = &mut writing => return failed.and_then(|()| Err(Error::WriterLost)),
            ending = pump(body, to, most) => ending,
        };
        let _ = whole.send(ending);
        let ended_by_other = cancel.is_cancelled();
        writing.await?;
        match ending {
            Ending::TooLong => Err(Error::TooLarge { what: "the blob", limit }),
            Ending::Cut if ended_by_other => {
                self.find_row(namespace, id).await?;
                Err(Error::WriterLost)
            }
            Ending::Cut => Err(Error::invalid("the body was cut short; what came before counts")),
            Ending::Whole => self.find_ingest(namespace, id).await,
        }
    }

    /// Writes what comes over the queue until it closes, then makes it durable and gives the turn back.
    async fn write_batches(
        &self,
        turn: Turn,
        row: IngestRow,
        mut batches: Batches,
        (chunk_digest, order): (Option<Digest>, Order),
        ended: tokio::sync::oneshot::Receiver<Ending>,
    ) -> Result<()> {
        let mut sink = self.open_sink(&turn, &row, chunk_digest.as_ref(), order).await?;
        let before = (sink.file.length(), sink.hasher.clone());
        let mut next_checkpoint = sink.file.length() + CHECKPOINT;
        loop {
            let (store, live) = (self.clone(), turn.live.clone());
            let told = move |sink: &Sink| {
                store.show(&live, sink);
                sink.file.length() < next_checkpoint && !live.is_gone()
            };
            let written;
            (sink, batches, written) = sink.write(&self.0.shutdown, batches, told).await;
            if turn.is_gone() {
                return Err(Error::not_found("ingest", &row.id));
            }
            match written {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    batches.close();
                    // The bytes before the failure are whole; they are kept if they can be.
                    let _ = self.conclude(&turn, row, sink).await;
                    return Err(error);
                }
            }
            if sink.file.length() >= next_checkpoint {
                next_checkpoint = sink.file.length() + CHECKPOINT;
                let synced;
                (sink, synced) = sink.sync(&self.0.shutdown).await;
                if let Err(error) = synced {
                    // It may still hold bytes, and they must not come after the cut.
                    drop(sink);
                    return Err(self.distrust(&turn, &row, error).await);
                }
                self.checkpoint(&turn, row.clone()).await?;
            }
        }
        turn.finish();
        if let Some(expected) = chunk_digest {
            let whole = matches!(ended.await, Ok(Ending::Whole));
            let actual = sink.chunk.as_ref().map(Hasher::digest);
            if let Some(actual) = actual.filter(|actual| whole && *actual != expected) {
                let (offset, hasher) = before;
                sink = self.take_back(sink, offset, hasher).await?;
                self.show(&turn.live, &sink);
                self.conclude(&turn, row, sink).await?;
                return Err(Error::Unprocessable(Unprocessable::ChunkDigestMismatch {
                    expected: expected.to_string(),
                    actual: actual.to_string(),
                    offset,
                }));
            }
        }
        self.conclude(&turn, row, sink).await
    }

    /// The file and running hash of an ingest; bytes that were lent are copied first, for they will change.
    async fn open_sink(
        &self,
        turn: &Turn,
        row: &IngestRow,
        chunk: Option<&Digest>,
        order: Order,
    ) -> Result<Sink> {
        let progress = turn.live.progress(self.load(row)).await?.clone();
        let chunk = chunk.map(|digest| Hasher::new(digest.algorithm()));
        let id = row.id.clone();
        let sink = match progress.bytes {
            live::Bytes::Own { offset, hasher } => {
                self.fetch_back(&row.id, &hasher.digest(), offset).await?;
                self.on_disk(move |disk| {
                    let mut file = disk.open_ingest(&id)?;
                    if file.length() != offset {
                        file.truncate(offset)?;
                    }
                    // Whoever sends one byte after the other may send others than were written ahead.
                    if order == Order::Given {
                        file.forget_ahead()?;
                    }
                    Ok(Sink { file, hasher, chunk })
                })
                .await?
            }
            live::Bytes::Lent { digest, .. } => {
                let blob = self.open_lent(&digest).await?;
                self.on_disk(move |disk| {
                    let mut file = disk.open_ingest(&id)?;
                    file.truncate(0)?;
                    let mut hasher = Hasher::new(digest.algorithm());
                    file.copy_from(&blob, &mut hasher)?;
                    Ok(Sink { file, hasher, chunk })
                })
                .await?
            }
        };
        Ok(sink)
    }

    /// Lets everybody see how far the ingest is.
    fn show(&self, live: &Live, sink: &Sink) {
        if let Some(mut progress) = live.loaded() {
            let offset = sink.file.length();
            if progress.bytes.offset() != offset || progress.bytes.is_lent() {
                progress.updated_at = self.after(progress.updated_at);
            }
            progress.bytes = live::Bytes::Own { offset, hasher: sink.hasher.clone() };
        }
    }

    /// The end of a request: sync, write down, renew.
    async fn conclude(&self, turn: &Turn, row: IngestRow, sink: Sink) -> Result<()> {
        turn.finish();
        if turn.is_gone() {
            return Err(Error::not_found("ingest", &row.id));
        }
        let (sink, synced) = sink.sync(&self.0.shutdown).await;
        drop(sink);
        if let Err(error) = synced {
            return Err(self.distrust(turn, &row, error).await);
        }
        let written_down = self.checkpoint(turn, row).await;
        turn.live.renew(self.now());
        written_down
    }

    /// A failed sync takes the ingest back to what was certain before: of the bytes since, the kernel may have
    /// dropped any, and a second sync would not say so. Gives the error on.
    pub(super) async fn distrust(&self, turn: &Turn, row: &IngestRow, error: Error) -> Error {
        // Written down first: a restart would find the longer file and take it for whole.
        let id = row.id.clone();
        let told =
            self.0.db.write(move |tx| Box::pin(async move { db::ingests::distrust(tx, &id).await })).await;
        if let Err(untold) = told {
            tracing::error!(ingest.id = row.id, error = %untold, "A failed sync could not be recorded");
        }
        // A long request has written down more than its row knew at the beginning.
        let certain = self.reread(row).await.unwrap_or_else(|_| row.clone());
        let bytes = match certain_bytes(&certain) {
            Ok(bytes) => bytes,
            Err(unreadable) => return unreadable,
        };
        let (id, offset) = (row.id.clone(), bytes.offset());
        // Best effort, for the room that it gives back: the next load cuts it as well.
        let _ = self.on_disk(move |disk| disk.cut_ingest(&id, offset)).await;
        if let Some(mut progress) = turn.live.loaded() {
            progress.bytes = bytes;
            progress.updated_at = self.after(progress.updated_at);
        }
        error
    }

    async fn take_back(&self, mut sink: Sink, offset: u64, hasher: Hasher) -> Result<Sink> {
        self.on_disk(move |_| {
            sink.file.truncate(offset)?;
            sink.hasher = hasher;
            Ok(sink)
        })
        .await
    }
}
