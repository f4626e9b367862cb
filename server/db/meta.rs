//! `meta`: facts of the store as a whole.

use super::{Conn, Tx};
use crate::error::Result;

/// A fact of the store, set once: the value that stands, which is `value` if there was none.
pub async fn set_once(tx: &mut Tx, name: &str, value: &str) -> Result<String> {
    const INSERT: &str = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
    const SELECT: &str = "SELECT value FROM meta WHERE name = $1";
    execute!(&mut *tx, INSERT, name, value)?;
    fetch_one!((String,), tx, SELECT, name).map(|(value,)| value)
}

/// A fact of the store that changes.
pub async fn set(tx: &mut Tx, name: &str, value: &str) -> Result<()> {
    const SQL: &str = "INSERT INTO meta (name, value) VALUES ($1, $2)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    execute!(tx, SQL, name, value).map(drop)
}

pub async fn find(conn: &mut Conn, name: &str) -> Result<Option<String>> {
    const SQL: &str = "SELECT value FROM meta WHERE name = $1";
    Ok(fetch_optional!((String,), conn, SQL, name)?.map(|(value,)| value))
}
