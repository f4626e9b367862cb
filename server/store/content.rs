//! Content: a namespace's records of blobs.

use bytes::Bytes;
use serde::Serialize;

use super::arrival::{Arrival, Committed};
use super::edges::label_edges;
use super::labels::{self, LabelPatch, Labels};
use super::tell::{News, tell};
use super::{Caller, IfMatch, Store, tag_of};
use crate::clock::Time;
use crate::db;
use crate::db::content::ContentRow;
use crate::error::{Conflict, Error, Holder, Result};
use crate::events::Topic;
use crate::id::new_id;
use crate::limits;
use crate::oci::{Algorithm, Digest};

/// A namespace's record of a blob.
#[derive(Debug, Clone, Serialize)]
pub struct Content {
    pub namespace: String,
    pub digest: String,
    pub size: u64,
    pub media_type: Option<String>,
    pub labels: Labels,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Content {
    pub fn tag(&self) -> String {
        tag_of(self.updated_at)
    }
}

#[derive(Debug, Clone)]
pub struct ContentPatch {
    pub labels: Option<LabelPatch>,
    /// `Some(None)` removes the hint.
    pub media_type: Option<Option<String>>,
    pub if_match: IfMatch,
}

/// Where a blob is, as a namespace sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The namespace has it.
    Here,
    /// Another namespace has it, and lends it.
    Lent,
    Nowhere,
}

/// A whole blob in memory, small enough to be.
#[derive(Debug, Clone)]
pub struct PutBody {
    pub chunks: Vec<Bytes>,
    pub expected: Option<Digest>,
    pub algorithm: Algorithm,
    pub media_type: Option<String>,
    pub labels: Labels,
}

/// How many holders a refusal names: enough to act on.
const NAMED_HOLDERS: i64 = 20;

impl Store {
    /// # Errors
    /// `NotFound` when the namespace has no such record.
    pub async fn find_content(&self, namespace: &str, digest: &Digest) -> Result<Content> {
        let mut conn = self.0.db.read().await?;
        let row = db::content::find_record(&mut conn, namespace, digest.as_str()).await?;
        row.map(content_of).ok_or_else(|| Error::not_found("content", digest))
    }

    /// If the namespace has the digest, leases it to the caller and answers the record.
    ///
    /// # Errors
    /// `NotFound` for the caller's lease; `Unavailable`.
    pub async fn put_existing(&self, caller: &Caller, digest: &Digest) -> Result<Option<Committed>> {
        self.hold_existing(caller, digest).await
    }

    /// Where the bytes of a digest are, for this caller. Nothing is held.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn find_presence(&self, caller: &Caller, digest: &Digest, size: u64) -> Result<Presence> {
        let state = {
            let mut conn = self.0.db.read().await?;
            db::content::find_state(&mut conn, &caller.namespace, digest.as_str()).await?
        };
        if state.is_some_and(|(_, state)| state == "stored") {
            return Ok(Presence::Here);
        }
        let lent = self.find_lent(caller, digest, Some(size)).await?;
        Ok(if lent.is_some() { Presence::Lent } else { Presence::Nowhere })
    }

    /// How many bytes are here of what an ingest of this ref brings: those beyond its offset as well, none that are lent.
    ///
    /// # Errors
    /// `Unavailable`, `Internal`. That there is no such ingest is an answer.
    pub async fn count_begun(&self, namespace: &str, reference: &str) -> Result<u64> {
        let row = {
            let mut conn = self.0.db.read().await?;
            db::ingests::find_by_ref(&mut conn, namespace, reference).await?
        };
        let Some(row) = row.filter(|row| row.shared == 0) else { return Ok(0) };
        let counting = async {
            let offset = self.find_ingest(namespace, &row.id).await?.offset;
            let ahead = self.list_ahead(namespace, &row.id).await?;
            Ok(ahead.iter().fold(offset, |sum, part| sum.saturating_add(part.end - part.start)))
        };
        match counting.await {
            // It has ended, or its time has come.
            Err(Error::NotFound { .. }) => Ok(0),
            counted => counted,
        }
    }

    /// Stores a small blob that is in memory: one write, one sync, one rename.
    ///
    /// # Errors
    /// `Conflict` (digest mismatch), `TooLarge`, `NotFound` for the lease, `OutOfSpace`, `Unavailable`; nothing is
    /// stored then. `Invalid` for a label or media type.
    pub async fn put_bytes(&self, caller: &Caller, mut body: PutBody) -> Result<Committed> {
        let limit = self.0.settings.max_blob_bytes;
        if size_of(&body.chunks) > limit {
            return Err(Error::TooLarge { what: "the blob", limit });
        }
        body.labels = labels::new_labels(body.labels)?;
        body.media_type.as_deref().map(labels::check_media_type).transpose()?;
        self.check_lease(caller).await?;
        let (store, caller) = (self.clone(), caller.clone());
        // To the end: what was staged for a client that hung up is somebody's to remove.
        self.to_the_end("put", async move { store.put_now(&caller, body).await }).await
    }

    async fn put_now(&self, caller: &Caller, body: PutBody) -> Result<Committed> {
        let id = new_id("put", self.now());
        let staged_as = id.clone();
        let PutBody { chunks, expected, algorithm, media_type, labels } = body;
        let (digest, staged, document) = self
            .on_disk(move |disk| {
                let mut hasher = crate::oci::Hasher::new(algorithm);
                chunks.iter().for_each(|chunk| hasher.update(chunk));
                let digest = hasher.digest();
                check_digest(expected.as_ref(), &digest)?;
                let document = may_be_document(&chunks).then(|| chunks.concat());
                Ok((digest, disk.stage_bytes(&id, &chunks)?, document))
            })
            .await?;
        let arrival = Arrival {
            digest,
            size: staged.size(),
            staged: Some(staged),
            media_type,
            labels,
            document,
            ingest: None,
        };
        let accepted = self.accept_now(caller, arrival).await;
        if accepted.is_err() {
            // Refused before it had its name; the next start would find it as well.
            let _ = self.on_disk(move |disk| disk.remove_ingest(&staged_as)).await;
        }
        accepted
    }

    /// # Errors
    /// `NotFound`, `PreconditionFailed`, `Invalid` for a label.
    pub async fn update_content(
        &self,
        namespace: &str,
        digest: &Digest,
        patch: ContentPatch,
    ) -> Result<Content> {
        if let Some(Some(media_type)) = &patch.media_type {
            labels::check_media_type(media_type)?;
        }
        let (store, owner, name) = (self.clone(), namespace.to_owned(), digest.clone());
        let now = self.now();
        let content = self
            .0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut row = db::content::lock_record(tx, &owner, name.as_str())
                        .await?
                        .ok_or_else(|| Error::not_found("content", &name))?;
                    patch.if_match.check(&tag_of(Time(row.updated_at)))?;
                    if let Some(change) = patch.labels {
                        let mut labels = labels::from_json(&row.labels);
                        labels::apply_patch(&mut labels, change)?;
                        set_labels(tx, &mut row, &labels).await?;
                    }
                    if let Some(media_type) = patch.media_type {
                        row.media_type = media_type;
                    }
                    row.updated_at = store.after(Time(row.updated_at)).0;
                    db::content::update_record(tx, &row).await?;
                    tell(tx, now, News::of_content(Topic::ContentUpdate, &row)).await?;
                    Ok(content_of(row))
                })
            })
            .await?;
        self.0.cache.forget(namespace, digest);
        Ok(content)
    }

    /// Removes the record; and the bytes, when no namespace records them any more.
    ///
    /// # Errors
    /// `NotFound`; `PreconditionFailed`; `Conflict` (content in use) when something refers to it or a lease that
    /// somebody made holds it, unless `force`d.
    pub async fn delete_content(
        &self,
        namespace: &str,
        digest: &Digest,
        if_match: IfMatch,
        held: WhenHeld,
    ) -> Result<()> {
        let (store, namespace, digest) = (self.clone(), namespace.to_owned(), digest.clone());
        self.to_the_end("delete", async move { store.delete_now(&namespace, &digest, if_match, held).await })
            .await
    }

    async fn delete_now(
        &self,
        namespace: &str,
        digest: &Digest,
        if_match: IfMatch,
        held: WhenHeld,
    ) -> Result<()> {
        // Commit's mirror, under the same gate: mark the row, remove the file, drop the row.
        let _turn = self.0.gate.enter(digest).await;
        let now = self.now();
        let (owner, name) = (namespace.to_owned(), digest.clone());
        let may_be_named = held == WhenHeld::DeleteAnyway;
        let unrecorded = self
            .0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let row = db::content::lock_record(tx, &owner, name.as_str())
                        .await?
                        .ok_or_else(|| Error::not_found("content", &name))?;
                    if_match.check(&tag_of(Time(row.updated_at)))?;
                    match &held {
                        WhenHeld::Refuse => check_unused(tx, &owner, &name, now, &[]).await?,
                        WhenHeld::RefuseUnlessBy(known) => {
                            check_unused(tx, &owner, &name, now, known).await?;
                        }
                        WhenHeld::DeleteAnyway => {}
                    }
                    db::content::delete_record(tx, &owner, name.as_str()).await?;
                    db::content::delete_edges(tx, &owner, name.as_str()).await?;
                    db::leases::forget_resource(tx, &owner, "content", name.as_str()).await?;
                    tell(tx, now, News::of_content(Topic::ContentDelete, &row)).await?;
                    db::content::mark_deleting(tx, name.as_str()).await
                })
            })
            .await?;
        self.0.cache.forget(namespace, digest);
        // Else no name stands for it.
        if may_be_named {
            self.0.index.content_changed();
        }
        if unrecorded {
            let name = digest.clone();
            self.on_disk(move |disk| disk.remove_blob(&name)).await?;
            // Or a power cut could bring the file back when no row tells any more that it was deleted.
            self.0.flush.sync_names(digest.algorithm()).await?;
            let name = digest.clone();
            self.0
                .db
                .write(move |tx| Box::pin(async move { db::content::drop_blob(tx, name.as_str()).await }))
                .await?;
        }
        Ok(())
    }
}

/// What a deletion does when somebody needs the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhenHeld {
    Refuse,
    /// Unless it is only these, by their ids.
    RefuseUnlessBy(Vec<String>),
    DeleteAnyway,
}

/// Refuses while something refers to the blob, or a lease that somebody made holds it: something but these.
async fn check_unused(
    tx: &mut db::Tx,
    namespace: &str,
    digest: &Digest,
    now: Time,
    known: &[String],
) -> Result<()> {
    // As many more as do not count.
    let most = NAMED_HOLDERS + known.len() as i64;
    let mut holders = Vec::new();
    for (id, name) in db::images::list_by_digest(tx, namespace, digest.as_str(), most).await? {
        holders.push(Holder { kind: "image".to_owned(), id, name: Some(name) });
    }
    for (parent, label) in db::content::list_parents(tx, namespace, digest.as_str(), most).await? {
        holders.push(Holder { kind: "content".to_owned(), id: parent, name: Some(label) });
    }
    let leases = db::leases::list_holders(tx, namespace, "content", digest.as_str(), now.0, most).await?;
    for (id, _kind) in leases {
        holders.push(Holder { kind: "lease".to_owned(), id, name: None });
    }
    holders.retain(|holder| !known.contains(&holder.id));
    if holders.is_empty() {
        return Ok(());
    }
    Err(Error::Conflict(Conflict::ContentInUse { digest: digest.to_string(), holders }))
}

/// Gives a record, which the transaction has locked, other labels, and makes edges of them.
pub(super) async fn set_labels(tx: &mut db::Tx, row: &mut ContentRow, labels: &Labels) -> Result<()> {
    db::content::delete_label_edges(tx, &row.namespace, &row.digest).await?;
    for edge in label_edges(&row.digest, labels) {
        db::content::insert_edge(tx, &row.namespace, &edge).await?;
    }
    row.labels = labels::to_json(labels);
    Ok(())
}

pub(super) fn content_of(row: ContentRow) -> Content {
    Content {
        namespace: row.namespace,
        digest: row.digest,
        size: row.size.unsigned_abs(),
        media_type: row.media_type,
        labels: labels::from_json(&row.labels),
        created_at: Time(row.created_at),
        updated_at: Time(row.updated_at),
    }
}

/// # Errors
/// `Conflict` when the bytes do not have the digest that was promised.
pub(super) fn check_digest(expected: Option<&Digest>, actual: &Digest) -> Result<()> {
    match expected {
        Some(expected) if expected != actual => Err(Error::Conflict(Conflict::DigestMismatch {
            expected: expected.to_string(),
            actual: actual.to_string(),
        })),
        _ => Ok(()),
    }
}

/// A manifest is a JSON object of bounded size; everything else need not be looked into.
pub(super) fn may_be_document(chunks: &[Bytes]) -> bool {
    let first = chunks.iter().flat_map(|chunk| chunk.iter()).find(|byte| !byte.is_ascii_whitespace());
    size_of(chunks) <= limits::MANIFEST_BYTES && first == Some(&b'{')
}

fn size_of(chunks: &[Bytes]) -> u64 {
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}
