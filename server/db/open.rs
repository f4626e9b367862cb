//! Opening either database, and bringing its schema up to date.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::conn::failed;
use super::write::start_writer;
use super::{Db, Ended, Pools};
use crate::error::{Error, Result};
use crate::shutdown::Shutdown;

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// Readers of a SQLite database: more gain nothing on a small machine.
const READERS: u32 = 4;
/// Connections to Postgres: within the hundred that a default server allows, with room for others.
const CONNECTIONS: u32 = 16;
/// Rows that SQLite reads ahead of whoever asked for them: each may have 1 MiB of labels or of a pull's picture.
const READ_AHEAD: usize = 16;
/// How long a request waits for a connection before it is told to come again.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite before this version can corrupt a write-ahead log when it is reset.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

impl Db {
    /// Opens (and makes, if need be) the SQLite database in the file `path`.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened; `Internal` when its schema is newer than this program.
    pub async fn open_sqlite(path: &Path, shutdown: &Shutdown) -> Result<Db> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged commit survives power loss: the log is synced with every commit.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true)
            .row_buffer_size(READ_AHEAD)
            .pragma("journal_size_limit", (64 << 20).to_string());
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone())
            .await
            .map_err(|e| failed("open the database", e))?;
        check_sqlite(&write).await?;
        migrate(SQLITE.run(&write).await)?;
        let read = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.read_only(true))
            .await
            .map_err(|e| failed("open the database for reading", e))?;
        let ended = Ended::default();
        let queue = start_writer(write.clone(), ended.clone())?;
        Ok(Db { pools: Pools::Sqlite { read, write, queue }, shutdown: shutdown.clone(), ended })
    }

    /// Opens the Postgres database at `url`.
    ///
    /// # Errors
    /// `Invalid` for a malformed URL; `Unavailable` when nobody answers; `Internal` when its schema is newer
    /// than this program.
    pub async fn open_postgres(url: &str, shutdown: &Shutdown) -> Result<Db> {
        let options = PgConnectOptions::from_str(url)
            // The URL may hold a password: it is never repeated.
            .map_err(|_| Error::invalid_field("database_url", "the database URL cannot be read"))?
            .application_name("orlop");
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|e| failed("connect to Postgres", e))?;
        migrate(POSTGRES.run(&pool).await)?;
        Ok(Db { pools: Pools::Postgres(pool), shutdown: shutdown.clone(), ended: Ended::default() })
    }
}

fn migrate(outcome: std::result::Result<(), MigrateError>) -> Result<()> {
    outcome.map_err(|error| match error {
        MigrateError::VersionMissing(version) => Error::internal(format!(
            "the database was written by a newer orlop (schema {version}): start that version, or a later one"
        )),
        MigrateError::Execute(error) => failed("migrate the database", error),
        other => Error::Internal { doing: "migrate the database".to_owned(), source: Some(other.into()) },
    })
}

async fn check_sqlite(pool: &sqlx::SqlitePool) -> Result<()> {
    let (version,): (String,) = sqlx::query_as("SELECT sqlite_version()")
        .fetch_one(pool)
        .await
        .map_err(|e| failed("ask SQLite for its version", e))?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < OLDEST_SQLITE {
        return Err(Error::internal(format!(
            "SQLite {version} can corrupt its log; 3.51.3 or later is needed"
        )));
    }
    Ok(())
}
