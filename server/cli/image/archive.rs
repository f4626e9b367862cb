//! Images as files: `orlop image export` and `import`.

use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use futures_util::stream::unfold;
use reqwest::Method;
use serde_json::Value;

use super::find_id;
use crate::cli::context::{Context, Output, say, write_line};
use crate::cli::download::{Download, Origin, refuse_terminal};
use crate::cli::failure::{Exit, Failure};
use crate::cli::pulled::moved_line;
use crate::cli::put::open_file;
use crate::cli::text::{escape, human_bytes};

/// What is read of a file at once.
const CHUNK: usize = 1 << 20;

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop image export docker.io/library/alpine:3.22 -o alpine.tar\n  \
    orlop image export app:1.2 --platform linux/amd64 | docker load")]
pub struct ExportArgs {
    /// Name or id
    name: String,
    /// Write to this file, which appears when it is complete [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only the manifest for this platform, without the index above it
    #[arg(long, value_name = "OS/ARCH", conflicts_with = "skip_missing")]
    platform: Option<String>,
    /// Leave out the platforms that are not here as a whole
    #[arg(long)]
    skip_missing: bool,
}

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop image import alpine.tar\n  \
    docker save app:1.2 | orlop image import -\n  \
    orlop image import layout.tar --base-name registry.example/app")]
pub struct ImportArgs {
    /// A tar, plain or packed with gzip or zstd; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name of the one image; of several in a layout, of their list
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What stands before a name that is a tag alone
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
    /// Lease to keep it on [default: a grace lease of the server's]
    #[arg(long, value_name = "ID")]
    lease: Option<String>,
}

pub async fn export(context: &Context, args: ExportArgs) -> Result<(), Failure> {
    let doing = format!("export {}", args.name);
    if args.output.is_none() {
        refuse_terminal(&doing)?;
    }
    let id = find_id(context, &args.name, &doing).await?;
    let mut query: Vec<_> = args.platform.iter().map(|platform| ("platform", platform.clone())).collect();
    if args.skip_missing {
        query.push(("skip_missing", "true".to_owned()));
    }
    let path = ["images", &id, "archive"].map(str::to_owned).to_vec();
    let hint = "the same command again";
    let download = Download::new(context, Origin { path, query, doing, hint });
    match &args.output {
        Some(path) => download.save_whole(path).await,
        None => download.into_stdout(true).await,
    }
}

pub async fn import(context: &Context, args: ImportArgs) -> Result<(), Failure> {
    let doing = format!("import {}", args.file.display());
    let source: Box<dyn Read + Send> = match args.file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(open_file(&args.file, &doing)?),
    };
    let mut call = context.client.scoped(Method::POST, &["images", "import"], doing.clone());
    call = call.queries("name", &args.name).queries("base_name", &args.base_name);
    if let Some(lease) = &args.lease {
        call = call.header("orlop-lease", lease);
    }
    // Nothing else goes on in this process: a read that waits holds up nobody.
    let body = unfold(source, async |mut source| {
        let mut chunk = vec![0; CHUNK];
        match source.read(&mut chunk) {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some((Ok(Bytes::from(chunk)), source))
            }
            Err(error) => Some((Err(error), source)),
        }
    });
    let response = call.stream("application/x-tar", reqwest::Body::wrap_stream(body)).send().await?;
    let until = response.headers().get("orlop-lease-expires").and_then(|v| v.to_str().ok()).map(escape);
    let imported: Value =
        response.json().await.map_err(|_| Failure::new(Exit::Other, doing, "the answer is not JSON"))?;
    say(&summary(&imported, until.as_deref()));
    match context.output {
        Output::Json => context.print(&imported, |_| String::new()),
        Output::Text => write_line(&lines(&imported)),
    }
}

/// `NAME DIGEST` for each image, and `- DIGEST` for one without a name.
fn lines(imported: &Value) -> String {
    let list = |name: &str| imported.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, pointer: &str| {
        escape(value.pointer(pointer).and_then(Value::as_str).unwrap_or_default())
    };
    let named = list("images")
        .into_iter()
        .map(|image| format!("{} {}\n", text(&image, "/name"), text(&image, "/target/digest")));
    let unnamed = list("unnamed").into_iter().map(|target| format!("- {}\n", text(&target, "/digest")));
    named.chain(unnamed).collect()
}

fn summary(imported: &Value, until: Option<&str>) -> String {
    let number = |name: &str| imported.get(name).and_then(Value::as_u64).unwrap_or_default();
    let mut text = format!(
        "stored {} blobs, {}; {} were there already",
        number("stored_blobs"),
        human_bytes(number("stored_bytes")),
        number("existing_blobs")
    );
    let unnamed = imported.get("unnamed").and_then(Value::as_array).map_or(0, Vec::len);
    if unnamed > 0 {
        let until = until.map(|until| format!(" until {until}")).unwrap_or_default();
        text.push_str(&format!("\n{unnamed} without a name, kept{until}: orlop image tag DIGEST NAME"));
    }
    for moved in imported.get("moved").and_then(Value::as_array).into_iter().flatten() {
        let said = |name: &str| moved.get(name).and_then(Value::as_str).unwrap_or_default();
        text.push_str(&format!("\n{}", moved_line(said("name"), said("from"), said("to"))));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_imported_is_told_line_by_line() {
        let imported = json!({
            "images": [{"name": "a\u{1b}:1", "target": {"digest": "sha256:aa"}}],
            "unnamed": [{"digest": "sha256:bb"}],
            "moved": [{"name": "a\u{1b}:1", "from": "sha256:00", "to": "sha256:aa"}],
            "stored_blobs": 3, "stored_bytes": 2048, "existing_blobs": 1,
        });
        assert_eq!(lines(&imported), "a\\x1b:1 sha256:aa\n- sha256:bb\n");
        assert_eq!(
            summary(&imported, Some("tomorrow")),
            "stored 3 blobs, 2.0 KiB; 1 were there already\n\
             1 without a name, kept until tomorrow: orlop image tag DIGEST NAME\n\
             moved a\\x1b:1 from sha256:00 to sha256:aa"
        );
    }
}
