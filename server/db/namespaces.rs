//! `namespaces`: made on first use, or by name with labels.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct NamespaceRow {
    pub name: String,
    pub labels: String,
    pub created_at: i64,
    pub updated_at: i64,
}

/// For `Db::list_rows`.
pub const SELECT_NAMESPACES: &str = "SELECT name, labels, created_at, updated_at FROM namespaces";

pub async fn find_namespace(conn: &mut Conn, name: &str) -> Result<Option<NamespaceRow>> {
    const SQL: &str = "SELECT name, labels, created_at, updated_at FROM namespaces WHERE name = $1";
    fetch_optional!(NamespaceRow, conn, SQL, name)
}

/// Whether the name is new.
pub async fn insert_namespace(tx: &mut Tx, name: &str, labels: &str, now: i64) -> Result<bool> {
    const SQL: &str = "INSERT INTO namespaces (name, labels, created_at, updated_at) VALUES ($1, $2, $3, $3)
        ON CONFLICT (name) DO NOTHING";
    Ok(execute!(tx, SQL, name, labels, now)? == 1)
}

/// Makes the namespace if this is its first use.
pub async fn touch(tx: &mut Tx, name: &str, now: i64) -> Result<()> {
    insert_namespace(tx, name, "{}", now).await.map(drop)
}

/// Whether the namespace was as the caller last saw it and now is as given.
pub async fn update_namespace(tx: &mut Tx, row: &NamespaceRow, seen_at: i64) -> Result<bool> {
    const SQL: &str =
        "UPDATE namespaces SET labels = $2, updated_at = $3 WHERE name = $1 AND updated_at = $4";
    Ok(execute!(tx, SQL, &row.name, &row.labels, row.updated_at, seen_at)? == 1)
}

pub async fn delete_namespace(tx: &mut Tx, name: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM namespaces WHERE name = $1";
    Ok(execute!(tx, SQL, name)? == 1)
}

/// How much is inside: images, content, ingests, unexpired leases, unfinished pulls.
pub async fn count_inside(conn: &mut Conn, name: &str, now: i64) -> Result<(i64, i64, i64, i64, i64)> {
    const SQL: &str = "SELECT
        (SELECT COUNT(*) FROM images WHERE namespace = $1),
        (SELECT COUNT(*) FROM content WHERE namespace = $1),
        (SELECT COUNT(*) FROM ingests WHERE namespace = $1),
        (SELECT COUNT(*) FROM leases WHERE namespace = $1 AND kind <> 'grace'
            AND (expires_at IS NULL OR expires_at > $2)),
        (SELECT COUNT(*) FROM pulls WHERE namespace = $1 AND finished_at IS NULL)";
    fetch_one!((i64, i64, i64, i64, i64), conn, SQL, name, now)
}
