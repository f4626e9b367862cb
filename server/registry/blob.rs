//! The bytes of one blob, or of one part of it, exactly as many as its descriptor promises.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use crate::error::{Error, Result, UpstreamKind};
use crate::limits;
use crate::registry::failure::{bad_answer, no_connection, upstream};
use crate::registry::places::Place;
use crate::registry::ranks::Answerer;
use crate::registry::trace::Counting;
use crate::registry::transport::Answer;

/// The bytes of a blob as they arrive. Drop it to stop. Their digest is the reader's to check.
#[derive(Debug)]
pub struct BlobStream {
    /// `None` when there is nothing more to read.
    body: Option<Body>,
    size: u64,
    offset: u64,
    /// Where this answer ends, which may be before or after the end that was asked for.
    end: u64,
    /// Bytes still to be dropped, of a server that began at the start.
    to_skip: u64,
    ranges: Ranges,
    /// The right to have a request in flight, for as long as it is.
    place: Place,
    /// Who hears of it when the bytes are no good.
    from: Option<Answerer>,
}

/// What a server makes of the range that it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// It answers it, or was asked for none.
    Honoured,
    /// It answers the whole blob.
    Ignored,
    /// It answers something else and calls that a part, and then, asked for none, the whole blob.
    Mistaken,
}

/// What comes of a blob.
#[derive(Debug)]
pub enum Arrived {
    Bytes(Bytes),
    /// So many bytes before those that were asked for, of a server that begins at the first.
    Skipped(u64),
}

#[derive(Debug)]
struct Body {
    response: Response,
    url: Url,
    stall: Duration,
    /// Time spent waiting, and bytes received, since the last time that enough had come.
    waited: Duration,
    received: u64,
    counting: Counting,
    /// Bytes still to come, where the head of the answer says how many.
    left: Option<u64>,
}

impl BlobStream {
    /// A stream at the end of its blob.
    pub(super) fn at_end(size: u64, place: Place) -> BlobStream {
        let ranges = Ranges::Honoured;
        BlobStream { body: None, size, offset: size, end: size, to_skip: 0, ranges, place, from: None }
    }

    /// Takes the answer to a request for the bytes `wanted` of a blob of `size`.
    ///
    /// # Errors
    /// `Upstream` `BadAnswer` or `Mismatch` when the head of the answer already says that these are other bytes.
    pub(super) fn open(
        answer: Answer,
        size: u64,
        wanted: Range<u64>,
        stall: Duration,
        place: Place,
    ) -> Result<BlobStream> {
        let given = given_range(&answer, size, &wanted)?;
        let is_whole = given == (0..size) && wanted != given;
        let ranges = if is_whole { Ranges::Ignored } else { Ranges::Honoured };
        let Answer { response, url, from, counting, .. } = answer;
        let (offset, to_skip) = (wanted.start, wanted.start - given.start);
        let body = Some(Body::new(response, url, stall, counting));
        Ok(BlobStream { body, size, offset, end: given.end, to_skip, ranges, place, from })
    }

    /// The same of a server that was asked once more, after it had answered something else than the part that was wanted.
    pub(super) fn after_mistake(self) -> BlobStream {
        BlobStream { ranges: Ranges::Mistaken, ..self }
    }

    pub fn ranges(&self) -> Ranges {
        self.ranges
    }

    /// Where the answer ends in the blob. A server that does not know ranges answers to the end of the blob; one that
    /// knows them may answer less than was asked for (RFC 9110, section 15.3.7).
    pub fn end(&self) -> u64 {
        self.end
    }

    /// `host[:port]` of the endpoint that was asked; none for what is had elsewhere.
    pub fn host(&self) -> Option<&str> {
        self.from.as_ref().map(|from| from.authority.as_str())
    }

    /// Where the next chunk begins in the blob: what was asked for, plus what was read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Ends it, and gives back the right to have a request in flight.
    pub fn leave(self) -> Place {
        self.place
    }

    /// The next bytes that were asked for, never none of them; `None` once there were exactly as many as the answer
    /// promises. May be dropped while it waits, without losing a byte.
    ///
    /// # Errors
    /// As [`BlobStream::arrive`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.arrive().await? {
                Some(Arrived::Bytes(bytes)) => return Ok(Some(bytes)),
                Some(Arrived::Skipped(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next thing that comes: as [`BlobStream::chunk`], and bytes that were not asked for are told as well.
    ///
    /// # Errors
    /// `Upstream`: `Unreachable` when the body breaks off, ends early or stalls (ask again from [`Self::offset`]);
    /// `Mismatch` when there are more bytes than promised. Whoever the bytes are from is asked later from then on.
    pub async fn arrive(&mut self) -> Result<Option<Arrived>> {
        let arrived = self.next().await;
        if let (Err(_), Some(from)) = (&arrived, &self.from) {
            from.shun();
        }
        arrived
    }

    async fn next(&mut self) -> Result<Option<Arrived>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let Some(mut bytes) = body.next().await? else {
            self.finish()?;
            return Ok(None);
        };
        let skipped = self.to_skip.min(bytes.len() as u64);
        self.to_skip -= skipped;
        bytes = bytes.split_off(usize::try_from(skipped).expect("at most the length of these bytes"));
        if bytes.is_empty() {
            return Ok(Some(Arrived::Skipped(skipped)));
        }
        if bytes.len() as u64 > self.end - self.offset {
            let reason = match self.end == self.size {
                true => format!("it sends more than the {} bytes that were promised", self.size),
                false => format!("it sends more than its range, which ends at byte {}", self.end),
            };
            return Err(body.end_early(upstream(UpstreamKind::Mismatch, &body.url, reason)));
        }
        self.offset += bytes.len() as u64;
        Ok(Some(Arrived::Bytes(bytes)))
    }

    fn finish(&mut self) -> Result<()> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        if self.offset < self.end {
            let reason = format!("the body ended at byte {} of {}", self.offset, self.size);
            return Err(body.end_early(upstream(UpstreamKind::Unreachable, &body.url, reason)));
        }
        Ok(())
    }
}

impl Body {
    fn new(response: Response, url: Url, stall: Duration, mut counting: Counting) -> Body {
        counting.begin();
        let left = content_length(response.headers());
        Body { response, url, stall, waited: Duration::ZERO, received: 0, counting, left }
    }

    fn end_early(&mut self, error: Error) -> Error {
        self.counting.cut(&error);
        error
    }

    /// The next bytes, under the stall watch. Only waiting counts: a slow reader is not a slow peer.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let began = Instant::now();
        let left = self.stall.saturating_sub(self.waited);
        let Ok(bytes) = tokio::time::timeout(left, self.response.chunk()).await else {
            let reason = format!("it stalled: next to nothing came for {} s", self.stall.as_secs_f32());
            return Err(self.end_early(upstream(UpstreamKind::Unreachable, &self.url, reason)));
        };
        let bytes = bytes.map_err(|error| self.end_early(no_connection(&self.url, &error)))?;
        self.count(bytes.as_ref());
        self.waited += began.elapsed();
        self.received += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        // Less would let a peer drip a byte per wait, and hold a pull for ever.
        if self.received >= limits::UPSTREAM_PACE_BYTES {
            (self.waited, self.received) = (Duration::ZERO, 0);
        }
        Ok(bytes)
    }

    fn count(&mut self, bytes: Option<&Bytes>) {
        let come = bytes.map_or(0, |bytes| bytes.len() as u64);
        self.counting.count(come);
        self.left = self.left.map(|left| left.saturating_sub(come));
        if bytes.is_none() || self.left == Some(0) {
            self.counting.end();
        }
    }

    async fn collect(mut self, limit: usize) -> Result<Bytes> {
        let too_long = |url| bad_answer(url, format!("its answer is longer than {limit} bytes"));
        let announced = content_length(self.response.headers()).unwrap_or(0);
        if announced > limit as u64 {
            let error = too_long(&self.url);
            return Err(self.end_early(error));
        }
        let mut whole = Vec::with_capacity(announced as usize);
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > limit {
                let error = too_long(&self.url);
                return Err(self.end_early(error));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.into())
    }
}

/// The bytes of the blob that an answer gives, as its head says, where these were asked for.
///
/// # Errors
/// `Upstream` `BadAnswer` or `Mismatch` when they are others.
pub(super) fn given_range(answer: &Answer, size: u64, wanted: &Range<u64>) -> Result<Range<u64>> {
    let Answer { response, url, .. } = answer;
    let headers = response.headers();
    if is_encoded(headers) {
        return Err(bad_answer(url, "it encodes the blob, though it was asked not to"));
    }
    let given = match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => return Err(range_refused(url, wanted.start)),
        StatusCode::OK => 0..size,
        StatusCode::PARTIAL_CONTENT if *wanted != (0..size) => {
            check_range(headers, wanted, size).map_err(|reason| bad_answer(url, reason))?
        }
        _ => return Err(bad_answer(url, "it answers a part of the blob, though all of it was asked for")),
    };
    match content_length(headers) {
        Some(length) if given == (0..size) && length != size => {
            let reason = format!("it has a blob of {length} bytes where {size} were promised");
            Err(upstream(UpstreamKind::Mismatch, url, reason))
        }
        Some(_) | None => Ok(given),
    }
}

/// Whether an answer calls something else a part than what was asked for. The same server may yet have the whole.
pub(super) fn is_mistaken(answer: &Answer, size: u64, wanted: &Range<u64>) -> bool {
    let is_part = answer.response.status() == StatusCode::PARTIAL_CONTENT;
    is_part && *wanted != (0..size) && given_range(answer, size, wanted).is_err()
}

/// Whether a body is not the bytes themselves, though these alone were asked for.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes());
    encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity"))
}

/// A whole body of at most `limit` bytes, in memory.
///
/// # Errors
/// `Upstream`: `Unreachable` when it breaks off or takes too long, `BadAnswer` at the first byte past the limit.
pub(super) async fn read_bounded(answer: Answer, limit: usize, stall: Duration) -> Result<(Bytes, Url)> {
    let Answer { response, url, counting, .. } = answer;
    let whole = Body::new(response, url.clone(), stall, counting).collect(limit);
    match tokio::time::timeout(limits::UPSTREAM_BODY_TIME, whole).await {
        Ok(whole) => Ok((whole?, url)),
        Err(_) => Err(upstream(UpstreamKind::Unreachable, &url, "its answer took too long")),
    }
}

/// `Content-Length` as the peer wrote it: for HEAD the client library knows no other length than zero.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The bytes that `Content-Range: bytes first-last/size` (RFC 9110, section 14.4) announces, which must be true in each
/// number, begin where it was asked and end no later.
fn check_range(headers: &HeaderMap, wanted: &Range<u64>, size: u64) -> Result<Range<u64>, String> {
    let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let (first, last, whole) = text.and_then(parse_range).ok_or("it answers a part without saying which")?;
    if first != wanted.start || last < first || last >= wanted.end {
        let (from, to) = (wanted.start, wanted.end - 1);
        return Err(format!("it answers bytes {first} to {last} where {from} to {to} were asked for"));
    }
    match whole {
        Some(whole) if whole != size => {
            Err(format!("it has a blob of {whole} bytes where {size} were promised"))
        }
        Some(_) | None => Ok(first..last + 1),
    }
}

fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, whole))
}

/// What a status that refuses a range means: the blob ends before the offset that its descriptor allows.
fn range_refused(url: &Url, offset: u64) -> Error {
    upstream(UpstreamKind::Mismatch, url, format!("its blob ends before byte {offset}"))
}
