//! The endpoints of a repository, asked one after the other until one helps.

use std::sync::PoisonError;

use crate::error::{Error, Result, UpstreamKind};
use crate::registry::address::AddressPolicy;
use crate::registry::ranks::Answerer;
use crate::registry::repository::{Repository, is_not_found};
use crate::registry::retry::retriable;
use crate::registry::transport::Answer;
use crate::registry::{Ask, Capability};

impl Repository {
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
                    let (ranks, authority) = (self.ranks.clone(), endpoint.authority.clone());
                    let from = Some(Answerer { ranks, place, authority });
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

    /// `host[:port]` of the endpoint that is asked first for what is under a digest.
    pub fn first_host(&self) -> Option<&str> {
        let first = self.in_order(Capability::Pull, &[]).first().copied()?;
        Some(self.endpoints[first].authority())
    }

    /// Bytes were not what was promised: from now on the registry itself is asked before its mirrors.
    pub fn distrust_mirrors(&self) {
        for (place, _) in self.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.is_mirror()) {
            self.ranks.distrust(place);
        }
    }
}

/// Whether an answer is not what it has to be: another one may be.
fn is_lie(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream)
        if matches!(upstream.kind, UpstreamKind::BadAnswer | UpstreamKind::Mismatch))
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
        UpstreamKind::Unreachable
        | UpstreamKind::CutShort
        | UpstreamKind::Untrusted
        | UpstreamKind::CertificateWanted
        | UpstreamKind::PrivateAddress
        | UpstreamKind::Forbidden => 0,
        UpstreamKind::NotFound | UpstreamKind::PartMissing => 1,
        UpstreamKind::Denied
        | UpstreamKind::CredentialWanted
        | UpstreamKind::CredentialRefused
        | UpstreamKind::TokenHostUnknown
        | UpstreamKind::RateLimited
        | UpstreamKind::ServerError => 2,
        UpstreamKind::BadAnswer | UpstreamKind::Mismatch | UpstreamKind::NoPlatform => 3,
    }
}
