//! What goes by itself: ingests, leases, sessions, idempotency keys and events whose time has come.

use std::time::Duration;

use super::Store;
use super::leases::tell_expired;
use crate::clock::Time;
use crate::db;
use crate::error::{Result, with_causes};
use crate::events::Topic;
use crate::limits;

/// How often expired things are looked for. Nothing hangs on it: what has expired is treated as gone at once.
const EVERY: Duration = Duration::from_secs(30);
const BATCH: i64 = 500;
/// How long an expired ingest stays listed before its bytes go: its owner may wonder where it is.
const VISIBLE: Duration = Duration::from_secs(3600);

pub(super) async fn sweep_expired(store: Store) {
    let soft = store.0.shutdown.soft().clone();
    while tokio::time::timeout(EVERY, soft.cancelled()).await.is_err() {
        if let Err(error) = store.sweep_now().await {
            tracing::warn!("Could not sweep what has expired: {}", with_causes(&error));
        }
    }
}

impl Store {
    /// Removes what has expired; how many ingests went.
    ///
    /// # Errors
    /// `Unavailable`; what was not swept is swept next time.
    pub async fn sweep_now(&self) -> Result<usize> {
        let now = self.now();
        let long_ago = now.0.saturating_sub(VISIBLE.as_micros() as i64);
        let expired = {
            let mut conn = self.0.db.read().await?;
            db::ingests::list_expired(&mut conn, long_ago, BATCH).await?
        };
        let mut swept = 0;
        for (id, namespace) in expired {
            let used = self.0.ingests.find(&id).is_some_and(|live| live.is_used(now));
            if !used && self.end_ingest(&namespace, &id, Topic::IngestExpire).await.is_ok() {
                swept += 1;
            }
        }
        // Step by step, so that what else is written has its turn in between.
        while self.forget_expired(now).await? == BATCH as u64 && !self.0.shutdown.is_stopping() {}
        while self.drop_events(now, BATCH).await? == BATCH as usize && !self.0.shutdown.is_stopping() {}
        Ok(swept)
    }

    /// Forgets up to [`BATCH`] each of leases, sessions and keys; how many of those of which there were most.
    async fn forget_expired(&self, now: Time) -> Result<u64> {
        let forgotten = now.0.saturating_sub(limits::IDEMPOTENCY_TIME.as_micros() as i64);
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let expired = db::leases::delete_expired(tx, now.0, BATCH).await?;
                    tell_expired(tx, now, &expired).await?;
                    let leases = expired.len() as u64;
                    let sessions = db::tokens::delete_expired_sessions(tx, now.0, BATCH).await?;
                    let keys = db::idempotency::forget_before(tx, forgotten, BATCH).await?;
                    Ok(leases.max(sessions).max(keys))
                })
            })
            .await
    }
}
