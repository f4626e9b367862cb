//! Pulls as rows: what was asked for, and how it stands. The work itself is `jobs/`.

use super::namespaces::touch;
use super::tell::{News, tell};
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
    /// `Unavailable`: on Postgres it may be recorded all the same, and [`Store::find_pull_for_certain`] knows.
    pub async fn record_pull(&self, row: &PullRow, credential: Option<&str>) -> Result<()> {
        let (now, recorded) = (self.now(), row.clone());
        let sealed = credential.map(|credential| self.sealed_for_pull(&row.id, credential));
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    touch(tx, &recorded.namespace, now).await?;
                    if !db::pulls::insert_pull(tx, &recorded).await? {
                        return Err(Error::already_exists("pull", &recorded.id));
                    }
                    if let Some(sealed) = sealed {
                        db::registries::upsert_pull_credential(tx, &recorded.id, &sealed).await?;
                    }
                    tell(tx, now, News::of_pull(Topic::PullCreate, &recorded)).await
                })
            })
            .await
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

    /// A pull, also when the transaction that records it, or takes it up again, has been heard of no more and may still
    /// come to its end.
    ///
    /// # Errors
    /// `NotFound` when it is not recorded, and never will be; `Unavailable` when the database cannot say.
    pub async fn find_pull_for_certain(&self, row: &PullRow) -> Result<PullRow> {
        let row = row.clone();
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    // Another insert of the id is waited for, and then another change, which a plain read does not do.
                    // Our insert is undone with the error.
                    if db::pulls::insert_pull(tx, &row).await? {
                        return Err(Error::not_found("pull", &row.id));
                    }
                    let found = db::pulls::lock_pull(tx, &row.namespace, &row.id).await?;
                    found.ok_or_else(|| Error::not_found("pull", &row.id))
                })
            })
            .await
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
    /// `Unavailable`: on Postgres it may be written all the same.
    pub async fn update_pull(&self, row: &PullRow, seen: &'static str) -> Result<bool> {
        let (row, now) = (row.clone(), self.now());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let stood = db::pulls::update_pull(tx, &row, seen).await?;
                    if stood && row.state != seen {
                        tell(tx, now, News::of_pull(topic_of(&row), &row)).await?;
                    }
                    Ok(stood)
                })
            })
            .await
    }

    /// Takes a finished pull up again if it stands as it was `seen`, with a new credential where there is one; whether
    /// it did.
    ///
    /// # Errors
    /// `Unavailable`: on Postgres it may be taken up all the same, and [`Store::find_pull_for_certain`] knows.
    pub async fn reopen_pull(
        &self,
        row: &PullRow,
        seen: &'static str,
        credential: Option<&str>,
    ) -> Result<bool> {
        let sealed = credential.map(|credential| self.sealed_for_pull(&row.id, credential));
        let (row, now) = (row.clone(), self.now());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let stood = db::pulls::reopen_pull(tx, &row, seen).await?;
                    if !stood {
                        return Ok(false);
                    }
                    if let Some(sealed) = sealed {
                        db::registries::upsert_pull_credential(tx, &row.id, &sealed).await?;
                    }
                    tell(tx, now, News::of_pull(topic_of(&row), &row)).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// Marks a pull that is not finished as one to stop. Twice is as good as once.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) when it has succeeded or failed. One that is cancelled is answered as it is.
    pub async fn mark_pull_cancelled(&self, namespace: &str, id: &str) -> Result<PullRow> {
        let (owner, name, now) = (namespace.to_owned(), id.to_owned(), self.now());
        self.0
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
                    tell(tx, now, News::of_pull(topic_of(&row), &row)).await?;
                    Ok(row)
                })
            })
            .await
    }

    /// Removes a finished pull from history.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) while it is not finished.
    pub async fn delete_pull(&self, namespace: &str, id: &str) -> Result<()> {
        let (owner, name, now) = (namespace.to_owned(), id.to_owned(), self.now());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let row = db::pulls::lock_pull(tx, &owner, &name)
                        .await?
                        .ok_or_else(|| Error::not_found("pull", &name))?;
                    if !db::pulls::delete_finished(tx, &owner, &name).await? {
                        let reason = format!("the pull is {}: cancel it first", row.state);
                        return Err(Error::Conflict(Conflict::State { reason }));
                    }
                    tell(tx, now, News::of_pull(Topic::PullDelete, &row)).await
                })
            })
            .await
    }

    /// Hands a lease that the server made over to the user, with all that it holds, in one step.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease, or it has expired.
    pub async fn hand_over_lease(&self, namespace: &str, id: &str, expiry: Expiry) -> Result<Lease> {
        let now = self.now();
        let expires_at = super::leases::end_of(expiry, now)?;
        let (store, owner, name) = (self.clone(), namespace.to_owned(), id.to_owned());
        self.0
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
                    tell(tx, now, News::of_lease(Topic::LeaseUpdate, &row)).await?;
                    Ok(super::leases::lease_of(row, now))
                })
            })
            .await
    }
}

/// What is told of a pull that has come into the state of its row.
fn topic_of(row: &PullRow) -> Topic {
    match row.state.as_str() {
        "running" => Topic::PullStart,
        _ if row.finished_at.is_some() => Topic::PullFinish,
        _ => Topic::PullUpdate,
    }
}
