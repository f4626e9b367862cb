//! The only code that says SQL: one file per table, one statement per function, one text for both databases.
//!
//! SQLite has one writer connection behind a task that commits many transactions with one fsync (group commit),
//! and a pool of four readers. Postgres has one pool. Every transaction runs in a task of its own: a handler that
//! is dropped because its client hung up can neither cut one short nor hand back a connection that is inside one.

#[macro_use]
mod conn;
#[macro_use]
mod list;
mod open;
mod write;

pub mod content;
pub mod events;
pub mod idempotency;
pub mod images;
pub mod ingests;
pub mod leases;
pub mod meta;
pub mod namespaces;
pub mod pulls;
pub mod registries;
pub mod snapshots;
pub mod tokens;
pub mod unpacks;

pub use conn::Conn;
pub use list::{Batch, KeyValue, ListPage, OrderBy, Rows};
pub use write::{BoxFuture, Tx};

use sqlx::{PgPool, SqlitePool};
use tokio::sync::watch;

use crate::error::Result;
use crate::shutdown::Shutdown;

/// The metadata store: a cheap clone of pools.
#[derive(Clone)]
pub struct Db {
    pools: Pools,
    shutdown: Shutdown,
    ended: Ended,
}

#[derive(Clone)]
enum Pools {
    Sqlite { read: SqlitePool, write: SqlitePool, queue: write::Queue },
    Postgres(PgPool),
}

/// Counts the transactions that have ended, whichever way: one more is news for those who wait for what they wrote.
type Ended = watch::Sender<u64>;

impl Db {
    /// `sqlite` or `postgres`, as `/system/info` and the metrics name it.
    pub fn kind(&self) -> &'static str {
        match self.pools {
            Pools::Sqlite { .. } => "sqlite",
            Pools::Postgres(_) => "postgres",
        }
    }

    /// A connection for reading. Statements on it are transactions of their own.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer in time.
    pub async fn read(&self) -> Result<Conn> {
        match &self.pools {
            Pools::Sqlite { read, .. } => {
                let conn = read.acquire().await.map_err(|e| conn::failed("take a database reader", e))?;
                Ok(Conn::Sqlite(conn))
            }
            Pools::Postgres(pool) => {
                let conn = pool.acquire().await.map_err(|e| conn::failed("take a database connection", e))?;
                Ok(Conn::Postgres(conn))
            }
        }
    }

    /// Tells of the end of transactions: the number changes after one or several have ended.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// Whether the database answers at all.
    ///
    /// # Errors
    /// `Unavailable` when it does not.
    pub async fn ping(&self) -> Result<()> {
        let mut conn = self.read().await?;
        fetch_one!((i64,), &mut conn, "SELECT CAST(1 AS BIGINT)")?;
        Ok(())
    }

    /// Lets running transactions end, then closes every connection.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { read, write, .. } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}
