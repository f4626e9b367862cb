//! The contract and the route table say the same; and who may call what, for every route that there is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Method;
use orlop::http::routes::{Access, ROUTES, Route};
use orlop::store::{Expiry, NewToken, Scope};
use serde_json::{Value, json};

use crate::support::app::{On, TestApp, contract, sha256};

const SERVED_BY_AXUM: &[&str] = &["HEAD"];

/// What the contract says of a call: the scope it needs, and its query parameters.
type Said = (String, BTreeSet<String>);

fn document() -> Value {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml"));
    serde_norway::from_str(text).expect("openapi.yaml is YAML")
}

fn said_by_the_contract() -> BTreeMap<(String, String), Said> {
    let document = document();
    let resolve = |value: &Value| match value["$ref"].as_str() {
        Some(target) => document.pointer(&target[1..]).expect(target).clone(),
        None => value.clone(),
    };
    let mut said = BTreeMap::new();
    for operation in contract().operations() {
        let item = &document["paths"][&operation.path];
        let described = &item[operation.method.to_ascii_lowercase()];
        let listed = [&item["parameters"], &described["parameters"]];
        let parameters = listed.into_iter().filter_map(Value::as_array).flatten().map(resolve);
        let in_query = parameters.filter(|parameter| parameter["in"] == "query");
        let names =
            in_query.map(|parameter| parameter["name"].as_str().expect("a name").to_owned()).collect();
        let scope = described["x-orlop-scope"].as_str().expect("x-orlop-scope").to_owned();
        said.insert((operation.method, operation.path), (scope, names));
    }
    said
}

fn said_by_the_routes() -> BTreeMap<(String, String), Said> {
    let scope = |route: &Route| match route.access {
        Access::Open | Access::Known => "none",
        Access::Page | Access::Read => "read",
        Access::Write => "write",
        Access::Admin => "admin",
    };
    let names = |route: &Route| route.params.iter().map(|name| (*name).to_owned()).collect();
    ROUTES
        .iter()
        .map(|route| ((route.method.into(), route.path.into()), (scope(route).to_owned(), names(route))))
        .collect()
}

#[test]
fn every_route_is_in_the_contract_and_every_path_of_it_is_served() {
    let (contract, routes) = (said_by_the_contract(), said_by_the_routes());
    let mut wrong = Vec::new();
    for (call, said) in &contract {
        match routes.get(call) {
            None => wrong.push(format!("{call:?} is in the contract and not served")),
            Some(served) if served != said => {
                wrong.push(format!("{call:?}: the contract says {said:?}, the route table {served:?}"));
            }
            Some(_) => {}
        }
    }
    let unsaid = routes
        .keys()
        .filter(|call| !contract.contains_key(*call) && !SERVED_BY_AXUM.contains(&call.0.as_str()));
    wrong.extend(unsaid.map(|call| format!("{call:?} is served and not in the contract")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In OpenAPI 3.0 `nullable` counts beside `type` alone, and never against what `allOf` says.
#[test]
fn what_may_be_null_may_be_so_by_the_letter() {
    fn complaints(value: &Value, place: &str, found: &mut Vec<String>) {
        let inside = |key: &str| format!("{place}/{key}");
        match value {
            Value::Object(members) => {
                let has = |key: &str| members.contains_key(key);
                let is_nullable = members.get("nullable") == Some(&Value::Bool(true));
                if is_nullable && (!has("type") || has("allOf") || has("anyOf") || has("$ref")) {
                    found.push(place.to_owned());
                }
                members.iter().for_each(|(key, value)| complaints(value, &inside(key), found));
            }
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(at, item)| complaints(item, &inside(&at.to_string()), found));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = Vec::new();
    complaints(&document(), "", &mut found);
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_code_of_a_problem_is_in_the_contract() {
    let document = document();
    let codes = |pointer: &str| -> BTreeSet<String> {
        let listed = document.pointer(pointer).and_then(Value::as_array).expect(pointer);
        listed.iter().map(|code| code.as_str().expect("a code").to_owned()).collect()
    };
    let mut known = codes("/components/schemas/ProblemCode/enum");
    known.extend(codes("/components/schemas/JobErrorCode/enum"));
    let missing: Vec<_> = orlop::http::problems::PROBLEMS
        .iter()
        .map(|kind| kind.code)
        .filter(|code| !known.contains(*code))
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_knows_no_parameter_that_it_does_not_name() {
    let app = TestApp::start().await;
    for route in ROUTES {
        let joint = format!("{}?surprise=1", path_of(route, None));
        let answer = call(&app, route, &joint, None).await;
        assert_eq!(answer, 400, "{} {joint}", route.method);
    }
    app.stop().await;
}

/// The route with something in its parameters: nothing that exists.
fn path_of(route: &Route, namespace: Option<&str>) -> String {
    let path = route
        .path
        .replace("{digest}", &sha256(b"nothing"))
        .replace("{type}", "content")
        .replace("{rid}", &sha256(b"nothing"))
        .replace("{key}", "nothing")
        .replace("{code}", "not-found")
        .replace("/tokens/{id}", "/tokens/tok_01m7z4bkprvpv503p3pmrevc0w")
        .replace("/images/{id}", "/images/img_01m7z4bkprvpv503p3pmrevc0w")
        .replace("/unpacks/{id}", "/unpacks/unpack_01m7z4bkprvpv503p3pmrevc0w")
        .replace("/pulls/{id}", "/pulls/pull_01m7z4bkprvpv503p3pmrevc0w")
        .replace("/ingests/{id}", "/ingests/ing_01m7z4bkprvpv503p3pmrevc0w")
        .replace(['{', '}'], "");
    match namespace {
        Some(namespace) => format!("{path}?namespace={namespace}"),
        None => path,
    }
}

/// The status of a call with an empty document as its body, which does nothing anywhere.
async fn call(app: &TestApp, route: &Route, path: &str, secret: Option<&str>) -> u16 {
    let method = Method::from_bytes(route.method.as_bytes()).expect("a method");
    let is_read = matches!(route.method, "GET" | "HEAD");
    let mut request = app.request(method, path);
    if !is_read {
        request = match route.method {
            "PATCH" => request.merge_patch(json!({})),
            _ => request.json(json!({})),
        };
    }
    if let Some(secret) = secret {
        request = request.token(secret);
    }
    request.await.status
}

async fn token(app: &TestApp, scope: Scope, namespaces: &[&str], expiry: Expiry) -> (String, String) {
    let new = NewToken {
        name: format!("{scope:?}"),
        scopes: [scope].into(),
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        expiry,
    };
    let (token, secret) = app.state().store.create_token(new).await.expect("a token");
    (token.id.to_string(), secret)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_admits_exactly_whom_it_says() {
    for on in [On::Sqlite, On::Postgres] {
        let app = TestApp::with(on, &[("auth", "always")]).await;
        let (_, admin) = token(&app, Scope::Admin, &[], Expiry::Never).await;
        let (_, write) = token(&app, Scope::Write, &[], Expiry::Never).await;
        let (_, read) = token(&app, Scope::Read, &[], Expiry::Never).await;
        let (id, revoked) = token(&app, Scope::Admin, &[], Expiry::Never).await;
        app.delete(format!("/api/v1/tokens/{id}")).token(&admin).await.expect(204);
        let soon = app.clock.now().plus(Duration::from_secs(60));
        let (_, expired) = token(&app, Scope::Admin, &[], Expiry::At(soon)).await;
        app.clock.advance(Duration::from_secs(60));
        let garbled = format!("{}x", &admin[..admin.len() - 1]);
        for route in ROUTES {
            let path = path_of(route, None);
            let allowed = |scope: Scope| match route.access {
                Access::Open | Access::Known => true,
                Access::Page | Access::Read => scope >= Scope::Read,
                Access::Write => scope >= Scope::Write,
                Access::Admin => scope >= Scope::Admin,
            };
            for (scope, secret) in [(Scope::Read, &read), (Scope::Write, &write), (Scope::Admin, &admin)] {
                let status = call(&app, route, &path, Some(secret)).await;
                let said = format!("{} {path} with {scope:?}: {status}", route.method);
                match allowed(scope) {
                    true => assert!(!matches!(status, 401 | 403), "{said}"),
                    false => assert_eq!(status, 403, "{said}"),
                }
            }
            for (name, secret) in [
                ("none", None),
                ("revoked", Some(&revoked)),
                ("expired", Some(&expired)),
                ("garbled", Some(&garbled)),
            ] {
                let status = call(&app, route, &path, secret.map(String::as_str)).await;
                let said = format!("{} {path} with {name}: {status}", route.method);
                match route.access {
                    Access::Open | Access::Known => assert!(!matches!(status, 403 | 500..), "{said}"),
                    Access::Page => assert_eq!(status, 303, "{said}"),
                    Access::Read | Access::Write | Access::Admin => assert_eq!(status, 401, "{said}"),
                }
            }
        }
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_one_namespace_sees_no_other() {
    let app = TestApp::with(On::Sqlite, &[("auth", "always")]).await;
    let (_, mine) = token(&app, Scope::Write, &["mine"], Expiry::Never).await;
    let (_, all) = token(&app, Scope::Write, &[], Expiry::Never).await;
    let digest = sha256(b"hello");
    let path = format!("/api/v1/content/{digest}/data");
    app.put(&path).namespace("other").token(&all).body("hello").await.expect(201);
    let reached =
        ROUTES.iter().filter(|route| route.params.contains(&"namespace") && route.access != Access::Page);
    for route in reached {
        let inside = call(&app, route, &path_of(route, Some("mine")), Some(&mine)).await;
        assert_ne!(inside, 403, "{} {} inside", route.method, route.path);
        for outside in [Some("other"), None] {
            let status = call(&app, route, &path_of(route, outside), Some(&mine)).await;
            assert_eq!(status, 403, "{} {} in {outside:?}", route.method, route.path);
        }
    }
    // Sharing lends only what the caller may read.
    let open = json!({"ref": "u", "expected_digest": digest});
    let opened = app.open(open).namespace("mine").token(&mine).await.expect(201);
    assert_eq!((&opened.json()["shared"], &opened.json()["offset"]), (&json!(false), &json!(0)));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_a_path_does_not_have_is_told_which_it_has() {
    let app = TestApp::start().await;
    for (method, path) in
        [(Method::PUT, "/api/v1/content"), (Method::POST, "/healthz"), (Method::PATCH, "/api/v1/ingests")]
    {
        let refused = app.request(method.clone(), path).await;
        assert_eq!(refused.to_string(), "405 method-not-allowed", "{method} {path}");
        assert!(!refused.header("allow").is_empty());
    }
    assert_eq!(app.get("/nowhere").await.to_string(), "404 not-found");
    assert_eq!(app.get("/api/v1/").await.to_string(), "404 not-found");
    app.stop().await;
}

#[test]
fn every_topic_of_an_event_is_in_the_contract_with_its_fields() {
    let document = document();
    let said = document.pointer("/paths/~1api~1v1~1events/get/description").and_then(Value::as_str);
    let said = said.expect("events are described");
    let missing: Vec<_> = orlop::events::Topic::ALL
        .iter()
        .map(|topic| format!("`{}`", topic.as_str()))
        .filter(|topic| !said.contains(topic))
        .collect();
    assert_eq!(missing, [""; 0]);
}
