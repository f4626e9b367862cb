//! Pages of a table by keyset: no offset, so a page costs the same however deep it lies, and rows that come or
//! go meanwhile neither repeat nor hide others.

use futures_util::{Stream, TryStreamExt};
use sqlx::{AssertSqlSafe, FromRow};

use super::conn::failed;
use super::{Conn, Db};
use crate::error::Result;

/// One key of an order. `column` is an SQL expression of ours that is never NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderBy {
    pub column: &'static str,
    pub descending: bool,
}

/// The value of a sort key, or of a plain condition, in one row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum KeyValue {
    Number(i64),
    Text(String),
}

/// Which rows: `select` is a constant `SELECT … FROM …`, every condition ends with its placeholder's operator
/// (`"namespace ="`), the last sort key is unique.
#[derive(Debug, Clone)]
pub struct ListPage {
    pub select: &'static str,
    pub conditions: Vec<(&'static str, KeyValue)>,
    pub sort: Vec<OrderBy>,
    pub after: Option<Vec<KeyValue>>,
    pub limit: usize,
    /// What the rows may hold in memory: the last of them is the one that reaches it.
    pub limit_bytes: usize,
}

/// What was read of a list in one go.
#[derive(Debug)]
pub struct Batch<R> {
    pub rows: Vec<R>,
    /// Whether these are the last rows of the list.
    pub ended: bool,
}

/// A row that either database can give.
pub trait Rows:
    for<'r> FromRow<'r, sqlx::sqlite::SqliteRow> + for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin
{
    /// About what the row holds in memory, in bytes: itself, and its texts that may be long.
    fn size_bytes(&self) -> usize;
}

/// Makes a type one of [`Rows`], with the fields whose texts may be long.
macro_rules! rows {
    ($row:ty: $($long:ident),*) => {
        impl $crate::db::Rows for $row {
            fn size_bytes(&self) -> usize {
                std::mem::size_of::<Self>() $(+ self.$long.len())*
            }
        }
    };
}

impl Db {
    /// The rows of one page, in order, up to either limit.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn list_rows<R: Rows>(&self, page: &ListPage) -> Result<Batch<R>> {
        let (sql, values) = statement(page);
        // Built of constants of ours and placeholders alone.
        let sql = AssertSqlSafe(sql);
        macro_rules! run {
            ($conn:expr) => {{
                let mut query = sqlx::query_as::<_, R>(sql);
                for value in values {
                    query = match value {
                        KeyValue::Number(number) => query.bind(number),
                        KeyValue::Text(text) => query.bind(text),
                    };
                }
                take(page, query.fetch(&mut **$conn)).await
            }};
        }
        match &mut self.read().await? {
            Conn::Sqlite(conn) => run!(conn),
            Conn::Postgres(conn) => run!(conn),
        }
        .map_err(|error| failed(page.select, error))
    }
}

/// Row by row, so that what is too much is never held.
async fn take<R: Rows>(
    page: &ListPage,
    mut found: impl Stream<Item = sqlx::Result<R>> + Unpin,
) -> sqlx::Result<Batch<R>> {
    let (mut rows, mut held_bytes) = (Vec::new(), 0);
    while let Some(row) = found.try_next().await? {
        held_bytes += row.size_bytes();
        rows.push(row);
        if held_bytes >= page.limit_bytes {
            return Ok(Batch { rows, ended: false });
        }
    }
    let ended = rows.len() < page.limit;
    Ok(Batch { rows, ended })
}

/// `a < $1 OR (a = $1 AND b > $2)`, written as nested conditions so that mixed directions work.
fn statement(page: &ListPage) -> (String, Vec<KeyValue>) {
    let mut values = Vec::new();
    let mut place = |value: &KeyValue| {
        values.push(value.clone());
        format!("${}", values.len())
    };
    let mut sql = page.select.to_owned();
    let mut joint = " WHERE ";
    for (condition, value) in &page.conditions {
        sql += &format!("{joint}{condition} {}", place(value));
        joint = " AND ";
    }
    if let Some(after) = &page.after {
        let mut beyond = String::new();
        for (key, value) in page.sort.iter().zip(after).rev() {
            let further = if key.descending { "<" } else { ">" };
            let at = place(value);
            beyond = if beyond.is_empty() {
                format!("{} {further} {at}", key.column)
            } else {
                format!("({0} {further} {at} OR ({0} = {at} AND {beyond}))", key.column)
            };
        }
        sql += &format!("{joint}{beyond}");
    }
    let order: Vec<String> = page
        .sort
        .iter()
        .map(|key| format!("{}{}", key.column, if key.descending { " DESC" } else { "" }))
        .collect();
    sql += &format!(" ORDER BY {} LIMIT {}", order.join(", "), page.limit);
    (sql, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_starts_strictly_after_the_last_row_of_the_one_before() {
        let page = ListPage {
            select: "SELECT * FROM content",
            conditions: vec![("namespace =", KeyValue::Text("default".into()))],
            sort: vec![
                OrderBy { column: "size", descending: true },
                OrderBy { column: "digest", descending: false },
            ],
            after: Some(vec![KeyValue::Number(7), KeyValue::Text("sha256:aa".into())]),
            limit: 3,
            limit_bytes: 1,
        };
        let (sql, values) = statement(&page);
        assert_eq!(
            sql,
            "SELECT * FROM content WHERE namespace = $1 AND (size < $3 OR (size = $3 AND digest > $2)) \
             ORDER BY size DESC, digest LIMIT 3"
        );
        assert_eq!(values.len(), 3);
    }
}
