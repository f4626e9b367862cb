//! `orlop pulls`: jobs that run, and those that did.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::context::{Careful, Context, write_line};
use super::failure::{Exit, Failure};
use super::list::{Listing, Pages, What, list};
use super::picture::{Pull, Said};
use super::progress::{blob_change, phase_change, total_line};
use super::pull::{Watching, cancel, fetch, rejoin};
use super::screen::log_line;
use super::secret::read_secret;
use super::text::{escape, human_bytes, table};

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
        PullsCommand::Get { id } => {
            let id = resolve(context, id).await?;
            context.print(&fetch(context, &id).await?, summary)?;
        }
        PullsCommand::Logs { id, follow: true, watching } => {
            return rejoin(context, &resolve(context, id).await?, &watching).await;
        }
        PullsCommand::Logs { id, follow: false, watching: _ } => {
            let id = resolve(context, id).await?;
            context.print(&fetch(context, &id).await?, details)?;
        }
        PullsCommand::Cancel { id } => {
            let id = resolve(context, id).await?;
            let job = cancel(context, &id).await?;
            context.print(&job, |job| format!("{} {}", escape(&id), text(job, "state")))?;
        }
        PullsCommand::Retry { id, user, watching } => {
            let id = resolve(context, id).await?;
            let body = match user {
                Some(user) => json!({"auth": {"username": user, "password": read_secret("password")?}}),
                None => json!({}),
            };
            let doing = format!("take pull {id} up again");
            context.client.scoped(Method::POST, &["pulls", &id, "retry"], doing).json(&body).send().await?;
            return rejoin(context, &id, &watching).await;
        }
        PullsCommand::Trace { id } => {
            let id = resolve(context, id).await?;
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

/// The id that is meant: whole, or so many of its first characters as tell it apart in this namespace.
async fn resolve(context: &Context, id: String) -> Result<String, Failure> {
    let doing = format!("look up pull {id}");
    let filter = match Named::of(&id) {
        Named::Begun(filter) => filter,
        Named::TooShort => {
            let why = "so few characters would be those of many";
            return Err(
                Failure::usage(doing, why).hint("give six or more of its first characters; orlop pulls ls")
            );
        }
        Named::Whole => return Ok(id),
    };
    let listing = Listing::first(3, vec![filter]);
    let found = Pages::new(&context.client, What::Pulls, &listing).next().await?.unwrap_or_default();
    let ids: Vec<&str> = found.iter().filter_map(|item| item.get("id")?.as_str()).collect();
    match ids.as_slice() {
        [] => {
            Err(Failure::new(Exit::NotFound, doing, "no pull has an id that begins so")
                .hint("orlop pulls ls"))
        }
        [one] => Ok((*one).to_owned()),
        several => {
            let why = format!("it is the beginning of several: {}", several.join(", "));
            Err(Failure::usage(doing, why).hint("give more of it"))
        }
    }
}

/// How a text names a pull.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// By the beginning of its id: the filter that finds what begins so.
    Begun(String),
    TooShort,
    /// By a whole id, or by what can be no part of one, of which the server says so.
    Whole,
}

impl Named {
    fn of(text: &str) -> Named {
        const WHOLE: usize = 26;
        const FEWEST: usize = 6;
        let begun = text.strip_prefix("pull_").unwrap_or(text);
        let plain = begun.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        match begun.len() {
            _ if !plain => Named::Whole,
            0..FEWEST => Named::TooShort,
            FEWEST..WHOLE => Named::Begun(format!("id~=\"^pull_{begun}\"")),
            _ => Named::Whole,
        }
    }
}

async fn remove(context: &Context, id: &str, careful: &Careful) -> Result<(), Failure> {
    let id = &resolve(context, id.to_owned()).await?;
    let doing = format!("remove pull {id} from the history");
    if !careful.go_on(&doing)? {
        return Ok(());
    }
    context.client.scoped(Method::DELETE, &["pulls", id], doing).query("purge", "true").send().await?;
    write_line(&escape(id))
}

fn summary(job: &Value) -> String {
    let pull: Pull = serde_json::from_value(job.clone()).unwrap_or_default();
    let mut lines = Vec::new();
    for (name, field) in
        [("id", "id"), ("ref", "ref"), ("state", "state"), ("phase", "phase"), ("image", "image_name")]
    {
        // What it was at last is not what it does.
        if name != "phase" || !pull.state.is_final() {
            lines.push((name, text(job, field)));
        }
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
    if pull.attempt > 0 {
        let progress = &pull.progress;
        lines.push(("attempt", pull.attempt.to_string()));
        lines.push(("network", human_bytes(progress.bytes_network)));
        lines.push(("resumed", human_bytes(progress.bytes_resumed)));
        lines.push(("reused", human_bytes(progress.bytes_reused)));
    }
    let known = lines.iter().filter(|(_, value)| !value.is_empty());
    let known: Vec<String> = known.map(|(name, value)| format!("{name:<9} {value}")).collect();
    format!("{}\n{}", known.join("\n"), total_line(&pull))
}

/// What was said, in the order in which it was; then how it stands, or how it ended.
fn details(job: &Value) -> String {
    let pull: Pull = serde_json::from_value(job.clone()).unwrap_or_default();
    let said = |said: &Said| format!("{} {}", clock_time(&said.at), log_line(said));
    let mut lines: Vec<String> = pull.log.iter().map(said).collect();
    lines.extend(pull.blobs.iter().map(blob_change));
    lines.extend(pull.error.as_ref().map(|error| format!("error: {}", escape(&error.detail))));
    lines.push(phase_change(&pull));
    lines.push(total_line(&pull));
    lines.join("\n")
}

/// `hh:mm:ss` of a time of the API's.
fn clock_time(at: &str) -> String {
    at.split_once('T').and_then(|(_, time)| time.get(..8)).map(escape).unwrap_or_default()
}

/// A line for each request, and one below it for what kept it from an answer, or from all of it: that may be long.
fn requests(trace: &Value) -> String {
    let items = trace.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let row = |item: &Value| {
        let time = text(item, "at").split_once('T').map(|(_, time)| time.to_owned()).unwrap_or_default();
        let status = item.get("status").and_then(Value::as_u64).map(|status| status.to_string());
        let took = item.get("duration_ms").and_then(Value::as_u64).unwrap_or(0);
        let answer = status.unwrap_or_else(|| "none".to_owned());
        let what = format!("{} {}", text(item, "method"), text(item, "url"));
        let body = item.get("received_bytes").and_then(Value::as_u64).map(human_bytes).unwrap_or_default();
        let took = format!("{took} ms");
        vec![time, answer, took, body, text(item, "authorization"), text(item, "range"), what]
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    let told = table(&["TIME", "ANSWER", "TOOK", "BODY", "AUTH", "RANGE", "REQUEST"], &rows);
    let mut lines = told.lines();
    let mut shown: Vec<String> = lines.next().map(str::to_owned).into_iter().collect();
    for (line, item) in lines.zip(items) {
        shown.push(line.to_owned());
        let said = |name: &str| Some(text(item, name)).filter(|said| !said.is_empty());
        shown.extend(said("error").map(|error| format!("  {error}")));
        shown.extend(said("cut").map(|why| format!("  cut: {why}")));
    }
    shown.join("\n")
}

fn text(job: &Value, name: &str) -> String {
    escape(job.get(name).and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_by_the_beginning_of_its_id() {
        let begun = |filter: &str| Named::Begun(filter.to_owned());
        assert_eq!(Named::of("pull_01kakb"), begun("id~=\"^pull_01kakb\""));
        assert_eq!(Named::of("01kakb2v3w"), begun("id~=\"^pull_01kakb2v3w\""));
        for whole_or_none in ["pull_01kakb2v3w4x5y6z7a8b9c0d1e", "nightly.", "a\"||id"] {
            assert_eq!(Named::of(whole_or_none), Named::Whole, "{whole_or_none}");
        }
        for short in ["pull_01", "01kak", "pull_", ""] {
            assert_eq!(Named::of(short), Named::TooShort, "{short}");
        }
    }

    #[test]
    fn what_was_said_of_a_pull_is_told_later_as_well() {
        let log =
            json!([{"at": "2026-11-21T10:00:07.000000Z", "level": "warn", "message": "r.io: gone\u{1b}"}]);
        let told = details(&json!({"ref": "r.io/app:1", "state": "failed", "log": log}));
        assert!(told.starts_with("10:00:07 warn: r.io: gone\\x1b\nr.io/app:1  failed\n"), "{told}");
        assert!(!told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn a_summary_says_how_often_it_was_tried_and_where_its_bytes_came_from() {
        let progress = json!({"bytes_total": 3072, "bytes_done": 3072, "bytes_network": 1024, "bytes_resumed": 0,
            "bytes_reused": 2048});
        let told =
            summary(&json!({"id": "pull_1", "state": "succeeded", "attempt": 2, "progress": progress}));
        assert!(
            told.contains("\nattempt   2\nnetwork   1.0 KiB\nresumed   0 B\nreused    2.0 KiB\n"),
            "{told}"
        );
    }

    #[test]
    fn an_error_of_a_trace_is_no_column() {
        let item = |url: &str, status: Value, error: Value| {
            json!({"at": "2026-11-21T10:00:00.000000Z", "method": "GET", "url": url, "status": status, "error": error,
                "duration_ms": 7, "authorization": null, "range": null})
        };
        let long = "r.io: ".to_owned() + &"no connection ".repeat(10);
        let items = [item("u1", 200.into(), Value::Null), item("u2", Value::Null, long.clone().into())];
        let told = requests(&json!({"items": items}));
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2], "10:00:00.000000Z  none    7 ms                     GET u2");
        assert_eq!(lines[3], format!("  {long}"));
    }
}
