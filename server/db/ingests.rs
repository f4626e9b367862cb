//! `ingests`: writes that are not committed, with what of them is certain to be on disk.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct IngestRow {
    pub id: String,
    pub namespace: String,
    #[sqlx(rename = "ref")]
    pub reference: String,
    pub total: Option<i64>,
    pub expected_digest: Option<String>,
    pub media_type: Option<String>,
    pub labels: String,
    pub lease: Option<String>,
    pub shared: i64,
    pub durable_offset: i64,
    pub hash_algorithm: String,
    pub hash_state: Option<Vec<u8>>,
    pub boot: String,
    pub started_at: i64,
    pub updated_at: i64,
    pub expires_at: i64,
}

rows!(IngestRow: labels);

/// For `Db::list_rows`.
pub const SELECT_INGESTS: &str = "SELECT id, namespace, ref, total, expected_digest, media_type, labels, lease,
    shared, durable_offset, hash_algorithm, hash_state, boot, started_at, updated_at, expires_at FROM ingests";

pub async fn find_ingest(conn: &mut Conn, namespace: &str, id: &str) -> Result<Option<IngestRow>> {
    const SQL: &str = "SELECT id, namespace, ref, total, expected_digest, media_type, labels, lease,
        shared, durable_offset, hash_algorithm, hash_state, boot, started_at, updated_at, expires_at
        FROM ingests WHERE namespace = $1 AND id = $2";
    fetch_optional!(IngestRow, conn, SQL, namespace, id)
}

pub async fn find_by_ref(conn: &mut Conn, namespace: &str, reference: &str) -> Result<Option<IngestRow>> {
    const SQL: &str = "SELECT id, namespace, ref, total, expected_digest, media_type, labels, lease,
        shared, durable_offset, hash_algorithm, hash_state, boot, started_at, updated_at, expires_at
        FROM ingests WHERE namespace = $1 AND ref = $2";
    fetch_optional!(IngestRow, conn, SQL, namespace, reference)
}

/// Every ingest of every namespace after `id`: for the walk at start.
pub async fn list_all_after(conn: &mut Conn, id: &str, limit: i64) -> Result<Vec<IngestRow>> {
    const SQL: &str = "SELECT id, namespace, ref, total, expected_digest, media_type, labels, lease,
        shared, durable_offset, hash_algorithm, hash_state, boot, started_at, updated_at, expires_at
        FROM ingests WHERE id > $1 ORDER BY id LIMIT $2";
    fetch_all!(IngestRow, conn, SQL, id, limit)
}

/// Whether the ref was free.
pub async fn insert_ingest(tx: &mut Tx, row: &IngestRow) -> Result<bool> {
    const SQL: &str = "INSERT INTO ingests (id, namespace, ref, total, expected_digest, media_type, labels,
        lease, shared, durable_offset, hash_algorithm, hash_state, boot, started_at, updated_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        ON CONFLICT (namespace, ref) DO NOTHING";
    let inserted = execute!(
        tx,
        SQL,
        &row.id,
        &row.namespace,
        &row.reference,
        row.total,
        &row.expected_digest,
        &row.media_type,
        &row.labels,
        &row.lease,
        row.shared,
        row.durable_offset,
        &row.hash_algorithm,
        &row.hash_state,
        &row.boot,
        row.started_at,
        row.updated_at,
        row.expires_at
    )?;
    Ok(inserted == 1)
}

/// What a new opening announced, what is lent for it, and the time it now has.
pub async fn announce(tx: &mut Tx, row: &IngestRow) -> Result<bool> {
    const SQL: &str = "UPDATE ingests SET total = $2, expected_digest = $3, media_type = $4, labels = $5,
        lease = $6, expires_at = $7, hash_algorithm = $8, shared = $9, durable_offset = $10 WHERE id = $1";
    let updated = execute!(
        tx,
        SQL,
        &row.id,
        row.total,
        &row.expected_digest,
        &row.media_type,
        &row.labels,
        &row.lease,
        row.expires_at,
        &row.hash_algorithm,
        row.shared,
        row.durable_offset
    )?;
    Ok(updated == 1)
}

/// A checkpoint: what is on disk for certain, and the running hash of it. Whether the ingest still stands.
pub async fn checkpoint(tx: &mut Tx, row: &IngestRow) -> Result<bool> {
    const SQL: &str =
        "UPDATE ingests SET durable_offset = $2, hash_algorithm = $3, hash_state = $4, boot = $5,
        updated_at = $6, expires_at = $7, shared = $8, total = $9 WHERE id = $1";
    let updated = execute!(
        tx,
        SQL,
        &row.id,
        row.durable_offset,
        &row.hash_algorithm,
        &row.hash_state,
        &row.boot,
        row.updated_at,
        row.expires_at,
        row.shared,
        row.total
    )?;
    Ok(updated == 1)
}

/// After a failed sync: as if another boot had come between, so that no load trusts a byte past the durable offset.
pub async fn distrust(tx: &mut Tx, id: &str) -> Result<()> {
    const SQL: &str = "UPDATE ingests SET boot = '' WHERE id = $1";
    execute!(tx, SQL, id).map(drop)
}

/// Deletes an ingest; the ref that it had, if it was there.
pub async fn delete_ingest(tx: &mut Tx, id: &str) -> Result<Option<String>> {
    const SQL: &str = "DELETE FROM ingests WHERE id = $1 RETURNING ref";
    Ok(fetch_optional!((String,), tx, SQL, id)?.map(|(reference,)| reference))
}

/// Id and namespace of ingests whose time has come, at most `limit`.
pub async fn list_expired(conn: &mut Conn, now: i64, limit: i64) -> Result<Vec<(String, String)>> {
    const SQL: &str = "SELECT id, namespace FROM ingests WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2";
    fetch_all!((String, String), conn, SQL, now, limit)
}

pub async fn count_ingests(conn: &mut Conn, namespace: &str) -> Result<i64> {
    const SQL: &str = "SELECT COUNT(*) FROM ingests WHERE namespace = $1";
    fetch_one!((i64,), conn, SQL, namespace).map(|(count,)| count)
}
