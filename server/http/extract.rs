//! What a handler takes out of a request, checked, with a problem that names the field at fault.

mod scan;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use axum::body::{Body, HttpBody};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, RawPathParams, Request};
use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;

use super::error::ApiError;
use crate::error::{Error, Result};
use crate::limits;

/// A JSON body. Give `T` `#[serde(deny_unknown_fields)]`: a misspelt field is then an error, not a silence.
///
/// `Option<Json<T>>` is `None` when the request has no body.
///
/// # Errors
/// 415 when it is not announced as JSON (which also keeps out the forms of foreign pages), 413 when it is too large,
/// 400 with the field's path when it is not a `T`.
#[derive(Debug)]
pub struct Json<T>(pub T);

/// The body of a PATCH (RFC 7396): `application/merge-patch+json`, or plain JSON, which is the same text. A field is read
/// with [`given`]; one that can be removed is an `Option` within.
#[derive(Debug)]
pub struct MergePatch<T>(pub T);

/// Path parameters.
///
/// # Errors
/// 400, naming the parameter.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Json<T>, ApiError> {
        read_json(request, &["application/json"], "application/json").await.map(Json)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Option<Json<T>>, ApiError> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        <Json<T> as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for MergePatch<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<MergePatch<T>, ApiError> {
        const TYPES: &[&str] = &["application/merge-patch+json", "application/json"];
        read_json(request, TYPES, "application/merge-patch+json").await.map(MergePatch)
    }
}

async fn read_json<T: DeserializeOwned>(
    request: Request,
    types: &[&str],
    expected: &'static str,
) -> Result<T, ApiError> {
    if !content_type_of(request.headers())
        .is_some_and(|found| types.iter().any(|t| found.eq_ignore_ascii_case(t)))
    {
        return Err(ApiError::UnsupportedMediaType { expected });
    }
    let bytes = read_body(request.into_body()).await?;
    let Object(value) = parse_json(&bytes)?;
    Ok(value)
}

/// The media type without its parameters.
fn content_type_of(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    text.split(';').next().map(str::trim)
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    const MOST: usize = limits::JSON_BODY_BYTES;
    let too_large = || Error::TooLarge { what: "the request body", limit: MOST as u64 }.into();
    // What is announced too large is not even begun.
    if body.size_hint().lower() > MOST as u64 {
        return Err(too_large());
    }
    match Limited::new(body, MOST).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(failed) if failed.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Error::invalid("the request body broke off").into()),
    }
}

/// Parses a JSON text of a client into a `T`.
///
/// # Errors
/// `Invalid`, with the path of the field at fault.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    scan::check(bytes, limits::JSON_DEPTH)?;
    if bytes.trim_ascii().is_empty() {
        return Err(Error::invalid("the body is empty: JSON is expected"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|failed| {
        match failed.inner().classify() {
            Category::Data => at_field(&failed.path().to_string(), failed.inner()),
            Category::Io | Category::Syntax | Category::Eof => not_json(failed.inner()),
        }
    })?;
    deserializer.end().map_err(|failed| not_json(&failed))?;
    Ok(value)
}

fn not_json(failed: &serde_json::Error) -> Error {
    Error::invalid(format!("the body is not JSON: {failed}"))
}

/// The parser's reason without the value that it met, which may be a secret in the wrong place. What it expected comes
/// last, and is ours.
fn without_value(reason: &str) -> String {
    const BEFORE_A_VALUE: [&str; 3] = ["invalid type", "invalid value", "unknown variant"];
    if !BEFORE_A_VALUE.iter().any(|words| reason.starts_with(words)) {
        return reason.to_owned();
    }
    let (found, expected) = reason.rsplit_once(", expected ").unwrap_or((reason, "another"));
    let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
    format!("{kind}, expected {expected}")
}

/// An error in the field at this path, where `.` is the whole.
fn at_field(path: &str, failed: &serde_json::Error) -> Error {
    let text = failed.to_string();
    let place = format!(" at line {} column {}", failed.line(), failed.column());
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    match (path, wanted(reason)) {
        (".", None) => Error::invalid(without_value(reason)),
        (".", Some(wanted)) => Error::invalid(format!("the body must be {wanted}")),
        (path, None) => Error::invalid_field(path, format!("`{path}`: {}", without_value(reason))),
        (path, Some(wanted)) => Error::invalid_field(path, format!("`{path}` must be {wanted}")),
    }
}

/// What stands where something else was wanted, in words of JSON; `None` when something else is wrong.
fn wanted(reason: &str) -> Option<&str> {
    let of_kind =
        ["invalid type: ", "invalid value: ", "invalid length "].iter().any(|kind| reason.starts_with(kind));
    let (_, expected) = reason.rsplit_once(", expected ").filter(|_| of_kind)?;
    Some(match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "unit" => "null",
        "a map" => "an object",
        kind if kind.starts_with("struct ") => "an object",
        other => other,
    })
}

/// A `T` that is written as an object. A derived struct would take an array of its fields as well.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// For a field that may be left out: what is there must be a `T`, and null is one only if `T` says so. Use with
/// `#[serde(default, deserialize_with = "given")]`; a plain `Option` would take a null for an absence.
///
/// # Errors
/// What `T` says.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// For one of several path parameters: the error is raised where the parameter's name is still known.
///
/// # Errors
/// What parsing says.
pub fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(deserializer: D) -> Result<T, D::Error> {
    struct Parsed<T>(PhantomData<T>);

    impl<T: FromStr<Err = Error>> Visitor<'_> for Parsed<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Parsed(PhantomData))
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, ApiError> {
        // NUL can stand in a path only like this. No name of ours has it, and Postgres does not store it.
        if parts.uri.path().contains("%00") {
            let reason = Error::invalid("the path must not contain the character NUL");
            return Err(reason.in_field(&only_parameter(parts).await).into());
        }
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(rejection) => Err(path_error(rejection).in_field(&only_parameter(parts).await).into()),
        }
    }
}

/// The name of the path's parameter, where it has one only: axum does not tell it in that case.
async fn only_parameter(parts: &mut Parts) -> String {
    let parameters = RawPathParams::from_request_parts(parts, &()).await.ok();
    let mut names = parameters.iter().flatten().map(|(name, _)| name.to_owned());
    match (names.next(), names.next()) {
        (Some(name), None) => name,
        (_, _) => "path".to_owned(),
    }
}

fn path_error(rejection: PathRejection) -> Error {
    let kind = match rejection {
        PathRejection::FailedToDeserializePathParams(failed) => failed.into_kind(),
        other => return Error::internal(format!("take a path apart: {other}")),
    };
    match kind {
        ErrorKind::ParseErrorAtKey { key, value, expected_type } => {
            Error::invalid_field(key, format!("`{value}` is not a {expected_type}"))
        }
        ErrorKind::InvalidUtf8InPathParam { key } => {
            let reason = format!("`{key}` in the path is not UTF-8 text");
            Error::invalid_field(key, reason)
        }
        ErrorKind::DeserializeError { key, message, .. } => Error::invalid_field(key, message),
        ErrorKind::ParseErrorAtIndex { value, expected_type, .. }
        | ErrorKind::ParseError { value, expected_type } => {
            Error::invalid(format!("`{value}` is not a {expected_type}"))
        }
        ErrorKind::Message(message) => Error::invalid(message),
        // A route and its handler that do not fit together are our defect.
        other => Error::internal(format!("take a path apart: {other}")),
    }
}

#[cfg(test)]
mod tests;
