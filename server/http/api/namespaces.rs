//! `/api/v1/namespaces`: separate sets of records over one set of blobs. A credential sees those that it reaches.

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::lists::Asked;
use super::{changed, made, tagged};
use crate::http::access::Identity;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json as JsonBody, MergePatch, Path, given};
use crate::http::params::{Idempotency, if_match};
use crate::store::lists::NAMESPACES;
use crate::store::{LabelPatch, Labels, NamespacePatch, Store};

/// The namespace that the path names, which the caller reaches.
pub struct Reached(String);

impl<S: Send + Sync> FromRequestParts<S> for Reached {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Reached, ApiError> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await?;
        Identity::of(parts).must_reach(&name, "name")?;
        Ok(Reached(name))
    }
}

/// `GET /api/v1/namespaces`
pub async fn list(State(store): State<Store>, identity: Identity, asked: Asked) -> ApiResult<Response> {
    let (query, wanted) = asked.params.list(&NAMESPACES, None)?;
    let reach = identity.reach();
    let fetch = move |query| {
        let (store, reach, wanted) = (store.clone(), reach.clone(), wanted.clone());
        async move { store.list_namespaces(&reach, &query, wanted).await }
    };
    asked.answer(query, fetch).await
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    name: String,
    #[serde(default)]
    labels: Labels,
}

/// `POST /api/v1/namespaces`
pub async fn create(
    State(store): State<Store>,
    identity: Identity,
    idempotency: Idempotency,
    JsonBody(create): JsonBody<Create>,
) -> ApiResult<Response> {
    identity.must_reach(&create.name, "name")?;
    let keyed = idempotency.keyed("", &create);
    let (maker, finder) = (store.clone(), store.clone());
    let make = async move { maker.create_namespace(&create.name, create.labels).await };
    let find = async move |name: String| finder.find_namespace(&name).await;
    let namespace = store.make_once(keyed, make, |namespace| &namespace.name, find).await?;
    let location = format!("/api/v1/namespaces/{}", namespace.name);
    Ok(made(StatusCode::CREATED, &location, &namespace.tag(), &namespace))
}

/// `GET /api/v1/namespaces/{name}`
pub async fn show(
    State(store): State<Store>,
    Reached(name): Reached,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let namespace = store.find_namespace(&name).await?;
    Ok(tagged(&headers, &namespace.tag(), &namespace))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    #[serde(default, deserialize_with = "given")]
    labels: Option<LabelPatch>,
}

/// `PATCH /api/v1/namespaces/{name}`
pub async fn update(
    State(store): State<Store>,
    Reached(name): Reached,
    headers: HeaderMap,
    MergePatch(patch): MergePatch<Patch>,
) -> ApiResult<Response> {
    let patch = NamespacePatch { labels: patch.labels, if_match: if_match(&headers)? };
    let namespace = store.update_namespace(&name, patch).await?;
    Ok(changed(&namespace.tag(), &namespace))
}

/// `DELETE /api/v1/namespaces/{name}`
pub async fn delete(
    State(store): State<Store>,
    Reached(name): Reached,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    store.delete_namespace(&name, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
