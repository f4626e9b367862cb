//! `orlop lease`: what keeps things until a time.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::context::{Careful, Context, label_map, parse_label, parse_length, write_line};
use super::failure::{Exit, Failure};
use super::list::{Listing, What, list, time_left};
use super::text::escape;

#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Make a lease, and print its id
    #[command(before_help = "Examples:\n  orlop lease create --ttl 24h\n  \
        orlop lease create nightly --ttl 7d --label team=harbour")]
    Create {
        /// Its id [default: one that the server makes]
        id: Option<String>,
        /// How long from now
        #[arg(long, value_name = "TIME", value_parser = parse_length, default_value = "24h")]
        ttl: String,
        /// Without an end
        #[arg(long, conflicts_with = "ttl")]
        never: bool,
        /// Keep only what it names, not what that refers to
        #[arg(long)]
        flat: bool,
        /// Label; repeatable
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
        label: Vec<(String, String)>,
    },
    /// List leases
    #[command(alias = "list")]
    Ls(#[command(flatten)] Listing),
    /// Let a lease end so long from now; this may also shorten it
    #[command(before_help = "Examples:\n  orlop lease extend nightly 24h")]
    Extend {
        id: String,
        /// How long from now
        #[arg(value_parser = parse_length)]
        ttl: String,
    },
    /// Release leases
    #[command(alias = "delete")]
    Rm {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        careful: Careful,
    },
}

pub async fn lease(context: &Context, command: LeaseCommand) -> Result<Exit, Failure> {
    let client = &context.client;
    match command {
        LeaseCommand::Ls(listing) => list(context, What::Leases, &listing).await?,
        LeaseCommand::Create { id, ttl, never, flat, label } => {
            let mut body = if never { json!({"never": true}) } else { json!({"ttl": ttl}) };
            body["flat"] = flat.into();
            body["labels"] = label_map(&label);
            if let Some(id) = id {
                body["id"] = id.into();
            }
            let made = client.scoped(Method::POST, &["leases"], "make a lease").json(&body).fetch().await?;
            context.print(&made, |lease| text(lease, "id"))?;
        }
        LeaseCommand::Extend { id, ttl } => {
            let call = client.scoped(Method::PATCH, &["leases", &id], format!("extend lease {id}"));
            let lease = call.merge_patch(&json!({"ttl": ttl})).fetch().await?;
            context.print(&lease, |lease| format!("{} {}", text(lease, "id"), time_left(lease)))?;
        }
        LeaseCommand::Rm { ids, careful } => {
            return super::for_each(context, &ids, async |id| release(context, id, &careful).await).await;
        }
    }
    Ok(Exit::Success)
}

async fn release(context: &Context, id: &str, careful: &Careful) -> Result<(), Failure> {
    let doing = format!("release lease {id}");
    if !careful.go_on(&doing)? {
        return Ok(());
    }
    context.client.scoped(Method::DELETE, &["leases", id], doing).send().await?;
    write_line(&escape(id))
}

fn text(value: &Value, name: &str) -> String {
    escape(value.get(name).and_then(Value::as_str).unwrap_or_default())
}
