//! The whole server: everything is opened here, in order, and closed in reverse.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{self, Config, Devices};
use crate::db::Db;
use crate::disk::Disk;
use crate::error::{Doing, Error, Result};
use crate::http::serve::Server;
use crate::http::{self, AppState, Parts, tls};
use crate::jobs::{self, AddressPolicy, DockerConfig, HostsDirs, Jobs, Sources};
use crate::limits;
use crate::shutdown::{Drained, Shutdown};
use crate::store::{NewToken, Repaired, Settings, Sharing, Store, Token};
use crate::telemetry::{self, Metrics};

/// An open store with its jobs, ready to be served.
pub struct App {
    pub state: AppState,
    pub repaired: Repaired,
    db: Db,
}

impl App {
    /// Opens disk, database, store and jobs, and repairs what the last end left.
    ///
    /// # Errors
    /// `AlreadyExists` when another server has the data directory; `Unavailable` when the database does not answer.
    pub async fn open(config: Config, clock: Clock) -> Result<App> {
        let shutdown = Shutdown::new();
        let hosts = HostsDirs::new(config.hosts_dirs.clone());
        let hosts =
            shutdown.spawn_blocking("look into the hosts directories", move || hosts.check()).await??;
        let (db, store) = open_store(&config, &clock, &shutdown).await?;
        let repaired = store.repair().await?;
        store.start_tasks();
        let metrics = Arc::new(Metrics::new());
        let addresses = match config.may_pull_privately() {
            true => AddressPolicy::Private,
            false => AddressPolicy::Public,
        };
        let mut settings = jobs::Settings::new(config.pull_concurrency, config.layer_concurrency, addresses);
        settings.crowd = jobs::Crowd { host: config.host_concurrency, total: config.request_concurrency };
        settings.parts.at_once = config.blob_concurrency;
        settings.metrics = metrics.jobs.clone();
        settings.sources = Sources {
            hosts: Arc::new(hosts),
            docker: DockerConfig::new(config.docker_config.clone()),
            rules: Arc::new(config.registry_rules.clone()),
        };
        settings.devices = match config.devices {
            Devices::Record => jobs::Devices::Recorded,
            Devices::Make => jobs::Devices::Made,
        };
        let jobs = Jobs::new(store.clone(), clock.clone(), shutdown.clone(), settings);
        jobs.resume_unfinished().await?;
        let state = AppState::new(Parts {
            store,
            jobs,
            auth_required: config.auth_required(),
            config: Arc::new(config),
            metrics,
            shutdown,
            event_places: Arc::new(Semaphore::new(limits::EVENT_CLIENTS)),
            readiness: Default::default(),
            started_at: clock.now(),
            clock,
        });
        Ok(App { state, repaired, db })
    }

    /// Serves on `listener` until the soft token, then lets everything end within the grace time.
    ///
    /// # Errors
    /// `Invalid` when the TLS files cannot be used.
    pub async fn serve(self, listener: TcpListener) -> Result<()> {
        let state = self.state.clone();
        let acceptor = state.config.tls.as_ref().map(tls::acceptor).transpose()?;
        let routes = http::guarded(&state);
        let metrics = state.metrics.http.clone();
        let server = Server::new(state.shutdown.clone(), acceptor, metrics);
        let serving = state.shutdown.spawn("accept", server.serve(listener, Arc::new(routes)));
        // It goes on while connections do, which is for the grace time to end.
        state.shutdown.soft().run_until_cancelled(serving).await;
        let was_told_to = state.shutdown.is_stopping();
        self.close().await;
        match was_told_to {
            true => Ok(()),
            false => Err(Error::internal("serve: nobody accepts connections any more")),
        }
    }

    /// Ends everything, in reverse: requests and jobs first, then the store's own writers, then the database.
    pub async fn close(self) {
        let App { state, db, .. } = self;
        if let Drained::Cut { tasks } = state.shutdown.drain(state.config.shutdown_grace).await {
            warn!(tasks, "Stopped before everything had ended");
        }
        db.close().await;
        // The lock of the data directory goes with the store, last of all.
        drop(state);
    }
}

async fn open_store(config: &Config, clock: &Clock, shutdown: &Shutdown) -> Result<(Db, Store)> {
    let directory = config.data_dir.clone();
    let disk = shutdown.spawn_blocking("open the data directory", move || Disk::open(&directory)).await??;
    let db = match &config.database_url {
        Some(url) => Db::open_postgres(url.expose(), shutdown).await?,
        // It blocks for a moment, when nothing else waits for this thread.
        None => Db::open_sqlite(&disk.private_database()?, shutdown).await?,
    };
    let settings = Settings {
        grace_lease: config.grace_lease,
        ingest_expiry: config.ingest_expiry,
        sharing: match config.sharing {
            config::Sharing::Shared => Sharing::Shared,
            config::Sharing::Isolated => Sharing::Isolated,
        },
        max_blob_bytes: config.max_blob_size,
    };
    let store = Store::new(disk, db.clone(), clock.clone(), settings, shutdown.clone())?;
    // Before anything else looks into it: also a command that ends at once changes only what is its own.
    store.claim_database().await?;
    Ok((db, store))
}

/// `orlop serve`: until a signal.
///
/// # Errors
/// Whatever keeps the server from starting, in words for the person who started it.
pub async fn serve(config: Config) -> Result<()> {
    telemetry::init(&config.log, config.log_format)?;
    let (listen, scheme) = (config.listen, if config.tls.is_some() { "https" } else { "http" });
    let listener = TcpListener::bind(listen).await.doing(format!("listen on {listen}"))?;
    let address = listener.local_addr().doing("ask for our own address")?;
    let app = App::open(config, Clock::system()).await?;
    app.state.shutdown.on_signals()?;
    if !app.repaired.is_nothing() {
        let repaired = serde_json::to_string(&app.repaired).unwrap_or_default();
        info!(repaired, "Repaired what the last end left");
    }
    let config = &app.state.config;
    for (setting, path) in config.absent_files() {
        let path = path.display();
        warn!(
            setting,
            "There is nothing at `{path}`, which the setting {setting} names: pulls go without it"
        );
    }
    eprintln!(
        "orlop {} · data {} ({}) · {scheme}://{address}\n  UI    {scheme}://{address}/\n  API   \
         {scheme}://{address}/docs   schema /openapi.yaml",
        env!("CARGO_PKG_VERSION"),
        config.data_dir.display(),
        app.state.store.database_kind(),
    );
    if app.state.auth_required {
        eprintln!(
            "  every call needs a token; the first is made while no server runs here:\n    \
             orlop token create --name NAME --scope admin --data-dir {}",
            config.data_dir.display()
        );
    }
    info!(%address, "Serving");
    app.serve(listener).await?;
    info!("Stopped");
    Ok(())
}

/// Makes a token without a server: for the first one. Refuses while a server has the data directory.
///
/// # Errors
/// `AlreadyExists` when a server runs; as [`Store::create_token`].
pub async fn create_token_offline(config: Config, new: NewToken) -> Result<(Token, String)> {
    let shutdown = Shutdown::new();
    let (db, store) = open_store(&config, &Clock::system(), &shutdown).await?;
    let made = store.create_token(new).await;
    shutdown.drain(config.shutdown_grace).await;
    db.close().await;
    made
}
