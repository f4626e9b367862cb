//! `orlop get`: a blob's bytes, checked against its digest.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::context::{Context, say};
use super::digest_arg::{DigestArg, parse_digest_arg};
use super::download::{Download, Origin, Range, parse_range};
use super::failure::Failure;
use crate::oci::Digest;

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop get sha256:2cf24d… > blob\n  \
    orlop get 2cf24d -o layer.tar.gz\n  \
    orlop get 2cf24d --range 0-511 | xxd")]
pub struct GetArgs {
    /// Digest, or at least six of its first digits
    #[arg(value_parser = parse_digest_arg)]
    digest: DigestArg,
    /// Write to this file, which appears when it is complete; a broken download is taken up again
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    showing: Showing,
    /// Do not compare the bytes with the digest
    #[arg(long)]
    no_verify: bool,
}

/// Which bytes are shown, and where.
#[derive(Debug, Clone, Args)]
pub struct Showing {
    /// Only these bytes: A-B, A- or -LAST; they cannot be verified
    #[arg(long, value_name = "A-B", value_parser = parse_range, allow_hyphen_values = true)]
    pub range: Option<Range>,
    /// Write also what is not text to a terminal
    #[arg(long, short)]
    pub force: bool,
}

pub async fn get(context: &Context, args: GetArgs) -> Result<(), Failure> {
    let name = args.digest.resolve(context).await?;
    let digest: Digest = name.parse().map_err(|e| Failure::local(format!("get {name}"), &e))?;
    let mut download = Download::new(context, Origin::blob(&digest)).range(args.showing.range);
    if args.showing.range.is_none() && !args.no_verify {
        download = download.verified_by(&digest);
    }
    match &args.output {
        // A range is not taken up again: what is there might be of another one.
        Some(path) if args.showing.range.is_some() => save(download, path, &digest, Part::New).await,
        Some(path) => save(download, path, &digest, Part::Kept).await,
        None => download.into_stdout(args.showing.force).await,
    }
}

/// What is done with a part that an earlier run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Kept,
    New,
}

/// Into a file beside the final one, which takes its place when all is there and checked.
async fn save(mut download: Download<'_>, path: &Path, digest: &Digest, kept: Part) -> Result<(), Failure> {
    let part = part_of(path, digest);
    let wrong = |e: std::io::Error| Failure::io(format!("get {digest} into {}", part.display()), &e);
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(kept == Part::Kept)
        .write(true)
        .truncate(kept == Part::New)
        .open(&part)
        .map_err(wrong)?;
    take_in(&mut download, &mut file).map_err(wrong)?;
    if download.received() > 0 {
        say(&format!("going on at byte {}", download.received()));
    }
    download.run(&mut |bytes| file.write_all(bytes).map_err(wrong)).await?;
    file.sync_all().map_err(wrong)?;
    if let Err(failure) = download.verify("the download is thrown away") {
        fs::remove_file(&part).map_err(wrong)?;
        return Err(failure);
    }
    fs::rename(&part, path).map_err(wrong)
}

/// Counts and hashes what an earlier run left in the file.
fn take_in(download: &mut Download<'_>, file: &mut File) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => download.count(&buffer[..read]),
        }
    }
}

/// `layer.tar` → `.layer.tar.2cf24dba5fb0.part`: of this digest alone, so that no other download goes on in it.
fn part_of(path: &Path, digest: &Digest) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.part", &digest.hex()[..12]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_belongs_to_one_digest() {
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"hello");
        assert_eq!(part_of(Path::new("a/b.tar"), &digest), Path::new("a/.b.tar.2cf24dba5fb0.part"));
    }
}
