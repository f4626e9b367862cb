//! `GET /`: what is stored, the pulls as they run, the leases with their time left.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;

use super::pull::view::PullView;
use super::show::{self, Ends, Moment, Name, plural};
use super::{Place, Shell, base_of, page as render, server_flag};
use crate::clock::Time;
use crate::error::Result;
use crate::http::AppState;
use crate::http::access::Identity;
use crate::http::error::ApiError;
use crate::jobs::{JobState, Pull};
use crate::store::list::{ListQuery, ListRequest, Resource};
use crate::store::lists::{self, Wanted};
use crate::store::{DEFAULT_NAMESPACE, Image, Lease, Reach, Scope, Usage};

/// What of each list the page shows.
const PULLS: usize = 20;
const IMAGES: usize = 20;
const LEASES: usize = 20;

#[derive(Template)]
#[template(path = "front.html")]
struct Front {
    shell: Shell,
    namespace: String,
    now: Time,
    /// Whether the caller may start a pull.
    writes: bool,
    /// Whether programs need a token.
    token_needed: bool,
    /// The server as the browser names it, without a slash at the end.
    base: String,
    /// What `orlop` is told to ask this server.
    server_flag: String,
    usage: UsageView,
    pulls: Vec<PullView>,
    /// What the module makes new rows of.
    blank: PullView,
    busy: bool,
    images: Vec<ImageView>,
    leases: Vec<LeaseView>,
    more_images: bool,
    more_leases: bool,
}

pub async fn page(State(state): State<AppState>, parts: Parts) -> Result<Response, ApiError> {
    let identity = Identity::of(&parts);
    let namespace = namespace_of(&identity.reach());
    let now = state.clock.now();
    let usage = state.store.measure_usage().await?;
    let images = query(&lists::IMAGES, &namespace, &[], "-updated_at", IMAGES)?;
    let images = state.store.list_images(&namespace, &images, Wanted::default()).await?;
    let leases = query(&lists::LEASES, &namespace, &[], "expires_at", LEASES)?;
    let leases = state.store.list_leases(&namespace, &leases, Wanted::default()).await?;
    let pulls = list_pulls(&state, &namespace).await?;
    let front = Front {
        shell: Shell::new(Place::Overview, &identity),
        now,
        writes: identity.scope() >= Some(Scope::Write),
        token_needed: state.auth_required,
        server_flag: server_flag(&base_of(&parts)),
        base: base_of(&parts),
        usage: UsageView::new(&usage),
        busy: pulls.iter().any(|pull| !pull.state.is_final()),
        pulls: pulls.iter().map(|pull| PullView::new(pull, now)).collect(),
        blank: PullView::blank(),
        images: images.items.iter().map(|image| ImageView::new(image, now)).collect(),
        leases: leases.items.iter().map(|lease| LeaseView::new(lease, now)).collect(),
        more_images: images.next.is_some(),
        more_leases: leases.next.is_some(),
        namespace,
    };
    render(StatusCode::OK, &front)
}

/// The namespace to show: the usual one, or the first that the caller may read.
fn namespace_of(reach: &Reach) -> String {
    match reach {
        Reach::Only(names) if !reach.includes(DEFAULT_NAMESPACE) => {
            names.first().map_or(DEFAULT_NAMESPACE, String::as_str).to_owned()
        }
        Reach::Only(_) | Reach::Everywhere => DEFAULT_NAMESPACE.to_owned(),
    }
}

/// What runs first, then what waits, whenever it was asked for, then the latest of what has ended; each newest first.
async fn list_pulls(state: &AppState, namespace: &str) -> Result<Vec<Pull>> {
    let of = |state: JobState| (Wanted::default().state(Some(state.as_str())), &[][..]);
    let ended = ["finished_at".to_owned()];
    let groups = [
        of(JobState::Running),
        of(JobState::Cancelling),
        of(JobState::Queued),
        (Wanted::default(), ended.as_slice()),
    ];
    let mut pulls = Vec::new();
    for (wanted, filters) in groups {
        let room = PULLS.saturating_sub(pulls.len());
        if room > 0 {
            let query = query(&lists::PULLS, namespace, filters, "-created_at", room)?;
            pulls.extend(state.jobs.list(namespace, &query, wanted).await?.items);
        }
    }
    Ok(pulls)
}

fn query(
    resource: &Resource,
    namespace: &str,
    filters: &[String],
    sort: &str,
    limit: usize,
) -> Result<ListQuery> {
    let (plain, limit) = ([("namespace", namespace)], limit.to_string());
    let request = ListRequest { filters, sort: Some(sort), cursor: None, limit: Some(&limit), plain: &plain };
    ListQuery::parse(resource, request)
}

struct UsageView {
    on_disk: String,
    on_disk_exact: u64,
    blobs: String,
    logical: String,
    /// How many times smaller what is stored is than what the records name; `None` when nothing is shared.
    ratio: Option<String>,
    images: String,
    namespaces: String,
    free: String,
    capacity: String,
    /// Of the file system, in percent, whoever uses it.
    used_percent: u64,
}

impl UsageView {
    fn new(usage: &Usage) -> UsageView {
        let used = usage.capacity_bytes.saturating_sub(usage.free_bytes);
        let tenths = (u128::from(usage.logical_bytes) * 10).checked_div(usage.on_disk_bytes.into());
        let tenths = tenths.filter(|tenths| *tenths > 10);
        UsageView {
            on_disk: show::bytes(usage.on_disk_bytes),
            on_disk_exact: usage.on_disk_bytes,
            blobs: plural(usage.blobs, "blob", "blobs"),
            logical: show::bytes(usage.logical_bytes),
            ratio: tenths.map(|tenths| format!("{}.{}", tenths / 10, tenths % 10)),
            images: show::count(usage.images),
            namespaces: plural(usage.namespaces, "namespace", "namespaces"),
            free: show::bytes(usage.free_bytes),
            capacity: show::bytes(usage.capacity_bytes),
            used_percent: (u128::from(used) * 100).checked_div(usage.capacity_bytes.into()).unwrap_or(0)
                as u64,
        }
    }
}

struct ImageView {
    name: Name,
    digest: String,
    short_digest: String,
    kind: &'static str,
    media_type: String,
    updated: Moment,
}

impl ImageView {
    fn new(image: &Image, now: Time) -> ImageView {
        let media_type = image.target.media_type.clone();
        let is_index = media_type.ends_with("index.v1+json") || media_type.ends_with("manifest.list.v2+json");
        let is_manifest = media_type.contains("manifest.v");
        ImageView {
            name: Name::new(&image.name),
            short_digest: show::short_digest(&image.target.digest),
            digest: image.target.digest.clone(),
            kind: if is_index {
                "index"
            } else if is_manifest {
                "manifest"
            } else {
                "other"
            },
            media_type,
            updated: Moment::new(image.updated_at, now),
        }
    }
}

struct LeaseView {
    id: String,
    kind: &'static str,
    /// When it ends, and how long that is from now; `None`: never.
    ends: Option<Ends>,
    labels: Vec<(String, String)>,
    created: Moment,
}

impl LeaseView {
    fn new(lease: &Lease, now: Time) -> LeaseView {
        LeaseView {
            id: lease.id.clone(),
            kind: match lease.kind.as_str() {
                "grace" => "grace, by the server",
                "pull" => "of a pull",
                _ => "by a client",
            },
            ends: lease.expires_at.map(|at| Ends::new(at, now)),
            labels: lease.labels.clone().into_iter().collect(),
            created: Moment::new(lease.created_at, now),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
