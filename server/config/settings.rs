//! The table of settings.

use std::fmt::Write;

/// One setting. Its flag and its variable follow from its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file.
    pub key: &'static str,
    pub kind: Kind,
    /// What stands for the value in the help.
    pub value_name: &'static str,
    /// As it would be written; empty where there is none.
    pub default: &'static str,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// True or false; the flag alone means true.
    Switch,
    /// Several values, separated by commas, or an array in the file.
    List,
    /// Text that is never shown.
    Secret,
}

impl Setting {
    /// `data_dir` → `--data-dir`
    pub fn flag(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// `data_dir` → `ORLOP_DATA_DIR`
    pub fn variable(&self) -> String {
        format!("ORLOP_{}", self.key.to_ascii_uppercase())
    }
}

const fn text(
    key: &'static str,
    value_name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, kind: Kind::Text, value_name, default, help }
}

/// Every setting of the server, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    text("listen", "ADDRESS:PORT", "127.0.0.1:7070", "Address to serve on"),
    text("data_dir", "DIR", "./orlop-data", "Directory that holds everything stored"),
    Setting {
        key: "database_url",
        kind: Kind::Secret,
        value_name: "URL",
        default: "",
        help: "Postgres to keep the metadata in, as postgres://user:password@host/database \
               [default: SQLite in the data directory]",
    },
    text("database_url_file", "FILE", "", "File that holds the database URL, for secrets that are mounted"),
    text("tls_cert", "FILE", "", "PEM file of the TLS certificate and its chain"),
    text("tls_key", "FILE", "", "PEM file of the TLS key"),
    Setting {
        key: "insecure_http",
        kind: Kind::Switch,
        value_name: "true|false",
        default: "false",
        help: "Serve plain HTTP on an address that other machines can reach",
    },
    text(
        "auth",
        "auto|always",
        "auto",
        "When a request needs a token; auto asks none on a loopback address that goes by no other name",
    ),
    Setting {
        key: "allowed_hosts",
        kind: Kind::List,
        value_name: "NAME,…",
        default: "",
        help: "Further host names under which this server is reached",
    },
    text("log", "FILTER", "info", "Which log lines to write, as in info or orlop=debug,sqlx=warn"),
    text("log_format", "auto|text|json", "auto", "Form of log lines; auto is text on a terminal, else JSON"),
    text("grace_lease", "TIME", "1h", "How long something new is kept that nobody leased"),
    text("ingest_expiry", "TIME", "24h", "How long an idle ingest is kept"),
    text(
        "sharing",
        "shared|isolated",
        "shared",
        "Whether namespaces lend each other the bytes of their content",
    ),
    text("max_blob_size", "SIZE", "1TiB", "Largest blob that is taken"),
    text("shutdown_grace", "TIME", "20s", "How long requests and jobs may go on after the signal to stop"),
    text("pull_concurrency", "N", "4", "Pulls at once"),
    text(
        "layer_concurrency",
        "N",
        "8",
        "Requests for blobs at once in one pull that names no number of its own",
    ),
    text("blob_concurrency", "N", "4", "Parts of one large blob fetched at once; 1 fetches it in one piece"),
    text("host_concurrency", "N", "16", "Requests at once to one registry, over all pulls"),
    text("request_concurrency", "N", "64", "Requests at once to all registries together"),
    text(
        "private_registries",
        "auto|allow|refuse",
        "auto",
        "Whether a pull may contact addresses of private networks; auto allows it where no token is asked for",
    ),
    Setting {
        key: "allowed_registries",
        kind: Kind::List,
        value_name: "RULE,…",
        default: "",
        help: "Registries that pulls may name, as in ghcr.io, *.example.com or docker.io/library \
               [default: all of them]",
    },
    Setting {
        key: "denied_registries",
        kind: Kind::List,
        value_name: "RULE,…",
        default: "",
        help: "Registries that no pull may name, whatever is allowed",
    },
    Setting {
        key: "hosts_dir",
        kind: Kind::List,
        value_name: "DIR,…",
        default: "",
        help: "Directories with a hosts.toml for each registry, as containerd reads them: mirrors, certificates, headers",
    },
    text("docker_config", "FILE", "", "Docker's config.json, whose credentials pulls may use"),
    text(
        "devices",
        "record|make",
        "record",
        "Device nodes of layers: known, listed and archived, or made as well, which takes root",
    ),
];

/// A configuration file that sets nothing and says everything, for `orlop config example`.
pub fn example() -> String {
    let mut text = String::from(
        "# orlop's configuration. Every line shows a default; uncomment what you change.\n\
         # A flag (--data-dir) or a variable (ORLOP_DATA_DIR) wins over this file.\n",
    );
    for setting in SETTINGS {
        let value = match setting.kind {
            Kind::Switch => setting.default.to_owned(),
            Kind::List => "[]".to_owned(),
            Kind::Text | Kind::Secret => format!("{:?}", setting.default),
        };
        let choices = match setting.value_name.contains('|') {
            true => format!(" ({})", setting.value_name.replace('|', ", ")),
            false => String::new(),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "\n# {}{choices}\n# {} = {value}\n", setting.help, setting.key);
    }
    text
}
