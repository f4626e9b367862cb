//! Namespaces: there on first use, gone only when empty, seen only by those who reach them.

use serde_json::{Value, json};

use crate::support::app::{TestApp, story};

const NAMESPACES: &str = "/api/v1/namespaces";

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item["name"].as_str().expect("a name")).collect()
}

/// The secret of a token that may do everything in `namespaces`.
async fn token_for(app: &TestApp, namespaces: &[&str]) -> String {
    let body = json!({"name": "limited", "scopes": ["admin"], "namespaces": namespaces});
    let token = app.post("/api/v1/tokens").json(body).await.expect(201).json();
    token["secret"].as_str().expect("a secret").to_owned()
}

story!(a_namespace_appears_with_the_first_thing_in_it, async |app| {
    assert_eq!(names(&app.get(NAMESPACES).await.json()), ["default"]);
    app.post("/api/v1/content?namespace=build").body("hello").await.expect(201);
    assert_eq!(names(&app.get(NAMESPACES).await.json()), ["build", "default"]);
    let build = app.get(format!("{NAMESPACES}/build")).await.expect(200);
    assert_eq!(build.json()["created_at"], app.clock.now().to_string());
    let known = app.get(format!("{NAMESPACES}/build")).header("If-None-Match", build.header("etag")).await;
    assert_eq!(known.status, 304);
    assert_eq!(app.get(format!("{NAMESPACES}/nowhere")).await.to_string(), "404 not-found");
});

story!(a_namespace_is_made_with_labels_and_patched, async |app| {
    let made =
        app.post(NAMESPACES).json(json!({"name": "build", "labels": {"owner": "ci"}})).await.expect(201);
    let now = app.clock.now().to_string();
    let namespace = json!({"name": "build", "labels": {"owner": "ci"}, "created_at": now, "updated_at": now});
    assert_eq!(made.json(), namespace);
    let path = made.header("location");
    assert_eq!(path, format!("{NAMESPACES}/build"));
    assert_eq!(app.post(NAMESPACES).json(json!({"name": "build"})).await.to_string(), "409 already-exists");
    let patched =
        app.patch(path).merge_patch(json!({"labels": {"owner": null, "tier": "2"}})).await.expect(200);
    assert_eq!(patched.json()["labels"], json!({"tier": "2"}));
    assert_ne!(patched.header("etag"), made.header("etag"));
    let slow = app.patch(path).header("If-Match", made.header("etag")).merge_patch(json!({"labels": null}));
    assert_eq!(slow.await.to_string(), "412 precondition-failed");
    assert_eq!(names(&app.get(format!("{NAMESPACES}?label=tier=2")).await.json()), ["build"]);
    assert_eq!(names(&app.get(format!("{NAMESPACES}?filter=name~=^b")).await.json()), ["build"]);
});

story!(a_name_that_is_none_is_refused_everywhere, async |app| {
    for name in ["a..b", ".a", "a-", "a b", "ä", &"x".repeat(77)] {
        let made = app.post(NAMESPACES).json(json!({"name": name})).await;
        assert_eq!(made.expect(400).json()["field"], "name", "{name}");
    }
    for name in ["a..b", ".a", "a%20b", "a%2fb"] {
        assert_eq!(
            app.get(format!("{NAMESPACES}/{name}")).await.to_string(),
            "400 invalid-argument",
            "{name}"
        );
        let list = app.get(format!("/api/v1/images?namespace={name}")).await;
        assert_eq!(list.expect(400).json()["field"], "namespace", "{name}");
    }
});

story!(a_namespace_goes_when_nothing_is_inside, async |app| {
    app.post("/api/v1/leases?namespace=build").json(json!({"id": "mine"})).await.expect(201);
    let stored = app.post("/api/v1/content?namespace=build").body("hello").await.expect(201).json();
    let path = format!("{NAMESPACES}/build");
    let refused = app.delete(&path).await.expect(409);
    assert_eq!(refused.problem_code(), "not-empty");
    assert_eq!(refused.json()["inside"], json!(["1 content", "1 leases"]));
    app.delete("/api/v1/leases/mine?namespace=build").await.expect(204);
    let digest = stored["digest"].as_str().expect("a digest");
    app.delete(format!("/api/v1/content/{digest}?namespace=build")).await.expect(204);
    app.delete(&path).header("If-Match", "\"old\"").await.expect(412);
    app.delete(&path).await.expect(204);
    assert_eq!(app.delete(&path).await.to_string(), "404 not-found");
});

story!(of_the_default_namespace_only_the_labels_go, async |app| {
    let path = format!("{NAMESPACES}/default");
    app.patch(&path).merge_patch(json!({"labels": {"a": "1"}})).await.expect(200);
    app.delete(&path).await.expect(204);
    assert_eq!(app.get(&path).await.expect(200).json()["labels"], json!({}));
});

story!(a_limited_token_sees_and_touches_its_own_namespaces_only, async |app| {
    app.post(NAMESPACES).json(json!({"name": "theirs"})).await.expect(201);
    app.post(NAMESPACES).json(json!({"name": "mine"})).await.expect(201);
    let secret = token_for(app, &["mine", "new"]).await;
    assert_eq!(names(&app.get(NAMESPACES).token(&secret).await.json()), ["mine"]);
    app.get(format!("{NAMESPACES}/mine")).token(&secret).await.expect(200);
    app.post(NAMESPACES).token(&secret).json(json!({"name": "new"})).await.expect(201);
    let theirs = format!("{NAMESPACES}/theirs");
    for answer in [
        app.get(&theirs).token(&secret).await,
        app.patch(&theirs).token(&secret).merge_patch(json!({"labels": null})).await,
        app.delete(&theirs).token(&secret).await,
        app.get(format!("{NAMESPACES}/nowhere")).token(&secret).await,
        app.post(NAMESPACES).token(&secret).json(json!({"name": "other"})).await,
        app.get("/api/v1/images?namespace=theirs").token(&secret).await,
        app.get("/api/v1/images").token(&secret).await,
        app.post("/api/v1/leases?namespace=theirs").token(&secret).await,
    ] {
        assert_eq!(answer.to_string(), "403 forbidden");
    }
});

story!(a_repeated_post_with_one_key_makes_one_namespace, async |app| {
    let ask = |name: &str| app.post(NAMESPACES).header("Idempotency-Key", "k").json(json!({"name": name}));
    let first = ask("build").await.expect(201);
    assert_eq!(ask("build").await.expect(201).json(), first.json());
    assert_eq!(ask("other").await.to_string(), "422 idempotency-key-reused");
});
