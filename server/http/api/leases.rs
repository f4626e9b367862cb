//! `/api/v1/leases`: what keeps things alive until it expires or is released.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::lists::Asked;
use super::{changed, location, made};
use crate::clock::{Time, parse_duration};
use crate::error::{Error, Result};
use crate::http::error::ApiResult;
use crate::http::extract::{Json as JsonBody, MergePatch, Path, given, parsed};
use crate::http::params::{Idempotency, if_match};
use crate::id::LeaseId;
use crate::store::lists::{LEASE_RESOURCES, LEASES};
use crate::store::{Caller, Expiry, LabelPatch, Labels, LeasePatch, NewLease, ResourceKind, Store};

/// How long a lease lives whose maker does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);

/// `GET /api/v1/leases`
pub async fn list(State(store): State<Store>, caller: Caller, asked: Asked) -> ApiResult<Response> {
    let (query, wanted) = asked.params.list(&LEASES, Some(&caller.namespace))?;
    let kind = asked.params.one("kind")?;
    if let Some(kind) = kind.filter(|kind| !["user", "grace", "pull"].contains(kind)) {
        let reason = format!("`{kind}` is no kind of lease: user, grace or pull");
        return Err(Error::invalid_field("kind", reason).into());
    }
    let wanted = wanted.kind(kind);
    let fetch = move |query| {
        let (store, namespace, wanted) = (store.clone(), caller.namespace.clone(), wanted.clone());
        async move { store.list_leases(&namespace, &query, wanted).await }
    };
    asked.answer(query, fetch).await
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    #[serde(default, deserialize_with = "given")]
    id: Option<String>,
    #[serde(default, deserialize_with = "given")]
    ttl: Option<String>,
    #[serde(default, deserialize_with = "given")]
    expires_at: Option<Time>,
    #[serde(default)]
    never: bool,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    flat: bool,
}

/// `POST /api/v1/leases`
pub async fn create(
    State(store): State<Store>,
    caller: Caller,
    idempotency: Idempotency,
    create: Option<JsonBody<Create>>,
) -> ApiResult<Response> {
    let create = create.map(|JsonBody(create)| create).unwrap_or_default();
    let keyed = idempotency.keyed(&caller.namespace, &create);
    let expiry = parse_expiry(create.ttl.as_deref(), create.expires_at, create.never)?;
    let expiry = expiry.unwrap_or(Expiry::After(DEFAULT_TTL));
    let new = NewLease { id: create.id, expiry, labels: create.labels, flat: create.flat };
    let (maker, finder, namespace) = (store.clone(), store.clone(), caller.namespace.clone());
    let make = async move { maker.create_lease(&caller.namespace, new, "user").await };
    let find = async move |id: String| finder.find_lease(&namespace, &id).await;
    let lease = store.make_once(keyed, make, |lease| &lease.id, find).await?;
    let location = location(&format!("/api/v1/leases/{}", lease.id), &lease.namespace);
    Ok(made(StatusCode::CREATED, &location, &lease.tag(), &lease))
}

/// `GET /api/v1/leases/{id}`: whole each time. The tag is for changing it; the time left is not part of it.
pub async fn show(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<LeaseId>,
) -> ApiResult<Response> {
    let lease = store.find_lease(&caller.namespace, &id).await?;
    Ok(changed(&lease.tag(), &lease))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    #[serde(default, deserialize_with = "given")]
    ttl: Option<String>,
    #[serde(default, deserialize_with = "given")]
    expires_at: Option<Time>,
    #[serde(default)]
    never: bool,
    #[serde(default, deserialize_with = "given")]
    labels: Option<LabelPatch>,
}

/// `PATCH /api/v1/leases/{id}`: extend or shorten, counted from now; labels.
pub async fn update(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<LeaseId>,
    headers: HeaderMap,
    MergePatch(patch): MergePatch<Patch>,
) -> ApiResult<Response> {
    let expiry = parse_expiry(patch.ttl.as_deref(), patch.expires_at, patch.never)?;
    let patch = LeasePatch { expiry, labels: patch.labels, if_match: if_match(&headers)? };
    let lease = store.update_lease(&caller.namespace, &id, patch).await?;
    Ok(changed(&lease.tag(), &lease))
}

/// `DELETE /api/v1/leases/{id}`
pub async fn delete(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<LeaseId>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    store.delete_lease(&caller.namespace, &id, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/leases/{id}/resources`
pub async fn resources(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<LeaseId>,
    asked: Asked,
) -> ApiResult<Response> {
    let (query, _) = asked.params.list(&LEASE_RESOURCES, Some(&caller.namespace))?;
    let fetch = move |query| {
        let (store, namespace, id) = (store.clone(), caller.namespace.clone(), id.clone());
        async move { store.list_lease_resources(&namespace, &id, &query).await }
    };
    asked.answer(query, fetch).await
}

/// What a lease names, as a path says it.
#[derive(Debug, Deserialize)]
pub struct Named {
    #[serde(deserialize_with = "parsed")]
    id: LeaseId,
    #[serde(rename = "type", deserialize_with = "parsed")]
    kind: ResourceKind,
    rid: String,
}

/// `PUT /api/v1/leases/{id}/resources/{type}/{rid}`
pub async fn add_resource(
    State(store): State<Store>,
    caller: Caller,
    Path(named): Path<Named>,
) -> ApiResult<StatusCode> {
    store.add_lease_resource(&caller.namespace, &named.id, named.kind, &named.rid).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/v1/leases/{id}/resources/{type}/{rid}`
pub async fn remove_resource(
    State(store): State<Store>,
    caller: Caller,
    Path(named): Path<Named>,
) -> ApiResult<StatusCode> {
    store.remove_lease_resource(&caller.namespace, &named.id, named.kind, &named.rid).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The end that a body names, by one of its three ways; none when it names none.
pub(super) fn parse_expiry(ttl: Option<&str>, at: Option<Time>, never: bool) -> Result<Option<Expiry>> {
    match (ttl, at, never) {
        (None, None, false) => Ok(None),
        (Some(ttl), None, false) => {
            let length = parse_duration(ttl).map_err(|error| error.in_field("ttl"))?;
            Ok(Some(Expiry::After(length)))
        }
        (None, Some(time), false) => Ok(Some(Expiry::At(time))),
        (None, None, true) => Ok(Some(Expiry::Never)),
        (Some(_), Some(_), _) | (Some(_), _, true) | (_, Some(_), true) => {
            Err(Error::invalid_field("ttl", "give one of `ttl`, `expires_at` and `never`, not several"))
        }
    }
}
