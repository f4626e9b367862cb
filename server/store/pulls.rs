//! Pulls as rows: what was asked for, and how it stands. The work itself is `jobs/`.

use super::{Expiry, Lease, Store};
use crate::clock::Time;
use crate::db;
pub use crate::db::pulls::PullRow;
use crate::error::{Conflict, Error, Result};
use crate::events::Topic;

impl Store {
    /// Records a new pull, with the credential that came with it, sealed. Whether an equal one is under way is for its caller to have asked.
    ///
    /// # Errors
    /// `Unavailable`; nothing is recorded then.
    pub async fn record_pull(&self, row: &PullRow, credential: Option<&str>) -> Result<()> {
        let (now, recorded) = (self.now(), row.clone());
        let sealed = credential.map(|credential| self.sealed_for_pull(&row.id, credential));
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    db::namespaces::touch(tx, &recorded.namespace, now.0).await?;
                    db::pulls::insert_pull(tx, &recorded).await?;
                    match sealed {
                        Some(sealed) => {
                            db::registries::upsert_pull_credential(tx, &recorded.id, &sealed).await
                        }
                        None => Ok(()),
                    }
                })
            })
            .await?;
        self.publish(&row.namespace, Topic::PullChanged, &row.id);
        Ok(())
    }

    /// A pull that is under way and was asked for in the words of `row`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn find_equal_pull(&self, row: &PullRow) -> Result<Option<PullRow>> {
        let mut conn = self.0.db.read().await?;
        db::pulls::find_equal(&mut conn, &row.namespace, &row.request).await
    }

    /// # Errors
    /// `NotFound`.
    pub async fn find_pull(&self, namespace: &str, id: &str) -> Result<PullRow> {
        let mut conn = self.0.db.read().await?;
        let row = db::pulls::find_pull(&mut conn, namespace, id).await?;
        row.ok_or_else(|| Error::not_found("pull", id))
    }

    /// Every pull that is not finished, in every namespace, oldest first: what a start goes on with.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_unfinished_pulls(&self) -> Result<Vec<PullRow>> {
        let mut conn = self.0.db.read().await?;
        db::pulls::list_unfinished(&mut conn).await
    }

    /// Writes how a pull stands if its state is still `seen`; whether it was.
    ///
    /// # Errors
    /// `Unavailable`; nothing is written then.
    pub async fn update_pull(&self, row: &PullRow, seen: &'static str) -> Result<bool> {
        let (written, row) = (row.clone(), row);
        let stood = self
            .0
            .db
            .write(move |tx| Box::pin(async move { db::pulls::update_pull(tx, &written, seen).await }))
            .await?;
        if stood && row.state != seen {
            self.publish(&row.namespace, Topic::PullChanged, &row.id);
        }
        Ok(stood)
    }

    /// Takes a finished pull up again if its state is still `seen`, with a new credential where there is one; whether
    /// it was.
    ///
    /// # Errors
    /// `Unavailable`; nothing is written then.
    pub async fn reopen_pull(
        &self,
        row: &PullRow,
        seen: &'static str,
        credential: Option<&str>,
    ) -> Result<bool> {
        let sealed = credential.map(|credential| self.sealed_for_pull(&row.id, credential));
        let (written, row) = (row.clone(), row);
        let stood = self
            .0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let stood = db::pulls::reopen_pull(tx, &written, seen).await?;
                    if let Some(sealed) = sealed.filter(|_| stood) {
                        db::registries::upsert_pull_credential(tx, &written.id, &sealed).await?;
                    }
                    Ok(stood)
                })
            })
            .await?;
        if stood {
            self.publish(&row.namespace, Topic::PullChanged, &row.id);
        }
        Ok(stood)
    }

    /// Marks a pull that is not finished as one to stop. Twice is as good as once.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it has succeeded or failed. One that is cancelled is answered as it is.
    pub async fn mark_pull_cancelled(&self, namespace: &str, id: &str) -> Result<PullRow> {
        let (owner, name) = (namespace.to_owned(), id.to_owned());
        let row = self
            .0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut row = db::pulls::lock_pull(tx, &owner, &name)
                        .await?
                        .ok_or_else(|| Error::not_found("pull", &name))?;
                    match row.state.as_str() {
                        "cancelling" | "cancelled" => return Ok(row),
                        "queued" | "running" => {}
                        other => {
                            let reason = format!("the pull has {other}: there is nothing to cancel");
                            return Err(Error::Conflict(Conflict::State { reason }));
                        }
                    }
                    let seen = std::mem::replace(&mut row.state, "cancelling".to_owned());
                    db::pulls::update_pull(tx, &row, &seen).await?;
                    Ok(row)
                })
            })
            .await?;
        self.publish(namespace, Topic::PullChanged, id);
        Ok(row)
    }

    /// Removes a finished pull from history.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) while it is not finished.
    pub async fn delete_pull(&self, namespace: &str, id: &str) -> Result<()> {
        let (owner, name) = (namespace.to_owned(), id.to_owned());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    if db::pulls::delete_finished(tx, &owner, &name).await? {
                        return Ok(());
                    }
                    match db::pulls::find_pull(tx, &owner, &name).await? {
                        None => Err(Error::not_found("pull", &name)),
                        Some(row) => {
                            let reason = format!("the pull is {}: cancel it first", row.state);
                            Err(Error::Conflict(Conflict::State { reason }))
                        }
                    }
                })
            })
            .await?;
        self.publish(namespace, Topic::PullChanged, id);
        Ok(())
    }

    /// Hands a lease that the server made over to the user, with all that it holds, in one step.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease, or it has expired.
    pub async fn hand_over_lease(&self, namespace: &str, id: &str, expiry: Expiry) -> Result<Lease> {
        let now = self.now();
        let expires_at = super::leases::end_of(expiry, now)?;
        let (store, owner, name) = (self.clone(), namespace.to_owned(), id.to_owned());
        let lease = self
            .0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut row = db::leases::lock_lease(tx, &owner, &name, now.0)
                        .await?
                        .ok_or_else(|| Error::not_found("lease", &name))?;
                    row.kind = "user".to_owned();
                    row.expires_at = expires_at.map(|time| time.0);
                    row.updated_at = store.after(Time(row.updated_at)).0;
                    db::leases::update_lease(tx, &row).await?;
                    Ok(super::leases::lease_of(row, now))
                })
            })
            .await?;
        self.publish(namespace, Topic::LeaseUpdated, id);
        Ok(lease)
    }
}
