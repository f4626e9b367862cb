//! From an error to an answer: the one table, and RFC 9457 problems.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderName, HeaderValue};
use serde::Serialize;

use super::problems::{self as kinds, ProblemDoc};
use crate::error::{Conflict, Error, Holder, Unprocessable, UpstreamKind, with_causes};
use crate::jobs::upstream_hint;

pub type ApiResult<T> = Result<T, ApiError>;

/// What a handler can fail with: an error of the store, or one that only HTTP knows.
#[derive(Debug)]
pub enum ApiError {
    Store(Error),
    Unauthenticated { reason: &'static str },
    Forbidden { reason: String },
    Misdirected { host: String },
    NoSuchPath,
    MethodNotAllowed,
    NotAcceptable { offered: &'static str },
    UnsupportedMediaType { expected: &'static str },
    RangeNotSatisfiable { size: u64 },
    UriTooLong,
    HeadersTooLarge,
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        ApiError::Store(error)
    }
}

/// A problem as it is sent (RFC 9457), and an extension of its response: a page can be made of it instead.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: &'static str,
    pub status: u16,
    pub detail: String,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    pub hint: Cow<'static, str>,
    #[serde(flatten)]
    pub extras: Extras,
    /// For the log, never for the client.
    #[serde(skip)]
    pub cause: Option<String>,
}

/// What a program can act on.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Extras {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provided_offset: Option<u64>,
    /// Digests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<Holder>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<Vec<String>>,
    /// Keys of snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_id: Option<i64>,
    /// Digests that are not stored here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<String>>,
    /// Platforms that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<Vec<String>>,
}

impl ApiError {
    /// The one table from an error to its kind, and with it to status, code and title.
    pub fn doc(&self) -> &'static ProblemDoc {
        match self {
            ApiError::Store(error) => doc_of(error),
            ApiError::Unauthenticated { .. } => kinds::UNAUTHENTICATED,
            ApiError::Forbidden { .. } => kinds::FORBIDDEN,
            ApiError::Misdirected { .. } => kinds::MISDIRECTED_REQUEST,
            ApiError::NoSuchPath => kinds::NOT_FOUND,
            ApiError::MethodNotAllowed => kinds::METHOD_NOT_ALLOWED,
            ApiError::NotAcceptable { .. } => kinds::NOT_ACCEPTABLE,
            ApiError::UnsupportedMediaType { .. } => kinds::UNSUPPORTED_MEDIA_TYPE,
            ApiError::RangeNotSatisfiable { .. } => kinds::RANGE_NOT_SATISFIABLE,
            ApiError::UriTooLong => kinds::URI_TOO_LONG,
            ApiError::HeadersTooLarge => kinds::HEADERS_TOO_LARGE,
        }
    }

    /// The problem, without what only the request knows: its id and path.
    pub fn problem(&self) -> Problem {
        let doc = self.doc();
        Problem {
            kind: format!("/problems/{}", doc.code),
            title: doc.title,
            status: doc.status.as_u16(),
            detail: self.detail(),
            instance: None,
            code: doc.code,
            request_id: None,
            hint: self.hint(),
            extras: self.extras(),
            cause: self
                .store_error()
                .filter(|_| doc.status.is_server_error())
                .map(|error| with_causes(error)),
        }
    }

    /// What would help: the remedy of the kind, unless that of another case of it would mislead.
    fn hint(&self) -> Cow<'static, str> {
        let hint = match self.store_error() {
            Some(Error::Refused { .. }) => {
                "No token helps: the server's settings `denied_registries` and `allowed_registries` decide, which its \
                 operator makes."
            }
            Some(Error::NotFound { what: "image", .. }) => {
                "Check the spelling, and the `namespace` parameter. Images are found by name with \
                 `/api/v1/images?name=…`."
            }
            Some(Error::NoPlatform { available, .. }) if available.is_empty() => {
                "Nothing of the image says what it runs on: ask without `platform`."
            }
            // The words of a pull: the plan of one fails for the same reasons.
            Some(Error::Upstream(upstream)) => match upstream_hint(upstream) {
                Some(hint) => return hint.into(),
                None if upstream.kind == UpstreamKind::Forbidden => "No setting allows it: see `detail`.",
                None => self.doc().remedy,
            },
            _ => self.doc().remedy,
        };
        hint.into()
    }

    fn extras(&self) -> Extras {
        match self {
            ApiError::RangeNotSatisfiable { size } => {
                Extras { actual_size: Some(*size), ..Extras::default() }
            }
            _ => self.store_error().map(extras_of).unwrap_or_default(),
        }
    }

    fn store_error(&self) -> Option<&Error> {
        match self {
            ApiError::Store(error) => Some(error),
            ApiError::Unauthenticated { .. }
            | ApiError::Forbidden { .. }
            | ApiError::Misdirected { .. }
            | ApiError::NoSuchPath
            | ApiError::MethodNotAllowed
            | ApiError::NotAcceptable { .. }
            | ApiError::UnsupportedMediaType { .. }
            | ApiError::RangeNotSatisfiable { .. }
            | ApiError::UriTooLong
            | ApiError::HeadersTooLarge => None,
        }
    }

    /// What went wrong this time. Failures of the server itself say a fixed text: their own words are for the log.
    fn detail(&self) -> String {
        match self {
            ApiError::Store(error) => match error {
                Error::Internal { .. } | Error::OutOfSpace { .. } => doc_of(error).meaning.to_owned(),
                Error::Corrupt { digest, .. } => {
                    format!("the stored bytes of {digest} are missing or damaged")
                }
                other => other.to_string(),
            },
            ApiError::Unauthenticated { reason } => (*reason).to_owned(),
            ApiError::Forbidden { reason } => reason.clone(),
            ApiError::Misdirected { host } => format!("this server does not go by the name `{host}`"),
            ApiError::NoSuchPath => "there is nothing at this path".to_owned(),
            ApiError::MethodNotAllowed => "this path does not know this method".to_owned(),
            ApiError::NotAcceptable { offered } => format!("the answer can be had as {offered}"),
            ApiError::UnsupportedMediaType { expected } => format!("the Content-Type must be {expected}"),
            ApiError::RangeNotSatisfiable { size } => {
                format!("no range asked for lies within the {size} bytes there are")
            }
            ApiError::UriTooLong => format!("the target is longer than {} bytes", crate::limits::URI_BYTES),
            ApiError::HeadersTooLarge => {
                format!("the headers are larger than {} bytes", crate::limits::HEADER_BYTES)
            }
        }
    }

    /// The headers that belong to the kind.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
        let retry = |after: Duration| {
            (header::RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1_000).max(1) as u64))
        };
        match self {
            ApiError::Store(Error::Busy { offset, retry_after }) => {
                vec![retry(*retry_after), (UPLOAD_OFFSET, HeaderValue::from(*offset))]
            }
            ApiError::Store(
                Error::Conflict(Conflict::OffsetMismatch { expected: offset, .. })
                | Error::Unprocessable(Unprocessable::ChunkDigestMismatch { offset, .. }),
            ) => vec![(UPLOAD_OFFSET, HeaderValue::from(*offset))],
            ApiError::Store(Error::Unavailable { .. }) => vec![retry(crate::limits::UNAVAILABLE_RETRY)],
            ApiError::Store(Error::TooMany { retry_after, .. }) => vec![retry(*retry_after)],
            ApiError::Unauthenticated { .. } => {
                vec![(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"orlop\""))]
            }
            ApiError::RangeNotSatisfiable { size } => {
                let text = format!("bytes */{size}");
                let size = HeaderValue::try_from(text).expect("digits are header text");
                let ranges = HeaderValue::from_static("bytes");
                vec![(header::CONTENT_RANGE, size), (header::ACCEPT_RANGES, ranges)]
            }
            // The other kinds say all they have in the body.
            _ => Vec::new(),
        }
    }
}

fn doc_of(error: &Error) -> &'static ProblemDoc {
    match error {
        Error::NotFound { .. } => kinds::NOT_FOUND,
        Error::NoPlatform { .. } => kinds::NO_PLATFORM,
        Error::AlreadyExists { .. } => kinds::ALREADY_EXISTS,
        Error::Invalid(_) => kinds::INVALID_ARGUMENT,
        Error::Unprocessable(reason) => match reason {
            Unprocessable::ValidationFailed { .. } => kinds::VALIDATION_FAILED,
            Unprocessable::NotAManifest { .. } => kinds::NOT_A_MANIFEST,
            Unprocessable::NotAnArchive { .. } => kinds::NOT_AN_ARCHIVE,
            Unprocessable::ChunkDigestMismatch { .. } => kinds::CHUNK_DIGEST_MISMATCH,
            Unprocessable::IdempotencyKeyReused => kinds::IDEMPOTENCY_KEY_REUSED,
        },
        Error::Conflict(conflict) => match conflict {
            Conflict::DigestMismatch { .. } => kinds::DIGEST_MISMATCH,
            Conflict::SizeMismatch { .. } => kinds::SIZE_MISMATCH,
            Conflict::OffsetMismatch { .. } => kinds::OFFSET_MISMATCH,
            Conflict::ContentInUse { .. } => kinds::CONTENT_IN_USE,
            Conflict::HasChildren { .. } => kinds::HAS_CHILDREN,
            Conflict::NotEmpty { .. } => kinds::NOT_EMPTY,
            Conflict::Incomplete { .. } => kinds::IMAGE_INCOMPLETE,
            Conflict::State { .. } => kinds::INVALID_STATE,
        },
        Error::Busy { .. } => kinds::INGEST_BUSY,
        Error::Refused { .. } => kinds::FORBIDDEN,
        Error::Gone { .. } => kinds::GONE,
        Error::PreconditionFailed { .. } => kinds::PRECONDITION_FAILED,
        Error::WriterLost => kinds::WRITER_LOST,
        Error::TooLarge { .. } => kinds::TOO_LARGE,
        Error::TooMany { .. } => kinds::RATE_LIMITED,
        Error::OutOfSpace { .. } => kinds::OUT_OF_SPACE,
        Error::Unavailable { .. } => kinds::UNAVAILABLE,
        Error::Corrupt { .. } => kinds::CORRUPT_CONTENT,
        Error::Upstream(upstream) => match upstream.kind {
            UpstreamKind::Unreachable | UpstreamKind::CutShort => kinds::UPSTREAM_UNREACHABLE,
            UpstreamKind::Untrusted => kinds::UPSTREAM_UNTRUSTED,
            UpstreamKind::Denied
            | UpstreamKind::CredentialWanted
            | UpstreamKind::CredentialRefused
            | UpstreamKind::TokenHostUnknown
            | UpstreamKind::CertificateWanted => kinds::UPSTREAM_DENIED,
            UpstreamKind::NotFound | UpstreamKind::PartMissing => kinds::UPSTREAM_NOT_FOUND,
            UpstreamKind::RateLimited => kinds::UPSTREAM_RATE_LIMITED,
            UpstreamKind::ServerError => kinds::UPSTREAM_SERVER_ERROR,
            UpstreamKind::BadAnswer => kinds::UPSTREAM_BAD_ANSWER,
            UpstreamKind::Mismatch => kinds::UPSTREAM_MISMATCH,
            UpstreamKind::NoPlatform => kinds::UPSTREAM_NO_PLATFORM,
            UpstreamKind::PrivateAddress | UpstreamKind::Forbidden => kinds::UPSTREAM_FORBIDDEN,
        },
        Error::Internal { .. } => kinds::INTERNAL,
    }
}

fn extras_of(error: &Error) -> Extras {
    let none = Extras::default();
    match error {
        Error::Invalid(invalid) => {
            Extras { field: invalid.field.clone(), position: invalid.position, ..none }
        }
        Error::Unprocessable(Unprocessable::ChunkDigestMismatch { expected, actual, offset }) => Extras {
            offset: Some(*offset),
            expected: Some(expected.clone()),
            actual: Some(actual.clone()),
            ..none
        },
        Error::Conflict(Conflict::DigestMismatch { expected, actual }) => {
            Extras { expected: Some(expected.clone()), actual: Some(actual.clone()), ..none }
        }
        Error::Conflict(Conflict::SizeMismatch { expected, actual }) => {
            Extras { expected_size: Some(*expected), actual_size: Some(*actual), ..none }
        }
        Error::Conflict(Conflict::OffsetMismatch { expected, provided }) => {
            Extras { offset: Some(*expected), provided_offset: Some(*provided), ..none }
        }
        Error::Conflict(Conflict::ContentInUse { holders, .. }) => {
            Extras { holders: Some(holders.clone()), ..none }
        }
        Error::Conflict(Conflict::HasChildren { children, .. }) => {
            Extras { children: Some(children.clone()), ..none }
        }
        Error::Conflict(Conflict::NotEmpty { inside, .. }) => Extras { inside: Some(inside.clone()), ..none },
        Error::Conflict(Conflict::Incomplete { missing, .. }) => {
            Extras { missing: Some(missing.clone()), ..none }
        }
        Error::NoPlatform { available, .. } => Extras { available: Some(available.clone()), ..none },
        Error::Busy { offset, .. } => Extras { offset: Some(*offset), ..none },
        Error::Gone { oldest, .. } => Extras { oldest_id: Some(*oldest), ..none },
        Error::TooLarge { limit, .. } => Extras { limit: Some(*limit), ..none },
        Error::TooMany { limit, .. } => Extras { limit: Some(*limit as u64), ..none },
        Error::NotFound { .. }
        | Error::AlreadyExists { .. }
        | Error::Unprocessable(_)
        | Error::Conflict(Conflict::State { .. })
        | Error::Refused { .. }
        | Error::PreconditionFailed { .. }
        | Error::WriterLost
        | Error::OutOfSpace { .. }
        | Error::Unavailable { .. }
        | Error::Corrupt { .. }
        | Error::Upstream(_)
        | Error::Internal { .. } => none,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.problem();
        let mut response = Response::new(problem.body());
        *response.status_mut() = self.doc().status;
        let headers = response.headers_mut();
        headers
            .extend(self.headers().into_iter().map(|(name, value)| (Some(name), value)).collect::<Vec<_>>());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(problem);
        response
    }
}

impl Problem {
    fn body(&self) -> Body {
        Body::from(serde_json::to_vec(self).expect("a problem is strings and numbers"))
    }

    /// Writes into a response that is a problem what only the request knows, and gives the problem.
    pub fn complete(response: &mut Response, request_id: &str, path: &str) -> Option<Problem> {
        let mut problem = response.extensions_mut().remove::<Problem>()?;
        problem.request_id = Some(request_id.to_owned());
        problem.instance = Some(path.to_owned());
        *response.body_mut() = problem.body();
        // The router has counted the body that was there before.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        Some(problem)
    }
}

/// The router's fallback.
pub async fn no_such_path() -> ApiError {
    ApiError::NoSuchPath
}

/// The router's fallback for methods; the router adds `Allow`.
pub async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}

#[cfg(test)]
mod tests;
