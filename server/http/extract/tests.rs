use std::collections::BTreeMap;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::json;
use tower::ServiceExt;

use super::*;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    #[serde(rename = "ref")]
    name: String,
    total: Option<u64>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    #[serde(default, deserialize_with = "given")]
    media_type: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    labels: Option<BTreeMap<String, Option<String>>>,
}

fn app() -> Router {
    let open = |Json(open): Json<Open>| async move {
        format!("{} {:?} {}", open.name, open.total, open.labels.len()).into_response()
    };
    let maybe = |open: Option<Json<Open>>| async move { open.is_some().to_string().into_response() };
    let edit = |MergePatch(edit): MergePatch<Edit>| async move { format!("{edit:?}").into_response() };
    let number = |Path(number): Path<u32>| async move { number.to_string().into_response() };
    let name = |Path(name): Path<String>| async move { name.into_response() };
    Router::new()
        .route("/open", post(open))
        .route("/maybe", post(maybe))
        .route("/edit", post(edit))
        .route("/number/{n}", get(number))
        .route("/name/{name}", get(name))
}

/// The status and, of a problem, the field, its position and the detail; else the body.
async fn ask(method: &str, path: &str, kind: &str, body: impl Into<Body>) -> (u16, serde_json::Value) {
    let mut request = http::Request::builder().method(method).uri(path);
    if !kind.is_empty() {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    let response = app().oneshot(request.body(body.into()).expect("a request")).await.expect("answered");
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    match status {
        200 => (200, json!(text)),
        _ => (status, serde_json::from_str(&text).expect("a problem")),
    }
}

async fn open(body: impl Into<Body>) -> (u16, serde_json::Value) {
    ask("POST", "/open", "application/json; charset=utf-8", body).await
}

#[tokio::test]
async fn a_wrong_field_is_named_by_its_path() {
    assert_eq!(open(r#"{"ref":"a","total":3}"#).await, (200, json!("a Some(3) 0")));
    for (body, field) in [
        (r#"{"ref":"a","totl":3}"#, json!("totl")),
        (r#"{"ref":"a","total":-3}"#, json!("total")),
        (r#"{"ref":"a","labels":{"x/y":7}}"#, json!("labels.x/y")),
        (r#"{"total":3}"#, json!(null)),
        (r#"{"ref":"a"} x"#, json!(null)),
        (r#"{"ref":"a","ref":"b"}"#, json!(null)),
        ("", json!(null)),
        ("[]]", json!(null)),
    ] {
        let (status, problem) = open(body).await;
        assert_eq!((status, &problem["field"]), (400, &field), "{body}: {problem}");
        assert_eq!(problem["code"], "invalid-argument");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_told_in_words_of_json() {
    for (body, detail) in [
        ("", "the body is empty: JSON is expected"),
        (" \n", "the body is empty: JSON is expected"),
        ("{bad", "the body is not JSON: key must be a string at line 1 column 2"),
        (r#"{"ref":"#, "the body is not JSON: EOF while parsing a value at line 1 column 7"),
        (r#"{"ref":"a"} x"#, "the body is not JSON: trailing characters at line 1 column 13"),
        ("[]", "the body must be an object"),
        (r#"{"ref":7}"#, "`ref` must be a string"),
        (r#"{"ref":"a","total":-3}"#, "`total` must be a whole number, 0 or more"),
        (r#"{"ref":"a","total":"s3cret, expected x"}"#, "`total` must be a whole number, 0 or more"),
        (r#"{"ref":"a","labels":[]}"#, "`labels` must be an object"),
        (r#"{"total":3}"#, "missing field `ref`"),
    ] {
        let (status, problem) = open(body).await;
        assert_eq!((status, &problem["detail"]), (400, &json!(detail)), "{body}");
    }
    let (_, problem) = open("{bad").await;
    assert_eq!(problem["field"], json!(null), "a field that nobody could read is none");
}

#[tokio::test]
async fn a_body_must_be_announced_as_json() {
    for kind in
        ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data"]
    {
        let (status, problem) = ask("POST", "/open", kind, r#"{"ref":"a"}"#).await;
        assert_eq!((status, &problem["code"]), (415, &json!("unsupported-media-type")), "{kind}");
    }
}

#[tokio::test]
async fn a_body_too_large_or_too_deep_is_refused() {
    let large = format!(r#"{{"ref":"{}"}}"#, "x".repeat(limits::JSON_BODY_BYTES));
    let (status, problem) = open(large.clone()).await;
    assert_eq!((status, &problem["limit"]), (413, &json!(limits::JSON_BODY_BYTES)));
    // Without an announced length it is found out while reading.
    let pieces: Vec<_> =
        large.as_bytes().chunks(65_536).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let streamed = Body::from_stream(futures_util::stream::iter(pieces));
    assert_eq!(open(streamed).await.0, 413);
    let (status, problem) = open("[".repeat(100_000)).await;
    assert_eq!((status, &problem["position"]), (400, &json!(limits::JSON_DEPTH)));
}

#[tokio::test]
async fn a_missing_body_is_none_only_where_that_is_allowed() {
    assert_eq!(ask("POST", "/maybe", "", Body::empty()).await, (200, json!("false")));
    assert_eq!(ask("POST", "/maybe", "application/json", r#"{"ref":"a"}"#).await, (200, json!("true")));
    assert_eq!(ask("POST", "/maybe", "application/json", "{").await.0, 400);
    assert_eq!(ask("POST", "/open", "", Body::empty()).await.0, 415);
}

#[tokio::test]
async fn a_merge_patch_tells_removal_from_absence() {
    let edit = async |body: &'static str| ask("POST", "/edit", "application/merge-patch+json", body).await.1;
    assert_eq!(edit("{}").await, "Edit { media_type: None, labels: None }");
    assert_eq!(edit(r#"{"media_type":null}"#).await, "Edit { media_type: Some(None), labels: None }");
    let set = edit(r#"{"media_type":"a/b","labels":{"x":null}}"#).await;
    assert_eq!(set, r#"Edit { media_type: Some(Some("a/b")), labels: Some({"x": None}) }"#);
}

#[tokio::test]
async fn a_wrong_path_parameter_is_named() {
    assert_eq!(ask("GET", "/number/7", "", Body::empty()).await, (200, json!("7")));
    let (status, problem) = ask("GET", "/number/seven", "", Body::empty()).await;
    assert_eq!((status, &problem["field"]), (400, &json!("n")));
    for wrong in ["%ff", "%c0%af", "a%00b"] {
        let (status, problem) = ask("GET", &format!("/name/{wrong}"), "", Body::empty()).await;
        assert_eq!((status, &problem["field"]), (400, &json!("name")), "{wrong}");
    }
}
