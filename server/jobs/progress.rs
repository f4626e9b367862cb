//! How far a pull is, as state: every blob with its bytes, and what follows from them. The time is passed in.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::clock::Time;
use crate::jobs::unpack::Told;
use crate::jobs::view::{
    BlobRole, BlobState, JobError, LayerUnpack, PullBlob, PullProgress, PullWait, UnpackState,
};
use crate::oci::{Descriptor, Digest};

/// The rate looks back about so far: long enough not to jump, short enough to follow the network.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Before so much time has passed, a rate says nothing about the end.
const ETA_AFTER: Duration = Duration::from_secs(3);
/// After so long a silence nobody can say when the end will be.
const ETA_UNTIL: Duration = Duration::from_secs(2);

/// The picture of one attempt at a pull.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    /// In the order in which they became known.
    blobs: Vec<Tracked>,
    by_digest: HashMap<Digest, usize>,
    /// What earlier attempts of the pull have brought here.
    fetched: BTreeSet<Digest>,
    total_final: bool,
    rate: Rate,
    /// Until when nothing at all is done.
    waiting_until: Option<Time>,
}

/// A blob, and where its bytes came from: the three add up to its offset.
#[derive(Debug, Clone)]
struct Tracked {
    shown: PullBlob,
    /// Whether it was to be fetched, and the pull ended before.
    left_behind: bool,
    network: u64,
    resumed: u64,
    reused: u64,
    /// Bytes still to come that are here already.
    again: u64,
}

impl Picture {
    /// That of a pull whose earlier attempts have brought these blobs here.
    pub fn after(fetched: BTreeSet<Digest>) -> Picture {
        Picture { fetched, ..Picture::default() }
    }

    /// Takes a blob into the picture. One that two manifests name is there once.
    pub fn add(&mut self, descriptor: &Descriptor, role: BlobRole) {
        let place = self.blobs.len();
        if *self.by_digest.entry(descriptor.digest.clone()).or_insert(place) != place {
            return;
        }
        let shown = PullBlob {
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            role,
            size: descriptor.size,
            offset: 0,
            state: BlobState::Waiting,
            wait: None,
            error: None,
            reason: None,
            unpack: None,
        };
        self.blobs.push(Tracked { shown, left_behind: false, network: 0, resumed: 0, reused: 0, again: 0 });
    }

    /// From now on no blob becomes known.
    pub fn know_all(&mut self) {
        self.total_final = true;
    }

    pub fn set_state(&mut self, digest: &Digest, state: BlobState) {
        self.change(digest, |blob| {
            blob.shown.state = state;
            blob.shown.wait = None;
        });
    }

    /// The blob is not asked for before something happens, or, where none is named, nothing at all is.
    pub fn wait(&mut self, digest: Option<&Digest>, wait: PullWait) {
        let Some(digest) = digest else {
            self.waiting_until = wait.until;
            return;
        };
        self.change(digest, |blob| {
            blob.shown.state = BlobState::Waiting;
            blob.shown.wait = Some(wait);
        });
    }

    /// The wait is over.
    pub fn go_on(&mut self, digest: Option<&Digest>, now: Time) {
        // Nobody was asked meanwhile: it was not a silence.
        self.rate.break_silence(now);
        match digest {
            Some(digest) => self.set_state(digest, BlobState::Downloading),
            None => self.waiting_until = None,
        }
    }

    /// Another pull fetches the blob, of which `offset` bytes are here that this one will not have to fetch.
    pub fn share(&mut self, digest: &Digest, offset: u64, wait: PullWait) {
        self.wait(Some(digest), wait);
        self.change(digest, |blob| {
            blob.shown.offset = offset.min(blob.shown.size);
            (blob.network, blob.resumed, blob.reused) = (0, 0, blob.shown.offset);
        });
    }

    pub fn fail(&mut self, digest: &Digest, error: JobError) {
        self.change(digest, |blob| {
            blob.shown.state = BlobState::Failed;
            blob.shown.wait = None;
            blob.shown.error = Some(error);
        });
    }

    /// The blob is not fetched, and why.
    pub fn skip(&mut self, digest: &Digest, reason: impl Into<String>) {
        self.change(digest, |blob| {
            blob.shown.state = BlobState::Skipped;
            (blob.shown.error, blob.shown.reason) = (None, Some(reason.into()));
        });
    }

    /// The layer is to become a snapshot.
    pub fn await_unpack(&mut self, digest: &Digest) {
        self.unpack(digest, UnpackState::Waiting, None);
    }

    /// How a layer does on its way to a snapshot.
    pub fn note_unpack(&mut self, digest: &Digest, told: Told) {
        match told {
            Told::Unpacking(offset) => self.change(digest, |blob| {
                blob.shown.unpack =
                    Some(LayerUnpack { state: UnpackState::Unpacking, offset, snapshot: None });
            }),
            Told::Committing => self.unpack(digest, UnpackState::Committing, None),
            Told::Done(snapshot) => self.unpack(digest, UnpackState::Done, Some(snapshot)),
            Told::Exists(snapshot) => self.unpack(digest, UnpackState::Exists, Some(snapshot)),
        }
    }

    fn unpack(&mut self, digest: &Digest, state: UnpackState, snapshot: Option<Digest>) {
        self.change(digest, |blob| {
            let offset = match state {
                UnpackState::Done | UnpackState::Committing | UnpackState::Exists => blob.shown.size,
                UnpackState::Waiting | UnpackState::Unpacking => 0,
            };
            blob.shown.unpack = Some(LayerUnpack { state, offset, snapshot });
        });
    }

    /// Whether this attempt has seen the blob stored.
    pub fn is_here(&self, digest: &Digest) -> bool {
        let place = self.by_digest.get(digest).and_then(|place| self.blobs.get(*place));
        place.is_some_and(|blob| blob.shown.state.is_here())
    }

    /// The blob was here, or another namespace lent it; or this pull has brought it here itself, and goes on.
    pub fn reuse(&mut self, digest: &Digest) {
        let is_own = self.fetched.contains(digest);
        self.change(digest, |blob| {
            let size = blob.shown.size;
            (blob.shown.wait, blob.shown.offset) = (None, size);
            (blob.network, blob.again) = (0, 0);
            (blob.shown.state, blob.resumed, blob.reused) =
                if is_own { (BlobState::Done, size, 0) } else { (BlobState::Exists, 0, size) };
        });
    }

    /// An earlier try left `offset` bytes; the rest is on its way.
    pub fn resume(&mut self, digest: &Digest, offset: u64) {
        self.change(digest, |blob| {
            blob.shown.state = BlobState::Downloading;
            (blob.shown.wait, blob.again) = (None, 0);
            // What this attempt received before its connection broke stays its own.
            blob.network = blob.network.min(offset);
            (blob.resumed, blob.reused) = (offset - blob.network, 0);
            blob.shown.offset = offset;
        });
    }

    /// Bytes came over the network.
    pub fn receive(&mut self, digest: &Digest, bytes: u64, now: Time) {
        self.rate.add(bytes, now);
        self.change(digest, |blob| {
            blob.network += bytes;
            blob.shown.offset += bytes;
        });
    }

    /// Bytes came over the network that are here already: they cost time, and bring nothing.
    pub fn receive_again(&mut self, digest: &Digest, bytes: u64, now: Time) {
        self.rate.add(bytes, now);
        self.change(digest, |blob| blob.again = blob.again.saturating_sub(bytes));
    }

    /// So many bytes that are here will come once more before the next new one.
    pub fn expect_again(&mut self, digest: &Digest, bytes: u64) {
        self.change(digest, |blob| blob.again = bytes);
    }

    /// The pull has ended, and how in words: nothing moves any more, and what is not here will not come. It was wanted, so
    /// it counts: a pull without it is not at its end.
    pub fn settle(&mut self, how: &str) {
        self.waiting_until = None;
        for blob in &mut self.blobs {
            blob.shown.wait = None;
            match blob.shown.state {
                BlobState::Waiting
                | BlobState::Downloading
                | BlobState::Verifying
                | BlobState::Committing => {
                    let what = if blob.shown.offset == 0 { "it was fetched" } else { "all of it was here" };
                    (blob.shown.state, blob.left_behind) = (BlobState::Skipped, true);
                    blob.shown.reason = Some(format!("the pull {how} before {what}"));
                }
                BlobState::Exists | BlobState::Done | BlobState::Failed | BlobState::Skipped => {}
            }
        }
    }

    /// The network is about to be used: from here on silence counts as such.
    pub fn begin(&mut self, now: Time) {
        self.rate.begin(now);
    }

    /// Every blob, as a pull lists them: index, manifests, configs, then layers in order.
    pub fn blobs(&self) -> Vec<PullBlob> {
        let mut blobs: Vec<PullBlob> = self.blobs.iter().map(|blob| blob.shown.clone()).collect();
        blobs.sort_by_key(|blob| blob.role);
        blobs
    }

    pub fn progress(&self, now: Time) -> PullProgress {
        let counts = |blob: &&Tracked| blob.left_behind || blob.shown.state != BlobState::Skipped;
        let counted = || self.blobs.iter().filter(counts);
        let sum = |bytes: fn(&Tracked) -> u64| counted().map(bytes).fold(0, u64::saturating_add);
        let bytes_total = sum(|blob| blob.shown.size);
        let bytes_done = sum(|blob| blob.shown.offset);
        let moving = counted().any(|blob| blob.shown.state == BlobState::Downloading);
        let at_work = moving
            || counted().any(|b| matches!(b.shown.state, BlobState::Verifying | BlobState::Committing));
        let soonest = counted().filter_map(|blob| blob.shown.wait.as_ref()?.until).min();
        let silence = self.rate.silence(now);
        // A rate that only fades away would still promise something.
        let rate_bps = if moving && silence < RATE_WINDOW { self.rate.per_second(now) } else { 0 };
        let left = bytes_total.saturating_sub(bytes_done);
        let eta_seconds = match () {
            () if self.total_final && left == 0 => Some(0),
            () if !self.total_final || rate_bps == 0 || silence >= ETA_UNTIL => None,
            () if self.rate.age(now) < ETA_AFTER => None,
            () => Some(left.saturating_add(sum(|blob| blob.again)).div_ceil(rate_bps)),
        };
        PullProgress {
            bytes_total,
            bytes_total_final: self.total_final,
            bytes_done,
            bytes_network: sum(|blob| blob.network),
            bytes_resumed: sum(|blob| blob.resumed),
            bytes_reused: sum(|blob| blob.reused),
            blobs_total: counted().count() as u64,
            blobs_done: counted().filter(|blob| blob.shown.state.is_here()).count() as u64,
            rate_bps,
            eta_seconds,
            stalled_seconds: if moving { silence.as_secs() } else { 0 },
            waiting_until: self.waiting_until.or(soonest.filter(|_| !at_work)),
        }
    }

    fn change(&mut self, digest: &Digest, how: impl FnOnce(&mut Tracked)) {
        if let Some(blob) = self.by_digest.get(digest).and_then(|place| self.blobs.get_mut(*place)) {
            how(blob);
        }
    }
}

/// Bytes per second, weighted so that the last [`RATE_WINDOW`] counts most.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    weighted: f64,
    began: Option<Time>,
    last: Option<Time>,
}

impl Rate {
    fn begin(&mut self, now: Time) {
        self.began.get_or_insert(now);
        // A new connection alone is no byte: silence goes on.
        self.last.get_or_insert(now);
    }

    fn break_silence(&mut self, now: Time) {
        self.last = self.last.map(|last| last.max(now));
    }

    fn add(&mut self, bytes: u64, now: Time) {
        self.begin(now);
        self.weighted = self.faded(now) + bytes as f64 / RATE_WINDOW.as_secs_f64();
        // The clock may have been set back; the last byte was not.
        self.last = self.last.max(Some(now));
    }

    /// What earlier bytes still weigh.
    fn faded(&self, now: Time) -> f64 {
        self.weighted * (-self.silence(now).as_secs_f64() / RATE_WINDOW.as_secs_f64()).exp()
    }

    fn per_second(&self, now: Time) -> u64 {
        // At the start there is less than a window to look back on; without this the rate would creep up to its value.
        let seen = 1.0 - (-self.age(now).as_secs_f64() / RATE_WINDOW.as_secs_f64()).exp();
        if seen <= 0.01 { 0 } else { (self.faded(now) / seen) as u64 }
    }

    fn age(&self, now: Time) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now.since(began))
    }

    fn silence(&self, now: Time) -> Duration {
        self.last.map_or(Duration::ZERO, |last| now.since(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn blob(name: &str, size: u64) -> Descriptor {
        Descriptor::new("a/b", Digest::of(Algorithm::Sha256, name.as_bytes()), size)
    }

    fn at(tenths: u64) -> Time {
        Time(0).plus(Duration::from_millis(tenths * 100))
    }

    #[test]
    fn a_steady_flow_has_its_rate_soon_and_its_end_after_three_seconds() {
        let (mut picture, layer) = (Picture::default(), blob("l", 10_000_000));
        picture.add(&layer, BlobRole::Layer);
        picture.know_all();
        picture.begin(at(0));
        picture.resume(&layer.digest, 0);
        for tenth in 1..=29 {
            picture.receive(&layer.digest, 10_000, at(tenth));
        }
        let early = picture.progress(at(29));
        assert!((95_000..110_000).contains(&early.rate_bps), "{early:?}");
        assert_eq!(early.eta_seconds, None);
        for tenth in 30..=100 {
            picture.receive(&layer.digest, 10_000, at(tenth));
        }
        let late = picture.progress(at(100));
        assert!((95_000..105_000).contains(&late.rate_bps), "{late:?}");
        assert!((85..=95).contains(&late.eta_seconds.expect("an end")), "{late:?}");
        let short = picture.progress(at(115));
        assert!(short.rate_bps > 50_000 && short.eta_seconds.is_some(), "{short:?}");
        let longer = picture.progress(at(120));
        assert_eq!((longer.stalled_seconds, longer.eta_seconds), (2, None));
        picture.begin(at(165));
        let silent = picture.progress(at(170));
        assert_eq!((silent.stalled_seconds, silent.rate_bps, silent.eta_seconds), (7, 0, None));
        // Bytes that are here already are no silence, and no progress.
        picture.receive_again(&layer.digest, 50_000, at(171));
        let again = picture.progress(at(171));
        assert!(again.rate_bps > 0 && again.stalled_seconds == 0, "{again:?}");
        assert_eq!(again.bytes_done, silent.bytes_done);
    }

    #[test]
    fn the_end_counts_what_comes_once_more() {
        let (mut picture, layer) = (Picture::default(), blob("l", 10_000_000));
        picture.add(&layer, BlobRole::Layer);
        picture.know_all();
        picture.begin(at(0));
        picture.resume(&layer.digest, 9_000_000);
        picture.expect_again(&layer.digest, 9_000_000);
        for tenth in 1..=100 {
            picture.receive_again(&layer.digest, 10_000, at(tenth));
        }
        let shown = picture.progress(at(100));
        // 8 of 9 MB that come again, and 1 MB that is new.
        assert!((85..=95).contains(&shown.eta_seconds.expect("an end")), "{shown:?}");
        assert_eq!(shown.bytes_done, 9_000_000);
        // The next try begins anew, and may go on where this one was.
        picture.resume(&layer.digest, 9_000_000);
        let shown = picture.progress(at(100));
        assert!((8..=12).contains(&shown.eta_seconds.expect("an end")), "{shown:?}");
    }

    #[test]
    fn bytes_are_counted_by_where_they_came_from_and_add_up() {
        let (a, b, c, d) = (blob("a", 100), blob("b", 50), blob("c", 10), blob("d", 7));
        let mut picture = Picture::default();
        for (descriptor, role) in
            [(&a, BlobRole::Layer), (&a, BlobRole::Layer), (&b, BlobRole::Layer), (&c, BlobRole::Config)]
        {
            picture.add(descriptor, role);
        }
        picture.add(&d, BlobRole::Layer);
        picture.skip(&d.digest, "nobody needs it");
        picture.reuse(&b.digest);
        picture.resume(&a.digest, 40);
        picture.receive(&a.digest, 20, at(1));
        // The connection broke and three bytes did not reach the disk.
        picture.resume(&a.digest, 57);
        let shown = picture.progress(at(2));
        assert_eq!(
            (shown.bytes_total, shown.bytes_done, shown.blobs_total, shown.blobs_done),
            (160, 107, 3, 1)
        );
        assert_eq!(shown.bytes_network + shown.bytes_resumed + shown.bytes_reused, 107);
        // Another digest came: nothing of it counts.
        picture.resume(&a.digest, 0);
        assert_eq!(picture.progress(at(2)).bytes_done, 50);
        assert_eq!(picture.blobs()[0].role, BlobRole::Config);
    }

    #[test]
    fn a_pull_waits_when_nothing_else_of_it_moves_and_such_a_wait_is_no_stall() {
        let (a, b) = (blob("a", 100), blob("b", 50));
        let mut picture = Picture::default();
        for descriptor in [&a, &b] {
            picture.add(descriptor, BlobRole::Layer);
            picture.resume(&descriptor.digest, 0);
        }
        picture.begin(at(0));
        let limited = |until: u64| PullWait { until: Some(at(until)), reason: "429".into() };
        picture.wait(Some(&a.digest), limited(300));
        assert_eq!(picture.progress(at(20)).waiting_until, None, "the other one moves");
        picture.wait(Some(&b.digest), limited(200));
        let shown = picture.progress(at(150));
        assert_eq!((shown.waiting_until, shown.stalled_seconds, shown.rate_bps), (Some(at(200)), 0, 0));
        picture.go_on(Some(&b.digest), at(200));
        let shown = picture.progress(at(210));
        assert_eq!((shown.waiting_until, shown.stalled_seconds), (None, 1));
        assert_eq!(picture.blobs()[1].wait, None);
        picture.wait(None, limited(400));
        assert_eq!(picture.progress(at(210)).waiting_until, Some(at(400)), "nothing at all is done");
        picture.settle("failed");
        assert!(picture.blobs().iter().all(|blob| blob.wait.is_none() && blob.state == BlobState::Skipped));
        assert_eq!(picture.blobs()[0].reason.as_deref(), Some("the pull failed before it was fetched"));
        assert_eq!(picture.progress(at(210)).bytes_total, 150, "they were wanted all the same");
        assert_eq!(picture.progress(at(210)).waiting_until, None);
    }

    #[test]
    fn what_another_pull_fetches_is_seen_to_come_and_is_not_counted_twice() {
        let a = blob("a", 100);
        let mut picture = Picture::default();
        picture.add(&a, BlobRole::Layer);
        let other = || PullWait { until: None, reason: "another pull".into() };
        picture.share(&a.digest, 40, other());
        let shown = picture.progress(at(90));
        assert_eq!((shown.bytes_done, shown.bytes_reused, shown.bytes_network), (40, 40, 0));
        assert_eq!((shown.stalled_seconds, shown.waiting_until), (0, None));
        // The other one gave up, and this one goes on with what it left.
        picture.resume(&a.digest, 60);
        picture.receive(&a.digest, 40, at(91));
        let shown = picture.progress(at(91));
        assert_eq!((shown.bytes_resumed, shown.bytes_reused, shown.bytes_network), (60, 0, 40));
    }

    #[test]
    fn a_pull_that_has_everything_is_at_its_end() {
        let mut picture = Picture::default();
        assert_eq!(picture.progress(at(0)).eta_seconds, None);
        picture.add(&blob("a", 1), BlobRole::Layer);
        picture.know_all();
        picture.reuse(&blob("a", 1).digest);
        let shown = picture.progress(at(9));
        assert_eq!((shown.eta_seconds, shown.rate_bps, shown.stalled_seconds), (Some(0), 0, 0));
    }
}
