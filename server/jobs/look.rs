//! How a pull is looked at: as it stands, when it has ended, or as it happens.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;

use crate::error::{Conflict, Error, Result};
use crate::jobs::event::{JobEvent, PullEventBody};
use crate::jobs::record::Record;
use crate::jobs::trace::PullTrace;
use crate::jobs::view::Pull;
use crate::jobs::{Jobs, watch};
use crate::limits;
use crate::store::PullRow;
use crate::store::list::ListQuery;
use crate::store::lists::{Page, Wanted};

/// The events of a job.
pub enum Follow<B> {
    /// The job is finished, and the reader has seen its end.
    Finished,
    Stream(Events<B>),
}

/// Events until `end`, or until the server stops.
pub type Events<B> = Pin<Box<dyn Stream<Item = JobEvent<B>> + Send>>;

impl Jobs {
    /// One pull as it stands now.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn find(&self, namespace: &str, id: &str) -> Result<Pull> {
        Ok(self.show(self.0.store.find_pull(namespace, id).await?))
    }

    /// Pulls of the namespace, in the order and through the filter asked for.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list(&self, namespace: &str, query: &ListQuery, wanted: Wanted) -> Result<Page<Pull>> {
        self.0.store.list_pulls(namespace, query, wanted, |row| self.show(row)).await
    }

    /// A row as clients see it: with its current picture, if this server has it in hand. One that another version wrote, or
    /// that is damaged, is shown by its columns: it must not hide the others of a list, and somebody may want it gone.
    pub fn show(&self, row: PullRow) -> Pull {
        let now = self.now();
        match self.find_live(&row.id) {
            Some(live) => live.read(|record| record.show(now)),
            None => Record::to_show(row).show(now),
        }
    }

    /// The requests of a pull that was asked to remember them.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it was not asked to; `Unavailable`.
    pub async fn trace(&self, namespace: &str, id: &str) -> Result<PullTrace> {
        let row = self.0.store.find_pull(namespace, id).await?;
        let record = match self.find_live(&row.id) {
            Some(live) => live.read(Clone::clone),
            None => Record::to_show(row),
        };
        match record.request.trace {
            true => Ok(record.detail.trace.unwrap_or_default()),
            false => {
                let reason = "the pull keeps no trace: ask for one with `trace` when it is made".to_owned();
                Err(Error::Conflict(Conflict::State { reason }))
            }
        }
    }

    /// Waits until the pull is finished, at most for `longest` and not past the stop of the server.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn wait(&self, namespace: &str, id: &str, longest: Duration) -> Result<Pull> {
        let row = self.0.store.find_pull(namespace, id).await?;
        if let Some(live) = self.find_live(&row.id) {
            let longest = longest.min(limits::REQUEST_WAIT);
            let ended = tokio::time::timeout(longest, live.ended());
            // Either way the answer is how the pull stands then.
            let _ = self.0.shutdown.soft().run_until_cancelled(ended).await;
            return Ok(live.read(|record| record.show(self.now())));
        }
        // It may have ended between the two looks; its row says how.
        self.find(namespace, id).await
    }

    /// The events of a pull, from the one after `last_seen` on where that is possible.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn follow(
        &self,
        namespace: &str,
        id: &str,
        last_seen: Option<&str>,
    ) -> Result<Follow<PullEventBody>> {
        let row = self.0.store.find_pull(namespace, id).await?;
        if let Some(live) = self.find_live(&row.id) {
            let soft = self.0.shutdown.soft().clone();
            let events = watch::follow(live, last_seen, self.0.clock.clone(), soft);
            return Ok(events.map_or(Follow::Finished, |events| Follow::Stream(Box::pin(events))));
        }
        // The pull may have ended between the two looks; its row says how. If not, there is no end to tell: it is about
        // to begin, or the server stops.
        let record = Record::to_show(self.0.store.find_pull(namespace, id).await?);
        let events = watch::recount(&record, last_seen, self.now());
        Ok(events
            .map_or(Follow::Finished, |events| Follow::Stream(Box::pin(futures_util::stream::iter(events)))))
    }
}
