//! The route table: every path that is served, with what it takes and who may call it.
//!
//! It is the one list. The router is made from it, the credential of each request is checked against it, and tests
//! hold it against `openapi.yaml`.

use axum::Router;
use axum::routing::{MethodFilter, on};
use http::Method;

use super::AppState;
use super::api::{
    content, data, diffs, events, files, images, ingests, leases, namespaces, pulls, registries, snapshots,
    system, tokens, unpacks,
};
use super::ui;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, also where a token is needed. Nobody is asked who they are.
    Open,
    /// As `Open`, for what depends on who calls: a credential is looked at, and need not be there.
    Known,
    /// As `Read`; a browser that is not logged in is sent to the login page.
    Page,
    Read,
    Write,
    Admin,
}

#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub access: Access,
    /// The query parameters that the route knows; any other is refused.
    pub params: &'static [&'static str],
}

/// The entry for a request; HEAD is served where GET is.
pub fn find_route(method: &Method, path: &str) -> Option<&'static Route> {
    let by = |wanted: &str| ROUTES.iter().find(|route| route.path == path && route.method == wanted);
    by(method.as_str()).or_else(|| (method == Method::HEAD).then(|| by("GET")).flatten())
}

macro_rules! routes {
    ($($method:ident $path:literal $access:ident [$($param:literal)*] => $handler:path;)*) => {
        pub const ROUTES: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            access: Access::$access,
            params: &[$($param),*],
        }),*];

        /// The router of the whole table, without its layers.
        pub fn router() -> Router<AppState> {
            Router::new()$(.route($path, on(MethodFilter::$method, $handler)))*
        }
    };
}

routes! {
    GET "/healthz" Open [] => system::healthz;
    GET "/readyz" Open ["verbose"] => system::readyz;
    GET "/version" Open [] => system::version;
    GET "/metrics" Read [] => system::metrics;
    GET "/openapi.json" Open [] => system::openapi_json;
    GET "/openapi.yaml" Open [] => system::openapi_yaml;
    GET "/docs" Open [] => ui::docs::page;
    GET "/problems" Open [] => ui::problems::index;
    GET "/problems/{code}" Open [] => ui::problems::page;
    GET "/static/{name}" Open [] => ui::assets::file;
    GET "/" Page [] => ui::front::page;
    GET "/pulls/{id}" Page ["namespace"] => ui::pull::page;
    GET "/login" Known [] => ui::login::page;
    POST "/login" Known [] => ui::login::log_in;
    POST "/logout" Known [] => ui::login::log_out;

    GET "/api/v1/system/info" Admin [] => system::info;
    GET "/api/v1/system/usage" Read [] => system::usage;
    GET "/api/v1/whoami" Known [] => tokens::whoami;

    GET "/api/v1/content" Read ["namespace" "media_type" "sort" "filter" "label" "limit" "cursor"] => content::list;
    POST "/api/v1/content" Write ["namespace" "algorithm" "media_type" "label"] => data::create;
    GET "/api/v1/content/{digest}" Read ["namespace"] => content::show;
    PATCH "/api/v1/content/{digest}" Write ["namespace"] => content::update;
    DELETE "/api/v1/content/{digest}" Write ["namespace" "force"] => content::delete;
    GET "/api/v1/content/{digest}/data" Read ["namespace" "inline"] => data::read;
    HEAD "/api/v1/content/{digest}/data" Read ["namespace" "inline"] => data::read;
    PUT "/api/v1/content/{digest}/data" Write ["namespace" "media_type" "label"] => data::put;
    GET "/api/v1/content/{digest}/children" Read ["namespace"] => content::children;
    GET "/api/v1/content/{digest}/files" Read ["namespace" "path" "path_base64" "recursive" "limit" "cursor"] => files::list_of_layer;
    GET "/api/v1/content/{digest}/files/data" Read ["namespace" "path" "path_base64" "inline"] => files::read_of_layer;
    HEAD "/api/v1/content/{digest}/files/data" Read ["namespace" "path" "path_base64" "inline"] => files::read_of_layer;

    GET "/api/v1/ingests" Read ["namespace" "ref" "sort" "filter" "label" "limit" "cursor"] => ingests::list;
    POST "/api/v1/ingests" Write ["namespace"] => ingests::open;
    GET "/api/v1/ingests/{id}" Read ["namespace"] => ingests::show;
    DELETE "/api/v1/ingests/{id}" Write ["namespace"] => ingests::abort;
    HEAD "/api/v1/ingests/{id}/data" Read ["namespace"] => ingests::offset;
    PATCH "/api/v1/ingests/{id}/data" Write ["namespace"] => ingests::append;
    POST "/api/v1/ingests/{id}/truncate" Write ["namespace"] => ingests::truncate;
    POST "/api/v1/ingests/{id}/commit" Write ["namespace"] => ingests::commit;
    DELETE "/api/v1/ingests/{id}/writer" Write ["namespace"] => ingests::release;

    GET "/api/v1/images" Read ["namespace" "name" "name_prefix" "digest" "sort" "filter" "label" "limit" "cursor"] => images::list;
    POST "/api/v1/images" Write ["namespace"] => images::create;
    POST "/api/v1/images/import" Write ["namespace" "name" "base_name"] => images::import;
    GET "/api/v1/images/{id}" Read ["namespace"] => images::show;
    PATCH "/api/v1/images/{id}" Write ["namespace"] => images::update;
    DELETE "/api/v1/images/{id}" Write ["namespace"] => images::delete;
    GET "/api/v1/images/{id}/manifest" Read ["namespace" "platform"] => images::manifest;
    GET "/api/v1/images/{id}/history" Read ["namespace" "platform"] => images::history;
    GET "/api/v1/images/{id}/usage" Read ["namespace"] => images::usage;
    GET "/api/v1/images/{id}/check" Read ["namespace" "platform"] => images::check;
    GET "/api/v1/images/{id}/archive" Read ["namespace" "platform" "skip_missing"] => images::archive;
    HEAD "/api/v1/images/{id}/archive" Read ["namespace" "platform" "skip_missing"] => images::archive;

    GET "/api/v1/images/{id}/files" Read ["namespace" "platform" "path" "path_base64" "recursive" "limit" "cursor"] => files::list_of_image;
    GET "/api/v1/images/{id}/files/data" Read ["namespace" "platform" "path" "path_base64" "inline"] => files::read_of_image;
    HEAD "/api/v1/images/{id}/files/data" Read ["namespace" "platform" "path" "path_base64" "inline"] => files::read_of_image;

    GET "/api/v1/namespaces" Read ["sort" "filter" "label" "limit" "cursor"] => namespaces::list;
    POST "/api/v1/namespaces" Write [] => namespaces::create;
    GET "/api/v1/namespaces/{name}" Read [] => namespaces::show;
    PATCH "/api/v1/namespaces/{name}" Write [] => namespaces::update;
    DELETE "/api/v1/namespaces/{name}" Write [] => namespaces::delete;

    GET "/api/v1/leases" Read ["namespace" "kind" "sort" "filter" "label" "limit" "cursor"] => leases::list;
    POST "/api/v1/leases" Write ["namespace"] => leases::create;
    GET "/api/v1/leases/{id}" Read ["namespace"] => leases::show;
    PATCH "/api/v1/leases/{id}" Write ["namespace"] => leases::update;
    DELETE "/api/v1/leases/{id}" Write ["namespace"] => leases::delete;
    GET "/api/v1/leases/{id}/resources" Read ["namespace" "limit" "cursor"] => leases::resources;
    PUT "/api/v1/leases/{id}/resources/{type}/{rid}" Write ["namespace"] => leases::add_resource;
    DELETE "/api/v1/leases/{id}/resources/{type}/{rid}" Write ["namespace"] => leases::remove_resource;

    GET "/api/v1/pulls" Read ["namespace" "state" "sort" "filter" "label" "limit" "cursor"] => pulls::list;
    POST "/api/v1/pulls" Write ["namespace" "dry_run"] => pulls::create;
    GET "/api/v1/pulls/{id}" Read ["namespace" "wait"] => pulls::show;
    DELETE "/api/v1/pulls/{id}" Write ["namespace" "purge"] => pulls::cancel;
    GET "/api/v1/pulls/{id}/events" Read ["namespace"] => pulls::events;
    POST "/api/v1/pulls/{id}/retry" Write ["namespace"] => pulls::retry;
    GET "/api/v1/pulls/{id}/trace" Read ["namespace"] => pulls::trace;

    GET "/api/v1/snapshots" Read ["namespace" "kind" "parent" "sort" "filter" "label" "limit" "cursor"] => snapshots::list;
    POST "/api/v1/snapshots" Write ["namespace"] => snapshots::prepare;
    GET "/api/v1/snapshots/{key}" Read ["namespace"] => snapshots::show;
    PATCH "/api/v1/snapshots/{key}" Write ["namespace"] => snapshots::update;
    DELETE "/api/v1/snapshots/{key}" Write ["namespace"] => snapshots::remove;
    POST "/api/v1/snapshots/{key}/commit" Write ["namespace"] => snapshots::commit;
    GET "/api/v1/snapshots/{key}/mounts" Read ["namespace" "format"] => snapshots::mounts;
    GET "/api/v1/snapshots/{key}/usage" Read ["namespace"] => snapshots::usage;
    GET "/api/v1/snapshots/{key}/changes" Read ["namespace" "limit" "cursor"] => files::changes;
    GET "/api/v1/snapshots/{key}/files" Read ["namespace" "path" "path_base64" "recursive" "limit" "cursor"] => files::list_of_snapshot;
    GET "/api/v1/snapshots/{key}/files/data" Read ["namespace" "path" "path_base64" "inline"] => files::read_of_snapshot;
    HEAD "/api/v1/snapshots/{key}/files/data" Read ["namespace" "path" "path_base64" "inline"] => files::read_of_snapshot;
    GET "/api/v1/snapshots/{key}/archive" Read ["namespace"] => files::archive_of_snapshot;

    POST "/api/v1/diffs" Write ["namespace"] => diffs::create;
    POST "/api/v1/diffs/apply" Write ["namespace"] => diffs::apply;

    GET "/api/v1/unpacks" Read ["namespace" "state" "sort" "filter" "label" "limit" "cursor"] => unpacks::list;
    POST "/api/v1/unpacks" Write ["namespace"] => unpacks::create;
    GET "/api/v1/unpacks/{id}" Read ["namespace" "wait"] => unpacks::show;
    DELETE "/api/v1/unpacks/{id}" Write ["namespace" "purge"] => unpacks::cancel;
    GET "/api/v1/unpacks/{id}/events" Read ["namespace"] => unpacks::events;

    GET "/api/v1/registries" Admin [] => registries::list;
    GET "/api/v1/registries/{host}" Admin [] => registries::show;
    PUT "/api/v1/registries/{host}" Admin [] => registries::put;
    DELETE "/api/v1/registries/{host}" Admin [] => registries::delete;
    POST "/api/v1/registries/{host}/test" Admin [] => registries::test;

    GET "/api/v1/events" Read ["namespace" "all_namespaces" "topic" "after" "filter" "sort" "limit" "cursor"] => events::list_or_follow;

    GET "/api/v1/tokens" Admin ["sort" "limit" "cursor"] => tokens::list;
    POST "/api/v1/tokens" Admin [] => tokens::create;
    GET "/api/v1/tokens/{id}" Admin [] => tokens::show;
    DELETE "/api/v1/tokens/{id}" Admin [] => tokens::revoke;
}
