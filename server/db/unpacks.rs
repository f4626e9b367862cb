//! `unpacks`: unpacks of stored images as jobs, as they were asked for and as they stand.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UnpackRow {
    pub id: String,
    pub namespace: String,
    pub request: String,
    pub state: String,
    pub digest: Option<String>,
    pub lease: String,
    pub error: Option<String>,
    pub detail: String,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
}

rows!(UnpackRow: request, detail);

/// For `Db::list_rows`.
pub const SELECT_UNPACKS: &str = "SELECT id, namespace, request, state, digest, lease, error, detail,
    created_at, started_at, finished_at FROM unpacks";

pub async fn find_unpack(conn: &mut Conn, namespace: &str, id: &str) -> Result<Option<UnpackRow>> {
    const SQL: &str = "SELECT id, namespace, request, state, digest, lease, error, detail,
        created_at, started_at, finished_at FROM unpacks WHERE namespace = $1 AND id = $2";
    fetch_optional!(UnpackRow, conn, SQL, namespace, id)
}

/// Every unpack that is not finished, oldest first: for the start.
pub async fn list_unfinished(conn: &mut Conn) -> Result<Vec<UnpackRow>> {
    const SQL: &str = "SELECT id, namespace, request, state, digest, lease, error, detail,
        created_at, started_at, finished_at FROM unpacks WHERE finished_at IS NULL ORDER BY id";
    fetch_all!(UnpackRow, conn, SQL)
}

pub async fn insert_unpack(tx: &mut Tx, row: &UnpackRow) -> Result<()> {
    const SQL: &str = "INSERT INTO unpacks (id, namespace, request, state, digest, lease, error, detail,
        created_at, started_at, finished_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    execute!(
        tx,
        SQL,
        &row.id,
        &row.namespace,
        &row.request,
        &row.state,
        &row.digest,
        &row.lease,
        &row.error,
        &row.detail,
        row.created_at,
        row.started_at,
        row.finished_at
    )
    .map(drop)
}

/// Writes how an unpack stands, unless it is finished: that is history. Whether it was written.
pub async fn update_unpack(tx: &mut Tx, row: &UnpackRow) -> Result<bool> {
    const SQL: &str = "UPDATE unpacks SET state = $2, digest = $3, error = $4, detail = $5, started_at = $6,
        finished_at = $7 WHERE id = $1 AND finished_at IS NULL";
    let updated = execute!(
        tx,
        SQL,
        &row.id,
        &row.state,
        &row.digest,
        &row.error,
        &row.detail,
        row.started_at,
        row.finished_at
    )?;
    Ok(updated == 1)
}

/// Removes a finished unpack from history.
pub async fn delete_finished(tx: &mut Tx, namespace: &str, id: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM unpacks WHERE namespace = $1 AND id = $2 AND finished_at IS NOT NULL";
    Ok(execute!(tx, SQL, namespace, id)? == 1)
}
