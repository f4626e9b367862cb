//! The server itself: health, version, metrics, limits, and the contract.

use std::sync::OnceLock;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::text;
use crate::clock::Time;
use crate::config::{Sharing, Shown, Source};
use crate::http::AppState;
use crate::http::accept::Accept;
use crate::http::error::ApiResult;
use crate::http::params::Params;
use crate::http::readiness::Check;
use crate::http::tags::{etag, knows, not_modified};
use crate::limits::{self, Limit};
use crate::oci::{Algorithm, Digest};
use crate::store::{Store, Usage};
use crate::telemetry::MetricsForm;

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// `GET /healthz`: the process answers. Nothing else is asked, or a database that rests would have it restarted.
pub async fn healthz() -> Response {
    ([(CACHE_CONTROL, NO_STORE)], Json(Health { status: "ok" })).into_response()
}

#[derive(Serialize)]
struct Ready {
    status: &'static str,
    checks: Vec<Check>,
}

/// `GET /readyz`: the parts that the server needs; all of them when asked, else those that fail.
pub async fn readyz(State(state): State<AppState>, params: Params) -> ApiResult<Response> {
    let is_verbose = params.bare_flag("verbose")?;
    let mut checks = state.readiness.look(&state).await?;
    let is_ready = checks.iter().all(|check| check.ok);
    checks.retain(|check| is_verbose || !check.ok);
    if is_ready {
        return Ok(([(CACHE_CONTROL, NO_STORE)], Json(Ready { status: "ready", checks })).into_response());
    }
    let retry = HeaderValue::from(limits::UNAVAILABLE_RETRY.as_secs());
    let headers = [(CACHE_CONTROL, NO_STORE), (RETRY_AFTER, retry)];
    let body = Json(Ready { status: "not-ready", checks });
    Ok((StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response())
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
    commit: Option<&'static str>,
    api: &'static str,
}

/// `GET /version`
pub async fn version() -> Response {
    let version = Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("ORLOP_COMMIT"),
        api: "v1",
    };
    Json(version).into_response()
}

/// `GET /metrics`: in the form that the scraper asks for.
pub async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text";
    // Whoever accepts neither is a person who looks.
    let form = match Accept::of(&headers).choose(&["text/plain", OPEN_METRICS]) {
        Some(OPEN_METRICS) => MetricsForm::OpenMetrics,
        Some(_) | None => MetricsForm::Plain,
    };
    let content_type = HeaderValue::from_static(form.content_type());
    measure(&state).await;
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, NO_STORE)], state.metrics.render(form)).into_response()
}

/// Sets what is not counted as it happens. A database that is away is no reason to answer nothing.
async fn measure(state: &AppState) {
    let (jobs, pulls, unpacks) =
        (&state.metrics.jobs, state.jobs.count_unfinished(), state.jobs.count_unfinished_unpacks());
    for (gauge, count) in [
        (&jobs.pulls_queued, pulls.0),
        (&jobs.pulls_running, pulls.1),
        (&jobs.unpacks_queued, unpacks.0),
        (&jobs.unpacks_running, unpacks.1),
    ] {
        gauge.set(count as i64);
    }
    let store = &state.metrics.store;
    let usage = state.store.measure_usage().await;
    store.database_up.set(i64::from(usage.is_ok()));
    let Ok(usage) = usage else { return };
    for (gauge, value) in [
        (&store.blobs, usage.blobs),
        (&store.damaged_blobs, usage.damaged_blobs),
        (&store.stored_bytes, usage.on_disk_bytes),
        (&store.images, usage.images),
        (&store.ingests, usage.ingests),
        (&store.ingest_bytes, usage.ingest_bytes),
        (&store.leases, usage.leases),
        (&store.free_bytes, usage.free_bytes),
    ] {
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

/// `GET /openapi.yaml`
pub async fn openapi_yaml(headers: HeaderMap) -> Response {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    CONTRACT.get_or_init(|| Contract::new("application/yaml", YAML.into())).answer(&headers)
}

/// `GET /openapi.json`: the same, in the order of the YAML.
pub async fn openapi_json(headers: HeaderMap) -> Response {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    let convert = || {
        let document: serde_norway::Value =
            serde_norway::from_str(YAML).expect("the contract is YAML: a test reads it");
        let json = serde_json::to_vec(&document).expect("the contract's keys are texts: a test reads it");
        Contract::new("application/json", json.into())
    };
    CONTRACT.get_or_init(convert).answer(&headers)
}

const YAML: &str = include_str!("../../../openapi.yaml");

/// The contract in one of its forms.
struct Contract {
    media_type: &'static str,
    bytes: Bytes,
    tag: String,
}

impl Contract {
    fn new(media_type: &'static str, bytes: Bytes) -> Contract {
        let tag = Digest::of(Algorithm::Sha256, &bytes).to_string();
        Contract { media_type, bytes, tag }
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        if knows(request, &self.tag) {
            return not_modified(&self.tag);
        }
        let headers = [etag(&self.tag), (CONTENT_TYPE, text(self.media_type))];
        (headers, self.bytes.clone()).into_response()
    }
}

#[derive(Serialize)]
struct Info<'a> {
    name: &'static str,
    version: &'static str,
    started_at: Time,
    uptime_seconds: u64,
    database: &'static str,
    auth_required: bool,
    sharing: Sharing,
    digest_algorithms: [&'static str; 3],
    limits: &'static [Limit],
    settings: Vec<Setting<'a>>,
}

#[derive(Serialize)]
struct Setting<'a> {
    name: &'static str,
    value: Option<&'a str>,
    source: Source,
}

impl<'a> From<&'a Shown> for Setting<'a> {
    fn from(shown: &'a Shown) -> Setting<'a> {
        let value = Some(shown.value.as_str()).filter(|value| !value.is_empty());
        Setting { name: shown.key, value, source: shown.source }
    }
}

/// `GET /api/v1/system/info`
pub async fn info(State(state): State<AppState>) -> Response {
    let info = Info {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        started_at: state.started_at,
        uptime_seconds: state.clock.now().since(state.started_at).as_secs(),
        database: state.store.database_kind(),
        auth_required: state.auth_required,
        sharing: state.config.sharing,
        digest_algorithms: Algorithm::ALL.map(Algorithm::as_str),
        limits: limits::ALL,
        settings: state.config.settings().iter().map(Setting::from).collect(),
    };
    Json(info).into_response()
}

/// `GET /api/v1/system/usage`
pub async fn usage(State(store): State<Store>) -> ApiResult<Json<Usage>> {
    Ok(Json(store.measure_usage().await?))
}
