//! What is behind a name, for a person: `orlop image inspect`, `check`, `history` and `usage`.

use std::io::IsTerminal;

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::{find_id, find_known, id_of};
use crate::cli::context::{Context, Output, write_line};
use crate::cli::failure::{Exit, Failure};
use crate::cli::text::{escape, human_bytes, platform, short_digest, table};

#[derive(Debug, Args)]
pub struct ViewArgs {
    /// Name or id
    name: String,
    /// Look at this platform: OS/ARCH or OS/ARCH/VARIANT
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

/// One view of an image, as the server tells it.
async fn view(
    context: &Context,
    name: &str,
    what: &str,
    platform: Option<&String>,
) -> Result<Value, Failure> {
    let doing = format!("get the {what} of {name}");
    let id = find_id(context, name, &doing).await?;
    let call = context.client.scoped(Method::GET, &["images", &id, what], doing);
    call.queries("platform", platform).fetch().await
}

/// A table, which tells also a program what it says; nothing of it is a message.
fn print(context: &Context, told: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
    match context.output {
        Output::Json => context.print(told, text),
        Output::Text => write_line(&text(told)),
    }
}

/// Exit code 10 when something that was looked at is not whole.
pub async fn check(context: &Context, args: &ViewArgs) -> Result<Exit, Failure> {
    let told = view(context, &args.name, "check", args.platform.as_ref()).await?;
    let whole = if args.platform.is_none() { Whole::Told } else { Whole::NotAskedFor };
    print(context, &told, |told| check_table(told, whole))?;
    Ok(if text(told.get("state")) == "complete" { Exit::Success } else { Exit::Findings })
}

/// Whether the last row sums up all that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    Told,
    /// One platform was asked for: that is all there is to sum up.
    NotAskedFor,
}

fn check_table(told: &Value, whole: Whole) -> String {
    let sum = (whole == Whole::Told).then_some(told);
    let rows: Vec<Vec<String>> = items(told, "items").iter().chain(sum).map(check_row).collect();
    table(&["PLATFORM", "STATE", "BLOBS", "SIZE", "DIGEST"], &rows)
}

/// The record of an image and what of it is here, in one.
pub async fn inspect(context: &Context, name: &str) -> Result<(), Failure> {
    let doing = format!("inspect {name}");
    let mut image = find_known(context, name, &doing).await?;
    let call = context.client.scoped(Method::GET, &["images", &id_of(&image), "check"], doing);
    // What is no image of layers has a record all the same.
    image["check"] = match call.fetch().await {
        Err(failure) if failure.exit == Exit::Usage => Value::Null,
        checked => checked?,
    };
    print(context, &image, inspected)
}

fn inspected(image: &Value) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    for name in ["name", "id", "namespace", "created_at", "updated_at"] {
        row(name, text(image.get(name)));
    }
    row("digest", text(image.pointer("/target/digest")));
    row("media_type", text(image.pointer("/target/media_type")));
    row("size", human_bytes(number(image.pointer("/target/size"))));
    for (what, pointer) in [("label", "/labels"), ("annotation", "/target/annotations")] {
        for (key, value) in image.pointer(pointer).and_then(Value::as_object).into_iter().flatten() {
            row(what, format!("{key}={}", text(Some(value))));
        }
    }
    let shown = table(&["", ""], &rows);
    match image.get("check").filter(|check| check.is_object()) {
        Some(check) => format!("{shown}{}", check_table(check, Whole::Told)),
        None => shown,
    }
}

/// A manifest of the image, or the whole at the end.
fn check_row(item: &Value) -> Vec<String> {
    let platform = match item.get("target") {
        Some(target) if item.get("platform").is_some_and(Value::is_null) => text(target.get("role")),
        Some(_) => item.get("platform").and_then(platform).unwrap_or_default(),
        None => "(all)".to_owned(),
    };
    let count = |name: &str| number(item.get(name));
    let digest = item.pointer("/target/digest").or_else(|| item.get("digest"));
    let state = match items(item, "skipped").len() {
        0 => text(item.get("state")),
        skipped => format!("{} ({skipped} skipped)", text(item.get("state"))),
    };
    vec![
        platform,
        state,
        format!("{}/{}", count("present_blobs"), count("required_blobs")),
        format!("{}/{}", human_bytes(count("present_bytes")), human_bytes(count("required_bytes"))),
        shown(&text(digest)),
    ]
}

pub async fn history(context: &Context, args: &ViewArgs) -> Result<(), Failure> {
    let told = view(context, &args.name, "history", args.platform.as_ref()).await?;
    print(context, &told, |told| {
        let rows: Vec<Vec<String>> = items(told, "steps").iter().map(history_row).collect();
        let mut shown = table(&["CREATED", "SIZE", "LAYER", "CREATED BY"], &rows);
        for finding in items(told, "findings") {
            shown.push_str(&format!("note: {}\n", escape(&text(Some(finding)))));
        }
        shown
    })
}

fn history_row(step: &Value) -> Vec<String> {
    /// A line of a script may be as long as the script.
    const LONGEST: usize = 120;
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let said = text(step.get("created_by"));
    let mut done: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if done.chars().count() > LONGEST {
        done = done.chars().take(LONGEST).chain(['…']).collect();
    }
    let layer = step.get("layer").filter(|layer| !layer.is_null());
    vec![
        or_dash(text(step.get("created"))),
        layer.map_or_else(|| "-".to_owned(), |layer| human_bytes(number(layer.get("size")))),
        layer.map_or_else(|| "-".to_owned(), |layer| shown(&text(layer.get("digest")))),
        or_dash(done),
    ]
}

pub async fn usage(context: &Context, name: &str) -> Result<(), Failure> {
    let told = view(context, name, "usage", None).await?;
    print(context, &told, |told| {
        let row = |name: &str, what: &str| {
            let bytes = human_bytes(number(told.get(format!("{what}_bytes"))));
            vec![name.to_owned(), bytes, format!("{} blobs", number(told.get(format!("{what}_blobs"))))]
        };
        let mut rows = vec![
            row("total", "total"),
            row("stored here", "present"),
            row("of it unique", "unique"),
            row("of it shared", "shared"),
        ];
        for sharer in items(told, "shared_with") {
            rows.push(vec![
                format!("  with {}", text(sharer.get("name"))),
                human_bytes(number(sharer.get("bytes"))),
                format!("{} blobs", number(sharer.get("blobs"))),
            ]);
        }
        let more =
            number(told.get("shared_with_count")).saturating_sub(items(told, "shared_with").len() as u64);
        if more > 0 {
            rows.push(vec![format!("  and {more} more"), String::new(), String::new()]);
        }
        table(&["", "", ""], &rows)
    })
}

fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(value: Option<&Value>) -> u64 {
    value.and_then(Value::as_u64).unwrap_or_default()
}

/// A person tells digests apart by their first digits; a program wants all of them.
fn shown(digest: &str) -> String {
    if std::io::stdout().is_terminal() { short_digest(digest) } else { digest.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_of_a_check_says_what_is_here_of_what() {
        let item = json!({
            "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}, "state": "incomplete",
            "target": {"digest": "sha256:ab", "role": "manifest"},
            "present_blobs": 2, "required_blobs": 3, "present_bytes": 5, "required_bytes": 2048,
        });
        assert_eq!(check_row(&item), ["linux/arm64/v8", "incomplete", "2/3", "5 B/2.0 KiB", "sha256:ab"]);
        let windows = json!({
            "platform": {"os": "windows", "architecture": "amd64", "os_version": "10.0.20348.1"},
            "target": {"role": "manifest"},
        });
        assert_eq!(check_row(&windows)[0], "windows(10.0.20348.1)/amd64");
        let without = json!({"state": "complete", "skipped": [{"digest": "sha256:ab"}]});
        assert_eq!(check_row(&without)[1], "complete (1 skipped)");
        let other = json!({"platform": null, "target": {"role": "blob"}, "state": "complete"});
        assert_eq!(check_row(&other)[0], "blob");
        assert_eq!(check_row(&json!({"state": "complete"}))[0], "(all)");
    }

    #[test]
    fn a_check_of_one_platform_sums_up_nothing() {
        let told = json!({"items": [{"platform": null, "target": {"role": "blob"}}], "state": "complete"});
        assert_eq!(check_table(&told, Whole::NotAskedFor).lines().count(), 2);
        assert!(check_table(&told, Whole::Told).contains("(all)"));
    }

    #[test]
    fn an_image_is_told_with_its_labels_and_what_is_here_of_it() {
        let image = json!({
            "name": "a:1", "id": "img_1", "namespace": "default", "created_at": "t1", "updated_at": "t2",
            "target": {"digest": "sha256:ab", "media_type": "a/b", "size": 5, "annotations": {"k": "v"}},
            "labels": {"team": "harbour\u{1b}"}, "check": {"state": "complete", "items": []},
        });
        let told = inspected(&image);
        let has = |parts: [&str; 2]| told.lines().any(|line| line.split_whitespace().eq(parts));
        assert!(has(["digest", "sha256:ab"]) && has(["annotation", "k=v"]), "{told}");
        assert!(has(["label", r"team=harbour\x1b"]) && told.contains("complete"), "{told}");
        let alone = json!({"name": "a", "check": null});
        assert!(!inspected(&alone).contains("PLATFORM"));
    }

    #[test]
    fn a_step_is_one_line() {
        let step = json!({"created_by": format!("RUN a\n\t{}", "b".repeat(500)), "layer": null});
        let row = history_row(&step);
        assert_eq!((row[0].as_str(), row[1].as_str()), ("-", "-"));
        assert!(row[3].starts_with("RUN a bb") && row[3].ends_with('…') && row[3].chars().count() == 121);
    }
}
