//! Foreign layers: bytes that a manifest says are at some URL. Whoever keeps them is a stranger, who is shown nothing.

use std::ops::Range;

use reqwest::Method;
use reqwest::header::HeaderMap;
use url::Url;

use crate::error::{Error, Result, UpstreamKind};
use crate::limits;
use crate::oci::Descriptor;
use crate::registry::address::AddressPolicy;
use crate::registry::blob::{BlobStream, is_mistaken};
use crate::registry::endpoint::Trust;
use crate::registry::failure::{sent_by_stranger, upstream};
use crate::registry::places::Place;
use crate::registry::repository::{Repository, blob_headers, is_bad_answer};
use crate::registry::retry::retriable;
use crate::registry::transport::{Answer, Redirects, Request, Wire, has_user_info};

impl Repository {
    /// The bytes `wanted` of a blob, as [`Repository::fetch_blob`], from the first of the descriptor's `urls` that has them. No
    /// credential is sent and no token asked for, also when one is demanded. Their digest is the reader's to check.
    ///
    /// # Errors
    /// `Upstream`: of the last place, or of one that is worth another try; `NotFound` where no place is named;
    /// `Forbidden` for what is not HTTP, or may not be contacted.
    pub async fn fetch_foreign(
        &self,
        descriptor: &Descriptor,
        wanted: Range<u64>,
        place: Place,
    ) -> Result<BlobStream> {
        if wanted.is_empty() {
            return Ok(BlobStream::at_end(descriptor.size, place));
        }
        let mut failure = self.failed(UpstreamKind::NotFound, "no other place is named for it".to_owned());
        let stall = self.registry.patience().stall;
        let mut held = Some(place);
        for text in descriptor.urls.iter().take(limits::FOREIGN_URLS) {
            let place = match held.take() {
                Some(place) => place,
                None => self.enter().await,
            };
            let (whole, mut answered) = (0..descriptor.size, self.fetch_at(text, descriptor, &wanted).await);
            let is_useless = match &answered {
                Ok(answer) => is_mistaken(answer, descriptor.size, &wanted),
                Err(error) => is_bad_answer(error),
            };
            if is_useless && wanted != whole {
                answered = self.fetch_at(text, descriptor, &whole).await;
            }
            let opened = match answered {
                // A place goes with its answer, also with one that turns out to be of other bytes.
                Ok(answer) => BlobStream::open(answer, descriptor.size, wanted.clone(), stall, place),
                Err(error) => {
                    held = Some(place);
                    Err(error)
                }
            };
            match opened {
                Ok(stream) => return Ok(stream),
                Err(error) if retriable(&failure) && !retriable(&error) => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn fetch_at(&self, text: &str, descriptor: &Descriptor, wanted: &Range<u64>) -> Result<Answer> {
        let url = self.check_place(text)?;
        let request = Request {
            wire: Wire::Http1,
            method: Method::GET,
            url,
            headers: blob_headers(wanted, descriptor.size),
            own_headers: HeaderMap::new(),
            authorization: None,
            body: None,
            // What was configured for the registry is for the registry.
            trust: if self.is_lax() { Trust::nobody_in_particular() } else { Trust::default() },
            plain: false,
            addresses: self.sends_to(),
            redirects: Redirects::Followed,
            trace: &self.trace,
        };
        let narrowed = self.is_private() && self.sends_to() == AddressPolicy::Public;
        let sent = self.registry.0.clients.send(request).await;
        let answer = sent.map_err(|error| if narrowed { sent_by_stranger(error) } else { error })?;
        self.registry.accept(answer).await
    }

    fn check_place(&self, text: &str) -> Result<Url> {
        let broken = || {
            let reason =
                "the image names a place for a foreign layer that is not the URL of a host".to_owned();
            self.failed(UpstreamKind::BadAnswer, reason)
        };
        let mut url = Url::parse(text).map_err(|_| broken())?;
        if !url.has_host() || has_user_info(&url) {
            return Err(broken());
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(upstream(UpstreamKind::Forbidden, &url, "foreign layers are fetched over HTTP only"));
        }
        url.set_fragment(None);
        Ok(url)
    }
}

/// Whether a registry does not have a blob, or does not give it to us: then another place may.
pub fn is_elsewhere(error: &Error) -> bool {
    let Error::Upstream(upstream) = error else { return false };
    match upstream.kind {
        UpstreamKind::NotFound
        | UpstreamKind::PartMissing
        | UpstreamKind::Denied
        | UpstreamKind::CredentialWanted
        | UpstreamKind::CredentialRefused
        | UpstreamKind::TokenHostUnknown
        | UpstreamKind::CertificateWanted
        | UpstreamKind::BadAnswer => true,
        UpstreamKind::Unreachable
        | UpstreamKind::CutShort
        | UpstreamKind::Untrusted
        | UpstreamKind::RateLimited
        | UpstreamKind::ServerError
        | UpstreamKind::Mismatch
        | UpstreamKind::NoPlatform
        | UpstreamKind::PrivateAddress
        | UpstreamKind::Forbidden => false,
    }
}
