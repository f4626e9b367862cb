//! Events, read: a page of what is kept, or everything after a place in it, as it comes.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Mutex, watch};

use super::Store;
use super::list::{KeyValue, ListQuery};
use super::lists::{Page, Wanted};
use crate::clock::Time;
use crate::db;
use crate::db::events::{EventRow, Horizon};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::limits;

/// Events that are read at once.
const BATCH: i64 = 256;
/// Between two reads of a reader that has read everything: what happens in this time is read together.
const PAUSE: Duration = Duration::from_millis(20);
/// How soon it is looked again when somebody's transaction is in the way, of whose end nobody may tell: it may be one that
/// lost its connection.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Up to which id events have been dropped: a fact in `meta`.
const DROPPED: &str = "events_dropped";

/// What one reader has read, for those who come to the same place. What is behind an id never changes, so it may be old.
#[derive(Default)]
pub(super) struct Tail(Mutex<Option<Read>>);

#[derive(Clone)]
struct Read {
    after: i64,
    /// How many transactions had ended before.
    ended: u64,
    events: Arc<[Event]>,
    /// Whether a transaction that has not ended was in the way.
    held_back: bool,
}

/// A place in the events, which moves on as they are read.
pub struct Follower {
    store: Store,
    after: i64,
    ended: watch::Receiver<u64>,
    pause: bool,
}

impl Store {
    /// A page of the events that are kept, of one namespace or of all. `after`: only those with a larger id.
    ///
    /// # Errors
    /// `Invalid` and `Gone` as [`Store::follow_events`], the latter also for a cursor; `Unavailable`.
    pub async fn list_events(
        &self,
        namespace: Option<&str>,
        query: &ListQuery,
        wanted: Wanted,
        after: Option<i64>,
    ) -> Result<Page<Event>> {
        let horizon = self.find_horizon().await?;
        check_given(after, horizon)?;
        let wanted = wanted.namespace(namespace).number("id <=", Some(horizon.id)).number("id >", after);
        let view = |row| ready(Ok(Some(event_of(row))));
        let page = self.page(db::events::SELECT_EVENTS, query, &wanted, view).await?;
        let ascending = query.sort.first().is_some_and(|key| !key.descending);
        let cursor = query.cursor.as_ref().filter(|_| ascending).and_then(|cursor| match cursor.after[..] {
            [KeyValue::Number(id)] => Some(id),
            _ => None,
        });
        if let Some(after) = after.max(cursor) {
            self.check_kept(after).await?;
        }
        Ok(page)
    }

    /// The events after an id; from now on when there is none.
    ///
    /// # Errors
    /// `Invalid` for an id that was not given yet; `Gone` when events after it have been dropped; `Unavailable`.
    pub async fn follow_events(&self, after: Option<i64>) -> Result<Follower> {
        // Before the look at the horizon, so that what ends after it is news.
        let ended = self.0.db.ended();
        let horizon = self.find_horizon().await?;
        check_given(after, horizon)?;
        if let Some(after) = after {
            self.check_kept(after).await?;
        }
        Ok(Follower { store: self.clone(), after: after.unwrap_or(horizon.id), ended, pause: false })
    }

    async fn find_horizon(&self) -> Result<Horizon> {
        let mut conn = self.0.db.read().await?;
        db::events::find_horizon(&mut conn).await
    }

    /// Whether nothing after the id has been dropped. Asked once everything after it was read.
    async fn check_kept(&self, after: i64) -> Result<()> {
        let mut conn = self.0.db.read().await?;
        let dropped = db::meta::find(&mut conn, DROPPED).await?;
        let dropped = dropped.and_then(|id| id.parse().ok()).unwrap_or(0);
        if after >= dropped { Ok(()) } else { Err(Error::Gone { what: "events", oldest: dropped + 1 }) }
    }

    /// What is after the id now. Readers at the same place share one look.
    async fn read_events(&self, after: i64, ended: u64) -> Result<Read> {
        let mut last = self.0.tail.0.lock().await;
        let holds = |read: &&Read| {
            let is_fresh = read.ended == ended && !read.held_back;
            read.after == after && (is_fresh || !read.events.is_empty())
        };
        if let Some(read) = last.as_ref().filter(holds) {
            return Ok(read.clone());
        }
        let (rows, horizon) = {
            let mut conn = self.0.db.read().await?;
            let horizon = db::events::find_horizon(&mut conn).await?;
            (db::events::list_after(&mut conn, after, horizon, BATCH).await?, horizon)
        };
        self.check_kept(after).await?;
        let events = rows.into_iter().map(event_of).collect();
        let read = Read { after, ended, events, held_back: horizon.id < horizon.last };
        *last = Some(read.clone());
        Ok(read)
    }

    /// Drops up to `limit` of the oldest events, of those that are too old or too many; how many.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn drop_events(&self, now: Time, limit: i64) -> Result<usize> {
        let too_old = now.0.saturating_sub(limits::EVENTS_TIME.as_micros() as i64);
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let last = db::events::find_horizon(tx).await?.last;
                    let too_many = last - i64::try_from(limits::EVENTS_KEPT).unwrap_or(i64::MAX);
                    let mut oldest = db::events::list_oldest(tx, limit).await?;
                    oldest.truncate(
                        oldest.iter().take_while(|(id, time)| *time <= too_old || *id <= too_many).count(),
                    );
                    if let Some((id, _)) = oldest.last() {
                        db::events::drop_up_to(tx, *id).await?;
                        db::meta::set(tx, DROPPED, &id.to_string()).await?;
                    }
                    Ok(oldest.len())
                })
            })
            .await
    }
}

impl Follower {
    /// The id of the last event that was read.
    pub fn position(&self) -> i64 {
        self.after
    }

    /// The next events, of every namespace, when there are some. May be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// `Gone` for a reader so slow that what it has not read was dropped; `Unavailable`.
    pub async fn next(&mut self) -> Result<Arc<[Event]>> {
        if self.pause {
            tokio::time::sleep(PAUSE).await;
            self.pause = false;
        }
        loop {
            // Marked as seen before the look, so that what ends after it wakes us.
            let ended = *self.ended.borrow_and_update();
            let read = self.store.read_events(self.after, ended).await?;
            if let Some(last) = read.events.last() {
                self.after = last.id;
                self.pause = read.events.len() < BATCH as usize;
                return Ok(read.events);
            }
            let changed = self.ended.changed();
            let gone = |_| Error::Unavailable { what: "the database", source: None };
            match read.held_back {
                false => changed.await.map_err(gone)?,
                true => tokio::time::timeout(LOOK_AGAIN, changed).await.unwrap_or(Ok(())).map_err(gone)?,
            }
        }
    }
}

fn check_given(after: Option<i64>, horizon: Horizon) -> Result<()> {
    match after {
        Some(after) if after > horizon.id => {
            Err(Error::invalid(format!("no event has the id {after} yet: the last one is {}", horizon.id)))
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn event_of(row: EventRow) -> Event {
    Event {
        id: row.id,
        time: Time(row.time),
        namespace: row.namespace,
        topic: row.topic,
        subject: row.subject,
        event: match serde_json::from_str(&row.data) {
            Ok(Value::Object(fields)) => fields,
            // A row that somebody else damaged is shown without what cannot be read.
            Ok(_) | Err(_) => serde_json::Map::new(),
        },
    }
}
