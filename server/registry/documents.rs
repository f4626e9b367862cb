//! The documents of a repository: what a reference stands for, and manifests and indexes that are what they are named
//! (OCI distribution spec, "Pulling manifests").

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::error::{Error, Result, UpstreamKind};
use crate::limits;
use crate::oci::media_type::{self, Kind};
use crate::oci::schema1::{self, Schema1};
use crate::oci::{Algorithm, Descriptor, Digest, Document, Reference};
use crate::registry::blob::{content_length, is_encoded, read_bounded};
use crate::registry::failure::{bad_answer, upstream};
use crate::registry::repository::{Repository, Shelf, identity, is_not_found};
use crate::registry::transport::{Answer, Wire};
use crate::registry::{Ask, Capability};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a reference stands for just now.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Media type, digest and size as the registry says; the bytes are verified when they are fetched.
    pub descriptor: Descriptor,
    /// The document itself, where the registry had to be asked for it to answer.
    pub document: Option<Fetched>,
    /// The manifest of schema 1 that it is, in place of a document.
    pub schema1: Option<Schema1>,
}

/// A document whose bytes have the digest and the size that its descriptor says.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub descriptor: Descriptor,
    /// As they came: what the digest names.
    pub bytes: Bytes,
    pub document: Document,
}

/// What is kept under the name of a manifest.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
enum Kept {
    Document(Fetched),
    Schema1(Descriptor, Schema1),
}

impl Repository {
    /// What `reference` stands for: its digest where it has one, else what its tag points to now.
    ///
    /// # Errors
    /// `Upstream`, with `NotFound` when there is no such tag or digest, `Mismatch` when the registry answers
    /// with another digest than it was asked for.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved> {
        let digest = reference.digest();
        let name = digest
            .map(Digest::as_str)
            .or(reference.tag())
            .ok_or_else(|| Error::invalid(format!("`{reference}` names neither a tag nor a digest")))?;
        let ask = Ask {
            wire: Wire::Any,
            method: Method::HEAD,
            capability: if digest.is_some() { Capability::Pull } else { Capability::Resolve },
            path: format!("manifests/{name}"),
            headers: document_headers(),
        };
        let place = self.enter().await;
        let read = |answer: Answer| async move { described(&answer, digest) };
        let head = match self.ask_for(ask, read).await {
            Ok(head) => head,
            Err(error) if wants_get(&error) => None,
            Err(error) => return Err(error),
        };
        if let Some(descriptor) = head {
            return Ok(Resolved { descriptor, document: None, schema1: None });
        }
        drop(place);
        Ok(match self.get_document(name, digest).await? {
            Kept::Document(fetched) => {
                Resolved { descriptor: fetched.descriptor.clone(), document: Some(fetched), schema1: None }
            }
            Kept::Schema1(descriptor, schema1) => {
                Resolved { descriptor, document: None, schema1: Some(schema1) }
            }
        })
    }

    /// The document that `descriptor` names, verified against its digest, size and media type.
    ///
    /// # Errors
    /// `Upstream`: `Mismatch` for other bytes, `BadAnswer` for bytes that are not a document of that type.
    pub async fn fetch_document(&self, descriptor: &Descriptor) -> Result<Fetched> {
        let Kept::Document(fetched) =
            self.get_document(descriptor.digest.as_str(), Some(&descriptor.digest)).await?
        else {
            let reason = "a document was promised and is a Docker manifest of schema 1";
            return Err(self.failed(UpstreamKind::BadAnswer, reason.to_owned()));
        };
        if fetched.descriptor.size != descriptor.size {
            let (actual, promised) = (fetched.descriptor.size, descriptor.size);
            return Err(self.failed(
                UpstreamKind::Mismatch,
                format!("a document has {actual} bytes where {promised} were promised"),
            ));
        }
        if fetched.descriptor.media_type != media_type::essence(&descriptor.media_type) {
            let reason = format!(
                "a document of type `{}` was promised and is `{}`",
                descriptor.media_type, fetched.descriptor.media_type
            );
            return Err(self.failed(UpstreamKind::BadAnswer, reason));
        }
        Ok(Fetched { descriptor: descriptor.clone(), ..fetched })
    }

    /// The document under a tag, if there is one; `None` for a manifest of schema 1 as well.
    ///
    /// # Errors
    /// `Upstream`, as [`Repository::fetch_document`].
    pub(super) async fn find_tagged(&self, tag: &str) -> Result<Option<Document>> {
        match self.get_document(tag, None).await {
            Ok(Kept::Document(fetched)) => Ok(Some(fetched.document)),
            Ok(Kept::Schema1(..)) => Ok(None),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The document under a tag or digest: a digest that is no manifest may be kept among the blobs.
    async fn get_document(&self, name: &str, digest: Option<&Digest>) -> Result<Kept> {
        let _place = self.enter().await;
        match (self.get_document_at(Shelf::Manifests, name, digest).await, digest) {
            (Err(error), Some(_)) if is_not_found(&error) => {
                // Where neither place has it, the answer about manifests is the one to tell.
                match self.get_document_at(Shelf::Blobs, name, digest).await {
                    Err(second) if is_not_found(&second) => Err(error),
                    settled => settled,
                }
            }
            (settled, _) => settled,
        }
    }

    async fn get_document_at(&self, shelf: Shelf, name: &str, digest: Option<&Digest>) -> Result<Kept> {
        let ask = Ask {
            wire: Wire::Any,
            method: Method::GET,
            capability: if digest.is_some() { Capability::Pull } else { Capability::Resolve },
            path: shelf.path(name),
            headers: document_headers(),
        };
        self.ask_for(ask, |answer| self.read_document(answer, digest)).await
    }

    async fn read_document(&self, answer: Answer, digest: Option<&Digest>) -> Result<Kept> {
        if answer.response.status() != StatusCode::OK || is_encoded(answer.response.headers()) {
            return Err(bad_answer(&answer.url, "it answers a part of the document, or an encoded one"));
        }
        let said = said_digest(&answer)?;
        let content_type = content_type(&answer).map(str::to_owned);
        let stall = self.registry.patience().stall;
        let (bytes, url) = read_bounded(answer, limits::MANIFEST_BYTES as usize, stall).await?;
        // What was asked for decides; else what the registry says; else we are the first to name it.
        let expected = digest.or(said.as_ref());
        // What is no manifest's type says most of all: a page of the network's own stands in a registry's place.
        let strange = |said: &&str| !Kind::of(said).is_document() && media_type::check(said).is_ok();
        let strange = content_type.as_deref().map(media_type::essence).filter(strange);
        let comes_as = strange.map(|said| format!(", which comes as `{said}`,")).unwrap_or_default();
        let unusable = |error| bad_answer(&url, format!("its document{comes_as} cannot be used: {error}"));
        if schema1::is_schema1(&bytes, content_type.as_deref()) {
            let payload = schema1::payload(&bytes).map_err(unusable)?;
            let actual = check_digest(&url, expected, &payload)?;
            let schema1 = Schema1::parse(&payload).map_err(unusable)?;
            let descriptor = Descriptor::new(media_type::DOCKER_SCHEMA1, actual, payload.len() as u64);
            return Ok(Kept::Schema1(descriptor, schema1));
        }
        let actual = check_digest(&url, expected, &bytes)?;
        let document = Document::parse(&bytes, content_type.as_deref()).map_err(unusable)?;
        let descriptor = Descriptor::new(document.media_type(), actual, bytes.len() as u64);
        Ok(Kept::Document(Fetched { descriptor, bytes, document }))
    }
}

/// The digest of the bytes; the one that is expected, where one is.
fn check_digest(url: &Url, expected: Option<&Digest>, bytes: &[u8]) -> Result<Digest> {
    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    let actual = Digest::of(algorithm, bytes);
    match expected {
        Some(expected) if *expected != actual => Err(other_digest(url, expected, &actual)),
        Some(_) | None => Ok(actual),
    }
}

fn document_headers() -> HeaderMap {
    let mut headers = identity();
    // Registries that know only one kind of document answer with it; `*/*` is for those that know none of these.
    let accept = format!("{}, */*;q=0.1", media_type::DOCUMENTS.join(", "));
    headers.insert(ACCEPT, HeaderValue::try_from(accept).expect("media types are a header value"));
    headers
}

/// The descriptor that an answer to HEAD gives; `None` when it leaves something out, so that GET must tell.
fn described(answer: &Answer, asked: Option<&Digest>) -> Result<Option<Descriptor>> {
    let Some(media_type) = content_type(answer).map(media_type::essence) else { return Ok(None) };
    let Some(size) = content_length(answer.response.headers()) else { return Ok(None) };
    let Some(digest) = said_digest(answer)? else { return Ok(None) };
    if let Some(asked) = asked
        && asked.algorithm() == digest.algorithm()
        && *asked != digest
    {
        return Err(other_digest(&answer.url, asked, &digest));
    }
    if size > limits::MANIFEST_BYTES {
        let reason = format!("its manifest has {size} bytes; at most {} are taken", limits::MANIFEST_BYTES);
        return Err(bad_answer(&answer.url, reason));
    }
    let usable = Kind::of(media_type).is_document() && size > 0;
    Ok(usable.then(|| Descriptor::new(media_type, asked.cloned().unwrap_or(digest), size)))
}

/// The digest that the registry says its answer has.
fn said_digest(answer: &Answer) -> Result<Option<Digest>> {
    let Some(value) = answer.response.headers().get(DOCKER_CONTENT_DIGEST) else { return Ok(None) };
    let digest = value.to_str().ok().and_then(|text| text.parse().ok());
    digest.map(Some).ok_or_else(|| bad_answer(&answer.url, "its Docker-Content-Digest is not a digest"))
}

pub(super) fn content_type(answer: &Answer) -> Option<&str> {
    answer.response.headers().get(CONTENT_TYPE)?.to_str().ok()
}

fn other_digest(url: &Url, expected: &Digest, actual: &Digest) -> Error {
    upstream(UpstreamKind::Mismatch, url, format!("its document has the digest {actual}, not {expected}"))
}

/// Whether a failed HEAD is worth a GET: the method is not known there, or the place is not.
fn wants_get(error: &Error) -> bool {
    match error {
        Error::Upstream(upstream) => matches!(upstream.status, Some(404 | 405 | 501)),
        _ => false,
    }
}
