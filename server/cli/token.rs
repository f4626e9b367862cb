//! `orlop token`: credentials. The first one is made in the data directory, where no token is needed to make it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::context::{Careful, Context, Output, say, write_line};
use super::failure::{Exit, Failure};
use super::list::{Listing, What, list};
use super::text::escape;
use crate::app;
use crate::config::{Config, ServeArgs};
use crate::store::{Expiry, NewToken, Scope};

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print its secret, which nobody can ask for again
    #[command(before_help = "Examples:\n  \
        orlop token create --name admin --scope admin --data-dir /var/lib/orlop    the first, before the server runs\n  \
        orlop token create --name ci --scope write --namespace build --ttl 90d     a further one, from the server")]
    Create(CreateArgs),
    /// List tokens, without their secrets
    #[command(alias = "list")]
    Ls(#[command(flatten)] Listing),
    /// Revoke tokens, at once
    #[command(alias = "rm")]
    Revoke {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        careful: Careful,
    },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What it is for, in words
    #[arg(long)]
    name: String,
    /// What it may do; each includes the ones before it
    #[arg(long, required = true)]
    scope: Vec<ScopeArg>,
    /// Only in this namespace; repeatable [default: everywhere]
    #[arg(long, value_name = "NAME")]
    namespace: Vec<String>,
    /// How long it is good for [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = super::context::parse_length)]
    ttl: Option<String>,
    /// Work in this data directory, without a server: none may be running on it
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The server's configuration file, for --data-dir
    #[arg(long, value_name = "FILE", requires = "data_dir")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScopeArg {
    Read,
    Write,
    Admin,
}

impl ScopeArg {
    fn as_str(self) -> &'static str {
        match self {
            ScopeArg::Read => "read",
            ScopeArg::Write => "write",
            ScopeArg::Admin => "admin",
        }
    }

    fn scope(self) -> Scope {
        match self {
            ScopeArg::Read => Scope::Read,
            ScopeArg::Write => Scope::Write,
            ScopeArg::Admin => Scope::Admin,
        }
    }
}

pub async fn token(context: &Context, command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Ls(listing) => list(context, What::Tokens, &listing).await?,
        TokenCommand::Create(args) => create(context, &args).await?,
        TokenCommand::Revoke { ids, careful } => {
            return super::for_each(context, &ids, async |id| revoke(context, id, &careful).await).await;
        }
    }
    Ok(Exit::Success)
}

async fn create(context: &Context, args: &CreateArgs) -> Result<(), Failure> {
    let made = match &args.data_dir {
        Some(directory) => create_here(args, directory).await?,
        None => create_there(context, args).await?,
    };
    say("This secret is shown once: keep it now.");
    match context.output {
        Output::Json => context.print(&made, |_| String::new()),
        Output::Text => write_line(&escape(made.get("secret").and_then(Value::as_str).unwrap_or_default())),
    }
}

async fn create_there(context: &Context, args: &CreateArgs) -> Result<Value, Failure> {
    let scopes: Vec<&str> = args.scope.iter().map(|scope| scope.as_str()).collect();
    let mut body = json!({"name": args.name, "scopes": scopes, "namespaces": args.namespace});
    if let Some(ttl) = &args.ttl {
        body["ttl"] = ttl.clone().into();
    }
    let call = context.client.call(Method::POST, &["api", "v1", "tokens"], "make a token");
    call.json(&body).fetch().await.map_err(|failure| match failure.exit {
        Exit::Unreachable | Exit::Denied => {
            failure.hint("the first token: orlop token create --data-dir DIR, while no server runs on it")
        }
        _ => failure,
    })
}

async fn create_here(args: &CreateArgs, directory: &std::path::Path) -> Result<Value, Failure> {
    let doing = format!("make a token in {}", directory.display());
    let config = config(args, directory).map_err(|e| Failure::local(&doing, &e))?;
    let expiry = match &args.ttl {
        Some(ttl) => {
            Expiry::After(crate::clock::parse_duration(ttl).map_err(|e| Failure::local(&doing, &e))?)
        }
        None => Expiry::Never,
    };
    let new = NewToken {
        name: args.name.clone(),
        scopes: args.scope.iter().map(|scope| scope.scope()).collect::<BTreeSet<_>>(),
        namespaces: args.namespace.iter().cloned().collect(),
        expiry,
    };
    let (token, secret) = app::create_token_offline(config, new).await.map_err(|e| {
        Failure::local(&doing, &e).hint("if a server runs on it, leave --data-dir out to ask that server")
    })?;
    let mut made = serde_json::to_value(token).unwrap_or_default();
    made["secret"] = secret.into();
    Ok(made)
}

/// The configuration that `orlop serve` would have with this data directory, so that the database is the same.
fn config(args: &CreateArgs, directory: &std::path::Path) -> Result<Config, crate::error::Error> {
    let mut words: Vec<std::ffi::OsString> = vec!["serve".into(), "--data-dir".into(), directory.into()];
    if let Some(file) = &args.config {
        words.extend(["--config".into(), file.into()]);
    }
    let command = <ServeArgs as Args>::augment_args(clap::Command::new("serve"));
    let wrong = |e: clap::Error| crate::error::Error::invalid(e.to_string());
    let matches = command.try_get_matches_from(words).map_err(wrong)?;
    Config::load(&ServeArgs::from_arg_matches(&matches).map_err(wrong)?, std::env::vars_os())
}

async fn revoke(context: &Context, id: &str, careful: &Careful) -> Result<(), Failure> {
    let doing = format!("revoke token {id}");
    if !careful.go_on(&doing)? {
        return Ok(());
    }
    context.client.call(Method::DELETE, &["api", "v1", "tokens", id], doing).send().await?;
    write_line(&escape(id))
}
