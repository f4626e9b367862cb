//! What one snapshot has that another has not, as the tar of the layer that leads from one to the other.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::archive::{Archive, Ended};
use super::{Store, View};
use crate::disk::{BlobFile, Disk};
use crate::error::{Doing, Error, Result, Unprocessable};
use crate::oci::tar::Entry;
use crate::oci::tree::{Comparison, Difference, Found, Kind, Meta, WHITEOUT};

/// Compared at once.
const PIECE: usize = 256 << 10;

/// Two snapshots between which a layer leads.
#[derive(Debug, Clone)]
pub struct Between {
    /// What the layer will stand on; `None` for nothing.
    pub lower: Option<String>,
    pub upper: String,
    /// In seconds since the Unix epoch: no file of the layer is younger, and what it deletes is as old.
    pub source_date_epoch: Option<i64>,
}

impl Store {
    /// Writes the tar of a layer with which `upper` is made of `lower`: the same bytes each time. What goes wrong is the last
    /// that comes: `ValidationFailed` for a name that no layer can have.
    ///
    /// # Errors
    /// As [`Store::view_snapshot`], for either.
    pub async fn write_difference(
        &self,
        namespace: &str,
        between: &Between,
    ) -> Result<mpsc::Receiver<Result<Bytes>>> {
        let lower = match &between.lower {
            Some(key) => Some(self.view_snapshot(namespace, key).await?),
            None => None,
        };
        let upper = self.view_snapshot(namespace, &between.upper).await?;
        let (disk, latest) = (self.0.disk.clone(), between.source_date_epoch);
        Ok(self.write_tar("compare-snapshots", move |sender| {
            let archive = Archive::new(&upper, &disk, sender).no_later_than(latest.unwrap_or(i64::MAX));
            write(archive, &disk, lower.as_ref(), &upper, latest.unwrap_or(0))
        }))
    }
}

fn write(
    mut archive: Archive<'_>,
    disk: &Disk,
    lower: Option<&View>,
    upper: &View,
    deleted_at: i64,
) -> Result<(), Ended> {
    let (from, to) = (lower.map(View::merged), upper.merged());
    let is_same = |before: &Found<'_>, now: &Found<'_>| match lower {
        Some(lower) => is_same(disk, (lower, before), (upper, now)),
        None => Ok(false),
    };
    let compared = Comparison::new(from.as_ref(), &to, is_same)?;
    let mut deleted = Meta::default();
    deleted.mtime.seconds = deleted_at;
    compared.tell(|path, difference| {
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => path.split_at(at + 1),
            None => (&b""[..], path),
        };
        let is_reserved = name.starts_with(WHITEOUT);
        match difference {
            Difference::Here(found) if found.dir.is_some() => {
                let path = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
                archive.write_header(&path, Entry::Directory, &found.inode.meta)
            }
            _ if is_reserved => {
                let path = String::from_utf8_lossy(path);
                let reason = format!("`{path}` begins as the names do with which layers delete files");
                Err(Error::Unprocessable(Unprocessable::ValidationFailed { reason }).into())
            }
            Difference::Here(found) => archive.write_file(found, path.to_vec()),
            Difference::Gone => {
                let path = [directory, WHITEOUT, name].concat();
                archive.write_header(&path, Entry::File { size: 0 }, &deleted)
            }
        }
    })?;
    archive.finish()
}

/// Whether two files that are alike hold the same bytes.
fn is_same(disk: &Disk, before: (&View, &Found<'_>), now: (&View, &Found<'_>)) -> Result<bool> {
    let layer_of = |(view, found): (&View, &Found<'_>)| view.layers.get(found.layer).cloned();
    let (Some(old), Some(new)) = (layer_of(before), layer_of(now)) else {
        return Err(Error::internal("find the layer of a file"));
    };
    if (&old.id, before.1.id) == (&new.id, now.1.id) {
        return Ok(true);
    }
    let Kind::File(content) = &now.1.inode.kind else { return Ok(true) };
    if content.size == 0 {
        return Ok(true);
    }
    let open = |id: &str, path: Vec<u8>| disk.open_snapshot_file(id, &path);
    let old = open(&old.id, before.1.path_in(&old.tree))?;
    let new = open(&new.id, now.1.path_in(&new.tree))?;
    holds_same(&old, &new)
}

fn holds_same(old: &BlobFile, new: &BlobFile) -> Result<bool> {
    let doing = "compare files of snapshots";
    if old.size() != new.size() {
        return Ok(false);
    }
    let mut at = 0;
    while at < old.size() {
        let mut piece = old.read_at(at, PIECE).doing(doing)?;
        let other = new.read_at(at, piece.len()).doing(doing)?;
        piece.truncate(other.len());
        if piece != other {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}
