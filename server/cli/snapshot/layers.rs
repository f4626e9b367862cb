//! `orlop snapshot diff` and `apply`: snapshots become layers, and layers go onto snapshots.

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::json;

use super::{Keeping, text};
use crate::cli::context::{Context, label_map};
use crate::cli::digest_arg::{DigestArg, resolve_key};
use crate::cli::failure::Failure;
use crate::cli::put::read_kept;

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Key of the snapshot that the layer makes
    upper: String,
    /// Snapshot that the layer will stand on [default: the one that UPPER stands on]
    lower: Option<String>,
    /// All of UPPER, as if it stood on nothing
    #[arg(long, conflicts_with = "lower")]
    whole: bool,
    /// How the layer is packed
    #[arg(long, value_name = "PACKING", default_value = "gzip")]
    packing: PackingArg,
    /// No file of the layer is younger, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    source_date_epoch: Option<u32>,
    #[command(flatten)]
    keeping: Keeping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PackingArg {
    None,
    Gzip,
    Zstd,
}

impl PackingArg {
    fn media_type(self) -> &'static str {
        match self {
            PackingArg::None => crate::oci::media_type::OCI_LAYER,
            PackingArg::Gzip => crate::oci::media_type::OCI_LAYER_GZIP,
            PackingArg::Zstd => crate::oci::media_type::OCI_LAYER_ZSTD,
        }
    }
}

pub async fn diff(context: &Context, args: &DiffArgs) -> Result<(), Failure> {
    let doing = format!("make a layer of snapshot {}", args.upper);
    let mut body = json!({
        "upper": resolve_key(context, &args.upper).await?,
        "whole": args.whole,
        "media_type": args.packing.media_type(),
        "labels": label_map(&args.keeping.label),
    });
    if let Some(lower) = &args.lower {
        body["lower"] = resolve_key(context, lower).await?.into();
    }
    if let Some(epoch) = args.source_date_epoch {
        body["source_date_epoch"] = epoch.into();
    }
    let call = context.client.scoped(Method::POST, &["diffs"], doing.clone()).json(&body);
    let call = args.keeping.lease.iter().fold(call, |call, lease| call.header("orlop-lease", lease));
    let made = read_kept(&context.client, call.send().await?, doing).await?;
    context.print(&made, |made| text(made, "digest"))
}

pub async fn apply(
    context: &Context,
    key: &str,
    layer: &DigestArg,
    diff_id: Option<&String>,
) -> Result<(), Failure> {
    let layer = layer.resolve(context).await?;
    let doing = format!("apply {layer} to snapshot {key}");
    let mut body = json!({
        "digest": layer,
        "snapshot": resolve_key(context, key).await?,
    });
    if let Some(diff_id) = diff_id {
        body["diff_id"] = diff_id.as_str().into();
    }
    let applied = context.client.scoped(Method::POST, &["diffs", "apply"], doing).json(&body).fetch().await?;
    context.print(&applied, |applied| text(applied, "digest"))
}
