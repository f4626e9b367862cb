//! A pull's way to the flight of a blob: whom it follows, and for how long.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::clock::Time;
use crate::error::Result;
use crate::jobs::fetch::Fetch;
use crate::jobs::flights::{Flight, Holder, Seat, Seen};
use crate::jobs::run::{Ended, unless};
use crate::jobs::view::PullWait;
use crate::limits;

/// How often a pull looks how far another one is that fetches its blob.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A flight, and whether somebody of the same namespace writes the ingest that has the blob's name.
pub(super) struct Boarded {
    pub flight: Flight,
    pub overtakes: bool,
}

/// Where whoever is followed was when he was last seen to move.
struct Followed {
    offset: u64,
    since: Time,
}

impl Fetch<'_> {
    /// The flight of the blob, if nobody has it who is worth to be followed.
    pub(super) fn board_now(&self) -> Option<Boarded> {
        let seat = self.job.jobs.0.flights.seat(self.digest(), &[]);
        seat.take(self.holder()).now_or_never().map(|flight| self.boarded(flight))
    }

    /// Follows the other pulls that fetch the blob until one of them has it, or has given it up. Shows meanwhile how far
    /// it is. Who may not lend his bytes is not followed, nor who asks another registry and gets next to nothing.
    pub(super) async fn board(&self) -> Result<Boarded, Ended> {
        let mut shunned = Vec::new();
        loop {
            let seat = self.job.jobs.0.flights.seat(self.digest(), &shunned);
            let mut turn = pin!(seat.clone().take(self.holder()));
            let mut followed = Followed { offset: 0, since: self.job.now() };
            loop {
                let look = tokio::time::timeout(LOOK_EVERY, &mut turn);
                if let Ok(flight) = unless(self.halt, look).await? {
                    return Ok(self.boarded(flight));
                }
                let Seen { holder: Some(holder), offset, wait } = seat.seen() else { continue };
                if !self.job.jobs.0.store.may_borrow(&self.job.caller, &holder.namespace).await? {
                    break;
                }
                if holder.host != self.job.request.reference.api_host() && followed.stands(offset, self) {
                    self.job.warn(format!(
                        "next to nothing of {} comes to the pull from {}; fetching it here as well",
                        self.digest(),
                        holder.host
                    ));
                    break;
                }
                self.show_other(offset, wait);
            }
            shunned.push(Arc::<Seat>::clone(&seat));
            self.job.draw(|picture| picture.resume(self.digest(), 0));
        }
    }

    fn holder(&self) -> Holder {
        let host = self.job.request.reference.api_host().to_owned();
        Holder { namespace: self.namespace().to_owned(), host, overtakes: false }
    }

    fn boarded(&self, flight: Flight) -> Boarded {
        let overtakes = self.job.jobs.0.flights.overtakes(self.digest(), &flight);
        Boarded { flight, overtakes }
    }

    /// Shows the bytes that another pull fetches: they will be this one's too.
    fn show_other(&self, offset: u64, wait: Option<PullWait>) {
        let wait = wait.unwrap_or_else(|| PullWait { until: None, reason: "another pull fetches it".into() });
        self.job.draw(|picture| picture.share(self.digest(), offset, wait));
    }
}

impl Followed {
    /// Whether next to nothing has come for as long as a pull follows that.
    fn stands(&mut self, offset: u64, fetch: &Fetch<'_>) -> bool {
        let now = fetch.job.now();
        // Less than before: it began again, which is no standstill yet.
        if offset < self.offset || offset - self.offset >= limits::FOLLOWED_BYTES {
            *self = Followed { offset, since: now };
        }
        now.since(self.since) >= fetch.job.jobs.0.settings.follow
    }
}
