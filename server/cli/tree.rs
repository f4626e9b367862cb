//! `orlop tree`: what files an image, a layer or a snapshot has.

mod draw;

use clap::Args;
use serde_json::Value;

use self::draw::{Drawing, line};
use super::context::{Context, Output, say, write_line};
use super::failure::Failure;
use super::list::JsonList;
use super::place::{Depth, Filed, PlaceArg, parse_place};
use super::text::escape;

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop tree app:1.2 -L 2\n  \
    orlop tree alpine:3.22:/etc --platform linux/arm64\n  \
    orlop tree 2cf24d --flat")]
pub struct TreeArgs {
    /// An image (name or id) or a layer (digest, or its first digits), and where in it to begin
    #[arg(value_name = "REF[:/PATH]", value_parser = parse_place)]
    place: PlaceArg,
    /// Platform to take of an image, as in linux/arm64 [default: the server's own]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    #[command(flatten)]
    form: TreeForm,
}

/// How much of a tree is shown, and how.
#[derive(Debug, Clone, Args)]
pub struct TreeForm {
    /// Go down so many levels
    #[arg(long, short = 'L', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    depth: Option<u64>,
    /// A line for each file, with mode, owner, size, time and path
    #[arg(long)]
    flat: bool,
    /// Show also what upper layers deleted; of a layer alone it is always shown
    #[arg(long)]
    deleted: bool,
}

pub async fn tree(context: &Context, args: &TreeArgs) -> Result<(), Failure> {
    let doing = format!("list the files of {}", args.place);
    let filed = Filed::find(context, &args.place.of, args.platform.as_ref(), &doing).await?;
    show_files(context, &filed, &args.place, &args.form, &doing).await
}

/// Lists files, all pages of them.
pub async fn show_files(
    context: &Context,
    filed: &Filed,
    place: &PlaceArg,
    form: &TreeForm,
    doing: &str,
) -> Result<(), Failure> {
    let shows_deleted = form.deleted || matches!(filed, Filed::Layer(_));
    let mut printer = match (context.output, form.flat) {
        (Output::Json, _) => Printer::Json(JsonList::default()),
        (Output::Text, true) => Printer::Flat,
        (Output::Text, false) => Printer::Tree(Drawing::default()),
    };
    let depth = if form.depth == Some(1) { Depth::One } else { Depth::All };
    let mut pages = filed.pages(context, place.path.as_deref().unwrap_or("/"), depth, doing);
    let mut highest = None;
    while let Some(mut items) = pages.next().await? {
        // The first one stands right below where the list begins, or is what the list is of.
        let level = |item: &Value| path_of(item).matches('/').count() as u64;
        let highest = *highest.get_or_insert(items.first().map_or(0, level));
        items.retain(|item| {
            let is_near = form.depth.is_none_or(|depth| level(item).saturating_sub(highest) < depth);
            is_near && (shows_deleted || item.get("deleted") != Some(&Value::Bool(true)))
        });
        match &mut printer {
            Printer::Json(list) => list.page(&items)?,
            Printer::Flat => write_line(&items.iter().map(line).collect::<String>())?,
            Printer::Tree(drawing) => {
                items.iter().for_each(|item| drawing.add(level(item).saturating_sub(highest), item));
            }
        }
    }
    match printer {
        Printer::Json(list) => list.end(),
        Printer::Flat => Ok(()),
        Printer::Tree(drawing) => {
            write_line(&format!("{}\n{}", escape(&place.to_string()), drawing.lines()))?;
            say(&drawing.sum());
            Ok(())
        }
    }
}

enum Printer {
    Json(JsonList),
    Flat,
    Tree(Drawing),
}

fn path_of(item: &Value) -> &str {
    item.get("path").and_then(Value::as_str).unwrap_or_default()
}
