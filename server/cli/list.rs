//! `orlop ls`: lists of everything, page by page.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::Value;

use super::client::Client;
use super::context::{Context, Output, write_line};
use super::failure::Failure;
use super::progress::done_part;
use super::text::{escape, human_bytes, human_part, human_time, short_digest, table, to_json};

/// The largest page the server gives.
pub const PAGE: usize = 1000;

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop ls\n  \
    orlop ls content --filter 'size>1048576' --sort=-size --limit 10\n  \
    orlop ls images -q --filter 'name~=\"alpine\"'")]
pub struct LsArgs {
    /// What to list
    #[arg(value_name = "WHAT", default_value = "images")]
    what: What,
    #[command(flatten)]
    listing: Listing,
}

/// How to list, whatever it is.
#[derive(Debug, Clone, Default, Args)]
pub struct Listing {
    /// Only ids, one a line: names for images and namespaces, digests for content
    #[arg(long, short)]
    quiet: bool,
    /// Only what fits (see `orlop help filters`); repeated: any of them
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,
    /// Keys with commas between, `-` for descending, as in --sort=-size
    #[arg(long, value_name = "KEYS", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    Images,
    Content,
    Leases,
    Ingests,
    Pulls,
    Snapshots,
    Namespaces,
    #[value(skip)]
    Tokens,
}

pub async fn ls(context: &Context, args: LsArgs) -> Result<(), Failure> {
    list(context, args.what, &args.listing).await
}

pub async fn list(context: &Context, what: What, listing: &Listing) -> Result<(), Failure> {
    let mut pages = Pages::new(&context.client, what, listing);
    let mut printer = Printer::new(what, listing.quiet, context.output);
    while let Some(items) = pages.next().await? {
        printer.page(&items)?;
    }
    printer.end()
}

/// A list, one page after the other, so that a long one is not held in memory.
pub struct Pages<'a> {
    client: &'a Client,
    what: What,
    listing: &'a Listing,
    cursor: Option<String>,
    left: usize,
    begun: bool,
}

impl<'a> Pages<'a> {
    pub fn new(client: &'a Client, what: What, listing: &'a Listing) -> Pages<'a> {
        let left = listing.limit.unwrap_or(usize::MAX);
        Pages { client, what, listing, cursor: None, left, begun: false }
    }

    /// # Errors
    /// The server's refusal of a filter or sort; `Unreachable`.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>, Failure> {
        if self.left == 0 || (self.begun && self.cursor.is_none()) {
            return Ok(None);
        }
        self.begun = true;
        let (name, doing) = (self.what.path(), format!("list {}", self.what));
        let mut call = match self.what {
            What::Images | What::Content | What::Leases | What::Ingests | What::Pulls | What::Snapshots => {
                self.client.scoped(Method::GET, &[name], doing)
            }
            What::Namespaces | What::Tokens => self.client.call(Method::GET, &["api", "v1", name], doing),
        };
        call = call.query("limit", &self.left.min(PAGE).to_string()).queries("filter", &self.listing.filter);
        if let Some(sort) = &self.listing.sort {
            call = call.query("sort", sort);
        }
        if let Some(cursor) = &self.cursor {
            call = call.query("cursor", cursor);
        }
        let (items, cursor) = take_page(call.fetch().await?);
        self.cursor = cursor;
        self.left = self.left.saturating_sub(items.len());
        Ok(Some(items))
    }
}

/// The items of a page, and where the next one begins.
pub fn take_page(mut page: Value) -> (Vec<Value>, Option<String>) {
    let items = match page.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    (items, page.get("next_cursor").and_then(Value::as_str).map(str::to_owned))
}

impl Listing {
    /// The first `limit` that fit one of `filters`, for looking something up.
    pub fn first(limit: usize, filters: Vec<String>) -> Listing {
        Listing { filter: filters, limit: Some(limit), ..Listing::default() }
    }
}

impl What {
    fn path(self) -> &'static str {
        match self {
            What::Images => "images",
            What::Content => "content",
            What::Leases => "leases",
            What::Ingests => "ingests",
            What::Pulls => "pulls",
            What::Snapshots => "snapshots",
            What::Namespaces => "namespaces",
            What::Tokens => "tokens",
        }
    }

    /// The field by which other commands take it.
    pub fn id(self) -> &'static str {
        match self {
            What::Images | What::Namespaces => "name",
            What::Content => "digest",
            What::Snapshots => "key",
            What::Leases | What::Ingests | What::Pulls | What::Tokens => "id",
        }
    }

    fn header(self) -> &'static [&'static str] {
        match self {
            What::Images => &["NAME", "DIGEST", "UPDATED"],
            What::Content => &["DIGEST", "SIZE", "MEDIA TYPE", "CREATED"],
            What::Leases => &["ID", "KIND", "LEFT", "LABELS"],
            What::Ingests => &["ID", "RECEIVED", "STATE", "REF", "UPDATED"],
            What::Pulls => &["ID", "STATE", "DONE", "REF", "CREATED"],
            What::Snapshots => &["KEY", "KIND", "SIZE", "PARENT", "CREATED"],
            What::Namespaces => &["NAME", "LABELS", "CREATED"],
            What::Tokens => &["ID", "NAME", "SCOPES", "NAMESPACES", "EXPIRES", "LAST USED"],
        }
    }

    fn row(self, item: &Value, digests: Digests) -> Vec<String> {
        let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
        let number = |pointer: &str| item.pointer(pointer).and_then(Value::as_u64);
        let digest = |pointer: &str| match digests {
            Digests::Short => short_digest(&text(pointer)),
            Digests::Full => text(pointer),
        };
        let time = |pointer: &str| text(pointer).split('.').next().unwrap_or_default().replace('T', " ");
        match self {
            What::Images => vec![text("/name"), digest("/target/digest"), time("/updated_at")],
            What::Content => {
                let size = human_bytes(number("/size").unwrap_or(0));
                vec![digest("/digest"), size, text("/media_type"), time("/created_at")]
            }
            What::Leases => vec![text("/id"), text("/kind"), time_left(item), labels(item)],
            What::Ingests => {
                let offset = number("/offset").unwrap_or(0);
                let received =
                    number("/total").map_or_else(|| human_bytes(offset), |total| human_part(offset, total));
                vec![text("/id"), received, text("/state"), text("/ref"), time("/updated_at")]
            }
            What::Pulls => {
                vec![text("/id"), text("/state"), done_part(item), text("/ref"), time("/created_at")]
            }
            What::Snapshots => {
                let size = number("/size").map_or_else(|| "-".to_owned(), human_bytes);
                vec![digest("/key"), text("/kind"), size, digest("/parent"), time("/created_at")]
            }
            What::Namespaces => vec![text("/name"), labels(item), time("/created_at")],
            What::Tokens => vec![
                text("/id"),
                text("/name"),
                words(item, "scopes"),
                words(item, "namespaces"),
                time("/expires_at"),
                time("/last_used_at"),
            ],
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path())
    }
}

/// Whole digests are for programs; a person tells them apart by the first digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digests {
    Short,
    Full,
}

pub fn time_left(lease: &Value) -> String {
    match lease.get("expires_in_seconds").and_then(Value::as_u64) {
        Some(seconds) => human_time(std::time::Duration::from_secs(seconds)),
        None => "for ever".to_owned(),
    }
}

fn labels(item: &Value) -> String {
    let Some(labels) = item.get("labels").and_then(Value::as_object) else { return "-".to_owned() };
    let pairs = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let pairs = pairs.collect::<Vec<_>>().join(",");
    if pairs.is_empty() { "-".to_owned() } else { pairs }
}

fn words(item: &Value, name: &str) -> String {
    let words = item.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    match words {
        [] => "all".to_owned(),
        words => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
    }
}

struct Printer {
    what: What,
    form: Form,
    digests: Digests,
    printed: usize,
    json: JsonList,
}

#[derive(Clone, Copy)]
enum Form {
    Ids,
    Table,
    Json,
}

impl Printer {
    fn new(what: What, quiet: bool, output: Output) -> Printer {
        let form = match (quiet, output) {
            (true, _) => Form::Ids,
            (false, Output::Json) => Form::Json,
            (false, Output::Text) => Form::Table,
        };
        let digests = if std::io::stdout().is_terminal() { Digests::Short } else { Digests::Full };
        Printer { what, form, digests, printed: 0, json: JsonList::default() }
    }

    fn page(&mut self, items: &[Value]) -> Result<(), Failure> {
        let first = self.printed == 0;
        self.printed += items.len();
        match self.form {
            Form::Ids => {
                let id = |item: &Value| {
                    escape(item.get(self.what.id()).and_then(Value::as_str).unwrap_or_default())
                };
                write_line(&items.iter().map(id).collect::<Vec<_>>().join("\n"))
            }
            Form::Table if items.is_empty() && !first => Ok(()),
            Form::Table => {
                let rows: Vec<Vec<String>> =
                    items.iter().map(|item| self.what.row(item, self.digests)).collect();
                let no_header = vec![""; self.what.header().len()];
                write_line(&table(if first { self.what.header() } else { &no_header }, &rows))
            }
            Form::Json => self.json.page(items),
        }
    }

    fn end(&self) -> Result<(), Failure> {
        match self.form {
            Form::Json => self.json.end(),
            Form::Ids | Form::Table => Ok(()),
        }
    }
}

/// A list as JSON, written page by page.
#[derive(Debug, Default)]
pub struct JsonList {
    begun: bool,
}

impl JsonList {
    pub fn page(&mut self, items: &[Value]) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        let opening = if self.begun { "," } else { "{\"items\":[" };
        self.begun = true;
        write_line(&format!("{opening}\n{}\n", items.iter().map(to_json).collect::<Vec<_>>().join(",\n")))
    }

    pub fn end(&self) -> Result<(), Failure> {
        write_line(if self.begun { "],\"next_cursor\":null}" } else { "{\"items\":[],\"next_cursor\":null}" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_says_what_a_person_looks_for() {
        let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let content = json!({"digest": digest, "size": 2048, "media_type": null, "created_at": "2026-11-21T10:00:00.123456Z"});
        let row = What::Content.row(&content, Digests::Short);
        assert_eq!(row, ["sha256:2cf24dba5fb0", "2.0 KiB", "-", "2026-11-21 10:00:00"]);
        assert_eq!(What::Content.row(&content, Digests::Full)[0], digest);
        let lease = json!({"id": "a", "kind": "user", "expires_in_seconds": null, "labels": {"k": "v"}});
        assert_eq!(What::Leases.row(&lease, Digests::Full), ["a", "user", "for ever", "k=v"]);
    }
}
