//! A real PostgreSQL for the tests: one cluster for all of them, a database of its own for each.
//!
//! `tests/with-postgres.sh` starts and ends the clusters. `make test` runs the whole suite under it; a
//! test run without it starts a cluster for its own process, by the same script.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, thread};

use orlop::id::random_bytes;
use sqlx::{Connection, PgConnection};
use url::Url;

use super::command::run;

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster that a test may stop and start, and that goes away with it.
#[derive(Debug)]
pub struct Cluster {
    url: Url,
    ctl: String,
    /// The script, which waits for the end of its standard input: this process closes it by ending,
    /// however it ends, and the script takes the cluster away.
    script: Child,
}

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Connections are closed, transactions rolled back.
    Fast,
    /// As a crash: the next start recovers.
    Immediate,
}

/// A database that no other test uses; it is dropped with this value.
#[derive(Debug)]
pub struct Database {
    cluster: Url,
    name: String,
}

impl Cluster {
    pub fn start() -> Cluster {
        let tell = "echo \"$ORLOP_TEST_POSTGRES\"; echo \"$ORLOP_TEST_POSTGRES_CTL\"; cat";
        let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/with-postgres.sh"))
            .args(["sh", "-c", tell])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Out of reach of a signal to this process's group, which would leave the server behind.
            .process_group(0)
            .spawn()
            .expect("tests/with-postgres.sh starts");
        let mut told = BufReader::new(script.stdout.take().expect("stdout is piped")).lines();
        let (Some(Ok(url)), Some(Ok(ctl))) = (told.next(), told.next()) else {
            let mut said = String::new();
            let stderr = script.stderr.as_mut().expect("stderr is piped");
            stderr.read_to_string(&mut said).expect("the script writes UTF-8");
            panic!("no PostgreSQL cluster: {said}");
        };
        Cluster { url: url.parse().expect("the script tells a URL"), ctl, script }
    }

    pub fn fresh_database(&self) -> Database {
        Database::create(self.url.clone())
    }

    /// What the cluster keeps on disk, its socket included.
    pub fn directory(&self) -> PathBuf {
        Path::new(&self.ctl).parent().expect("pg_ctl stands in the cluster's directory").to_owned()
    }

    /// Ends the server and every connection to it; returns when it is down.
    pub fn stop(&self, how: Stop) {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        run(Command::new(&self.ctl).args(["-m", mode, "stop"]), LIMIT).expect_success();
    }

    /// Starts the stopped server; returns when it takes connections.
    pub fn start_again(&self) {
        run(Command::new(&self.ctl).args(["-t", "60", "start"]), LIMIT).expect_success();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// A new database on the cluster that all tests share.
pub fn fresh_database() -> Database {
    static SHARED: OnceLock<(Url, Option<Cluster>)> = OnceLock::new();
    let (url, _own) = SHARED.get_or_init(|| match env::var("ORLOP_TEST_POSTGRES") {
        Ok(url) => (url.parse().expect("ORLOP_TEST_POSTGRES is a URL"), None),
        Err(_) => {
            let own = Cluster::start();
            (own.url.clone(), Some(own))
        }
    });
    Database::create(url.clone())
}

impl Database {
    fn create(cluster: Url) -> Database {
        let name = format!("t_{:032x}", u128::from_be_bytes(random_bytes()));
        execute(cluster.as_str(), &format!("CREATE DATABASE {name} TEMPLATE template0"))
            .expect("a database is made");
        Database { cluster, name }
    }

    /// What `--database-url` takes.
    pub fn url(&self) -> String {
        let mut url = self.cluster.clone();
        url.set_path(&self.name);
        url.into()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // It goes with the cluster anyhow; it goes now so that hundreds do not fill the disk. A stopped
        // server is no reason to fail.
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let _ = execute(self.cluster.as_str(), &drop);
    }
}

/// One statement on a connection of its own, from synchronous and asynchronous tests alike: hence the thread.
pub fn execute(url: &str, sql: &str) -> sqlx::Result<()> {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    let work = async move {
        let mut connection = PgConnection::connect(&url).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await
    };
    let thread = thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(work)
    });
    thread.join().expect("the thread only returns errors")
}
