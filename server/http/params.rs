//! Query parameters and the caller: what every API call may say beside its path and body.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use http::uri::PathAndQuery;
use serde::Serialize;

use super::access::Identity;
use super::error::ApiError;
use crate::clock::parse_duration;
use crate::error::{Error, Result};
use crate::id::LeaseId;
use crate::limits;
use crate::store::list::{ListQuery, ListRequest, Resource};
use crate::store::lists::Wanted;
use crate::store::{Caller, DEFAULT_NAMESPACE, IfMatch, Keyed, Labels};

/// The header that names a lease.
pub const ORLOP_LEASE: &str = "orlop-lease";

/// The query parameters, in order, decoded. The route table has checked that each is one the route knows.
#[derive(Debug, Clone, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Takes a query string apart. Strictly, unlike a browser: what is wrongly escaped would otherwise be looked for, or
    /// kept, as something that nobody wrote.
    ///
    /// # Errors
    /// `Invalid` for an escape that is none, text that is not UTF-8, and NUL, which Postgres does not store.
    pub fn of(query: Option<&str>) -> Result<Params> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let value = decode(value).map_err(|error| error.in_field(&name))?;
            Ok((name, value))
        });
        decoded.collect::<Result<_>>().map(Params)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// A parameter that may be there once.
    ///
    /// # Errors
    /// `Invalid` when it is there twice: nobody can say which one was meant.
    pub fn one(&self, name: &str) -> Result<Option<&str>> {
        let mut found = self.all(name);
        match (found.next(), found.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Error::invalid_field(name, format!("`{name}` is there more than once"))),
        }
    }

    /// A text to compare with, from 1 to `most` bytes.
    ///
    /// # Errors
    /// `Invalid` when it is there twice, empty or longer: nothing could have it.
    pub fn text(&self, name: &str, most: usize) -> Result<Option<&str>> {
        let text = self.one(name)?;
        if text.is_some_and(|text| !(1..=most).contains(&text.len())) {
            return Err(Error::invalid_field(name, format!("`{name}` has from 1 to {most} bytes")));
        }
        Ok(text)
    }

    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let name = name.to_owned();
        self.0.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// # Errors
    /// `Invalid` when the parameter cannot be read as a `T`.
    pub fn parse<T: FromStr<Err = Error>>(&self, name: &str) -> Result<Option<T>> {
        self.one(name)?.map(str::parse).transpose().map_err(|error: Error| error.in_field(name))
    }

    /// As [`Params::flag`], of a parameter that says `true` also by its name alone.
    ///
    /// # Errors
    /// As of [`Params::flag`].
    pub fn bare_flag(&self, name: &str) -> Result<bool> {
        match self.one(name)? {
            Some("") => Ok(true),
            _ => self.flag(name),
        }
    }

    /// `true` or `false`; `false` where it is not there.
    ///
    /// # Errors
    /// `Invalid` for anything else, a name alone included: `""` is no boolean of the contract.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.one(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(Error::invalid_field(name, format!("`{other}` is neither `true` nor `false`")))
            }
        }
    }

    /// # Errors
    /// `Invalid` when it is no length of time, or longer than `most`.
    pub fn duration(&self, name: &str, most: Duration) -> Result<Option<Duration>> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let length = parse_duration(text).map_err(|error| error.in_field(name))?;
        if length > most {
            return Err(Error::invalid_field(name, format!("at most {} seconds", most.as_secs())));
        }
        Ok(Some(length))
    }

    /// The labels of something new, as `label=key=value`, repeated.
    ///
    /// # Errors
    /// `Invalid` for one without a `=`.
    pub fn new_labels(&self) -> Result<Labels> {
        self.all("label")
            .map(|text| match text.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(Error::invalid_field("label", format!("`{text}` is not `key=value`"))),
            })
            .collect()
    }

    /// The list that is asked for: filter, order, cursor, limit; and the labels that items must have.
    ///
    /// # Errors
    /// `Invalid` with the parameter at fault.
    pub fn list(&self, resource: &Resource, namespace: Option<&str>) -> Result<(ListQuery, Wanted)> {
        let filters: Vec<String> = self.all("filter").map(str::to_owned).collect();
        let own = ["filter", "sort", "cursor", "limit", "namespace"];
        let mut plain: Vec<(&str, &str)> = self
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !own.contains(name))
            .collect();
        plain.extend(namespace.map(|namespace| ("namespace", namespace)));
        let query = ListQuery::parse(
            resource,
            ListRequest {
                filters: &filters,
                sort: self.one("sort")?,
                cursor: self.one("cursor")?,
                limit: self.one("limit")?,
                plain: &plain,
            },
        )?;
        let mut wanted = Wanted::default();
        for (at, label) in self.all("label").enumerate() {
            if at == limits::FILTERS {
                let reason = format!("more than the limit of {} labels", limits::FILTERS);
                return Err(Error::invalid_field("label", reason));
            }
            // One byte more than a label, for the `=`.
            if label.is_empty() || label.len() > limits::LABEL_BYTES + 1 {
                let reason = format!("a label has from 1 to {} bytes", limits::LABEL_BYTES);
                return Err(Error::invalid_field("label", reason));
            }
            wanted = match label.split_once('=') {
                Some((key, value)) => wanted.label(key, Some(value)),
                None => wanted.label(label, None),
            };
        }
        Ok((query, wanted))
    }
}

/// Undoes the escapes of a form: `+` and `%41`.
fn decode(text: &str) -> Result<String> {
    let wrong = || Error::invalid(format!("`{text}` is not escaped as a query parameter must be"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    if bytes.contains(&0) {
        return Err(Error::invalid("text must not contain the character NUL"));
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Params, ApiError> {
        Ok(Params::of(parts.uri.query())?)
    }
}

/// The caller: the namespace of the `namespace` parameter, the lease of the `Orlop-Lease` header, and where the
/// credential reaches.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Caller, ApiError> {
        let identity = Identity::of(parts);
        let namespace = namespace_of(&Params::of(parts.uri.query())?, &identity)?.to_owned();
        let lease = header(&parts.headers, ORLOP_LEASE)?;
        if let Some(id) = lease {
            id.parse::<LeaseId>().map_err(|error| error.in_field("Orlop-Lease"))?;
        }
        Ok(Caller { namespace, lease: lease.map(str::to_owned), reach: identity.reach() })
    }
}

/// The namespace that a request is about.
///
/// # Errors
/// `Invalid` for what is no namespace; `Forbidden` when the identity does not reach it.
pub fn namespace_of<'p>(params: &'p Params, identity: &Identity) -> Result<&'p str, ApiError> {
    let namespace = params.one("namespace")?.unwrap_or(DEFAULT_NAMESPACE);
    identity.must_reach(namespace, "namespace")?;
    Ok(namespace)
}

/// A header that may be there once, as text.
///
/// # Errors
/// `Invalid` when it is there twice, or is not visible ASCII.
pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>> {
    let mut found = headers.get_all(name).iter();
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text.trim())),
            Err(_) => Err(Error::invalid_field(name, format!("the header `{name}` is not visible ASCII"))),
        },
        (Some(_), Some(_)) => {
            Err(Error::invalid_field(name, format!("the header `{name}` is there more than once")))
        }
    }
}

/// A header that is a count of bytes.
///
/// # Errors
/// `Invalid` when it is no such number, or does not fit in 63 bits.
pub fn size_header(headers: &HeaderMap, name: &str) -> Result<Option<u64>> {
    let Some(text) = header(headers, name)? else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let size = text.parse::<u64>().ok().filter(|size| digits && i64::try_from(*size).is_ok());
    match size {
        Some(size) => Ok(Some(size)),
        None => Err(Error::invalid_field(name, format!("`{text}` is not a count of bytes"))),
    }
}

/// The condition of a changing call.
///
/// # Errors
/// `Invalid` for a malformed tag.
pub fn if_match(headers: &HeaderMap) -> Result<IfMatch> {
    let mut tags = Vec::new();
    for value in headers.get_all(http::header::IF_MATCH) {
        let line = value.to_str().unwrap_or_default().trim();
        if line == "*" {
            return Ok(IfMatch::Any);
        }
        for tag in line.split(',').map(str::trim) {
            let inner = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            match (inner, tag.starts_with("W/")) {
                (Some(inner), _) => tags.push(inner.to_owned()),
                // A weak tag never matches strongly (RFC 9110, section 13.1.1), and is no mistake.
                (None, true) => tags.push(String::new()),
                (None, false) => {
                    return Err(Error::invalid_field("If-Match", format!("`{tag}` is not an entity tag")));
                }
            }
        }
    }
    Ok(if tags.is_empty() { IfMatch::Absent } else { IfMatch::Tags(tags) })
}

/// Whether a POST may be a repeat: its key, and of its fingerprint what does not stand in the body.
#[derive(Debug, Clone)]
pub struct Idempotency {
    key: Option<String>,
    method: String,
    target: String,
}

impl Idempotency {
    /// The request with its body. `scope` is the namespace it is for, empty where it is for none.
    pub fn keyed(&self, scope: &str, body: &impl Serialize) -> Option<Keyed> {
        self.key.as_deref().map(|key| Keyed::new(scope, key, &self.method, &self.target, body))
    }
}

impl<S: Sync> FromRequestParts<S> for Idempotency {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Idempotency, ApiError> {
        let key = idempotency_key(&parts.headers)?.map(str::to_owned);
        // Without the host, which HTTP/2 writes into the target and HTTP/1 does not.
        let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        Ok(Idempotency { key, method: parts.method.to_string(), target })
    }
}

/// The idempotency key of a POST.
///
/// # Errors
/// `Invalid` when it is empty, too long, or has a space in it.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>> {
    let key = header(headers, "idempotency-key")?;
    let fits = |key: &str| {
        (1..=limits::IDEMPOTENCY_KEY_BYTES).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match key {
        Some(key) if !fits(key) => Err(Error::invalid_field(
            "Idempotency-Key",
            format!("1 to {} visible characters of ASCII", limits::IDEMPOTENCY_KEY_BYTES),
        )),
        key => Ok(key),
    }
}

#[cfg(test)]
mod tests;
