//! Lists as answers: a page of JSON with a link to the next, or all of it as one line each.

use axum::Json;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, LINK};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri};
use serde::Serialize;

use super::text;
use crate::error::{Error, Result, with_causes};
use crate::http::accept::Accept;
use crate::http::error::ApiError;
use crate::http::params::Params;
use crate::jobs::JobState;
use crate::limits;
use crate::store::list::ListQuery;
use crate::store::lists::Page;

pub const JSON: &str = "application/json";
pub const NDJSON: &str = "application/x-ndjson";

#[derive(Serialize)]
struct PageBody<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

/// The state that the jobs of a list are to have.
///
/// # Errors
/// `Invalid` for one that no job has.
pub fn wanted_state(params: &Params) -> Result<Option<&str>> {
    let state = params.one("state")?;
    if let Some(state) = state.filter(|state| JobState::ALL.iter().all(|known| known.as_str() != *state)) {
        let known = JobState::ALL.map(JobState::as_str).join(", ");
        return Err(Error::invalid_field("state", format!("`{state}` is no state of a job: {known}")));
    }
    Ok(state)
}

/// A list as it is asked for.
pub struct Asked {
    /// [`Params::list`] reads the query of them.
    pub params: Params,
    uri: Uri,
    pub headers: HeaderMap,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked, ApiError> {
        let params = Params::from_request_parts(parts, state).await?;
        Ok(Asked { params, uri: parts.uri.clone(), headers: parts.headers.clone() })
    }
}

impl Asked {
    /// Answers in the form that the caller wants. `fetch` reads one page of the query it is given.
    ///
    /// # Errors
    /// What `fetch` fails with on the first page; `NotAcceptable`.
    pub async fn answer<T, F>(&self, query: ListQuery, fetch: F) -> Result<Response, ApiError>
    where
        T: Serialize + Send + 'static,
        F: AsyncFetch<T>,
    {
        match Accept::of(&self.headers).choose(&[JSON, NDJSON]) {
            None => Err(ApiError::NotAcceptable { offered: "application/json, application/x-ndjson" }),
            Some(NDJSON) => {
                let is_limited = self.params.names().any(|name| name == "limit");
                lines(query.clone(), if is_limited { query.limit } else { usize::MAX }, fetch).await
            }
            Some(_) => {
                let page = fetch.fetch(query.clone()).await?;
                Ok(self.page(&query, page))
            }
        }
    }

    /// A page, with a link to the next.
    pub fn page<T: Serialize>(&self, query: &ListQuery, page: Page<T>) -> Response {
        let next_cursor = page.next.map(|cursor| query.cursor_after(cursor.after));
        let link = next_cursor.as_deref().map(|cursor| next_link(&self.uri, cursor));
        let mut response = Json(PageBody { items: page.items, next_cursor }).into_response();
        if let Some(link) = link {
            response.headers_mut().insert(LINK, text(&link));
        }
        response
    }
}

/// One page of a list, asked for again and again with another cursor.
pub trait AsyncFetch<T>: Send + Sync + 'static {
    fn fetch(&self, query: ListQuery) -> impl Future<Output = Result<Page<T>>> + Send;
}

impl<T, F, R> AsyncFetch<T> for F
where
    F: Fn(ListQuery) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Page<T>>> + Send,
{
    fn fetch(&self, query: ListQuery) -> impl Future<Output = Result<Page<T>>> + Send {
        self(query)
    }
}

/// The whole list, one JSON document a line, in constant memory. The first page is read before the answer begins, so
/// that what is wrong with the request is still a problem and not a broken stream.
async fn lines<T, F>(mut query: ListQuery, left: usize, fetch: F) -> Result<Response, ApiError>
where
    T: Serialize + Send + 'static,
    F: AsyncFetch<T>,
{
    query.limit = limits::LIST_PAGE.min(left);
    let first = fetch.fetch(query.clone()).await?;
    let start = (Some(first), query, left, fetch);
    let chunks = stream::unfold(start, |(page, mut query, left, fetch)| async move {
        let page = page?;
        let mut text = Vec::new();
        for item in &page.items {
            serde_json::to_writer(&mut text, item).ok()?;
            text.push(b'\n');
        }
        let left = left - page.items.len();
        let next = match page.next {
            Some(cursor) if left > 0 => {
                query.cursor = Some(cursor);
                query.limit = limits::LIST_PAGE.min(left);
                match fetch.fetch(query.clone()).await {
                    Ok(page) => Some(page),
                    Err(error) => {
                        tracing::warn!("A list broke off: {}", with_causes(&error));
                        // Not a clean end: the client must not take a part for the whole.
                        return Some((
                            Err(std::io::Error::other("the list broke off")),
                            (None, query, 0, fetch),
                        ));
                    }
                }
            }
            _ => None,
        };
        Some((Ok(Bytes::from(text)), (next, query, left, fetch)))
    });
    let mut response = Body::from_stream(chunks).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

/// The same request with another cursor (RFC 8288).
fn next_link(uri: &Uri, cursor: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if name != "cursor" {
            query.append_pair(&name, &value);
        }
    }
    query.append_pair("cursor", cursor);
    format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish())
}
