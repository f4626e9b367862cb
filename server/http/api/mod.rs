//! The REST API: JSON, bytes and event streams, one file per resource. A handler extracts, makes one call, shapes.

pub mod content;
pub mod data;
pub mod diffs;
pub mod events;
pub mod files;
pub mod images;
pub mod ingests;
pub mod leases;
pub mod lists;
pub mod namespaces;
pub mod pulls;
pub mod registries;
pub mod snapshots;
pub mod streams;
pub mod system;
pub mod tokens;
pub mod unpacks;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use super::tags::{etag, knows, not_modified};
use crate::store::{DEFAULT_NAMESPACE, Held};

pub static LEASE: HeaderName = HeaderName::from_static("orlop-lease");
pub static LEASE_EXPIRES: HeaderName = HeaderName::from_static("orlop-lease-expires");

/// A record with its tag; 304 when the caller has it in this state.
pub fn tagged(request: &HeaderMap, tag: &str, record: &impl Serialize) -> Response {
    if knows(request, tag) { not_modified(tag) } else { changed(tag, record) }
}

/// A record that a call has just changed.
pub fn changed(tag: &str, record: &impl Serialize) -> Response {
    ([etag(tag)], Json(record)).into_response()
}

/// A record that a call has just made.
pub fn made(status: StatusCode, location: &str, tag: &str, record: &impl Serialize) -> Response {
    (status, [(LOCATION, text(location)), etag(tag)], Json(record)).into_response()
}

/// A record that changes without a call: it may be kept, and is asked for again each time.
pub fn moving(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Where a record of a namespace is: the default namespace is the one that a path without a word of it means.
pub fn location(path: &str, namespace: &str) -> String {
    match namespace {
        DEFAULT_NAMESPACE => path.to_owned(),
        other => format!("{path}?namespace={other}"),
    }
}

/// Says which lease holds what the call made, and until when.
pub fn with_lease(mut response: Response, held: &Held) -> Response {
    let headers = response.headers_mut();
    headers.insert(LEASE.clone(), text(&held.lease));
    if let Some(expires_at) = held.expires_at {
        headers.insert(LEASE_EXPIRES.clone(), text(&expires_at.to_string()));
    }
    response
}

/// A header of text that is ours, or that was checked to be visible ASCII.
pub fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("ids, digests, paths and times are visible ASCII")
}
