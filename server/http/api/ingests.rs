//! `/api/v1/ingests`: resumable writes. Headers are those of the IETF draft *Resumable Uploads for HTTP*; commit is a
//! call of its own.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, StatusCode};
use serde::{Deserialize, Serialize};

use super::data::stored;
use super::lists::Asked;
use super::{changed, made, moving, tagged, text, with_lease};
use crate::clock::parse_duration;
use crate::error::{Error, Result};
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json as JsonBody, Path};
use crate::http::params::{Idempotency, header, size_header};
use crate::id::IngestId;
use crate::limits;
use crate::oci::{Algorithm, Digest};
use crate::store::lists::INGESTS;
use crate::store::{Append, Caller, CommitIngest, Content, Ingest, Labels, OpenIngest, Opened, Store};

static UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
static UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
static UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");
const ORLOP_WRITER: &str = "orlop-writer";

/// `GET /api/v1/ingests`
pub async fn list(State(store): State<Store>, caller: Caller, asked: Asked) -> ApiResult<Response> {
    let (query, wanted) = asked.params.list(&INGESTS, Some(&caller.namespace))?;
    let wanted = wanted.reference(asked.params.text("ref", limits::REF_BYTES)?);
    let fetch = move |query| {
        let (store, namespace, wanted) = (store.clone(), caller.namespace.clone(), wanted.clone());
        async move { store.list_ingests(&namespace, &query, wanted).await }
    };
    asked.answer(query, fetch).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    #[serde(rename = "ref")]
    reference: String,
    total: Option<u64>,
    expected_digest: Option<Digest>,
    media_type: Option<String>,
    labels: Option<Labels>,
    writer_ttl: Option<String>,
}

/// What opening answers when the namespace has the digest.
#[derive(Serialize)]
struct Exists<'a> {
    state: &'static str,
    namespace: &'a str,
    #[serde(rename = "ref")]
    reference: &'a str,
    offset: u64,
    digest: &'a str,
    content: &'a Content,
}

/// `POST /api/v1/ingests`: open by ref, or resume.
pub async fn open(
    State(store): State<Store>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(open): JsonBody<Open>,
) -> ApiResult<Response> {
    let reference = open.reference.clone();
    let opened = store
        .open_ingest(
            &caller,
            OpenIngest {
                reference: open.reference,
                total: open.total,
                expected: open.expected_digest,
                media_type: open.media_type,
                labels: open.labels,
                writer_ttl: open.writer_ttl.as_deref().map(parse_writer_ttl).transpose()?,
                token: writer_token(&headers)?.map(str::to_owned),
            },
        )
        .await?;
    let limit = store.settings().max_blob_bytes;
    let (status, ingest, held) = match opened {
        Opened::Exists(committed) => {
            let content = &committed.content;
            let body = Exists {
                state: "exists",
                namespace: &caller.namespace,
                reference: &reference,
                offset: content.size,
                digest: &content.digest,
                content,
            };
            let response = made(StatusCode::OK, &super::content::location(content), &content.tag(), &body);
            return Ok(with_lease(response, &committed.held));
        }
        Opened::New { ingest, held } => (StatusCode::CREATED, ingest, held),
        Opened::Resumed { ingest, held } => (StatusCode::OK, ingest, held),
    };
    let location = super::location(&format!("/api/v1/ingests/{}", ingest.id), &ingest.namespace);
    let mut response = made(status, &location, &ingest.tag(), &ingest);
    describe(response.headers_mut(), &ingest, limit);
    Ok(with_lease(response, &held))
}

/// Offset, announced length and limit, as upload headers.
fn describe(headers: &mut HeaderMap, ingest: &Ingest, limit: u64) {
    headers.insert(UPLOAD_OFFSET.clone(), ingest.offset.into());
    if let Some(total) = ingest.total {
        headers.insert(UPLOAD_LENGTH.clone(), total.into());
    }
    headers.insert(UPLOAD_LIMIT.clone(), text(&format!("max-size={limit}")));
}

/// `GET /api/v1/ingests/{id}`
pub async fn show(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<IngestId>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let ingest = store.find_ingest(&caller.namespace, &id).await?;
    Ok(moving(tagged(&headers, &ingest.tag(), &ingest)))
}

/// `HEAD /api/v1/ingests/{id}/data`: where to go on.
pub async fn offset(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<IngestId>,
) -> ApiResult<Response> {
    let ingest = store.find_ingest(&caller.namespace, &id).await?;
    let mut response = StatusCode::OK.into_response();
    describe(response.headers_mut(), &ingest, store.settings().max_blob_bytes);
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `PATCH /api/v1/ingests/{id}/data`: append the body at `Upload-Offset`.
pub async fn append(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<IngestId>,
    request: Request,
) -> ApiResult<Response> {
    let headers = request.headers();
    let offset = size_header(headers, UPLOAD_OFFSET.as_str())?.ok_or_else(|| {
        Error::invalid_field("Upload-Offset", "say with Upload-Offset where these bytes begin")
    })?;
    let append = Append {
        offset,
        token: writer_token(headers)?.map(str::to_owned),
        chunk_digest: header(headers, "content-digest")?.map(parse_content_digest).transpose()?.flatten(),
        length: size_header(headers, CONTENT_LENGTH.as_str())?,
        announced: size_header(headers, UPLOAD_LENGTH.as_str())?,
    };
    let body = request.into_body().into_data_stream();
    let ingest = store.append_ingest(&caller.namespace, &id, append, body).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    describe(response.headers_mut(), &ingest, store.settings().max_blob_bytes);
    Ok(response)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncate {
    offset: u64,
}

/// `POST /api/v1/ingests/{id}/truncate`
pub async fn truncate(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<IngestId>,
    headers: HeaderMap,
    JsonBody(truncate): JsonBody<Truncate>,
) -> ApiResult<Response> {
    let token = writer_token(&headers)?;
    let ingest = store.truncate_ingest(&caller.namespace, &id, truncate.offset, token).await?;
    let mut response = changed(&ingest.tag(), &ingest);
    describe(response.headers_mut(), &ingest, store.settings().max_blob_bytes);
    Ok(response)
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    expected_digest: Option<Digest>,
    total: Option<u64>,
    labels: Option<Labels>,
}

/// `POST /api/v1/ingests/{id}/commit`
pub async fn commit(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<IngestId>,
    headers: HeaderMap,
    idempotency: Idempotency,
    commit: Result<Option<JsonBody<Commit>>, ApiError>,
) -> ApiResult<Response> {
    let token = writer_token(&headers)?;
    let commit = match commit {
        Ok(commit) => commit.map(|JsonBody(commit)| commit).unwrap_or_default(),
        Err(unreadable) => {
            // Every commit gives the ingest back, also one that cannot be read.
            if let Some(token) = token {
                store.release_ingest(&caller.namespace, &id, token).await?;
            }
            return Err(unreadable);
        }
    };
    let keyed = idempotency.keyed(&caller.namespace, &commit);
    let commit =
        CommitIngest { expected: commit.expected_digest, total: commit.total, labels: commit.labels };
    let (maker, finder, owner, token) =
        (store.clone(), store.clone(), caller.clone(), token.map(str::to_owned));
    let make = async move { maker.commit_ingest(&caller, &id, commit, token.as_deref()).await };
    // The ingest ended with the first answer: its repeat is about the content that it became.
    let find = async move |digest: String| {
        let existing = finder.put_existing(&owner, &digest.parse()?).await?;
        existing.ok_or_else(|| Error::not_found("content", digest))
    };
    let committed = store.make_once(keyed, make, |made| made.content.digest.as_str(), find).await?;
    Ok(stored(&committed))
}

/// `DELETE /api/v1/ingests/{id}/writer`: the holder gives the ingest back.
pub async fn release(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<IngestId>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    let token = writer_token(&headers)?.ok_or_else(|| {
        Error::invalid_field("Orlop-Writer", "the holder names itself with its Orlop-Writer token")
    })?;
    store.release_ingest(&caller.namespace, &id, token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/v1/ingests/{id}`
pub async fn abort(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<IngestId>,
) -> ApiResult<StatusCode> {
    store.abort_ingest(&caller.namespace, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The writer token of a call, in the shape that tokens have.
fn writer_token(headers: &HeaderMap) -> Result<Option<&str>> {
    let token = header(headers, ORLOP_WRITER)?;
    let fits = |token: &str| {
        (1..=255).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    if token.is_some_and(|token| !fits(token)) {
        let reason = "a writer token has from 1 to 255 letters, digits, `-` and `_`";
        return Err(Error::invalid_field("Orlop-Writer", reason));
    }
    Ok(token)
}

fn parse_writer_ttl(text: &str) -> Result<Duration> {
    let ttl = parse_duration(text).map_err(|error| error.in_field("writer_ttl"))?;
    if ttl < Duration::from_secs(1) || ttl > limits::WRITER_TTL {
        return Err(Error::invalid_field(
            "writer_ttl",
            format!("from 1s to {}s", limits::WRITER_TTL.as_secs()),
        ));
    }
    Ok(ttl)
}

/// The digest of a chunk (RFC 9530, section 2): the first of an algorithm that is known here; others are ignored.
fn parse_content_digest(line: &str) -> Result<Option<Digest>> {
    let malformed = || Error::invalid_field("Content-Digest", "`sha-256=:…:` is expected");
    for member in line.split(',').map(str::trim) {
        let (name, encoded) = member.split_once('=').ok_or_else(malformed)?;
        let algorithm = match name.trim() {
            "sha-256" => Algorithm::Sha256,
            "sha-384" => Algorithm::Sha384,
            "sha-512" => Algorithm::Sha512,
            _ => continue,
        };
        let inner = encoded.trim().strip_prefix(':').and_then(|rest| rest.strip_suffix(':'));
        let bytes = inner.and_then(|inner| STANDARD.decode(inner).ok()).ok_or_else(malformed)?;
        return Digest::from_bytes(algorithm, &bytes).map(Some).map_err(|_| malformed());
    }
    Ok(None)
}
