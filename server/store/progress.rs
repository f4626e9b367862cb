//! How far an ingest is: loaded when it is first used, written down when it is certain, shown at any time.

use super::ingests::{Ingest, Writer, algorithm_of, signed};
use super::labels;
use super::live::{Bytes, Live, Progress, Turn};
use super::{Caller, Sharing, Store};
use crate::clock::Time;
use crate::db;
use crate::db::ingests::IngestRow;
use crate::disk::Staged;
use crate::error::{Error, Result};
use crate::limits;
use crate::oci::{Algorithm, Digest, Hasher};

impl Store {
    /// The row of an ingest whose time has not come.
    pub(super) async fn find_row(&self, namespace: &str, id: &str) -> Result<IngestRow> {
        let row = {
            let mut conn = self.0.db.read().await?;
            db::ingests::find_ingest(&mut conn, namespace, id).await?
        };
        match row {
            Some(row) if !self.has_expired(&row, self.now()) => Ok(row),
            _ => Err(Error::not_found("ingest", id)),
        }
    }

    /// The row as it is now that nobody else writes it.
    pub(super) async fn reread(&self, row: &IngestRow) -> Result<IngestRow> {
        let mut conn = self.0.db.read().await?;
        let found = db::ingests::find_ingest(&mut conn, &row.namespace, &row.id).await?;
        found.ok_or_else(|| Error::not_found("ingest", &row.id))
    }

    /// An ingest in use does not expire under its writer.
    pub(super) fn has_expired(&self, row: &IngestRow, now: Time) -> bool {
        let used = || self.0.ingests.find(&row.id).is_some_and(|live| live.is_used(now));
        row.expires_at <= now.0 && !used()
    }

    /// The lease that an ingest was opened under, while it lives.
    pub(super) async fn unexpired(&self, row: &IngestRow, now: Time) -> Result<Option<String>> {
        let Some(lease) = &row.lease else { return Ok(None) };
        let mut conn = self.0.db.read().await?;
        Ok(db::leases::find_lease(&mut conn, &row.namespace, lease, now.0).await?.map(|row| row.id))
    }

    /// Shows an ingest: what was announced from its row, how far it is from its living part.
    pub(super) async fn view(
        &self,
        row: &IngestRow,
        live: Option<&Live>,
        writer: Option<Writer>,
    ) -> Result<Ingest> {
        let known;
        let live = match live {
            Some(live) => live,
            None => {
                known = self.0.ingests.get(&row.id);
                &known
            }
        };
        let progress = live.progress(self.load(row)).await?.clone();
        let now = self.now();
        let writer =
            writer.or_else(|| live.held_until(now).map(|expires_at| Writer { token: None, expires_at }));
        let durable = if progress.bytes.is_lent() { progress.bytes.offset() } else { 0 };
        Ok(Ingest {
            id: row.id.clone(),
            namespace: row.namespace.clone(),
            reference: row.reference.clone(),
            state: if self.has_expired(row, now) { "expired" } else { "open" },
            shared: progress.bytes.is_lent(),
            offset: progress.bytes.offset(),
            durable_offset: durable.max(row.durable_offset.unsigned_abs()).min(progress.bytes.offset()),
            total: row.total.map(i64::unsigned_abs),
            expected_digest: row.expected_digest.clone(),
            digest: progress.bytes.digest().to_string(),
            media_type: row.media_type.clone(),
            labels: labels::from_json(&row.labels),
            lease_id: row.lease.clone(),
            writer,
            started_at: Time(row.started_at),
            updated_at: progress.updated_at,
            expires_at: Time(row.expires_at),
        })
    }

    /// Where an ingest stands after a start: which of its bytes count, and their running hash.
    pub(super) async fn load(&self, row: &IngestRow) -> Result<Progress> {
        let updated_at = Time(row.updated_at);
        let certain = certain_bytes(row)?;
        let Bytes::Own { hasher: restored, offset: hashed } = certain else {
            return Ok(Progress { bytes: certain, updated_at });
        };
        let algorithm = restored.algorithm();
        let same_boot = row.boot == self.0.boot;
        let (id, durable) = (row.id.clone(), row.durable_offset.unsigned_abs());
        let loaded = self
            .on_disk(move |disk| {
                // Looking makes no file: the ingest may be ending just now.
                if !disk.ingest_has_data(&id) {
                    return Ok((0, Hasher::new(algorithm)));
                }
                let mut file = disk.open_ingest(&id)?;
                if !file.trust(durable)? {
                    // Bytes that were certain are gone: what is left cannot be trusted.
                    file.truncate(0)?;
                    return Ok((0, Hasher::new(algorithm)));
                }
                if !same_boot && (file.length() > durable || file.has_ahead()) {
                    // After a power cut the tail may be anything, and so may what is ahead.
                    file.truncate(durable)?;
                }
                let mut hasher = restored;
                file.hash_from(hashed, &mut hasher)?;
                Ok((file.length(), hasher))
            })
            .await;
        let (offset, hasher) = loaded?;
        Ok(Progress { bytes: Bytes::Own { offset, hasher }, updated_at })
    }

    /// Writes down what is certain: the caller has synced these bytes.
    pub(super) async fn checkpoint(&self, turn: &Turn, mut row: IngestRow) -> Result<()> {
        let Some(progress) = turn.live.loaded().map(|progress| progress.clone()) else { return Ok(()) };
        row.durable_offset = signed(progress.bytes.offset());
        row.shared = i64::from(progress.bytes.is_lent());
        if let Bytes::Own { hasher, .. } = &progress.bytes {
            row.hash_algorithm = hasher.algorithm().as_str().to_owned();
            row.hash_state = Some(hasher.save());
        }
        row.boot = self.0.boot.clone();
        row.updated_at = progress.updated_at.0;
        row.expires_at = self.now().plus(self.0.settings.ingest_expiry).0;
        let id = row.id.clone();
        let stands = self
            .0
            .db
            .write(move |tx| Box::pin(async move { db::ingests::checkpoint(tx, &row).await }))
            .await?;
        if !stands {
            return Err(Error::not_found("ingest", id));
        }
        Ok(())
    }

    /// Makes the running hash one of `algorithm`: the bytes are read again only when it was another.
    pub(super) async fn hash_as(&self, live: &Live, row: &IngestRow, algorithm: Algorithm) -> Result<()> {
        let progress = live.progress(self.load(row)).await?.clone();
        let Bytes::Own { hasher, offset } = progress.bytes else { return Ok(()) };
        if hasher.algorithm() == algorithm {
            return Ok(());
        }
        let mut hasher = Hasher::new(algorithm);
        if offset > 0 {
            let id = row.id.clone();
            let hashing = self.on_disk(move |disk| {
                disk.open_ingest(&id)?.hash_from(0, &mut hasher)?;
                Ok(hasher)
            });
            hasher = hashing.await?;
        }
        if let Some(mut progress) = live.loaded() {
            progress.bytes = Bytes::Own { offset, hasher };
        }
        Ok(())
    }

    /// Gives an ingest its bytes back that a commit has renamed and not recorded; a private copy, if somebody else
    /// recorded the same bytes meanwhile. Nothing to do is not an error.
    ///
    /// # Errors
    /// `Unavailable` when the database cannot say whose the bytes are.
    pub(super) async fn fetch_back(&self, id: &str, digest: &Digest, size: u64) -> Result<()> {
        let _turn = self.0.gate.enter(digest).await;
        let name = id.to_owned();
        if size == 0 || self.on_disk(move |disk| Ok(disk.ingest_has_data(&name))).await? {
            return Ok(());
        }
        let recorded = self.is_recorded_for_certain(digest).await?;
        let (id, digest) = (id.to_owned(), digest.clone());
        self.on_disk(move |disk| {
            if !recorded {
                return disk.give_back(&digest, size, &id).map(drop);
            }
            match disk.open_blob(&digest)? {
                Some(blob) => disk.give_copy(&blob, &id),
                None => Ok(()),
            }
        })
        .await
    }

    /// The synced file of an ingest, ready for its name; and its bytes, if they may be a manifest.
    pub(super) async fn stage(&self, id: &str, size: u64) -> Result<(Staged, Option<Vec<u8>>)> {
        let id = id.to_owned();
        self.on_disk(move |disk| {
            let mut file = disk.open_ingest(&id)?;
            if file.length() != size {
                return Err(Error::internal("the file of an ingest is not as long as its offset"));
            }
            let document = if size <= limits::MANIFEST_BYTES { file.read_document()? } else { None };
            Ok((file.stage()?, document))
        })
        .await
    }

    /// The bytes that an ingest borrows, if they may be a manifest.
    pub(super) async fn read_lent(&self, digest: &Digest, size: u64) -> Result<Option<Vec<u8>>> {
        if size > limits::MANIFEST_BYTES {
            return Ok(None);
        }
        let blob = self.open_lent(digest).await?;
        self.on_disk(move |_| blob.read_document()).await
    }

    /// Where an ingest begins that expects `digest`: with the bytes of another namespace, or with none.
    pub(super) async fn begin_with(
        &self,
        caller: &Caller,
        digest: Option<&Digest>,
        total: Option<u64>,
    ) -> Result<Bytes> {
        let Some(digest) = digest else { return Ok(Bytes::none(Algorithm::Sha256)) };
        Ok(match self.find_lent(caller, digest, total).await? {
            Some(size) => Bytes::Lent { digest: digest.clone(), size },
            None => Bytes::none(digest.algorithm()),
        })
    }

    /// The size of the digest's bytes, if another namespace lends them to this caller.
    pub(super) async fn find_lent(
        &self,
        caller: &Caller,
        digest: &Digest,
        total: Option<u64>,
    ) -> Result<Option<u64>> {
        let mut conn = self.0.db.read().await?;
        let elsewhere = db::content::find_elsewhere(&mut conn, &caller.namespace, digest.as_str()).await?;
        for (namespace, size) in elsewhere {
            let size = size.unsigned_abs();
            let fits = total.is_none_or(|total| total == size);
            if fits && caller.reach.includes(&namespace) && self.lends(&mut conn, &namespace).await? {
                return Ok(Some(size));
            }
        }
        Ok(None)
    }

    /// Whether what `namespace` stores will be the caller's without a byte sent: it is the caller's own, or lends.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn may_borrow(&self, caller: &Caller, namespace: &str) -> Result<bool> {
        if caller.namespace == namespace {
            return Ok(true);
        }
        let mut conn = self.0.db.read().await?;
        Ok(caller.reach.includes(namespace) && self.lends(&mut conn, namespace).await?)
    }

    /// Whether a namespace's content is lent: all are, or those that are labelled so.
    async fn lends(&self, conn: &mut db::Conn, namespace: &str) -> Result<bool> {
        /// The label by which a containerd namespace lends its content under the isolated policy.
        const SHAREABLE: &str = "containerd.io/namespace.shareable";
        match self.0.settings.sharing {
            Sharing::Shared => Ok(true),
            Sharing::Isolated => {
                let row = db::namespaces::find_namespace(conn, namespace).await?;
                let labels = row.map(|row| labels::from_json(&row.labels)).unwrap_or_default();
                Ok(labels.get(SHAREABLE).is_some_and(|value| value == "true"))
            }
        }
    }

    /// The digest whose bytes an ingest borrows, opened for copying.
    pub(super) async fn open_lent(&self, digest: &Digest) -> Result<crate::disk::BlobFile> {
        let name = digest.clone();
        self.on_disk(move |disk| disk.open_blob(&name)).await?.ok_or_else(|| {
            Error::Conflict(crate::error::Conflict::State {
                reason: format!("{digest} is no longer shared: cut the ingest back and send the bytes"),
            })
        })
    }
}

/// What of an ingest is certain by its row alone: the durable offset, if its running hash was written down.
pub(super) fn certain_bytes(row: &IngestRow) -> Result<Bytes> {
    if row.shared != 0 {
        let digest = row.expected_digest.as_deref().map(str::parse).transpose()?;
        let digest = digest.ok_or_else(|| Error::internal("a shared ingest without a digest"))?;
        return Ok(Bytes::Lent { digest, size: row.durable_offset.unsigned_abs() });
    }
    let algorithm = algorithm_of(row)?;
    let restored = row.hash_state.as_deref().and_then(|state| Hasher::restore(algorithm, state));
    Ok(match restored {
        Some(hasher) => Bytes::Own { offset: row.durable_offset.unsigned_abs(), hasher },
        None => Bytes::none(algorithm),
    })
}
