//! `blobs`, `content` and `edges`: the bytes once, each namespace's record of them, and what refers to what.

use super::{Conn, Tx};
use crate::error::Result;

/// A namespace's record of a blob.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ContentRow {
    pub namespace: String,
    pub digest: String,
    pub size: i64,
    pub media_type: Option<String>,
    pub labels: String,
    pub created_at: i64,
    pub updated_at: i64,
}

rows!(ContentRow: labels);

/// What refers to a blob: `parent` is a digest of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeRow {
    pub parent: String,
    pub child_type: String,
    pub child: String,
    pub label: String,
}

/// For `Db::list_rows`.
pub const SELECT_CONTENT: &str =
    "SELECT namespace, digest, size, media_type, labels, created_at, updated_at FROM content";

pub async fn find_record(conn: &mut Conn, namespace: &str, digest: &str) -> Result<Option<ContentRow>> {
    const SQL: &str = "SELECT namespace, digest, size, media_type, labels, created_at, updated_at
        FROM content WHERE namespace = $1 AND digest = $2";
    fetch_optional!(ContentRow, conn, SQL, namespace, digest)
}

/// A record that this transaction is about to change: it stays as it is for everybody else until then.
pub async fn lock_record(tx: &mut Tx, namespace: &str, digest: &str) -> Result<Option<ContentRow>> {
    fetch_locked!(
        ContentRow,
        tx,
        "SELECT namespace, digest, size, media_type, labels, created_at, updated_at
        FROM content WHERE namespace = $1 AND digest = $2",
        "FOR UPDATE",
        namespace,
        digest
    )
}

/// Whether `digest` is recorded in the namespace, and the state and size of its bytes.
pub async fn find_state(conn: &mut Conn, namespace: &str, digest: &str) -> Result<Option<(i64, String)>> {
    const SQL: &str = "SELECT b.size, b.state FROM content c JOIN blobs b ON b.digest = c.digest
        WHERE c.namespace = $1 AND c.digest = $2";
    fetch_optional!((i64, String), conn, SQL, namespace, digest)
}

/// The namespaces other than `namespace` that record the digest, if its bytes are here, each with their size.
pub async fn find_elsewhere(conn: &mut Conn, namespace: &str, digest: &str) -> Result<Vec<(String, i64)>> {
    const SQL: &str = "SELECT c.namespace, b.size FROM content c JOIN blobs b ON b.digest = c.digest
        WHERE c.digest = $2 AND c.namespace <> $1 AND b.state = 'stored' ORDER BY c.namespace";
    fetch_all!((String, i64), conn, SQL, namespace, digest)
}

pub async fn find_blob(conn: &mut Conn, digest: &str) -> Result<Option<(i64, String)>> {
    const SQL: &str = "SELECT size, state FROM blobs WHERE digest = $1";
    fetch_optional!((i64, String), conn, SQL, digest)
}

/// Records that the bytes are on disk; a row that said otherwise is healed.
pub async fn store_blob(tx: &mut Tx, digest: &str, size: i64, now: i64) -> Result<()> {
    const SQL: &str = "INSERT INTO blobs (digest, size, state, created_at) VALUES ($1, $2, 'stored', $3)
        ON CONFLICT (digest) DO UPDATE SET state = 'stored', size = excluded.size";
    execute!(tx, SQL, digest, size, now).map(drop)
}

/// Whether there is a row for the bytes, or comes one from a transaction that is not over: its end is waited for, which
/// a plain read does not do.
pub async fn await_record(tx: &mut Tx, digest: &str) -> Result<bool> {
    const CLAIM: &str = "INSERT INTO blobs (digest, size, state, created_at) VALUES ($1, 0, 'deleting', 0)
        ON CONFLICT (digest) DO NOTHING";
    if execute!(tx, CLAIM, digest)? == 0 {
        return Ok(true);
    }
    drop_blob(tx, digest).await.map(|()| false)
}

/// Whether the record is new; a record that stands is left alone.
pub async fn insert_record(tx: &mut Tx, row: &ContentRow) -> Result<bool> {
    const SQL: &str =
        "INSERT INTO content (namespace, digest, size, media_type, labels, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (namespace, digest) DO NOTHING";
    let inserted = execute!(
        tx,
        SQL,
        &row.namespace,
        &row.digest,
        row.size,
        &row.media_type,
        &row.labels,
        row.created_at
    )?;
    Ok(inserted == 1)
}

/// Changes a record that this transaction has locked.
pub async fn update_record(tx: &mut Tx, row: &ContentRow) -> Result<()> {
    const SQL: &str = "UPDATE content SET media_type = $3, labels = $4, updated_at = $5
        WHERE namespace = $1 AND digest = $2";
    execute!(tx, SQL, &row.namespace, &row.digest, &row.media_type, &row.labels, row.updated_at).map(drop)
}

pub async fn delete_record(tx: &mut Tx, namespace: &str, digest: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM content WHERE namespace = $1 AND digest = $2";
    Ok(execute!(tx, SQL, namespace, digest)? == 1)
}

/// Marks bytes that no namespace records any more, so that their file may go. Whether there is such a row.
pub async fn mark_deleting(tx: &mut Tx, digest: &str) -> Result<bool> {
    const SQL: &str = "UPDATE blobs SET state = 'deleting' WHERE digest = $1
        AND NOT EXISTS (SELECT 1 FROM content WHERE content.digest = blobs.digest)";
    Ok(execute!(tx, SQL, digest)? == 1)
}

/// Forgets bytes whose file is gone.
pub async fn drop_blob(tx: &mut Tx, digest: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM blobs WHERE digest = $1 AND state = 'deleting'";
    execute!(tx, SQL, digest).map(drop)
}

pub async fn set_blob_state(tx: &mut Tx, digest: &str, state: &str) -> Result<()> {
    const SQL: &str = "UPDATE blobs SET state = $2 WHERE digest = $1";
    execute!(tx, SQL, digest, state).map(drop)
}

/// Digest, size and state of up to `limit` blobs after `digest`, in order: for the walk at start.
pub async fn list_blobs_after(
    conn: &mut Conn,
    digest: &str,
    limit: i64,
) -> Result<Vec<(String, i64, String)>> {
    const SQL: &str = "SELECT digest, size, state FROM blobs WHERE digest > $1 ORDER BY digest LIMIT $2";
    fetch_all!((String, i64, String), conn, SQL, digest, limit)
}

/// How much there is of everything, over all namespaces.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Totals {
    pub blobs: i64,
    pub damaged_blobs: i64,
    pub stored_bytes: i64,
    pub records: i64,
    pub logical_bytes: i64,
    pub images: i64,
    pub ingests: i64,
    pub ingest_bytes: i64,
    pub leases: i64,
    pub namespaces: i64,
}

pub async fn count_everything(conn: &mut Conn, now: i64) -> Result<Totals> {
    const SQL: &str = "SELECT
        (SELECT COUNT(*) FROM blobs WHERE state = 'stored') AS blobs,
        (SELECT COUNT(*) FROM blobs WHERE state IN ('missing', 'corrupt')) AS damaged_blobs,
        (SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM blobs WHERE state = 'stored') AS stored_bytes,
        (SELECT COUNT(*) FROM content) AS records,
        (SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM content) AS logical_bytes,
        (SELECT COUNT(*) FROM images) AS images,
        (SELECT COUNT(*) FROM ingests) AS ingests,
        (SELECT CAST(COALESCE(SUM(durable_offset), 0) AS BIGINT) FROM ingests WHERE shared = 0)
            AS ingest_bytes,
        (SELECT COUNT(*) FROM leases WHERE expires_at IS NULL OR expires_at > $1) AS leases,
        (SELECT COUNT(*) FROM namespaces) AS namespaces";
    fetch_one!(Totals, conn, SQL, now)
}

pub async fn insert_edge(tx: &mut Tx, namespace: &str, edge: &EdgeRow) -> Result<()> {
    const SQL: &str = "INSERT INTO edges (namespace, parent, child_type, child, label)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    execute!(tx, SQL, namespace, &edge.parent, &edge.child_type, &edge.child, &edge.label).map(drop)
}

pub async fn delete_edges(tx: &mut Tx, namespace: &str, parent: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM edges WHERE namespace = $1 AND parent = $2";
    execute!(tx, SQL, namespace, parent).map(drop)
}

/// Forgets the edges that the labels of `parent` made; those of its bytes stay.
pub async fn delete_label_edges(tx: &mut Tx, namespace: &str, parent: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM edges WHERE namespace = $1 AND parent = $2
        AND label LIKE 'containerd.io/gc.%'";
    execute!(tx, SQL, namespace, parent).map(drop)
}

/// The recorded blobs that refer to `digest`, each once and with one of the ways in which it does, at most `limit` of them.
pub async fn list_parents(
    conn: &mut Conn,
    namespace: &str,
    digest: &str,
    limit: i64,
) -> Result<Vec<(String, String)>> {
    const SQL: &str = "SELECT e.parent, MIN(e.label) FROM edges e
        JOIN content c ON c.namespace = e.namespace AND c.digest = e.parent
        WHERE e.namespace = $1 AND e.child_type = 'content' AND e.child = $2
        GROUP BY e.parent ORDER BY e.parent LIMIT $3";
    fetch_all!((String, String), conn, SQL, namespace, digest, limit)
}

/// Those of `digests` (a JSON list) that the namespace records and whose bytes are here.
pub async fn list_stored(conn: &mut Conn, namespace: &str, digests: &str) -> Result<Vec<(String,)>> {
    fetch_among!(
        (String,),
        conn,
        "SELECT c.digest FROM content c JOIN blobs b ON b.digest = c.digest
        WHERE b.state = 'stored' AND c.namespace = $1 AND c.digest IN",
        "",
        namespace,
        digests
    )
}

/// Digest and labels of those of `digests` (a JSON list) that the namespace records.
pub async fn list_labels(conn: &mut Conn, namespace: &str, digests: &str) -> Result<Vec<(String, String)>> {
    fetch_among!(
        (String, String),
        conn,
        "SELECT digest, labels FROM content WHERE namespace = $1 AND digest IN",
        "",
        namespace,
        digests
    )
}

/// What refers to one of `digests` (a JSON list): pairs of child and parent, each once, at most `limit`.
pub async fn list_references(
    conn: &mut Conn,
    namespace: &str,
    digests: &str,
    limit: i64,
) -> Result<Vec<(String, String)>> {
    fetch_among!(
        (String, String),
        conn,
        "SELECT DISTINCT child, parent FROM edges
        WHERE namespace = $1 AND child_type = 'content' AND child IN",
        "LIMIT $3",
        namespace,
        digests,
        limit
    )
}
