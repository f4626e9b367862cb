//! `/api/v1/unpacks`: unpacks of stored images as jobs, and their events as they happen.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::lists::{Asked, wanted_state};
use super::{changed, made, moving, streams, tagged};
use crate::error::Error;
use crate::http::AppState;
use crate::http::access::Identity;
use crate::http::error::ApiResult;
use crate::http::extract::{Json as JsonBody, Path};
use crate::http::params::{Params, idempotency_key};
use crate::id::UnpackId;
use crate::jobs::{Cancelled, Created, Jobs, Unpack, UnpackRequest, UnpackSource};
use crate::limits;
use crate::oci::Digest;
use crate::store::lists::UNPACKS;
use crate::store::{Caller, Labels};

/// `GET /api/v1/unpacks`
pub async fn list(State(jobs): State<Jobs>, caller: Caller, asked: Asked) -> ApiResult<Response> {
    let (query, wanted) = asked.params.list(&UNPACKS, Some(&caller.namespace))?;
    let wanted = wanted.state(wanted_state(&asked.params)?);
    let fetch = move |query| {
        let (jobs, namespace, wanted) = (jobs.clone(), caller.namespace.clone(), wanted.clone());
        async move { jobs.list_unpacks(&namespace, &query, wanted).await }
    };
    asked.answer(query, fetch).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    image: Option<String>,
    digest: Option<String>,
    platform: Option<String>,
    keep: Option<String>,
    #[serde(default)]
    labels: Labels,
}

/// `POST /api/v1/unpacks`: a new job, or an equal one that is under way.
pub async fn create(
    State(jobs): State<Jobs>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(create): JsonBody<Create>,
) -> ApiResult<Response> {
    let source = match (create.image, create.digest) {
        (Some(image), None) => UnpackSource::Image(image),
        (None, Some(digest)) => {
            let digest: Digest = digest.parse().map_err(|error: Error| error.in_field("digest"))?;
            UnpackSource::Digest(digest)
        }
        (None, None) | (Some(_), Some(_)) => {
            return Err(
                Error::invalid_field("image", "either `image` or `digest` says what to unpack").into()
            );
        }
    };
    let Create { platform, keep, labels, .. } = create;
    let request = UnpackRequest { source, platform, keep, labels };
    let (status, unpack) = match jobs.create_unpack(&caller, request, idempotency_key(&headers)?).await? {
        Created::New(unpack) => (StatusCode::ACCEPTED, unpack),
        Created::Existing(unpack) => (StatusCode::OK, unpack),
    };
    Ok(located(status, &unpack))
}

/// A job, and where it is.
fn located(status: StatusCode, unpack: &Unpack) -> Response {
    let location = super::location(&format!("/api/v1/unpacks/{}", unpack.id), &unpack.namespace);
    made(status, &location, &unpack.tag(), unpack)
}

/// `GET /api/v1/unpacks/{id}`, at once or when it is finished.
pub async fn show(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(id): Path<UnpackId>,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let unpack = match params.duration("wait", limits::REQUEST_WAIT)? {
        Some(longest) => jobs.wait_unpack(&caller.namespace, &id, longest).await?,
        None => jobs.find_unpack(&caller.namespace, &id).await?,
    };
    Ok(moving(tagged(&headers, &unpack.tag(), &unpack)))
}

/// `DELETE /api/v1/unpacks/{id}`: cancel, or remove from history.
pub async fn cancel(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(id): Path<UnpackId>,
    params: Params,
) -> ApiResult<Response> {
    if params.flag("purge")? {
        jobs.purge_unpack(&caller.namespace, &id).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(match jobs.cancel_unpack(&caller.namespace, &id).await? {
        Cancelled::Stopping(unpack) => located(StatusCode::ACCEPTED, &unpack),
        Cancelled::Already(unpack) => changed(&unpack.tag(), &unpack),
    })
}

/// `GET /api/v1/unpacks/{id}/events`
pub async fn events(
    State(state): State<AppState>,
    identity: Identity,
    caller: Caller,
    Path(id): Path<UnpackId>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let follow = async |jobs: Jobs, last_seen: Option<String>| {
        jobs.follow_unpack(&caller.namespace, &id, last_seen.as_deref()).await
    };
    streams::tell_job(state, identity, &headers, follow).await
}
