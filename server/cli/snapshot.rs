//! `orlop snapshot`: file systems that are prepared, written, committed and looked into.

mod layers;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::changes::{LabelChanges, label_lines};
use super::context::{Careful, Context, Output, label_map, parse_label, write_line};
use super::digest_arg::{DigestArg, parse_digest_arg, resolve_key};
use super::download::{Download, Origin, refuse_terminal};
use super::failure::{Exit, Failure};
use super::list::{Listing, What, list};
use super::place::{Filed, PlaceArg, parse_place};
use super::put::read_kept;
use super::text::{escape, human_bytes, table};
use super::tree::{TreeForm, show_files};
use layers::{DiffArgs, apply, diff};

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// List snapshots
    #[command(alias = "list")]
    Ls(#[command(flatten)] Listing),
    /// Make an active snapshot, to be written and committed, and print its key
    #[command(before_help = "Examples:\n  orlop snapshot prepare build-1\n  \
        orlop snapshot prepare build-1 sha256:9a1b2c… && orlop snapshot mounts build-1 -o sh | sh -s /mnt")]
    Prepare(#[command(flatten)] PrepareArgs),
    /// Make a view of a committed snapshot, to be looked at, and print its key
    #[command(before_help = "Examples:\n  orlop snapshot view look-1 sha256:9a1b2c…")]
    View(#[command(flatten)] PrepareArgs),
    /// Make an active snapshot immutable, under a name of its own
    #[command(before_help = "Examples:\n  orlop snapshot commit build-1 app-1 --label team=harbour")]
    Commit {
        /// Key of the active snapshot
        key: String,
        /// Key of the committed one
        name: String,
        /// Snapshot to stand on, for one that was prepared without any
        #[arg(long, value_name = "KEY")]
        parent: Option<String>,
        #[command(flatten)]
        keeping: Keeping,
    },
    /// The record of a snapshot
    Stat { key: String },
    /// What a snapshot takes itself, its parents apart
    Usage { key: String },
    /// How an active snapshot or a view is mounted, on the machine of the server
    #[command(before_help = "Examples:\n  orlop snapshot mounts build-1\n  \
        orlop snapshot mounts build-1 -o sh | sudo sh -s /mnt")]
    Mounts {
        key: String,
        /// As a table, or as commands for a shell, which mount at its first argument
        #[arg(long, short, value_name = "FORM", default_value = "table")]
        output: MountForm,
    },
    /// What files a snapshot has, all its layers on each other
    #[command(before_help = "Examples:\n  orlop snapshot files build-1 -L 1\n  \
        orlop snapshot files sha256:9a1b2c…:/etc --flat")]
    Files {
        /// Key of a snapshot, and where in it to begin
        #[arg(value_name = "KEY[:/PATH]", value_parser = parse_place)]
        place: PlaceArg,
        #[command(flatten)]
        form: TreeForm,
    },
    /// All files of a snapshot as one tar
    #[command(before_help = "Examples:\n  orlop snapshot archive app-1 > rootfs.tar\n  \
        orlop snapshot archive sha256:9a1b2c… | tar x -C rootfs")]
    Archive {
        key: String,
        /// Write to this file, which appears when it is complete [default: stdout]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Store the layer of what a snapshot has that another has not, and print its digest
    #[command(
        before_help = "Examples:\n  orlop snapshot diff build-1\n  orlop snapshot diff app-2 app-1 --packing zstd\n  \
        orlop snapshot diff app-1 --whole"
    )]
    Diff(#[command(flatten)] DiffArgs),
    /// Apply a layer to an active snapshot, as the next one on what is there, and print its diff ID
    #[command(before_help = "Examples:\n  orlop snapshot apply build-1 sha256:2cf24d…")]
    Apply {
        /// Key of the active snapshot
        key: String,
        /// Digest of the layer, or its first digits
        #[arg(value_name = "DIGEST", value_parser = parse_digest_arg)]
        layer: DigestArg,
        /// Refuse the layer unless it has this diff ID
        #[arg(long, value_name = "DIGEST")]
        diff_id: Option<String>,
    },
    /// Label a snapshot; KEY= removes a label
    #[command(before_help = "Examples:\n  orlop snapshot label app-1 team=harbour stage=")]
    Label {
        key: String,
        #[command(flatten)]
        changes: LabelChanges,
    },
    /// Remove snapshots, those that stand on others before the others
    #[command(alias = "delete")]
    Rm {
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        careful: Careful,
    },
}

#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// Its key: letters, digits and ._:@+-
    key: String,
    /// Committed snapshot to stand on [default: nothing]
    parent: Option<String>,
    #[command(flatten)]
    keeping: Keeping,
}

/// What is said of a new snapshot, and what keeps it.
#[derive(Debug, Args)]
pub struct Keeping {
    /// Label; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Lease to keep it on [default: a grace lease of the server's]
    #[arg(long, value_name = "ID")]
    lease: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MountForm {
    Table,
    Sh,
}

pub async fn snapshot(context: &Context, command: SnapshotCommand) -> Result<Exit, Failure> {
    match command {
        SnapshotCommand::Ls(listing) => list(context, What::Snapshots, &listing).await?,
        SnapshotCommand::Prepare(args) => prepare(context, &args, "active").await?,
        SnapshotCommand::View(args) => prepare(context, &args, "view").await?,
        SnapshotCommand::Commit { key, name, parent, keeping } => {
            commit(context, &key, &name, parent.as_ref(), &keeping).await?;
        }
        SnapshotCommand::Stat { key } => {
            let record = fetch(context, &key, &[], "get").await?;
            context.print(&record, record_table)?;
        }
        SnapshotCommand::Usage { key } => {
            let usage = fetch(context, &key, &["usage"], "get the usage of").await?;
            context.print(&usage, usage_table)?;
        }
        SnapshotCommand::Mounts { key, output } => mounts(context, &key, output).await?,
        SnapshotCommand::Files { place, form } => {
            let doing = format!("list the files of {place}");
            let filed = Filed::Snapshot(resolve_key(context, &place.of).await?);
            show_files(context, &filed, &place, &form, &doing).await?;
        }
        SnapshotCommand::Archive { key, output } => archive(context, &key, output).await?,
        SnapshotCommand::Diff(args) => diff(context, &args).await?,
        SnapshotCommand::Apply { key, layer, diff_id } => {
            apply(context, &key, &layer, diff_id.as_ref()).await?;
        }
        SnapshotCommand::Label { key, changes } => label(context, &key, &changes).await?,
        SnapshotCommand::Rm { keys, careful } => {
            return super::for_each(context, &keys, async |key| remove(context, key, &careful).await).await;
        }
    }
    Ok(Exit::Success)
}

/// One resource of a snapshot.
async fn fetch(context: &Context, key: &str, what: &[&str], doing: &str) -> Result<Value, Failure> {
    let doing = format!("{doing} snapshot {key}");
    let key = resolve_key(context, key).await?;
    let path = [&["snapshots", &key], what].concat();
    context.client.scoped(Method::GET, &path, doing).fetch().await
}

async fn prepare(context: &Context, args: &PrepareArgs, kind: &str) -> Result<(), Failure> {
    let doing = format!("prepare snapshot {}", args.key);
    let mut body = json!({"key": args.key, "kind": kind});
    make(context, &["snapshots"], &mut body, args.parent.as_ref(), &args.keeping, doing).await
}

async fn commit(
    context: &Context,
    key: &str,
    name: &str,
    parent: Option<&String>,
    keeping: &Keeping,
) -> Result<(), Failure> {
    let path = ["snapshots", key, "commit"];
    make(context, &path, &mut json!({"name": name}), parent, keeping, format!("commit snapshot {key}")).await
}

/// Asks for a snapshot, and prints its key.
async fn make(
    context: &Context,
    path: &[&str],
    body: &mut Value,
    parent: Option<&String>,
    keeping: &Keeping,
    doing: String,
) -> Result<(), Failure> {
    if let Some(parent) = parent {
        body["parent"] = resolve_key(context, parent).await?.into();
    }
    body["labels"] = label_map(&keeping.label);
    let call = context.client.scoped(Method::POST, path, doing.clone()).json(body);
    let call = keeping.lease.iter().fold(call, |call, lease| call.header("orlop-lease", lease));
    let made = read_kept(&context.client, call.send().await?, doing).await?;
    context.print(&made, |made| text(made, "key"))
}

fn record_table(record: &Value) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    for name in ["key", "namespace", "kind", "parent", "diff_id"] {
        row(name, text(record, name));
    }
    for (name, value) in sizes(record) {
        row(name, value);
    }
    for name in ["created_at", "updated_at"] {
        row(name, text(record, name));
    }
    for label in label_lines(record).lines() {
        row("label", label.to_owned());
    }
    table(&["", ""], &rows)
}

fn usage_table(usage: &Value) -> String {
    let rows: Vec<Vec<String>> =
        sizes(usage).into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&["", ""], &rows)
}

/// What a snapshot takes, as far as that is known.
fn sizes(record: &Value) -> [(&'static str, String); 2] {
    let number = |name: &str| record.get(name).and_then(Value::as_u64);
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let inodes = number("inodes").map(|inodes| inodes.to_string());
    [("size", known(number("size").map(human_bytes))), ("inodes", known(inodes))]
}

async fn mounts(context: &Context, key: &str, output: MountForm) -> Result<(), Failure> {
    if output == MountForm::Table || context.output == Output::Json {
        let mounts = fetch(context, key, &["mounts"], "get the mounts of").await?;
        return context.print(&mounts, mount_table);
    }
    let doing = format!("get the mounts of snapshot {key}");
    let key = resolve_key(context, key).await?;
    let call = context.client.scoped(Method::GET, &["snapshots", &key, "mounts"], doing.clone());
    let response = call.query("format", "sh").send().await?;
    let commands =
        response.text().await.map_err(|_| Failure::new(Exit::Unreachable, doing, "the answer broke off"))?;
    // To a shell as they are; a terminal is shown nothing that steers it.
    match std::io::stdout().is_terminal() {
        true => write_line(&commands.lines().map(escape).collect::<Vec<_>>().join("\n")),
        false => write_line(&commands),
    }
}

fn mount_table(mounts: &Value) -> String {
    let items = mounts.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let row = |mount: &Value| {
        let options = mount.get("options").and_then(Value::as_array).into_iter().flatten();
        let options: Vec<&str> = options.filter_map(Value::as_str).collect();
        vec![text(mount, "type"), text(mount, "source"), options.join(",")]
    };
    table(&["TYPE", "SOURCE", "OPTIONS"], &items.iter().map(row).collect::<Vec<_>>())
}

async fn archive(context: &Context, key: &str, output: Option<PathBuf>) -> Result<(), Failure> {
    let doing = format!("archive snapshot {key}");
    if output.is_none() {
        refuse_terminal(&doing)?;
    }
    let key = resolve_key(context, key).await?;
    let path = ["snapshots", &key, "archive"].map(str::to_owned).to_vec();
    let hint = "the same command again: a tar is made anew each time";
    let download = Download::new(context, Origin { path, query: Vec::new(), doing, hint });
    match output {
        Some(path) => download.save_whole(&path).await,
        None => download.into_stdout(true).await,
    }
}

async fn label(context: &Context, key: &str, changes: &LabelChanges) -> Result<(), Failure> {
    let standing = fetch(context, key, &[], "get").await?;
    let patch = json!({"labels": changes.patch(standing.get("labels"))});
    let key = standing.get("key").and_then(Value::as_str).unwrap_or(key);
    let call = context.client.scoped(Method::PATCH, &["snapshots", key], format!("label snapshot {key}"));
    let labelled = call.merge_patch(&patch).fetch().await?;
    context.print(&labelled, label_lines)
}

async fn remove(context: &Context, key: &str, careful: &Careful) -> Result<(), Failure> {
    let key = resolve_key(context, key).await?;
    let doing = format!("remove snapshot {key}");
    if !careful.go_on(&doing)? {
        return Ok(());
    }
    context.client.scoped(Method::DELETE, &["snapshots", &key], doing).send().await?;
    write_line(&escape(&key))
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or("-").to_owned()
}
