//! The command line: the server's own command, and the client commands, which speak to a server by its REST API.
//!
//! stdout is for data, stderr for talk; what a server sent never reaches a terminal raw; the exit code says what
//! happened. `client.rs` is the one place that speaks HTTP.

mod cat;
mod changes;
mod client;
mod context;
mod curl;
mod digest_arg;
mod download;
mod events;
mod failure;
mod follow;
mod get;
mod help;
mod image;
mod lease;
mod list;
mod picture;
mod place;
mod progress;
mod pull;
mod pulled;
mod pulls;
mod put;
mod reading;
mod registry;
mod screen;
#[cfg(test)]
mod scripted;
mod secret;
mod selecting;
mod signals;
mod snapshot;
mod system;
mod text;
mod token;
mod tree;
mod unpack;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::context::{Context, Global, Output, Paint, say, write_line};
use self::failure::{Exit, Failure};
use crate::app;
use crate::config::{Config, ServeArgs, check_variables};

#[derive(Debug, Parser)]
#[command(name = "orlop", version, about, disable_help_subcommand = true, max_term_width = 110)]
#[command(before_help = "Examples:\n  \
    orlop serve\n  \
    orlop pull alpine:3.22 --keep 24h\n  \
    orlop get 2cf24d --range 0-511 | xxd")]
#[command(help_template = "{before-help}{about}\n\n{usage-heading} {usage}\n\n{all-args}{after-help}\n")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    global: Global,
}

// Parsed once in a process: its size does not matter.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    #[command(before_help = "Examples:\n  orlop serve\n  \
        orlop serve --listen 0.0.0.0:7070 --tls-cert cert.pem --tls-key key.pem --data-dir /var/lib/orlop")]
    Serve(#[command(flatten)] ServeArgs),
    #[command(flatten)]
    Ask(Ask),
    /// The server's settings, and where each comes from
    #[command(before_help = "Examples:\n  orlop config show\n  orlop config example > config.toml")]
    Config {
        #[command(subcommand)]
        command: system::ConfigCommand,
    },
    /// This program's version
    Version,
    /// Help on a topic
    Help {
        /// A topic, or a command
        topic: Option<String>,
    },
}

/// The commands that ask a server.
#[derive(Debug, Subcommand)]
enum Ask {
    /// Pull images from registries, and follow the pulls
    Pull(pull::PullArgs),
    /// Pulls that run, and those that did
    #[command(
        before_help = "Examples:\n  orlop pulls ls\n  orlop pulls logs -f pull_01kakb2v3w4x5y6z7a8b9c0d1e"
    )]
    Pulls {
        #[command(subcommand)]
        command: Option<pulls::PullsCommand>,
    },
    /// Make snapshots of the layers of a stored image
    Unpack(unpack::UnpackArgs),
    /// Read a blob, to stdout or a file
    Get(get::GetArgs),
    /// Read a file of an image or a layer
    Cat(cat::CatArgs),
    /// Show the files of an image or a layer
    Tree(tree::TreeArgs),
    /// Store a blob, from a file or stdin
    Put(put::PutArgs),
    /// List images, content, leases, ingests, pulls, snapshots or namespaces
    #[command(alias = "list")]
    Ls(list::LsArgs),
    /// What happened; with -f, what happens
    Events(events::EventsArgs),
    /// Images: their names, what is behind them, and archives of them
    #[command(visible_alias = "images")]
    #[command(before_help = "Examples:\n  orlop image tag alpine:3.22 alpine:stable\n  \
            orlop image check alpine:stable\n  \
            orlop image export alpine:stable -o alpine.tar\n  orlop image import alpine.tar")]
    Image {
        #[command(subcommand)]
        command: image::ImageCommand,
    },
    /// Snapshots: file systems that are prepared, written, committed and looked into
    #[command(visible_alias = "snapshots")]
    #[command(before_help = "Examples:\n  orlop snapshot prepare build-1 sha256:9a1b2c…\n  \
            orlop snapshot mounts build-1 -o sh | sudo sh -s /mnt\n  \
            orlop snapshot commit build-1 app-1")]
    Snapshot {
        #[command(subcommand)]
        command: snapshot::SnapshotCommand,
    },
    /// Leases, which keep things until a time
    #[command(
        before_help = "Examples:\n  orlop lease create nightly --ttl 24h\n  orlop lease extend nightly 7d"
    )]
    Lease {
        #[command(subcommand)]
        command: lease::LeaseCommand,
    },
    /// Registries: their mirrors, certificates and credentials
    #[command(
        before_help = "Examples:\n  orlop registry login ghcr.io -u ci < password\n  orlop registry test ghcr.io"
    )]
    Registry {
        #[command(subcommand)]
        command: registry::RegistryCommand,
    },
    /// Tokens, by which a server knows who may do what
    #[command(
        before_help = "Examples:\n  orlop token create --name ci --scope write --ttl 90d\n  orlop token ls"
    )]
    Token {
        #[command(subcommand)]
        command: token::TokenCommand,
    },
    /// How the server is, on one screen
    #[command(before_help = "Examples:\n  orlop status --server https://store.example")]
    Status,
    /// Exit 0 if the server answers, 7 if not
    #[command(before_help = "Examples:\n  orlop health || systemctl restart orlop")]
    Health,
}

/// Runs what the words ask for, and says how it ended. Errors are on stderr when this returns.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            // A reader that went away needs no help any more.
            let _ = error.print();
            return exit.into();
        }
    };
    let (output, paint) = (cli.global.output(), cli.global.paint());
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            report(&failure, output, paint);
            failure.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let Some(command) = cli.command else {
        write_line(help::SHORT)?;
        return Ok(Exit::Success);
    };
    match command {
        Command::Serve(args) => serve(&args)?,
        Command::Config { command } => system::config(&cli.global, command)?,
        Command::Version => system::version(&cli.global)?,
        Command::Help { topic } => help(topic.as_deref())?,
        Command::Ask(command) => {
            check_variables(std::env::vars_os().map(|(name, _)| name))
                .map_err(|e| Failure::local("read the environment", &e))?;
            let mut global = cli.global;
            // Tokens and registries are in no namespace: their --namespace is not the client's.
            if matches!(command, Ask::Token { .. } | Ask::Registry { .. }) {
                global.namespace.clear();
            }
            let context = Context::new(&global)?;
            return runtime(tokio::runtime::Builder::new_current_thread())?.block_on(ask(&context, command));
        }
    }
    Ok(Exit::Success)
}

async fn ask(context: &Context, command: Ask) -> Result<Exit, Failure> {
    match command {
        Ask::Pull(args) => return pull::pull(context, args).await,
        Ask::Unpack(args) => return unpack::unpack(context, &args).await,
        Ask::Pulls { command } => return pulls::pulls(context, command).await,
        Ask::Image { command } => return image::image(context, command).await,
        Ask::Snapshot { command } => return snapshot::snapshot(context, command).await,
        Ask::Lease { command } => return lease::lease(context, command).await,
        Ask::Registry { command } => return registry::registry(context, command).await,
        Ask::Token { command } => return token::token(context, command).await,
        Ask::Get(args) => get::get(context, args).await?,
        Ask::Cat(args) => cat::cat(context, &args).await?,
        Ask::Tree(args) => tree::tree(context, &args).await?,
        Ask::Put(args) => put::put(context, args).await?,
        Ask::Ls(args) => list::ls(context, args).await?,
        Ask::Events(args) => events::events(context, args).await?,
        Ask::Status => system::status(context).await?,
        Ask::Health => system::health(context).await?,
    }
    Ok(Exit::Success)
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let config =
        Config::load(args, std::env::vars_os()).map_err(|e| Failure::local("read the configuration", &e))?;
    let runtime = runtime(tokio::runtime::Builder::new_multi_thread())?;
    runtime.block_on(app::serve(config)).map_err(|e| Failure::local("serve", &e))
}

fn runtime(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, Failure> {
    builder.enable_all().build().map_err(|e| Failure::io("start the runtime", &e))
}

/// A topic's text, or a command's own help.
fn help(topic: Option<&str>) -> Result<(), Failure> {
    use clap::{CommandFactory, ValueEnum};
    let mut all = Cli::command();
    let Some(name) = topic else { return write_line(&all.render_help().to_string()) };
    if let Ok(topic) = help::Topic::from_str(name, false) {
        return write_line(topic.text());
    }
    all.build();
    match all.find_subcommand_mut(name) {
        Some(command) => write_line(&command.render_help().to_string()),
        None => Err(Failure::usage(format!("help with `{name}`"), "there is no such topic or command")
            .hint("orlop help exit-codes, filters or environment; orlop --help for the commands")),
    }
}

/// Does the same to each name. A failure is told when it comes and does not keep the others from being done.
async fn for_each(
    context: &Context,
    names: &[String],
    act: impl AsyncFn(&str) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let mut failed = Vec::new();
    for name in names {
        match act(name).await {
            Ok(()) => {}
            // The only one is told by the caller, as of any other command.
            Err(failure) if names.len() == 1 => return Err(failure),
            Err(failure) => {
                report(&failure, context.output, context.paint);
                failed.push(failure.exit);
            }
        }
    }
    Ok(sum_up(names.len(), &failed))
}

/// The exit code of several things done: the first reason when all failed, else that it is partly done.
fn sum_up(tried: usize, failed: &[Exit]) -> Exit {
    match failed {
        [] => Exit::Success,
        [first, ..] if failed.len() == tried => *first,
        [_, ..] => Exit::Partly,
    }
}

fn report(failure: &Failure, output: Output, paint: Paint) {
    match output {
        _ if failure.silent => {}
        Output::Json => say(&failure.json()),
        Output::Text => say(&paint.error(&failure.text())),
    }
}

#[cfg(test)]
mod tests;
