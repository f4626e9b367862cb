//! HTTP: axum starts here. A request passes the guard, then the credential check, then its handler.

pub mod access;
pub mod api;
pub mod blob;
pub mod connection;
pub mod error;
pub mod extract;
pub mod guard;
pub mod hosts;
pub mod params;
pub mod problems;
pub mod range;
pub mod routes;
pub mod serve;
pub mod tls;
pub mod ui;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::from_fn_with_state;
use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE};
use tokio::sync::Semaphore;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;

use self::guard::{Guard, guarded};
use self::hosts::Hosts;

use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::events::Events;
use crate::jobs::Jobs;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::telemetry::Metrics;

/// Everything that is served, within its guard.
pub fn router(state: &AppState) -> Router {
    let check = from_fn_with_state(state.clone(), access::check);
    let guard = Guard { hosts: Hosts::of(&state.config), metrics: state.metrics.http.clone() };
    // What carries a secret is marked, so that no log of headers, ours or a library's, shows it.
    let secrets = SetSensitiveRequestHeadersLayer::new([
        AUTHORIZATION,
        COOKIE,
        HeaderName::from_static("orlop-writer"),
    ]);
    guarded(routes::router().route_layer(check).with_state(state.clone()).layer(secrets), guard)
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
    pub events: Events,
    pub shutdown: Shutdown,
    pub clock: Clock,
    pub started_at: Time,
    /// Places for event streams: each holds a queue.
    pub event_places: Arc<Semaphore>,
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
