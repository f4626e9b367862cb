//! The real server inside a test: its own data directory, its own database, a clock that is moved by hand.
//!
//! Every answer that a test sees is held against `openapi.yaml` on its way; one that does not fit ends the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::Duration;

use http::Method;
use orlop::app::App;
use orlop::clock::{Clock, Time};
use orlop::config::{Config, ServeArgs};
use orlop::error::{Result, with_causes};
use orlop::http::AppState;
use orlop::store::Repaired;
use sha2::Digest as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::contract::Contract;
use super::postgres::{Database, fresh_database};
use super::raw::RawConnection;
use super::request::Request;

/// Which database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Sqlite,
    Postgres,
}

/// A running server, and a client for it.
pub struct TestApp {
    pub clock: TestClock,
    pub client: reqwest::Client,
    settings: Vec<(String, String)>,
    running: Mutex<Option<Running>>,
    // Declared after the server, so dropped after it.
    directory: Directory,
    database: Option<Database>,
}

/// Where the data is: of this test alone, or of somebody who wants it in a place of theirs.
enum Directory {
    Own(TempDir),
    Given(PathBuf),
}

struct Running {
    address: SocketAddr,
    repaired: Repaired,
    state: AppState,
    serving: JoinHandle<()>,
}

/// A clock that starts at the real time and then stands still until it is moved.
#[derive(Debug, Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    fn start() -> TestClock {
        TestClock(Arc::new(AtomicI64::new(Clock::system().now().0)))
    }

    pub fn advance(&self, length: Duration) {
        let micros = i64::try_from(length.as_micros()).expect("a test does not wait for ages");
        self.0.fetch_add(micros, Ordering::SeqCst);
    }

    pub fn now(&self) -> Time {
        Time(self.0.load(Ordering::SeqCst))
    }

    fn handed_out(&self) -> Clock {
        let clock = self.clone();
        Clock::new(move || clock.now())
    }
}

impl TestApp {
    /// A server on SQLite with nothing in it.
    pub async fn start() -> TestApp {
        TestApp::with(On::Sqlite, &[]).await
    }

    /// A server with nothing in it. `settings` are keys of the configuration file and their values.
    pub async fn with(on: On, settings: &[(&str, &str)]) -> TestApp {
        let directory = Directory::Own(tempfile::tempdir().expect("a data directory"));
        let database = (on == On::Postgres).then(fresh_database);
        let app = TestApp::build(directory, database, settings);
        app.start_again().await;
        app
    }

    /// A server on SQLite in a directory that the test looks after.
    pub async fn in_directory(directory: &Path, settings: &[(&str, &str)]) -> TestApp {
        let app = TestApp::build(Directory::Given(directory.to_owned()), None, settings);
        app.start_again().await;
        app
    }

    /// A server over a database that the test looks after.
    pub async fn over(database: Database) -> TestApp {
        let directory = Directory::Own(tempfile::tempdir().expect("a data directory"));
        let app = TestApp::build(directory, Some(database), &[]);
        app.start_again().await;
        app
    }

    /// Why a server on SQLite does not start in this directory.
    pub async fn refused(directory: &Path) -> String {
        TestApp::refused_with(directory, &[]).await
    }

    /// Why a server with these settings does not start in this directory.
    pub async fn refused_with(directory: &Path, settings: &[(&str, &str)]) -> String {
        let app = TestApp::build(Directory::Given(directory.to_owned()), None, settings);
        with_causes(&app.try_start().await.expect_err("a start that is refused"))
    }

    fn build(directory: Directory, database: Option<Database>, settings: &[(&str, &str)]) -> TestApp {
        install_provider();
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a client");
        let running = Mutex::new(None);
        TestApp { clock: TestClock::start(), client, settings, running, directory, database }
    }

    /// Starts the stopped server over the same directory and database.
    pub async fn start_again(&self) {
        if let Err(error) = self.try_start().await {
            panic!("the server does not start: {}", with_causes(&error));
        }
    }

    /// As [`TestApp::start_again`], for a start that may be refused.
    pub async fn try_start(&self) -> Result<()> {
        let config = Config::load(&ServeArgs::default(), self.environment())?;
        let app = App::open(config, self.clock.handed_out()).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (state, repaired) = (app.state.clone(), app.repaired.clone());
        let serving = tokio::spawn(async move { app.serve(listener).await.expect("it serves to the end") });
        let running = Running { address, repaired, state, serving };
        assert!(self.running().replace(running).is_none(), "the server runs already");
        Ok(())
    }

    fn environment(&self) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
        let mut settings = vec![("data_dir".to_owned(), self.data_dir().display().to_string())];
        settings.extend(self.database.iter().map(|database| ("database_url".to_owned(), database.url())));
        settings.extend(self.settings.iter().cloned());
        let variable = |key: String| format!("ORLOP_{}", key.to_ascii_uppercase());
        settings.into_iter().map(|(key, value)| (variable(key).into(), value.into())).collect()
    }

    /// Stops the server as SIGTERM does, and waits for its end.
    pub async fn stop(&self) {
        let Running { state, serving, .. } = self.running().take().expect("the server runs");
        state.shutdown.begin();
        // The last holder of the store lets go of the data directory's lock.
        drop(state);
        serving.await.expect("the server ends without a panic");
    }

    /// Stops and starts again: same directory, same database, another port.
    pub async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    /// What the last start repaired.
    pub fn repaired(&self) -> Repaired {
        self.running().as_ref().expect("the server runs").repaired.clone()
    }

    /// The server from inside: for what a test cannot bring about from outside.
    pub fn state(&self) -> AppState {
        self.running().as_ref().expect("the server runs").state.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.running().as_ref().expect("the server runs").address
    }

    pub fn data_dir(&self) -> &Path {
        match &self.directory {
            Directory::Own(directory) => directory.path(),
            Directory::Given(path) => path,
        }
    }

    /// `None` on SQLite.
    pub fn database(&self) -> Option<&Database> {
        self.database.as_ref()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().expect("nobody panics with the lock")
    }

    /// A request for a path with its query, as it is: nothing in it is escaped or tidied up.
    pub fn request(&self, method: Method, path: impl Into<String>) -> Request {
        Request::new(self.client.clone(), self.address(), method, path.into())
    }

    pub fn get(&self, path: impl Into<String>) -> Request {
        self.request(Method::GET, path)
    }

    pub fn head(&self, path: impl Into<String>) -> Request {
        self.request(Method::HEAD, path)
    }

    pub fn post(&self, path: impl Into<String>) -> Request {
        self.request(Method::POST, path)
    }

    pub fn put(&self, path: impl Into<String>) -> Request {
        self.request(Method::PUT, path)
    }

    pub fn patch(&self, path: impl Into<String>) -> Request {
        self.request(Method::PATCH, path)
    }

    pub fn delete(&self, path: impl Into<String>) -> Request {
        self.request(Method::DELETE, path)
    }

    /// A TCP connection, for what no client would send.
    pub async fn raw(&self) -> RawConnection {
        RawConnection::open(self.address()).await
    }

    /// Stores a blob in the namespace `default`; its digest.
    pub async fn put_blob(&self, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let answer = self.put(format!("/api/v1/content/{digest}/data")).body(bytes).await;
        assert!(matches!(answer.status, 200 | 201), "{answer}");
        digest
    }
}

/// `sha256:…` of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The contract, read once.
pub fn contract() -> &'static Contract {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    CONTRACT.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml");
        let text = std::fs::read_to_string(path).expect("openapi.yaml can be read");
        Contract::load(serde_norway::from_str(&text).expect("openapi.yaml is YAML"))
    })
}

fn install_provider() {
    static ONCE: Once = Once::new();
    // Another test of this process may have been first, which is as good.
    ONCE.call_once(|| drop(rustls::crypto::aws_lc_rs::default_provider().install_default()));
}

/// Runs one story to its end, and the server to its own.
pub async fn tell(on: On, settings: &[(&str, &str)], story: impl AsyncFnOnce(&TestApp)) {
    let app = TestApp::with(on, settings).await;
    story(&app).await;
    app.stop().await;
}

/// One test on SQLite and one on Postgres of the same promise.
///
/// `story!(name, async |app| { … });` or, with settings, `story!(name, [("sharing", "isolated")], async |app| { … });`
#[allow(unused_macros)]
macro_rules! story {
    ($name:ident, $story:expr) => {
        story!($name, [], $story);
    };
    ($name:ident, $settings:expr, $story:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                $crate::support::app::tell($crate::support::app::On::Sqlite, &$settings, $story).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                $crate::support::app::tell($crate::support::app::On::Postgres, &$settings, $story).await;
            }
        }
    };
}
#[allow(unused_imports)]
pub(crate) use story;
