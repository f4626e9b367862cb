//! `tokens` and `sessions`: who may call. Secrets are stored as digests.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TokenRow {
    pub id: String,
    pub name: String,
    pub secret_digest: String,
    pub scopes: String,
    pub namespaces: String,
    pub created_at: i64,
    pub expires_at: Option<i64>,
    pub last_used_at: Option<i64>,
}

rows!(TokenRow: namespaces);

/// For `Db::list_rows`.
pub const SELECT_TOKENS: &str =
    "SELECT id, name, secret_digest, scopes, namespaces, created_at, expires_at, last_used_at FROM tokens";

pub async fn find_token(conn: &mut Conn, id: &str) -> Result<Option<TokenRow>> {
    const SQL: &str = "SELECT id, name, secret_digest, scopes, namespaces, created_at, expires_at,
        last_used_at FROM tokens WHERE id = $1";
    fetch_optional!(TokenRow, conn, SQL, id)
}

/// The token whose secret has this digest.
pub async fn find_by_secret(conn: &mut Conn, secret_digest: &str) -> Result<Option<TokenRow>> {
    const SQL: &str = "SELECT id, name, secret_digest, scopes, namespaces, created_at, expires_at,
        last_used_at FROM tokens WHERE secret_digest = $1";
    fetch_optional!(TokenRow, conn, SQL, secret_digest)
}

pub async fn note_use(tx: &mut Tx, id: &str, now: i64) -> Result<()> {
    const SQL: &str = "UPDATE tokens SET last_used_at = $2 WHERE id = $1";
    execute!(tx, SQL, id, now).map(drop)
}

pub async fn insert_token(tx: &mut Tx, row: &TokenRow) -> Result<()> {
    const SQL: &str =
        "INSERT INTO tokens (id, name, secret_digest, scopes, namespaces, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    execute!(
        tx,
        SQL,
        &row.id,
        &row.name,
        &row.secret_digest,
        &row.scopes,
        &row.namespaces,
        row.created_at,
        row.expires_at
    )
    .map(drop)
}

/// Ends a token and the sessions that stand for it.
pub async fn delete_token(tx: &mut Tx, id: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM tokens WHERE id = $1";
    Ok(execute!(tx, SQL, id)? == 1)
}

/// The token and the form secret of an unexpired session.
pub async fn find_session(
    conn: &mut Conn,
    secret_digest: &str,
    now: i64,
) -> Result<Option<(String, String)>> {
    const SQL: &str = "SELECT token, csrf FROM sessions WHERE secret_digest = $1 AND expires_at > $2";
    fetch_optional!((String, String), conn, SQL, secret_digest, now)
}

pub async fn insert_session(
    tx: &mut Tx,
    secret_digest: &str,
    token: &str,
    csrf: &str,
    expires_at: i64,
) -> Result<()> {
    const SQL: &str = "INSERT INTO sessions (secret_digest, token, csrf, expires_at) VALUES ($1, $2, $3, $4)";
    execute!(tx, SQL, secret_digest, token, csrf, expires_at).map(drop)
}

pub async fn delete_session(tx: &mut Tx, secret_digest: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM sessions WHERE secret_digest = $1";
    execute!(tx, SQL, secret_digest).map(drop)
}

/// Drops up to `limit` expired sessions; how many.
pub async fn delete_expired_sessions(tx: &mut Tx, now: i64, limit: i64) -> Result<u64> {
    const SQL: &str = "DELETE FROM sessions WHERE secret_digest IN
        (SELECT secret_digest FROM sessions WHERE expires_at <= $1 LIMIT $2)";
    execute!(tx, SQL, now, limit)
}
