//! What a pull brought: what programs read on stdout, and beside it what a person would not see there.

use reqwest::Method;
use serde_json::Value;

use super::context::{Context, Output, say, write_line};
use super::text::escape;
use crate::oci::Reference;

/// What the name of an image stands for, to be held against what it stands for after a pull.
#[derive(Debug, Clone, Default)]
pub struct Before {
    digest: Option<String>,
}

impl Before {
    /// Looks before a pull of `reference` is begun. Who may not look, or where there is nothing, learns of no move.
    pub async fn look(context: &Context, reference: &str, name: Option<&String>) -> Before {
        let name = name.cloned().or_else(|| reference.parse::<Reference>().ok().map(|full| full.to_string()));
        let (Some(name), Output::Text) = (name, context.output) else { return Before::default() };
        let call = context.client.scoped(Method::GET, &["images"], format!("get image {name}"));
        let found = call.query("name", &name).fetch().await.unwrap_or_default();
        Before { digest: found.pointer("/items/0/target/digest").and_then(Value::as_str).map(str::to_owned) }
    }
}

/// The image's name and its digest, with a space between; on stderr that the name stood for something else, and which
/// platform it is where none was asked for.
pub async fn print_pulled(context: &Context, job: &Value, before: &Before) -> Result<(), super::Failure> {
    let digest = job.pointer("/target/digest").and_then(Value::as_str).unwrap_or_default();
    let name = job.get("image_name").and_then(Value::as_str).unwrap_or_default();
    if context.output == Output::Json {
        return context.print(job, |_| String::new());
    }
    if let Some(moved) = move_of(name, before.digest.as_deref(), digest) {
        say(&moved);
    }
    if let Some(platforms) = platforms_taken(context, job).await {
        say(&platforms);
    }
    write_line(&format!("{} {}", escape(name), escape(digest)))
}

fn move_of(name: &str, before: Option<&str>, after: &str) -> Option<String> {
    let before = before.filter(|before| *before != after)?;
    Some(moved_line(name, before, after))
}

/// That a name stands for something else now.
pub fn moved_line(name: &str, from: &str, to: &str) -> String {
    format!("moved {} from {} to {}", escape(name), escape(from), escape(to))
}

/// Only where the server chose: who named platforms knows them. That it cannot be told fails no pull.
async fn platforms_taken(context: &Context, job: &Value) -> Option<String> {
    let chose =
        job.get("platforms")?.as_array()?.is_empty() && job.get("all_platforms") != Some(&Value::Bool(true));
    let image = job.get("image_id")?.as_str().filter(|_| chose)?;
    let doing = "ask which platform it is";
    let checked =
        context.client.scoped(Method::GET, &["images", image, "check"], doing).fetch().await.ok()?;
    words_of_platforms(job, &checked)
}

fn words_of_platforms(job: &Value, checked: &Value) -> Option<String> {
    let list =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let blobs = list(job, "blobs");
    let fetched = |digest: &Value| {
        blobs.iter().any(|blob| {
            blob["digest"] == *digest && matches!(blob["state"].as_str(), Some("done" | "exists"))
        })
    };
    let items = list(checked, "items");
    let taken = items.iter().filter(|item| fetched(&item["target"]["digest"]));
    let names: Vec<String> = taken.filter_map(|item| platform(&item["platform"])).collect();
    let name = escape(job.get("image_name").and_then(Value::as_str).unwrap_or_default());
    match (names.as_slice(), items.len()) {
        ([], _) => None,
        (names, 1) => Some(format!("{name} is for {}", names.join(", "))),
        (names, _) => Some(format!(
            "{name} is for {} here, as the server is; --platform takes another",
            names.join(", ")
        )),
    }
}

/// `linux/arm64/v8`; none of what nothing runs on.
fn platform(platform: &Value) -> Option<String> {
    let part = |name: &str| platform.get(name).and_then(Value::as_str).filter(|part| !part.is_empty());
    let (os, architecture) = (part("os")?, part("architecture")?);
    let variant = part("variant").map(|variant| format!("/{variant}")).unwrap_or_default();
    (os != "unknown").then(|| escape(&format!("{os}/{architecture}{variant}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_that_stood_for_something_else_is_said_to_move() {
        assert_eq!(
            move_of("a", Some("sha256:1"), "sha256:2").as_deref(),
            Some("moved a from sha256:1 to sha256:2")
        );
        assert_eq!(move_of("a", Some("sha256:1"), "sha256:1"), None);
        assert_eq!(move_of("a", None, "sha256:1"), None);
    }

    #[test]
    fn the_platform_that_the_server_chose_is_told() {
        let item = |digest: &str, os: &str, architecture: &str, variant: Value| {
            let platform = json!({"os": os, "architecture": architecture, "variant": variant});
            json!({"target": {"digest": digest}, "platform": platform})
        };
        let index = json!({"items": [
            item("sha256:1", "linux", "amd64", Value::Null),
            item("sha256:2", "linux", "arm64", json!("v8")),
            item("sha256:3", "unknown", "unknown", Value::Null),
        ]});
        let job = |state: &str| {
            let blob = |digest: &str| json!({"digest": digest, "state": state});
            json!({"image_name": "a", "blobs": [blob("sha256:2"), blob("sha256:3")]})
        };
        let words = "a is for linux/arm64/v8 here, as the server is; --platform takes another";
        assert_eq!(words_of_platforms(&job("done"), &index).as_deref(), Some(words));
        assert_eq!(words_of_platforms(&job("skipped"), &index), None);
        let one = json!({"items": [item("sha256:2", "linux", "arm64", json!("v8"))]});
        assert_eq!(words_of_platforms(&job("exists"), &one).as_deref(), Some("a is for linux/arm64/v8"));
    }
}
