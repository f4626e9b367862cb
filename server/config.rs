//! The configuration: read once at start, checked in full, then handed on as plain values.
//!
//! A setting is said once, in [`SETTINGS`]: its file key, from which follow its flag (`--data-dir`) and its variable
//! (`ORLOP_DATA_DIR`), its default and its help. Flags win over the environment, the environment over the
//! file, the file over the default; each value remembers where it came from.

mod settings;
mod sources;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

pub use settings::{Kind, SETTINGS, Setting, example};
pub use sources::{ServeArgs, Source, check_variables};

use crate::error::{Error, Result};
use crate::oci::Rules;
use values::Values;

/// What the server was told, in checked types.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// `None`: SQLite in the data directory.
    pub database_url: Option<DatabaseUrl>,
    /// `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    pub auth: Auth,
    /// Host names, beside the address itself, under which this server is reached; lower case, without a port.
    pub allowed_hosts: Vec<String>,
    /// The filter of log lines, in the syntax of `RUST_LOG`.
    pub log: String,
    pub log_format: LogFormat,
    /// How long something new is kept that nobody leased.
    pub grace_lease: Duration,
    /// How long an idle ingest is kept.
    pub ingest_expiry: Duration,
    pub sharing: Sharing,
    /// In bytes.
    pub max_blob_size: u64,
    /// How long requests and jobs may go on after the signal to stop.
    pub shutdown_grace: Duration,
    pub pull_concurrency: usize,
    pub layer_concurrency: usize,
    pub blob_concurrency: usize,
    pub host_concurrency: usize,
    pub request_concurrency: usize,
    pub private_registries: PrivateRegistries,
    /// Which registries pulls may name.
    pub registry_rules: Rules,
    /// Hosts directories, in the order in which they are looked into.
    pub hosts_dirs: Vec<PathBuf>,
    pub docker_config: Option<PathBuf>,
    pub devices: Devices,
    shown: Vec<Shown>,
}

/// A Postgres URL. Its password is in no `Debug`, no log and no answer.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

/// The PEM files of the TLS certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// When a request needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Not on a loopback address, always on any other; and where the server goes by further names, for then something
    /// on this machine lets others in.
    Auto,
    Always,
}

/// Whether a pull may contact addresses of private networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivateRegistries {
    /// Where no token is asked for: whoever may use the server then can reach as much without it.
    Auto,
    Allow,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON anywhere else.
    Auto,
    Text,
    Json,
}

/// Whether an ingest may find its bytes in another namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    Shared,
    Isolated,
}

/// What becomes of the device nodes of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They are known, listed and archived, and not made.
    Record,
    /// Where the server is root.
    Make,
}

/// One setting as `orlop config show` and `/api/v1/system/info` print it: secrets are redacted already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    pub key: &'static str,
    pub value: String,
    pub source: Source,
    /// The flag, variable, or file and line. For the person at this machine only, not for clients.
    #[serde(skip)]
    pub place: String,
}

impl Config {
    /// Gathers and checks all settings. `environment` is the process environment, handed in so that a test
    /// brings its own.
    ///
    /// # Errors
    /// `Invalid`, naming the flag, variable or line of the file at fault.
    pub fn load(
        args: &ServeArgs,
        environment: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Config> {
        Config::check(&Values::new(sources::gather(args, environment)?))
    }

    fn check(values: &Values) -> Result<Config> {
        let config = Config {
            listen: values.parse("listen", values::address)?,
            data_dir: values.parse("data_dir", values::path)?,
            database_url: values.database_url()?,
            tls: values.tls()?,
            auth: values.parse("auth", |text| {
                values::one_of(text, &[("auto", Auth::Auto), ("always", Auth::Always)])
            })?,
            allowed_hosts: values.parse("allowed_hosts", values::hosts)?,
            log: values.parse("log", values::log_filter)?,
            log_format: values.parse("log_format", |text| {
                let formats =
                    [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
                values::one_of(text, &formats)
            })?,
            grace_lease: values.parse("grace_lease", values::some_time)?,
            ingest_expiry: values.parse("ingest_expiry", values::some_time)?,
            sharing: values.parse("sharing", |text| {
                values::one_of(text, &[("shared", Sharing::Shared), ("isolated", Sharing::Isolated)])
            })?,
            max_blob_size: values.parse("max_blob_size", values::size)?,
            shutdown_grace: values.parse("shutdown_grace", crate::clock::parse_duration)?,
            pull_concurrency: values.parse("pull_concurrency", |text| values::count(text, 64))?,
            layer_concurrency: values.parse("layer_concurrency", |text| values::count(text, 64))?,
            blob_concurrency: values.parse("blob_concurrency", |text| values::count(text, 16))?,
            host_concurrency: values.parse("host_concurrency", |text| values::count(text, 1_024))?,
            request_concurrency: values.parse("request_concurrency", |text| values::count(text, 1_024))?,
            private_registries: values.parse("private_registries", |text| {
                let choices = [
                    ("auto", PrivateRegistries::Auto),
                    ("allow", PrivateRegistries::Allow),
                    ("refuse", PrivateRegistries::Refuse),
                ];
                values::one_of(text, &choices)
            })?,
            registry_rules: Rules {
                allowed: values.parse("allowed_registries", values::rules)?,
                denied: values.parse("denied_registries", values::rules)?,
            },
            hosts_dirs: values
                .parse("hosts_dir", |text| Ok(values::listed(text).map(PathBuf::from).collect()))?,
            docker_config: values.parse("docker_config", |text| {
                Ok(Some(text).filter(|path| !path.is_empty()).map(PathBuf::from))
            })?,
            devices: values.parse("devices", |text| {
                values::one_of(text, &[("record", Devices::Record), ("make", Devices::Make)])
            })?,
            shown: values.shown(),
        };
        config.refuse_plain_http_in_public(values.parse("insecure_http", values::switch)?)?;
        Ok(config)
    }

    /// Tokens and content in the clear on a network are never an accident here.
    fn refuse_plain_http_in_public(&self, insecure_http: bool) -> Result<()> {
        if self.listen.ip().is_loopback() || self.tls.is_some() || insecure_http {
            return Ok(());
        }
        Err(Error::invalid_field(
            "listen",
            format!(
                "refusing to serve plain HTTP on {}, which other machines can reach. Either give TLS files:\n  \
                 orlop serve --listen {0} --tls-cert FILE --tls-key FILE\nor, behind a proxy that does TLS:\n  \
                 orlop serve --listen {0} --insecure-http",
                self.listen
            ),
        ))
    }

    /// The settings that name a file or directory which pulls read and which is not there, each with its path: not
    /// wrong, for it may come yet.
    pub fn absent_files(&self) -> Vec<(&'static str, &Path)> {
        let hosts = self.hosts_dirs.iter().map(|path| ("hosts_dir", path.as_path()));
        let docker = self.docker_config.iter().map(|path| ("docker_config", path.as_path()));
        hosts.chain(docker).filter(|(_, path)| !path.exists()).collect()
    }

    /// Whether every request but health needs a token.
    pub fn auth_required(&self) -> bool {
        match self.auth {
            Auth::Always => true,
            Auth::Auto => !self.listen.ip().is_loopback() || !self.allowed_hosts.is_empty(),
        }
    }

    /// Whether a pull may contact addresses of private networks.
    pub fn may_pull_privately(&self) -> bool {
        match self.private_registries {
            PrivateRegistries::Allow => true,
            PrivateRegistries::Refuse => false,
            PrivateRegistries::Auto => !self.auth_required(),
        }
    }

    /// All settings with their values and sources, in the order of [`SETTINGS`], secrets redacted.
    pub fn settings(&self) -> &[Shown] {
        &self.shown
    }
}

impl DatabaseUrl {
    /// The URL with its password: for the database driver only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&values::redacted(&self.0))
    }
}

/// A setting's text as it was given, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    text: String,
    source: Source,
    /// For messages: `--listen`, `ORLOP_LISTEN`, `/etc/orlop/config.toml, line 3`.
    place: String,
}

type Gathered = BTreeMap<&'static str, Given>;

#[cfg(test)]
mod tests;
