//! The end of every write: staged bytes get their name, then their record, then the answer.

use super::content::{Content, content_of};
use super::edges::{edges_of, label_edges};
use super::labels::{self, Labels};
use super::leases::{Held, ResourceKind, hold};
use super::namespaces::touch;
use super::tell::{News, tell};
use super::{Caller, Store};
use crate::db;
use crate::db::content::ContentRow;
use crate::disk::Staged;
use crate::error::{Error, Result};
use crate::events::Topic;
use crate::oci::Digest;

/// Whether the record is new, or stood before and was left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    New,
    Existed,
}

/// What a commit answers.
#[derive(Debug, Clone)]
pub struct Committed {
    pub put: Put,
    pub content: Content,
    pub held: Held,
}

/// Bytes that are durable, hash to `digest`, and wait for their name.
pub(super) struct Arrival {
    pub digest: Digest,
    pub size: u64,
    /// `None` when the bytes are stored already (lent by another namespace).
    pub staged: Option<Staged>,
    pub media_type: Option<String>,
    pub labels: Labels,
    /// The bytes, if they may be a manifest: its children become edges.
    pub document: Option<Vec<u8>>,
    /// The ingest that ends with this.
    pub ingest: Option<String>,
}

impl Store {
    /// Names, records and acknowledges, in the order that a crash between any two steps forgives: rename, sync the
    /// directory, then the row. A file without a row is garbage, a row without a file is a lie.
    ///
    /// # Errors
    /// `NotFound` for the caller's lease, `OutOfSpace`, `Unavailable`, `Internal`: nothing is recorded then.
    pub(super) async fn accept(&self, caller: &Caller, arrival: Arrival) -> Result<Committed> {
        let (store, caller) = (self.clone(), caller.clone());
        self.to_the_end("commit", async move { store.accept_now(&caller, arrival).await }).await
    }

    pub(super) async fn accept_now(&self, caller: &Caller, arrival: Arrival) -> Result<Committed> {
        let Arrival { digest, size, staged, media_type, labels, document, ingest } = arrival;
        self.check_lease(caller).await?;
        let _turn = self.0.gate.enter(&digest).await;
        let size = match staged {
            Some(staged) => {
                let name = digest.clone();
                self.on_disk(move |disk| disk.name_staged(&staged, &name)).await?;
                self.0.flush.sync_names(digest.algorithm()).await?;
                size
            }
            None => self.check_lent(caller, &digest).await?,
        };
        let found = document.as_deref().map(|bytes| edges_of(&digest, bytes)).unwrap_or_default();
        let is_document = found.media_type.is_some();
        let media_type = media_type.or(found.media_type);
        let now = self.now();
        let row = ContentRow {
            namespace: caller.namespace.clone(),
            digest: digest.to_string(),
            size: i64::try_from(size).map_err(|_| Error::internal("a blob is longer than an i64"))?,
            media_type,
            labels: labels::to_json(&labels),
            created_at: now.0,
            updated_at: now.0,
        };
        let mut edges = found.edges;
        edges.extend(label_edges(row.digest.as_str(), &labels));
        let grace = self.0.settings.grace_lease;
        let owner = caller.clone();
        let whole_put = ingest.is_none();
        let written = self
            .0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let namespace = owner.namespace.as_str();
                    touch(tx, namespace, now).await?;
                    let held = hold(tx, &owner, ResourceKind::Content, &row.digest, grace, now).await?;
                    db::content::store_blob(tx, &row.digest, row.size, now.0).await?;
                    let new = db::content::insert_record(tx, &row).await?;
                    for edge in edges.iter().filter(|_| new) {
                        db::content::insert_edge(tx, namespace, edge).await?;
                    }
                    if let Some(ingest) = &ingest {
                        let reference = db::ingests::delete_ingest(tx, ingest).await?.unwrap_or_default();
                        db::leases::forget_resource(tx, namespace, "ingest", ingest).await?;
                        let news = News::of_ingest(Topic::IngestCommit, namespace, ingest, &reference);
                        tell(tx, now, news.with("digest", &row.digest)).await?;
                    }
                    if new {
                        tell(tx, now, News::of_content(Topic::ContentCreate, &row)).await?;
                    }
                    let (put, row) = match new {
                        true => (Put::New, row),
                        false => {
                            let stands = db::content::find_record(tx, namespace, &row.digest).await?;
                            (Put::Existed, stands.unwrap_or(row))
                        }
                    };
                    Ok(Committed { put, content: content_of(row), held })
                })
            })
            .await;
        // The file under the name is another one now.
        self.0.cache.forget_everywhere(&digest);
        if written.is_err() && whole_put {
            self.drop_unrecorded(&digest).await;
        }
        // It may be what a name has stood for all the while.
        if is_document && written.is_ok() {
            self.0.index.content_changed();
        }
        written
    }

    /// Whether the bytes are recorded, also when a transaction that records them has been heard of no more and may
    /// still come to its end. Within their gate, so that no other begins.
    ///
    /// # Errors
    /// `Unavailable` when the database cannot say.
    pub(super) async fn is_recorded_for_certain(&self, digest: &Digest) -> Result<bool> {
        let name = digest.clone();
        let asking = self
            .0
            .db
            .write(move |tx| Box::pin(async move { db::content::await_record(tx, name.as_str()).await }));
        asking.await
    }

    /// Removes bytes that have a name and no record, within their gate. If the database cannot say, they stay: they
    /// may be recorded after all, and the next start finds them if they are not.
    async fn drop_unrecorded(&self, digest: &Digest) {
        if let Ok(false) = self.is_recorded_for_certain(digest).await {
            let name = digest.clone();
            let _ = self.on_disk(move |disk| disk.remove_blob(&name)).await;
        }
    }

    /// A lease that is named and not there is found out before anything is renamed.
    pub(super) async fn check_lease(&self, caller: &Caller) -> Result<()> {
        let Some(lease) = &caller.lease else { return Ok(()) };
        let mut conn = self.0.db.read().await?;
        let found = db::leases::find_lease(&mut conn, &caller.namespace, lease, self.now().0).await?;
        found.map(drop).ok_or_else(|| Error::not_found("lease", lease))
    }

    /// Lent bytes can be taken only while a namespace that lends them to the caller still records them, or the caller's
    /// own has come to do so. How many they are.
    async fn check_lent(&self, caller: &Caller, digest: &Digest) -> Result<u64> {
        if let Some(size) = self.find_lent(caller, digest, None).await? {
            return Ok(size);
        }
        let here = {
            let mut conn = self.0.db.read().await?;
            db::content::find_state(&mut conn, &caller.namespace, digest.as_str()).await?
        };
        if let Some((size, _)) = here.filter(|(_, state)| state == "stored") {
            return Ok(size.unsigned_abs());
        }
        Err(Error::Conflict(crate::error::Conflict::State {
            reason: format!("{digest} is no longer shared: open the ingest again and send the bytes"),
        }))
    }

    /// If the namespace has the digest already, holds it for the caller: what is answered as there stays there.
    ///
    /// # Errors
    /// `NotFound` for the caller's lease; `Unavailable`.
    pub(super) async fn hold_existing(&self, caller: &Caller, digest: &Digest) -> Result<Option<Committed>> {
        let (store, caller, digest) = (self.clone(), caller.clone(), digest.clone());
        self.to_the_end("hold", async move {
            let _turn = store.0.gate.enter(&digest).await;
            let state = {
                let mut conn = store.0.db.read().await?;
                db::content::find_state(&mut conn, &caller.namespace, digest.as_str()).await?
            };
            let Some((size, state)) = state else { return Ok(None) };
            let name = digest.clone();
            let file = store.on_disk(move |disk| disk.open_blob(&name)).await?;
            // A record whose bytes are damaged is as good as none: the caller's bytes will heal it.
            let whole = file.is_some_and(|file| file.size() == size.unsigned_abs());
            if state != "stored" || !whole {
                return Ok(None);
            }
            let now = store.now();
            let grace = store.0.settings.grace_lease;
            store
                .0
                .db
                .write(move |tx| {
                    Box::pin(async move {
                        let found = db::content::find_record(tx, &caller.namespace, digest.as_str()).await?;
                        let Some(row) = found else { return Ok(None) };
                        let held = hold(tx, &caller, ResourceKind::Content, &row.digest, grace, now).await?;
                        Ok(Some(Committed { put: Put::Existed, content: content_of(row), held }))
                    })
                })
                .await
        })
        .await
    }
}
