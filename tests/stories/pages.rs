//! Pages: what a person reads.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use crate::support::app::story;
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
