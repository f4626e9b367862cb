//! One repository of a registry: resolve a reference, fetch documents, open blobs
//! (OCI distribution spec, "Pulling manifests" and "Pulling blobs").

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::error::{Error, Result, Upstream, UpstreamKind};
use crate::limits;
use crate::oci::media_type::{self, Kind};
use crate::oci::schema1::{self, Schema1};
use crate::oci::{Algorithm, Descriptor, Digest, Document, Reference};
use crate::registry::address::AddressPolicy;
use crate::registry::blob::{BlobStream, content_length, given_range, is_encoded, read_bounded};
use crate::registry::failure::{bad_answer, upstream};
use crate::registry::places::Place;
use crate::registry::ranks::{Answerer, Ranks};
use crate::registry::retry::retriable;
use crate::registry::transport::{Answer, Wire};
use crate::registry::{Ask, Capability, Endpoint, Registry, Trace};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A repository at a registry, ready to be asked. A cheap clone.
#[derive(Clone)]
pub struct Repository {
    pub(super) registry: Registry,
    /// In the order in which they are asked.
    endpoints: Arc<[Endpoint]>,
    ranks: Ranks,
    name: String,
    pub(super) trace: Trace,
    /// Whom its documents may send us to, after all that has answered so far.
    sends_to: Arc<Mutex<AddressPolicy>>,
}

/// Most endpoints of one registry.
const MOST_ENDPOINTS: usize = 32;

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

/// The two places where a registry keeps bytes under a digest.
#[derive(Debug, Clone, Copy)]
enum Shelf {
    Manifests,
    Blobs,
}

/// What is kept under the name of a manifest.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
enum Kept {
    Document(Fetched),
    Schema1(Descriptor, Schema1),
}

impl Repository {
    pub(super) fn new(
        registry: Registry,
        endpoints: Vec<Endpoint>,
        name: String,
        trace: Trace,
    ) -> Repository {
        let endpoints: Arc<[Endpoint]> = endpoints.into_iter().take(MOST_ENDPOINTS).collect();
        let private = endpoints.iter().all(|endpoint| endpoint.sends_to == AddressPolicy::Private);
        let sends_to = if private { AddressPolicy::Private } else { AddressPolicy::Public };
        let sends_to = Arc::new(Mutex::new(sends_to));
        let ranks = Ranks::new(endpoints.len());
        Repository { registry, endpoints, ranks, name, trace, sends_to }
    }

    /// The policy for what its documents send us to: nobody on the Internet sends us to a private address, also not through
    /// a mirror in our network.
    pub(super) fn sends_to(&self) -> AddressPolicy {
        *self.sends_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the pull takes any certificate at the registry itself, or none.
    pub(super) fn is_lax(&self) -> bool {
        self.endpoints.last().is_some_and(|endpoint| endpoint.trust.is_lax())
    }

    /// Asks until an answer can be read. Who gives one that cannot is asked later from then on; where it was a mirror, and
    /// the answer is not what it has to be, the others are asked at once.
    ///
    /// # Errors
    /// As of those that are asked; what `read` says of the last answer.
    pub(super) async fn ask_for<T, F>(&self, ask: Ask, read: impl Fn(Answer) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut liars = Vec::new();
        loop {
            let (place, answer) = self.ask(&ask, &liars).await?;
            let error = match read(answer).await {
                Ok(whole) => return Ok(whole),
                Err(error) => error,
            };
            self.ranks.shun(place);
            liars.push(place);
            let others = self.in_order(ask.capability, &liars);
            let Some(next) = others.first().filter(|_| self.endpoints[place].is_mirror() && is_lie(&error))
            else {
                return Err(error);
            };
            self.tell_fallback(place, *next, &error);
        }
    }

    fn tell_fallback(&self, from: usize, to: usize, error: &Error) {
        let [from, to] = [from, to].map(|place| self.endpoints[place].authority());
        self.trace.tell_fallback(from, to, error);
    }

    /// Asks the endpoints that can, one after the other, until one answers; `liars` are not asked.
    ///
    /// # Errors
    /// The failure of the one that came furthest: a refusal tells more than a silence. But where the registry itself could
    /// not be asked just now, its failure is told: what a mirror lacks is no word on what there is.
    async fn ask(&self, ask: &Ask, liars: &[usize]) -> Result<(usize, Answer)> {
        let able = self.in_order(ask.capability, liars);
        let mut failures = Vec::new();
        for (at, place) in able.iter().copied().enumerate() {
            let endpoint = &self.endpoints[place];
            // On the heap: all the ways that a request may go make its future a large one.
            let error = match Box::pin(self.registry.ask(endpoint, &self.name, ask, &self.trace)).await {
                Ok(answer) => {
                    // A mirror hands on what others have written, wherever it is itself.
                    let policy = if endpoint.is_mirror() { AddressPolicy::Public } else { answer.addresses };
                    self.note_sender(policy);
                    let from = Some(Answerer { ranks: self.ranks.clone(), place });
                    return Ok((place, Answer { from, ..answer }));
                }
                Err(error) => endpoint.explain(error),
            };
            if let Some(next) = able.get(at + 1) {
                self.tell_fallback(place, *next, &error);
            }
            if !is_not_found(&error) {
                self.ranks.shun(place);
            }
            failures.push((place, error));
        }
        let (name, capability) = (&self.name, ask.capability);
        Err(told_of(failures, self.endpoints.len().saturating_sub(1)).unwrap_or_else(|| {
            let reason =
                format!("no host that is configured for `{name}` may be asked to {}", capability.as_str());
            self.failed(UpstreamKind::Forbidden, reason)
        }))
    }

    pub(super) fn note_sender(&self, addresses: AddressPolicy) {
        if addresses == AddressPolicy::Public {
            *self.sends_to.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        }
    }

    /// The places of the endpoints that can, and that are no `liars`: those that failed before come last.
    fn in_order(&self, capability: Capability, liars: &[usize]) -> Vec<usize> {
        let able = |place: &usize| self.endpoints[*place].can(capability) && !liars.contains(place);
        let mut places: Vec<usize> = (0..self.endpoints.len()).filter(able).collect();
        self.ranks.sort(&mut places);
        places
    }

    /// Bytes were not what was promised: from now on the registry itself is asked before its mirrors.
    pub fn distrust_mirrors(&self) {
        for (place, _) in self.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.is_mirror()) {
            self.ranks.distrust(place);
        }
    }

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

    /// How many bytes the blob has that the registry keeps under `digest`: what a descriptor would say.
    ///
    /// # Errors
    /// `Upstream`, with `NotFound` when there is no such blob.
    pub async fn find_size(&self, digest: &Digest) -> Result<u64> {
        let _place = self.enter().await;
        let path = Shelf::Blobs.path(digest.as_str());
        let ask = Ask {
            wire: Wire::Any,
            method: Method::HEAD,
            capability: Capability::Pull,
            path,
            headers: identity(),
        };
        let read = |answer: Answer| async move {
            let size = content_length(answer.response.headers());
            size.ok_or_else(|| bad_answer(&answer.url, "it does not say how long its blob is"))
        };
        self.ask_for(ask, read).await
    }

    /// The whole of a small blob, verified, in memory.
    ///
    /// # Errors
    /// `TooLarge` past `limit`; `Upstream`, with `Mismatch` for other bytes.
    pub async fn fetch_small(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        if descriptor.size > limit {
            return Err(Error::TooLarge { what: "the blob", limit });
        }
        let (place, mut whole) = (self.enter().await, BytesMut::new());
        let mut source = self.fetch_blob(descriptor, 0..descriptor.size, place).await?;
        while let Some(bytes) = source.chunk().await? {
            whole.extend_from_slice(&bytes);
        }
        let actual = Digest::of(descriptor.digest.algorithm(), &whole);
        if actual != descriptor.digest {
            let reason = format!("its blob has the digest {actual}, not {}", descriptor.digest);
            return Err(self.failed(UpstreamKind::Mismatch, reason));
        }
        Ok(whole.freeze())
    }

    /// Waits for the right to have a request in flight at this registry, its mirrors included.
    pub async fn enter(&self) -> Place {
        self.registry.places().enter(self.home()).await
    }

    /// The same, if nobody waits for it.
    pub fn try_enter(&self) -> Option<Place> {
        self.registry.places().try_enter(self.home())
    }

    /// The bytes `wanted` of a blob. A server that ignores the range is read and dropped up to where they begin, and
    /// gives what comes behind them as well: [`BlobStream::end`] says where the answer ends. `urls` of the descriptor
    /// are not contacted: that is [`Repository::fetch_foreign`].
    ///
    /// # Errors
    /// `Upstream`; `Internal` when `wanted` lies past the end of the blob.
    pub async fn fetch_blob(
        &self,
        descriptor: &Descriptor,
        wanted: Range<u64>,
        place: Place,
    ) -> Result<BlobStream> {
        let size = descriptor.size;
        if wanted.start > wanted.end || wanted.end > size {
            let Range { start, end } = wanted;
            let digest = &descriptor.digest;
            return Err(Error::internal(format!(
                "read bytes {start} to {end} of blob {digest} of {size} bytes"
            )));
        }
        // Nothing is left to ask for: the digest alone decides, and it is checked by whoever writes the bytes.
        if wanted.is_empty() {
            return Ok(BlobStream::at_end(size, place));
        }
        let ask = Ask {
            wire: Wire::Http1,
            method: Method::GET,
            capability: Capability::Pull,
            path: Shelf::Blobs.path(descriptor.digest.as_str()),
            headers: blob_headers(&wanted, size),
        };
        let range = &wanted;
        let read = |answer: Answer| async move { given_range(&answer, size, range).map(|_| answer) };
        let answer = self.ask_for(ask, read).await?;
        BlobStream::open(answer, size, wanted, self.registry.patience().stall, place)
    }

    /// `host[:port]` of the registry itself, which is asked after its mirrors.
    fn home(&self) -> &str {
        self.endpoints.last().map(|endpoint| endpoint.authority.as_str()).unwrap_or_default()
    }

    pub(super) fn failed(&self, kind: UpstreamKind, reason: String) -> Error {
        let host = self.home().to_owned();
        Error::Upstream(Upstream { kind, host, reason, status: None, retry_after: None })
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
        let unusable = |error| bad_answer(&url, format!("its document cannot be used: {error}"));
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

impl Shelf {
    fn path(self, name: &str) -> String {
        match self {
            Shelf::Manifests => format!("manifests/{name}"),
            Shelf::Blobs => format!("blobs/{name}"),
        }
    }
}

/// A blob is its stored bytes: an encoded one would have other offsets, and another digest.
pub(super) fn identity() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))])
}

pub(super) fn blob_headers(wanted: &Range<u64>, size: u64) -> HeaderMap {
    let mut headers = identity();
    if *wanted != (0..size) {
        let range = HeaderValue::try_from(format!("bytes={}-{}", wanted.start, wanted.end - 1));
        headers.insert(reqwest::header::RANGE, range.expect("digits are a header value"));
    }
    headers
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

/// Whether an answer is not what it has to be: another one may be.
fn is_lie(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream)
        if matches!(upstream.kind, UpstreamKind::BadAnswer | UpstreamKind::Mismatch))
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream) if upstream.kind == UpstreamKind::NotFound)
}

/// The failure to tell, of those at these places: of the one that came furthest, unless it is final and the one at `home`,
/// who has the last word, may still say something else. Where that one is not asked, all of them have it.
fn told_of(failures: Vec<(usize, Error)>, home: usize) -> Option<Error> {
    let home_was_asked = failures.iter().any(|(place, _)| *place == home);
    let counts = |place: usize| place == home || !home_was_asked;
    let heaviest = |passing: bool| {
        let fits = |(place, error): &&(usize, Error)| !passing || counts(*place) && retriable(error);
        failures.iter().filter(fits).max_by_key(|(_, error)| weight(error)).map(|(place, _)| *place)
    };
    let furthest = heaviest(false)?;
    let is_final = failures.iter().any(|(place, error)| *place == furthest && !retriable(error));
    let told = heaviest(true).filter(|_| is_final).unwrap_or(furthest);
    failures.into_iter().find(|(place, _)| *place == told).map(|(_, error)| error)
}

/// How far an endpoint came before it failed.
fn weight(error: &Error) -> u8 {
    let Error::Upstream(upstream) = error else { return 4 };
    match upstream.kind {
        UpstreamKind::Unreachable | UpstreamKind::Untrusted | UpstreamKind::Forbidden => 0,
        UpstreamKind::NotFound => 1,
        UpstreamKind::Denied | UpstreamKind::RateLimited | UpstreamKind::ServerError => 2,
        UpstreamKind::BadAnswer | UpstreamKind::Mismatch | UpstreamKind::NoPlatform => 3,
    }
}
