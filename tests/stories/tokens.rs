//! Tokens: made, shown once, limited, expired, revoked; and who the caller is.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{TestApp, story};

const TOKENS: &str = "/api/v1/tokens";
const WHOAMI: &str = "/api/v1/whoami";

async fn made(app: &TestApp, body: Value) -> Value {
    app.post(TOKENS).json(body).await.expect(201).json()
}

fn secret(token: &Value) -> &str {
    token["secret"].as_str().expect("a secret")
}

fn path(token: &Value) -> String {
    format!("{TOKENS}/{}", token["id"].as_str().expect("an id"))
}

story!(a_secret_is_in_the_first_answer_and_nowhere_else, async |app| {
    let body = json!({"name": "ci", "scopes": ["write", "read"], "namespaces": ["default"], "ttl": "90d"});
    let answer = app.post(TOKENS).json(body).await.expect(201);
    let mut token = answer.json();
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("location"), path(&token));
    assert!(secret(&token).starts_with("orl_"));
    let secret = token.as_object_mut().expect("an object").remove("secret").expect("a secret");
    let now = app.clock.now();
    assert_eq!(
        token,
        json!({
            "id": token["id"], "name": "ci", "scopes": ["read", "write"], "namespaces": ["default"],
            "created_at": now.to_string(), "last_used_at": null,
            "expires_at": now.plus(Duration::from_secs(90 * 86_400)).to_string(),
        })
    );
    let found = app.get(path(&token)).await.expect(200);
    assert_eq!(found.json(), token);
    let list = app.get(TOKENS).await.expect(200);
    assert_eq!(list.json()["items"], json!([token]));
    let secret = secret.as_str().expect("text").as_bytes();
    assert!(!list.body.windows(secret.len()).any(|bytes| bytes == secret));
});

story!(using_a_token_is_noted_and_changes_its_tag, async |app| {
    let token = made(app, json!({"name": "ci", "scopes": ["read"]})).await;
    let tag = app.get(path(&token)).await.header("etag").to_owned();
    app.get(WHOAMI).token(secret(&token)).await.expect(200);
    let used = app.get(path(&token)).await;
    assert_eq!(used.json()["last_used_at"], app.clock.now().to_string());
    assert_ne!(used.header("etag"), tag);
    for (tag, status) in [(tag.as_str(), 200), (used.header("etag"), 304)] {
        assert_eq!(app.get(path(&token)).header("If-None-Match", tag).await.status, status);
    }
    app.delete(path(&token)).header("If-Match", &tag).await.expect(412);
    app.delete(path(&token)).header("If-Match", used.header("etag")).await.expect(204);
});

story!(a_token_that_cannot_be_understood_is_not_made, async |app| {
    let many: Vec<String> = (0..101).map(|n| format!("n{n}")).collect();
    for (field, body) in [
        ("name", json!({"name": "", "scopes": ["read"]})),
        ("name", json!({"name": "a\u{7}", "scopes": ["read"]})),
        ("scopes", json!({"name": "a", "scopes": []})),
        ("scopes", json!({"name": "a", "scopes": ["read", "read"]})),
        ("scopes[0]", json!({"name": "a", "scopes": ["root"]})),
        ("namespaces", json!({"name": "a", "scopes": ["read"], "namespaces": ["b", "b"]})),
        ("namespaces", json!({"name": "a", "scopes": ["read"], "namespaces": ["b..c"]})),
        ("namespaces", json!({"name": "a", "scopes": ["read"], "namespaces": many})),
        ("ttl", json!({"name": "a", "scopes": ["read"], "ttl": "1d", "expires_at": "2999-01-01T00:00:00Z"})),
        ("expires_at", json!({"name": "a", "scopes": ["read"], "expires_at": "2001-01-01T00:00:00Z"})),
        ("secret", json!({"name": "a", "scopes": ["read"], "secret": "orl_mine"})),
    ] {
        let refused = app.post(TOKENS).json(body.clone()).await.expect(400);
        assert_eq!(refused.json()["field"], field, "{body}");
    }
    assert_eq!(app.get(TOKENS).await.json()["items"], json!([]));
});

story!(each_scope_includes_the_ones_before_it, async |app| {
    for (scope, read, write, admin) in
        [("read", 200, 403, 403), ("write", 200, 201, 403), ("admin", 200, 201, 200)]
    {
        let token = made(app, json!({"name": scope, "scopes": [scope]})).await;
        let secret = secret(&token);
        assert_eq!(app.get("/api/v1/images").token(secret).await.status, read, "{scope}");
        assert_eq!(app.post("/api/v1/leases").token(secret).await.status, write, "{scope}");
        assert_eq!(app.get("/api/v1/system/info").token(secret).await.status, admin, "{scope}");
    }
});

story!(an_expired_or_revoked_token_lets_nobody_in, async |app| {
    let brief = made(app, json!({"name": "brief", "scopes": ["read"], "ttl": "1m"})).await;
    let lasting = made(app, json!({"name": "lasting", "scopes": ["read"]})).await;
    app.clock.advance(Duration::from_secs(60));
    let expired = app.get("/api/v1/images").token(secret(&brief)).await;
    assert_eq!(expired.to_string(), "401 unauthenticated");
    app.get("/api/v1/images").token(secret(&lasting)).await.expect(200);
    app.delete(path(&lasting)).header("If-Match", "\"old\"").await.expect(412);
    app.delete(path(&lasting)).await.expect(204);
    for path in ["/api/v1/images", WHOAMI] {
        let revoked = app.get(path).token(secret(&lasting)).await;
        assert_eq!(revoked.to_string(), "401 unauthenticated");
        assert!(revoked.header("www-authenticate").starts_with("Bearer"));
    }
    assert_eq!(app.delete(path(&lasting)).await.to_string(), "404 not-found");
    assert_eq!(app.get(format!("{TOKENS}/ci")).await.to_string(), "400 invalid-argument");
});

story!(on_loopback_nobody_in_particular_may_do_everything, async |app| {
    assert_eq!(
        app.get(WHOAMI).await.expect(200).json(),
        json!({
            "kind": "anonymous", "token_id": null, "name": null, "scopes": ["read", "write", "admin"],
            "namespaces": [], "expires_at": null, "auth_required": false,
        })
    );
    let token = made(app, json!({"name": "ci", "scopes": ["write"], "namespaces": ["build"]})).await;
    assert_eq!(
        app.get(WHOAMI).token(secret(&token)).await.expect(200).json(),
        json!({
            "kind": "token", "token_id": token["id"], "name": "ci", "scopes": ["read", "write"],
            "namespaces": ["build"], "expires_at": null, "auth_required": false,
        })
    );
});

story!(where_a_token_is_needed_nobody_in_particular_may_do_nothing, [("auth", "always")], async |app| {
    for path in [WHOAMI, TOKENS, "/api/v1/images", "/api/v1/system/usage", "/metrics"] {
        assert_eq!(app.get(path).await.to_string(), "401 unauthenticated", "{path}");
    }
    for path in ["/healthz", "/readyz", "/version", "/openapi.json", "/openapi.yaml"] {
        app.get(path).await.expect(200);
    }
});

story!(a_limited_administrator_makes_no_token_that_reaches_further, async |app| {
    let root = made(app, json!({"name": "root", "scopes": ["admin"]})).await;
    let limited = made(app, json!({"name": "limited", "scopes": ["admin"], "namespaces": ["a", "b"]})).await;
    let secret = secret(&limited);
    let ask = |namespaces: Value| {
        app.post(TOKENS)
            .token(secret)
            .json(json!({"name": "x", "scopes": ["read"], "namespaces": namespaces}))
    };
    assert_eq!(ask(json!([])).await.to_string(), "403 forbidden");
    assert_eq!(ask(json!(["a", "c"])).await.to_string(), "403 forbidden");
    let smaller = ask(json!(["a"])).await.expect(201).json();
    for answer in [app.get(path(&root)).token(secret).await, app.delete(path(&root)).token(secret).await] {
        assert_eq!(answer.to_string(), "403 forbidden");
    }
    let seen = app.get(format!("{TOKENS}?sort=name")).token(secret).await.json();
    let names: Vec<_> =
        seen["items"].as_array().expect("a list").iter().map(|token| &token["name"]).collect();
    assert_eq!(names, ["limited", "x"]);
    app.delete(path(&smaller)).token(secret).await.expect(204);
});

story!(a_repeat_of_a_token_is_refused_for_its_secret_is_not_kept, async |app| {
    let ask = |name: &str| {
        app.post(TOKENS).header("Idempotency-Key", "k").json(json!({"name": name, "scopes": ["read"]}))
    };
    ask("ci").await.expect(201);
    assert_eq!(ask("ci").await.to_string(), "409 already-exists");
    assert_eq!(ask("other").await.to_string(), "422 idempotency-key-reused");
    assert_eq!(app.get(TOKENS).await.json()["items"].as_array().map(Vec::len), Some(1));
});
