//! `/api/v1/pulls`: pulls as jobs, and their events as they happen.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::lists::{Asked, wanted_state};
use super::registries::Auth;
use super::streams;
use super::{changed, made, moving, tagged};
use crate::http::AppState;
use crate::http::access::Identity;
use crate::http::error::ApiResult;
use crate::http::extract::{Json as JsonBody, Path};
use crate::http::params::{Params, idempotency_key};
use crate::id::PullId;
use crate::jobs::{
    Cancelled, Created, CredentialUse, ForeignLayers, Jobs, LayerBlobs, Pull, PullRequest, Selection,
};
use crate::limits;
use crate::store::lists::PULLS;
use crate::store::{Caller, Labels};

/// `GET /api/v1/pulls`
pub async fn list(State(jobs): State<Jobs>, caller: Caller, asked: Asked) -> ApiResult<Response> {
    let (query, wanted) = asked.params.list(&PULLS, Some(&caller.namespace))?;
    let wanted = wanted.state(wanted_state(&asked.params)?);
    let fetch = move |query| {
        let (jobs, namespace, wanted) = (jobs.clone(), caller.namespace.clone(), wanted.clone());
        async move { jobs.list(&namespace, &query, wanted).await }
    };
    asked.answer(query, fetch).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    #[serde(rename = "ref")]
    reference: String,
    #[serde(default)]
    platforms: Vec<String>,
    #[serde(default)]
    insecure: bool,
    image_name: Option<String>,
    #[serde(default)]
    labels: Labels,
    keep: Option<String>,
    #[serde(default)]
    auth: Option<Auth>,
    #[serde(default)]
    credential: CredentialUse,
    #[serde(default)]
    trace: bool,
    #[serde(default)]
    all_platforms: bool,
    #[serde(default)]
    metadata_only: bool,
    #[serde(default)]
    all_metadata: bool,
    #[serde(default)]
    referrers: bool,
    #[serde(default)]
    referrer_types: Vec<String>,
    #[serde(default)]
    foreign_layers: ForeignLayers,
    #[serde(default)]
    convert_schema1: bool,
    #[serde(default)]
    unpack: bool,
    #[serde(default)]
    layer_blobs: LayerBlobs,
    max_concurrency: Option<u64>,
}

/// `POST /api/v1/pulls`: a new job, an equal one that is under way, or only the plan of one.
pub async fn create(
    State(jobs): State<Jobs>,
    caller: Caller,
    params: Params,
    headers: HeaderMap,
    JsonBody(create): JsonBody<Create>,
) -> ApiResult<Response> {
    let request = PullRequest {
        reference: create.reference,
        platforms: create.platforms,
        insecure: create.insecure,
        image_name: create.image_name,
        labels: create.labels,
        keep: create.keep,
        auth: create.auth.map(|auth| auth.credential("auth")).transpose()?,
        credential: create.credential,
        trace: create.trace,
        selection: Selection {
            all_platforms: create.all_platforms,
            metadata_only: create.metadata_only,
            all_metadata: create.all_metadata,
            referrers: create.referrers,
            referrer_types: create.referrer_types,
            foreign_layers: create.foreign_layers,
            convert_schema1: create.convert_schema1,
            unpack: create.unpack,
            layer_blobs: create.layer_blobs,
        },
        max_concurrency: create.max_concurrency,
    };
    if params.flag("dry_run")? {
        return Ok(Json(jobs.plan_pull(&caller, &request).await?).into_response());
    }
    let (status, pull) = match jobs.create_pull(&caller, &request, idempotency_key(&headers)?).await? {
        Created::New(pull) => (StatusCode::ACCEPTED, pull),
        Created::Existing(pull) => (StatusCode::OK, pull),
    };
    Ok(located(status, &pull))
}

/// A job, and where it is.
fn located(status: StatusCode, pull: &Pull) -> Response {
    let location = super::location(&format!("/api/v1/pulls/{}", pull.id), &pull.namespace);
    made(status, &location, &pull.tag(), pull)
}

/// `GET /api/v1/pulls/{id}`, at once or when it is finished.
pub async fn show(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(id): Path<PullId>,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let pull = match params.duration("wait", limits::REQUEST_WAIT)? {
        Some(longest) => jobs.wait(&caller.namespace, &id, longest).await?,
        None => jobs.find(&caller.namespace, &id).await?,
    };
    Ok(moving(tagged(&headers, &pull.tag(), &pull)))
}

/// `DELETE /api/v1/pulls/{id}`: cancel, or remove from history.
pub async fn cancel(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(id): Path<PullId>,
    params: Params,
) -> ApiResult<Response> {
    if params.flag("purge")? {
        jobs.purge(&caller.namespace, &id).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(match jobs.cancel(&caller.namespace, &id).await? {
        Cancelled::Stopping(pull) => located(StatusCode::ACCEPTED, &pull),
        Cancelled::Already(pull) => changed(&pull.tag(), &pull),
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    #[serde(default)]
    auth: Option<Auth>,
}

/// `POST /api/v1/pulls/{id}/retry`
pub async fn retry(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(id): Path<PullId>,
    retry: Option<JsonBody<Retry>>,
) -> ApiResult<Response> {
    let retry = retry.map(|JsonBody(retry)| retry).unwrap_or_default();
    let auth = retry.auth.map(|auth| auth.credential("auth")).transpose()?;
    Ok(located(StatusCode::ACCEPTED, &jobs.retry(&caller.namespace, &id, auth).await?))
}

/// `GET /api/v1/pulls/{id}/trace`
pub async fn trace(State(jobs): State<Jobs>, caller: Caller, Path(id): Path<PullId>) -> ApiResult<Response> {
    Ok(moving(Json(jobs.trace(&caller.namespace, &id).await?).into_response()))
}

/// `GET /api/v1/pulls/{id}/events`
pub async fn events(
    State(state): State<AppState>,
    identity: Identity,
    caller: Caller,
    Path(id): Path<PullId>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let follow = async |jobs: Jobs, last_seen: Option<String>| {
        jobs.follow(&caller.namespace, &id, last_seen.as_deref()).await
    };
    streams::tell_job(state, identity, &headers, follow).await
}
