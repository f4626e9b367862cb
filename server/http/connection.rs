//! Watching one connection, so that a slow or silent peer cannot hold it.
//!
//! hyper's own header timeout starts only when it has read which protocol is spoken, and counts a kept-alive
//! connection's rest as a slow header; so the stream, the requests and their bodies report here what they do, and
//! the roster of all connections looks now and then whose peer is overdue.

mod roster;
mod watched;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use rustix::time::{ClockId, clock_gettime};

pub use roster::{Member, Roster};
pub use watched::{ArrivingBody, LeavingBody, WatchedStream};

use crate::limits;

/// How long a peer may take for what. Tests shorten it.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub handshake: Duration,
    pub header: Duration,
    pub idle: Duration,
    /// While waiting for the peer this long in sum, at least `pace_bytes` must have moved.
    pub pace_window: Duration,
    pub pace_bytes: u64,
    /// How often to look.
    pub tick: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            handshake: limits::HANDSHAKE_TIMEOUT,
            header: limits::HEADER_TIMEOUT,
            idle: limits::IDLE_TIMEOUT,
            pace_window: limits::PACE_WINDOW,
            pace_bytes: limits::PACE_BYTES,
            tick: Duration::from_secs(1),
        }
    }
}

/// What the peer has brought upon itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Nothing is in flight and has not been for long: close in good order.
    Idle,
    /// It holds the connection without using it: close at once.
    Slow,
}

/// What hyper reads by itself of an unread body, more or less: what arrived with the head.
const DRAINED: u64 = 16 << 10;

/// What a connection is told to do. It is never told less again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Order {
    #[default]
    GoOn,
    /// Take no further request, and go when what is in flight is done.
    Finish,
    Close,
}

/// A point in time, to the few milliseconds of the kernel's own tick: all that is measured here are seconds, and asking
/// for more costs a small answer one part in a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Duration);

impl Moment {
    fn now() -> Moment {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        Moment(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default()))
    }

    fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The watch over one connection; clones watch the same one.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    state: Mutex<State>,
    /// An [`Order`], and who is to be woken for it.
    order: AtomicU8,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct State {
    timing: Timing,
    in_flight: usize,
    idle_since: Moment,
    /// When the first byte of a request came that has not begun yet.
    head_since: Option<Moment>,
    spoken: Spoken,
    /// The last body was left with so much unread that HTTP/1 closes the connection over it.
    unread: bool,
    /// How the peer sends bodies, takes bytes of the connection, and takes bodies.
    read: Pace,
    written: Pace,
    taken: Pace,
}

/// What the first bytes say. An HTTP/2 connection also carries bytes that belong to no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// So many bytes were those of the HTTP/2 preface.
    Undecided(usize),
    Http1,
    Http2,
}

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Watch {
    pub fn new(timing: Timing) -> Watch {
        let state = State {
            timing,
            in_flight: 0,
            idle_since: Moment::now(),
            head_since: None,
            spoken: Spoken::Undecided(0),
            unread: false,
            read: Pace::default(),
            written: Pace::default(),
            taken: Pace::default(),
        };
        let order = AtomicU8::new(Order::GoOn as u8);
        Watch(Arc::new(Watched { state: Mutex::new(state), order, waker: AtomicWaker::new() }))
    }

    /// Whether the peer is overdue, as of now.
    pub fn overdue(&self) -> Option<Overdue> {
        self.state().overdue(Moment::now())
    }

    /// Gives the connection an order; whether it is more than it was told before.
    pub fn give(&self, order: Order) -> bool {
        let is_new = self.0.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8;
        if is_new {
            self.0.waker.wake();
        }
        is_new
    }

    /// What the connection was told; its task is woken when it is told more.
    pub fn order(&self, context: &Context<'_>) -> Order {
        // First registered, then read: what is told in between wakes.
        self.0.waker.register(context.waker());
        match self.0.order.load(Ordering::Acquire) {
            0 => Order::GoOn,
            1 => Order::Finish,
            _ => Order::Close,
        }
    }

    /// Counts a request in until the guard is dropped.
    pub fn request(&self) -> InFlight {
        let mut state = self.state();
        state.in_flight += 1;
        state.head_since = None;
        drop(state);
        InFlight(self.clone())
    }

    /// Whether the body of the request just answered was left unread. Of HTTP/1 only, where one request ends before
    /// the next begins.
    pub fn take_unread(&self) -> bool {
        std::mem::take(&mut self.state().unread)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a plain assignment: a panic elsewhere cannot leave it half made.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn overdue(&self, now: Moment) -> Option<Overdue> {
        let timing = &self.timing;
        if [&self.read, &self.written, &self.taken].iter().any(|pace| pace.too_slow(timing, now)) {
            return Some(Overdue::Slow);
        }
        if self.in_flight > 0 {
            return None;
        }
        let idle = now.since(self.idle_since);
        match (self.spoken, self.head_since) {
            (Spoken::Undecided(_), _) => (idle >= timing.header).then_some(Overdue::Slow),
            (Spoken::Http1, Some(since)) => (now.since(since) >= timing.header).then_some(Overdue::Slow),
            // Whoever was told to go and has not gone is slow.
            (Spoken::Http1 | Spoken::Http2, _) if idle >= timing.idle + timing.header => Some(Overdue::Slow),
            (Spoken::Http1 | Spoken::Http2, _) => (idle >= timing.idle).then_some(Overdue::Idle),
        }
    }

    fn received(&mut self, bytes: &[u8], now: Moment) {
        self.read.rest(|| now);
        self.read.moved(bytes.len(), &self.timing, || now);
        if let Spoken::Undecided(seen) = self.spoken {
            let rest = &PREFACE[seen..];
            let new = &bytes[..bytes.len().min(rest.len())];
            self.spoken = match (rest.starts_with(new), new.len() == rest.len()) {
                (true, true) => Spoken::Http2,
                (true, false) => Spoken::Undecided(seen + new.len()),
                (false, _) => Spoken::Http1,
            };
        }
        if self.in_flight == 0 && self.head_since.is_none() {
            self.head_since = Some(now);
        }
    }
}

/// How fast bytes move while somebody waits for them. The clock is only asked where somebody does: a small answer moves
/// a dozen times.
///
/// Time in which nobody waits does not count: a server that is busy with the disk must not find its client slow.
#[derive(Debug, Default)]
struct Pace {
    bytes: u64,
    waited: Duration,
    waiting_since: Option<Moment>,
}

impl Pace {
    fn wait(&mut self, now: impl FnOnce() -> Moment) {
        self.waiting_since.get_or_insert_with(now);
    }

    fn rest(&mut self, now: impl FnOnce() -> Moment) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now().since(since);
        }
    }

    fn moved(&mut self, bytes: usize, timing: &Timing, now: impl FnOnce() -> Moment) {
        self.bytes += bytes as u64;
        if self.bytes >= timing.pace_bytes {
            let waiting_since = self.waiting_since.map(|_| now());
            *self = Pace { waiting_since, ..Pace::default() };
        }
    }

    fn too_slow(&self, timing: &Timing, now: Moment) -> bool {
        let waiting = self.waiting_since.map_or(Duration::ZERO, |since| now.since(since));
        self.waited + waiting >= timing.pace_window
    }
}

/// A request in flight, until its answer is sent or given up.
#[derive(Debug)]
pub struct InFlight(Watch);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        let now = Moment::now();
        state.idle_since = now;
        state.taken.rest(|| now);
        // A client that was slow in one request starts the next one fresh.
        state.read = Pace::default();
    }
}
