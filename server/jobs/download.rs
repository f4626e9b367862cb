//! The bytes of one blob on their way: over one connection, and over several where one alone takes its time.
//!
//! A large blob is asked for in parts, as closed ranges. The lowest of those under way is the front: it waits for its
//! turn, for a place at the registry, and, when it fails, for the next try. The others help: they take what places
//! nobody waits for, begin once a server has shown that it honours ranges, and give up where the front would wait.

use std::collections::BTreeSet;
use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;

use crate::clock::Time;
use crate::error::{Error, Result, UpstreamKind};
use crate::jobs::fetch::Fetch;
use crate::jobs::gaps::Gaps;
use crate::jobs::rangeless::{cut_short, words_of};
use crate::jobs::run::{Ended, unless};
use crate::jobs::select::upstream_of;
use crate::jobs::view::PullWait;
use crate::limits;
use crate::registry::{Arrived, BlobStream, Place, Ranges};
use crate::store::Placed;

/// How a large blob is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPolicy {
    /// The size of a part, and half of what counts as large.
    pub bytes: u64,
    /// Parts fetched at once; with 1 there are none.
    pub at_once: usize,
    /// Who is done before this needs no help, which costs requests and reading back.
    pub help_after: Duration,
}

impl Default for PartPolicy {
    fn default() -> PartPolicy {
        PartPolicy {
            bytes: limits::PART_BYTES,
            at_once: limits::BLOB_PARTS,
            help_after: Duration::from_millis(250),
        }
    }
}

/// One download of what a blob lacks, until it has it or the front fails.
pub(super) struct Download<'a> {
    fetch: &'a Fetch<'a>,
    gaps: Gaps,
    policy: PartPolicy,
    running: FuturesUnordered<BoxFuture<'a, (Connection<'a>, Result<News>)>>,
    /// Where the parts under way began.
    starts: BTreeSet<u64>,
    began: Time,
    /// How many parts the front asks for at once while it is alone: more each time.
    stride: u64,
    help: Help,
    told_of_cuts: bool,
    told_of_ranges: bool,
}

/// Whether others than the front fetch parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Help {
    /// Nobody knows yet whether the server honours ranges.
    NotYet,
    Welcome,
    /// One has given up: there is none until the front has finished a part.
    Later,
    Never,
}

/// One request in flight after the other, for one part.
struct Connection<'a> {
    fetch: &'a Fetch<'a>,
    start: u64,
    at: u64,
    end: u64,
    /// Bytes since its last request.
    gained: u64,
    link: Link,
    /// The pull's own limit.
    permit: OwnedSemaphorePermit,
}

/// The state of a connection; all but `Gone` hold the right to a request.
enum Link {
    Ready(Place),
    Open(Box<BlobStream>),
    /// The request failed.
    Gone,
}

/// What a connection has to tell.
enum News {
    /// An answer begins.
    Opened,
    Bytes(Bytes),
    /// Bytes came that are here already.
    Skipped,
    /// It broke, and goes on where it was.
    Broke(Error),
    Done,
}

impl<'a> Download<'a> {
    /// A download of all but the first `offset` bytes and what is `ahead` of them.
    pub fn new(fetch: &'a Fetch<'a>, offset: u64, ahead: &[Range<u64>]) -> Download<'a> {
        let policy = fetch.job.jobs.0.settings.parts;
        let gaps = Gaps::new(offset, fetch.descriptor.size, ahead, policy.bytes);
        let in_parts = fetch.is_in_parts() && gaps.bytes() >= 2 * policy.bytes;
        Download {
            fetch,
            gaps,
            policy,
            running: FuturesUnordered::new(),
            starts: BTreeSet::new(),
            began: fetch.job.now(),
            stride: 1,
            help: if in_parts { Help::NotYet } else { Help::Never },
            told_of_cuts: false,
            told_of_ranges: false,
        }
    }

    /// The next bytes, from anywhere in the blob; `None` when all have come.
    ///
    /// # Errors
    /// Whatever ends the front; then this download has ended.
    pub async fn next(&mut self) -> Result<Option<Placed>, Ended> {
        loop {
            if self.running.is_empty() {
                let Some(part) = self.take_part() else { return Ok(None) };
                let (permit, place) = enter(self.fetch).await?;
                self.begin(part, permit, place);
            }
            self.ask_for_help();
            let Some((connection, news)) = unless(self.fetch.halt, self.running.next()).await? else {
                continue;
            };
            match news {
                Ok(News::Bytes(bytes)) => {
                    let at = connection.at - bytes.len() as u64;
                    self.running.push(connection.go_on());
                    return Ok(Some(Placed { at, bytes }));
                }
                Ok(News::Opened) => self.judge(connection),
                Ok(News::Skipped) => self.running.push(connection.go_on()),
                Ok(News::Broke(error)) => {
                    self.tell_of_cut(&error);
                    self.running.push(connection.go_on());
                }
                Ok(News::Done) => self.finish(connection),
                Err(error) if self.is_front(&connection) => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(blob.digest = %self.fetch.descriptor.digest, %error, "A part is left to the front");
                    self.give_up(connection, Help::Later);
                }
            }
        }
    }

    fn take_part(&mut self) -> Option<Range<u64>> {
        let parts = match self.help {
            Help::Never => u64::MAX,
            Help::NotYet | Help::Welcome | Help::Later if self.is_slow() => 1,
            Help::NotYet | Help::Welcome | Help::Later => self.stride,
        };
        self.stride = self.stride.saturating_mul(2);
        self.gaps.take(parts)
    }

    /// Whether it has taken so long that help is worth its price.
    fn is_slow(&self) -> bool {
        self.fetch.job.now().since(self.began) >= self.policy.help_after
    }

    fn begin(&mut self, part: Range<u64>, permit: OwnedSemaphorePermit, place: Place) {
        let Range { start, end } = part;
        self.starts.insert(start);
        let link = Link::Ready(place);
        let connection = Connection { fetch: self.fetch, start, at: start, end, gained: 0, link, permit };
        self.running.push(connection.go_on());
    }

    /// Lets others fetch the parts that come next, as far as there is room for them.
    fn ask_for_help(&mut self) {
        while self.help == Help::Welcome && self.running.len() < self.policy.at_once && self.is_slow() {
            let (Some(front), Some(next)) = (self.starts.first(), self.gaps.first()) else { return };
            if next > front.saturating_add(limits::PARTS_AHEAD_BYTES) {
                return;
            }
            let Ok(permit) = self.fetch.job.places.clone().try_acquire_owned() else { return };
            let Some(place) = self.fetch.repository.try_enter() else { return };
            let Some(part) = self.gaps.take(1) else { return };
            self.begin(part, permit, place);
        }
    }

    /// Looks at what an answer is of: all of the blob, where a part was asked for, comes from a server without ranges.
    fn judge(&mut self, mut connection: Connection<'a>) {
        let Link::Open(source) = &connection.link else { return };
        let (ranges, host, end) = (source.ranges(), source.host().map(str::to_owned), source.end());
        if ranges == Ranges::Honoured {
            if self.help == Help::NotYet {
                self.help = Help::Welcome;
            }
            return self.running.push(connection.go_on());
        }
        self.fetch.remember_no_ranges(host.as_deref());
        if !self.is_front(&connection) {
            return self.give_up(connection, Help::Never);
        }
        // All of it comes now: whatever else was asked for, or is ahead, would come twice.
        self.running.clear();
        self.starts = [connection.start].into();
        self.gaps.clear();
        self.help = Help::Never;
        connection.end = end;
        self.fetch.show(connection.at);
        self.fetch.expect_again(connection.at);
        self.tell_of_ranges(ranges, host.as_deref(), connection.at);
        self.running.push(connection.go_on());
    }

    /// A part is here. Its connection takes the next where it was the last one.
    fn finish(&mut self, connection: Connection<'a>) {
        if self.is_front(&connection) && self.help == Help::Later {
            self.help = Help::Welcome;
        }
        self.starts.remove(&connection.start);
        if self.running.is_empty()
            && let Link::Open(source) = connection.link
            && let Some(part) = self.take_part()
        {
            self.begin(part, connection.permit, source.leave());
        }
    }

    fn give_up(&mut self, connection: Connection<'a>, help: Help) {
        self.starts.remove(&connection.start);
        self.gaps.give_back(connection.at..connection.end);
        // Who fails says nothing for ranges where another answer has shown that there are none.
        if self.help != Help::Never {
            self.help = help;
        }
    }

    /// Whether all bytes before its part have come. A part that was given back stands before it as well.
    fn is_front(&self, connection: &Connection<'_>) -> bool {
        self.starts.first() == Some(&connection.start)
            && self.gaps.first().is_none_or(|gap| gap > connection.start)
    }

    /// Once for each download, however often it breaks.
    fn tell_of_ranges(&mut self, ranges: Ranges, host: Option<&str>, here: u64) {
        if let Some(line) = words_of(ranges, host, &self.fetch.descriptor.digest, here)
            && !std::mem::replace(&mut self.told_of_ranges, true)
        {
            self.fetch.job.warn(line);
        }
    }

    /// Once for each download: a registry that cuts every connection does so very often.
    fn tell_of_cut(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.told_of_cuts, true) {
            let digest = &self.fetch.descriptor.digest;
            self.fetch.job.warn(format!("{error}; going on with {digest} where it broke"));
        }
    }
}

impl<'a> Connection<'a> {
    /// The next thing that it has to tell, and itself.
    fn go_on(mut self) -> BoxFuture<'a, (Connection<'a>, Result<News>)> {
        async move {
            let news = self.step().await;
            (self, news)
        }
        .boxed()
    }

    async fn step(&mut self) -> Result<News> {
        let Link::Open(source) = &mut self.link else {
            return self.open().await;
        };
        match source.arrive().await {
            Ok(Some(Arrived::Skipped(bytes))) => {
                self.fetch.count_again(bytes);
                Ok(News::Skipped)
            }
            Ok(Some(Arrived::Bytes(bytes))) => {
                self.at += bytes.len() as u64;
                self.gained += bytes.len() as u64;
                self.fetch.count(bytes.len() as u64);
                Ok(News::Bytes(bytes))
            }
            Ok(None) if self.at >= self.end => Ok(News::Done),
            Ok(None) => {
                let reason = "it answers less than was asked for".to_owned();
                self.resume(upstream_of(&self.fetch.job.request, UpstreamKind::Unreachable, reason))
            }
            Err(error) => {
                let is_as_before = self.at > 0 && self.gained == 0;
                let ranges = source.ranges();
                self.resume(if is_as_before { cut_short(error, self.at, ranges) } else { error })
            }
        }
    }

    /// Asks for what is left of the part. An answer beyond it is cut short by whoever reads, unless it is taken whole.
    async fn open(&mut self) -> Result<News> {
        let Link::Ready(place) = std::mem::replace(&mut self.link, Link::Gone) else {
            return Err(Error::internal("go on with a request that failed"));
        };
        let wanted = self.at..self.end;
        let source = self.fetch.open_source(wanted, place).await?;
        self.link = Link::Open(Box::new(source));
        self.gained = 0;
        Ok(News::Opened)
    }

    /// Goes on where the connection broke, if it was worth its request; else the error is for whoever waits.
    fn resume(&mut self, error: Error) -> Result<News> {
        let broke = matches!(&error, Error::Upstream(upstream) if upstream.kind == UpstreamKind::Unreachable);
        let enough = self.fetch.job.jobs.0.settings.retry.progress_bytes;
        match std::mem::replace(&mut self.link, Link::Gone) {
            Link::Open(source) if broke && self.gained >= enough => {
                self.link = Link::Ready(source.leave());
                Ok(News::Broke(error))
            }
            Link::Ready(_) | Link::Open(_) | Link::Gone => Err(error),
        }
    }
}

/// Waits for the right to make a request, and shows that it does.
async fn enter(fetch: &Fetch<'_>) -> Result<(OwnedSemaphorePermit, Place), Ended> {
    let Fetch { job, repository, halt, .. } = fetch;
    let mut entering = pin!(async {
        let permit = job.places.clone().acquire_owned().await.expect("nobody closes it");
        (permit, repository.enter().await)
    });
    if let Some(entered) = entering.as_mut().now_or_never() {
        return Ok(entered);
    }
    let reason = "as many requests as are allowed are under way".to_owned();
    fetch.wait(PullWait { until: None, reason });
    let entered = unless(halt, entering).await?;
    fetch.go_on();
    Ok(entered)
}
