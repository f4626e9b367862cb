//! `orlop cat`: a file out of an image or a layer, which nobody has to unpack for it.

use clap::Args;

use super::context::Context;
use super::download::{Download, Origin};
use super::failure::Failure;
use super::get::Showing;
use super::place::{Filed, PlaceArg, parse_place};
use crate::oci::Digest;

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop cat app:1.2:/etc/os-release\n  \
    orlop cat --platform linux/arm64 alpine:3.22:/bin/busybox > busybox\n  \
    orlop cat sha256:2cf24d…:/etc/passwd --range 0-99")]
pub struct CatArgs {
    /// A file of an image (name or id) or of a layer (digest, or its first digits); a digest alone is the blob itself
    #[arg(value_name = "REF:/PATH", value_parser = parse_place)]
    place: PlaceArg,
    /// Platform to take of an image, as in linux/arm64 [default: the server's own]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    #[command(flatten)]
    showing: Showing,
}

pub async fn cat(context: &Context, args: &CatArgs) -> Result<(), Failure> {
    let doing = format!("read {}", args.place);
    let filed = Filed::find(context, &args.place.of, args.platform.as_ref(), &doing).await?;
    let shown = match (&args.place.path, &filed) {
        (Some(path), filed) => {
            let (path, query) = (filed.path(&["files", "data"]), filed.query(path));
            let hint = "the same command again";
            Download::new(context, Origin { path, query, doing, hint }).range(args.showing.range)
        }
        (None, Filed::Layer(digest)) => {
            let digest: Digest = digest.parse().map_err(|e| Failure::local(&doing, &e))?;
            let blob = Download::new(context, Origin::blob(&digest)).range(args.showing.range);
            if args.showing.range.is_some() { blob } else { blob.verified_by(&digest) }
        }
        (None, Filed::Image { .. } | Filed::Snapshot(_)) => {
            let failure = Failure::usage(doing, "it has many files, and a path says which");
            return Err(
                failure.hint(format!("orlop cat {0}:/PATH; orlop tree {0} shows them", args.place.of))
            );
        }
    };
    shown.into_stdout(args.showing.force).await.map_err(|failure| filed.in_words(failure))
}
