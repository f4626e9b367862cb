//! `namespaces`: made on first use, or by name with labels.

use super::{Conn, Tx};
use crate::error::{Error, Result};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct NamespaceRow {
    pub name: String,
    pub labels: String,
    pub created_at: i64,
    pub updated_at: i64,
}

rows!(NamespaceRow: labels);

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

/// How often a namespace may be made and deleted by others before [`touch`] gives up.
const TRIES: usize = 10;

/// Makes the namespace if this is its first use, and says so. Nobody deletes it before this transaction has ended; any
/// number of transactions may have touched it at a time.
pub async fn touch(tx: &mut Tx, name: &str, now: i64) -> Result<bool> {
    for _ in 0..TRIES {
        if keep_namespace(tx, name).await? {
            return Ok(false);
        }
        if insert_namespace(tx, name, "{}", now).await? {
            return Ok(true);
        }
    }
    Err(Error::Unavailable { what: "the namespace", source: None })
}

async fn keep_namespace(tx: &mut Tx, name: &str) -> Result<bool> {
    let kept =
        fetch_locked!((String,), tx, "SELECT name FROM namespaces WHERE name = $1", "FOR KEY SHARE", name)?;
    Ok(kept.is_some())
}

/// A namespace that this transaction is about to change or delete: it waits for those that have touched it, and
/// makes others wait.
pub async fn lock_namespace(tx: &mut Tx, name: &str) -> Result<Option<NamespaceRow>> {
    fetch_locked!(
        NamespaceRow,
        tx,
        "SELECT name, labels, created_at, updated_at FROM namespaces WHERE name = $1",
        "FOR UPDATE",
        name
    )
}

/// Changes a namespace that this transaction has locked.
pub async fn update_namespace(tx: &mut Tx, row: &NamespaceRow) -> Result<()> {
    const SQL: &str = "UPDATE namespaces SET labels = $2, updated_at = $3 WHERE name = $1";
    execute!(tx, SQL, &row.name, &row.labels, row.updated_at).map(drop)
}

pub async fn delete_namespace(tx: &mut Tx, name: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM namespaces WHERE name = $1";
    Ok(execute!(tx, SQL, name)? == 1)
}

/// Counts, in the order of [`count_inside`].
type Inside = (i64, i64, i64, i64, i64, i64, i64);

/// How much is inside: images, content, ingests, unexpired leases, unfinished pulls and unpacks, snapshots.
pub async fn count_inside(conn: &mut Conn, name: &str, now: i64) -> Result<Inside> {
    const SQL: &str = "SELECT
        (SELECT COUNT(*) FROM images WHERE namespace = $1),
        (SELECT COUNT(*) FROM content WHERE namespace = $1),
        (SELECT COUNT(*) FROM ingests WHERE namespace = $1),
        (SELECT COUNT(*) FROM leases WHERE namespace = $1 AND kind <> 'grace'
            AND (expires_at IS NULL OR expires_at > $2)),
        (SELECT COUNT(*) FROM pulls WHERE namespace = $1 AND finished_at IS NULL),
        (SELECT COUNT(*) FROM unpacks WHERE namespace = $1 AND finished_at IS NULL),
        (SELECT COUNT(*) FROM snapshots WHERE namespace = $1)";
    fetch_one!(Inside, conn, SQL, name, now)
}
