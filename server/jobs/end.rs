//! How a pull ends: its lease, its credential, and its row before anybody hears of it.

use crate::error::{Error, Result, with_causes};
use crate::jobs::record::Record;
use crate::jobs::run::{Ended, Job};
use crate::jobs::view::{JobError, JobState};
use crate::store::PullRow;

/// Whether the end of a pull is in its row.
enum Stands {
    Written,
    Not,
}

impl Job {
    /// Ends the pull as its work ended. One that the server's stop interrupts stays unfinished.
    ///
    /// # Errors
    /// `NotFound` when its row is gone; any other when the server stops before the end is written.
    pub async fn conclude(&self, outcome: Result<(), Ended>) -> Result<()> {
        let cancelled = self.live.read(|record| record.state == JobState::Cancelling);
        let (state, error) = match outcome {
            Ok(()) => (JobState::Succeeded, None),
            Err(Ended::Stopped) if cancelled => (JobState::Cancelled, None),
            Err(Ended::Stopped) => return self.write_down().await,
            Err(Ended::Failed(error)) => (JobState::Failed, Some(error)),
        };
        let error = error.map(|error| {
            let why = with_causes(&error);
            tracing::warn!(pull.id = %self.id, "Pull of `{}` failed: {why}", self.request.reference);
            JobError::of(&error)
        });
        let lease_until = self.end_lease(state).await;
        let now = self.now();
        let end_id = self.live.reserve_end();
        let mut last = self.live.read(Clone::clone);
        (last.state, last.error) = (state, error);
        last.row.finished_at = Some(now.0);
        (last.detail.lease_until, last.detail.end_id) = (lease_until, Some(end_id));
        let how = match state {
            JobState::Cancelled => "was cancelled",
            JobState::Failed => "failed",
            JobState::Succeeded | JobState::Queued | JobState::Running | JobState::Cancelling => "ended",
        };
        if let Some(picture) = &mut last.picture {
            picture.settle(how);
        }
        if state == JobState::Succeeded {
            // Whoever hears of the success may read the directory as a layout.
            self.jobs.0.store.wait_for_index().await;
        }
        // The row first: nobody hears of an end that a restart could take back.
        self.write_end(&mut last).await?;
        // Not before: a start that finds the pull unfinished needs it.
        if state != JobState::Failed {
            self.forget_credential().await;
        }
        let size_bytes = last.progress(now).bytes_done;
        self.live.change(|record| *record = last);
        self.live.end(now);
        self.jobs.0.settings.metrics.pull_finished(state.as_str());
        if state == JobState::Succeeded {
            tracing::info!(pull.id = %self.id, size_bytes, "Pulled image `{}`", self.request.reference);
        }
        Ok(())
    }

    /// What lets us in is kept for a retry, and no longer.
    async fn forget_credential(&self) {
        if self.request.auth.is_some()
            && let Err(error) = self.jobs.0.store.forget_pull_credential(&self.id).await
        {
            // It goes with the pull's row.
            tracing::warn!(pull.id = %self.id, "Could not forget a credential: {}", with_causes(&error));
        }
    }

    /// Writes the final state, whatever is written meanwhile. A database that is away is waited for until the server
    /// stops: nobody else would ever end the pull.
    async fn write_end(&self, last: &mut Record) -> Result<()> {
        let row = last.to_row(self.now());
        let mut failures = 0;
        loop {
            let error = match self.write_end_once(&row, last).await {
                Ok(Stands::Written) => return Ok(()),
                Ok(Stands::Not) => Error::internal("write down the end of a pull"),
                Err(error) => error,
            };
            if matches!(error, Error::NotFound { .. }) || self.jobs.0.shutdown.is_stopping() {
                return Err(error);
            }
            tracing::warn!(pull.id = %self.id, "The end of a pull waits: {}", with_causes(&error));
            failures += 1;
            let wait = tokio::time::sleep(self.jobs.wait_after_failures(failures));
            let _ = self.jobs.0.shutdown.soft().run_until_cancelled(wait).await;
        }
    }

    async fn write_end_once(&self, row: &PullRow, last: &mut Record) -> Result<Stands> {
        let store = &self.jobs.0.store;
        if store.update_pull(row, last.stored.as_str()).await? {
            return Ok(Stands::Written);
        }
        let found = store.find_pull(&row.namespace, &row.id).await?;
        let state = JobState::of_row(&found.state);
        if state.is_final() || found.attempt > row.attempt {
            // The answer to an earlier try was lost, not the try.
            return Ok(Stands::Written);
        }
        // Somebody cancelled it at its very end: it ends as it did.
        last.stored = state;
        let written = store.update_pull(row, last.stored.as_str()).await?;
        Ok(if written { Stands::Written } else { Stands::Not })
    }
}
