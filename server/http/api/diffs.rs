//! `/api/v1/diffs`: snapshots become layers, and layers go onto snapshots.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::data::stored;
use crate::error::{Error, Result};
use crate::http::error::ApiResult;
use crate::http::extract::{Json as JsonBody, given};
use crate::id::SnapshotKey;
use crate::jobs::{DiffFrom, DiffRequest, Jobs, Packing};
use crate::oci::Digest;
use crate::store::{Caller, Labels};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    upper: SnapshotKey,
    #[serde(default, deserialize_with = "given")]
    lower: Option<SnapshotKey>,
    #[serde(default)]
    whole: bool,
    #[serde(default, deserialize_with = "given")]
    media_type: Option<String>,
    #[serde(default)]
    labels: Labels,
    #[serde(default, deserialize_with = "given")]
    source_date_epoch: Option<u32>,
}

/// `POST /api/v1/diffs`: the layer that leads from one snapshot to another.
pub async fn create(
    State(jobs): State<Jobs>,
    caller: Caller,
    JsonBody(create): JsonBody<Create>,
) -> ApiResult<Response> {
    let from = match (create.lower, create.whole) {
        (Some(_), true) => {
            let reason = "a layer of the whole snapshot stands on nothing: leave `lower` out";
            return Err(Error::invalid_field("lower", reason).into());
        }
        (Some(lower), false) => DiffFrom::Snapshot(lower.to_string()),
        (None, true) => DiffFrom::Nothing,
        (None, false) => DiffFrom::Parent,
    };
    let request = DiffRequest {
        upper: create.upper.to_string(),
        from,
        packing: packing_of(create.media_type.as_deref())?,
        labels: create.labels,
        source_date_epoch: create.source_date_epoch.map(i64::from),
    };
    Ok(stored(&Box::pin(jobs.diff_snapshots(&caller, request)).await?))
}

fn packing_of(media_type: Option<&str>) -> Result<Packing> {
    let Some(media_type) = media_type else { return Ok(Packing::Gzip) };
    Packing::of(media_type).ok_or_else(|| {
        let all = [Packing::None, Packing::Gzip, Packing::Zstd].map(Packing::media_type).join(", ");
        Error::invalid_field("media_type", format!("a layer is made as one of {all}"))
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    digest: Digest,
    snapshot: SnapshotKey,
    #[serde(default, deserialize_with = "given")]
    diff_id: Option<Digest>,
}

/// `POST /api/v1/diffs/apply`: a layer onto an active snapshot.
pub async fn apply(
    State(jobs): State<Jobs>,
    caller: Caller,
    JsonBody(apply): JsonBody<Apply>,
) -> ApiResult<Response> {
    let Apply { digest, snapshot, diff_id } = apply;
    let applied = jobs.apply_layer(&caller, &digest, &snapshot, diff_id).await?;
    Ok(Json(applied).into_response())
}
