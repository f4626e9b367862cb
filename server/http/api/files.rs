//! Files of snapshots: listed, read, and all of them as one tar.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;

use super::lists::{JSON, NDJSON};
use crate::error::{Error, Result, Unprocessable};
use crate::http::accept::Accept;
use crate::http::blob::{Shown, respond_file, respond_layer_file};
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::Path;
use crate::http::params::Params;
use crate::id::ImageId;
use crate::id::SnapshotKey;
use crate::jobs::{ASK_AGAIN, Jobs, LayerView, Looked};
use crate::limits;
use crate::oci::tree::{Kind, PATH_BYTES};
use crate::oci::{Digest, Platform};
use crate::store::{Caller, FilePage, FileQuery, Store};

/// `GET /api/v1/snapshots/{key}/files`: what a mount would show, without one.
pub async fn list_of_snapshot(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let query = query_of(&params)?;
    let view = store.view_snapshot(&caller.namespace, &key).await?;
    let page = move |query: &FileQuery| view.files().list(query);
    answer(&params, &headers, query, page)
}

/// `GET /api/v1/snapshots/{key}/changes`: what it changed of its parent.
pub async fn changes(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let query = query_of(&params)?;
    let view = store.view_snapshot(&caller.namespace, &key).await?;
    let changes = view.changes();
    let page = move |query: &FileQuery| {
        let from = match &query.after {
            // The place in the list: it is made anew each time, and the same for what is committed.
            Some(after) => String::from_utf8_lossy(after).parse().unwrap_or(0),
            None => 0,
        };
        let items: Vec<_> = changes.iter().skip(from).take(query.limit).cloned().collect();
        let next = from + items.len();
        let last = (next < changes.len()).then(|| next.to_string().into_bytes());
        Ok(FilePage { items, last })
    };
    answer(&params, &headers, query, page)
}

/// `GET` and `HEAD /api/v1/snapshots/{key}/files/data`: one file, or ranges of it.
pub async fn read_of_snapshot(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
    params: Params,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let asked = Reading::of(&params, method, headers)?;
    let view = store.view_snapshot(&caller.namespace, &key).await?;
    let files = view.files();
    let found = files.find(&asked.path)?;
    check_file(&found.inode.kind, &asked.path)?;
    let file = store.open_file(&view, &found).await?;
    respond_file(file, &asked.method, &asked.headers, asked.shown)
}

/// `GET /api/v1/snapshots/{key}/archive`: all files as one tar.
pub async fn archive_of_snapshot(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
) -> ApiResult<Response> {
    let chunks = store.archive_snapshot(&caller.namespace, &key).await?;
    let chunks = futures_util::stream::unfold(chunks, |mut chunks| async move {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-tar")),
        (CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"rootfs.tar\"")),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// `GET /api/v1/content/{digest}/files`: what is in a layer.
pub async fn list_of_layer(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(digest): Path<Digest>,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let query = query_of(&params)?;
    let looked = jobs.look_into_layer(&caller.namespace, &digest).await?;
    list_of(looked, &params, &headers, query)
}

/// `GET /api/v1/images/{id}/files`: what an image has, unpacked or not.
pub async fn list_of_image(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(id): Path<ImageId>,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let query = query_of(&params)?;
    let platform = params.parse::<Platform>("platform")?;
    let looked = jobs.look_into_image(&caller.namespace, &id, platform.as_ref()).await?;
    list_of(looked, &params, &headers, query)
}

fn list_of(looked: Looked, params: &Params, headers: &HeaderMap, query: FileQuery) -> ApiResult<Response> {
    match looked {
        Looked::Reading => Ok(reading()),
        Looked::Ready(view) => answer(params, headers, query, move |query| view.files().list(query)),
    }
}

/// `GET` and `HEAD /api/v1/content/{digest}/files/data`: one file of a layer, or ranges of it.
pub async fn read_of_layer(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(digest): Path<Digest>,
    params: Params,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let asked = Reading::of(&params, method, headers)?;
    match jobs.look_into_layer(&caller.namespace, &digest).await? {
        Looked::Reading => Ok(reading()),
        Looked::Ready(view) => asked.read(&jobs, &caller, &view).await,
    }
}

/// `GET` and `HEAD /api/v1/images/{id}/files/data`: one file of an image, or ranges of it.
pub async fn read_of_image(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(id): Path<ImageId>,
    params: Params,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let asked = Reading::of(&params, method, headers)?;
    let platform = params.parse::<Platform>("platform")?;
    match jobs.look_into_image(&caller.namespace, &id, platform.as_ref()).await? {
        Looked::Reading => Ok(reading()),
        Looked::Ready(view) => asked.read(&jobs, &caller, &view).await,
    }
}

/// The layer is read for the first time, and that takes a while.
fn reading() -> Response {
    #[derive(Serialize)]
    struct State {
        state: &'static str,
    }
    let again = HeaderValue::from(ASK_AGAIN.as_secs());
    (StatusCode::ACCEPTED, [(RETRY_AFTER, again)], Json(State { state: "indexing" })).into_response()
}

/// A read of one file, as it is asked for.
struct Reading {
    path: Vec<u8>,
    shown: Shown,
    method: Method,
    headers: HeaderMap,
}

impl Reading {
    fn of(params: &Params, method: Method, headers: HeaderMap) -> Result<Reading> {
        let path = path_of(params)?.ok_or_else(|| Error::invalid_field("path", "say which file"))?;
        let shown = if params.flag("inline")? { Shown::Inline } else { Shown::Attachment };
        Ok(Reading { path, shown, method, headers })
    }

    async fn read(self, jobs: &Jobs, caller: &Caller, view: &LayerView) -> ApiResult<Response> {
        let files = view.files();
        let found = files.find(&self.path)?;
        check_file(&found.inode.kind, &self.path)?;
        let file = jobs.open_layer_file(&caller.namespace, view, &found).await?;
        respond_layer_file(file, &self.method, &self.headers, self.shown)
    }
}

/// Only a file has bytes.
fn check_file(kind: &Kind, path: &[u8]) -> Result<()> {
    let what = match kind {
        Kind::File(_) => return Ok(()),
        Kind::Directory(_) => "a directory",
        Kind::Symlink(_) => "a link",
        Kind::Fifo => "a fifo",
        Kind::Device(_) => "a device",
        Kind::Whiteout | Kind::LowerLink(_) => "no file of this layer",
    };
    let reason = format!("`{}` is {what}: it has no bytes to read", String::from_utf8_lossy(path));
    Err(Error::Unprocessable(Unprocessable::ValidationFailed { reason }))
}

/// The path that is asked for, as text or, where it is none, in base 64.
fn path_of(params: &Params) -> Result<Option<Vec<u8>>> {
    let plain = params.one("path")?.map(|path| path.as_bytes().to_vec());
    let coded = params.one("path_base64")?.map(|text| STANDARD.decode(text));
    let coded = coded.transpose().map_err(|_| Error::invalid_field("path_base64", "it is not base 64"))?;
    let path = match (plain, coded) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid_field("path_base64", "give one of `path` and `path_base64`"));
        }
        (plain, coded) => plain.or(coded),
    };
    if path.as_ref().is_some_and(|path| path.len() > PATH_BYTES || path.contains(&0)) {
        return Err(Error::invalid_field(
            "path",
            format!("a path has at most {PATH_BYTES} bytes, and no NUL"),
        ));
    }
    Ok(path)
}

fn query_of(params: &Params) -> Result<FileQuery> {
    let limit = match params.one("limit")? {
        None => limits::LIST_PAGE_DEFAULT,
        Some(text) => {
            text.parse().ok().filter(|limit| (1..=limits::LIST_PAGE).contains(limit)).ok_or_else(|| {
                Error::invalid_field(
                    "limit",
                    format!("limit is a whole number from 1 to {}", limits::LIST_PAGE),
                )
            })?
        }
    };
    let after = params.one("cursor")?.map(|text| URL_SAFE_NO_PAD.decode(text));
    let after =
        after.transpose().map_err(|_| Error::invalid_field("cursor", "it is no cursor of this list"))?;
    Ok(FileQuery {
        path: path_of(params)?.unwrap_or_default(),
        recursive: params.has("recursive") && params.flag("recursive")?,
        after,
        limit,
    })
}

#[derive(Serialize)]
struct PageBody<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

/// A page of JSON, or all that is left as one line each.
fn answer<T: Serialize + Send + 'static>(
    params: &Params,
    headers: &HeaderMap,
    mut query: FileQuery,
    page: impl Fn(&FileQuery) -> Result<FilePage<T>> + Send + 'static,
) -> ApiResult<Response> {
    match Accept::of(headers).choose(&[JSON, NDJSON]) {
        None => Err(ApiError::NotAcceptable { offered: "application/json, application/x-ndjson" }),
        Some(NDJSON) => {
            let mut left = if params.has("limit") { query.limit } else { usize::MAX };
            query.limit = limits::LIST_PAGE.min(left);
            let first = page(&query)?;
            let lines = futures_util::stream::unfold(Some(Ok(first)), move |current| {
                let lines = current.map(|page_in_hand: Result<FilePage<T>>| {
                    let FilePage { items, last } = match page_in_hand {
                        Ok(page) => page,
                        // A list that breaks off must not look like one that ended.
                        Err(error) => return (Err(std::io::Error::other(error)), None),
                    };
                    left -= items.len();
                    let mut text = Vec::new();
                    for item in &items {
                        serde_json::to_writer(&mut text, item).expect("texts and numbers are JSON");
                        text.push(b'\n');
                    }
                    query.after = last;
                    query.limit = limits::LIST_PAGE.min(left);
                    let next = (query.after.is_some() && left > 0).then(|| page(&query));
                    (Ok(Bytes::from(text)), next)
                });
                std::future::ready(lines)
            });
            let kind = [(CONTENT_TYPE, HeaderValue::from_static(NDJSON))];
            Ok((kind, Body::from_stream(lines)).into_response())
        }
        Some(_) => {
            let FilePage { items, last } = page(&query)?;
            let next_cursor = last.map(|last| URL_SAFE_NO_PAD.encode(last));
            Ok(Json(PageBody { items, next_cursor }).into_response())
        }
    }
}
