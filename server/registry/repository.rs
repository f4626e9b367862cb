//! One repository of a registry: its endpoints, and the blobs that it keeps (OCI distribution spec, "Pulling blobs").

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use reqwest::Method;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};

use crate::error::{Error, Result, Upstream, UpstreamKind};
use crate::limits;
use crate::oci::{Descriptor, Digest};
use crate::registry::address::AddressPolicy;
use crate::registry::blob::{BlobStream, content_length, given_range, is_mistaken};
use crate::registry::failure::bad_answer;
use crate::registry::places::Place;
use crate::registry::ranks::Ranks;
use crate::registry::transport::{Answer, Wire};
use crate::registry::{Ask, Capability, Endpoint, Registry, Trace};

/// A repository at a registry, ready to be asked. A cheap clone.
#[derive(Clone)]
pub struct Repository {
    pub(super) registry: Registry,
    /// In the order in which they are asked.
    pub(super) endpoints: Arc<[Endpoint]>,
    pub(super) ranks: Ranks,
    pub(super) name: String,
    pub(super) trace: Trace,
    /// Whom its documents may send us to, after all that has answered so far.
    pub(super) sends_to: Arc<Mutex<AddressPolicy>>,
}

/// The two places where a registry keeps bytes under a digest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shelf {
    Manifests,
    Blobs,
}

impl Repository {
    pub(super) fn new(
        registry: Registry,
        endpoints: Vec<Endpoint>,
        name: String,
        trace: Trace,
    ) -> Repository {
        let endpoints: Arc<[Endpoint]> = endpoints.into_iter().take(limits::REGISTRY_ENDPOINTS).collect();
        let sends_to = Arc::new(Mutex::new(policy_of(&endpoints)));
        let ranks = Ranks::new(endpoints.len());
        Repository { registry, endpoints, ranks, name, trace, sends_to }
    }

    /// Whether its documents may send us to addresses of private networks, as long as nobody on the Internet answered.
    pub(super) fn is_private(&self) -> bool {
        policy_of(&self.endpoints) == AddressPolicy::Private
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

    /// How many bytes the blob has that the registry keeps under `digest`: what a descriptor would say.
    ///
    /// # Errors
    /// `Upstream`, with `PartMissing` when there is no such blob.
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
        self.ask_for(ask, read).await.map_err(|error| part_missing(error, digest))
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

    /// The bytes `wanted` of a blob. A server that ignores the range, or is asked for none because it answers another one,
    /// is read and dropped up to where they begin, and gives what comes behind them as well: [`BlobStream::end`] says
    /// where the answer ends. `urls` of the descriptor are not contacted: that is [`Repository::fetch_foreign`].
    ///
    /// # Errors
    /// `Upstream`, with `PartMissing` when there is no such blob; `Internal` when `wanted` lies past its end.
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
        let ask = |range: &Range<u64>| Ask {
            wire: Wire::Http1,
            method: Method::GET,
            capability: Capability::Pull,
            path: Shelf::Blobs.path(descriptor.digest.as_str()),
            headers: blob_headers(range, size),
        };
        let (range, mistaken) = (&wanted, &AtomicBool::new(false));
        let read = |answer: Answer| async move {
            mistaken.fetch_or(is_mistaken(&answer, size, range), Ordering::Relaxed);
            given_range(&answer, size, range).map(|_| answer)
        };
        let first = self.ask_for(ask(range), read).await;
        // What a mirror mistook is worth asking for once more also where the registry itself is away.
        let is_useless = first.as_ref().is_err_and(is_bad_answer) || mistaken.load(Ordering::Relaxed);
        let again = first.is_err() && is_useless && wanted != (0..size);
        let answer = if again { self.ask_for(ask(&(0..size)), read).await } else { first };
        let answer = answer.map_err(|error| part_missing(error, &descriptor.digest))?;
        let stream = BlobStream::open(answer, size, wanted, self.registry.patience().stall, place)?;
        Ok(if again { stream.after_mistake() } else { stream })
    }

    /// `host[:port]` of the registry itself, which is asked after its mirrors.
    fn home(&self) -> &str {
        self.endpoints.last().map(|endpoint| endpoint.authority.as_str()).unwrap_or_default()
    }

    pub(super) fn failed(&self, kind: UpstreamKind, reason: String) -> Error {
        let host = self.home().to_owned();
        Error::Upstream(Upstream { kind, host, reason, status: None, retry_after: None })
    }
}

impl Shelf {
    pub fn path(self, name: &str) -> String {
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

/// Whether an answer makes no sense: that to a request without a range may.
pub(super) fn is_bad_answer(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream) if upstream.kind == UpstreamKind::BadAnswer)
}

pub(super) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream) if upstream.kind == UpstreamKind::NotFound)
}

/// The narrowest of them.
fn policy_of(endpoints: &[Endpoint]) -> AddressPolicy {
    let private = endpoints.iter().all(|endpoint| endpoint.sends_to == AddressPolicy::Private);
    if private { AddressPolicy::Private } else { AddressPolicy::Public }
}

/// Who has a manifest and not what it names is not asked for another spelling.
fn part_missing(error: Error, digest: &Digest) -> Error {
    match error {
        Error::Upstream(told) if told.kind == UpstreamKind::NotFound => {
            let status = told.status.map(|status| format!(" (status {status})")).unwrap_or_default();
            let reason = format!("the registry does not have the blob {digest} of the image{status}");
            Error::Upstream(Upstream { kind: UpstreamKind::PartMissing, reason, ..told })
        }
        other => other,
    }
}
