//! The database of a server, by hand.

use sqlx::{Connection, SqliteConnection};

use super::app::TestApp;

/// A statement on the database of a server, which is better stopped. The number of rows that it touched.
pub async fn execute(app: &TestApp, statement: &str) -> u64 {
    match app.database() {
        Some(database) => {
            let mut connection =
                sqlx::PgConnection::connect(&database.url()).await.expect("the database answers");
            let done =
                sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut connection).await;
            done.expect(statement).rows_affected()
        }
        None => {
            let path = app.data_dir().join("orlop.db");
            let mut connection =
                SqliteConnection::connect(path.to_str().expect("text")).await.expect("the database");
            let done =
                sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut connection).await;
            let done = done.expect(statement).rows_affected();
            connection.close().await.expect("it closes");
            done
        }
    }
}
