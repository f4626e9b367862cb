//! The start after any end: files and rows are made to agree again, and what was done is reported.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Store;
use crate::db;
use crate::disk::Disk;
use crate::error::{Error, Result, with_causes};
use crate::oci::{Algorithm, Digest, Hasher};

const PAGE: i64 = 1000;
/// An ingest may have 256 KiB of labels.
const INGEST_PAGE: i64 = 100;

/// What a start repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Files under `ingests/` that no ingest owns, for the end came before their rename; or can use.
    pub stray_files: u64,
    /// Blobs without a row: the end came between the rename and the record.
    pub adopted_blobs: u64,
    /// Rows without a file: never served, healed by the next ingest of their digest.
    pub missing_blobs: u64,
    /// Deletions that were not finished.
    pub finished_deletions: u64,
    /// Ingests whose file is gone: they start again at 0.
    pub restarted_ingests: u64,
    /// Ingests whose commit was cut off after the rename: their bytes were given back to them.
    pub undone_commits: u64,
    /// Files under `blobs/` whose name is no digest, or another than that of the bytes that came back under it.
    pub quarantined_files: u64,
    /// Directories of snapshots without a row: an unpack or a removal was cut off.
    pub stray_snapshots: u64,
    /// Snapshots whose directory is gone, and those that stood on them.
    pub dropped_snapshots: u64,
}

impl Repaired {
    pub fn is_nothing(&self) -> bool {
        *self == Repaired::default()
    }
}

impl Store {
    /// Makes files and rows agree. Needs no human; loses nothing that was acknowledged.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`: then the server must not start.
    pub async fn repair(&self) -> Result<Repaired> {
        let mut done = Repaired::default();
        self.repair_ingests(&mut done).await?;
        self.repair_blobs(&mut done).await?;
        (done.stray_snapshots, done.dropped_snapshots) = self.repair_snapshots().await?;
        let default = super::namespaces::DEFAULT_NAMESPACE;
        let now = self.now();
        self.0
            .db
            .write(move |tx| Box::pin(async move { super::namespaces::touch(tx, default, now).await }))
            .await?;
        if let Err(error) = self.write_index().await {
            // A disk that is full is a reason to start, not to stay away: deleting makes room.
            tracing::warn!("Could not write index.json: {}", with_causes(&error));
            self.0.index.content_changed();
        }
        Ok(done)
    }

    /// A database belongs to one data directory: two over one database would each delete the other's files' rows.
    ///
    /// # Errors
    /// `Internal` when it belongs to another one; `Unavailable`.
    pub async fn claim_database(&self) -> Result<()> {
        let instance = self.0.disk.instance().to_owned();
        let mine = instance.clone();
        let owner = self
            .0
            .db
            .write(move |tx| Box::pin(async move { db::meta::set_once(tx, "instance", &mine).await }))
            .await?;
        if owner == instance {
            return Ok(());
        }
        Err(Error::internal(
            "this database belongs to another data directory: give each its own database, or move both together",
        ))
    }

    async fn repair_ingests(&self, done: &mut Repaired) -> Result<()> {
        let mut on_disk: BTreeSet<String> = self.on_disk(Disk::walk_ingests).await?.into_iter().collect();
        let mut after = String::new();
        loop {
            let rows = {
                let mut conn = self.0.db.read().await?;
                db::ingests::list_all_after(&mut conn, &after, INGEST_PAGE).await?
            };
            let Some(last) = rows.last() else { break };
            after.clone_from(&last.id);
            for row in rows {
                let has_file = on_disk.remove(&row.id);
                if has_file {
                    let id = row.id.clone();
                    done.stray_files += self.on_disk(move |disk| disk.clear_ingest(&id)).await?;
                }
                if row.shared == 0 && row.durable_offset > 0 {
                    self.repair_ingest(&row, has_file, done).await?;
                }
            }
        }
        for stray in on_disk {
            done.stray_files += 1;
            self.on_disk(move |disk| disk.remove_ingest(&stray)).await?;
        }
        Ok(())
    }

    /// An ingest whose bytes were certain still has them; or a commit has just renamed them away.
    async fn repair_ingest(
        &self,
        row: &db::ingests::IngestRow,
        has_file: bool,
        done: &mut Repaired,
    ) -> Result<()> {
        let digest = row.hash_state.as_deref().and_then(|state| {
            let algorithm: Algorithm = row.hash_algorithm.parse().ok()?;
            Hasher::restore(algorithm, state).map(|hasher| hasher.digest())
        });
        let (id, size) = (row.id.clone(), row.durable_offset.unsigned_abs());
        let recorded = match &digest {
            Some(digest) => {
                let mut conn = self.0.db.read().await?;
                db::content::find_blob(&mut conn, digest.as_str()).await?.is_some()
            }
            None => true,
        };
        let given_back = self
            .on_disk(move |disk| {
                if has_file && disk.ingest_has_data(&id) {
                    return Ok(None);
                }
                match digest.filter(|_| !recorded) {
                    Some(digest) => disk.give_back(&digest, size, &id).map(Some),
                    None => Ok(Some(false)),
                }
            })
            .await?;
        match given_back {
            None => {}
            Some(true) => done.undone_commits += 1,
            Some(false) => done.restarted_ingests += 1,
        }
        Ok(())
    }

    async fn repair_blobs(&self, done: &mut Repaired) -> Result<()> {
        for algorithm in Algorithm::ALL {
            let (mut files, strays) = self.on_disk(move |disk| disk.walk_blobs(algorithm)).await?;
            for stray in strays {
                done.quarantined_files += 1;
                self.on_disk(move |disk| disk.quarantine(&stray)).await?;
            }
            // Both sides are in order, so that one walk beside the other finds every difference.
            files.reverse();
            let mut after = format!("{}:", algorithm.as_str());
            loop {
                let rows = {
                    let mut conn = self.0.db.read().await?;
                    db::content::list_blobs_after(&mut conn, &after, PAGE).await?
                };
                let rows: Vec<_> =
                    rows.into_iter().filter(|(digest, ..)| digest.starts_with(&after[..7])).collect();
                let Some((last, ..)) = rows.last() else { break };
                after.clone_from(last);
                let mut deleting = Vec::new();
                for (digest, _size, state) in rows {
                    while files.last().is_some_and(|file| file.as_str() < digest.as_str()) {
                        self.adopt(files.pop(), done).await?;
                    }
                    let present = files.pop_if(|file| file.as_str() == digest).is_some();
                    match state.as_str() {
                        "deleting" => deleting.push(digest.parse()?),
                        state => self.repair_row(digest.parse()?, state, present, done).await?,
                    }
                }
                done.finished_deletions += deleting.len() as u64;
                self.finish_deletions(algorithm, deleting).await?;
            }
            while let Some(file) = files.pop() {
                self.adopt(Some(file), done).await?;
            }
        }
        Ok(())
    }

    /// A file without a row is kept as garbage that nobody can read: if a database was lost, the bytes were not.
    async fn adopt(&self, file: Option<Digest>, done: &mut Repaired) -> Result<()> {
        let Some(digest) = file else { return Ok(()) };
        done.adopted_blobs += 1;
        let name = digest.clone();
        let size = self.on_disk(move |disk| disk.open_blob(&name)).await?.map_or(0, |file| file.size());
        let (now, size) = (self.now(), super::ingests::signed(size));
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move { db::content::store_blob(tx, digest.as_str(), size, now.0).await })
            })
            .await
    }

    /// The end of deletions that were marked: all files, one sync, all rows.
    async fn finish_deletions(&self, algorithm: Algorithm, digests: Vec<Digest>) -> Result<()> {
        if digests.is_empty() {
            return Ok(());
        }
        let names = digests.clone();
        self.on_disk(move |disk| names.iter().try_for_each(|name| disk.remove_blob(name))).await?;
        self.0.flush.sync_names(algorithm).await?;
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    for digest in &digests {
                        db::content::drop_blob(tx, digest.as_str()).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    async fn repair_row(
        &self,
        digest: Digest,
        state: &str,
        present: bool,
        done: &mut Repaired,
    ) -> Result<()> {
        match (state, present) {
            ("stored", false) => {
                done.missing_blobs += 1;
                tracing::error!(blob.digest = %digest, "The file of a stored blob is missing");
                self.set_state(digest, "missing").await
            }
            ("missing", true) => self.judge_returned(digest, done).await,
            _ => Ok(()),
        }
    }

    /// A file that somebody has put back is as good as its bytes.
    async fn judge_returned(&self, digest: Digest, done: &mut Repaired) -> Result<()> {
        let name = digest.clone();
        let is_whole = self
            .on_disk(move |disk| {
                let Some(file) = disk.open_blob(&name)? else { return Ok(false) };
                let is_whole = file.digest(name.algorithm())? == name;
                if !is_whole {
                    disk.quarantine_blob(&name)?;
                }
                Ok(is_whole)
            })
            .await?;
        match is_whole {
            true => self.set_state(digest, "stored").await,
            false => {
                done.quarantined_files += 1;
                Ok(())
            }
        }
    }

    async fn set_state(&self, digest: Digest, state: &'static str) -> Result<()> {
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move { db::content::set_blob_state(tx, digest.as_str(), state).await })
            })
            .await
    }
}
