//! `events`: what happened, in the order in which it may be read.
//!
//! An event is written in the transaction of the change that it tells of. On SQLite there is one writer, so ids become
//! visible in their order. On Postgres ids are taken by transactions that run side by side, and one with a smaller id may
//! commit after one with a larger: a reader that went by the ids it sees would pass it by for ever. So a transaction
//! says before it takes an id from where on its ids may be, by a shared advisory lock whose key carries that id, and which
//! goes with the transaction, however it ends. Nobody waits for such a lock, and commits still share their syncs. A reader
//! goes no further than the smallest id that is held so ([`find_horizon`]): below it nothing can appear any more.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EventRow {
    pub id: i64,
    pub namespace: String,
    pub topic: String,
    pub subject: String,
    pub data: String,
    pub time: i64,
}

rows!(EventRow: subject, data);

/// For `Db::list_rows`.
pub const SELECT_EVENTS: &str = "SELECT id, namespace, topic, subject, data, time FROM events";

/// Writes an event; its id is the database's to give, so that of `row` is not looked at.
pub async fn insert_event(tx: &mut Tx, row: &EventRow) -> Result<()> {
    const SQLITE: &str =
        "INSERT INTO events (namespace, topic, subject, data, time) VALUES ($1, $2, $3, $4, $5)";
    // The row of `held` comes first, and with it the lock: only then there is something to take an id for. The upper 16
    // bits of the key, 0x6f72, are ours; the lower 48 are the first id that may be taken.
    const POSTGRES: &str = "WITH held AS MATERIALIZED (
            SELECT pg_advisory_xact_lock_shared((28530::bigint << 48) | (last_value + is_called::int))
            FROM events_id_seq
        )
        INSERT INTO events (namespace, topic, subject, data, time) SELECT $1, $2, $3, $4, $5 FROM held";
    let sql = match tx {
        Conn::Sqlite(_) => SQLITE,
        Conn::Postgres(_) => POSTGRES,
    };
    execute!(tx, sql, &row.namespace, &row.topic, &row.subject, &row.data, row.time).map(drop)
}

/// How far events can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// No event with this id, or a smaller one, is still to come.
    pub id: i64,
    /// The last id that was given. Those between belong to transactions that have not ended, or ended a moment ago.
    pub last: i64,
}

/// How far events can be read now. Events are read after this, never before.
pub async fn find_horizon(conn: &mut Conn) -> Result<Horizon> {
    const SQLITE: &str = "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)";
    const LAST: &str = "SELECT last_value - (NOT is_called)::int FROM events_id_seq";
    // A key of 64 bits stands there in two halves (the view `pg_locks`, `objsubid` 1).
    const HELD: &str = "SELECT MIN(((classid::bigint & 65535) << 32) | objid::bigint) FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND (classid::bigint >> 16) = 28530
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    if let Conn::Sqlite(_) = conn {
        let (last,) = fetch_one!((i64,), conn, SQLITE)?;
        return Ok(Horizon { id: last, last });
    }
    // In this order, and not in one statement: whoever took an id up to `last` had its lock before, so it is held now, or
    // its transaction has ended and what it wrote can be seen.
    let (last,) = fetch_one!((i64,), &mut *conn, LAST)?;
    let (held,) = fetch_one!((Option<i64>,), conn, HELD)?;
    Ok(Horizon { id: held.map_or(last, |first| last.min(first - 1)), last })
}

/// Up to `limit` events after `after`, as far as the horizon allows, in order.
pub async fn list_after(conn: &mut Conn, after: i64, horizon: Horizon, limit: i64) -> Result<Vec<EventRow>> {
    const SQL: &str = "SELECT id, namespace, topic, subject, data, time FROM events
        WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
    fetch_all!(EventRow, conn, SQL, after, horizon.id, limit)
}

/// The id and time of the oldest events, at most `limit`, in order.
pub async fn list_oldest(conn: &mut Conn, limit: i64) -> Result<Vec<(i64, i64)>> {
    const SQL: &str = "SELECT id, time FROM events ORDER BY id LIMIT $1";
    fetch_all!((i64, i64), conn, SQL, limit)
}

/// Drops every event up to `id`.
pub async fn drop_up_to(tx: &mut Tx, id: i64) -> Result<()> {
    const SQL: &str = "DELETE FROM events WHERE id <= $1";
    execute!(tx, SQL, id).map(drop)
}
