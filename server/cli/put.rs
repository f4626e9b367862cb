//! `orlop put`: a file or a pipe becomes a blob; small in one request, large by an ingest that is taken up again.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::client::{Client, refused};
use super::context::{Context, Output, label_map, parse_label, say, write_line};
use super::failure::{Exit, Failure};
use super::text::{escape, human_bytes};
use crate::oci::{Algorithm, Digest, Hasher};

/// One request carries so much; what fits in one needs no ingest.
const CHUNK: usize = 8 << 20;
/// Tries without a byte gained; each waits a second longer than the one before.
const TRIES: u32 = 6;

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop put layer.tar.gz --media-type application/vnd.oci.image.layer.v1.tar+gzip\n  \
    tar c . | orlop put - --ref nightly --label team=harbour")]
pub struct PutArgs {
    /// What to store; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Digest the bytes must have
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,
    /// Media type to record
    #[arg(long, value_name = "TYPE")]
    media_type: Option<String>,
    /// Label of the new record; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Name of the ingest, by which a later run goes on with it [default: the digest, for a file]
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<String>,
    /// Lease to keep it on [default: a grace lease of the server's]
    #[arg(long, value_name = "ID")]
    lease: Option<String>,
}

pub async fn put(context: &Context, args: PutArgs) -> Result<(), Failure> {
    let doing = format!("put {}", args.file.display());
    let mut upload = Upload { context, args: &args, doing, tries: 0 };
    let mut source = upload.open()?;
    let first = upload.read(&mut source)?;
    let response = if first.len() < CHUNK && args.reference.is_none() {
        upload.at_once(first).await?
    } else {
        upload.by_ingest(first, source).await?
    };
    upload.finish(response).await
}

/// A file to be sent. A directory can be opened too, and would only fail to be read.
pub fn open_file(path: &Path, doing: &str) -> Result<File, Failure> {
    let file = File::open(path).map_err(|e| Failure::io(doing, &e))?;
    if file.metadata().is_ok_and(|about| about.is_dir()) {
        return Err(Failure::usage(doing, format!("{} is a directory", path.display())));
    }
    Ok(file)
}

struct Upload<'a> {
    context: &'a Context,
    args: &'a PutArgs,
    doing: String,
    /// Since the last byte gained.
    tries: u32,
}

/// How a part of the work ended: with an answer, or with nothing left to do but take `exists` for one.
/// What an answer says was made; on stderr until when it is kept.
pub async fn read_kept(client: &Client, response: Response, doing: String) -> Result<Value, Failure> {
    if let Some(until) = response.headers().get("orlop-lease-expires").and_then(|v| v.to_str().ok()) {
        say(&format!("kept until {}, or longer by what refers to it", escape(until)));
    }
    client.read_json(response, doing).await
}

enum Stored {
    Answer(Response),
    Exists(Value),
}

type Source = Box<dyn Read>;

impl Upload<'_> {
    fn open(&self) -> Result<Source, Failure> {
        match self.args.file.to_str() {
            Some("-") => Ok(Box::new(std::io::stdin())),
            _ => Ok(Box::new(open_file(&self.args.file, &self.doing)?)),
        }
    }

    /// The next chunk: a whole one but at the end.
    fn read(&self, source: &mut Source) -> Result<Bytes, Failure> {
        let mut chunk = Vec::new();
        let mut limited = source.take(CHUNK as u64);
        limited.read_to_end(&mut chunk).map_err(|e| Failure::io(&self.doing, &e))?;
        Ok(Bytes::from(chunk))
    }

    fn algorithm(&self) -> Algorithm {
        self.args.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm)
    }

    async fn at_once(&self, bytes: Bytes) -> Result<Stored, Failure> {
        let actual = Digest::of(self.algorithm(), &bytes);
        self.check(&actual)?;
        let digest = actual.to_string();
        let labels: Vec<String> =
            self.args.label.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let client = &self.context.client;
        let mut call = client.scoped(Method::PUT, &["content", &digest, "data"], self.doing.clone());
        call = call.queries("label", &labels).queries("media_type", &self.args.media_type);
        if let Some(lease) = &self.args.lease {
            call = call.header("orlop-lease", lease);
        }
        call.content("application/octet-stream", bytes).send().await.map(Stored::Answer)
    }

    async fn by_ingest(&mut self, first: Bytes, mut source: Source) -> Result<Stored, Failure> {
        let (known, reference) = self.announce()?;
        let opened = self.begin(&reference, known.as_ref()).await?;
        if opened.get("state").and_then(Value::as_str) == Some("exists") {
            return Ok(Stored::Exists(opened.get("content").cloned().unwrap_or_default()));
        }
        let id = opened.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut offset = opened.get("offset").and_then(Value::as_u64).unwrap_or(0);
        if offset > 0 {
            say(&format!("going on at {} with ingest {}", human_bytes(offset), escape(&id)));
        }
        let mut hasher = Hasher::new(self.algorithm());
        let (mut start, mut chunk) = (0u64, first);
        // What the server has already is read and hashed again, but not sent.
        while !chunk.is_empty() {
            hasher.update(&chunk);
            let end = start + chunk.len() as u64;
            while offset < end {
                offset = self.send_chunk(&id, start, &chunk, offset).await?;
            }
            (start, chunk) = (end, self.read(&mut source)?);
        }
        if offset > start {
            let why = format!("ingest {id} has {offset} bytes already, and there are only {start}");
            return Err(Failure::new(Exit::Conflict, self.doing.clone(), why).hint("another --ref"));
        }
        self.check(&hasher.digest())?;
        self.commit(&id, &hasher.digest(), start).await.map(Stored::Answer)
    }

    /// The digest of a file, read once more beforehand: the server may have it, and it names the ingest so that
    /// the same command goes on where it stopped. A pipe cannot be read twice.
    fn announce(&self) -> Result<(Option<Digest>, String), Failure> {
        let known = match (&self.args.digest, self.args.file.to_str()) {
            (Some(digest), _) => Some(digest.clone()),
            (None, Some("-")) => None,
            (None, _) => {
                let mut hasher = Hasher::new(Algorithm::Sha256);
                let mut source = self.open()?;
                loop {
                    match self.read(&mut source)? {
                        chunk if chunk.is_empty() => break Some(hasher.digest()),
                        chunk => hasher.update(&chunk),
                    }
                }
            }
        };
        let unique = || crate::id::new_id("put", crate::clock::Clock::system().now());
        let reference = self.args.reference.clone();
        let reference =
            reference.unwrap_or_else(|| known.as_ref().map_or_else(unique, |d| format!("put-{d}")));
        Ok((known, reference))
    }

    async fn begin(&self, reference: &str, known: Option<&Digest>) -> Result<Value, Failure> {
        let mut body = json!({"ref": reference});
        if let Some(digest) = known {
            body["expected_digest"] = digest.to_string().into();
        }
        if let Some(media_type) = &self.args.media_type {
            body["media_type"] = media_type.clone().into();
        }
        if !self.args.label.is_empty() {
            body["labels"] = label_map(&self.args.label);
        }
        let mut call = self.context.client.scoped(Method::POST, &["ingests"], self.doing.clone());
        if let Some(lease) = &self.args.lease {
            call = call.header("orlop-lease", lease);
        }
        call.json(&body).fetch().await
    }

    /// Sends what of the chunk the server does not have; the offset where it stands then.
    async fn send_chunk(&mut self, id: &str, start: u64, chunk: &Bytes, offset: u64) -> Result<u64, Failure> {
        let Some(from) = offset.checked_sub(start).map(|from| from as usize) else {
            let why = format!("the server went back to byte {offset}, and these bytes are read no more");
            return Err(Failure::new(Exit::Conflict, self.doing.clone(), why).hint("the same command again"));
        };
        let client = &self.context.client;
        let call = client.scoped(Method::PATCH, &["ingests", id, "data"], self.doing.clone());
        let call = call.header("upload-offset", &offset.to_string());
        match call.content("application/partial-upload", chunk.slice(from..)).raw().await {
            Ok(response) if response.status() == StatusCode::NO_CONTENT => {
                self.tries = 0;
                Ok(upload_offset(&response).unwrap_or(start + chunk.len() as u64))
            }
            Ok(response) if response.status() == StatusCode::CONFLICT => match upload_offset(&response) {
                Some(right) if right != offset => Ok(right),
                Some(_) | None => Err(refused(response, self.doing.clone()).await),
            },
            Ok(response) if is_passing(response.status()) => {
                let failure = refused(response, self.doing.clone()).await;
                self.pause(failure).await?;
                Ok(offset)
            }
            Ok(response) => Err(refused(response, self.doing.clone()).await),
            Err(failure) => {
                self.pause(failure).await?;
                // Bytes that arrived before the connection broke count; a wrong guess is put right by a 409.
                Ok(self.offset_now(id).await.unwrap_or(offset))
            }
        }
    }

    async fn offset_now(&self, id: &str) -> Option<u64> {
        let call = self.context.client.scoped(Method::HEAD, &["ingests", id, "data"], self.doing.clone());
        upload_offset(&call.send().await.ok()?)
    }

    async fn pause(&mut self, failure: Failure) -> Result<(), Failure> {
        self.tries += 1;
        if self.tries > TRIES {
            return Err(failure.hint("the same command again goes on where this one stopped"));
        }
        say(&format!("{}, trying again", escape(&failure.why)));
        tokio::time::sleep(Duration::from_secs(self.tries.into())).await;
        Ok(())
    }

    async fn commit(&self, id: &str, digest: &Digest, total: u64) -> Result<Response, Failure> {
        let body = json!({"expected_digest": digest.to_string(), "total": total});
        let call = self.context.client.scoped(Method::POST, &["ingests", id, "commit"], self.doing.clone());
        call.json(&body).send().await
    }

    fn check(&self, actual: &Digest) -> Result<(), Failure> {
        match &self.args.digest {
            Some(expected) if expected != actual => {
                let why = format!("the bytes have the digest {actual}, not {expected}");
                Err(Failure::new(Exit::Integrity, self.doing.clone(), why))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The digest on stdout, and on stderr until when it is kept.
    async fn finish(&self, stored: Stored) -> Result<(), Failure> {
        let record = match stored {
            Stored::Exists(record) => record,
            Stored::Answer(response) => read_kept(&self.context.client, response, self.doing.clone()).await?,
        };
        match self.context.output {
            Output::Json => self.context.print(&record, |_| String::new()),
            Output::Text => {
                write_line(&escape(record.get("digest").and_then(Value::as_str).unwrap_or_default()))
            }
        }
    }
}

fn upload_offset(response: &Response) -> Option<u64> {
    response.headers().get("upload-offset")?.to_str().ok()?.parse().ok()
}

/// Whether trying again is likely to help: the server is busy, starting, or the ingest has another writer just now.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 423 | 429 | 502..=504)
}
