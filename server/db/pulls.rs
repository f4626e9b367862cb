//! `pulls`: jobs, as they were asked for and as they stand.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PullRow {
    pub id: String,
    pub namespace: String,
    #[sqlx(rename = "ref")]
    pub reference: String,
    pub request: String,
    pub state: String,
    pub phase: String,
    pub attempt: i64,
    pub image_name: String,
    pub digest: Option<String>,
    pub lease: String,
    pub labels: String,
    pub error: Option<String>,
    pub detail: String,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
}

rows!(PullRow: request, labels, detail);

/// For `Db::list_rows`.
pub const SELECT_PULLS: &str =
    "SELECT id, namespace, ref, request, state, phase, attempt, image_name, digest,
    lease, labels, error, detail, created_at, started_at, finished_at FROM pulls";

pub async fn find_pull(conn: &mut Conn, namespace: &str, id: &str) -> Result<Option<PullRow>> {
    const SQL: &str = "SELECT id, namespace, ref, request, state, phase, attempt, image_name, digest,
        lease, labels, error, detail, created_at, started_at, finished_at
        FROM pulls WHERE namespace = $1 AND id = $2";
    fetch_optional!(PullRow, conn, SQL, namespace, id)
}

/// A pull that this transaction is about to change: it stays as it is for everybody else until then.
pub async fn lock_pull(tx: &mut Tx, namespace: &str, id: &str) -> Result<Option<PullRow>> {
    fetch_locked!(
        PullRow,
        tx,
        "SELECT id, namespace, ref, request, state, phase, attempt, image_name, digest,
        lease, labels, error, detail, created_at, started_at, finished_at
        FROM pulls WHERE namespace = $1 AND id = $2",
        "FOR UPDATE",
        namespace,
        id
    )
}

/// An unfinished pull of this namespace that was asked for in the very same words.
pub async fn find_equal(conn: &mut Conn, namespace: &str, request: &str) -> Result<Option<PullRow>> {
    const SQL: &str = "SELECT id, namespace, ref, request, state, phase, attempt, image_name, digest,
        lease, labels, error, detail, created_at, started_at, finished_at
        FROM pulls WHERE namespace = $1 AND request = $2 AND finished_at IS NULL
        AND state <> 'cancelling' ORDER BY id LIMIT 1";
    fetch_optional!(PullRow, conn, SQL, namespace, request)
}

/// Every pull that is not finished, oldest first: for the start.
pub async fn list_unfinished(conn: &mut Conn) -> Result<Vec<PullRow>> {
    const SQL: &str = "SELECT id, namespace, ref, request, state, phase, attempt, image_name, digest,
        lease, labels, error, detail, created_at, started_at, finished_at
        FROM pulls WHERE finished_at IS NULL ORDER BY id";
    fetch_all!(PullRow, conn, SQL)
}

/// Whether the id was free; a transaction that may yet take it is waited for.
pub async fn insert_pull(tx: &mut Tx, row: &PullRow) -> Result<bool> {
    const SQL: &str = "INSERT INTO pulls (id, namespace, ref, request, state, phase, attempt, image_name,
        digest, lease, labels, error, detail, created_at, started_at, finished_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        ON CONFLICT (id) DO NOTHING";
    let inserted = execute!(
        tx,
        SQL,
        &row.id,
        &row.namespace,
        &row.reference,
        &row.request,
        &row.state,
        &row.phase,
        row.attempt,
        &row.image_name,
        &row.digest,
        &row.lease,
        &row.labels,
        &row.error,
        &row.detail,
        row.created_at,
        row.started_at,
        row.finished_at
    )?;
    Ok(inserted == 1)
}

/// Writes how the pull stands, if its state is still `seen` and no later attempt has begun: states move by
/// compare-and-set, and a finished pull is history. Whether it was written.
pub async fn update_pull(tx: &mut Tx, row: &PullRow, seen: &str) -> Result<bool> {
    const SQL: &str = "UPDATE pulls SET state = $2, phase = $3, attempt = $4, digest = $5, error = $6,
        detail = $7, started_at = $8, finished_at = $9
        WHERE id = $1 AND state = $10 AND attempt <= $4 AND finished_at IS NULL";
    let updated = execute!(
        tx,
        SQL,
        &row.id,
        &row.state,
        &row.phase,
        row.attempt,
        &row.digest,
        &row.error,
        &row.detail,
        row.started_at,
        row.finished_at,
        seen
    )?;
    Ok(updated == 1)
}

/// Takes a finished pull up again, if its state is still `seen` and there was no attempt since; whether it was.
pub async fn reopen_pull(tx: &mut Tx, row: &PullRow, seen: &str) -> Result<bool> {
    const SQL: &str = "UPDATE pulls SET state = $2, detail = $3, request = $4, error = NULL,
        finished_at = NULL WHERE id = $1 AND state = $5 AND attempt = $6 AND finished_at IS NOT NULL";
    Ok(execute!(tx, SQL, &row.id, &row.state, &row.detail, &row.request, seen, row.attempt)? == 1)
}

/// Removes a finished pull from history.
pub async fn delete_finished(tx: &mut Tx, namespace: &str, id: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM pulls WHERE namespace = $1 AND id = $2 AND finished_at IS NOT NULL";
    Ok(execute!(tx, SQL, namespace, id)? == 1)
}
