//! `orlop events`: what happened, and what happens.

use std::io::IsTerminal;

use clap::Args;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::Call;
use super::context::{Context, Output, say, write_line};
use super::failure::Failure;
use super::follow::{Followed, Patience, Step, follow};
use super::text::{escape, short_digest, to_json};

/// The largest page the server gives.
const PAGE: usize = 1000;
/// What is shown without a word of how many.
const NEWEST: usize = 100;

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop events --limit 20\n  \
    orlop events -f --topic /pulls\n  \
    orlop events -f --json --all-namespaces | jq -r .subject")]
pub struct EventsArgs {
    /// Go on with what happens from now on, or from --after on
    #[arg(long, short)]
    follow: bool,
    /// Only topics that begin so, as in /content or /pulls/finish
    #[arg(long, value_name = "PREFIX")]
    topic: Option<String>,
    /// Only what fits (see `orlop help filters`); repeated: any of them
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Only what happened after the event with this id; 0 is before the first
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// Of every namespace
    #[arg(long)]
    all_namespaces: bool,
    /// At most so many: the newest, or the first after --after [default: the newest 100, all after --after]
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    limit: Option<usize>,
}

pub async fn events(context: &Context, args: EventsArgs) -> Result<(), Failure> {
    let form = Form::new(context.output, args.all_namespaces);
    if args.follow {
        return tail(context, &args, form).await;
    }
    let items = list(context, &args).await?;
    match context.output {
        Output::Json => {
            let lines = items.iter().map(to_json).collect::<Vec<_>>().join(",\n");
            write_line(&format!("{{\"items\":[\n{lines}\n],\"next_cursor\":null}}"))
        }
        Output::Text => items.iter().try_for_each(|event| write_line(&form.line(event))),
    }
}

/// Oldest first, whichever end they were read from.
async fn list(context: &Context, args: &EventsArgs) -> Result<Vec<Value>, Failure> {
    let most = args.limit.unwrap_or(if args.after.is_some() { usize::MAX } else { NEWEST });
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    while items.len() < most {
        let mut call = args.call(context).query("limit", &PAGE.min(most - items.len()).to_string());
        call = match args.after {
            Some(after) => call.query("after", &after.to_string()),
            None => call.query("sort", "-id"),
        };
        if let Some(cursor) = &cursor {
            call = call.query("cursor", cursor);
        }
        let mut page = call.fetch().await?;
        if let Some(Value::Array(read)) = page.get_mut("items").map(Value::take) {
            items.extend(read);
        }
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if args.after.is_none() {
        items.reverse();
    }
    Ok(items)
}

async fn tail(context: &Context, args: &EventsArgs, form: Form) -> Result<(), Failure> {
    let after = match args.after {
        Some(after) => Some(after.to_string()),
        None => newest_id(context, args).await?,
    };
    let query = args.query().into_iter().chain(after.map(|after| ("after", after))).collect();
    let followed = Followed {
        path: vec!["events".to_owned()],
        query,
        scoped: !args.all_namespaces,
        doing: "follow events".to_owned(),
        hint: "orlop events --after ID goes on after the last one shown".to_owned(),
    };
    let mut steps = std::pin::pin!(follow(&context.client, followed, Patience::default()));
    while let Some(step) = steps.next().await {
        match step? {
            Step::Event(event) => write_line(&form.line(&event.value))?,
            Step::Lost(why) => say(&format!("connection lost ({}), trying again", escape(&why))),
            Step::Over => break,
        }
    }
    Ok(())
}

/// The place from which nothing is missed, also when the connection breaks before the first event.
async fn newest_id(context: &Context, args: &EventsArgs) -> Result<Option<String>, Failure> {
    let call = args.bare_call(context).query("sort", "-id").query("limit", "1");
    let page = call.fetch().await?;
    Ok(page.pointer("/items/0/id").and_then(Value::as_u64).map(|id| id.to_string()))
}

impl EventsArgs {
    fn query(&self) -> Vec<(&'static str, String)> {
        let all = self.all_namespaces.then(|| ("all_namespaces", "true".to_owned()));
        let topic = self.topic.clone().map(|topic| ("topic", topic));
        let filters = self.filter.iter().map(|filter| ("filter", filter.clone()));
        all.into_iter().chain(topic).chain(filters).collect()
    }

    fn call<'c>(&self, context: &'c Context) -> Call<'c> {
        let query = self.query().into_iter().filter(|(name, _)| *name != "all_namespaces");
        query.fold(self.bare_call(context), |call, (name, value)| call.query(name, &value))
    }

    /// Of the namespace, or of all, and whatever happened there.
    fn bare_call<'c>(&self, context: &'c Context) -> Call<'c> {
        match self.all_namespaces {
            true => {
                let call = context.client.call(Method::GET, &["api", "v1", "events"], "list events");
                call.query("all_namespaces", "true")
            }
            false => context.client.scoped(Method::GET, &["events"], "list events"),
        }
    }
}

/// How an event is written on a line.
#[derive(Debug, Clone, Copy)]
struct Form {
    output: Output,
    with_namespace: bool,
    short_digests: bool,
}

impl Form {
    fn new(output: Output, with_namespace: bool) -> Form {
        Form { output, with_namespace, short_digests: std::io::stdout().is_terminal() }
    }

    fn line(self, event: &Value) -> String {
        if self.output == Output::Json {
            return to_json(event);
        }
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or("-");
        let time = text("time").split('.').next().unwrap_or_default().replace('T', " ");
        let subject = match text("subject") {
            digest if self.short_digests && digest.contains(':') && digest.len() > 70 => short_digest(digest),
            other => other.to_owned(),
        };
        let namespace = if self.with_namespace { format!("{}  ", text("namespace")) } else { String::new() };
        let fields = event.get("event").and_then(Value::as_object);
        let details = fields.map(|fields| details(fields, text("subject"))).unwrap_or_default();
        escape(format!("{time}  {namespace}{:<18}  {subject}  {details}", text("topic")).trim_end())
    }
}

/// The fields, but for those that say again what it happened to.
fn details(fields: &Map<String, Value>, subject: &str) -> String {
    let mut pairs = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Object(labels) => {
                pairs.extend(labels.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())));
            }
            value if *value == json!(subject) => {}
            value => pairs.push((name.clone(), value.clone())),
        }
    }
    let shown = pairs.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_what_and_to_what_and_each_thing_once() {
        let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let event = json!({
            "id": 7, "time": "2026-11-21T10:00:00.123456Z", "namespace": "ci", "topic": "/content/update",
            "subject": digest, "event": {"digest": digest, "media_type": "a/b", "labels": {"k": "v\u{1b}"}},
        });
        let form = Form { output: Output::Text, with_namespace: true, short_digests: true };
        let line = "2026-11-21 10:00:00  ci  /content/update     sha256:2cf24dba5fb0  labels.k=v\\x1b media_type=a/b";
        assert_eq!(form.line(&event), line);
        let form = Form { output: Output::Json, ..form };
        assert_eq!(serde_json::from_str::<Value>(&form.line(&event)).expect("JSON"), event);
    }
}
