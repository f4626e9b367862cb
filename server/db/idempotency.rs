//! `idempotency`: which resource a POST with an `Idempotency-Key` made.

use super::{Conn, Tx};
use crate::error::Result;

/// Remembers what a key made; one that was remembered before stands for this from now on.
pub async fn remember(
    tx: &mut Tx,
    namespace: &str,
    key: &str,
    fingerprint: &str,
    resource: &str,
    now: i64,
) -> Result<()> {
    const SQL: &str = "INSERT INTO idempotency (namespace, key, fingerprint, resource, created_at)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (namespace, key) DO UPDATE SET fingerprint = excluded.fingerprint,
        resource = excluded.resource, created_at = excluded.created_at";
    execute!(tx, SQL, namespace, key, fingerprint, resource, now).map(drop)
}

/// The fingerprint and resource of a key that was remembered after `since`.
pub async fn find_key(
    conn: &mut Conn,
    namespace: &str,
    key: &str,
    since: i64,
) -> Result<Option<(String, String)>> {
    const SQL: &str = "SELECT fingerprint, resource FROM idempotency
        WHERE namespace = $1 AND key = $2 AND created_at > $3";
    fetch_optional!((String, String), conn, SQL, namespace, key, since)
}

/// Forgets up to `limit` keys that were remembered before `before`; how many.
pub async fn forget_before(tx: &mut Tx, before: i64, limit: i64) -> Result<u64> {
    const SQL: &str = "DELETE FROM idempotency WHERE (namespace, key) IN
        (SELECT namespace, key FROM idempotency WHERE created_at <= $1 ORDER BY created_at LIMIT $2)";
    execute!(tx, SQL, before, limit)
}
