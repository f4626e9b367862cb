//! `/api/v1/snapshots`: file systems of layers on each other, and how they are mounted.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::lists::Asked;
use super::{changed, location, made, tagged, with_lease};
use crate::error::Error;
use crate::http::error::ApiResult;
use crate::http::extract::{Json as JsonBody, MergePatch, Path, given};
use crate::http::params::{Params, if_match};
use crate::id::SnapshotKey;
use crate::store::lists::SNAPSHOTS;
use crate::store::{
    Caller, CommitSnapshot, LabelPatch, Labels, Mount, NewKind, NewSnapshot, Snapshot, SnapshotPatch, Store,
};

/// `GET /api/v1/snapshots`
pub async fn list(State(store): State<Store>, caller: Caller, asked: Asked) -> ApiResult<Response> {
    let (query, wanted) = asked.params.list(&SNAPSHOTS, Some(&caller.namespace))?;
    let kind = asked.params.one("kind")?;
    if let Some(kind) = kind.filter(|kind| !["active", "view", "committed"].contains(kind)) {
        let reason = format!("`{kind}` is no kind of snapshot: active, view or committed");
        return Err(Error::invalid_field("kind", reason).into());
    }
    let parent = asked.params.parse::<SnapshotKey>("parent")?;
    let wanted = wanted.kind(kind).parent(parent.as_deref());
    let fetch = move |query| {
        let (store, namespace, wanted) = (store.clone(), caller.namespace.clone(), wanted.clone());
        async move { store.list_snapshots(&namespace, &query, wanted).await }
    };
    asked.answer(query, fetch).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    key: SnapshotKey,
    #[serde(default, deserialize_with = "given")]
    parent: Option<SnapshotKey>,
    #[serde(default)]
    kind: PrepareKind,
    #[serde(default)]
    labels: Labels,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PrepareKind {
    #[default]
    Active,
    View,
}

/// A snapshot, and what mounts it.
#[derive(Serialize)]
struct Prepared<'p> {
    #[serde(flatten)]
    snapshot: &'p Snapshot,
    mounts: Vec<Mount>,
}

/// `POST /api/v1/snapshots`: an active snapshot or a view.
pub async fn prepare(
    State(store): State<Store>,
    caller: Caller,
    JsonBody(prepare): JsonBody<Prepare>,
) -> ApiResult<Response> {
    let kind = match prepare.kind {
        PrepareKind::Active => NewKind::Active,
        PrepareKind::View => NewKind::View,
    };
    let new = NewSnapshot { key: prepare.key, parent: prepare.parent, kind, labels: prepare.labels };
    let (snapshot, mounts, held) = store.prepare_snapshot(&caller, new).await?;
    let prepared = Prepared { snapshot: &snapshot, mounts };
    Ok(with_lease(made(StatusCode::CREATED, &place_of(&snapshot), &snapshot.tag(), &prepared), &held))
}

fn place_of(snapshot: &Snapshot) -> String {
    location(&format!("/api/v1/snapshots/{}", snapshot.key), &snapshot.namespace)
}

/// `GET /api/v1/snapshots/{key}`
pub async fn show(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let snapshot = store.find_snapshot(&caller.namespace, &key).await?;
    Ok(tagged(&headers, &snapshot.tag(), &snapshot))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    #[serde(default, deserialize_with = "given")]
    labels: Option<LabelPatch>,
}

/// `PATCH /api/v1/snapshots/{key}`: labels.
pub async fn update(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
    headers: HeaderMap,
    MergePatch(patch): MergePatch<Patch>,
) -> ApiResult<Response> {
    let patch = SnapshotPatch { labels: patch.labels, if_match: if_match(&headers)? };
    let snapshot = store.update_snapshot(&caller.namespace, &key, patch).await?;
    Ok(changed(&snapshot.tag(), &snapshot))
}

/// `DELETE /api/v1/snapshots/{key}`
pub async fn remove(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    store.remove_snapshot(&caller.namespace, &key, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    name: SnapshotKey,
    #[serde(default, deserialize_with = "given")]
    parent: Option<SnapshotKey>,
    #[serde(default)]
    labels: Labels,
}

/// `POST /api/v1/snapshots/{key}/commit`
pub async fn commit(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
    JsonBody(commit): JsonBody<Commit>,
) -> ApiResult<Response> {
    let commit = CommitSnapshot { name: commit.name, labels: commit.labels, parent: commit.parent };
    let (snapshot, held) = store.commit_snapshot(&caller, &key, commit).await?;
    Ok(with_lease(made(StatusCode::CREATED, &place_of(&snapshot), &snapshot.tag(), &snapshot), &held))
}

#[derive(Serialize)]
struct Mounts {
    items: Vec<Mount>,
}

/// `GET /api/v1/snapshots/{key}/mounts`: as data, or as lines for a shell.
pub async fn mounts(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
    params: Params,
) -> ApiResult<Response> {
    let shell = match params.one("format")? {
        None | Some("json") => false,
        Some("sh") => true,
        Some(other) => {
            let reason = format!("`{other}` is no form of mounts: json or sh");
            return Err(Error::invalid_field("format", reason).into());
        }
    };
    let items = store.mounts_of(&caller.namespace, &key).await?;
    if !shell {
        return Ok(Json(Mounts { items }).into_response());
    }
    let lines: String = items.iter().map(|mount| mount.to_shell() + "\n").collect();
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], lines).into_response())
}

#[derive(Serialize)]
struct Usage {
    size: u64,
    inodes: u64,
}

/// `GET /api/v1/snapshots/{key}/usage`: what it takes itself, its parents apart.
pub async fn usage(
    State(store): State<Store>,
    caller: Caller,
    Path(key): Path<SnapshotKey>,
) -> ApiResult<Response> {
    let usage = store.measure_snapshot(&caller.namespace, &key).await?;
    Ok(Json(Usage { size: usage.bytes, inodes: usage.inodes }).into_response())
}
