//! `/api/v1/content`: a namespace's records of blobs.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::lists::Asked;
use super::{changed, tagged};
use crate::http::error::ApiResult;
use crate::http::extract::{MergePatch, Path, given};
use crate::http::params::{Params, if_match};
use crate::limits;
use crate::oci::Digest;
use crate::store::lists::CONTENT;
use crate::store::{Caller, Content, ContentPatch, LabelPatch, Store, WhenHeld};

/// `GET /api/v1/content`
pub async fn list(State(store): State<Store>, caller: Caller, asked: Asked) -> ApiResult<Response> {
    let (query, wanted) = asked.params.list(&CONTENT, Some(&caller.namespace))?;
    let wanted = wanted.media_type(asked.params.text("media_type", limits::MEDIA_TYPE_BYTES)?);
    let fetch = move |query| {
        let (store, namespace, wanted) = (store.clone(), caller.namespace.clone(), wanted.clone());
        async move { store.list_content(&namespace, &query, wanted).await }
    };
    asked.answer(query, fetch).await
}

/// `GET /api/v1/content/{digest}`
pub async fn show(
    State(store): State<Store>,
    caller: Caller,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let content = store.find_content(&caller.namespace, &digest).await?;
    Ok(tagged(&headers, &content.tag(), &content))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    #[serde(default, deserialize_with = "given")]
    labels: Option<LabelPatch>,
    /// Absent: as it was; null: no hint.
    #[serde(default, deserialize_with = "given")]
    media_type: Option<Option<String>>,
}

/// `PATCH /api/v1/content/{digest}`
pub async fn update(
    State(store): State<Store>,
    caller: Caller,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
    MergePatch(patch): MergePatch<Patch>,
) -> ApiResult<Response> {
    let patch =
        ContentPatch { labels: patch.labels, media_type: patch.media_type, if_match: if_match(&headers)? };
    let content = store.update_content(&caller.namespace, &digest, patch).await?;
    Ok(changed(&content.tag(), &content))
}

/// `DELETE /api/v1/content/{digest}`
pub async fn delete(
    State(store): State<Store>,
    caller: Caller,
    Path(digest): Path<Digest>,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    let held = if params.flag("force")? { WhenHeld::DeleteAnyway } else { WhenHeld::Refuse };
    store.delete_content(&caller.namespace, &digest, if_match(&headers)?, held).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/content/{digest}/children`
pub async fn children(
    State(store): State<Store>,
    caller: Caller,
    Path(digest): Path<Digest>,
) -> ApiResult<Response> {
    Ok(Json(store.list_children(&caller.namespace, &digest).await?).into_response())
}

pub(super) fn location(content: &Content) -> String {
    super::location(&format!("/api/v1/content/{}", content.digest), &content.namespace)
}
