//! Bytes of the server's, to stdout or into a file, taken up again where the connection broke.

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};

use super::client::{Call, causes, refused};
use super::context::{Context, say};
use super::failure::{Exit, Failure};
use super::reading::answer_once_read;
use crate::oci::{Digest, Hasher};

/// Tries without a byte gained; each waits a second longer than the one before.
const TRIES: u32 = 5;
/// Silence after which a connection counts as dead.
const SILENCE: Duration = Duration::from_secs(60);

/// Some of the bytes: the ends count in, as in HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

/// For clap: `A-B`, `A-` or `-LAST`.
///
/// # Errors
/// What is wrong with it, for clap to print.
pub fn parse_range(text: &str) -> Result<Range, String> {
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

/// Where bytes come from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Below `/api/v1`.
    pub path: Vec<String>,
    pub query: Vec<(&'static str, String)>,
    /// In words, as in "get sha256:…".
    pub doing: String,
    /// What to try when the connection breaks again and again.
    pub hint: &'static str,
}

impl Origin {
    /// The bytes of a blob.
    pub fn blob(digest: &Digest) -> Origin {
        let path = ["content", digest.as_str(), "data"].map(str::to_owned).to_vec();
        let hint = "with orlop get -o FILE the same command goes on where it stopped";
        Origin { path, query: Vec::new(), doing: format!("get {digest}"), hint }
    }

    fn call<'c>(&self, context: &'c Context) -> Call<'c> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let call = context.client.scoped(Method::GET, &path, self.doing.clone());
        self.query.iter().fold(call, |call, (name, value)| call.query(name, value))
    }
}

/// Bytes on their way, over as many connections as it takes.
pub struct Download<'a> {
    context: &'a Context,
    origin: Origin,
    /// `None` where nothing is compared.
    expected: Option<(Digest, Hasher)>,
    /// Once the first answer is there, the absolute range it named.
    wanted: Option<Range>,
    /// The tag of what was begun: bytes of another tag would not go on with it.
    tag: Option<String>,
    /// Bytes of the wanted range that are written.
    received: u64,
}

pub type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> Result<(), Failure>;

impl<'a> Download<'a> {
    pub fn new(context: &'a Context, origin: Origin) -> Download<'a> {
        Download { context, origin, expected: None, wanted: None, tag: None, received: 0 }
    }

    /// Of which only this range is wanted.
    pub fn range(self, wanted: Option<Range>) -> Download<'a> {
        Download { wanted, ..self }
    }

    /// Whose bytes must have this digest.
    pub fn verified_by(self, digest: &Digest) -> Download<'a> {
        let hasher = Hasher::new(digest.algorithm());
        Download { expected: Some((digest.clone(), hasher)), ..self }
    }

    /// Counts and hashes bytes that are written.
    pub fn count(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        if let Some((_, hasher)) = &mut self.expected {
            hasher.update(bytes);
        }
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    /// To stdout; what is not text reaches a terminal only by force.
    pub async fn into_stdout(mut self, force: bool) -> Result<(), Failure> {
        let mut sink = Stdout { guarded: std::io::stdout().is_terminal() && !force };
        self.run(&mut |bytes| sink.write(bytes)).await?;
        self.verify("the bytes on stdout are not what was asked for")
    }

    /// Into a file beside the final one, which takes its place when all is there.
    pub async fn save_whole(mut self, path: &Path) -> Result<(), Failure> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let part = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let doing = format!("{} into {}", self.origin.doing, path.display());
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
            && !directory.is_dir()
        {
            return Err(Failure::usage(doing, format!("there is no directory {}", directory.display())));
        }
        let wrong = |e: std::io::Error| Failure::io(doing.as_str(), &e);
        let mut file = OpenOptions::new().create_new(true).write(true).open(&part).map_err(wrong)?;
        let saved = async {
            self.run(&mut |bytes| file.write_all(bytes).map_err(wrong)).await?;
            file.sync_all().map_err(wrong)?;
            fs::rename(&part, path).map_err(wrong)
        };
        let saved = saved.await;
        if saved.is_err() {
            // Nobody goes on with it: what was begun may be something else by then.
            let _ = fs::remove_file(&part);
        }
        saved
    }

    /// Reads to the end, over as many connections as it takes.
    pub async fn run(&mut self, sink: Sink<'_>) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            let before = self.received;
            let Some(response) = self.open(tries).await? else { return Ok(()) };
            let Some(why) = self.drain(response, sink).await? else { return Ok(()) };
            tries = if self.received > before { 1 } else { tries + 1 };
            // Without a tag nobody knows that the rest would be of the same bytes.
            if tries > TRIES || self.tag.is_none() {
                return Err(self.failure(Exit::Unreachable, why).hint(self.origin.hint));
            }
            say(&format!("connection lost at byte {}, trying again", self.received));
            tokio::time::sleep(Duration::from_secs(tries.into())).await;
        }
    }

    /// The answer that goes on where we are; `None` when nothing is left to ask for.
    async fn open(&mut self, tries: u32) -> Result<Option<Response>, Failure> {
        let range = match self.wanted {
            Some(Range::Between(from, to)) if from + self.received > to => return Ok(None),
            Some(Range::Between(from, to)) => Some(Range::Between(from + self.received, to)),
            Some(Range::From(from)) => Some(Range::From(from + self.received)),
            Some(Range::Last(last)) => Some(Range::Last(last)),
            None if self.received > 0 => Some(Range::From(self.received)),
            None => None,
        };
        let call = || {
            let call = self.origin.call(self.context);
            let call = range.iter().fold(call, |call, range| call.header("range", &range.header()));
            self.tag.iter().fold(call, |call, tag| call.header("if-match", tag))
        };
        let response = match answer_once_read(call, &self.origin.doing).await {
            Err(failure) if tries > 0 && tries < TRIES => {
                say(&failure.why);
                tokio::time::sleep(Duration::from_secs(tries.into())).await;
                return Box::pin(self.open(tries + 1)).await;
            }
            response => response?,
        };
        match response.status() {
            StatusCode::PARTIAL_CONTENT => self.settle(&response)?,
            StatusCode::OK if range.is_none() => {}
            StatusCode::OK => {
                return Err(self.failure(Exit::Other, "something on the way ignores byte ranges"));
            }
            // All of it is there already.
            StatusCode::RANGE_NOT_SATISFIABLE if self.wanted.is_none() => return Ok(None),
            StatusCode::PRECONDITION_FAILED if self.tag.is_some() => {
                let failure = self.failure(Exit::Conflict, "it has changed while it was read");
                return Err(failure.hint("the same command again"));
            }
            _ => return Err(refused(response, self.origin.doing.clone()).await),
        }
        let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok());
        self.tag = tag.map(str::to_owned);
        Ok(Some(response))
    }

    /// Remembers the absolute range that the server chose, to go on in it.
    fn settle(&mut self, response: &Response) -> Result<(), Failure> {
        let header = response.headers().get("content-range").and_then(|value| value.to_str().ok());
        let Some((from, to)) = header.and_then(parse_content_range) else {
            return Err(self.failure(Exit::Other, "the answer does not say which bytes it has"));
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
        Err(self.failure(Exit::Other, format!("the answer begins at byte {from}, not at {expected}")))
    }

    /// Writes what comes; the reason when it broke off.
    async fn drain(&mut self, mut response: Response, sink: Sink<'_>) -> Result<Option<String>, Failure> {
        loop {
            match tokio::time::timeout(SILENCE, response.chunk()).await {
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

    /// Compares the digest of all that came; `so` says what becomes of bytes that are not those.
    pub fn verify(&self, so: &str) -> Result<(), Failure> {
        let Some((expected, hasher)) = &self.expected else { return Ok(()) };
        let actual = hasher.digest();
        if actual == *expected {
            return Ok(());
        }
        let why = format!("the bytes have the digest {actual}: {so}");
        Err(self.failure(Exit::Integrity, why).hint("the same again; then the server's log"))
    }

    fn failure(&self, exit: Exit, why: impl Into<String>) -> Failure {
        Failure::new(exit, self.origin.doing.clone(), why)
    }
}

/// # Errors
/// `Usage` where stdout is a terminal.
pub fn refuse_terminal(doing: &str) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Ok(());
    }
    Err(Failure::usage(doing, "an archive is not for a terminal").hint("-o FILE, or a pipe"))
}

fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, _) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, to) = range.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()?))
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
mod tests;
