//! Work that breaks inside a transaction: it fails alone, nothing of it is kept, and the next is as if it had not been.

use orlop::db::{Db, namespaces};
use orlop::error::{Error, Result};
use orlop::shutdown::Shutdown;

use crate::support::postgres::fresh_database;

/// Runs a story over each database. One connection at a time is used, so that a broken one is met again.
async fn over_both(story: impl AsyncFn(&Db)) {
    let (directory, database) = (tempfile::tempdir().expect("a directory"), fresh_database());
    let shutdown = Shutdown::new();
    let path = directory.path().join("orlop.db");
    for db in [Db::open_sqlite(&path, &shutdown).await, Db::open_postgres(&database.url(), &shutdown).await] {
        let db = db.expect("a database");
        story(&db).await;
        db.close().await;
    }
}

async fn make(db: &Db, name: &'static str) -> Result<()> {
    db.write(move |tx| Box::pin(async move { namespaces::touch(tx, name, 1).await.map(drop) })).await
}

async fn is_there(db: &Db, name: &str) -> bool {
    let mut conn = db.read().await.expect("a connection");
    namespaces::find_namespace(&mut conn, name).await.expect("an answer").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_inside_a_transaction_ends_that_transaction_alone() {
    over_both(async |db| {
        for _ in 0..20 {
            let broken = db
                .write(|tx| {
                    Box::pin(async move {
                        namespaces::touch(tx, "half", 1).await?;
                        if true {
                            panic!("this test panics on purpose");
                        }
                        Ok(())
                    })
                })
                .await;
            assert!(matches!(broken, Err(Error::Internal { .. })), "{broken:?}");
            make(db, "whole").await.expect("the next transaction");
        }
        assert!(is_there(db, "whole").await && !is_there(db, "half").await);
    })
    .await;
}

/// SQLite ends a transaction by itself when the disk is full or fails: the savepoint is gone with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_database_has_ended_fails_with_its_own_error() {
    over_both(async |db| {
        let full = db
            .write(|tx| {
                Box::pin(async move {
                    namespaces::touch(tx, "half", 1).await?;
                    end_by_itself(tx).await;
                    let source = "no space left".into();
                    Err::<(), _>(Error::OutOfSpace { doing: "write to the database".into(), source })
                })
            })
            .await;
        assert!(matches!(full, Err(Error::OutOfSpace { .. })), "{full:?}");
        make(db, "whole").await.expect("the next transaction");
        assert!(is_there(db, "whole").await && !is_there(db, "half").await);
    })
    .await;
}

async fn end_by_itself(tx: &mut orlop::db::Tx) {
    let ended = match tx {
        orlop::db::Conn::Sqlite(conn) => sqlx::query("ROLLBACK").execute(&mut **conn).await.map(drop),
        orlop::db::Conn::Postgres(conn) => sqlx::query("ROLLBACK").execute(&mut **conn).await.map(drop),
    };
    ended.expect("the transaction ends");
}
