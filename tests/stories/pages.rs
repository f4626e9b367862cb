//! Pages: what a person reads.

use std::time::Duration;

use orlop::store::{Expiry, NewToken, Scope};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::app::{TestApp, story};
use crate::support::eventually::eventually;

story!(what_runs_is_on_the_front_page_however_many_wait, [("pull_concurrency", "1")], async |app| {
    // A registry that takes a connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = silent.local_addr().expect("its address");
    let mut pulls = Vec::new();
    for n in 0..30 {
        let asked = json!({"ref": format!("{host}/cargo/rope:v{n}")});
        let made = app.post("/api/v1/pulls").json(asked).await.expect(202).json();
        app.clock.advance(Duration::from_secs(1));
        pulls.push(format!("data-pull=\"{}\"", made["id"].as_str().expect("an id")));
    }
    let places = eventually("the first pull runs, and is shown", async || {
        let page = app.get("/").await.expect(200);
        let text = String::from_utf8_lossy(&page.body).into_owned();
        Some((text.find(&pulls[0])?, text.find(&pulls[29]).expect("the latest")))
    })
    .await;
    assert!(places.0 < places.1, "what runs comes first");
});

/// The page as a browser asks for it.
async fn page(app: &TestApp, path: &str) -> String {
    let page = app.get(path).header("Accept", "text/html").await.expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-store");
    String::from_utf8(page.body.to_vec()).expect("UTF-8")
}

fn id(pull: &Value) -> &str {
    pull["id"].as_str().expect("an id")
}

story!(the_page_of_a_pull_goes_from_running_to_its_end, async |app| {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = silent.local_addr().expect("its address");
    let asked = json!({"ref": format!("{host}/cargo/rope:v1"), "labels": {"team": "harbour"}});
    let pull = app.post("/api/v1/pulls?namespace=team-a").json(asked).await.expect(202).json();
    let path = format!("/pulls/{}?namespace=team-a", id(&pull));
    let running = eventually("the pull runs", async || {
        let text = page(app, &path).await;
        text.contains("data-part=\"head\" data-state=\"running\"").then_some(text)
    })
    .await;
    for wanted in
        ["attempt 1", "data-do=\"cancel\"", "http-equiv=\"refresh\"", "team=harbour", "Held by the lease"]
    {
        assert!(running.contains(wanted), "{wanted}");
    }
    let api = format!("/api/v1/pulls/{}", id(&pull));
    app.delete(format!("{api}?namespace=team-a")).await.expect(202);
    app.get(format!("{api}?namespace=team-a&wait=30s")).await.expect(200);
    let ended = page(app, &path).await;
    assert!(ended.contains("data-do=\"retry\"") && ended.contains("Nothing had arrived yet."));
    assert!(!ended.contains("http-equiv=\"refresh\"") && !ended.contains("data-do=\"cancel\""));
});

story!(the_page_of_a_failed_pull_is_its_problem_and_hostile_names_stay_text, async |app| {
    let hostile = "\"><script>alert(1)</script>'&<img src=x>";
    let asked = json!({"ref": "127.0.0.1:1/cargo/rope:v1", "image_name": hostile, "labels": {"x": hostile}});
    let pull = app.post("/api/v1/pulls").json(asked).await.expect(202).json();
    app.get(format!("/api/v1/pulls/{}?wait=60s", id(&pull))).await.expect(200);
    let text = page(app, &format!("/pulls/{}", id(&pull))).await;
    assert!(!text.contains("<script>") && !text.contains("<img src=x"));
    assert_eq!(
        text.matches("&#60;script&#62;alert(1)&#60;/script&#62;").count(),
        3,
        "the name, and the label twice"
    );
    for wanted in ["Registry unreachable", "href=\"/problems/upstream-unreachable\"", "data-do=\"retry\""] {
        assert!(text.contains(wanted), "{wanted}");
    }
    let front = page(app, "/").await;
    assert!(front.contains(&format!("href=\"/pulls/{}?namespace=default\"", id(&pull))));
});

story!(the_page_of_a_traced_pull_leads_to_its_trace, async |app| {
    for (traced, links) in [(true, 1), (false, 0)] {
        let asked = json!({"ref": format!("127.0.0.1:1/cargo/rope:{traced}"), "trace": traced});
        let pull = app.post("/api/v1/pulls").json(asked).await.expect(202).json();
        app.get(format!("/api/v1/pulls/{}?wait=60s", id(&pull))).await.expect(200);
        let text = page(app, &format!("/pulls/{}", id(&pull))).await;
        assert_eq!(text.matches(&format!("href=\"/api/v1/pulls/{}/trace?", id(&pull))).count(), links);
        assert!(text.contains(&format!("--server &#39;http://{}&#39; pulls retry", app.address())), "{text}");
    }
});

story!(a_pull_that_is_not_there_is_told_on_a_page, async |app| {
    let asked = json!({"ref": "127.0.0.1:1/cargo/rope:v1"});
    let pull = app.post("/api/v1/pulls").json(asked).await.expect(202).json();
    let own = format!("/pulls/{}", id(&pull));
    for (path, status) in [
        ("/pulls/pull_01m7z4bkprvpv503p3pmrevc0w", 404),
        (&*format!("{own}?namespace=other"), 404),
        ("/pulls/%3Cscript%3E", 400),
        (&*format!("{own}?namespace=a..b"), 400),
        (&*format!("{own}?surprise=1"), 400),
    ] {
        let answer = app.get(path).header("Accept", "text/html").await.expect(status);
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("<script>"), "{path}");
    }
});

story!(the_page_of_a_pull_is_for_those_who_may_read_its_namespace, [("auth", "always")], async |app| {
    let store = &app.state().store;
    let token = async |scope, namespace: &str| {
        let namespaces = [namespace.to_owned()].into();
        let new = NewToken { name: "t".into(), scopes: [scope].into(), namespaces, expiry: Expiry::Never };
        store.create_token(new).await.expect("a token").1
    };
    let writer = token(Scope::Write, "team-a").await;
    let asked = json!({"ref": "127.0.0.1:1/cargo/rope:v1"});
    let made = app.post("/api/v1/pulls?namespace=team-a").token(&writer).json(asked).await.expect(202).json();
    let path = format!("/pulls/{}?namespace=team-a", id(&made));
    app.get(format!("/api/v1/pulls/{}?namespace=team-a&wait=60s", id(&made)))
        .token(&writer)
        .await
        .expect(200);
    let sent = app.get(&path).header("Accept", "text/html").await.expect(303);
    assert_eq!(sent.header("location"), "/login");
    let foreign = token(Scope::Write, "team-b").await;
    app.get(&path).token(&foreign).header("Accept", "text/html").await.expect(403);
    let shown = app.get(&path).token(&writer).await.expect(200);
    assert!(String::from_utf8_lossy(&shown.body).contains("data-do=\"retry\""));
    let reader = token(Scope::Read, "team-a").await;
    let shown = app.get(&path).token(&reader).await.expect(200);
    assert!(!String::from_utf8_lossy(&shown.body).contains("data-do="));
});

story!(a_login_that_is_refused_is_a_page, async |app| {
    let page = app.get("/login").header("Accept", "text/html").await.expect(200);
    let cookie = page.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    let csrf = cookie.split_once('=').expect("a cookie").1;
    for (form, status) in [
        ("token=orl_0".to_owned(), 400),
        ("token=orl_0&csrf=".to_owned(), 400),
        ("token=orl_0&csrf=wrong".to_owned(), 403),
        (format!("token=orl_0&csrf={csrf}"), 401),
    ] {
        let refused = app
            .post("/login")
            .header("Accept", "text/html")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Cookie", &cookie)
            .body(&form)
            .await
            .expect(status);
        assert_eq!(refused.header("content-type"), "text/html; charset=utf-8", "{form}");
    }
});
