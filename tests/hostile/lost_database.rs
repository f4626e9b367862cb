//! A database that goes away, and clients that hang up in the middle of its transactions.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::app::{On, TestApp, sha256};
use crate::support::eventually::eventually;
use crate::support::fixture_registry::FixtureRegistry;
use crate::support::image::{Image, Kind};
use crate::support::postgres::{Cluster, Stop};
use crate::support::request::Request;
use crate::support::stored::Tar;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_restarts_is_unavailable_meanwhile_and_then_not() {
    let cluster = Arc::new(Cluster::start());
    let app = TestApp::over(cluster.fresh_database()).await;
    let digest = app.put_blob(b"hello").await;
    let ingest = app.filled_ingest("u", b"hel").await;
    for how in [Stop::Fast, Stop::Immediate] {
        cluster.stop(how);
        for request in [
            app.get(format!("/api/v1/content/{digest}")),
            app.get("/api/v1/content"),
            app.post("/api/v1/content").body("other"),
            app.open(json!({"ref": "v"})),
            app.append(&ingest, 3, b"lo"),
            app.delete(format!("/api/v1/content/{digest}")),
        ] {
            let refused = request.await;
            assert_eq!(refused.to_string(), "503 unavailable", "{how:?}");
            assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
        }
        cluster.start_again();
        eventually("the server is there again by itself", async || {
            (app.get("/api/v1/content").await.status == 200).then_some(())
        })
        .await;
        assert_eq!(app.get(format!("/api/v1/content/{digest}/data")).await.to_string(), "200 \"hello\"");
        assert_eq!(
            app.get(format!("/api/v1/content/{}", sha256(b"other"))).await.status,
            404,
            "nothing is half done"
        );
        let offset = app.get(&ingest).await.json()["offset"].as_u64().expect("a number");
        assert!((3..=5).contains(&offset), "acknowledged bytes are there: {offset}");
    }
    app.truncate(&ingest).await.expect(200);
    app.append(&ingest, 0, b"hello there").await.expect(204);
    app.commit(&ingest, json!({"expected_digest": sha256(b"hello there")})).await.expect(201);
    app.stop().await;
}

/// Connections to this database that wait inside a transaction.
async fn idle_in_transaction(url: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.expect("the database answers");
    let count = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' \
                 AND datname = current_database()";
    sqlx::query_scalar(count).fetch_one(&mut connection).await.expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_leaves_no_transaction_open() {
    let app = TestApp::with(On::Postgres, &[]).await;
    let url = app.database().expect("on Postgres").url();
    for n in 0..300_u64 {
        let mut raw = app.raw().await;
        let body = format!("{{\"ref\": \"r{}\", \"labels\": {{\"n\": \"{n}\"}}}}", n % 7);
        let length = body.len();
        raw.send(format!(
            "POST /api/v1/ingests HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
        // Hung up at a different point of the work each time.
        tokio::time::timeout(Duration::from_micros(n * 37 % 4_000), raw.answer()).await.ok();
    }
    eventually("no transaction is left open", async || (idle_in_transaction(&url).await == 0).then_some(()))
        .await;
    let answered = futures_util::future::join_all(
        (0..40).map(|n| app.open(json!({"ref": format!("after-{n}")})).send()),
    );
    assert!(answered.await.iter().all(|answer| answer.status == 201), "the pool is whole");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_leaves_no_stale_index() {
    let app = TestApp::with(On::Postgres, &[]).await;
    let digest = app.put_blob(b"x").await;
    let url = app.database().expect("on Postgres").url();
    let mut blocker = PgConnection::connect(&url).await.expect("the database answers");
    sqlx::raw_sql("BEGIN; LOCK TABLE images IN EXCLUSIVE MODE")
        .execute(&mut blocker)
        .await
        .expect("the table is ours");
    let body = json!({"name": "app", "target": {"digest": digest, "media_type": "text/plain", "size": 1}});
    let body = body.to_string();
    let mut raw = app.raw().await;
    raw.send(format!(
        "POST /api/v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("its transaction waits", async || {
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut blocker).await.expect("a number");
        (waiting > 0).then_some(())
    })
    .await;
    drop(raw);
    eventually("the server has let go of it", async || {
        let text = String::from_utf8_lossy(&app.get("/metrics").await.body).into_owned();
        text.lines().any(|line| line == "orlop_http_requests_in_flight 1").then_some(())
    })
    .await;
    sqlx::raw_sql("COMMIT").execute(&mut blocker).await.expect("the table is free");
    eventually("the name is in the index", async || {
        let index = std::fs::read_to_string(app.data_dir().join("index.json")).expect("the index");
        index.contains(&digest).then_some(())
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_whose_record_is_still_on_its_way_is_waited_for() {
    let app = TestApp::with(On::Postgres, &[]).await;
    let url = app.database().expect("on Postgres").url();
    // Of an earlier day, in its words: it is only to be asked for.
    let row = |id: &str| orlop::store::PullRow {
        id: id.to_owned(),
        namespace: "default".to_owned(),
        reference: "registry.example/app".to_owned(),
        request: "{}".to_owned(),
        state: "failed".to_owned(),
        phase: String::new(),
        attempt: 1,
        image_name: "app".to_owned(),
        digest: None,
        lease: "l".to_owned(),
        labels: "{}".to_owned(),
        error: None,
        detail: "{}".to_owned(),
        created_at: 1,
        started_at: None,
        finished_at: Some(1),
    };
    let store = app.state().store.clone();
    let mut looking = PgConnection::connect(&url).await.expect("the database answers");
    for (end, is_recorded) in [("COMMIT", true), ("ROLLBACK", false)] {
        let mut on_its_way = PgConnection::connect(&url).await.expect("the database answers");
        let insert = "BEGIN; INSERT INTO pulls (id, namespace, ref, request, state, phase, attempt, image_name, \
                      lease, labels, detail, created_at, finished_at) VALUES ('p', 'default', 'r', '{}', 'failed', \
                      '', 1, 'app', 'l', '{}', '{}', 1, 1)";
        sqlx::raw_sql(insert).execute(&mut on_its_way).await.expect("it is not committed");
        let asking = {
            let (store, row) = (store.clone(), row("p"));
            tokio::spawn(async move { store.find_pull_for_certain(&row).await })
        };
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                     AND datname = current_database()";
        eventually("its end is waited for", async || {
            let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut looking).await.expect("a number");
            (waiting > 0).then_some(())
        })
        .await;
        sqlx::raw_sql(end).execute(&mut on_its_way).await.expect("its end");
        let found = asking.await.expect("no panic");
        assert_eq!(found.is_ok(), is_recorded, "{end}: {found:?}");
        sqlx::raw_sql("DELETE FROM pulls").execute(&mut on_its_way).await.expect("the next one");
    }
    let never = store.find_pull_for_certain(&row("q")).await;
    assert!(matches!(never, Err(orlop::error::Error::NotFound { .. })), "{never:?}");
    assert!(store.find_pull("default", "q").await.is_err(), "to ask records nothing");
    drop(store);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_whose_commit_is_heard_of_no_more_is_taken_up_all_the_same() {
    let (cluster, registry) = (Arc::new(Cluster::start()), FixtureRegistry::start().await);
    let app = TestApp::over(cluster.fresh_database()).await;
    let url = app.database().expect("on Postgres").url();
    let asked = json!({"ref": format!("{}/app:missing", registry.host())});
    let pull = app.post("/api/v1/pulls").json(asked).await.expect(202).json();
    let path = format!("/api/v1/pulls/{}", pull["id"].as_str().expect("an id"));
    let ended = async |attempt: u64| {
        eventually("it has failed, and nobody has it in hand", async || {
            let pull = app.get(&path).await.expect(200).json();
            let metrics = app.get("/metrics").await.body;
            let idle = String::from_utf8_lossy(&metrics).lines().any(|line| line == "orlop_pulls_running 0");
            (pull["state"] == "failed" && pull["attempt"] == attempt && idle).then_some(())
        })
        .await;
    };
    ended(1).await;
    // A commit waits for a second server that never says that it has it, too.
    let reload = "SELECT pg_reload_conf()";
    let mut operator = PgConnection::connect(&url).await.expect("the database answers");
    sqlx::raw_sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .execute(&mut operator)
        .await
        .expect("set");
    sqlx::raw_sql(reload).execute(&mut operator).await.expect("reloaded");
    let retry = {
        let request = app.post(format!("{path}/retry"));
        tokio::spawn(async move { request.send().await })
    };
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
               AND datname = current_database()";
    eventually("the connection breaks between the commit and its answer", async || {
        let cut: Option<bool> =
            sqlx::query_scalar(cut).fetch_optional(&mut operator).await.expect("an answer");
        cut
    })
    .await;
    assert_eq!(retry.await.expect("no panic").to_string(), "503 unavailable");
    sqlx::raw_sql("ALTER SYSTEM RESET synchronous_standby_names")
        .execute(&mut operator)
        .await
        .expect("reset");
    sqlx::raw_sql(reload).execute(&mut operator).await.expect("reloaded");
    ended(2).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_has_named_its_images_is_told_as_done() {
    let app = TestApp::with(On::Postgres, &[]).await;
    let url = app.database().expect("on Postgres").url();
    let image = Image::multi_platform(Kind::Oci, &["linux/amd64"]).await;
    let mut operator = PgConnection::connect(&url).await.expect("the database answers");
    // From the last file on no lease can be extended: the database is about to go.
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'going' \
                  USING ERRCODE = '57P01'; END $$ LANGUAGE plpgsql; \
                  CREATE TRIGGER refuse BEFORE UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(&mut operator).await.expect("a trigger");
    let tar = Tar::default().blobs(&image.blobs).layout(&[image.top().descriptor()]).end();
    let imported = app.post("/api/v1/images/import?name=app").body(tar).await.expect(201);
    assert_eq!(imported.json()["images"][0]["name"], "app");
    let lease = app.get(format!("/api/v1/leases/{}", imported.header("orlop-lease"))).await.expect(200);
    assert_eq!(lease.json()["expires_at"], imported.header("orlop-lease-expires"));
    app.stop().await;
}

/// A browser's session: its cookie, and the secret that its forms repeat.
async fn log_in(app: &TestApp, secret: &str) -> (String, String) {
    let form = |request: Request, cookie: &str, body: String| {
        request
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Cookie", cookie)
            .body(body)
    };
    let page = app.get("/login").await.expect(200);
    let cookie = page.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    let csrf = cookie.split_once('=').expect("a cookie").1;
    let body = format!("token={secret}&csrf={csrf}");
    let logged_in = form(app.post("/login"), &cookie, body).await.expect(303);
    let session = logged_in.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    let front = app.get("/").header("Cookie", &session).await.expect(200);
    let text = String::from_utf8_lossy(&front.body).into_owned();
    let csrf = text.split("name=\"csrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    (session, csrf.expect("a form to log out with").to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_who_they_are_while_that_cannot_be_known() {
    let cluster = Arc::new(Cluster::start());
    let app = TestApp::over(cluster.fresh_database()).await;
    let made = app.post("/api/v1/tokens").json(json!({"name": "ci", "scopes": ["read"]})).await.expect(201);
    let secret = made.json()["secret"].as_str().expect("a secret").to_owned();
    let (session, csrf) = log_in(&app, &secret).await;
    cluster.stop(Stop::Immediate);
    assert_eq!(app.get("/api/v1/whoami").token(&secret).await.to_string(), "503 unavailable");
    let log_out = || {
        app.post("/logout")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Cookie", &session)
            .body(format!("csrf={csrf}"))
    };
    let refused = log_out().await;
    // The session lives on, so its cookie must too.
    assert_eq!((refused.to_string().as_str(), refused.header("set-cookie")), ("503 unavailable", ""));
    // Where it makes no difference who asks, nobody does.
    for path in
        ["/healthz", "/version", "/openapi.yaml", "/static/orlop.css", "/docs", "/problems/unavailable"]
    {
        for (name, value) in [("Authorization", format!("Bearer {secret}")), ("Cookie", session.clone())] {
            let asked = app.get(path).header(name, &value).send();
            let answer = tokio::time::timeout(Duration::from_secs(3), asked).await.expect(path);
            assert_eq!(answer.status, 200, "{path} with {name}");
        }
    }
    cluster.start_again();
    eventually("the server is there again by itself", async || {
        (app.get("/api/v1/whoami").token(&secret).await.status == 200).then_some(())
    })
    .await;
    let logged_out = log_out().await.expect(303);
    assert!(logged_out.header("set-cookie").starts_with("orlop_session=;"));
    app.stop().await;
}
