//! One blob of a pull: from wherever it is nearest into the store, resumed where an earlier try ended.

use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::error::{Conflict, Error, Result, UpstreamKind};
use crate::jobs::board::Boarded;
use crate::jobs::download::Download;
use crate::jobs::flights::Seen;
use crate::jobs::pull::{labels_of, recorded_type};
use crate::jobs::run::{Ended, Job, unless};
use crate::jobs::select::upstream_of;
use crate::jobs::view::{BlobState, PullWait};
use crate::limits;
use crate::oci::{Descriptor, Digest};
use crate::registry::{BlobStream, Place, Repository, Retries, is_elsewhere};
use crate::store::{CommitIngest, Ingest, OpenIngest, Opened, Put, PutBody};

/// How long it is left alone in between.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// The ref of the ingest in which pulls fetch a blob: each goes on with what another left.
pub(super) fn ingest_ref(digest: &Digest) -> String {
    format!("pull-{digest}")
}

/// One blob to fetch.
pub(super) struct Fetch<'a> {
    pub job: &'a Job,
    pub repository: &'a Repository,
    pub descriptor: &'a Descriptor,
    /// Ends the fetch at the next chunk: the pull stops, or another of its blobs has failed.
    pub halt: &'a CancellationToken,
    /// Set once nobody else fetches the blob who is followed.
    pub flight: OnceLock<Boarded>,
}

impl Fetch<'_> {
    /// Fetches the blob, unless the namespace has it. Bytes that turn out to be other ones are fetched once more.
    ///
    /// # Errors
    /// `Upstream`, with `Mismatch` when the bytes were wrong twice; the store's own.
    pub async fn run(&self) -> Result<(), Ended> {
        let mut slot = self.enter_slot().await?;
        let boarded = match self.board_now() {
            Some(boarded) => boarded,
            None => {
                // Who follows another pull takes nobody's turn in this one.
                drop(slot);
                let boarded = self.board().await?;
                slot = self.enter_slot().await?;
                boarded
            }
        };
        let _ = self.flight.set(boarded);
        let fetched = self.fetch_or_again().await;
        drop(slot);
        fetched
    }

    async fn enter_slot(&self) -> Result<SemaphorePermit<'_>, Ended> {
        Ok(unless(self.halt, self.job.slots.acquire()).await?.expect("nobody closes it"))
    }

    async fn fetch_or_again(&self) -> Result<(), Ended> {
        match self.fetch_once().await {
            Err(Ended::Failed(error)) if is_mismatch(&error) => {
                self.job.warn(format!("{error}; fetching {} once more", self.digest()));
                self.repository.distrust_mirrors();
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
        let mut reference = ingest_ref(self.digest());
        if self.flight.get().is_some_and(|boarded| boarded.overtakes) {
            // The other one writes the ingest of that name.
            reference = format!("{reference}-{}", self.job.id);
        }
        let open = OpenIngest {
            reference,
            total: Some(self.descriptor.size),
            expected: Some(self.digest().clone()),
            media_type: recorded_type(self.descriptor),
            labels: Some(labels_of(self.job)),
            writer_ttl: None,
            token: None,
        };
        for _ in 0..limits::INGEST_BUSY_TRIES {
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

    /// Fills in what is missing, over as many connections as it takes.
    async fn download(&self, id: &str, mut offset: u64) -> Result<(), Ended> {
        let store = &self.job.jobs.0.store;
        let mut retries = match self.descriptor.urls.is_empty() {
            true => self.job.retries(),
            // Who keeps it elsewhere has answered nobody yet.
            false => Retries::new(self.job.jobs.0.settings.retry),
        };
        if offset > self.descriptor.size {
            offset = store.truncate_ingest(self.namespace(), id, 0, None).await?.offset;
        }
        let mut there = self.show_what_is_there(id, offset).await?;
        let mut disturbed = 0;
        while offset < self.descriptor.size {
            let error = match self.fill(id, offset).await {
                Ok(ingest) if ingest.offset > offset => {
                    offset = ingest.offset;
                    continue;
                }
                Ok(_) => Error::internal("fetch a blob without getting a byte of it"),
                Err(Ended::Stopped) => return Err(Ended::Stopped),
                Err(Ended::Failed(error)) => error,
            };
            offset = store.find_ingest(self.namespace(), id).await?.offset;
            let before = std::mem::replace(&mut there, self.show_what_is_there(id, offset).await?);
            retries.received(there.saturating_sub(before));
            if is_disturbance(&error) && disturbed < limits::INGEST_BUSY_TRIES {
                disturbed += 1;
                unless(self.halt, tokio::time::sleep(BUSY_WAIT)).await?;
            } else {
                let tell = |wait| self.tell(|seen| seen.wait = wait);
                self.job.wait_after(&mut retries, error, self.halt, Some(self.digest()), tell).await?;
            }
        }
        Ok(())
    }

    /// Draws the bytes of the ingest that are here, those beyond its offset too; how many there are.
    async fn show_what_is_there(&self, id: &str, offset: u64) -> Result<u64> {
        let ahead = self.job.jobs.0.store.list_ahead(self.namespace(), id).await?;
        let there = offset + ahead.iter().map(|part| part.end - part.start).sum::<u64>();
        self.show(there);
        Ok(there)
    }

    /// Draws that so many bytes are here, and that the others are on their way.
    pub fn show(&self, there: u64) {
        self.job.draw(|picture| picture.resume(self.digest(), there));
        self.tell(|seen| seen.offset = there);
    }

    /// Shows that the blob waits, to those too who wait for this one.
    pub fn wait(&self, wait: PullWait) {
        self.tell(|seen| seen.wait = Some(wait.clone()));
        self.job.draw(|picture| picture.wait(Some(self.digest()), wait));
    }

    /// Shows that the wait is over.
    pub fn go_on(&self) {
        self.tell(|seen| seen.wait = None);
        self.job.draw(|picture| picture.go_on(Some(self.digest()), self.job.now()));
    }

    /// Fills in the bytes of one download, as far as it gets; how the ingest stands then.
    async fn fill(&self, id: &str, offset: u64) -> Result<Ingest, Ended> {
        self.job.draw(|picture| picture.begin(self.job.now()));
        let store = &self.job.jobs.0.store;
        let ahead = store.list_ahead(self.namespace(), id).await?;
        let download = Download::new(self, offset, &ahead);
        let ended: Arc<Mutex<Option<Ended>>> = Arc::default();
        let body = pin!(stream::unfold(Some(download), |download| {
            let ended = ended.clone();
            async move {
                let mut download = download?;
                match download.next().await {
                    Ok(placed) => placed.map(|placed| (Ok(placed), Some(download))),
                    Err(why) => {
                        *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                        // The bytes before the cut count; the reason is told beside the stream.
                        Some((Err(Cut), None))
                    }
                }
            }
        }));
        let filled = store.fill_ingest(self.namespace(), id, offset, body).await;
        match ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(why) => Err(why),
            None => Ok(filled?),
        }
    }

    /// Those bytes of the blob, from the registry; or from where its descriptor says, if the pull is to look there.
    pub async fn open_source(&self, wanted: Range<u64>, place: Place) -> Result<BlobStream> {
        let foreign = !self.descriptor.urls.is_empty();
        match self.repository.fetch_blob(self.descriptor, wanted.clone(), place).await {
            Err(error) if foreign && is_elsewhere(&error) => {
                // The place went with the failed request; who waits here holds none.
                let place = self.repository.enter().await;
                self.repository.fetch_foreign(self.descriptor, wanted, place).await
            }
            settled => settled,
        }
    }

    /// Counts bytes that have come over the network.
    pub fn count(&self, bytes: u64) {
        self.job.jobs.0.settings.metrics.fetched_bytes.inc_by(bytes);
        self.job.draw(|picture| picture.receive(self.digest(), bytes, self.job.now()));
        self.tell(|seen| seen.offset += bytes);
    }

    /// Lets pulls that wait for the same blob see how it goes.
    pub fn tell(&self, how: impl FnOnce(&mut Seen)) {
        if let Some(boarded) = self.flight.get() {
            boarded.flight.tell(how);
        }
    }

    /// Counts bytes that have come and are here already: a server without ranges begins at the first.
    pub fn count_again(&self, bytes: u64) {
        self.job.jobs.0.settings.metrics.fetched_bytes.inc_by(bytes);
        self.job.draw(|picture| picture.receive_again(self.digest(), bytes, self.job.now()));
    }

    /// Shows that so many bytes will come once more.
    pub fn expect_again(&self, bytes: u64) {
        self.job.draw(|picture| picture.expect_again(self.digest(), bytes));
    }

    /// Whether the blob is asked for in parts, if it may be.
    pub fn is_in_parts(&self) -> bool {
        let parts = self.job.jobs.0.settings.parts;
        parts.at_once > 1 && self.descriptor.size >= 2 * parts.bytes && self.may_ask_for_ranges()
    }

    async fn commit(&self, ingest: &Ingest) -> Result<(), Ended> {
        let store = &self.job.jobs.0.store;
        self.set_state(BlobState::Verifying);
        let actual = store.find_ingest(self.namespace(), &ingest.id).await?.digest;
        if actual != self.digest().as_str() {
            let reason = format!("its bytes have the digest {actual}, not {}", self.digest());
            return Err(upstream_of(&self.job.request, UpstreamKind::Mismatch, reason).into());
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
                Err(upstream_of(&self.job.request, UpstreamKind::Mismatch, lie.to_string()).into())
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
        Err(upstream_of(&self.job.request, UpstreamKind::Mismatch, reason))
    }

    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    pub fn namespace(&self) -> &str {
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
