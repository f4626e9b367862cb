//! Who calls, and whether they may: every request passes here, and a route that says nothing lets nobody in.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;

use super::AppState;
use super::error::ApiError;
use super::params::Params;
use super::routes::{Access, Route, find_route};
use crate::error::Error;
use crate::store::{Reach, Scope, Session, Token, check_namespace, is_same};

/// The cookie of the pages' session.
pub const SESSION_COOKIE: &str = "orlop_session";

/// Who calls: an extension of every request that reaches a handler.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Without a credential: everything on loopback, nothing elsewhere.
    Anonymous {
        trusted: bool,
    },
    Token(Arc<Token>),
    Session(Arc<Session>),
}

/// Whether a credential that was let in still would be: an answer that goes on for days must not outlive it.
///
/// # Errors
/// `Unavailable` when nobody can say.
pub async fn still_holds(state: &AppState, identity: &Identity) -> crate::error::Result<bool> {
    let token = match identity {
        Identity::Anonymous { .. } => return Ok(true),
        Identity::Session(session) => return Ok(state.store.check_session(&session.secret).await?.is_some()),
        Identity::Token(token) => state.store.find_token(&token.id).await,
    };
    match token {
        Ok(token) => Ok(token.expires_at.is_none_or(|at| at > state.clock.now())),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Identity {
    /// The identity of a request that has passed; one that has not is nobody.
    pub fn of(parts: &Parts) -> Identity {
        parts.extensions.get().cloned().unwrap_or(Identity::Anonymous { trusted: false })
    }

    pub fn token(&self) -> Option<&Token> {
        match self {
            Identity::Anonymous { .. } => None,
            Identity::Token(token) => Some(token),
            Identity::Session(session) => Some(&session.token),
        }
    }

    /// The most that the caller may do.
    pub fn scope(&self) -> Option<Scope> {
        match self {
            Identity::Anonymous { trusted } => trusted.then_some(Scope::Admin),
            Identity::Token(_) | Identity::Session(_) => self.token().and_then(Token::scope),
        }
    }

    /// # Errors
    /// `Invalid` for what is no namespace's name, in the field that it stood in; `Forbidden` for one that the
    /// credential does not reach.
    pub fn must_reach(&self, namespace: &str, field: &str) -> Result<(), ApiError> {
        check_namespace(namespace).map_err(|error| error.in_field(field))?;
        if self.reach().includes(namespace) {
            return Ok(());
        }
        Err(ApiError::Forbidden { reason: format!("the token does not reach the namespace `{namespace}`") })
    }

    pub fn reach(&self) -> Reach {
        match self {
            Identity::Anonymous { trusted: true } => Reach::Everywhere,
            Identity::Anonymous { trusted: false } => Reach::Only(Vec::new()),
            Identity::Token(_) | Identity::Session(_) => {
                self.token().map_or(Reach::Only(Vec::new()), Token::reach)
            }
        }
    }
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Identity {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Identity, Self::Rejection> {
        Ok(Identity::of(parts))
    }
}

/// Lets a request through to its handler, or not.
pub async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match admit_matched(&state, &parts).await {
        Ok(identity) => {
            parts.extensions.insert(identity);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(ApiError::Unauthenticated { .. }) if is_page(&parts) => Redirect::to("/login").into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn is_page(parts: &Parts) -> bool {
    let path = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let route = path.and_then(|path| find_route(&parts.method, path));
    route.is_some_and(|route| route.access == Access::Page)
}

async fn admit_matched(state: &AppState, parts: &Parts) -> Result<Identity, ApiError> {
    let path = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let route = path.and_then(|path| find_route(&parts.method, path));
    let Some(route) = route else {
        return Err(match path {
            Some(_) => ApiError::MethodNotAllowed,
            None => ApiError::NoSuchPath,
        });
    };
    admit(state, parts, route).await
}

/// Who calls, if they may have this route.
///
/// # Errors
/// `Unauthenticated`, `Forbidden`; `Invalid` for a query parameter that the route does not know; `Unavailable` where a
/// credential cannot be judged.
pub async fn admit(state: &AppState, parts: &Parts, route: &Route) -> Result<Identity, ApiError> {
    let identity = match route.access {
        // The database is not asked: these routes answer when it is away.
        Access::Open => Identity::Anonymous { trusted: !state.auth_required },
        // Only a credential that is refused is as good as none. One that nobody can judge may be good.
        Access::Known => match identify(state, &parts.headers).await {
            Err(ApiError::Unauthenticated { .. }) => Identity::Anonymous { trusted: false },
            known => known?,
        },
        Access::Page | Access::Read | Access::Write | Access::Admin => {
            identify(state, &parts.headers).await?
        }
    };
    permit(&identity, parts, route)?;
    Ok(identity)
}

/// Whether the identity may have this route, as it is asked for.
///
/// # Errors
/// As of [`admit`].
fn permit(identity: &Identity, parts: &Parts, route: &Route) -> Result<(), ApiError> {
    let needed = match route.access {
        Access::Open | Access::Known => None,
        Access::Page | Access::Read => Some(Scope::Read),
        Access::Write => Some(Scope::Write),
        Access::Admin => Some(Scope::Admin),
    };
    match (needed, identity.scope()) {
        (None, _) => {}
        (Some(needed), Some(scope)) if scope >= needed => {}
        (Some(_), None) => return Err(ApiError::Unauthenticated { reason: "this call needs a token" }),
        (Some(needed), Some(_)) => {
            let reason =
                format!("this call needs the scope `{}`", serde_json::json!(needed).as_str().unwrap_or(""));
            return Err(ApiError::Forbidden { reason });
        }
    }
    check_form(identity, parts)?;
    check_params(&Params::of(parts.uri.query())?, route)
}

/// # Errors
/// `Invalid` for a query parameter that the route does not know.
pub fn check_params(params: &Params, route: &Route) -> Result<(), ApiError> {
    if let Some(unknown) = params.names().find(|name| !route.params.contains(name)) {
        let known = match route.params {
            [] => "it takes none".to_owned(),
            names => format!("it takes {}", names.join(", ")),
        };
        return Err(Error::invalid_field(
            unknown,
            format!("this call has no parameter `{unknown}`: {known}"),
        )
        .into());
    }
    Ok(())
}

/// The identity of a request without a credential, where that may do everything: nobody has to be asked.
pub fn trusted(state: &AppState, headers: &HeaderMap) -> Option<Identity> {
    (!state.auth_required && !has_credential(headers)).then_some(Identity::Anonymous { trusted: true })
}

/// A cookie goes with every request that a browser makes, so a changing call by cookie must show the session's form
/// secret as well: a header here, or the form's own field, which its handler checks.
fn check_form(identity: &Identity, parts: &Parts) -> Result<(), ApiError> {
    let Identity::Session(session) = identity else { return Ok(()) };
    let is_form = matches!(parts.uri.path(), "/login" | "/logout");
    if parts.method.is_safe() || is_form {
        return Ok(());
    }
    let shown = parts.headers.get("orlop-csrf").map(http::HeaderValue::as_bytes).unwrap_or_default();
    if is_same(shown, session.csrf.as_bytes()) {
        return Ok(());
    }
    Err(ApiError::Forbidden { reason: "a changing call by cookie needs the header `Orlop-Csrf`".to_owned() })
}

fn has_credential(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || session_cookie(headers).is_some()
}

async fn identify(state: &AppState, headers: &HeaderMap) -> Result<Identity, ApiError> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let refused = ApiError::Unauthenticated { reason: "the token is unknown, revoked or expired" };
        let text = value.to_str().unwrap_or_default();
        let (scheme, secret) = text.split_once(' ').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(ApiError::Unauthenticated {
                reason: "the `Authorization` header takes `Bearer orl_…`",
            });
        }
        let token = state.store.check_secret(secret.trim()).await?;
        return token.map(|token| Identity::Token(Arc::new(token))).ok_or(refused);
    }
    if let Some(secret) = session_cookie(headers)
        && let Some(session) = state.store.check_session(secret).await?
    {
        return Ok(Identity::Session(Arc::new(session)));
    }
    Ok(Identity::Anonymous { trusted: !state.auth_required })
}

/// The secret in the session's cookie.
pub fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == SESSION_COOKIE).then_some(value))
}
