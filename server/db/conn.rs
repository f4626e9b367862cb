//! One connection of either database, and the macros that run one statement on whichever it is.

use sqlx::pool::PoolConnection;
use sqlx::{Postgres, Sqlite};

use crate::error::{Error, Source};

/// A connection, of whichever database is open.
pub enum Conn {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// Runs a statement; gives the number of rows it changed.
macro_rules! execute {
    ($conn:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $conn {
            $crate::db::Conn::Sqlite(conn) => sqlx::query($sql)$(.bind($bind))*
                .execute(&mut **conn).await.map(|done| done.rows_affected()),
            $crate::db::Conn::Postgres(conn) => sqlx::query($sql)$(.bind($bind))*
                .execute(&mut **conn).await.map(|done| done.rows_affected()),
        }
        .map_err(|error| $crate::db::conn::failed($sql, error))
    };
}

/// Runs a query of the shape `fetch_one`, `fetch_optional` or `fetch_all`.
macro_rules! fetch {
    ($how:ident, $row:ty, $conn:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $conn {
            $crate::db::Conn::Sqlite(conn) => sqlx::query_as::<_, $row>($sql)$(.bind($bind))*
                .$how(&mut **conn).await,
            $crate::db::Conn::Postgres(conn) => sqlx::query_as::<_, $row>($sql)$(.bind($bind))*
                .$how(&mut **conn).await,
        }
        .map_err(|error| $crate::db::conn::failed($sql, error))
    };
}

macro_rules! fetch_one {
    ($($all:tt)*) => { fetch!(fetch_one, $($all)*) };
}

macro_rules! fetch_optional {
    ($($all:tt)*) => { fetch!(fetch_optional, $($all)*) };
}

macro_rules! fetch_all {
    ($($all:tt)*) => { fetch!(fetch_all, $($all)*) };
}

/// Reads one row, which nobody else changes or deletes before this transaction has ended; where there is none, `None`.
/// `$how` is said to Postgres only: SQLite has one writer anyhow.
macro_rules! fetch_locked {
    ($row:ty, $tx:expr, $sql:literal, $how:literal $(, $bind:expr)* $(,)?) => {
        match $tx {
            $crate::db::Conn::Sqlite(conn) => sqlx::query_as::<_, $row>($sql)$(.bind($bind))*
                .fetch_optional(&mut **conn).await,
            $crate::db::Conn::Postgres(conn) => {
                sqlx::query_as::<_, $row>(concat!($sql, " ", $how))$(.bind($bind))*
                    .fetch_optional(&mut **conn).await
            }
        }
        .map_err(|error| $crate::db::conn::failed($sql, error))
    };
}

/// Runs a query about many values at once. They stand in one JSON list at `$2`, and as rows between the two halves of
/// the statement: how a list is taken out of JSON, each database says in its own words.
macro_rules! fetch_among {
    ($row:ty, $conn:expr, $before:literal, $after:literal $(, $bind:expr)* $(,)?) => {
        match $conn {
            $crate::db::Conn::Sqlite(conn) => {
                sqlx::query_as::<_, $row>(concat!($before, " (SELECT value FROM json_each($2)) ", $after))
                    $(.bind($bind))*.fetch_all(&mut **conn).await
            }
            $crate::db::Conn::Postgres(conn) => {
                sqlx::query_as::<_, $row>(concat!(
                    $before, " (SELECT json_array_elements_text(CAST($2 AS json))) ", $after
                ))
                $(.bind($bind))*.fetch_all(&mut **conn).await
            }
        }
        .map_err(|error| $crate::db::conn::failed($before, error))
    };
}

/// A failed statement as our error. Trouble of the database is `Unavailable`: the data is not in doubt.
pub(super) fn failed(doing: &str, error: sqlx::Error) -> Error {
    let unavailable = |source: Source| Error::Unavailable { what: "the database", source: Some(source) };
    match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => unavailable(error.into()),
        sqlx::Error::Database(reported) => match trouble(reported.as_ref()) {
            Trouble::Away => unavailable(error.into()),
            Trouble::Full => {
                Error::OutOfSpace { doing: "write to the database".into(), source: error.into() }
            }
            Trouble::Defect => Error::Internal { doing: doing.to_owned(), source: Some(error.into()) },
        },
        _ => Error::Internal { doing: doing.to_owned(), source: Some(error.into()) },
    }
}

enum Trouble {
    /// Trying again later helps.
    Away,
    Full,
    Defect,
}

/// Postgres speaks SQLSTATE (five characters), SQLite its result codes (extended, so the low byte counts).
fn trouble(error: &dyn sqlx::error::DatabaseError) -> Trouble {
    let code = error.code().unwrap_or_default();
    if let Some(_sqlite) = error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
        return match code.parse::<u32>().unwrap_or(1) & 0xff {
            // BUSY, LOCKED, READONLY, IOERR, CANTOPEN
            5 | 6 | 8 | 10 | 14 => Trouble::Away,
            13 => Trouble::Full,
            _ => Trouble::Defect,
        };
    }
    match code.as_ref() {
        "53100" => Trouble::Full,
        // Read-only server, serialization failure, deadlock; and a parent (a lease, a blob) that was deleted
        // between our look and our write: the next try sees that it is gone.
        "25006" | "40001" | "40P01" | "23503" => Trouble::Away,
        // 08 connection, 53 resources, 57P operator intervention, 58 system.
        code if ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class)) => Trouble::Away,
        _ => Trouble::Defect,
    }
}
