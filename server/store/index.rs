//! `index.json`, written behind: at most once a second while names change, or what they stand for comes and goes, and once
//! more at the stop.

use std::time::Duration;

use super::{Store, namespaces::DEFAULT_NAMESPACE};
use crate::db;
use crate::disk::IndexEntry;
use crate::error::{Result, with_causes};

const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// How soon it is tried again when it could not be written, whether or not names change.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const PAGE: i64 = 1000;

/// Writes `index.json` whenever it may have to say something else.
pub(super) async fn write_behind(store: Store) {
    let soft = store.0.shutdown.soft().clone();
    loop {
        let stop = tokio::select! {
            biased;
            () = soft.cancelled() => true,
            () = store.0.index_changed.notified() => false,
        };
        // Names that change within this time share the next writing.
        let mut pause = AT_MOST_EVERY;
        if let Err(error) = store.write_index().await {
            tracing::warn!("Could not write index.json: {}", with_causes(&error));
            pause = AGAIN_AFTER;
            store.0.index_changed.notify_one();
        }
        if stop {
            return;
        }
        let _ = tokio::time::timeout(pause, soft.cancelled()).await;
    }
}

impl Store {
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
