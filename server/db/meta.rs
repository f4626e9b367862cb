//! `meta`: facts of the store as a whole.

use super::Tx;
use crate::error::Result;

/// A fact of the store, set once: the value that stands, which is `value` if there was none.
pub async fn set_once(tx: &mut Tx, name: &str, value: &str) -> Result<String> {
    const INSERT: &str = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
    const SELECT: &str = "SELECT value FROM meta WHERE name = $1";
    execute!(&mut *tx, INSERT, name, value)?;
    fetch_one!((String,), tx, SELECT, name).map(|(value,)| value)
}
