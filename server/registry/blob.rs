//! The bytes of one blob, from an offset to its end, exactly as many as its descriptor promises.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use crate::error::{Error, Result, UpstreamKind};
use crate::registry::failure::{bad_answer, no_connection, upstream};
use crate::registry::transport::Answer;

/// The bytes of a blob as they arrive. Drop it to stop. Their digest is the reader's to check.
#[derive(Debug)]
pub struct BlobStream {
    /// `None` when there is nothing to read: the offset is the end.
    body: Option<Body>,
    size: u64,
    offset: u64,
    /// Bytes still to be dropped, of a server that began at the start.
    to_skip: u64,
}

/// Bytes that end a wait. With fewer a peer could drip one byte per wait and hold a pull for ever.
const PROGRESS_BYTES: u64 = 1024;
/// Longest time for a whole document, token or error, however steadily it comes.
const WHOLE_BODY_TIME: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Body {
    response: Response,
    url: Url,
    stall: Duration,
    /// Time spent waiting, and bytes received, since the last progress.
    waited: Duration,
    received: u64,
}

impl BlobStream {
    /// A stream at the end of its blob.
    pub(super) fn at_end(size: u64) -> BlobStream {
        BlobStream { body: None, size, offset: size, to_skip: 0 }
    }

    /// Takes the answer to a request for the bytes of a blob of `size` from `offset` on.
    ///
    /// # Errors
    /// `Upstream` `BadAnswer` or `Mismatch` when the head of the answer already says that these are other bytes.
    pub(super) fn open(answer: Answer, size: u64, offset: u64, stall: Duration) -> Result<BlobStream> {
        let Answer { response, url, .. } = answer;
        let headers = response.headers();
        let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes());
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
            return Err(bad_answer(&url, "it encodes the blob, though it was asked not to"));
        }
        let start = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if offset > 0 => {
                check_range(headers, offset, size).map_err(|reason| bad_answer(&url, reason))?;
                offset
            }
            _ => {
                return Err(bad_answer(
                    &url,
                    "it answers a part of the blob, though all of it was asked for",
                ));
            }
        };
        if let Some(length) = content_length(headers)
            && start == 0
            && length != size
        {
            let reason = format!("it has a blob of {length} bytes where {size} were promised");
            return Err(upstream(UpstreamKind::Mismatch, &url, reason));
        }
        let body = Some(Body::new(response, url, stall));
        Ok(BlobStream { body, size, offset, to_skip: offset - start })
    }

    /// Where the next chunk begins in the blob: what was asked for, plus what was read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, never none of them; `None` once there were exactly as many as the descriptor promises.
    /// May be dropped while it waits, without losing a byte.
    ///
    /// # Errors
    /// `Upstream`: `Unreachable` when the body breaks off, ends early or stalls (ask again from [`Self::offset`]);
    /// `Mismatch` when there are more bytes than promised.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(body) = &mut self.body else { return Ok(None) };
            let Some(mut bytes) = body.next().await? else {
                return self.end();
            };
            let skipped = self.to_skip.min(bytes.len() as u64);
            self.to_skip -= skipped;
            bytes = bytes.split_off(usize::try_from(skipped).expect("at most the length of these bytes"));
            let over = bytes.len() as u64 > self.size - self.offset;
            if over {
                let reason = format!("it sends more than the {} bytes that were promised", self.size);
                return Err(upstream(UpstreamKind::Mismatch, &body.url, reason));
            }
            self.offset += bytes.len() as u64;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    fn end(&mut self) -> Result<Option<Bytes>> {
        let Some(body) = self.body.take() else { return Ok(None) };
        if self.offset < self.size {
            let reason = format!("the body ended at byte {} of {}", self.offset, self.size);
            return Err(upstream(UpstreamKind::Unreachable, &body.url, reason));
        }
        Ok(None)
    }
}

impl Body {
    fn new(response: Response, url: Url, stall: Duration) -> Body {
        Body { response, url, stall, waited: Duration::ZERO, received: 0 }
    }

    /// The next bytes, under the stall watch. Only waiting counts: a slow reader is not a slow peer.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let began = Instant::now();
        let left = self.stall.saturating_sub(self.waited);
        let Ok(bytes) = tokio::time::timeout(left, self.response.chunk()).await else {
            let reason = format!("it stalled: next to nothing came for {} s", self.stall.as_secs_f32());
            return Err(upstream(UpstreamKind::Unreachable, &self.url, reason));
        };
        let bytes = bytes.map_err(|error| no_connection(&self.url, &error))?;
        self.waited += began.elapsed();
        self.received += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.received >= PROGRESS_BYTES {
            (self.waited, self.received) = (Duration::ZERO, 0);
        }
        Ok(bytes)
    }

    async fn collect(mut self, limit: usize) -> Result<Bytes> {
        let too_long = |url| bad_answer(url, format!("its answer is longer than {limit} bytes"));
        let announced = content_length(self.response.headers()).unwrap_or(0);
        if announced > limit as u64 {
            return Err(too_long(&self.url));
        }
        let mut whole = Vec::with_capacity(announced as usize);
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > limit {
                return Err(too_long(&self.url));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.into())
    }
}

/// A whole body of at most `limit` bytes, in memory.
///
/// # Errors
/// `Upstream`: `Unreachable` when it breaks off or takes too long, `BadAnswer` at the first byte past the limit.
pub(super) async fn read_bounded(answer: Answer, limit: usize, stall: Duration) -> Result<(Bytes, Url)> {
    let Answer { response, url, .. } = answer;
    let whole = Body::new(response, url.clone(), stall).collect(limit);
    match tokio::time::timeout(WHOLE_BODY_TIME, whole).await {
        Ok(whole) => Ok((whole?, url)),
        Err(_) => Err(upstream(UpstreamKind::Unreachable, &url, "its answer took too long")),
    }
}

/// `Content-Length` as the peer wrote it: for HEAD the client library knows no other length than zero.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `Content-Range: bytes offset-last/size` (RFC 9110, section 14.4), which must be true in each number.
fn check_range(headers: &HeaderMap, offset: u64, size: u64) -> Result<(), String> {
    let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let (first, last, whole) = text.and_then(parse_range).ok_or("it answers a part without saying which")?;
    if first != offset || last < first || last >= size {
        return Err(format!("it answers bytes {first} to {last} where those from {offset} were asked for"));
    }
    match whole {
        Some(whole) if whole != size => {
            Err(format!("it has a blob of {whole} bytes where {size} were promised"))
        }
        Some(_) | None => Ok(()),
    }
}

fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, whole))
}

/// What a status that refuses a range means: the blob ends before the offset that its descriptor allows.
pub(super) fn range_refused(url: &Url, offset: u64) -> Error {
    upstream(UpstreamKind::Mismatch, url, format!("its blob ends before byte {offset}"))
}
