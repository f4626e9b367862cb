//! `/api/v1/images`: stored names for descriptors, and what is behind them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::lists::Asked;
use super::{changed, location, made, tagged, with_lease};
use crate::error::{Error, Result};
use crate::http::blob::respond_archive;
use crate::http::error::ApiResult;
use crate::http::extract::{Json as JsonBody, MergePatch, Object, Path, given};
use crate::http::heard::SharedBody;
use crate::http::params::{Idempotency, Params, if_match};
use crate::id::ImageId;
use crate::jobs::{Jobs, Naming};
use crate::limits;
use crate::oci::{Digest, Platform};
use crate::store::lists::IMAGES;
use crate::store::{
    ArchiveScope, Caller, ImagePatch, ImageSource, LabelPatch, Labels, NameTaken, NewImage, NewTarget, Store,
    TargetPatch,
};

/// `GET /api/v1/images`
pub async fn list(State(store): State<Store>, caller: Caller, asked: Asked) -> ApiResult<Response> {
    let (query, wanted) = asked.params.list(&IMAGES, Some(&caller.namespace))?;
    let digest = asked.params.parse::<Digest>("digest")?;
    let wanted = wanted
        .name(asked.params.text("name", limits::REFERENCE_BYTES)?)
        .name_prefix(asked.params.text("name_prefix", limits::REFERENCE_BYTES)?)
        .digest(digest.as_ref().map(Digest::as_str));
    let fetch = move |query| {
        let (store, namespace, wanted) = (store.clone(), caller.namespace.clone(), wanted.clone());
        async move { store.list_images(&namespace, &query, wanted).await }
    };
    asked.answer(query, fetch).await
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    name: String,
    #[serde(default, deserialize_with = "given")]
    target: Option<Object<TargetInput>>,
    #[serde(default, deserialize_with = "given")]
    from_image: Option<String>,
    #[serde(default)]
    labels: Labels,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TargetInput {
    digest: Digest,
    #[serde(default, deserialize_with = "given")]
    media_type: Option<String>,
    #[serde(default, deserialize_with = "given")]
    size: Option<u64>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl From<Object<TargetInput>> for NewTarget {
    fn from(Object(input): Object<TargetInput>) -> NewTarget {
        let TargetInput { digest, media_type, size, annotations } = input;
        NewTarget { digest, media_type, size, annotations }
    }
}

impl TryFrom<Create> for NewImage {
    type Error = Error;

    fn try_from(create: Create) -> Result<NewImage> {
        let source = match (create.target, create.from_image) {
            (Some(target), None) => ImageSource::Target(target.into()),
            (None, Some(image)) => ImageSource::Image(image),
            (None, None) | (Some(_), Some(_)) => {
                return Err(Error::invalid_field("target", "give either `target` or `from_image`"));
            }
        };
        Ok(NewImage { name: create.name, source, labels: create.labels })
    }
}

/// `POST /api/v1/images`: name a target.
pub async fn create(
    State(store): State<Store>,
    caller: Caller,
    idempotency: Idempotency,
    JsonBody(create): JsonBody<Create>,
) -> ApiResult<Response> {
    let keyed = idempotency.keyed(&caller.namespace, &create);
    let new = create.try_into()?;
    let (maker, finder, owner) = (store.clone(), store.clone(), caller.clone());
    let make = async move {
        let named = maker.create_image(&caller, new, NameTaken::Refuse).await?;
        Ok((named.image, named.held))
    };
    let find = async move |id: String| finder.hold_image(&owner, &id).await;
    let (image, held) = store.make_once(keyed, make, |(image, _)| &image.id, find).await?;
    let location = location(&format!("/api/v1/images/{}", image.id), &image.namespace);
    Ok(with_lease(made(StatusCode::CREATED, &location, &image.tag(), &image), &held))
}

/// `GET /api/v1/images/{id}`
pub async fn show(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<ImageId>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let image = store.find_image(&caller.namespace, &id).await?;
    Ok(tagged(&headers, &image.tag(), &image))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    #[serde(default, deserialize_with = "given")]
    labels: Option<LabelPatch>,
    #[serde(default, deserialize_with = "given")]
    target: Option<Object<TargetChange>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetChange {
    #[serde(default, deserialize_with = "given")]
    digest: Option<Digest>,
    #[serde(default, deserialize_with = "given")]
    media_type: Option<String>,
    #[serde(default, deserialize_with = "given")]
    size: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    annotations: Option<LabelPatch>,
}

impl From<Object<TargetChange>> for TargetPatch {
    fn from(Object(change): Object<TargetChange>) -> TargetPatch {
        let TargetChange { digest, media_type, size, annotations } = change;
        TargetPatch { digest, media_type, size, annotations }
    }
}

/// `PATCH /api/v1/images/{id}`
pub async fn update(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<ImageId>,
    headers: HeaderMap,
    MergePatch(patch): MergePatch<Patch>,
) -> ApiResult<Response> {
    let target = patch.target.map(TargetPatch::from);
    let patch = ImagePatch { labels: patch.labels, target, if_match: if_match(&headers)? };
    let image = store.update_image(&caller.namespace, &id, patch).await?;
    Ok(changed(&image.tag(), &image))
}

/// `DELETE /api/v1/images/{id}`
pub async fn delete(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<ImageId>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    store.delete_image(&caller.namespace, &id, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/images/{id}/manifest`: what runs on a platform.
pub async fn manifest(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<ImageId>,
    params: Params,
) -> ApiResult<Response> {
    let platform = params.parse::<Platform>("platform")?;
    let found = store.find_manifest(&caller.namespace, &id, platform.as_ref()).await?;
    Ok(Json(found).into_response())
}

/// `GET /api/v1/images/{id}/history`: how it was built.
pub async fn history(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<ImageId>,
    params: Params,
) -> ApiResult<Response> {
    let platform = params.parse::<Platform>("platform")?;
    Ok(Json(store.find_history(&caller.namespace, &id, platform.as_ref()).await?).into_response())
}

/// `GET /api/v1/images/{id}/usage`: what it takes, and shares with whom.
pub async fn usage(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<ImageId>,
) -> ApiResult<Response> {
    Ok(Json(store.measure_image(&caller.namespace, &id).await?).into_response())
}

/// `GET /api/v1/images/{id}/check`: what of it is here.
pub async fn check(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<ImageId>,
    params: Params,
) -> ApiResult<Response> {
    let platform = params.parse::<Platform>("platform")?;
    Ok(Json(store.check_image(&caller.namespace, &id, platform.as_ref()).await?).into_response())
}

/// `GET` and `HEAD /api/v1/images/{id}/archive`: the image as one file, or the requested ranges of it.
pub async fn archive(
    State(store): State<Store>,
    caller: Caller,
    Path(id): Path<ImageId>,
    params: Params,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let scope = match (params.parse::<Platform>("platform")?, params.flag("skip_missing")?) {
        (Some(_), true) => {
            let reason = "give either `platform` or `skip_missing`: one platform is whole or is not";
            return Err(Error::invalid_field("skip_missing", reason).into());
        }
        (Some(platform), false) => ArchiveScope::Platform(platform),
        (None, true) => ArchiveScope::Present,
        (None, false) => ArchiveScope::Whole,
    };
    let archive = store.open_archive(&caller.namespace, &id, scope).await?;
    respond_archive(&store, archive, &method, &headers)
}

/// `POST /api/v1/images/import`: an archive's blobs and names.
pub async fn import(
    State(jobs): State<Jobs>,
    caller: Caller,
    params: Params,
    request: Request,
) -> ApiResult<Response> {
    let text = |name| Ok::<_, Error>(params.text(name, limits::REFERENCE_BYTES)?.map(str::to_owned));
    let naming = Naming { name: text("name")?, base_name: text("base_name")? };
    let body = SharedBody::new(request.into_body());
    let (imported, held) = match jobs.import_images(&caller, naming, body.clone()).await {
        Ok(done) => done,
        Err(error) => {
            body.read_on().await;
            return Err(error.into());
        }
    };
    Ok(with_lease((StatusCode::CREATED, Json(imported)).into_response(), &held))
}
