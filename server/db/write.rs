//! Transactions. What runs inside is handed over whole, so that nobody's cancelled request leaves one open.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures_util::FutureExt;
use sqlx::SqlitePool;
use tokio::sync::{mpsc, oneshot};

use super::conn::{Conn, failed};
use super::{Db, Ended, Pools};
use crate::error::{Doing, Error, Result, with_causes};
use crate::shutdown::panic_text;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection inside a transaction.
pub type Tx = Conn;

/// How many transactions share one commit, and its fsync, at most: a bound on what one failure repeats.
const GROUP: usize = 256;

/// How many transactions may wait for the writer before callers wait to hand theirs over.
const QUEUE: usize = 1024;

#[derive(Clone)]
pub(super) struct Queue(mpsc::Sender<Box<dyn Work>>);

impl Db {
    /// Runs `work` as one transaction and waits until it is durable.
    ///
    /// Dropping the returned future does not stop the transaction: it is done whole or not at all.
    ///
    /// # Errors
    /// What `work` answered (then nothing of it is kept), or `Unavailable` when the database does not answer.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let typed = Typed { work: Some(work), outcome: None, reply };
        match &self.pools {
            Pools::Sqlite { queue, .. } => {
                queue.0.send(Box::new(typed)).await.map_err(|_| gone())?;
            }
            Pools::Postgres(pool) => {
                let (pool, ended) = (pool.clone(), self.ended.clone());
                self.shutdown.spawn("transaction", async move {
                    run_alone(&pool, Box::new(typed)).await;
                    tell_end(&ended);
                });
            }
        }
        answer.await.map_err(|_| gone())?
    }
}

fn gone() -> Error {
    Error::Unavailable { what: "the database", source: None }
}

/// A transaction that waits for its turn, with the type of its answer forgotten.
trait Work: Send {
    /// Runs it, and keeps what it answered or how it broke.
    fn run<'c>(&'c mut self, tx: &'c mut Tx) -> BoxFuture<'c, Outcome>;
    /// Gives the caller the answer, once it is known whether it is durable.
    fn finish(self: Box<Self>, committed: Result<()>);
}

/// How the work of a transaction ended.
enum Outcome {
    Keep,
    Undo,
    /// It panicked, maybe in the middle of a statement: the connection is not to be used again.
    Broken,
}

struct Typed<T, F> {
    work: Option<F>,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Work for Typed<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    fn run<'c>(&'c mut self, tx: &'c mut Tx) -> BoxFuture<'c, Outcome> {
        Box::pin(async move {
            let Some(work) = self.work.take() else { return Outcome::Undo };
            // A panic must not end the one writer of SQLite, nor give back a connection inside a transaction. What
            // the work leaves half done is undone, or goes with the connection.
            let (outcome, ended) = match AssertUnwindSafe(async { work(tx).await }).catch_unwind().await {
                Ok(Ok(value)) => (Ok(value), Outcome::Keep),
                Ok(Err(refused)) => (Err(refused), Outcome::Undo),
                Err(panic) => {
                    let doing = format!("run a transaction, which panicked: {}", panic_text(&*panic));
                    (Err(Error::internal(doing)), Outcome::Broken)
                }
            };
            self.outcome = Some(outcome);
            ended
        })
    }

    fn finish(self: Box<Self>, committed: Result<()>) {
        let answer = match (self.outcome, committed) {
            (Some(Err(refused)), _) => Err(refused),
            (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(gone()),
        };
        // A caller that went away no longer wants to know.
        let _ = self.reply.send(answer);
    }
}

/// Starts the one writer of a SQLite database, on a thread of its own: it must outlive every task that may still
/// write, so no stop of tasks ends it. It ends when the last [`Db`] is gone.
pub(super) fn start_writer(pool: SqlitePool, ended: Ended) -> Result<Queue> {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("orlop-db-writer".to_owned())
        .spawn(move || runtime.block_on(run_writer(pool, waiting, ended)))
        .doing("start the database writer")?;
    Ok(Queue(queue))
}

/// Takes transactions as they come; those that wait while one commit is on its way share the next.
async fn run_writer(pool: SqlitePool, mut waiting: mpsc::Receiver<Box<dyn Work>>, ended: Ended) {
    while let Some(first) = waiting.recv().await {
        let mut conn = match pool.acquire().await {
            Ok(conn) => Conn::Sqlite(conn),
            Err(error) => {
                first.finish(Err(failed("take the database writer", error)));
                continue;
            }
        };
        let mut group = Vec::new();
        let committed = run_group(&mut conn, first, &mut waiting, &mut group).await;
        if committed.is_err() {
            discard(conn).await;
        }
        let failure = committed.err();
        for work in group {
            work.finish(failure.as_ref().map_or(Ok(()), |error| Err(repeat(error))));
        }
        tell_end(&ended);
    }
}

/// Says that a transaction has ended, also one that failed: others may have waited for it to be out of their way.
fn tell_end(ended: &Ended) {
    ended.send_modify(|count| *count += 1);
}

/// The failure of a commit, for one more of the transactions that shared it.
fn repeat(error: &Error) -> Error {
    match error {
        Error::OutOfSpace { doing, .. } => {
            Error::OutOfSpace { doing: doing.clone(), source: with_causes(error).into() }
        }
        _ => Error::Unavailable { what: "the database", source: Some(with_causes(error).into()) },
    }
}

/// One commit of as many transactions as wait, each within a savepoint of its own.
async fn run_group(
    conn: &mut Conn,
    first: Box<dyn Work>,
    waiting: &mut mpsc::Receiver<Box<dyn Work>>,
    group: &mut Vec<Box<dyn Work>>,
) -> Result<()> {
    let mut next = Some(first);
    let begun = execute!(&mut *conn, "BEGIN IMMEDIATE");
    while let Some(mut work) = next.take() {
        let ran = match &begun {
            Ok(_) => run_within(conn, work.as_mut()).await,
            Err(_) => Ok(()),
        };
        // Whatever became of it, it is in the group: each is told its own failure, or that of the whole.
        group.push(work);
        ran?;
        if begun.is_ok() && group.len() < GROUP {
            next = waiting.try_recv().ok();
        }
    }
    begun?;
    execute!(&mut *conn, "COMMIT")?;
    Ok(())
}

/// One transaction within a savepoint.
///
/// # Errors
/// What ends the whole group: the connection is broken, or SQLite has rolled everything back by itself, as it may when
/// the disk is full or fails.
async fn run_within(conn: &mut Conn, work: &mut dyn Work) -> Result<()> {
    execute!(&mut *conn, "SAVEPOINT one")?;
    match work.run(conn).await {
        Outcome::Keep => {}
        Outcome::Undo => drop(execute!(&mut *conn, "ROLLBACK TO one")?),
        Outcome::Broken => return Err(gone()),
    }
    execute!(&mut *conn, "RELEASE one")?;
    Ok(())
}

/// One transaction on a connection of its own.
async fn run_alone(pool: &sqlx::PgPool, mut work: Box<dyn Work>) {
    let mut conn = match pool.acquire().await {
        Ok(conn) => Conn::Postgres(conn),
        Err(error) => {
            return work.finish(Err(failed("take a database connection", error)));
        }
    };
    let outcome = async {
        execute!(&mut conn, "BEGIN")?;
        match work.run(&mut conn).await {
            Outcome::Keep => execute!(&mut conn, "COMMIT").map(drop),
            Outcome::Undo => execute!(&mut conn, "ROLLBACK").map(drop),
            Outcome::Broken => Err(gone()),
        }
    }
    .await;
    if outcome.is_err() {
        discard(conn).await;
    }
    work.finish(outcome);
}

/// Closes a connection whose transaction did not end as it should: the pool must never lend it again.
async fn discard(conn: Conn) {
    match conn {
        Conn::Sqlite(conn) => drop(conn.close().await),
        Conn::Postgres(conn) => drop(conn.close().await),
    }
}
