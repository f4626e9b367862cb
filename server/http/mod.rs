//! HTTP: axum starts here. A request passes the guard, then the credential check, then its handler.

pub mod accept;
pub mod access;
pub mod api;
pub mod blob;
pub mod connection;
pub mod error;
pub mod extract;
pub mod guard;
pub mod heard;
pub mod hosts;
pub mod params;
pub mod problems;
pub mod range;
pub mod readiness;
pub mod routes;
pub mod serve;
pub mod tags;
pub mod tls;
pub mod ui;

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, Method};
use tokio::sync::Semaphore;
use tower::{Layer, Service};
use tower_http::sensitive_headers::{SetSensitiveRequestHeaders, SetSensitiveRequestHeadersLayer};

use self::api::data;
use self::error::ApiError;
use self::guard::{Guard, Guarded, Inner, Trail, finished};
use self::hosts::Hosts;
use self::params::{ORLOP_LEASE, Params, namespace_of};
use self::readiness::Readiness;
use self::routes::{Route, find_route};

use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::jobs::Jobs;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::telemetry::Metrics;

/// Everything that is served, within its guard.
pub fn guarded(state: &AppState) -> Guarded<Routes> {
    let guard = Guard { hosts: Hosts::of(&state.config), metrics: state.metrics.http.clone() };
    Guarded::new(Routes::new(state), guard)
}

/// All routes.
pub struct Routes {
    state: AppState,
    router: SetSensitiveRequestHeaders<Router>,
    /// The route that is also answered without the router.
    read: &'static Route,
}

impl Routes {
    fn new(state: &AppState) -> Routes {
        let check = from_fn_with_state(state.clone(), access::check);
        let router = routes::router().route_layer(check).with_state(state.clone());
        let read = find_route(&Method::GET, data::PATH).expect("blobs can be read");
        Routes { state: state.clone(), router: mark_secrets(finished(router)), read }
    }
}

impl Inner for Routes {
    async fn answer(&self, request: Request) -> Response {
        self.router.clone().call(request).await.unwrap_or_else(|never| match never {})
    }

    /// A read of a blob that is open already, for a caller who is trusted: most requests are such. The way through the
    /// router costs a small read as much as all else that is ours, and ends at the same check and the same answer.
    fn answer_at_once(&self, request: &Request, trail: &Trail) -> Option<Response> {
        let digest = data::wanted(request.method(), request.uri().path())?;
        let identity = access::trusted(&self.state, request.headers())?;
        // A read needs no lease; whether one is named rightly is the router's to judge, as for every call.
        if request.headers().contains_key(ORLOP_LEASE) {
            return None;
        }
        let params = Params::of(request.uri().query()).ok()?;
        access::check_params(&params, self.read).ok()?;
        let namespace = namespace_of(&params, &identity).ok()?;
        let blob = self.state.store.find_open_blob(namespace, &digest)?;
        trail.note(Cow::Borrowed(data::PATH));
        let answer = data::show(blob, &params, request.method(), request.headers());
        Some(answer.unwrap_or_else(ApiError::into_response))
    }
}

fn mark_secrets(router: Router) -> SetSensitiveRequestHeaders<Router> {
    // What carries a secret is marked, so that no log of headers, ours or a library's, shows it.
    SetSensitiveRequestHeadersLayer::new([AUTHORIZATION, COOKIE, HeaderName::from_static("orlop-writer")])
        .layer(router)
}

/// What handlers work with. Every request clones it several times, so it is one pointer.
#[derive(Clone)]
pub struct AppState(Arc<Parts>);

/// The parts of an [`AppState`].
pub struct Parts {
    pub store: Store,
    pub jobs: Jobs,
    pub config: Arc<Config>,
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    pub clock: Clock,
    pub started_at: Time,
    /// Places for event streams: each holds a queue.
    pub event_places: Arc<Semaphore>,
    pub readiness: Readiness,
    /// Whether a request without a credential is refused.
    pub auth_required: bool,
}

impl AppState {
    pub fn new(parts: Parts) -> AppState {
        AppState(Arc::new(parts))
    }
}

impl std::ops::Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl FromRef<AppState> for Store {
    fn from_ref(state: &AppState) -> Store {
        state.store.clone()
    }
}

impl FromRef<AppState> for Jobs {
    fn from_ref(state: &AppState) -> Jobs {
        state.jobs.clone()
    }
}
