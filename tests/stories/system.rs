//! The server about itself: health, version, metrics, limits, usage, and the contract.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{TestApp, story};

story!(a_live_and_ready_server_says_so, async |app| {
    let healthy = app.get("/healthz").await.expect(200);
    assert_eq!((healthy.json(), healthy.header("cache-control")), (json!({"status": "ok"}), "no-store"));
    assert_eq!(app.get("/readyz").await.expect(200).json(), json!({"status": "ready", "checks": []}));
    for query in ["verbose", "verbose=true"] {
        let parts = app.get(format!("/readyz?{query}")).await.expect(200).json();
        let parts: Vec<_> =
            parts["checks"].as_array().expect("a list").iter().map(|part| &part["name"]).collect();
        assert_eq!(parts, ["db", "disk"]);
    }
    assert_eq!(app.get("/readyz?verbose=2").await.to_string(), "400 invalid-argument");
});

story!(a_server_that_cannot_write_is_alive_and_not_ready, async |app| {
    // Permissions stop nobody who is root, so the place itself goes away.
    let (ingests, away) = (app.data_dir().join("ingests"), app.data_dir().join("away"));
    std::fs::rename(&ingests, &away).expect("ingests/ can be moved");
    std::fs::write(&ingests, "").expect("a file in its place");
    let answer = app.get("/readyz").await.expect(503);
    assert_ne!(answer.header("retry-after"), "");
    let body = answer.json();
    assert_eq!(body["status"], "not-ready");
    assert_eq!(
        body["checks"],
        json!([{"name": "disk", "ok": false, "detail": "does not answer as it should"}])
    );
    app.get("/healthz").await.expect(200);
    std::fs::remove_file(&ingests).expect("the file goes");
    std::fs::rename(&away, &ingests).expect("ingests/ comes back");
    app.clock.advance(Duration::from_secs(1));
    app.get("/readyz").await.expect(200);
});

story!(a_server_is_asked_for_its_parts_once_a_second_however_many_ask, async |app| {
    app.get("/readyz").await.expect(200);
    let (ingests, away) = (app.data_dir().join("ingests"), app.data_dir().join("away"));
    std::fs::rename(&ingests, &away).expect("ingests/ can be moved");
    app.clock.advance(Duration::from_millis(999));
    let asked = (0..20).map(|_| app.get("/readyz?verbose").send());
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.expect(200).json()["checks"].as_array().map(Vec::len), Some(2));
    }
    app.clock.advance(Duration::from_millis(1));
    assert_eq!(app.get("/readyz").await.expect(503).json()["checks"][0]["name"], "disk");
    std::fs::rename(&away, &ingests).expect("ingests/ comes back");
});

story!(the_version_is_that_of_the_package, async |app| {
    let version = app.get("/version").await.expect(200).json();
    assert_eq!((&version["name"], &version["api"]), (&json!("orlop"), &json!("v1")));
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
});

story!(metrics_come_under_the_name_that_the_scraper_knows, async |app| {
    app.put_blob(b"hello").await;
    let plain = app.get("/metrics").await.expect(200);
    for line in [
        "orlop_store_blobs 1",
        "orlop_store_blob_bytes 5",
        "orlop_store_damaged_blobs 0",
        "orlop_store_leases 1",
        "orlop_store_database_up 1",
    ] {
        assert!(String::from_utf8_lossy(&plain.body).lines().any(|told| told == line), "{line}");
    }
    assert!(plain.header("content-type").starts_with("text/plain"));
    let accepts = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
    let open = app.get("/metrics").header("Accept", accepts).await.expect(200);
    for refused in ["application/openmetrics-text;q=0", "application/openmetrics-text;q=0.1, text/plain"] {
        let plain = app.get("/metrics").header("Accept", refused).await.expect(200);
        assert!(plain.header("content-type").starts_with("text/plain"), "{refused}");
    }
    assert!(open.header("content-type").starts_with("application/openmetrics-text"));
    assert_eq!(open.header("cache-control"), "no-store");
    let text = String::from_utf8(open.body.to_vec()).expect("text");
    assert!(text.contains("route=\"/metrics\"") && text.ends_with("# EOF\n"), "{text}");
});

story!(the_contract_is_served_as_yaml_and_as_json, async |app| {
    let yaml = app.get("/openapi.yaml").await.expect(200);
    assert_eq!(yaml.header("content-type"), "application/yaml");
    let text = std::str::from_utf8(&yaml.body).expect("text");
    let from_yaml: Value = serde_norway::from_str(text).expect("YAML");
    let json = app.get("/openapi.json").await.expect(200);
    assert_eq!(json.json(), from_yaml);
    assert_eq!(from_yaml["openapi"], "3.0.3");
    for (path, answer) in [("/openapi.yaml", &yaml), ("/openapi.json", &json)] {
        let known = app.get(path).header("If-None-Match", answer.header("etag")).await;
        assert_eq!((known.status, known.header("etag")), (304, answer.header("etag")));
    }
    assert_ne!(yaml.header("etag"), json.header("etag"));
});

story!(limits_and_settings_are_shown_with_their_reasons_and_sources, async |app| {
    app.clock.advance(Duration::from_secs(4));
    let info = app.get("/api/v1/system/info").await.expect(200).json();
    assert_eq!((&info["uptime_seconds"], &info["auth_required"]), (&json!(4), &json!(false)));
    assert_eq!(info["digest_algorithms"], json!(["sha256", "sha384", "sha512"]));
    let find = |list: &str, name: &str| {
        let items = info[list].as_array().expect("a list").iter();
        items.clone().find(|item| item["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(find("limits", "manifest_bytes")["value"], 4 << 20);
    assert_eq!(
        find("settings", "sharing"),
        json!({"name": "sharing", "value": "shared", "source": "default"})
    );
    assert_eq!(find("settings", "data_dir")["source"], "environment");
    assert_eq!(find("settings", "tls_cert")["value"], Value::Null);
    let database = if app.database().is_some() { "postgres" } else { "sqlite" };
    assert_eq!(info["database"], database);
});

story!(shared_bytes_are_counted_once_on_disk, async |app| {
    app.post("/api/v1/content").body("hello").await.expect(201);
    app.post("/api/v1/content?namespace=build").body("hello").await.expect(201);
    app.post("/api/v1/ingests").json(json!({"ref": "u"})).await.expect(201);
    let usage = app.get("/api/v1/system/usage").await.expect(200).json();
    let of = |name: &str| usage[name].as_u64().expect("a number");
    assert_eq!([of("blobs"), of("records"), of("ingests"), of("images"), of("namespaces")], [1, 2, 1, 0, 2]);
    assert_eq!(
        [of("on_disk_bytes"), of("logical_bytes"), of("saved_bytes"), of("ingest_bytes")],
        [5, 10, 5, 0]
    );
    assert!(of("free_bytes") <= of("capacity_bytes"));
    assert_eq!(usage["measured_at"], app.clock.now().to_string());
});

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_was_there_is_closed_to_others() {
    let place = tempfile::tempdir().expect("a directory");
    let data = place.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    for round in ["new", "used"] {
        std::fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("ours");
        let app = TestApp::in_directory(&data, &[]).await;
        app.put_blob(b"hello").await;
        assert_eq!((mode(&data), mode(&data.join("orlop.db"))), (0o700, 0o600), "{round}");
        assert_eq!(mode(&data.join("orlop.db-wal")), 0o600, "{round}");
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_other_things_is_not_taken_from_those_who_use_it() {
    let place = tempfile::tempdir().expect("a directory");
    std::fs::write(place.path().join("theirs"), "theirs").expect("a file");
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("ours");
    let refused = TestApp::refused(place.path()).await;
    assert!(refused.contains("a directory of its own"), "{refused}");
    assert_eq!(mode(place.path()), 0o755);
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o700)).expect("ours");
    TestApp::in_directory(place.path(), &[]).await.stop().await;
}

story!(a_refused_method_is_told_which_are_known_each_once, async |app| {
    let blob = format!("/api/v1/content/{}/data", app.put_blob(b"hello").await);
    for (path, known) in [(blob.as_str(), "GET,HEAD,PUT"), ("/version", "GET,HEAD"), ("/logout", "POST")] {
        let refused = app.delete(path).await;
        assert_eq!((refused.status, refused.header("allow")), (405, known), "{path}");
    }
});

story!(metrics_as_plain_text_are_in_the_form_of_prometheus, async |app| {
    app.get("/version").await.expect(200);
    let plain = app.get("/metrics").await.expect(200);
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(plain.body.to_vec()).expect("text");
    // Its counters are named in full, and it knows neither units, nor infos, nor an end.
    for line in [
        "# TYPE orlop_http_requests_total counter",
        "# HELP orlop_http_requests_total Requests answered.",
        "# TYPE orlop_build_info gauge",
        "# TYPE orlop_http_request_duration_seconds histogram",
    ] {
        assert!(text.lines().any(|told| told == line), "no `{line}` in {text}");
    }
    assert!(!text.contains("# UNIT") && !text.contains("# EOF") && text.ends_with('\n'), "{text}");
});
