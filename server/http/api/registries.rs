//! `/api/v1/registries`: how registries are reached. Secrets go in here and never come out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::IF_NONE_MATCH;
use http::{HeaderMap, StatusCode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use super::{changed, made, tagged};
use crate::clock::parse_duration;
use crate::error::{Error, Result};
use crate::http::error::ApiResult;
use crate::http::extract::{Json as JsonBody, Path, given};
use crate::http::params::{header, if_match};
use crate::jobs::{
    Capability, Change, Credential, HostChange, Jobs, Probe, RegistryChange, RegistryView, Secret,
};
use crate::store::{Expected, IfMatch};

/// Longest URL of a host, and longest `host[:port]` of a token server, in bytes.
const LONGEST_URL_BYTES: usize = 2048;
const LONGEST_AUTHORITY_BYTES: usize = 255;

/// A credential as clients send it: a user with a password, or one of the tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "an object with a credential")]
pub struct Auth {
    username: Option<String>,
    password: Option<Secret>,
    identity_token: Option<Secret>,
    token: Option<Secret>,
}

impl Auth {
    /// # Errors
    /// `Invalid` (`field`) for none of these, or more than one.
    pub fn credential(self, field: &str) -> Result<Credential> {
        match (self.username, self.password, self.identity_token, self.token) {
            (Some(username), Some(password), None, None) => Ok(Credential::Password { username, password }),
            (None, None, Some(token), None) => Ok(Credential::IdentityToken { token }),
            (None, None, None, Some(token)) => Ok(Credential::RegistryToken { token }),
            _ => Err(Error::invalid_field(
                field,
                "a credential is `username` and `password`, or `token`, or `identity_token`",
            )),
        }
    }
}

/// A credential as clients send it for a host, or as it is shown, with its kind and without its secret.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "an object with a credential")]
struct HostAuth {
    kind: Option<String>,
    username: Option<String>,
    password: Option<Secret>,
    identity_token: Option<Secret>,
    token: Option<Secret>,
}

impl HostAuth {
    fn change(self, field: &str) -> Result<Change<Credential>> {
        let HostAuth { kind, username, password, identity_token, token } = self;
        let has_secret = password.is_some() || identity_token.is_some() || token.is_some();
        if kind.is_some() && !has_secret {
            return Ok(Change::KeepShown);
        }
        Auth { username, password, identity_token, token }.credential(field).map(Change::Set)
    }
}

/// A length of time in words, or in seconds as it is shown.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a length of time, as in \"5s\", or a number of seconds")]
enum Length {
    Text(String),
    Seconds(f64),
}

impl Length {
    fn parse(&self) -> Result<Duration> {
        match self {
            Length::Text(text) => parse_duration(text),
            Length::Seconds(seconds) => Duration::try_from_secs_f64(*seconds)
                .map_err(|_| Error::invalid("this is no number of seconds that can be waited")),
        }
    }
}

/// Texts in a list, or one alone.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text, or a list of texts")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Default for Texts {
    fn default() -> Texts {
        Texts::Many(Vec::new())
    }
}

/// A registry's own host with its mirrors, as clients send it, or one of the mirrors. A secret that is absent stays as it
/// is, and null removes it. What is shown beside the settings may come back, and is ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    url: Option<String>,
    #[serde(deserialize_with = "given")]
    capabilities: Option<BTreeSet<Capability>>,
    ca: Texts,
    client_certificate: Option<String>,
    #[serde(deserialize_with = "mentioned")]
    client_key: Option<Option<Secret>>,
    skip_verify: bool,
    #[serde(deserialize_with = "mentioned")]
    headers: Option<Option<BTreeMap<String, Vec<Secret>>>>,
    /// As they are shown.
    header_names: Vec<String>,
    override_path: bool,
    connect_timeout: Option<Length>,
    #[serde(deserialize_with = "mentioned")]
    credential: Option<Option<HostAuth>>,
    token_hosts: Vec<String>,
    /// A mirror has none, nor what follows.
    #[serde(deserialize_with = "given")]
    mirrors: Option<Vec<Host>>,
    #[serde(rename = "host")]
    _host: IgnoredAny,
    #[serde(rename = "source")]
    _source: IgnoredAny,
    #[serde(rename = "readable")]
    _readable: IgnoredAny,
    #[serde(rename = "created_at")]
    _created_at: IgnoredAny,
    #[serde(rename = "updated_at")]
    _updated_at: IgnoredAny,
}

/// `Some(None)` for null: absent is another thing.
fn mentioned<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn change<T>(given: Option<Option<T>>) -> Change<T> {
    match given {
        None => Change::Keep,
        Some(None) => Change::Remove,
        Some(Some(new)) => Change::Set(new),
    }
}

impl Host {
    /// # Errors
    /// `Invalid` with the field.
    fn registry_change(mut self) -> Result<RegistryChange> {
        let mirrors = self.mirrors.take().unwrap_or_default().into_iter().enumerate();
        let mirrors =
            mirrors.map(|(at, mirror)| mirror.change(&format!("mirrors[{at}]"))).collect::<Result<_>>();
        Ok(RegistryChange { server: self.change("")?, mirrors: mirrors? })
    }

    /// # Errors
    /// `Invalid`, with the field below `place`.
    fn change(self, place: &str) -> Result<HostChange> {
        let field = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
        let wrong = |name: &str, why: &str| Error::invalid_field(field(name), why);
        let url = self.url.map(|text| match Url::parse(&text) {
            Ok(url) if url.as_str().len() <= LONGEST_URL_BYTES => Ok(url),
            Ok(_) => Err(wrong("url", "the URL of a host is not so long")),
            Err(_) => Err(wrong("url", "this is not a URL")),
        });
        if self.token_hosts.iter().any(|host| host.len() > LONGEST_AUTHORITY_BYTES) {
            return Err(wrong("token_hosts", "the name of a host is not so long"));
        }
        if self.headers.iter().flatten().flatten().any(|(_, values)| values.is_empty()) {
            return Err(wrong("headers", "a header has at least one value"));
        }
        if self.mirrors.is_some() {
            return Err(wrong("mirrors", "a mirror has no mirrors"));
        }
        let timeout = self.connect_timeout.as_ref().map(Length::parse).transpose();
        let credential = match self.credential {
            None => Change::Keep,
            Some(None) => Change::Remove,
            Some(Some(auth)) => auth.change(&field("credential"))?,
        };
        let headers = match change(self.headers) {
            Change::Keep if !self.header_names.is_empty() => Change::KeepShown,
            headers => headers,
        };
        Ok(HostChange {
            url: url.transpose()?,
            capabilities: self.capabilities,
            ca: match self.ca {
                Texts::One(text) => vec![text],
                Texts::Many(texts) => texts,
            },
            client_certificate: self.client_certificate,
            client_key: change(self.client_key),
            skip_verify: self.skip_verify,
            headers,
            override_path: self.override_path,
            connect_timeout: timeout.map_err(|error| error.in_field(&field("connect_timeout")))?,
            credential,
            token_hosts: self.token_hosts,
        })
    }
}

#[derive(Serialize)]
struct All {
    items: Vec<RegistryView>,
    next_cursor: Option<String>,
}

/// `GET /api/v1/registries`: all of them, for there are never many.
pub async fn list(State(jobs): State<Jobs>) -> ApiResult<Response> {
    Ok(Json(All { items: jobs.list_registries().await?, next_cursor: None }).into_response())
}

/// `GET /api/v1/registries/{host}`
pub async fn show(
    State(jobs): State<Jobs>,
    Path(host): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let registry = jobs.find_registry(&host).await?;
    Ok(tagged(&headers, &registry.tag(), &registry))
}

/// `PUT /api/v1/registries/{host}`
pub async fn put(
    State(jobs): State<Jobs>,
    Path(host): Path<String>,
    headers: HeaderMap,
    JsonBody(put): JsonBody<Host>,
) -> ApiResult<Response> {
    let expected = expected(&headers)?;
    let (registry, is_new) = jobs.put_registry(&host, put.registry_change()?, expected).await?;
    if !is_new {
        return Ok(changed(&registry.tag(), &registry));
    }
    let location = format!("/api/v1/registries/{}", registry.host);
    Ok(made(StatusCode::CREATED, &location, &registry.tag(), &registry))
}

/// `If-Match`, or `If-None-Match: *` for the first settings only.
fn expected(headers: &HeaderMap) -> Result<Expected> {
    match (header(headers, IF_NONE_MATCH.as_str())?, if_match(headers)?) {
        (None, if_match) => Ok(Expected::Match(if_match)),
        (Some("*"), IfMatch::Absent) => Ok(Expected::Nothing),
        (Some(_), _) => {
            let reason = "a change takes `If-None-Match: *` or `If-Match`, and not both";
            Err(Error::invalid_field("If-None-Match", reason))
        }
    }
}

/// `DELETE /api/v1/registries/{host}`
pub async fn delete(
    State(jobs): State<Jobs>,
    Path(host): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    jobs.delete_registry(&host, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    #[serde(default)]
    repository: Option<String>,
}

#[derive(Serialize)]
struct Tested {
    /// Whether a pull would find a host that lets it in.
    ok: bool,
    hosts: Vec<Probe>,
}

/// `POST /api/v1/registries/{host}/test`
pub async fn test(
    State(jobs): State<Jobs>,
    Path(host): Path<String>,
    test: Option<JsonBody<Test>>,
) -> ApiResult<Response> {
    let test = test.map(|JsonBody(test)| test).unwrap_or_default();
    let hosts = jobs.test_registry(&host, test.repository.as_deref()).await?;
    Ok(Json(Tested { ok: hosts.iter().any(|host| host.ok), hosts }).into_response())
}
