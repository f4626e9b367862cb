//! A blob of any size that comes whole, in one request.

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use super::arrival::{Arrival, Committed};
use super::body::{Ending, QUEUE, Sink, in_order, pump};
use super::content::check_digest;
use super::labels::{self, Labels};
use super::{Caller, Store};
use crate::error::{Error, Result};
use crate::id::new_id;
use crate::limits;
use crate::oci::{Algorithm, Digest, Hasher};

/// The body of a large blob that comes in one request.
#[derive(Debug, Clone)]
pub struct PutStream {
    pub expected: Option<Digest>,
    pub algorithm: Algorithm,
    pub media_type: Option<String>,
    pub labels: Labels,
    pub length: Option<u64>,
}

impl Store {
    /// Stores a blob of any size that comes in one request.
    ///
    /// # Errors
    /// `Conflict` (digest mismatch), `TooLarge`, `NotFound` for the lease, `OutOfSpace`, `Unavailable`: nothing
    /// is stored then.
    pub async fn put_stream<S, E>(&self, caller: &Caller, mut put: PutStream, body: S) -> Result<Committed>
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Unpin,
    {
        let limit = self.0.settings.max_blob_bytes;
        if put.length.is_some_and(|length| length > limit) {
            return Err(Error::TooLarge { what: "the blob", limit });
        }
        let labels = labels::new_labels(std::mem::take(&mut put.labels))?;
        put.media_type.as_deref().map(labels::check_media_type).transpose()?;
        put.labels = labels;
        self.check_lease(caller).await?;
        let id = new_id("put", self.now());
        let (to, mut batches) = mpsc::channel(QUEUE);
        let (store, owner, name) = (self.clone(), caller.clone(), id.clone());
        let (whole, ended) = tokio::sync::oneshot::channel();
        let mut writing = Box::pin(self.to_the_end("put", async move {
            let opened = name.clone();
            let file = store.on_disk(move |disk| disk.open_ingest(&opened)).await?;
            let mut sink = Sink { file, hasher: Hasher::new(put.algorithm), chunk: None };
            let outcome = async {
                loop {
                    let written;
                    (sink, batches, written) = sink.write(&store.0.shutdown, batches, |_| true).await;
                    if !written? {
                        break;
                    }
                }
                match ended.await {
                    Ok(Ending::Whole) => {}
                    Ok(Ending::TooLong) => return Err(Error::TooLarge { what: "the blob", limit }),
                    Ok(Ending::Cut) | Err(_) => {
                        return Err(Error::invalid("the body was cut short; nothing of it was kept"));
                    }
                }
                store.accept_sink(&owner, sink, put).await
            }
            .await;
            // What is left is an empty directory, or bytes that were refused; the next start would find them as well.
            let _ = store.on_disk(move |disk| disk.remove_ingest(&name)).await;
            outcome
        }));
        let ending = tokio::select! {
            biased;
            early = &mut writing => return early,
            ending = pump(in_order(body, 0), to, limit) => ending,
        };
        let _ = whole.send(ending);
        writing.await
    }

    async fn accept_sink(&self, caller: &Caller, sink: Sink, put: PutStream) -> Result<Committed> {
        let digest = sink.hasher.digest();
        check_digest(put.expected.as_ref(), &digest)?;
        let mut file = sink.file;
        let (size, staged, document) = self
            .on_disk(move |_| {
                let size = file.length();
                let document = if size <= limits::MANIFEST_BYTES { file.read_document()? } else { None };
                Ok((size, file.stage()?, document))
            })
            .await?;
        let arrival = Arrival {
            digest,
            size,
            staged: Some(staged),
            media_type: put.media_type,
            labels: put.labels,
            document,
            ingest: None,
        };
        self.accept(caller, arrival).await
    }
}
