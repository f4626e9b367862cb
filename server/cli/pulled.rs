//! What a pull brought: what programs read on stdout, and beside it what a person would not see there.

use reqwest::Method;
use serde_json::Value;

use super::context::{Context, Output, say, write_line};
use super::text::{escape, human_bytes, platform};
use super::unpack::say_unpacked;
use crate::oci::{Reference, media_type};

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
    notes(job).iter().for_each(|note| say(note));
    if let Some(platforms) = platforms_taken(context, job).await {
        say(&platforms);
    }
    say_unpacked(job);
    write_line(&format!("{} {}", escape(name), escape(digest)))
}

/// What of the image is not as the registry has it.
fn notes(job: &Value) -> Vec<String> {
    let name = escape(job.get("image_name").and_then(Value::as_str).unwrap_or_default());
    let origin = job.get("converted_from").and_then(Value::as_str);
    let converted =
        origin.map(|digest| format!("{name} was made of the schema 1 manifest {}", escape(digest)));
    let blobs = job.get("blobs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_restricted = |blob: &&Value| {
        let media_type = blob["media_type"].as_str().unwrap_or_default();
        blob["state"] == "skipped" && media_type::is_restricted(media_type)
    };
    let skipped: Vec<&Value> = blobs.iter().filter(is_restricted).collect();
    let bytes = skipped.iter().filter_map(|blob| blob["size"].as_u64()).fold(0, u64::saturating_add);
    let left_out = match skipped.len() {
        0 => None,
        1 => Some("a layer".to_owned()),
        many => Some(format!("{many} layers")),
    };
    let left_out = left_out.map(|layers| {
        let size = human_bytes(bytes);
        format!("{name} is without {layers} of restricted distribution ({size}): --foreign-layers fetch takes them")
    });
    converted.into_iter().chain(left_out).collect()
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
    let runs = |item: &&Value| item["platform"]["os"] != "unknown";
    let names: Vec<String> =
        taken.filter(runs).filter_map(|item| platform(&item["platform"])).map(|name| escape(&name)).collect();
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
    fn what_is_left_out_and_what_it_was_made_of_is_told_once() {
        let layer = |state: &str| {
            json!({"media_type": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "state": state,
                "size": 1024})
        };
        let blobs = [layer("done"), layer("skipped"), layer("skipped")];
        let job = json!({"image_name": "a", "converted_from": "sha256:1", "blobs": blobs});
        assert_eq!(
            notes(&job),
            [
                "a was made of the schema 1 manifest sha256:1",
                "a is without 2 layers of restricted distribution (2.0 KiB): --foreign-layers fetch takes them"
            ]
        );
        assert_eq!(notes(&json!({"image_name": "a", "blobs": [layer("done")]})), [""; 0]);
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
