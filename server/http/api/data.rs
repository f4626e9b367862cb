//! `/api/v1/content/{digest}/data` and `POST /api/v1/content`: whole blobs, in and out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONTENT_LENGTH, IF_NONE_MATCH};
use http::{HeaderMap, Method, StatusCode};

use super::content::location;
use super::{made, with_lease};
use crate::error::{Error, Result};
use crate::http::blob::{Shown, respond};
use crate::http::error::ApiResult;
use crate::http::extract::Path;
use crate::http::params::{Params, header, size_header};
use crate::oci::{Algorithm, Digest};
use crate::store::{Blob, Caller, Committed, Labels, Put, PutBody, PutStream, Store, labels};

/// A body up to this many bytes is taken whole and written in one go; a longer one streams to the disk.
const IN_MEMORY: u64 = 1 << 20;

/// Where the bytes of a blob are.
pub const PATH: &str = "/api/v1/content/{digest}/data";

/// The blob that a request reads, where its path is plain: the router knows of escapes, and what to say of mistakes.
pub fn wanted(method: &Method, path: &str) -> Option<Digest> {
    if *method != Method::GET && *method != Method::HEAD {
        return None;
    }
    let text = path.strip_prefix("/api/v1/content/")?.strip_suffix("/data")?;
    text.parse().ok()
}

/// `GET` and `HEAD /api/v1/content/{digest}/data`: the bytes, or the requested ranges of them.
pub async fn read(
    State(store): State<Store>,
    caller: Caller,
    Path(digest): Path<Digest>,
    params: Params,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let blob = store.open_blob(&caller.namespace, &digest).await?;
    show(blob, &params, &method, &headers)
}

/// An open blob, or of it what is wanted.
pub fn show(blob: Arc<Blob>, params: &Params, method: &Method, headers: &HeaderMap) -> ApiResult<Response> {
    let shown = if params.flag("inline")? { Shown::Inline } else { Shown::Attachment };
    respond(blob, method, headers, shown)
}

/// `PUT /api/v1/content/{digest}/data`: store the body under this digest.
pub async fn put(
    State(store): State<Store>,
    caller: Caller,
    Path(digest): Path<Digest>,
    params: Params,
    request: Request,
) -> ApiResult<Response> {
    let hints = Hints::of(&params)?;
    // What is refused must hold nothing, so this comes before the lease that whoever stores a blob is given.
    if header(request.headers(), IF_NONE_MATCH.as_str())? == Some("*") {
        must_be_new(&store, &caller, &digest).await?;
    }
    if let Some(existing) = store.put_existing(&caller, &digest).await? {
        // The body need not be read: these bytes are here.
        return Ok(stored(&existing));
    }
    let algorithm = digest.algorithm();
    receive(&store, &caller, hints, request, Some(digest), algorithm).await
}

/// # Errors
/// `PreconditionFailed` when the namespace has these bytes. A record whose bytes are damaged is as good as none.
async fn must_be_new(store: &Store, caller: &Caller, digest: &Digest) -> Result<()> {
    match store.open_blob(&caller.namespace, digest).await {
        Ok(_) => Err(Error::PreconditionFailed { reason: format!("the namespace has {digest} already") }),
        Err(Error::NotFound { .. } | Error::Corrupt { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `POST /api/v1/content`: store the body under the digest that it has.
pub async fn create(
    State(store): State<Store>,
    caller: Caller,
    params: Params,
    request: Request,
) -> ApiResult<Response> {
    let algorithm = params.parse("algorithm")?.unwrap_or(Algorithm::Sha256);
    receive(&store, &caller, Hints::of(&params)?, request, None, algorithm).await
}

/// What the query says of a new record. It is checked also where the record is there already and nothing changes.
struct Hints {
    media_type: Option<String>,
    labels: Labels,
}

impl Hints {
    fn of(params: &Params) -> Result<Hints> {
        let media_type = params.one("media_type")?.map(str::to_owned);
        media_type.as_deref().map(labels::check_media_type).transpose()?;
        Ok(Hints { media_type, labels: labels::new_labels(params.new_labels()?)? })
    }
}

async fn receive(
    store: &Store,
    caller: &Caller,
    Hints { media_type, labels }: Hints,
    request: Request,
    expected: Option<Digest>,
    algorithm: Algorithm,
) -> ApiResult<Response> {
    let length = size_header(request.headers(), CONTENT_LENGTH.as_str())?;
    let body = request.into_body();
    let committed = match length {
        Some(length) if length <= IN_MEMORY => {
            let chunks = collect(body, length).await?;
            let body = PutBody { chunks, expected, algorithm, media_type, labels };
            store.put_bytes(caller, body).await?
        }
        _ => {
            let put = PutStream { expected, algorithm, media_type, labels, length };
            store.put_stream(caller, put, body.into_data_stream()).await?
        }
    };
    Ok(stored(&committed))
}

/// A short body, whose length is known, as it came.
async fn collect(body: Body, length: u64) -> Result<Vec<Bytes>> {
    let mut frames = body.into_data_stream();
    let (mut chunks, mut size) = (Vec::new(), 0);
    while let Some(frame) = frames.next().await {
        let bytes = frame.map_err(|_| Error::invalid("the body was cut short; nothing of it was kept"))?;
        size += bytes.len() as u64;
        chunks.push(bytes);
    }
    if size != length {
        return Err(Error::invalid("the body is not as long as its Content-Length says"));
    }
    Ok(chunks)
}

/// The record of what is stored now, new or not.
pub(super) fn stored(committed: &Committed) -> Response {
    let status = match committed.put {
        Put::New => StatusCode::CREATED,
        Put::Existed => StatusCode::OK,
    };
    let content = &committed.content;
    let response = made(status, &location(content), &content.tag(), content);
    with_lease(response, &committed.held)
}
