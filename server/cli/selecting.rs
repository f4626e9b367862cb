//! What of an image `orlop pull` asks for, and the plan of it in words.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::text::{escape, human_bytes, table};

/// What of an image a pull takes.
#[derive(Debug, Args)]
pub struct Selecting {
    /// Platform to pull, as in linux/arm64; repeatable [default: the server's own]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<String>,
    /// Pull everything that an index names, attestations included
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Pull indexes, manifests and configs, and no layers
    #[arg(long, conflicts_with = "convert_schema1")]
    metadata_only: bool,
    /// Pull indexes, manifests and configs of every platform, and the layers of those asked for
    #[arg(long)]
    all_metadata: bool,
    /// Pull also what refers to the image, such as signatures; it is kept with the image
    #[arg(long)]
    referrers: bool,
    /// Of the referrers only those of this artifact type; repeatable
    #[arg(long, value_name = "TYPE", requires = "referrers")]
    referrer_type: Vec<String>,
    /// What is done about layers whose distribution is restricted [default: skip]
    #[arg(long, value_name = "HOW")]
    foreign_layers: Option<ForeignLayers>,
    /// Make an OCI image of a Docker manifest of schema 1
    #[arg(long)]
    convert_schema1: bool,
    /// Unpack the layers into snapshots as they come
    #[arg(long, conflicts_with = "metadata_only")]
    unpack: bool,
    /// Drop the blobs of layers once they are unpacked
    #[arg(long, requires = "unpack")]
    drop_layers: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ForeignLayers {
    /// They stay where they are
    Skip,
    /// From the registry, or else from where the image says that they are
    Fetch,
}

impl Selecting {
    /// Writes into a request what was asked for, and nothing that was not.
    pub fn write_into(&self, body: &mut Value) {
        for (name, asked) in [
            ("all_platforms", self.all_platforms),
            ("metadata_only", self.metadata_only),
            ("all_metadata", self.all_metadata),
            ("referrers", self.referrers),
            ("convert_schema1", self.convert_schema1),
            ("unpack", self.unpack),
        ] {
            if asked {
                body[name] = true.into();
            }
        }
        for (name, asked) in [("platforms", &self.platform), ("referrer_types", &self.referrer_type)] {
            if !asked.is_empty() {
                body[name] = asked.clone().into();
            }
        }
        if self.drop_layers {
            body["layer_blobs"] = "drop".into();
        }
        match self.foreign_layers {
            None => {}
            Some(ForeignLayers::Skip) => body["foreign_layers"] = "skip".into(),
            Some(ForeignLayers::Fetch) => body["foreign_layers"] = "fetch".into(),
        }
    }
}

/// The image, its blobs as a table, and what they come to.
pub fn plan_text(plan: &Value) -> String {
    let text = |value: &Value, pointer: &str| {
        escape(value.pointer(pointer).and_then(Value::as_str).unwrap_or_default())
    };
    let number = |name: &str| plan.get(name).and_then(Value::as_u64).unwrap_or_default();
    let blobs = plan.get("blobs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let row = |blob: &Value| {
        let size = human_bytes(blob.get("size").and_then(Value::as_u64).unwrap_or_default());
        vec![text(blob, "/digest"), size, text(blob, "/role"), standing(blob).to_owned()]
    };
    let rows: Vec<Vec<String>> = blobs.iter().map(row).collect();
    let platforms = plan.get("platforms").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let platforms: Vec<String> = platforms.iter().filter_map(Value::as_str).map(escape).collect();
    let mut said = format!("{} {}", text(plan, "/image_name"), text(plan, "/target/digest"));
    if !platforms.is_empty() {
        said.push_str(&format!(" for {}", platforms.join(", ")));
    }
    if plan.get("converts").and_then(Value::as_bool) == Some(true) {
        said.push_str(", to be converted");
    }
    let part = |what: &str, name: &str| {
        let (bytes, blobs) = (number(&format!("bytes_{name}")), number(&format!("blobs_{name}")));
        (blobs > 0).then(|| format!("{what} {} ({blobs})", human_bytes(bytes)))
    };
    let skipped = number("blobs_skipped");
    let parts = [
        part("to fetch", "to_fetch"),
        part("present", "present"),
        part("shared", "shared"),
        (skipped > 0).then(|| format!("skipped ({skipped})")),
    ];
    let parts = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    format!("{said}\n{}\n{parts}", table(&["DIGEST", "SIZE", "ROLE", "PLAN"], &rows).trim_end())
}

fn standing(blob: &Value) -> &'static str {
    let is = |name: &str| blob.get(name).and_then(Value::as_bool) == Some(true);
    match () {
        () if is("skipped") => "skipped",
        () if is("present") => "present",
        () if is("shared") => "shared",
        () => "fetch",
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_is_told_in_words() {
        let blob = |digest: &str, role: &str, size: u64, standing: &str| {
            json!({
                "digest": digest, "role": role, "size": size, "present": standing == "present",
                "shared": standing == "shared", "skipped": standing == "skipped",
            })
        };
        let plan = json!({
            "image_name": "docker.io/library/a\u{1b}[2J:v1", "target": {"digest": "sha256:aa"},
            "platforms": ["linux/amd64"], "converts": false,
            "bytes_to_fetch": 3_145_728, "blobs_to_fetch": 1, "bytes_present": 10, "blobs_present": 1,
            "bytes_shared": 0, "blobs_shared": 0, "blobs_skipped": 1,
            "blobs": [
                blob("sha256:aa", "manifest", 10, "present"),
                blob("sha256:bb", "layer", 3_145_728, "fetch"),
                blob("sha256:cc", "layer", 5, "skipped"),
            ],
        });
        assert_snapshot!(plan_text(&plan), @r"
        docker.io/library/a\x1b[2J:v1 sha256:aa for linux/amd64
        DIGEST     SIZE     ROLE      PLAN
        sha256:aa  10 B     manifest  present
        sha256:bb  3.0 MiB  layer     fetch
        sha256:cc  5 B      layer     skipped
        to fetch 3.0 MiB (1), present 10 B (1), skipped (1)
        ");
    }

    #[test]
    fn only_what_was_asked_for_is_in_the_request() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            selecting: Selecting,
        }
        let body = |words: &str| {
            let line: Line = clap::Parser::try_parse_from(words.split(' ')).expect("words");
            let mut body = json!({});
            line.selecting.write_into(&mut body);
            body
        };
        assert_eq!(body("pull"), json!({}));
        assert_eq!(
            body("pull --platform linux/arm64 --platform windows --all-metadata --foreign-layers fetch"),
            json!({"platforms": ["linux/arm64", "windows"], "all_metadata": true, "foreign_layers": "fetch"})
        );
        assert_eq!(
            body("pull --all-platforms --referrers --referrer-type a/b --convert-schema1"),
            json!({"all_platforms": true, "referrers": true, "referrer_types": ["a/b"], "convert_schema1": true})
        );
    }
}
