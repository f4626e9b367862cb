//! One blob of a pull: from wherever it is nearest into the store, resumed where an earlier try ended.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use crate::error::{Conflict, Error, Result, UpstreamKind};
use crate::jobs::pull::{labels_of, recorded_type, upstream};
use crate::jobs::run::{Ended, Job, unless};
use crate::jobs::view::BlobState;
use crate::oci::{Descriptor, Digest};
use crate::registry::{BlobStream, Repository, Retries, is_elsewhere};
use crate::store::{Append, CommitIngest, Ingest, OpenIngest, Opened, Put, PutBody};

/// How often an ingest that somebody else writes is asked for again.
const BUSY_TRIES: u32 = 30;
/// How long it is left alone in between.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// One blob to fetch.
pub(super) struct Fetch<'a> {
    pub job: &'a Job,
    pub repository: &'a Repository,
    pub descriptor: &'a Descriptor,
    /// Ends the fetch at the next chunk: the pull stops, or another of its blobs has failed.
    pub halt: &'a CancellationToken,
}

impl Fetch<'_> {
    /// Fetches the blob, unless the namespace has it. Bytes that turn out to be other ones are fetched once more.
    ///
    /// # Errors
    /// `Upstream`, with `Mismatch` when the bytes were wrong twice; the store's own.
    pub async fn run(&self) -> Result<(), Ended> {
        let _flight = unless(self.halt, self.job.jobs.0.flights.board(self.digest())).await?;
        match self.fetch_once().await {
            Err(Ended::Failed(error)) if is_mismatch(&error) => {
                self.job.warn(format!("{error}; fetching {} once more", self.digest()));
                self.fetch_once().await
            }
            settled => settled,
        }
    }

    async fn fetch_once(&self) -> Result<(), Ended> {
        let Some(ingest) = self.open().await? else { return Ok(()) };
        if ingest.shared {
            match self.commit(&ingest).await {
                Err(Ended::Failed(Error::Conflict(Conflict::State { .. }))) => {
                    // It was lent, and is no longer.
                    self.job.jobs.0.store.truncate_ingest(self.namespace(), &ingest.id, 0, None).await?;
                }
                settled => {
                    settled?;
                    self.job.draw(|picture| picture.reuse(self.digest()));
                    return Ok(());
                }
            }
        }
        let offset = if ingest.shared { 0 } else { ingest.offset };
        let outcome = match self.download(&ingest.id, offset).await {
            Ok(()) => self.commit(&ingest).await,
            stopped => stopped,
        };
        if matches!(&outcome, Err(Ended::Failed(error)) if is_mismatch(error)) {
            // None of these bytes can be trusted to be a beginning of the right ones.
            self.job.jobs.0.store.truncate_ingest(self.namespace(), &ingest.id, 0, None).await?;
            self.job.draw(|picture| picture.resume(self.digest(), 0));
        }
        outcome
    }

    /// The ingest of this blob, new or as an earlier try left it; none when there is nothing to write.
    async fn open(&self) -> Result<Option<Ingest>, Ended> {
        if let Some(bytes) = self.descriptor.embedded() {
            return self.put(bytes.into()).await.map(|()| None);
        }
        let open = OpenIngest {
            reference: format!("pull-{}", self.digest()),
            total: Some(self.descriptor.size),
            expected: Some(self.digest().clone()),
            media_type: recorded_type(self.descriptor),
            labels: Some(labels_of(self.job)),
            writer_ttl: None,
            token: None,
        };
        for _ in 0..BUSY_TRIES {
            match self.job.jobs.0.store.open_ingest(&self.job.caller, open.clone()).await {
                Ok(Opened::Exists(exists)) => {
                    self.check_size(exists.content.size)?;
                    self.job.draw(|picture| picture.reuse(self.digest()));
                    return Ok(None);
                }
                Ok(Opened::New { ingest, .. } | Opened::Resumed { ingest, .. }) => return Ok(Some(*ingest)),
                Err(Error::Busy { .. }) => {
                    unless(self.halt, tokio::time::sleep(BUSY_WAIT)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Unavailable { what: "the ingest of a blob, which somebody else writes,", source: None }
            .into())
    }

    /// Stores the bytes that the descriptor carried along.
    async fn put(&self, bytes: Bytes) -> Result<(), Ended> {
        let size = bytes.len() as u64;
        let body = PutBody {
            chunks: vec![bytes],
            expected: Some(self.digest().clone()),
            algorithm: self.digest().algorithm(),
            media_type: recorded_type(self.descriptor),
            labels: labels_of(self.job),
        };
        let committed = self.job.jobs.0.store.put_bytes(&self.job.caller, body).await?;
        self.job.draw(|picture| match committed.put {
            Put::Existed => picture.reuse(self.digest()),
            Put::New => {
                picture.receive(self.digest(), size, self.job.now());
                picture.set_state(self.digest(), BlobState::Done);
            }
        });
        Ok(())
    }

    /// Appends what is missing, over as many connections as it takes.
    async fn download(&self, id: &str, mut offset: u64) -> Result<(), Ended> {
        let store = &self.job.jobs.0.store;
        let mut retries = Retries::new(self.job.jobs.0.settings.retry);
        if offset > self.descriptor.size {
            offset = store.truncate_ingest(self.namespace(), id, 0, None).await?.offset;
        }
        self.job.draw(|picture| picture.resume(self.digest(), offset));
        let mut disturbed = 0;
        while offset < self.descriptor.size {
            let error = match self.append(id, offset).await {
                Ok(ingest) if ingest.offset > offset => {
                    offset = ingest.offset;
                    continue;
                }
                Ok(_) => Error::internal("fetch a blob without getting a byte of it"),
                Err(Ended::Stopped) => return Err(Ended::Stopped),
                Err(Ended::Failed(error)) => error,
            };
            let reached = store.find_ingest(self.namespace(), id).await?.offset;
            retries.received(reached.saturating_sub(offset));
            offset = reached;
            self.job.draw(|picture| picture.resume(self.digest(), offset));
            if is_disturbance(&error) && disturbed < BUSY_TRIES {
                disturbed += 1;
                unless(self.halt, tokio::time::sleep(BUSY_WAIT)).await?;
            } else {
                self.job.wait_after(&mut retries, error, self.halt).await?;
            }
        }
        Ok(())
    }

    /// Appends the bytes of one connection; how the ingest stands then.
    async fn append(&self, id: &str, offset: u64) -> Result<Ingest, Ended> {
        self.job.draw(|picture| picture.begin(self.job.now()));
        let source = unless(self.halt, self.open_source(offset)).await??;
        let ended: Arc<Mutex<Option<Ended>>> = Arc::default();
        let body = pin!(stream::unfold(Some(source), |source| {
            let ended = ended.clone();
            async move {
                let mut source = source?;
                match self.next_chunk(&mut source).await {
                    Ok(bytes) => bytes.map(|bytes| (Ok(bytes), Some(source))),
                    Err(why) => {
                        *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                        // The bytes before the cut count; the reason is told beside the stream.
                        Some((Err(Cut), None))
                    }
                }
            }
        }));
        let append = Append { offset, token: None, chunk_digest: None, length: None, announced: None };
        let appended = self.job.jobs.0.store.append_ingest(self.namespace(), id, append, body).await;
        match ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(why) => Err(why),
            None => Ok(appended?),
        }
    }

    /// The blob at the registry; or where its descriptor says that it is, if the pull is to look there.
    async fn open_source(&self, offset: u64) -> Result<BlobStream> {
        let foreign = !self.descriptor.urls.is_empty();
        match self.repository.fetch_blob(self.descriptor, offset).await {
            Err(error) if foreign && is_elsewhere(&error) => {
                self.repository.fetch_foreign(self.descriptor, offset).await
            }
            settled => settled,
        }
    }

    async fn next_chunk(&self, source: &mut BlobStream) -> Result<Option<Bytes>, Ended> {
        let chunk = unless(self.halt, source.chunk()).await??;
        if let Some(bytes) = &chunk {
            self.job.jobs.0.settings.metrics.fetched_bytes.inc_by(bytes.len() as u64);
            self.job.draw(|picture| picture.receive(self.digest(), bytes.len() as u64, self.job.now()));
        }
        Ok(chunk)
    }

    async fn commit(&self, ingest: &Ingest) -> Result<(), Ended> {
        let store = &self.job.jobs.0.store;
        self.set_state(BlobState::Verifying);
        let actual = store.find_ingest(self.namespace(), &ingest.id).await?.digest;
        if actual != self.digest().as_str() {
            let reason = format!("its bytes have the digest {actual}, not {}", self.digest());
            return Err(upstream(self.job, UpstreamKind::Mismatch, reason).into());
        }
        self.set_state(BlobState::Committing);
        let commit = CommitIngest {
            expected: Some(self.digest().clone()),
            total: Some(self.descriptor.size),
            labels: None,
        };
        match store.commit_ingest(&self.job.caller, &ingest.id, commit, None).await {
            Ok(_) => {
                self.set_state(BlobState::Done);
                Ok(())
            }
            Err(Error::Conflict(lie @ (Conflict::DigestMismatch { .. } | Conflict::SizeMismatch { .. }))) => {
                Err(upstream(self.job, UpstreamKind::Mismatch, lie.to_string()).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Two descriptors cannot promise one digest in two sizes.
    fn check_size(&self, actual: u64) -> Result<()> {
        let promised = self.descriptor.size;
        if actual == promised {
            return Ok(());
        }
        let reason = format!("{} has {actual} bytes, where {promised} were promised", self.digest());
        Err(upstream(self.job, UpstreamKind::Mismatch, reason))
    }

    fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    fn namespace(&self) -> &str {
        &self.job.caller.namespace
    }

    fn set_state(&self, state: BlobState) {
        self.job.draw(|picture| picture.set_state(self.digest(), state));
    }
}

/// The end of a stream that did not reach the end of its blob.
struct Cut;

/// Whether somebody else has written to the ingest: it goes on from where it stands now.
fn is_disturbance(error: &Error) -> bool {
    matches!(error, Error::Busy { .. } | Error::Conflict(Conflict::OffsetMismatch { .. }))
}

fn is_mismatch(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream) if upstream.kind == UpstreamKind::Mismatch)
}
