//! The bytes of a blob, or of an archive of many, as a response: whole, one range, or several.
//!
//! What the page cache has is read on the worker that sends it, which is faster than handing it to another thread;
//! only what is not cached goes to a thread that may wait for the disk.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::ApiError;
use super::guard::secure;
use super::range::{ByteRange, Wanted, judge};
use crate::error::{Error, Result as StoreResult};
use crate::jobs::LayerFile;
use crate::oci::{Algorithm, Digest};
use crate::store::{Archive, Blob, Piece, Store, ViewFile};

/// Bytes read at once: large enough that reading costs nothing beside copying, small enough to stay in the cache.
const CHUNK: u64 = 256 << 10;

static DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
static REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// How a blob is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// As a file to keep.
    Attachment,
    /// Text as text, in the browser's window; anything else is a file all the same.
    Inline,
}

/// The answer to a read of `blob`.
///
/// # Errors
/// `RangeNotSatisfiable`; `PreconditionFailed`.
pub fn respond(
    blob: Arc<Blob>,
    method: &Method,
    request: &HeaderMap,
    shown: Shown,
) -> Result<Response, ApiError> {
    let mut headers = blob.head.get_or_init(|| head_of(&blob)).clone();
    if shown == Shown::Inline && blob.media_type.as_deref().is_some_and(is_text) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.remove(CONTENT_DISPOSITION);
    }
    answer(&Source::Blob(blob), headers, method, request)
}

/// The answer to a read of an image's archive.
///
/// # Errors
/// `RangeNotSatisfiable`; `PreconditionFailed`.
pub fn respond_archive(
    store: &Store,
    archive: Archive,
    method: &Method,
    request: &HeaderMap,
) -> Result<Response, ApiError> {
    let mut headers = file_headers(&archive.tag);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    let file = format!("attachment; filename=\"{}\"", archive.file_name);
    headers.insert(CONTENT_DISPOSITION, value(&file));
    answer(&Source::Archive(store.clone(), Arc::new(archive)), headers, method, request)
}

/// The answer to a read of a file in a layer.
///
/// # Errors
/// `RangeNotSatisfiable`; `PreconditionFailed`.
pub fn respond_layer_file(
    file: LayerFile,
    method: &Method,
    request: &HeaderMap,
    shown: Shown,
) -> Result<Response, ApiError> {
    let headers = shown_headers(&file.tag, shown);
    answer(&Source::Layer(Arc::new(file)), headers, method, request)
}

/// The answer to a read of a file in a snapshot.
///
/// # Errors
/// `RangeNotSatisfiable`; `PreconditionFailed`.
pub fn respond_file(
    file: ViewFile,
    method: &Method,
    request: &HeaderMap,
    shown: Shown,
) -> Result<Response, ApiError> {
    let headers = shown_headers(&file.tag, shown);
    answer(&Source::File(Arc::new(file)), headers, method, request)
}

fn shown_headers(tag: &str, shown: Shown) -> HeaderMap {
    let mut headers = file_headers(tag);
    if shown == Shown::Inline {
        // Whatever it is, as text: nothing of it runs.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.remove(CONTENT_DISPOSITION);
    }
    headers
}

/// The headers of a file that changes with its name.
fn file_headers(tag: &str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(24);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(ETAG, value(&format!("\"{tag}\"")));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What a name stands for may change.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    secure(&mut headers);
    headers
}

/// What the request wants of the source, below these headers; the tag among them is the source's own.
fn answer(
    source: &Source,
    mut headers: HeaderMap,
    method: &Method,
    request: &HeaderMap,
) -> Result<Response, ApiError> {
    let size = source.size();
    let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    let (status, length, body) = match judge(request, tag, size) {
        Wanted::NotModified => {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        Wanted::PreconditionFailed => {
            return Err(Error::PreconditionFailed { reason: format!("its ETag is {tag}") }.into());
        }
        // Ranges are of GET alone (RFC 9110, section 14.2).
        Wanted::Whole | Wanted::Ranges(_) | Wanted::Unsatisfiable if method == Method::HEAD => {
            (StatusCode::OK, size, Body::empty())
        }
        Wanted::Unsatisfiable => return Err(ApiError::RangeNotSatisfiable { size }),
        Wanted::Whole => (StatusCode::OK, size, source.body(ByteRange { start: 0, end: size })),
        Wanted::Ranges(ranges) => {
            let (length, body) = match ranges.as_slice() {
                [one] => {
                    headers.insert(CONTENT_RANGE, value(&content_range(*one, size)));
                    (one.length(), source.body(*one))
                }
                many => {
                    let body = multipart(source, many, &mut headers);
                    (body.left, Body::new(body))
                }
            };
            (StatusCode::PARTIAL_CONTENT, length, body)
        }
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// What is read.
enum Source {
    Blob(Arc<Blob>),
    File(Arc<ViewFile>),
    Layer(Arc<LayerFile>),
    Archive(Store, Arc<Archive>),
}

impl Source {
    fn size(&self) -> u64 {
        match self {
            Source::Blob(blob) => blob.size,
            Source::File(file) => file.file.size(),
            Source::Layer(file) => file.size(),
            Source::Archive(_, archive) => archive.size,
        }
    }

    /// One range: from memory where it is there, else read as it is sent.
    fn body(&self, range: ByteRange) -> Body {
        if let Source::Blob(blob) = self
            && let Some(bytes) = blob.at_hand()
        {
            return Body::from(bytes.slice(range.start as usize..range.end as usize));
        }
        let mut body = BlobBody::default();
        self.append(range, &mut body);
        Body::new(body)
    }

    /// Puts one range at the end of a body.
    fn append(&self, range: ByteRange, body: &mut BlobBody) {
        match self {
            Source::Blob(blob) => body.push(Part::Range(Opened::Blob(blob.clone()), range)),
            Source::File(file) => body.push(Part::Range(Opened::File(file.clone()), range)),
            Source::Layer(file) => body.push(Part::Unpacked(file.clone(), range)),
            Source::Archive(store, archive) => {
                for piece in archive.pieces(range.start, range.end) {
                    body.push(match piece {
                        Piece::Text(text) => Part::Text(text),
                        Piece::Blob { digest, start, length } => {
                            let range = ByteRange { start, end: start + length };
                            Part::Unopened(Box::new((store.clone(), archive.clone(), digest)), range)
                        }
                    });
                }
            }
        }
    }
}

/// The headers of a blob as a file to keep: all but its length and, of a part, its range.
fn head_of(blob: &Blob) -> HeaderMap {
    // With room for those of the connection and of the guard: growing would hash each name again.
    let mut headers = HeaderMap::with_capacity(24);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(ETAG, value(&format!("\"{}\"", blob.digest)));
    headers.insert(REPR_DIGEST.clone(), value(&repr_digest(&blob.digest)));
    headers.insert(DOCKER_CONTENT_DIGEST.clone(), value(blob.digest.as_str()));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Private: what a token opened is not for a shared cache.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    secure(&mut headers);
    headers
}

/// Media types that a browser may show as plain text.
fn is_text(media_type: &str) -> bool {
    media_type.starts_with("text/") || media_type == "application/json" || media_type.ends_with("+json")
}

/// The digest of the whole as a structured field (RFC 9530, section 3).
fn repr_digest(digest: &Digest) -> String {
    use base64::Engine;
    let name = match digest.algorithm() {
        Algorithm::Sha256 => "sha-256",
        Algorithm::Sha384 => "sha-384",
        Algorithm::Sha512 => "sha-512",
    };
    format!("{name}=:{}:", base64::engine::general_purpose::STANDARD.encode(digest.to_bytes()))
}

fn content_range(range: ByteRange, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digests and numbers are header text")
}

/// Several ranges in one body (RFC 9110, section 14.6).
fn multipart(source: &Source, ranges: &[ByteRange], headers: &mut HeaderMap) -> BlobBody {
    let boundary = crate::id::hex(&crate::id::random_bytes::<12>());
    let kind = headers.insert(CONTENT_TYPE, value(&format!("multipart/byteranges; boundary={boundary}")));
    let kind = kind.as_ref().and_then(|kind| kind.to_str().ok()).unwrap_or("application/octet-stream");
    let mut body = BlobBody::default();
    for range in ranges {
        body.push(Part::Text(Bytes::from(format!(
            "\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {}\r\n\r\n",
            content_range(*range, source.size())
        ))));
        source.append(*range, &mut body);
    }
    body.push(Part::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    body
}

enum Part {
    Text(Bytes),
    Range(Opened, ByteRange),
    /// Of a file that comes out of its layer when its turn comes.
    Unpacked(Arc<LayerFile>, ByteRange),
    Coming(mpsc::Receiver<io::Result<Bytes>>, u64),
    /// Of a blob that is opened when its turn comes: an archive has more of them than may be open.
    Unopened(Box<(Store, Arc<Archive>, Digest)>, ByteRange),
}

/// What has bytes.
#[derive(Clone)]
enum Opened {
    Blob(Arc<Blob>),
    File(Arc<ViewFile>),
}

impl Opened {
    fn file(&self) -> &crate::store::OpenFile {
        match self {
            Opened::Blob(blob) => &blob.file,
            Opened::File(file) => &file.file,
        }
    }

    fn name(&self) -> &str {
        match self {
            Opened::Blob(blob) => blob.digest.as_str(),
            Opened::File(file) => &file.tag,
        }
    }
}

/// What a body waits for.
enum Waiting {
    Open(BoxFuture<'static, StoreResult<Arc<Blob>>>),
    Read(JoinHandle<io::Result<Vec<u8>>>),
}

/// A body that reads as it is sent.
#[derive(Default)]
struct BlobBody {
    /// What is being sent.
    part: Option<Part>,
    /// What comes after it: nothing, but for several ranges or an archive.
    later: VecDeque<Part>,
    left: u64,
    waiting: Option<Waiting>,
}

impl BlobBody {
    fn push(&mut self, part: Part) {
        self.left += match &part {
            Part::Text(text) => text.len() as u64,
            Part::Range(_, range) | Part::Unpacked(_, range) | Part::Unopened(_, range) => range.length(),
            Part::Coming(_, left) => *left,
        };
        match self.part {
            None => self.part = Some(part),
            Some(_) => self.later.push_back(part),
        }
    }

    /// Takes `read` bytes off the range in front.
    fn advance(&mut self, read: usize) {
        self.left -= read as u64;
        if let Some(Part::Range(_, range)) = &mut self.part {
            range.start += read as u64;
            if range.start >= range.end {
                self.part = self.later.pop_front();
            }
        }
    }

    /// Opens the blob whose turn has come.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(Part::Unopened(place, range)) = &self.part else { return Poll::Ready(Ok(())) };
        let range = *range;
        let mut opening = match self.waiting.take() {
            Some(Waiting::Open(opening)) => opening,
            Some(Waiting::Read(_)) | None => {
                let (store, archive, digest) = (**place).clone();
                Box::pin(async move { store.open_blob(&archive.namespace, &digest).await })
            }
        };
        match opening.as_mut().poll(context) {
            Poll::Ready(Ok(blob)) if range.end <= blob.size => {
                self.part = Some(Part::Range(Opened::Blob(blob), range));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Err(io::Error::other("a blob has become shorter"))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            Poll::Pending => {
                self.waiting = Some(Waiting::Open(opening));
                Poll::Pending
            }
        }
    }
}

impl http_body::Body for BlobBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let (opened, range) = loop {
            match &mut this.part {
                None => return Poll::Ready(None),
                Some(Part::Text(text)) => {
                    let text = std::mem::take(text);
                    this.part = this.later.pop_front();
                    this.left -= text.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::data(text))));
                }
                Some(Part::Unopened(place, _)) => {
                    let digest = place.2.clone();
                    ready!(this.poll_open(context)).inspect_err(|error| break_off(digest.as_str(), error))?;
                }
                Some(Part::Range(_, range)) if range.start >= range.end => {
                    this.part = this.later.pop_front();
                }
                Some(Part::Unpacked(file, range)) => {
                    let coming = file.read(range.start, range.end);
                    this.part = Some(Part::Coming(coming, range.length()));
                }
                Some(Part::Coming(_, 0)) => this.part = this.later.pop_front(),
                Some(Part::Coming(coming, left)) => {
                    let bytes = match ready!(coming.poll_recv(context)) {
                        Some(bytes) => bytes?,
                        None => {
                            return Poll::Ready(Some(Err(io::Error::other("a file of a layer ended early"))));
                        }
                    };
                    *left = left.saturating_sub(bytes.len() as u64);
                    this.left = this.left.saturating_sub(bytes.len() as u64);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Part::Range(opened, range)) => break (opened, *range),
            }
        };
        let limit = usize::try_from(range.length().min(CHUNK)).expect("a chunk fits in memory");
        let read = match &mut this.waiting {
            Some(Waiting::Read(waiting)) => {
                let read = ready!(Pin::new(waiting).poll(context));
                this.waiting = None;
                read.unwrap_or_else(|ended| Err(io::Error::other(ended)))
            }
            Some(Waiting::Open(_)) | None => match opened.file().read_cached(range.start, limit) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => {
                    let opened = opened.clone();
                    let mut waiting =
                        tokio::task::spawn_blocking(move || opened.file().read_at(range.start, limit));
                    match Pin::new(&mut waiting).poll(context) {
                        Poll::Ready(read) => read.unwrap_or_else(|ended| Err(io::Error::other(ended))),
                        Poll::Pending => {
                            this.waiting = Some(Waiting::Read(waiting));
                            return Poll::Pending;
                        }
                    }
                }
                Err(error) => Err(error),
            },
        };
        let bytes = read.inspect_err(|error| break_off(opened.name(), error))?;
        this.advance(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The answer has begun: all that is left is to break it off, so that nobody takes a part for the whole.
fn break_off(name: &str, error: &io::Error) {
    tracing::error!(blob.digest = %name, "Reading a blob failed: {error}");
}
