//! What keeps a reader of archives within bounds: how much it may read until the next file begins, and how much may come
//! out of how little.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::compression::Reader;
use crate::error::{Error, Unprocessable};
use crate::limits;
use crate::oci::digest::excerpt;

/// What is shared by the two ends of a decoder.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Bytes that came in.
    packed: AtomicU64,
    /// Bytes that came out.
    unpacked: AtomicU64,
    /// Up to where may be read: past the end of the file in hand there are only headers.
    until: AtomicU64,
    /// Whether nothing more comes out.
    ended: AtomicBool,
    /// Why reading ended before its time, where that is known better than a reader can say.
    refusal: Mutex<Option<Error>>,
}

impl Watch {
    pub fn new() -> Arc<Watch> {
        let watch = Watch::default();
        watch.until.store(limits::ARCHIVE_HEADER_BYTES, Ordering::Relaxed);
        Arc::new(watch)
    }

    /// A file ends at this place; then come headers, and no more of them than is allowed.
    pub fn allow(&self, end: u64) {
        let until = end.saturating_add(limits::ARCHIVE_HEADER_BYTES);
        self.until.store(until, Ordering::Relaxed);
    }

    /// Whether somebody wanted to read on, and there was nothing.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn refuse(&self, error: Error) -> io::Error {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        io::Error::other("refused")
    }

    /// A reader's failure in our words.
    pub fn explain(&self, failed: &io::Error) -> Error {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        refusal.unwrap_or_else(|| {
            // What a reader says may repeat a name of the archive.
            let said = excerpt(&failed.to_string());
            invalid(format!("the archive is damaged, or is none: {said}"))
        })
    }
}

pub(super) fn invalid(reason: String) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

/// Counts what comes in, and tells a broken connection from a broken archive.
pub(super) struct Incoming {
    pub reader: Reader,
    pub watch: Arc<Watch>,
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.reader).poll_read(context, buffer));
        self.watch.packed.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(read.map_err(|_| self.watch.refuse(Error::invalid("the body was cut short"))))
    }
}

/// Counts what comes out, and ends where a limit does.
pub(super) struct Outgoing {
    pub reader: Reader,
    pub watch: Arc<Watch>,
}

impl AsyncRead for Outgoing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(context, buffer))?;
        let read = (buffer.filled().len() - before) as u64;
        let watch = &self.watch;
        if read == 0 && buffer.remaining() > 0 {
            watch.ended.store(true, Ordering::Relaxed);
        }
        let unpacked = watch.unpacked.fetch_add(read, Ordering::Relaxed) + read;
        if unpacked > watch.until.load(Ordering::Relaxed) {
            let limit = limits::ARCHIVE_HEADER_BYTES;
            return Poll::Ready(
                Err(watch.refuse(Error::TooLarge { what: "a header of the archive", limit })),
            );
        }
        let most = watch.packed.load(Ordering::Relaxed).saturating_mul(limits::UNPACK_RATIO);
        if unpacked.saturating_sub(limits::UNPACK_RATIO_AFTER) > most {
            let reason = format!("the archive unpacks to more than {} times its size", limits::UNPACK_RATIO);
            return Poll::Ready(Err(watch.refuse(invalid(reason))));
        }
        Poll::Ready(Ok(()))
    }
}
