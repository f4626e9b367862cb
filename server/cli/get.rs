//! `orlop get`: a blob's bytes, checked against its digest, taken up again where the connection broke.

use std::fs::{self, File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use reqwest::{Method, Response, StatusCode};

use super::client::causes;
use super::context::{Context, say};
use super::digest_arg::{DigestArg, parse_digest_arg};
use super::failure::{Exit, Failure};
use crate::oci::{Digest, Hasher};

/// Tries without a byte gained; each waits a second longer than the one before.
const TRIES: u32 = 5;
/// Silence after which a connection counts as dead.
const SILENCE: Duration = Duration::from_secs(60);

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
    /// Only these bytes: A-B, A- or -LAST; they cannot be verified
    #[arg(long, value_name = "A-B", value_parser = parse_range, allow_hyphen_values = true)]
    range: Option<Range>,
    /// Write also what is not text to a terminal
    #[arg(long, short)]
    force: bool,
    /// Do not compare the bytes with the digest
    #[arg(long)]
    no_verify: bool,
}

/// Bytes of a blob: the ends count in, as in HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

fn parse_range(text: &str) -> Result<Range, String> {
    let wrong = || "a range is A-B, A- or -LAST, in bytes from 0".to_owned();
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    match text.split_once('-').ok_or_else(wrong)? {
        ("", last) => number(last).map(Range::Last),
        (from, "") => number(from).map(Range::From),
        (from, to) => match (number(from)?, number(to)?) {
            (from, to) if from <= to => Ok(Range::Between(from, to)),
            (_, _) => Err("a range ends after it begins".to_owned()),
        },
    }
}

impl Range {
    fn header(self) -> String {
        match self {
            Range::From(from) => format!("bytes={from}-"),
            Range::Between(from, to) => format!("bytes={from}-{to}"),
            Range::Last(last) => format!("bytes=-{last}"),
        }
    }
}

pub async fn get(context: &Context, args: GetArgs) -> Result<(), Failure> {
    let name = args.digest.resolve(context).await?;
    let doing = format!("get {name}");
    let digest: Digest = name.parse().map_err(|e| Failure::local(&doing, &e))?;
    let verify = args.range.is_none() && !args.no_verify;
    let mut download = Download {
        context,
        doing,
        hasher: verify.then(|| Hasher::new(digest.algorithm())),
        digest,
        wanted: args.range,
        received: 0,
    };
    match &args.output {
        Some(path) => download.save(path).await,
        None => {
            let guarded = std::io::stdout().is_terminal() && !args.force;
            let mut sink = Stdout { guarded };
            download.run(&mut |bytes| sink.write(bytes)).await?;
            download.verify("the bytes on stdout are not what was asked for")
        }
    }
}

struct Download<'a> {
    context: &'a Context,
    doing: String,
    digest: Digest,
    /// `None` where nothing is compared.
    hasher: Option<Hasher>,
    /// Once the first answer is there, the absolute range it named.
    wanted: Option<Range>,
    /// Bytes of the wanted range that are written.
    received: u64,
}

type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> Result<(), Failure>;

impl Download<'_> {
    /// Into a file beside the final one, which takes its place when all is there and checked.
    async fn save(&mut self, path: &Path) -> Result<(), Failure> {
        let part = part_of(path, &self.digest);
        let doing = self.doing.clone();
        let wrong = |e: std::io::Error| Failure::io(format!("{doing} into {}", part.display()), &e);
        // A range is not taken up again: what is there might be of another one.
        let fresh = self.wanted.is_some();
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(!fresh)
            .write(true)
            .truncate(fresh)
            .open(&part)
            .map_err(wrong)?;
        self.take_in(&mut file).map_err(wrong)?;
        if self.received > 0 {
            say(&format!("going on at byte {}", self.received));
        }
        self.run(&mut |bytes| file.write_all(bytes).map_err(wrong)).await?;
        file.sync_all().map_err(wrong)?;
        if let Err(failure) = self.verify("the download is thrown away") {
            fs::remove_file(&part).map_err(wrong)?;
            return Err(failure);
        }
        fs::rename(&part, path).map_err(wrong)
    }

    /// Counts and hashes what an earlier run left in the file.
    fn take_in(&mut self, file: &mut File) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                read => self.count(&buffer[..read]),
            }
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }

    /// Reads to the end, over as many connections as it takes.
    async fn run(&mut self, sink: Sink<'_>) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            let before = self.received;
            let Some(response) = self.open(tries).await? else { return Ok(()) };
            let Some(why) = self.drain(response, sink).await? else { return Ok(()) };
            tries = if self.received > before { 1 } else { tries + 1 };
            if tries > TRIES {
                return Err(Failure::new(Exit::Unreachable, self.doing.clone(), why)
                    .hint("with -o FILE the same command goes on where this one stopped"));
            }
            say(&format!("connection lost at byte {}, trying again", self.received));
            tokio::time::sleep(Duration::from_secs(tries.into())).await;
        }
    }

    /// The answer that goes on where we are; `None` when nothing is left to ask for.
    async fn open(&mut self, tries: u32) -> Result<Option<Response>, Failure> {
        let name = self.digest.to_string();
        let range = match self.wanted {
            Some(Range::Between(from, to)) if from + self.received > to => return Ok(None),
            Some(Range::Between(from, to)) => Some(Range::Between(from + self.received, to)),
            Some(Range::From(from)) => Some(Range::From(from + self.received)),
            Some(Range::Last(last)) => Some(Range::Last(last)),
            None if self.received > 0 => Some(Range::From(self.received)),
            None => None,
        };
        let mut call =
            self.context.client.scoped(Method::GET, &["content", &name, "data"], self.doing.clone());
        if let Some(range) = range {
            call = call.header("range", &range.header());
        }
        let response = match call.raw().await {
            Err(failure) if tries > 0 && tries < TRIES => {
                say(&failure.why);
                tokio::time::sleep(Duration::from_secs(tries.into())).await;
                return Box::pin(self.open(tries + 1)).await;
            }
            response => response?,
        };
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                self.settle(&response)?;
                Ok(Some(response))
            }
            StatusCode::OK if range.is_none() => Ok(Some(response)),
            StatusCode::OK => {
                Err(Failure::new(Exit::Other, self.doing.clone(), "something on the way ignores byte ranges"))
            }
            // All of it is there already.
            StatusCode::RANGE_NOT_SATISFIABLE if self.wanted.is_none() => Ok(None),
            _ => Err(super::client::refused(response, self.doing.clone()).await),
        }
    }

    /// Remembers the absolute range that the server chose, to go on in it.
    fn settle(&mut self, response: &Response) -> Result<(), Failure> {
        let header = response.headers().get("content-range").and_then(|value| value.to_str().ok());
        let Some((from, to)) = header.and_then(parse_content_range) else {
            return Err(Failure::new(
                Exit::Other,
                self.doing.clone(),
                "the answer does not say which bytes it has",
            ));
        };
        match self.wanted {
            Some(_) if self.received == 0 => self.wanted = Some(Range::Between(from, to)),
            Some(_) | None => {}
        }
        let expected = match self.wanted {
            Some(Range::Between(start, _) | Range::From(start)) => start + self.received,
            Some(Range::Last(_)) | None => self.received,
        };
        if from == expected {
            return Ok(());
        }
        let why = format!("the answer begins at byte {from}, not at {expected}");
        Err(Failure::new(Exit::Other, self.doing.clone(), why))
    }

    /// Writes what comes; the reason when it broke off.
    async fn drain(&mut self, mut response: Response, sink: Sink<'_>) -> Result<Option<String>, Failure> {
        loop {
            let chunk = tokio::time::timeout(SILENCE, response.chunk()).await;
            match chunk {
                Ok(Ok(Some(bytes))) => {
                    sink(&bytes)?;
                    self.count(&bytes);
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Ok(Some(causes(&error))),
                Err(_) => return Ok(Some(format!("nothing came for {} s", SILENCE.as_secs()))),
            }
        }
    }

    fn verify(&self, so: &str) -> Result<(), Failure> {
        let Some(actual) = self.hasher.as_ref().map(Hasher::digest) else { return Ok(()) };
        if actual == self.digest {
            return Ok(());
        }
        let why = format!("the bytes have the digest {actual}: {so}");
        Err(Failure::new(Exit::Integrity, self.doing.clone(), why)
            .hint("the same again; then the server's log"))
    }
}

fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, _) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, to) = range.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

/// `layer.tar` → `.layer.tar.2cf24dba5fb0.part`: of this digest alone, so that no other download goes on in it.
fn part_of(path: &Path, digest: &Digest) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.part", &digest.hex()[..12]))
}

/// Stdout, which on a terminal takes only text.
struct Stdout {
    guarded: bool,
}

impl Stdout {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.guarded && !is_text(bytes) {
            let failure = Failure::usage("write the bytes to the terminal", "they are not text");
            return Err(failure.hint("-o FILE, a pipe, or -f to write them all the same"));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Failure::io("write to stdout", &e))
    }
}

/// Whether a terminal shows these bytes and does nothing else. A character cut at the end is of the next bytes.
fn is_text(bytes: &[u8]) -> bool {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => match std::str::from_utf8(&bytes[..e.valid_up_to()]) {
            Ok(text) => text,
            Err(_) => return false,
        },
        Err(_) => return false,
    };
    text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t' | '\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_as_in_http() {
        assert_eq!(parse_range("0-511"), Ok(Range::Between(0, 511)));
        assert_eq!(parse_range("5-").map(Range::header), Ok("bytes=5-".to_owned()));
        assert_eq!(parse_range("-7").map(Range::header), Ok("bytes=-7".to_owned()));
        for bad in ["", "-", "7", "9-3", "a-b", "1-2,4-5"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 9)));
        assert_eq!(parse_content_range("bytes */10"), None);
    }

    #[test]
    fn only_what_a_terminal_merely_shows_is_text() {
        assert!(is_text("é\n\ttext".as_bytes()) && is_text(b"cut \xc3"));
        assert!(!is_text(b"\x1b[2J") && !is_text(b"\x1f\x8b") && !is_text(b"a\0") && !is_text(b"\xff "));
    }

    #[test]
    fn a_part_belongs_to_one_digest() {
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"hello");
        assert_eq!(part_of(Path::new("a/b.tar"), &digest), Path::new("a/.b.tar.2cf24dba5fb0.part"));
    }
}
