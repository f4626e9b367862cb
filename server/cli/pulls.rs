//! `orlop pulls`: jobs that run, and those that did.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::context::{Careful, Context, write_line};
use super::failure::{Exit, Failure};
use super::list::{Listing, What, list};
use super::picture::Pull;
use super::progress::{blob_change, phase_change, total_line};
use super::pull::{Watching, cancel, fetch, rejoin};
use super::secret::read_secret;
use super::text::{escape, table};

#[derive(Debug, Subcommand)]
pub enum PullsCommand {
    /// List pulls, the newest first
    #[command(alias = "list")]
    Ls(#[command(flatten)] Listing),
    /// Show one pull
    Get { id: String },
    /// Show how far each blob of a pull is; with -f, follow it to its end
    Logs {
        id: String,
        /// Follow it to its end, as `orlop pull` does
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        watching: Watching,
    },
    /// Cancel a pull; what it fetched is kept for a while
    Cancel { id: String },
    /// Take a failed or cancelled pull up again, with the bytes that it left, and follow it
    Retry {
        id: String,
        /// The user of its credential, if that is no longer kept; the password comes on stdin
        #[arg(long, short, value_name = "NAME")]
        user: Option<String>,
        #[command(flatten)]
        watching: Watching,
    },
    /// Show the requests of a pull that was made with --trace
    Trace { id: String },
    /// Remove finished pulls from the history
    #[command(alias = "delete")]
    Rm {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        careful: Careful,
    },
}

pub async fn pulls(context: &Context, command: Option<PullsCommand>) -> Result<Exit, Failure> {
    match command.unwrap_or_else(|| PullsCommand::Ls(Listing::default())) {
        PullsCommand::Ls(listing) => list(context, What::Pulls, &listing).await?,
        PullsCommand::Get { id } => context.print(&fetch(context, &id).await?, summary)?,
        PullsCommand::Logs { id, follow: true, watching } => return rejoin(context, &id, &watching).await,
        PullsCommand::Logs { id, follow: false, watching: _ } => {
            context.print(&fetch(context, &id).await?, details)?;
        }
        PullsCommand::Cancel { id } => {
            let job = cancel(context, &id).await?;
            context.print(&job, |job| format!("{} {}", escape(&id), text(job, "state")))?;
        }
        PullsCommand::Retry { id, user, watching } => {
            let body = match user {
                Some(user) => json!({"auth": {"username": user, "password": read_secret("password")?}}),
                None => json!({}),
            };
            let doing = format!("take pull {id} up again");
            context.client.scoped(Method::POST, &["pulls", &id, "retry"], doing).json(&body).send().await?;
            return rejoin(context, &id, &watching).await;
        }
        PullsCommand::Trace { id } => {
            let doing = format!("look at the requests of pull {id}");
            let trace = context.client.scoped(Method::GET, &["pulls", &id, "trace"], doing).fetch().await?;
            context.print(&trace, requests)?;
        }
        PullsCommand::Rm { ids, careful } => {
            return super::for_each(context, &ids, async |id| remove(context, id, &careful).await).await;
        }
    }
    Ok(Exit::Success)
}

async fn remove(context: &Context, id: &str, careful: &Careful) -> Result<(), Failure> {
    let doing = format!("remove pull {id} from the history");
    if !careful.go_on(&doing)? {
        return Ok(());
    }
    context.client.scoped(Method::DELETE, &["pulls", id], doing).query("purge", "true").send().await?;
    write_line(&escape(id))
}

fn summary(job: &Value) -> String {
    let mut lines = Vec::new();
    for (name, field) in
        [("id", "id"), ("ref", "ref"), ("state", "state"), ("phase", "phase"), ("image", "image_name")]
    {
        lines.push((name, text(job, field)));
    }
    lines.push((
        "digest",
        job.pointer("/target/digest").and_then(Value::as_str).map(escape).unwrap_or_default(),
    ));
    for (name, field) in [
        ("created", "created_at"),
        ("started", "started_at"),
        ("finished", "finished_at"),
        ("lease", "lease_id"),
    ] {
        lines.push((name, text(job, field)));
    }
    let error = |name: &str| job.pointer(&format!("/error/{name}")).and_then(Value::as_str).map(escape);
    if let (Some(code), Some(detail)) = (error("code"), error("detail")) {
        lines.push(("error", format!("{code}: {detail}")));
    }
    let pull: Pull = serde_json::from_value(job.clone()).unwrap_or_default();
    let known = lines.iter().filter(|(_, value)| !value.is_empty());
    let known: Vec<String> = known.map(|(name, value)| format!("{name:<9} {value}")).collect();
    format!("{}\n{}", known.join("\n"), total_line(&pull))
}

fn details(job: &Value) -> String {
    let pull: Pull = serde_json::from_value(job.clone()).unwrap_or_default();
    let mut lines = vec![phase_change(&pull)];
    lines.extend(pull.blobs.iter().map(blob_change));
    lines.extend(pull.error.as_ref().map(|error| format!("error: {}", escape(&error.detail))));
    lines.push(total_line(&pull));
    lines.join("\n")
}

/// A line for each request.
fn requests(trace: &Value) -> String {
    let items = trace.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let row = |item: &Value| {
        let time = text(item, "at").split_once('T').map(|(_, time)| time.to_owned()).unwrap_or_default();
        let status = item.get("status").and_then(Value::as_u64).map(|status| status.to_string());
        let took = item.get("duration_ms").and_then(Value::as_u64).unwrap_or(0);
        let answer = status.unwrap_or_else(|| text(item, "error"));
        let what = format!("{} {}", text(item, "method"), text(item, "url"));
        vec![time, answer, format!("{took} ms"), text(item, "authorization"), text(item, "range"), what]
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    table(&["TIME", "ANSWER", "TOOK", "AUTH", "RANGE", "REQUEST"], &rows)
}

fn text(job: &Value, name: &str) -> String {
    escape(job.get(name).and_then(Value::as_str).unwrap_or_default())
}
