//! The harness itself: what every other test leans on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::support::command::run;
use crate::support::contract::{Answer, Contract};
use crate::support::docker_registry::{DockerRegistry, skopeo_copy};
use crate::support::image::{Image, Kind};
use crate::support::postgres::{Cluster, Stop, execute, fresh_database};

#[test]
fn a_command_tells_its_status_and_both_outputs() {
    let ran = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), Duration::from_secs(10));
    assert_eq!((ran.status.code(), ran.stdout.as_str(), ran.stderr.as_str()), (Some(3), "out\n", "err\n"));
}

#[test]
#[should_panic(expected = "did not end within")]
fn a_command_that_does_not_end_is_killed() {
    run(Command::new("sleep").arg("1000"), Duration::from_millis(50));
}

#[test]
fn each_test_has_an_empty_database_of_its_own() {
    let (one, other) = (fresh_database(), fresh_database());
    for database in [&one, &other] {
        execute(&database.url(), "CREATE TABLE t (n BIGINT)").expect("no table of this name yet");
    }
    let url = one.url();
    drop(one);
    assert!(execute(&url, "SELECT 1").is_err(), "the database went with its value");
}

#[test]
fn a_cluster_comes_back_with_its_data_and_goes_with_its_owner() {
    let cluster = Cluster::start();
    let database = cluster.fresh_database();
    execute(&database.url(), "CREATE TABLE kept (n BIGINT)").expect("a table is made");
    cluster.stop(Stop::Immediate);
    assert!(execute(&database.url(), "SELECT * FROM kept").is_err(), "nobody answers");
    cluster.start_again();
    execute(&database.url(), "SELECT * FROM kept").expect("the table is still there");
    let directory = cluster.directory();
    assert!(directory.exists());
    drop((database, cluster));
    assert!(!directory.exists(), "the directory went with the cluster");
}

#[tokio::test]
async fn an_image_is_the_same_bytes_every_time() {
    for kind in [Kind::Oci, Kind::Docker] {
        let platforms = ["linux/amd64", "linux/arm64/v8"];
        let image = Image::multi_platform(kind, &platforms).await;
        assert_eq!(image, Image::multi_platform(kind, &platforms).await);
        // A shared layer; for each platform a layer, a config and a manifest; then the index.
        assert_eq!(image.blobs.len(), 1 + 2 * 3 + 1);
    }
}

#[tokio::test]
async fn an_image_goes_to_the_registry_and_comes_back_with_the_same_digest() {
    for kind in [Kind::Oci, Kind::Docker] {
        let directory = tempfile::tempdir().expect("a directory");
        let (out, back) = (directory.path().join("out"), directory.path().join("back"));
        let image = Image::multi_platform(kind, &["linux/amd64", "linux/arm64/v8"]).await;
        let registry = DockerRegistry::start();
        let there = format!("docker://{}/cargo/rope:v1", registry.host());
        skopeo_copy(&image.write_dir(&out), &there);
        skopeo_copy(&there, &format!("dir:{}", back.display()));
        assert_eq!(read(&back.join("manifest.json")), image.top().bytes, "{kind:?}");
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn contract() -> Contract {
    let problem = json!({"content": {"application/problem+json": {"schema": {
        "type": "object", "required": ["code"], "properties": {"code": {"type": "string"}},
    }}}});
    let blob = json!({
        "type": "object",
        "required": ["size", "parent"],
        "additionalProperties": false,
        "properties": {
            "size": {"type": "integer", "format": "int64", "minimum": 0, "exclusiveMinimum": true},
            "parent": {"nullable": true, "allOf": [{"$ref": "#/components/schemas/Digest"}]},
            "made_at": {"type": "string", "format": "date-time"},
        },
    });
    Contract::load(json!({
        "servers": [{"url": "/api/v1"}],
        "paths": {
            "/content/{digest}": {
                "get": {"operationId": "getContent", "responses": {
                    "200": {
                        "headers": {
                            "ETag": {"required": true, "schema": {"type": "string"}},
                            "Upload-Offset": {"$ref": "#/components/headers/Offset"},
                        },
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Blob"}},
                            "application/x-ndjson": {"schema": {"$ref": "#/components/schemas/Blob"}},
                            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                        },
                    },
                    "4XX": {"$ref": "#/components/responses/Problem"},
                }},
                "delete": {"operationId": "deleteContent", "responses": {"204": {"description": "gone"}}},
            },
            "/content/latest": {"get": {"operationId": "getLatest", "responses": {"200": {}}}},
        },
        "components": {
            "headers": {"Offset": {"schema": {"type": "integer"}}},
            "responses": {"Problem": problem},
            "schemas": {"Digest": {"type": "string", "pattern": "^sha256:"}, "Blob": blob},
        },
    }))
}

/// What the contract says to an answer with an ETag, of a type, with a body.
fn said(status: u16, content_type: &'static str, body: &[u8]) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert("etag", HeaderValue::from_static("\"1\""));
    headers.insert("content-type", HeaderValue::from_static(content_type));
    contract().check(&Answer {
        method: "GET",
        path: "/api/v1/content/sha256:ab",
        status,
        headers: &headers,
        body,
    })
}

fn said_of(body: &Value) -> Result<(), String> {
    said(200, "application/json; charset=utf-8", body.to_string().as_bytes())
}

#[test]
fn an_answer_as_documented_is_taken() {
    said_of(&json!({"size": 1, "parent": null, "made_at": "2026-11-21T10:00:00.000000Z"})).expect("all good");
    said_of(&json!({"size": 1, "parent": "sha256:ab"})).expect("all good");
    said(404, "application/problem+json", br#"{"code":"not-found"}"#).expect("a problem");
    let lines = b"{\"size\":1,\"parent\":null}\n{\"size\":2,\"parent\":null}\n";
    said(200, "application/x-ndjson", lines).expect("two lines");
    said(200, "application/octet-stream", b"\xff\x00").expect("bytes");
}

#[test]
fn an_answer_that_the_contract_does_not_know_is_refused_in_words() {
    for (body, reason) in [
        (json!({"size": 1}), "\"parent\" is a required property"),
        (json!({"size": 0, "parent": null}), "at `/size`"),
        (json!({"size": 1, "parent": "md5:ab"}), "at `/parent`"),
        (json!({"size": 1, "parent": null, "made_at": "yesterday"}), "at `/made_at`"),
        (json!({"size": 1, "parent": null, "secret": 1}), "'secret' was unexpected"),
    ] {
        let refused = said_of(&body).expect_err("not as documented");
        assert!(refused.contains(reason), "{refused}");
    }
    let refusals = [
        (said(500, "application/problem+json", b"{}"), "the status is not in the contract"),
        (said(404, "application/json", b"{}"), "the content type application/json is not in the contract"),
        (said(404, "application/problem+json", b"{}"), "\"code\" is a required property"),
        (said(200, "application/json", b"{"), "not JSON"),
        (said(200, "application/x-ndjson", b"{\"size\":1,\"parent\":null}\n{}"), "required property"),
    ];
    for (said, reason) in refusals {
        let refused = said.expect_err(reason);
        assert!(refused.starts_with("GET /api/v1/content/sha256:ab answered"), "{refused}");
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn headers_and_empty_bodies_are_held_against_the_contract_too() {
    let check = |method, status, headers: &HeaderMap, body| {
        contract().check(&Answer { method, path: "/api/v1/content/sha256:ab", status, headers, body })
    };
    let mut headers = HeaderMap::new();
    let refused = check("GET", 200, &headers, b"{}".as_slice()).expect_err("no ETag");
    assert!(refused.ends_with("the header ETag is missing"), "{refused}");
    headers.insert("etag", HeaderValue::from_static("\"1\""));
    headers.insert("upload-offset", HeaderValue::from_static("many"));
    let refused = check("GET", 200, &headers, b"{}".as_slice()).expect_err("not a number");
    assert!(refused.contains("the header Upload-Offset"), "{refused}");
    check("DELETE", 204, &headers, b"".as_slice()).expect("no body");
    check("DELETE", 204, &headers, b"x".as_slice()).expect_err("a body");
    check("PUT", 204, &headers, b"".as_slice()).expect_err("an undocumented method");
}

#[test]
fn a_path_belongs_to_the_operation_that_names_it_most_exactly() {
    let contract = contract();
    let id = |path| contract.operation("GET", path).map(|operation| operation.id.as_str());
    assert_eq!(id("/api/v1/content/latest"), Some("getLatest"));
    assert_eq!(id("/api/v1/content/sha256:ab"), Some("getContent"));
    assert_eq!(id("/api/v1/content/"), None);
    assert_eq!(id("/content/latest"), None);
    assert_eq!(contract.operations().len(), 3);
}
