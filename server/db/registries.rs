//! `registries` and `pull_credentials`: what lets us in elsewhere, sealed.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RegistryRow {
    pub host: String,
    pub sealed: String,
    pub created_at: i64,
    pub updated_at: i64,
}

pub async fn find_registry(conn: &mut Conn, host: &str) -> Result<Option<RegistryRow>> {
    const SQL: &str = "SELECT host, sealed, created_at, updated_at FROM registries WHERE host = $1";
    fetch_optional!(RegistryRow, conn, SQL, host)
}

/// From here to the end of the transaction nobody else changes any of them: a row that is not there yet cannot be locked,
/// nor can their number. SQLite has one writer anyhow.
pub async fn lock_registries(tx: &mut Tx) -> Result<()> {
    const SQL: &str = "LOCK TABLE registries IN SHARE ROW EXCLUSIVE MODE";
    match tx {
        Conn::Sqlite(_) => Ok(()),
        Conn::Postgres(conn) => {
            let locked = sqlx::query(SQL).execute(&mut **conn).await;
            locked.map(drop).map_err(|error| super::conn::failed(SQL, error))
        }
    }
}

/// All of them, in the order of their hosts.
pub async fn list_registries(conn: &mut Conn) -> Result<Vec<RegistryRow>> {
    const SQL: &str = "SELECT host, sealed, created_at, updated_at FROM registries ORDER BY host";
    fetch_all!(RegistryRow, conn, SQL)
}

pub async fn count_registries(tx: &mut Tx) -> Result<i64> {
    fetch_one!((i64,), tx, "SELECT COUNT(*) FROM registries").map(|(count,)| count)
}

pub async fn upsert_registry(tx: &mut Tx, row: &RegistryRow) -> Result<()> {
    const SQL: &str = "INSERT INTO registries (host, sealed, created_at, updated_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (host) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at";
    execute!(tx, SQL, &row.host, &row.sealed, row.created_at, row.updated_at).map(drop)
}

pub async fn delete_registry(tx: &mut Tx, host: &str) -> Result<()> {
    execute!(tx, "DELETE FROM registries WHERE host = $1", host).map(drop)
}

pub async fn find_pull_credential(conn: &mut Conn, pull: &str) -> Result<Option<String>> {
    const SQL: &str = "SELECT sealed FROM pull_credentials WHERE pull = $1";
    fetch_optional!((String,), conn, SQL, pull).map(|found| found.map(|(sealed,)| sealed))
}

pub async fn upsert_pull_credential(tx: &mut Tx, pull: &str, sealed: &str) -> Result<()> {
    const SQL: &str = "INSERT INTO pull_credentials (pull, sealed) VALUES ($1, $2)
        ON CONFLICT (pull) DO UPDATE SET sealed = excluded.sealed";
    execute!(tx, SQL, pull, sealed).map(drop)
}

pub async fn delete_pull_credential(tx: &mut Tx, pull: &str) -> Result<()> {
    execute!(tx, "DELETE FROM pull_credentials WHERE pull = $1", pull).map(drop)
}
