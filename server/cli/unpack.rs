//! `orlop unpack`: the job is the server's; this starts it, shows it, and tells how it ended.

use clap::Args;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use super::context::{Context, Output, parse_length, say, write_line};
use super::failure::{Exit, Failure};
use super::follow::{Followed, Patience, follow};
use super::picture::Pull;
use super::screen::{Screen, Showing};
use super::signals::Signals;
use super::text::escape;
use crate::oci::Digest;

/// How long one request waits for the end of a job that has been followed.
const WAIT: &str = "30s";

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop unpack alpine:3.22\n  \
    orlop unpack --platform linux/arm64 sha256:2cf2…")]
pub struct UnpackArgs {
    /// A stored image by its name or id, or a stored index or manifest by its digest
    #[arg(value_name = "IMAGE|DIGEST")]
    what: String,
    /// Platform to take of an index, as in linux/arm64 [default: the server's own]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Keep the snapshots on a lease for so long after the unpack
    #[arg(long, value_name = "TIME", value_parser = parse_length)]
    keep: Option<String>,
    /// Start the unpack, print its id, and do not wait for it
    #[arg(long, conflicts_with = "progress")]
    detach: bool,
    #[command(flatten)]
    showing: Showing,
}

pub async fn unpack(context: &Context, args: &UnpackArgs) -> Result<Exit, Failure> {
    let screen = args.showing.screen()?;
    let mut signals = Signals::new()?;
    let doing = format!("unpack {}", args.what);
    let what = if args.what.parse::<Digest>().is_ok() { "digest" } else { "image" };
    let mut body = json!({what: args.what});
    for (name, asked) in [("platform", &args.platform), ("keep", &args.keep)] {
        if let Some(asked) = asked {
            body[name] = asked.clone().into();
        }
    }
    let call = context.client.scoped(Method::POST, &["unpacks"], doing.clone());
    let mut job = call.json(&body).fetch().await?;
    let id = text(&job, "/id");
    if args.detach {
        context.print(&job, |_| escape(&id))?;
        return Ok(Exit::Success);
    }
    tokio::select! {
        watched = watch(context, &id, screen) => watched?,
        exit = signals.next() => {
            say(&format!("detached: unpack {} goes on in the server", escape(&id)));
            return Ok(exit);
        }
    }
    while job.get("finished_at").is_some_and(Value::is_null) {
        let call = context.client.scoped(Method::GET, &["unpacks", &id], doing.clone());
        job = call.query("wait", WAIT).fetch().await?;
    }
    if text(&job, "/state") != "succeeded" {
        return Err(failure_of(&job, doing));
    }
    match context.output {
        Output::Json => context.print(&job, |_| String::new())?,
        Output::Text => {
            say_unpacked(&job);
            write_line(&escape(&text(&job, "/snapshots/0/key")))?;
        }
    }
    Ok(Exit::Success)
}

/// Shows the job until its end.
async fn watch(context: &Context, id: &str, mut screen: Screen) -> Result<(), Failure> {
    let mut shown = Pull { id: id.to_owned(), ..Pull::default() };
    let mut steps = std::pin::pin!(follow(&context.client, Followed::unpack(id), Patience::default()));
    let mut ticks = tokio::time::interval(Screen::TICK);
    ticks.tick().await;
    let ended = loop {
        tokio::select! {
            step = steps.next() => match step {
                Some(Ok(step)) => screen.show_unpack(&mut shown, step),
                Some(Err(failure)) => break Err(failure),
                None => break Ok(()),
            },
            _ = ticks.tick() => screen.tick(&shown),
        }
    };
    screen.close(&shown);
    ended
}

/// Says of each snapshot that a job made for which platform it is.
pub fn say_unpacked(job: &Value) {
    for snapshot in job.get("snapshots").and_then(Value::as_array).into_iter().flatten() {
        let platform = snapshot.get("platform").and_then(Value::as_str).unwrap_or("the image");
        say(&format!("unpacked {} as {}", escape(platform), escape(&text(snapshot, "/key"))));
    }
}

fn failure_of(job: &Value, doing: String) -> Failure {
    let code = text(job, "/error/code");
    if code.is_empty() {
        return Failure::new(Exit::Other, doing, "it was cancelled");
    }
    let failure = Failure::new(Exit::of_job(&code), doing, Failure::in_flags(&text(job, "/error/detail")));
    match job.pointer("/error/hint").and_then(Value::as_str) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
