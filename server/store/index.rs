//! `index.json` follows the database: at once after a quiet second, gathered while names change all the while, and once
//! more at the stop.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Store, namespaces::DEFAULT_NAMESPACE};
use crate::db;
use crate::disk::IndexEntry;
use crate::error::{Result, with_causes};
use crate::limits;

/// What is gathered is written so often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// So many writings after a quiet second gather nothing: a script reads at once what it has just named.
const AT_ONCE: u32 = 10;
/// How soon it is tried again when it could not be written, whether or not names change.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const PAGE: i64 = 1000;

/// What the file may have to tell, and what it tells.
#[derive(Default)]
pub(super) struct Index {
    changes: watch::Sender<Changes>,
    written: watch::Sender<Written>,
}

/// Counts of what has changed since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Changes {
    /// Names, and what they stand for.
    names: u64,
    /// What a name may have stood for all the while, come or gone. Nobody waits for that to be told.
    content: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Written {
    changes: Changes,
    pace: Pace,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Pace {
    /// It cannot be written, or nobody does it: there is nothing to wait for.
    #[default]
    Stuck,
    /// The next change of a name is written as it comes.
    AtOnce,
    /// So many come that they share a writing.
    Gathered,
}

impl Index {
    /// A name is new, stands for something else, or is gone; its number, to wait for.
    pub fn name_changed(&self) -> u64 {
        let mut number = 0;
        self.changes.send_modify(|changes| {
            changes.names += 1;
            number = changes.names;
        });
        number
    }

    /// Content came or went that a name may stand for.
    pub fn content_changed(&self) {
        self.changes.send_modify(|changes| changes.content += 1);
    }

    /// Waits until a change of a name is told. Not where changes are gathered: a small change is not held up by its
    /// like.
    pub async fn wait_unless_gathered(&self, number: u64) {
        self.wait(number, |pace| pace != Pace::AtOnce).await;
    }

    async fn wait(&self, number: u64, gives_up: impl Fn(Pace) -> bool) {
        let mut written = self.written.subscribe();
        let told = written.wait_for(|written| written.changes.names >= number || gives_up(written.pace));
        // A disk that is too slow keeps nobody from hearing how it went: the file follows.
        let _ = timeout(limits::INDEX_WAIT, told).await;
    }
}

/// Writes `index.json` whenever it may have to say something else.
pub(super) async fn write_behind(store: Store) {
    let (index, soft) = (&store.0.index, store.0.shutdown.soft().clone());
    let mut news = index.changes.subscribe();
    let mut written = Written { changes: Changes::default(), pace: Pace::AtOnce };
    let mut left = AT_ONCE;
    loop {
        let publish = |now: Written| _ = index.written.send_replace(now);
        publish(written);
        let news_or_stop = soft.run_until_cancelled(async {
            if written.pace == Pace::Stuck {
                sleep(AGAIN_AFTER).await;
            }
            let told = written.changes;
            if timeout(AT_MOST_EVERY, news.wait_for(|now| *now != told)).await.is_err() {
                left = AT_ONCE;
                publish(Written { changes: told, pace: Pace::AtOnce });
                let _ = news.wait_for(|now| *now != told).await;
            }
            let _ = match left {
                0 => timeout(AT_MOST_EVERY, std::future::pending()).await,
                _ => timeout(AT_MOST_EVERY, news.wait_for(|now| now.names != told.names)).await.map(drop),
            };
        });
        let stop = news_or_stop.await.is_none();
        let changes = *index.changes.borrow();
        match store.write_index().await {
            Ok(()) => {
                if changes.names != written.changes.names {
                    left = left.saturating_sub(1);
                }
                let pace = if left == 0 { Pace::Gathered } else { Pace::AtOnce };
                written = Written { changes, pace };
            }
            Err(error) => {
                tracing::warn!("Could not write index.json: {}", with_causes(&error));
                written.pace = Pace::Stuck;
            }
        }
        if stop {
            return publish(Written { pace: Pace::Stuck, ..written });
        }
    }
}

impl Store {
    /// Waits until `index.json` tells every name that was changed before, for work that was long in coming anyway. Not
    /// longer than [`limits::INDEX_WAIT`], and not when the file cannot be written: it then follows.
    pub async fn wait_for_index(&self) {
        let index = &self.0.index;
        let number = index.changes.borrow().names;
        index.wait(number, |pace| pace == Pace::Stuck).await;
    }

    /// Makes `index.json` say what the database says. A name whose target is not stored is left out: others who read the
    /// layout would find nothing there.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable`, `Internal`; the file that was there stays.
    pub async fn write_index(&self) -> Result<()> {
        let mut entries = Vec::new();
        let mut after = (String::new(), String::new());
        loop {
            let rows = {
                let mut conn = self.0.db.read().await?;
                db::images::list_all_after(&mut conn, (&after.0, &after.1), PAGE).await?
            };
            let Some(last) = rows.last() else { break };
            after = (last.namespace.clone(), last.name.clone());
            entries.extend(rows.into_iter().map(|row| IndexEntry {
                // Other tools know no namespaces: those of ours but the default one go in front of the name.
                name: match row.namespace.as_str() {
                    DEFAULT_NAMESPACE => row.name,
                    namespace => format!("{namespace}/{}", row.name),
                },
                media_type: row.media_type,
                digest: row.digest,
                size: row.size.unsigned_abs(),
            }));
        }
        self.on_disk(move |disk| disk.write_index(&entries)).await
    }
}
