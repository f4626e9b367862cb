//! A pull in hand, as others see it: its picture at any moment, and its events as they come.
//!
//! Events are kept in one bounded log per pull, not in a queue per reader: a reader has a place in the log, and one
//! that fell out of it, or comes back after a restart, is told to begin anew.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Time};
use crate::jobs::event::{
    LogLevel, PullEnd, PullEvent, PullEventBody, PullLog, PullPhaseChange, PullReset, ResetReason,
};
use crate::jobs::record::Record;
use crate::jobs::view::{PullBlob, PullProgress};
use crate::limits;
use crate::oci::Digest;

/// Ids of one start of the server: far more than a pull has events, and small enough for a JavaScript number.
pub(super) const IDS_PER_EPOCH: u64 = 1_000_000_000;
/// Ids left free before that of `end`, beside one for each blob that may yet be told: for the last words, and for snapshots
/// that are asked for while the end is written down.
const IDS_BEFORE_END: u64 = 1_000;

/// A pull that this server has in hand.
pub(super) struct Live {
    state: Mutex<State>,
    pulse: watch::Sender<Pulse>,
    /// Ends the work: with the server, or when the pull is cancelled.
    pub stop: CancellationToken,
}

/// What readers wait for: every change of it is news.
#[derive(Debug, Clone, Copy, Default)]
struct Pulse {
    /// The pull is in a final state.
    ended: bool,
    /// Nobody works on it any more: what the log holds is all there will be.
    let_go: bool,
}

struct State {
    record: Record,
    sent: Sent,
    log: Log,
}

/// What the log has told last.
#[derive(Default)]
struct Sent {
    change: Option<PullPhaseChange>,
    progress: Option<PullProgress>,
    blobs: HashMap<Digest, PullBlob>,
}

struct Log {
    last_id: u64,
    /// Up to here events are forgotten.
    dropped: u64,
    events: VecDeque<PullEvent>,
}

impl Log {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn push(&mut self, body: PullEventBody) {
        let id = self.next_id();
        self.events.push_back(PullEvent { id, body });
        while self.events.len() > limits::EVENT_QUEUE {
            self.dropped = self.events.pop_front().map_or(self.dropped, |event| event.id);
        }
    }
}

/// How a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Fresh,
    /// Everything after this id is still known.
    After(u64),
    Reset(ResetReason),
    /// It has seen the end.
    Nothing,
}

impl Live {
    pub fn new(record: Record, stop: CancellationToken) -> Live {
        let first = record.detail.epoch * IDS_PER_EPOCH;
        let log = Log { last_id: first, dropped: first, events: VecDeque::new() };
        let state = State { record, sent: Sent::default(), log };
        Live { state: Mutex::new(state), pulse: watch::Sender::new(Pulse::default()), stop }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the record.
    pub fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.lock().record)
    }

    /// Changes the record. Readers hear of it at the next [`Live::tell`].
    pub fn change<T>(&self, how: impl FnOnce(&mut Record) -> T) -> T {
        how(&mut self.lock().record)
    }

    /// Tells readers what differs from what they were told last: one value for each thing, the last one.
    pub fn tell(&self, now: Time) {
        let mut state = self.lock();
        let State { record, sent, log } = &mut *state;
        // The final state is told by the end alone: whoever stops at it has missed nothing.
        if !record.state.is_final() {
            tell_phase(record, sent, log);
        }
        for blob in record.blobs() {
            if sent.blobs.get(&blob.digest) != Some(&blob) {
                sent.blobs.insert(blob.digest.clone(), blob.clone());
                log.push(PullEventBody::Blob(blob));
            }
        }
        let progress = record.progress(now);
        if sent.progress.replace(progress) != Some(progress) {
            log.push(PullEventBody::Progress(progress));
        }
        drop(state);
        self.pulse.send_modify(|_| {});
    }

    /// Tells readers something in words.
    pub fn log(&self, at: Time, level: LogLevel, message: String) {
        let mut state = self.lock();
        let mut message = message;
        if let Some((end, _)) = message.char_indices().nth(limits::PULL_LOG_LINE) {
            message.replace_range(end.., "…");
        }
        let line = PullLog { at, level, message };
        state.record.note(line.clone());
        state.log.push(PullEventBody::Log(line));
        drop(state);
        self.pulse.send_modify(|_| {});
    }

    /// The id that `end` will have, to be written down with the final state.
    pub fn reserve_end(&self) -> u64 {
        let state = self.lock();
        state.log.last_id + state.record.blobs().len() as u64 + IDS_BEFORE_END
    }

    /// Tells readers the rest and the end, once the final state is written down.
    pub fn end(&self, now: Time) {
        self.tell(now);
        let mut state = self.lock();
        let reserved = end_id(&state.record);
        state.log.last_id = state.log.last_id.max(reserved.saturating_sub(1));
        let end = end_of(&state.record);
        state.log.push(PullEventBody::End(end));
        // Under the lock: who reads the log sees the end and that it is one together.
        self.pulse.send_modify(|pulse| pulse.ended = true);
    }

    /// Ends the wait of everybody, also where the pull came to no end.
    pub fn let_go(&self) {
        self.pulse.send_modify(|pulse| pulse.let_go = true);
    }

    /// Waits until nobody works on the pull any more.
    pub async fn gone(&self) {
        // The sender lives as long as `self`.
        let _ = self.pulse.subscribe().wait_for(|pulse| pulse.let_go).await;
    }

    /// Waits until the pull reaches a final state, or is let go of.
    pub async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.pulse.subscribe().wait_for(|pulse| pulse.ended || pulse.let_go).await;
    }

    /// Whether anybody waits for news of it.
    #[cfg(test)]
    pub fn is_awaited(&self) -> bool {
        self.pulse.receiver_count() > 0
    }

    fn start(&self, last_seen: Option<&str>) -> Start {
        let state = self.lock();
        let Some(text) = last_seen else { return Start::Fresh };
        let Ok(id) = text.parse::<u64>() else { return Start::Reset(ResetReason::UnknownEventId) };
        match () {
            () if id > state.log.last_id => Start::Reset(ResetReason::UnknownEventId),
            () if id == state.log.last_id && self.pulse.borrow().ended => Start::Nothing,
            () if id / IDS_PER_EPOCH < state.record.detail.epoch => Start::Reset(ResetReason::Restarted),
            () if id < state.log.dropped => Start::Reset(ResetReason::Lagged),
            () => Start::After(id),
        }
    }

    /// What a reader at `place` has not seen; where it then is.
    fn read_on(&self, place: Place, now: Time) -> (VecDeque<PullEvent>, Place) {
        let mut state = self.lock();
        let after = match place {
            Place::After(id) if id >= state.log.dropped => {
                let news: VecDeque<_> = state.log.events.iter().filter(|e| e.id > id).cloned().collect();
                let last = news.back().map_or(id, |event| event.id);
                return (news, Place::After(last));
            }
            Place::After(_) => Some(ResetReason::Lagged),
            Place::Anew(reason) => reason,
        };
        if self.pulse.borrow().ended {
            let events = whole(&state.record, after, now);
            return (events.into(), Place::After(state.log.last_id));
        }
        let mut events = VecDeque::new();
        if let Some(reason) = after {
            let id = state.log.next_id();
            events.push_back(PullEvent { id, body: PullEventBody::Reset(PullReset { reason }) });
        }
        let id = state.log.next_id();
        let pull = Box::new(state.record.show(now));
        events.push_back(PullEvent { id, body: PullEventBody::Snapshot(pull) });
        (events, Place::After(id))
    }
}

fn tell_phase(record: &Record, sent: &mut Sent, log: &mut Log) {
    let change = PullPhaseChange {
        state: record.state,
        phase: record.phase,
        attempt: record.row.attempt.unsigned_abs(),
    };
    if sent.change != Some(change) {
        // Whoever hears of a new attempt forgets the blobs of the one before.
        if sent.change.is_some_and(|last| last.attempt != change.attempt) {
            sent.blobs.clear();
        }
        sent.change = Some(change);
        log.push(PullEventBody::Phase(change));
    }
}

fn end_of(record: &Record) -> PullEnd {
    PullEnd {
        state: record.state,
        error: record.error.clone(),
        target: record.detail.target.clone(),
        image_id: record.detail.image_id.clone(),
    }
}

/// Where a reader is in the log.
#[derive(Debug, Clone, Copy)]
enum Place {
    After(u64),
    /// Before a snapshot, and before a reset if there is a reason for one.
    Anew(Option<ResetReason>),
}

/// The events of a pull in hand, until `end` or until the server stops; `None` when the reader has seen the end.
pub(super) fn follow(
    live: Arc<Live>,
    last_seen: Option<&str>,
    clock: Clock,
    soft: CancellationToken,
) -> Option<impl Stream<Item = PullEvent> + Send + use<>> {
    let place = match live.start(last_seen) {
        Start::Fresh => Place::Anew(None),
        Start::After(id) => Place::After(id),
        Start::Reset(reason) => Place::Anew(Some(reason)),
        Start::Nothing => return None,
    };
    let pulse = live.pulse.subscribe();
    let reader = Reader { live, clock, soft, pulse, place, waiting: VecDeque::new(), ended: false };
    Some(futures_util::stream::unfold(reader, |mut reader| async move {
        reader.next().await.map(|event| (event, reader))
    }))
}

struct Reader {
    live: Arc<Live>,
    clock: Clock,
    soft: CancellationToken,
    pulse: watch::Receiver<Pulse>,
    place: Place,
    waiting: VecDeque<PullEvent>,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<PullEvent> {
        while !self.ended {
            if let Some(event) = self.waiting.pop_front() {
                self.ended = matches!(event.body, PullEventBody::End(_));
                return Some(event);
            }
            // Marked as seen before the look, so that what comes after the look wakes us.
            let let_go = self.pulse.borrow_and_update().let_go;
            (self.waiting, self.place) = self.live.read_on(self.place, self.clock.now());
            if self.waiting.is_empty() {
                if let_go {
                    return None;
                }
                tokio::select! {
                    biased;
                    () = self.soft.cancelled() => return None,
                    changed = self.pulse.changed() => changed.ok()?,
                }
            }
        }
        None
    }
}

/// The events of a pull that nobody has in hand: the whole of it, and the end if it has come to one.
pub(super) fn recount(record: &Record, last_seen: Option<&str>, now: Time) -> Option<Vec<PullEvent>> {
    if !record.state.is_final() {
        return Some(vec![as_it_stands(record, last_seen, now)]);
    }
    let end_id = end_id(record);
    let reason = match last_seen.map(str::parse::<u64>) {
        None => None,
        Some(Ok(id)) if id == end_id => return None,
        Some(Ok(id)) if id / IDS_PER_EPOCH < end_id / IDS_PER_EPOCH => Some(ResetReason::Restarted),
        Some(_) => Some(ResetReason::UnknownEventId),
    };
    Some(whole(record, reason, now))
}

/// A pull between its row and its task, in one event: whoever comes back with its id misses nothing of what the task
/// then tells.
fn as_it_stands(record: &Record, last_seen: Option<&str>, now: Time) -> PullEvent {
    let first = record.detail.epoch * IDS_PER_EPOCH;
    let last_seen = last_seen.and_then(|text| text.parse().ok());
    let id = last_seen.filter(|id| (first..first + IDS_PER_EPOCH).contains(id)).unwrap_or(first);
    PullEvent { id, body: PullEventBody::Snapshot(Box::new(record.show(now))) }
}

/// A row that was finished without its end's id has never told an end.
fn end_id(record: &Record) -> u64 {
    record.detail.end_id.unwrap_or((record.detail.epoch + 1) * IDS_PER_EPOCH - 1)
}

/// A finished pull in two or three events, the last with the id of its `end`.
fn whole(record: &Record, reason: Option<ResetReason>, now: Time) -> Vec<PullEvent> {
    let reset = reason.map(|reason| PullEventBody::Reset(PullReset { reason }));
    let snapshot = PullEventBody::Snapshot(Box::new(record.show(now)));
    let bodies: Vec<_> = reset.into_iter().chain([snapshot, PullEventBody::End(end_of(record))]).collect();
    let first = end_id(record) + 1 - bodies.len() as u64;
    (first..).zip(bodies).map(|(id, body)| PullEvent { id, body }).collect()
}
