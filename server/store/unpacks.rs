//! Unpacks as rows: what was asked for, and how it stands. The work itself is `jobs/`.

use super::Store;
use super::namespaces::touch;
use super::tell::{News, tell};
use crate::db;
pub use crate::db::unpacks::UnpackRow;
use crate::error::{Conflict, Error, Result};
use crate::events::Topic;

/// What has happened to an unpack whose row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackTurn {
    Started,
    Finished,
    /// Nothing that is told.
    Moved,
}

impl Store {
    /// Records a new unpack.
    ///
    /// # Errors
    /// `Unavailable`: on Postgres it may be recorded all the same.
    pub async fn record_unpack(&self, row: &UnpackRow) -> Result<()> {
        let (now, recorded) = (self.now(), row.clone());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    touch(tx, &recorded.namespace, now).await?;
                    db::unpacks::insert_unpack(tx, &recorded).await?;
                    tell(tx, now, News::of_unpack(Topic::UnpackCreate, &recorded)).await
                })
            })
            .await
    }

    /// # Errors
    /// `NotFound`.
    pub async fn find_unpack(&self, namespace: &str, id: &str) -> Result<UnpackRow> {
        let mut conn = self.0.db.read().await?;
        let row = db::unpacks::find_unpack(&mut conn, namespace, id).await?;
        row.ok_or_else(|| Error::not_found("unpack", id))
    }

    /// Every unpack that is not finished, in every namespace, oldest first: what a start goes on with.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_unfinished_unpacks(&self) -> Result<Vec<UnpackRow>> {
        let mut conn = self.0.db.read().await?;
        db::unpacks::list_unfinished(&mut conn).await
    }

    /// Writes how an unpack stands; `false` when there is none, or it is finished. Who has it in hand writes one row after
    /// the other.
    ///
    /// # Errors
    /// `Unavailable`: on Postgres it may be written all the same.
    pub async fn update_unpack(&self, row: &UnpackRow, turn: UnpackTurn) -> Result<bool> {
        let (row, now) = (row.clone(), self.now());
        let topic = match turn {
            UnpackTurn::Started => Some(Topic::UnpackStart),
            UnpackTurn::Finished => Some(Topic::UnpackFinish),
            UnpackTurn::Moved => None,
        };
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let stood = db::unpacks::update_unpack(tx, &row).await?;
                    if let Some(topic) = topic.filter(|_| stood) {
                        tell(tx, now, News::of_unpack(topic, &row)).await?;
                    }
                    Ok(stood)
                })
            })
            .await
    }

    /// Removes a finished unpack from history.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) while it is not finished.
    pub async fn delete_unpack(&self, namespace: &str, id: &str) -> Result<()> {
        let (owner, name, now) = (namespace.to_owned(), id.to_owned(), self.now());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let row = db::unpacks::find_unpack(tx, &owner, &name).await?;
                    let row = row.ok_or_else(|| Error::not_found("unpack", &name))?;
                    if !db::unpacks::delete_finished(tx, &owner, &name).await? {
                        let reason = format!("the unpack is {}: cancel it first", row.state);
                        return Err(Error::Conflict(Conflict::State { reason }));
                    }
                    tell(tx, now, News::of_unpack(Topic::UnpackDelete, &row)).await
                })
            })
            .await
    }
}
