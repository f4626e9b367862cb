//! The end of an ingest that becomes a blob.

use super::arrival::{Arrival, Committed};
use super::content::check_digest;
use super::labels::{self, Labels};
use super::live::Turn;
use super::{Caller, Store};
use crate::db::ingests::IngestRow;
use crate::error::{Conflict, Error, Result};
use crate::oci::Digest;

#[derive(Debug, Clone, Default)]
pub struct CommitIngest {
    pub expected: Option<Digest>,
    pub total: Option<u64>,
    pub labels: Option<Labels>,
}

impl Store {
    /// Ends an ingest well: its bytes become content. Whatever the outcome, the ingest is given back.
    ///
    /// # Errors
    /// `Invalid` for a label; `NotFound`; `Conflict` (size or digest); `Busy`, `WriterLost`; `OutOfSpace`. The
    /// bytes stay.
    pub async fn commit_ingest(
        &self,
        caller: &Caller,
        id: &str,
        commit: CommitIngest,
        token: Option<&str>,
    ) -> Result<Committed> {
        let row = self.find_row(&caller.namespace, id).await?;
        let live = self.0.ingests.get(id);
        let turn = live.take_turn(id, token, self.now()).await?;
        let (store, caller) = (self.clone(), caller.clone());
        // To the end, and with the turn in hand: a client that hangs up leaves neither a half commit nor a lock.
        self.to_the_end("commit-ingest", async move {
            let id = row.id.clone();
            let committed = store.commit_now(&caller, row, &turn, commit).await;
            turn.live.release();
            let aborted = turn.live.has_ended();
            if committed.is_ok() {
                turn.live.confirm_end();
                store.0.ingests.remove(&id);
            }
            if committed.is_ok() || aborted {
                // What is left is an empty directory, or nothing; the next start would find it as well.
                let name = id.clone();
                let _ = store.on_disk(move |disk| disk.remove_ingest(&name)).await;
            }
            match aborted {
                // The abort took the bytes away under this commit, which may have failed by it.
                true => committed.map_err(|_| Error::not_found("ingest", id)),
                false => committed,
            }
        })
        .await
    }

    async fn commit_now(
        &self,
        caller: &Caller,
        row: IngestRow,
        turn: &Turn,
        commit: CommitIngest,
    ) -> Result<Committed> {
        let named = commit.labels.map(labels::new_labels).transpose()?;
        let row = self.reread(&row).await?;
        let labels = named.unwrap_or_else(|| labels::from_json(&row.labels));
        let live = &turn.live;
        drop(live.progress(self.load(&row)).await?);
        let announced = row.expected_digest.as_deref().map(str::parse::<Digest>).transpose()?;
        let expected = commit.expected.or(announced);
        let size = live.loaded().map_or(0, |progress| progress.bytes.offset());
        if let Some(total) = commit.total.or(row.total.map(i64::unsigned_abs))
            && total != size
        {
            return Err(Error::Conflict(Conflict::SizeMismatch { expected: total, actual: size }));
        }
        if let Some(expected) = &expected {
            self.hash_as(live, &row, expected.algorithm()).await?;
        }
        let (digest, lent) = {
            let progress = live.loaded().ok_or_else(|| Error::internal("commit an ingest unread"))?;
            (progress.bytes.digest(), progress.bytes.is_lent())
        };
        check_digest(expected.as_ref(), &digest)?;
        let mut caller = caller.clone();
        let named = caller.lease.take();
        caller.lease = named.or(self.unexpired(&row, self.now()).await?);
        self.check_lease(&caller).await?;
        let (staged, document) = match lent {
            true => (None, self.read_lent(&digest, size).await?),
            false => {
                self.fetch_back(&row.id, &digest, size).await?;
                match self.stage(&row.id, size).await {
                    Ok((staged, document)) => (Some(staged), document),
                    Err(error) => return Err(self.distrust(turn, &row, error).await),
                }
            }
        };
        let (id, name) = (row.id.clone(), digest.clone());
        let arrival = Arrival {
            digest,
            size,
            staged,
            media_type: row.media_type,
            labels,
            document,
            ingest: Some(row.id),
        };
        let accepted = self.accept(&caller, arrival).await;
        if accepted.is_err() && !lent {
            // A refused commit keeps the bytes, also one that was refused after they had their name. If the database
            // cannot say whether they are recorded, whoever needs them next asks again.
            let _ = self.fetch_back(&id, &name, size).await;
        }
        accepted
    }
}
