//! `leases` and `lease_resources`. A lease whose `expires_at` has come is as good as gone: every statement that
//! asks for one names the time.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LeaseRow {
    pub namespace: String,
    pub id: String,
    pub kind: String,
    pub flat: i64,
    pub labels: String,
    pub expires_at: Option<i64>,
    pub created_at: i64,
    pub updated_at: i64,
}

rows!(LeaseRow: labels);

/// For `Db::list_rows`.
pub const SELECT_LEASES: &str =
    "SELECT namespace, id, kind, flat, labels, expires_at, created_at, updated_at FROM leases";

pub async fn find_lease(conn: &mut Conn, namespace: &str, id: &str, now: i64) -> Result<Option<LeaseRow>> {
    const SQL: &str =
        "SELECT namespace, id, kind, flat, labels, expires_at, created_at, updated_at FROM leases
        WHERE namespace = $1 AND id = $2 AND (expires_at IS NULL OR expires_at > $3)";
    fetch_optional!(LeaseRow, conn, SQL, namespace, id, now)
}

/// An unexpired lease that this transaction is about to change: it stays as it is for everybody else until then.
pub async fn lock_lease(tx: &mut Tx, namespace: &str, id: &str, now: i64) -> Result<Option<LeaseRow>> {
    fetch_locked!(
        LeaseRow,
        tx,
        "SELECT namespace, id, kind, flat, labels, expires_at, created_at, updated_at FROM leases
        WHERE namespace = $1 AND id = $2 AND (expires_at IS NULL OR expires_at > $3)",
        "FOR UPDATE",
        namespace,
        id,
        now
    )
}

/// Whether the id was free.
pub async fn insert_lease(tx: &mut Tx, row: &LeaseRow) -> Result<bool> {
    const SQL: &str = "INSERT INTO leases
        (namespace, id, kind, flat, labels, expires_at, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT (namespace, id) DO NOTHING";
    let inserted = execute!(
        tx,
        SQL,
        &row.namespace,
        &row.id,
        &row.kind,
        row.flat,
        &row.labels,
        row.expires_at,
        row.created_at
    )?;
    Ok(inserted == 1)
}

/// Changes a lease that this transaction has locked.
pub async fn update_lease(tx: &mut Tx, row: &LeaseRow) -> Result<()> {
    const SQL: &str = "UPDATE leases SET kind = $3, labels = $4, expires_at = $5, updated_at = $6
        WHERE namespace = $1 AND id = $2";
    execute!(tx, SQL, &row.namespace, &row.id, &row.kind, &row.labels, row.expires_at, row.updated_at)
        .map(drop)
}

pub async fn delete_lease(tx: &mut Tx, namespace: &str, id: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM leases WHERE namespace = $1 AND id = $2";
    Ok(execute!(tx, SQL, namespace, id)? == 1)
}

/// Drops an expired lease of this id, so that the id is free again; the lease, if there was one.
pub async fn delete_if_expired(tx: &mut Tx, namespace: &str, id: &str, now: i64) -> Result<Option<LeaseRow>> {
    const SQL: &str = "DELETE FROM leases WHERE namespace = $1 AND id = $2 AND expires_at <= $3
        RETURNING namespace, id, kind, flat, labels, expires_at, created_at, updated_at";
    fetch_optional!(LeaseRow, tx, SQL, namespace, id, now)
}

/// Drops up to `limit` leases that expired before `before`, and gives them, without their labels.
pub async fn delete_expired(tx: &mut Tx, before: i64, limit: i64) -> Result<Vec<LeaseRow>> {
    const SQL: &str = "DELETE FROM leases WHERE (namespace, id) IN
        (SELECT namespace, id FROM leases WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)
        RETURNING namespace, id, kind, flat, '{}' AS labels, expires_at, created_at, updated_at";
    fetch_all!(LeaseRow, tx, SQL, before, limit)
}

pub async fn add_resource(tx: &mut Tx, namespace: &str, lease: &str, kind: &str, id: &str) -> Result<()> {
    const SQL: &str = "INSERT INTO lease_resources (namespace, lease, type, id) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING";
    execute!(tx, SQL, namespace, lease, kind, id).map(drop)
}

pub async fn remove_resource(tx: &mut Tx, namespace: &str, lease: &str, kind: &str, id: &str) -> Result<()> {
    const SQL: &str =
        "DELETE FROM lease_resources WHERE namespace = $1 AND lease = $2 AND type = $3 AND id = $4";
    execute!(tx, SQL, namespace, lease, kind, id).map(drop)
}

/// Takes a resource out of every lease: it is gone, or it became something else.
pub async fn forget_resource(tx: &mut Tx, namespace: &str, kind: &str, id: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM lease_resources WHERE namespace = $1 AND type = $2 AND id = $3";
    execute!(tx, SQL, namespace, kind, id).map(drop)
}

/// What a lease holds, `(type, id)` in order, after the given one.
pub async fn list_resources(
    conn: &mut Conn,
    namespace: &str,
    lease: &str,
    after: (&str, &str),
    limit: i64,
) -> Result<Vec<(String, String)>> {
    const SQL: &str = "SELECT type, id FROM lease_resources WHERE namespace = $1 AND lease = $2
        AND (type > $3 OR (type = $3 AND id > $4)) ORDER BY type, id LIMIT $5";
    fetch_all!((String, String), conn, SQL, namespace, lease, after.0, after.1, limit)
}

/// The unexpired leases that hold a resource and that somebody made: grace leases do not count.
pub async fn list_holders(
    conn: &mut Conn,
    namespace: &str,
    kind: &str,
    id: &str,
    now: i64,
    limit: i64,
) -> Result<Vec<(String, String)>> {
    const SQL: &str = "SELECT l.id, l.kind FROM lease_resources r
        JOIN leases l ON l.namespace = r.namespace AND l.id = r.lease
        WHERE r.namespace = $1 AND r.type = $2 AND r.id = $3 AND l.kind <> 'grace'
        AND (l.expires_at IS NULL OR l.expires_at > $4) ORDER BY l.id LIMIT $5";
    fetch_all!((String, String), conn, SQL, namespace, kind, id, now, limit)
}
