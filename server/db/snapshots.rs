//! `snapshots`: what there is of file systems, and what each stands on.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SnapshotRow {
    pub namespace: String,
    pub key: String,
    pub id: String,
    pub kind: String,
    pub parent: Option<String>,
    pub diff_id: Option<String>,
    pub form: String,
    pub opaque: i64,
    pub size: i64,
    pub inodes: i64,
    pub labels: String,
    pub created_at: i64,
    pub updated_at: i64,
}

rows!(SnapshotRow: labels);

/// For `Db::list_rows`.
pub const SELECT_SNAPSHOTS: &str =
    "SELECT namespace, key, id, kind, parent, diff_id, form, opaque, size, inodes, labels,
    created_at, updated_at FROM snapshots";

pub async fn find_snapshot(conn: &mut Conn, namespace: &str, key: &str) -> Result<Option<SnapshotRow>> {
    const SQL: &str = "SELECT namespace, key, id, kind, parent, diff_id, form, opaque, size, inodes, labels,
        created_at, updated_at FROM snapshots WHERE namespace = $1 AND key = $2";
    fetch_optional!(SnapshotRow, conn, SQL, namespace, key)
}

/// A snapshot that this transaction is about to change, or to put another one on: it stays as it is for everybody else
/// until then.
pub async fn lock_snapshot(tx: &mut Tx, namespace: &str, key: &str) -> Result<Option<SnapshotRow>> {
    fetch_locked!(
        SnapshotRow,
        tx,
        "SELECT namespace, key, id, kind, parent, diff_id, form, opaque, size, inodes, labels,
        created_at, updated_at FROM snapshots WHERE namespace = $1 AND key = $2",
        "FOR UPDATE",
        namespace,
        key
    )
}

/// The snapshot and all that it stands on, the top one first.
pub async fn list_chain(conn: &mut Conn, namespace: &str, key: &str, limit: i64) -> Result<Vec<SnapshotRow>> {
    const SQL: &str = "WITH RECURSIVE chain (depth, key, parent) AS (
            SELECT CAST(0 AS BIGINT), key, parent FROM snapshots WHERE namespace = $1 AND key = $2
            UNION ALL
            SELECT depth + 1, s.key, s.parent FROM chain
                JOIN snapshots s ON s.namespace = $1 AND s.key = chain.parent WHERE depth < $3
        )
        SELECT s.namespace, s.key, s.id, s.kind, s.parent, s.diff_id, s.form, s.opaque, s.size, s.inodes, s.labels,
            s.created_at, s.updated_at
        FROM chain JOIN snapshots s ON s.namespace = $1 AND s.key = chain.key ORDER BY chain.depth";
    fetch_all!(SnapshotRow, conn, SQL, namespace, key, limit)
}

/// Whether the key was free.
pub async fn insert_snapshot(tx: &mut Tx, row: &SnapshotRow) -> Result<bool> {
    const SQL: &str = "INSERT INTO snapshots (namespace, key, id, kind, parent, diff_id, form, opaque, size,
        inodes, labels, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (namespace, key) DO NOTHING";
    let inserted = execute!(
        tx,
        SQL,
        &row.namespace,
        &row.key,
        &row.id,
        &row.kind,
        &row.parent,
        &row.diff_id,
        &row.form,
        row.opaque,
        row.size,
        row.inodes,
        &row.labels,
        row.created_at,
        row.updated_at
    )?;
    Ok(inserted == 1)
}

/// Changes the labels of a snapshot that this transaction has locked.
pub async fn update_labels(tx: &mut Tx, row: &SnapshotRow) -> Result<()> {
    const SQL: &str = "UPDATE snapshots SET labels = $3, updated_at = $4 WHERE namespace = $1 AND key = $2";
    execute!(tx, SQL, &row.namespace, &row.key, &row.labels, row.updated_at).map(drop)
}

pub async fn delete_snapshot(tx: &mut Tx, namespace: &str, key: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM snapshots WHERE namespace = $1 AND key = $2";
    execute!(tx, SQL, namespace, key).map(drop)
}

/// The keys of snapshots that stand on this one, the first of them.
pub async fn list_children(
    conn: &mut Conn,
    namespace: &str,
    key: &str,
    limit: i64,
) -> Result<Vec<(String,)>> {
    const SQL: &str = "SELECT key FROM snapshots WHERE namespace = $1 AND parent = $2 ORDER BY key LIMIT $3";
    fetch_all!((String,), conn, SQL, namespace, key, limit)
}

/// Directories that have a row, in order, after the given one: for the start.
pub async fn list_ids_after(
    conn: &mut Conn,
    after: &str,
    limit: i64,
) -> Result<Vec<(String, String, String)>> {
    const SQL: &str = "SELECT id, namespace, key FROM snapshots WHERE id > $1 ORDER BY id LIMIT $2";
    fetch_all!((String, String, String), conn, SQL, after, limit)
}
