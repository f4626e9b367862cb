//! Ingests: writes that are not committed yet, resumable at the offset that the server names.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::arrival::Committed;
use super::labels::{self, Labels};
use super::leases::{Held, ResourceKind, hold};
use super::live::{Bytes, Live, Turn};
use super::namespaces::touch;
use super::tell::{News, tell};
use super::{Caller, Store, tag_of};
use crate::clock::Time;
use crate::db;
use crate::db::ingests::IngestRow;
use crate::error::{Error, Result};
use crate::events::Topic;
use crate::id::{new_id, random_bytes};
use crate::limits;
use crate::oci::{Algorithm, Digest};

/// An ingest as its namespace sees it: of the bytes received so far, also in the middle of a request.
#[derive(Debug, Clone, Serialize)]
pub struct Ingest {
    pub id: String,
    pub namespace: String,
    #[serde(rename = "ref")]
    pub reference: String,
    pub state: &'static str,
    pub shared: bool,
    pub offset: u64,
    /// What survives a power cut for certain.
    pub durable_offset: u64,
    pub total: Option<u64>,
    pub expected_digest: Option<String>,
    pub digest: String,
    pub media_type: Option<String>,
    pub labels: Labels,
    pub lease_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<Writer>,
    pub started_at: Time,
    pub updated_at: Time,
    pub expires_at: Time,
}

impl Ingest {
    /// Changes with every byte and with every announcement.
    pub fn tag(&self) -> String {
        format!("{}-{:x}-{:x}", tag_of(self.updated_at), self.offset, self.expires_at.0)
    }
}

/// Who holds an ingest between requests; the token is told once, to the holder.
#[derive(Debug, Clone, Serialize)]
pub struct Writer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    pub expires_at: Time,
}

#[derive(Debug, Clone, Default)]
pub struct OpenIngest {
    pub reference: String,
    pub total: Option<u64>,
    pub expected: Option<Digest>,
    pub media_type: Option<String>,
    pub labels: Option<Labels>,
    pub writer_ttl: Option<Duration>,
    pub token: Option<String>,
}

/// What opening answers.
#[derive(Debug, Clone)]
pub enum Opened {
    /// The namespace has the digest; it is leased to the caller.
    Exists(Committed),
    New {
        ingest: Box<Ingest>,
        held: Held,
    },
    Resumed {
        ingest: Box<Ingest>,
        held: Held,
    },
}

impl Store {
    /// Opens an ingest by its ref, or resumes it.
    ///
    /// # Errors
    /// `Invalid`; `NotFound` for the lease; `Busy` while somebody else writes it; `WriterLost`; `TooMany` when the
    /// namespace has [`limits::INGESTS`] open.
    pub async fn open_ingest(&self, caller: &Caller, mut open: OpenIngest) -> Result<Opened> {
        check_open(&open, self.0.settings.max_blob_bytes)?;
        open.labels = open.labels.map(labels::new_labels).transpose()?;
        if let Some(digest) = &open.expected
            && let Some(exists) = self.hold_existing(caller, digest).await?
        {
            return Ok(Opened::Exists(exists));
        }
        let now = self.now();
        let found = {
            let mut conn = self.0.db.read().await?;
            db::ingests::find_by_ref(&mut conn, &caller.namespace, &open.reference).await?
        };
        match found {
            Some(row) if self.has_expired(&row, now) => {
                match self.end_ingest(&caller.namespace, &row.id, Topic::IngestExpire).await {
                    // Somebody else has ended it a moment ago.
                    Ok(()) | Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
                self.begin_ingest(caller, open, now).await
            }
            Some(row) => self.resume_ingest(caller, open, row, now).await,
            None => self.begin_ingest(caller, open, now).await,
        }
    }

    async fn begin_ingest(&self, caller: &Caller, open: OpenIngest, now: Time) -> Result<Opened> {
        let bytes = self.begin_with(caller, open.expected.as_ref(), open.total).await?;
        let row = IngestRow {
            id: new_id("ing", now),
            namespace: caller.namespace.clone(),
            reference: open.reference,
            total: open.total.map(signed),
            expected_digest: open.expected.as_ref().map(Digest::to_string),
            media_type: open.media_type,
            labels: labels::to_json(&open.labels.unwrap_or_default()),
            lease: caller.lease.clone(),
            shared: i64::from(bytes.is_lent()),
            durable_offset: signed(bytes.offset()),
            hash_algorithm: bytes.algorithm().as_str().to_owned(),
            hash_state: None,
            boot: self.0.boot.clone(),
            started_at: now.0,
            updated_at: now.0,
            expires_at: now.plus(self.0.settings.ingest_expiry).0,
        };
        let (owner, grace) = (caller.clone(), self.0.settings.grace_lease);
        let (row, held) = self
            .0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut row = row;
                    touch(tx, &owner.namespace, now).await?;
                    let open = db::ingests::count_ingests(tx, &owner.namespace).await?;
                    if usize::try_from(open).is_ok_and(|open| open >= limits::INGESTS) {
                        let retry_after = Duration::from_secs(30);
                        return Err(Error::TooMany { what: "ingests", limit: limits::INGESTS, retry_after });
                    }
                    let held = hold(tx, &owner, ResourceKind::Ingest, &row.id, grace, now).await?;
                    row.lease = Some(held.lease.clone());
                    if !db::ingests::insert_ingest(tx, &row).await? {
                        // Somebody opened the same ref a moment ago.
                        return Err(Error::Busy { offset: 0, retry_after: Duration::from_secs(1) });
                    }
                    let news = News::of_ingest(Topic::IngestOpen, &row.namespace, &row.id, &row.reference);
                    tell(tx, now, news).await?;
                    Ok((row, held))
                })
            })
            .await?;
        let live = self.0.ingests.get(&row.id);
        let writer = open.writer_ttl.map(|ttl| grant(&live, ttl, now));
        let ingest = Box::new(self.view(&row, Some(&live), writer).await?);
        Ok(Opened::New { ingest, held })
    }

    async fn resume_ingest(
        &self,
        caller: &Caller,
        open: OpenIngest,
        row: IngestRow,
        now: Time,
    ) -> Result<Opened> {
        let live = self.0.ingests.get(&row.id);
        let turn = live.take_turn(&row.id, open.token.as_deref(), now).await?;
        let mut row = self.reread(&row).await?;
        row.total = open.total.map(signed).or(row.total);
        if let Some(labels) = &open.labels {
            row.labels = labels::to_json(labels);
        }
        row.media_type = open.media_type.or(row.media_type);
        row.expires_at = now.plus(self.0.settings.ingest_expiry).0;
        let mut lent_anew = None;
        if let Some(expected) = &open.expected {
            let bytes = live.progress(self.load(&row)).await?.bytes.clone();
            if bytes.is_lent() && bytes.digest() != *expected {
                // What was lent is not what is expected now.
                let bytes = self.begin_with(caller, Some(expected), open.total).await?;
                row.shared = i64::from(bytes.is_lent());
                row.durable_offset = signed(bytes.offset());
                lent_anew = Some(bytes);
            } else {
                self.hash_as(&live, &row, expected.algorithm()).await?;
            }
            row.expected_digest = Some(expected.to_string());
            row.hash_algorithm = expected.algorithm().as_str().to_owned();
        }
        let (mut owner, grace) = (caller.clone(), self.0.settings.grace_lease);
        // Without a lease named now, the one named before goes on holding it.
        owner.lease = owner.lease.or(self.unexpired(&row, now).await?);
        let (row, held) = self
            .0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let held = hold(tx, &owner, ResourceKind::Ingest, &row.id, grace, now).await?;
                    row.lease = Some(held.lease.clone());
                    if !db::ingests::announce(tx, &row).await? {
                        return Err(Error::not_found("ingest", &row.id));
                    }
                    Ok((row, held))
                })
            })
            .await?;
        if let (Some(bytes), Some(mut progress)) = (lent_anew, live.loaded()) {
            progress.bytes = bytes;
            progress.updated_at = self.after(progress.updated_at);
        }
        let writer = open.writer_ttl.map(|ttl| grant(&live, ttl, now));
        drop(turn);
        let ingest = Box::new(self.view(&row, Some(&live), writer).await?);
        Ok(Opened::Resumed { ingest, held })
    }

    /// # Errors
    /// `NotFound` when there is no such ingest, or its time has come.
    pub async fn find_ingest(&self, namespace: &str, id: &str) -> Result<Ingest> {
        let row = self.find_row(namespace, id).await?;
        self.view(&row, None, None).await
    }

    /// Cuts an ingest back to nothing, so that it may be written again.
    ///
    /// # Errors
    /// `Invalid` for any other offset than 0; `NotFound`, `Busy`, `WriterLost`.
    pub async fn truncate_ingest(
        &self,
        namespace: &str,
        id: &str,
        offset: u64,
        token: Option<&str>,
    ) -> Result<Ingest> {
        if offset != 0 {
            return Err(Error::invalid_field("offset", "an ingest can be cut back to offset 0 only"));
        }
        let row = self.find_row(namespace, id).await?;
        let live = self.0.ingests.get(id);
        let turn = live.take_turn(id, token, self.now()).await?;
        let row = self.reread(&row).await?;
        drop(live.progress(self.load(&row)).await?);
        let store = self.clone();
        // To the end: a file that was cut under an offset that was not would be no ingest any more.
        self.to_the_end("truncate", async move {
            let restarted = store.restart(&turn, row).await;
            turn.live.renew(store.now());
            restarted
        })
        .await?;
        self.find_ingest(namespace, id).await
    }

    async fn restart(&self, turn: &Turn, row: IngestRow) -> Result<()> {
        let id = row.id.clone();
        self.on_disk(move |disk| disk.cut_ingest(&id, 0)).await?;
        let algorithm = algorithm_of(&row)?;
        if let Some(mut progress) = turn.live.loaded() {
            progress.bytes = Bytes::none(algorithm);
            progress.updated_at = self.after(progress.updated_at);
        }
        self.checkpoint(turn, row).await
    }

    /// Gives the ingest back to whoever comes next; the bytes stay.
    ///
    /// # Errors
    /// `NotFound`; `WriterLost` when the token is not the writer's.
    pub async fn release_ingest(&self, namespace: &str, id: &str, token: &str) -> Result<()> {
        self.find_row(namespace, id).await?;
        let live = self.0.ingests.get(id);
        let turn = live.take_turn(id, Some(token), self.now()).await?;
        live.release();
        drop(turn);
        Ok(())
    }

    /// Ends an ingest badly: its bytes are gone. Never held up: whoever writes it hears `NotFound`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn abort_ingest(&self, namespace: &str, id: &str) -> Result<()> {
        self.find_row(namespace, id).await?;
        self.end_ingest(namespace, id, Topic::IngestAbort).await
    }

    /// Ends an ingest badly, which `why` tells of.
    pub(super) async fn end_ingest(&self, namespace: &str, id: &str, why: Topic) -> Result<()> {
        let (store, namespace, id) = (self.clone(), namespace.to_owned(), id.to_owned());
        self.to_the_end("abort", async move {
            // It stays in sight, as ended, until nothing is left of it: a request that comes meanwhile must not find a
            // living part that knows of no end.
            let live = store.0.ingests.get(&id);
            live.end();
            let was_there = match store.forget_row(&namespace, &id, why).await {
                Ok(was_there) => was_there,
                Err(error) => {
                    // Whether it has ended nobody can say: its bytes stay.
                    live.revive();
                    return Err(error);
                }
            };
            live.confirm_end();
            let name = id.clone();
            let removed = store.on_disk(move |disk| disk.remove_ingest(&name)).await;
            store.0.ingests.remove(&id);
            if !was_there {
                return Err(Error::not_found("ingest", id));
            }
            removed
        })
        .await
    }

    /// Takes away the row of an ingest; whether it was there.
    async fn forget_row(&self, namespace: &str, id: &str, why: Topic) -> Result<bool> {
        let (owner, name, now) = (namespace.to_owned(), id.to_owned(), self.now());
        let forgetting = self.0.db.write(move |tx| {
            Box::pin(async move {
                db::leases::forget_resource(tx, &owner, "ingest", &name).await?;
                let Some(reference) = db::ingests::delete_ingest(tx, &name).await? else { return Ok(false) };
                tell(tx, now, News::of_ingest(why, &owner, &name, &reference)).await?;
                Ok(true)
            })
        });
        forgetting.await
    }
}

/// What opening may say, before anything is looked at.
fn check_open(open: &OpenIngest, max_blob_bytes: u64) -> Result<()> {
    let length = open.reference.len();
    if length == 0 || length > limits::REF_BYTES || open.reference.chars().any(char::is_control) {
        return Err(Error::invalid_field(
            "ref",
            format!("a ref has 1 to {} bytes and no control characters", limits::REF_BYTES),
        ));
    }
    if let Some(media_type) = &open.media_type {
        labels::check_media_type(media_type)?;
    }
    if open.total.is_some_and(|total| total > max_blob_bytes) {
        return Err(Error::TooLarge { what: "the announced total", limit: max_blob_bytes });
    }
    Ok(())
}

fn grant(live: &Arc<Live>, ttl: Duration, now: Time) -> Writer {
    let token: String = crate::id::hex(&random_bytes::<16>());
    let expires_at = live.hold(token.clone(), ttl, now);
    Writer { token: Some(token), expires_at }
}

/// Sizes and offsets in the database are signed; none comes near the end of that.
pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

pub(super) fn algorithm_of(row: &IngestRow) -> Result<Algorithm> {
    row.hash_algorithm.parse().map_err(|_| Error::internal("an ingest with an unknown algorithm"))
}
