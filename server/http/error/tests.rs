use std::collections::{BTreeSet, HashSet};

use http_body_util::BodyExt;
use serde_json::json;

use super::*;
use crate::error::{Invalid, Upstream};

async fn answered(error: impl Into<ApiError>) -> (Response<()>, serde_json::Value) {
    let (parts, body) = error.into().into_response().into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).expect("JSON"))
}

/// One of each, as far as tests can make it: the table itself is exhaustive by `match`.
fn one_of_each() -> Vec<ApiError> {
    let text = || "x".to_owned();
    let upstream = |kind| {
        Error::Upstream(Upstream { kind, host: text(), reason: text(), status: Some(418), retry_after: None })
    };
    let store = [
        Error::not_found("image", "x"),
        Error::already_exists("lease", "x"),
        Error::Invalid(Invalid { reason: text(), field: None, position: None }),
        Error::Unprocessable(Unprocessable::ValidationFailed { reason: text() }),
        Error::Unprocessable(Unprocessable::NotAManifest { digest: text(), reason: text() }),
        Error::Unprocessable(Unprocessable::NotAnArchive { digest: text(), reason: text() }),
        Error::Unprocessable(Unprocessable::ChunkDigestMismatch {
            expected: text(),
            actual: text(),
            offset: 1,
        }),
        Error::Unprocessable(Unprocessable::IdempotencyKeyReused),
        Error::Conflict(Conflict::DigestMismatch { expected: text(), actual: text() }),
        Error::Conflict(Conflict::SizeMismatch { expected: 1, actual: 2 }),
        Error::Conflict(Conflict::OffsetMismatch { expected: 1, provided: 2 }),
        Error::Conflict(Conflict::ContentInUse { digest: text(), holders: Vec::new() }),
        Error::Conflict(Conflict::HasChildren { key: text(), children: vec![text()] }),
        Error::Conflict(Conflict::NotEmpty { what: "namespace", id: text(), inside: vec![text()] }),
        Error::Conflict(Conflict::Incomplete { count: 1, missing: vec![text()] }),
        Error::NoPlatform { wanted: text(), available: vec![text()] },
        Error::Conflict(Conflict::State { reason: text() }),
        Error::Busy { offset: 1, retry_after: Duration::from_secs(1) },
        Error::Gone { what: "events", oldest: 1 },
        Error::PreconditionFailed { reason: text() },
        Error::WriterLost,
        Error::TooLarge { what: "the body", limit: 1 },
        Error::TooMany { what: "pulls", limit: 1, retry_after: Duration::from_secs(1) },
        Error::OutOfSpace { doing: text(), source: text().into() },
        Error::Unavailable { what: "the database", source: None },
        Error::Corrupt { digest: text(), reason: text() },
        Error::internal("x"),
        upstream(UpstreamKind::Unreachable),
        upstream(UpstreamKind::Untrusted),
        upstream(UpstreamKind::Denied),
        upstream(UpstreamKind::CredentialRefused),
        upstream(UpstreamKind::NotFound),
        upstream(UpstreamKind::PartMissing),
        upstream(UpstreamKind::RateLimited),
        upstream(UpstreamKind::ServerError),
        upstream(UpstreamKind::BadAnswer),
        upstream(UpstreamKind::Mismatch),
        upstream(UpstreamKind::NoPlatform),
        upstream(UpstreamKind::PrivateAddress),
        upstream(UpstreamKind::Forbidden),
    ];
    let http = [
        ApiError::Unauthenticated { reason: "x" },
        ApiError::Forbidden { reason: text() },
        ApiError::Misdirected { host: text() },
        ApiError::NoSuchPath,
        ApiError::MethodNotAllowed,
        ApiError::NotAcceptable { offered: "x" },
        ApiError::UnsupportedMediaType { expected: "x" },
        ApiError::RangeNotSatisfiable { size: 1 },
        ApiError::UriTooLong,
        ApiError::HeadersTooLarge,
    ];
    store.into_iter().map(ApiError::from).chain(http).collect()
}

#[test]
fn the_documented_problems_are_those_of_the_table() {
    let documented: BTreeSet<_> = kinds::PROBLEMS.iter().map(|doc| doc.code).collect();
    assert_eq!(documented.len(), kinds::PROBLEMS.len(), "codes are unique");
    let answered: BTreeSet<_> = one_of_each().iter().map(|error| error.doc().code).collect();
    assert_eq!(documented, answered);
    let statuses: Vec<_> = kinds::PROBLEMS.iter().map(|doc| doc.status).collect();
    assert!(statuses.is_sorted(), "by status");
    assert_eq!(kinds::find("writer-lost"), Some(kinds::WRITER_LOST));
}

#[tokio::test]
async fn every_problem_has_the_members_of_rfc_9457_and_ours() {
    for error in one_of_each() {
        let doc = error.doc();
        let (head, body) = answered(error).await;
        assert_eq!(head.headers()["content-type"], "application/problem+json");
        assert_eq!(head.status(), doc.status);
        assert_eq!(body["status"], doc.status.as_u16());
        assert_eq!(body["type"], format!("/problems/{}", doc.code));
        for member in ["title", "detail", "code", "hint"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {body}");
        }
    }
}

#[tokio::test]
async fn a_failure_of_the_server_tells_its_cause_to_the_log_alone() {
    let secret = "/srv/orlop-data/blobs is on fire";
    for error in [
        Error::Internal { doing: secret.to_owned(), source: Some(secret.into()) },
        Error::OutOfSpace { doing: secret.to_owned(), source: secret.into() },
        Error::Unavailable { what: "the database", source: Some(secret.into()) },
        Error::Corrupt { digest: "sha256:0".to_owned(), reason: secret.to_owned() },
    ] {
        let response = ApiError::from(error).into_response();
        let problem = response.extensions().get::<Problem>().expect("kept for the log").clone();
        assert!(problem.cause.expect("a cause").contains(secret));
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert!(!String::from_utf8_lossy(&body).contains("fire"));
    }
}

#[tokio::test]
async fn what_a_program_acts_on_stands_in_headers_and_members() {
    let (head, body) = answered(Error::Busy { offset: 7, retry_after: Duration::from_millis(1_200) }).await;
    assert_eq!(head.headers()["retry-after"], "2");
    assert_eq!(head.headers()["upload-offset"], "7");
    assert_eq!(body["offset"], 7);

    let (head, body) = answered(Error::Conflict(Conflict::OffsetMismatch { expected: 5, provided: 9 })).await;
    assert_eq!(head.headers()["upload-offset"], "5");
    assert_eq!(json!([body["offset"], body["provided_offset"]]), json!([5, 9]));

    let (head, _) = answered(ApiError::RangeNotSatisfiable { size: 10 }).await;
    assert_eq!(head.headers()["content-range"], "bytes */10");
    let (head, _) = answered(Error::Unavailable { what: "the database", source: None }).await;
    assert_eq!(head.headers()["retry-after"], "5");
    let (head, _) = answered(ApiError::Unauthenticated { reason: "no token" }).await;
    assert_eq!(head.headers()["www-authenticate"], "Bearer realm=\"orlop\"");

    let holder = Holder { kind: "image".to_owned(), id: "img_1".to_owned(), name: Some("a:b".to_owned()) };
    let in_use = Conflict::ContentInUse { digest: "sha256:0".to_owned(), holders: vec![holder] };
    let (_, body) = answered(Error::Conflict(in_use)).await;
    assert_eq!(body["holders"], json!([{"kind": "image", "id": "img_1", "name": "a:b"}]));
    let (_, body) = answered(Error::invalid_at(3, "no").in_field("filter")).await;
    assert_eq!(json!([body["field"], body["position"]]), json!(["filter", 3]));
}

#[tokio::test]
async fn a_hint_is_for_what_is_missing() {
    let hint = async |error: Error| answered(error).await.1["hint"].as_str().unwrap_or_default().to_owned();
    assert!(hint(Error::not_found("image", "img_1")).await.contains("found by name"));
    for what in ["pull", "blob", "lease"] {
        let hint = hint(Error::not_found(what, "x")).await;
        assert_eq!(hint, "Check the spelling, and the `namespace` parameter.", "{what}");
    }
    let none = Error::NoPlatform { wanted: "linux/amd64".to_owned(), available: Vec::new() };
    assert!(!hint(none).await.contains("`available`"));
}

#[tokio::test]
async fn the_request_id_and_path_are_written_into_the_problem() {
    let mut response = ApiError::NoSuchPath.into_response();
    let problem = Problem::complete(&mut response, "req_1", "/nowhere").expect("a problem");
    assert_eq!(problem.request_id.as_deref(), Some("req_1"));
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(json!([body["request_id"], body["instance"]]), json!(["req_1", "/nowhere"]));
    let mut other = Response::new(Body::from("untouched"));
    assert!(Problem::complete(&mut other, "req_2", "/").is_none());
    let members: HashSet<_> = body.as_object().expect("an object").keys().map(String::as_str).collect();
    assert!(!members.contains("cause"));
}

#[tokio::test]
async fn a_hint_never_speaks_of_another_case_of_its_kind() {
    let hint = async |error: Error| {
        let (_, body) = answered(error).await;
        body["hint"].as_str().expect("a hint").to_owned()
    };
    let lists = hint(Error::Refused { reason: "x".to_owned() }).await;
    assert!(lists.contains("`denied_registries`"), "{lists}");
    let upstream = |kind| {
        let (host, reason) = ("r.io".to_owned(), "x".to_owned());
        Error::Upstream(Upstream { kind, host, reason, status: None, retry_after: None })
    };
    for (kind, words) in [
        (UpstreamKind::CredentialRefused, "is the credential right?"),
        (UpstreamKind::PartMissing, "lacks a part of its own image"),
        (UpstreamKind::PrivateAddress, "--private-registries allow"),
        (UpstreamKind::Forbidden, "No setting allows it"),
    ] {
        let told = hint(upstream(kind)).await;
        assert!(told.contains(words), "{kind:?}: {told}");
    }
}
