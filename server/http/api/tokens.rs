//! `/api/v1/tokens` and `/api/v1/whoami`: credentials, and who the caller is.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::leases::parse_expiry;
use super::lists::Asked;
use super::{made, tagged};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::access::Identity;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json as JsonBody, Path, given};
use crate::http::params::{Idempotency, if_match};
use crate::id::TokenId;
use crate::store::lists::TOKENS;
use crate::store::{Expiry, NewToken, Reach, Scope, Store, Token};

/// `GET /api/v1/tokens`: those that reach no further than the caller's own.
pub async fn list(State(store): State<Store>, identity: Identity, asked: Asked) -> ApiResult<Response> {
    let (query, _) = asked.params.list(&TOKENS, None)?;
    let reach = identity.reach();
    let fetch = move |query| {
        let (store, reach) = (store.clone(), reach.clone());
        async move { store.list_tokens(&reach, &query).await }
    };
    asked.answer(query, fetch).await
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    name: String,
    scopes: Vec<Scope>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, deserialize_with = "given")]
    ttl: Option<String>,
    #[serde(default, deserialize_with = "given")]
    expires_at: Option<Time>,
}

impl TryFrom<Create> for NewToken {
    type Error = Error;

    fn try_from(create: Create) -> Result<NewToken> {
        let expiry = parse_expiry(create.ttl.as_deref(), create.expires_at, false)?;
        Ok(NewToken {
            name: create.name,
            scopes: each_once("scopes", create.scopes)?,
            namespaces: each_once("namespaces", create.namespaces)?,
            expiry: expiry.unwrap_or(Expiry::Never),
        })
    }
}

fn each_once<T: Ord>(field: &str, items: Vec<T>) -> Result<BTreeSet<T>> {
    let count = items.len();
    let set: BTreeSet<T> = items.into_iter().collect();
    if set.len() == count { Ok(set) } else { Err(Error::invalid_field(field, "something is there twice")) }
}

/// A new token with its secret, which is in no other answer.
#[derive(Serialize)]
struct Created {
    #[serde(flatten)]
    token: Token,
    secret: String,
}

/// `POST /api/v1/tokens`
pub async fn create(
    State(store): State<Store>,
    identity: Identity,
    idempotency: Idempotency,
    JsonBody(create): JsonBody<Create>,
) -> ApiResult<Response> {
    let keyed = idempotency.keyed("", &create);
    let new = NewToken::try_from(create)?;
    must_cover(&identity, &Reach::of(new.namespaces.iter()))?;
    let maker = store.clone();
    let make = async move { maker.create_token(new).await };
    // The secret is not kept, so the first answer cannot be given again.
    let refuse = async |id: String| Err(Error::already_exists("token", id));
    let (token, secret) = store.make_once(keyed, make, |(token, _)| &token.id, refuse).await?;
    let (location, tag) = (format!("/api/v1/tokens/{}", token.id), token.tag());
    let mut response = made(StatusCode::CREATED, &location, &tag, &Created { token, secret });
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `GET /api/v1/tokens/{id}`
pub async fn show(
    State(store): State<Store>,
    identity: Identity,
    Path(id): Path<TokenId>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let token = store.find_token(&id).await?;
    must_cover(&identity, &token.reach())?;
    Ok(tagged(&headers, &token.tag(), &token))
}

/// `DELETE /api/v1/tokens/{id}`
pub async fn revoke(
    State(store): State<Store>,
    identity: Identity,
    Path(id): Path<TokenId>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    must_cover(&identity, &store.find_token(&id).await?.reach())?;
    store.revoke_token(&id, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Nobody makes, sees or ends a token that reaches further than their own: it would lend what they were not given.
fn must_cover(identity: &Identity, reach: &Reach) -> Result<(), ApiError> {
    if identity.reach().covers(reach) {
        return Ok(());
    }
    let reason = "that token reaches namespaces which yours does not".to_owned();
    Err(ApiError::Forbidden { reason })
}

/// Who the caller is to the server.
#[derive(Serialize)]
struct WhoAmI {
    kind: &'static str,
    token_id: Option<String>,
    name: Option<String>,
    scopes: Vec<Scope>,
    namespaces: Vec<String>,
    expires_at: Option<Time>,
    auth_required: bool,
}

/// `GET /api/v1/whoami`
pub async fn whoami(State(state): State<AppState>, identity: Identity) -> ApiResult<Response> {
    let Some(most) = identity.scope() else {
        return Err(ApiError::Unauthenticated { reason: "the request has no token that is valid" });
    };
    let token = identity.token();
    let kind = match &identity {
        Identity::Anonymous { .. } => "anonymous",
        Identity::Token(_) => "token",
        Identity::Session(_) => "session",
    };
    let caller = WhoAmI {
        kind,
        token_id: token.map(|token| token.id.clone()),
        name: token.map(|token| token.name.clone()),
        scopes: Scope::ALL.into_iter().filter(|scope| *scope <= most).collect(),
        namespaces: token.map(|token| token.namespaces.clone()).unwrap_or_default(),
        expires_at: token.and_then(|token| token.expires_at),
        auth_required: state.auth_required,
    };
    Ok(Json(caller).into_response())
}
