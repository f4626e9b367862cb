//! An unpack in hand, as others see it: how it stands at any moment, and its events as they come.
//!
//! An event tells the whole of it, so nothing is kept for slow readers: each looks at how it stands when its turn comes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{Mutex, watch};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::record::Record;
use super::view::UnpackEventBody;
use crate::clock::Clock;
use crate::error::{Conflict, Error, Result};
use crate::jobs::event::JobEvent;
use crate::jobs::view::JobState;
use crate::store::{Store, UnpackTurn};

/// How often a reader hears of what changed.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// An unpack that this server has in hand, or had.
pub(in crate::jobs) struct Live {
    record: watch::Sender<Record>,
    /// Rows are written one after the other: the last one is how it stands.
    writing: Mutex<()>,
    /// Ends the work: with the server, or when the unpack is cancelled.
    pub(super) stop: CancellationToken,
}

impl Live {
    pub(super) fn new(record: Record, stop: CancellationToken) -> Live {
        Live { record: watch::Sender::new(record), writing: Mutex::default(), stop }
    }

    /// Looks at the record.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.record.borrow())
    }

    /// Changes the record, unless it is final: that is history.
    pub(super) fn change(&self, how: impl FnOnce(&mut Record)) {
        self.record.send_if_modified(|record| {
            let changes = !record.state.is_final();
            if changes {
                how(record);
                record.revision += 1;
            }
            changes
        });
    }

    /// Ends the wait of everybody, also where the unpack came to no end.
    pub(super) fn let_go(&self) {
        self.record.send_modify(|record| record.let_go = true);
    }

    /// Waits until the unpack reaches a final state, or is let go of.
    pub(super) async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.record.subscribe().wait_for(|record| record.state.is_final() || record.let_go).await;
    }

    /// Changes the row, then the record: nobody hears of what a restart could take back. Whether there was a row to change.
    ///
    /// # Errors
    /// `Unavailable`: the record is as it was, and the next row that is written says how it stands.
    pub(super) async fn write(
        &self,
        store: &Store,
        turn: UnpackTurn,
        how: impl Fn(&mut Record),
    ) -> Result<bool> {
        let _turn = self.writing.lock().await;
        let mut next = self.read(Clone::clone);
        how(&mut next);
        let stood = store.update_unpack(&next.to_row(), turn).await?;
        if stood {
            self.change(how);
        }
        Ok(stood)
    }

    /// Stops the work. Twice is as good as once.
    ///
    /// # Errors
    /// `Conflict` (state) when it has come to an end; `Unavailable`.
    pub(super) async fn cancel(&self, store: &Store) -> Result<()> {
        let _turn = self.writing.lock().await;
        let mut next = self.read(Clone::clone);
        check_unfinished(&next)?;
        next.state = JobState::Cancelling;
        store.update_unpack(&next.to_row(), UnpackTurn::Moved).await?;
        self.change(|record| record.state = JobState::Cancelling);
        self.stop.cancel();
        Ok(())
    }
}

/// # Errors
/// `Conflict` (state) for an unpack of which nothing is to be stopped.
pub(super) fn check_unfinished(record: &Record) -> Result<()> {
    match record.state {
        JobState::Queued | JobState::Running | JobState::Cancelling => Ok(()),
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
            let reason = format!("the unpack has {}: there is nothing to cancel", record.state.as_str());
            Err(Error::Conflict(Conflict::State { reason }))
        }
    }
}

/// The events of an unpack, until `end`, until nobody works on it, or until the server stops; `None` when the reader has
/// seen the end.
pub(super) fn follow(
    live: Arc<Live>,
    last_seen: Option<&str>,
    clock: Clock,
    soft: CancellationToken,
) -> Option<impl Stream<Item = JobEvent<UnpackEventBody>> + Send + use<>> {
    let end_id = live.read(|record| record.state.is_final().then_some(record.detail.end_id));
    if end_id.is_some() && last_seen.and_then(|text| text.parse().ok()) == end_id {
        return None;
    }
    let changes = live.record.subscribe();
    let reader = Reader { _live: live, changes, clock, soft, pause: None, ended: false };
    Some(futures_util::stream::unfold(reader, |mut reader| async move {
        reader.next().await.map(|event| (event, reader))
    }))
}

struct Reader {
    /// Where the changes come from.
    _live: Arc<Live>,
    changes: watch::Receiver<Record>,
    clock: Clock,
    soft: CancellationToken,
    /// Until when it hears of nothing but the end; `None` before the first event.
    pause: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<JobEvent<UnpackEventBody>> {
        if self.ended {
            return None;
        }
        let pause = self.pause.take();
        let first = pause.is_none();
        if let Some(pause) = pause {
            let soft = self.soft.clone();
            soft.run_until_cancelled(self.await_news(pause)).await??;
        }
        self.pause = Some(Box::pin(sleep(TELL_EVERY)));
        let record = self.changes.borrow_and_update();
        let shown = Box::new(record.show(self.clock.now()));
        let id = record.event_id();
        Some(match (first, record.state.is_final()) {
            // The end comes behind it.
            (true, true) => JobEvent { id: record.detail.end_id - 1, body: UnpackEventBody::Snapshot(shown) },
            (true, false) => JobEvent { id, body: UnpackEventBody::Snapshot(shown) },
            (false, false) => JobEvent { id, body: UnpackEventBody::Progress(shown) },
            (false, true) => {
                self.ended = true;
                JobEvent { id: record.detail.end_id, body: UnpackEventBody::End(shown) }
            }
        })
    }

    /// Waits for something to tell, which but for the end is not at once; `None` when nothing more will come.
    async fn await_news(&mut self, pause: Pin<Box<Sleep>>) -> Option<()> {
        let settled = |record: &Record| record.state.is_final() || record.let_go;
        if !settled(&self.changes.borrow()) {
            self.changes.changed().await.ok()?;
            tokio::select! {
                biased;
                settled = self.changes.wait_for(settled) => drop(settled),
                () = pause => {}
            }
        }
        let record = self.changes.borrow();
        (record.state.is_final() || !record.let_go).then_some(())
    }
}
