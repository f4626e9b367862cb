//! Entity tags of what is not a blob: written, and compared with what the caller has (RFC 9110, section 8.8.3).

use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::range::{Comparison, lists};

/// The header that tells a tag; the tag is given without its quotes.
pub fn etag(tag: &str) -> (HeaderName, HeaderValue) {
    (ETAG, HeaderValue::from_str(&format!("\"{tag}\"")).expect("our tags are digests and numbers"))
}

/// Whether the caller has what bears this tag (RFC 9110, section 13.1.2).
pub fn knows(request: &HeaderMap, tag: &str) -> bool {
    let tag = format!("\"{tag}\"");
    let mut lines = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    lines.any(|line| lists(line, &tag, Comparison::Weak))
}

/// The answer to a caller who has it.
pub fn not_modified(tag: &str) -> Response {
    (StatusCode::NOT_MODIFIED, [etag(tag)]).into_response()
}
