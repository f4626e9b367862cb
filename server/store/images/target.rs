//! What an image's name stands for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::db;
use crate::db::images::ImageRow;
use crate::error::{Error, Result, Unprocessable};
use crate::oci::Digest;
use crate::store::labels::{self, LabelPatch};

/// What an image's name stands for: a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub annotations: BTreeMap<String, String>,
}

/// A target as a caller names it: what is left out is taken from the stored content.
#[derive(Debug, Clone)]
pub struct NewTarget {
    pub digest: Digest,
    pub media_type: Option<String>,
    pub size: Option<u64>,
    pub annotations: BTreeMap<String, String>,
}

/// A change of a target: what it leaves out stays, but for what other bytes are no longer.
#[derive(Debug, Clone)]
pub struct TargetPatch {
    pub digest: Option<Digest>,
    pub media_type: Option<String>,
    pub size: Option<u64>,
    pub annotations: Option<LabelPatch>,
}

/// What the caller left out of a target, from the record of its content.
pub(super) async fn complete_target(
    conn: &mut db::Conn,
    namespace: &str,
    target: NewTarget,
) -> Result<Target> {
    let stored = db::content::find_record(conn, namespace, target.digest.as_str()).await?;
    let refuse = |reason: String| Error::Unprocessable(Unprocessable::ValidationFailed { reason });
    let known_size = stored.as_ref().map(|row| row.size.unsigned_abs());
    if let (Some(known), Some(given)) = (known_size, target.size)
        && known != given
    {
        return Err(refuse(format!("{} has {known} bytes, not {given}", target.digest)));
    }
    let unknown =
        |what| refuse(format!("{} is not stored here, so the target needs its {what}", target.digest));
    let media_type = target
        .media_type
        .or_else(|| stored.as_ref().and_then(|row| row.media_type.clone()))
        .ok_or_else(|| unknown("media_type"))?;
    labels::check_media_type(&media_type)?;
    let size = target.size.or(known_size).ok_or_else(|| unknown("size"))?;
    if size == 0 || i64::try_from(size).is_err() {
        return Err(Error::invalid_field("target.size", "from 1 to 2^63 - 1 bytes"));
    }
    let annotations = labels::new_labels(target.annotations).map_err(|e| e.in_field("annotations"))?;
    Ok(Target { media_type, digest: target.digest.to_string(), size, annotations })
}

/// The target that a change makes of an image's. Its annotations are merged (RFC 7396); type and size are said of bytes,
/// and of others they are asked for anew.
pub(super) fn change_target(row: &ImageRow, change: TargetPatch) -> Result<NewTarget> {
    let digest = match change.digest {
        Some(digest) => digest,
        None => row.digest.parse()?,
    };
    let same = digest.as_str() == row.digest;
    let media_type = change.media_type.or_else(|| same.then(|| row.media_type.clone()));
    let size = change.size.or_else(|| same.then(|| row.size.unsigned_abs()));
    let mut annotations = labels::from_json(&row.annotations);
    if let Some(change) = change.annotations {
        labels::apply_patch(&mut annotations, change).map_err(|error| error.in_field("annotations"))?;
    }
    Ok(NewTarget { digest, media_type, size, annotations })
}
