//! `orlop status`, `health`, `version` and `config`: how it is, and with what it runs.

use clap::Subcommand;
use futures_util::future::try_join;
use reqwest::Method;
use serde_json::{Value, json};

use super::context::{Context, Global, Output, write_line};
use super::failure::{Exit, Failure};
use super::list::time_left;
use super::progress::done_part;
use super::text::{escape, human_bytes, human_part, human_time, table, to_pretty_json};
use crate::config::{Config, ServeArgs, example};

/// Leases that end within this time are worth a look, in seconds.
const SOON: u64 = 86_400;
/// Rows of each part of `orlop status`: it is one screen.
const ROWS: usize = 5;

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Each setting, its value, and where that comes from
    #[command(
        before_help = "Examples:\n  orlop config show\n  orlop config show --data-dir /var/lib/orlop --json"
    )]
    Show(#[command(flatten)] ServeArgs),
    /// Whether `orlop serve` would take these flags, variables and file
    Check(#[command(flatten)] ServeArgs),
    /// A configuration file that sets nothing and says everything
    #[command(before_help = "Examples:\n  orlop config example > ~/.config/orlop/config.toml")]
    Example,
}

pub fn config(global: &Global, command: ConfigCommand) -> Result<(), Failure> {
    let load = |args: &ServeArgs| {
        let wrong = |e: &crate::error::Error| Failure::local("read the configuration", e);
        Config::load(args, std::env::vars_os()).map_err(|e| wrong(&e))
    };
    match command {
        ConfigCommand::Example => write_line(&example()),
        ConfigCommand::Check(args) => load(&args).map(drop),
        ConfigCommand::Show(args) => {
            let config = load(&args)?;
            let settings = config.settings();
            if global.output() == Output::Json {
                let item = |s: &crate::config::Shown| json!({"key": s.key, "value": s.value, "source": s.source, "place": s.place});
                let items: Vec<Value> = settings.iter().map(item).collect();
                return write_line(&to_pretty_json(&json!({"items": items})));
            }
            let row = |s: &crate::config::Shown| vec![s.key.to_owned(), s.value.clone(), s.place.clone()];
            write_line(&table(&["SETTING", "VALUE", "FROM"], &settings.iter().map(row).collect::<Vec<_>>()))
        }
    }
}

/// Exit 0 when the server answers that it is well, 7 otherwise: for the health check of a container.
pub async fn health(context: &Context) -> Result<(), Failure> {
    let call = context.client.call(Method::GET, &["healthz"], "ask the server for its health");
    match call.fetch().await {
        Ok(health) => context.print(&health, |_| "ok".to_owned()),
        Err(mut failure) => {
            failure.exit = Exit::Unreachable;
            Err(failure)
        }
    }
}

/// This program's version; with `--json`, as `/version` of a server writes it.
pub fn version(global: &Global) -> Result<(), Failure> {
    let (name, version, commit) = ("orlop", env!("CARGO_PKG_VERSION"), option_env!("ORLOP_COMMIT"));
    match global.output() {
        Output::Json => write_line(&to_pretty_json(
            &json!({"name": name, "version": version, "commit": commit, "api": "v1"}),
        )),
        Output::Text => match commit {
            Some(commit) => write_line(&format!("{name} {version} ({commit})")),
            None => write_line(&format!("{name} {version}")),
        },
    }
}

/// One screen for whoever is on call.
pub async fn status(context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    let usage = client.call(Method::GET, &["api", "v1", "system", "usage"], "ask the server what it stores");
    let first = try_join(about(context), usage.fetch());
    let count = ROWS.to_string();
    let pulls = client.scoped(Method::GET, &["pulls"], "list pulls that run").query("limit", &count);
    let pulls = pulls.queries("filter", &["state==running".to_owned(), "state==queued".to_owned()]).fetch();
    // Those without an end come last, so a few from the front are the ones that end first.
    let leases = client.scoped(Method::GET, &["leases"], "list leases").query("limit", &count);
    let leases = leases.query("sort", "expires_at").fetch();
    let ((info, usage), (pulls, leases)) = try_join(first, try_join(pulls, leases)).await?;
    let status = json!({"server": client.server(), "namespace": client.namespace(), "info": info, "usage": usage, "pulls": pulls["items"], "leases": ending(&leases)});
    context.print(&status, |status| screen(status, |text| context.paint.bold(text)))
}

/// What the server says of itself; to a caller who is no admin, only its version.
async fn about(context: &Context) -> Result<Value, Failure> {
    let doing = "ask the server about itself";
    let info = context.client.call(Method::GET, &["api", "v1", "system", "info"], doing).fetch().await;
    match info {
        Err(failure) if failure.exit == Exit::Denied => {
            context.client.call(Method::GET, &["version"], doing).fetch().await
        }
        info => info,
    }
}

fn ending(leases: &Value) -> Vec<&Value> {
    let items = leases["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let soon = |lease: &&Value| lease["expires_in_seconds"].as_u64().is_some_and(|seconds| seconds <= SOON);
    items.iter().filter(soon).collect()
}

fn screen(status: &Value, bold: impl Fn(&str) -> String) -> String {
    let text = |pointer: &str| escape(status.pointer(pointer).and_then(Value::as_str).unwrap_or("-"));
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let up =
        status.pointer("/info/uptime_seconds").and_then(Value::as_u64).map(std::time::Duration::from_secs);
    let up = up.map_or_else(String::new, |up| format!(", up {}", human_time(up)));
    let (free, capacity) = (number("/usage/free_bytes"), number("/usage/capacity_bytes"));
    let mut lines = vec![
        format!("{} at {}{up}", bold(&format!("orlop {}", text("/info/version"))), text("/server")),
        format!("database  {}", text("/info/database")),
        format!("disk      {} free of the file system", human_part(free, capacity)),
        format!(
            "stored    {} in {} blobs, {} saved by sharing",
            human_bytes(number("/usage/on_disk_bytes")),
            number("/usage/blobs"),
            human_bytes(number("/usage/saved_bytes")),
        ),
        format!(
            "records   {} images, {} leases, {} ingests, {} namespaces",
            number("/usage/images"),
            number("/usage/leases"),
            number("/usage/ingests"),
            number("/usage/namespaces"),
        ),
    ];
    match number("/usage/damaged_blobs") {
        0 => {}
        1 => lines.push("DAMAGED   1 blob is missing or damaged: store or pull it again".to_owned()),
        many => {
            lines.push(format!("DAMAGED   {many} blobs are missing or damaged: store or pull them again"))
        }
    }
    let part = |title: &str, none: &str, rows: Vec<Vec<String>>| match rows.as_slice() {
        [] => format!("\n{none}"),
        rows => format!("\n{}\n{}", bold(title), table(&["", "", ""], rows).trim_end()),
    };
    let items = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    let word = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    let pull = |pull: &Value| {
        let state = format!("{} {}", word(pull, "state"), done_part(pull));
        vec![format!("  {}", word(pull, "id")), state, word(pull, "ref")]
    };
    // What is above is of the whole server, what follows of one namespace: several have pulls and leases.
    let place = format!("in namespace {}", text("/namespace"));
    let pulls = items("pulls").iter().map(pull).collect();
    lines.push(part(&format!("pulls {place}"), &format!("no pull is active {place}"), pulls));
    let lease =
        |lease: &Value| vec![format!("  {}", word(lease, "id")), word(lease, "kind"), time_left(lease)];
    let leases = items("leases").iter().map(lease).collect();
    let (title, none) =
        (format!("leases that end soon {place}"), format!("no lease ends within a day {place}"));
    lines.push(part(&title, &none, leases));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_one_screen() {
        let status = json!({
            "server": "http://127.0.0.1:7070", "namespace": "build",
            "info": {"version": "0.1.0", "uptime_seconds": 3700, "database": "sqlite"},
            "usage": {"free_bytes": 1 << 30, "capacity_bytes": 2u64 << 30, "blobs": 3, "on_disk_bytes": 2048},
            "pulls": [{"id": "pull_1", "state": "running", "ref": "alpine", "progress": {"bytes_done": 1, "bytes_total": 2}}],
            "leases": [],
        });
        let shown = screen(&status, str::to_owned);
        assert!(
            shown.starts_with("orlop 0.1.0 at http://127.0.0.1:7070, up 1h 1m\ndatabase  sqlite\n"),
            "{shown}"
        );
        assert!(shown.contains("1.0/2.0 GiB free"), "{shown}");
        assert!(shown.contains("  pull_1  running 1/≥2 B  alpine"), "{shown}");
        assert!(shown.contains("\npulls in namespace build\n"), "{shown}");
        assert!(shown.ends_with("no lease ends within a day in namespace build"), "{shown}");
        let idle = screen(&json!({"namespace": "build", "pulls": []}), str::to_owned);
        assert!(idle.contains("\nno pull is active in namespace build\n"), "{idle}");
    }

    #[test]
    fn only_leases_that_end_within_a_day_are_shown() {
        let leases = json!({"items": [{"expires_in_seconds": 60}, {"expires_in_seconds": 90_000}, {"expires_in_seconds": null}]});
        assert_eq!(ending(&leases).len(), 1);
    }
}
