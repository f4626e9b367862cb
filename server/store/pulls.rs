//! Pulls as rows: what was asked for, and how it stands. The work itself is `jobs/`.

use super::leases::changed_meanwhile;
use super::{Expiry, Lease, Store};
use crate::clock::Time;
use crate::db;
pub use crate::db::pulls::PullRow;
use crate::error::{Conflict, Error, Result, Unprocessable};
use crate::events::Topic;
use crate::limits;

/// How a client makes its POST repeatable, and what it asked for then.
#[derive(Debug, Clone)]
pub struct PullKey {
    pub key: String,
    /// Equal for equal requests only.
    pub fingerprint: String,
}

/// What became of a new pull.
#[derive(Debug, Clone)]
pub enum NewPull {
    Recorded(PullRow),
    /// An equal one is under way.
    Equal(PullRow),
    /// The key was used before with this request: the first answer again.
    Repeated(Recorded, PullRow),
}

/// The first answer to a request that is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    New,
    Equal,
}

impl Recorded {
    fn as_str(self) -> &'static str {
        match self {
            Recorded::New => "new",
            Recorded::Equal => "equal",
        }
    }
}

impl Store {
    /// Records a pull, unless an equal one is under way or the key stands for one already.
    ///
    /// # Errors
    /// `Unprocessable` when the key was used with another request; `Unavailable`.
    pub async fn record_pull(&self, row: PullRow, key: Option<PullKey>) -> Result<NewPull> {
        let (now, namespace) = (self.now(), row.namespace.clone());
        let recorded =
            self.0.db.write(move |tx| Box::pin(async move { record(tx, row, key, now).await })).await?;
        if let NewPull::Recorded(row) = &recorded {
            self.publish(&namespace, Topic::PullChanged, &row.id);
        }
        Ok(recorded)
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
                    let mut row = db::pulls::find_pull(tx, &owner, &name)
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
                    if !db::pulls::update_pull(tx, &row, &seen).await? {
                        return Err(changed_meanwhile("pull"));
                    }
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
                    let mut row = db::leases::find_lease(tx, &owner, &name, now.0)
                        .await?
                        .ok_or_else(|| Error::not_found("lease", &name))?;
                    let seen_at = row.updated_at;
                    row.kind = "user".to_owned();
                    row.expires_at = expires_at.map(|time| time.0);
                    row.updated_at = store.after(Time(seen_at)).0;
                    if !db::leases::update_lease(tx, &row, seen_at).await? {
                        return Err(changed_meanwhile("lease"));
                    }
                    Ok(super::leases::lease_of(row, now))
                })
            })
            .await?;
        self.publish(namespace, Topic::LeaseUpdated, id);
        Ok(lease)
    }
}

async fn record(tx: &mut db::Tx, row: PullRow, key: Option<PullKey>, now: Time) -> Result<NewPull> {
    let remembered = match &key {
        Some(key) => find_repeated(tx, &row.namespace, key, now).await?,
        None => None,
    };
    if let Some((answer, row)) = remembered {
        return Ok(NewPull::Repeated(answer, row));
    }
    db::namespaces::touch(tx, &row.namespace, now.0).await?;
    let (answer, row) = match db::pulls::find_equal(tx, &row.namespace, &row.request).await? {
        Some(equal) => (Recorded::Equal, equal),
        None => {
            db::pulls::insert_pull(tx, &row).await?;
            (Recorded::New, row)
        }
    };
    if let Some(PullKey { key, fingerprint }) = &key {
        let resource = format!("{} {}", answer.as_str(), row.id);
        db::idempotency::remember(tx, &row.namespace, key, fingerprint, &resource, now.0).await?;
    }
    Ok(match answer {
        Recorded::New => NewPull::Recorded(row),
        Recorded::Equal => NewPull::Equal(row),
    })
}

/// What the key stands for. A pull that was removed from history since is as if the key were new.
async fn find_repeated(
    tx: &mut db::Tx,
    namespace: &str,
    key: &PullKey,
    now: Time,
) -> Result<Option<(Recorded, PullRow)>> {
    let since = now.0.saturating_sub(limits::IDEMPOTENCY_TIME.as_micros() as i64);
    let known = db::idempotency::find_key(tx, namespace, &key.key, since).await?;
    let Some((fingerprint, resource)) = known else { return Ok(None) };
    if fingerprint != key.fingerprint {
        return Err(Error::Unprocessable(Unprocessable::IdempotencyKeyReused));
    }
    let Some((answer, id)) = resource.split_once(' ') else { return Ok(None) };
    let answer = if answer == Recorded::New.as_str() { Recorded::New } else { Recorded::Equal };
    Ok(db::pulls::find_pull(tx, namespace, id).await?.map(|row| (answer, row)))
}
