//! Pages of other sites, and names that somebody else points here.

use crate::support::app::TestApp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_host_is_misdirected_on_every_route() {
    let app = TestApp::start().await;
    for route in orlop::http::routes::ROUTES {
        let path = route.path.replace("{digest}", &crate::support::app::sha256(b"")).replace(['{', '}'], "");
        let method = route.method;
        let mut raw = app.raw().await;
        raw.send(format!("{method} {path} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"))
            .await;
        let status = match method {
            "HEAD" => raw.head_answer().await,
            _ => raw.answer().await.map(|answer| answer.status),
        };
        assert_eq!(status, Some(421), "{method} {path}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_origin_changes_nothing_on_any_route() {
    let app = TestApp::start().await;
    for route in orlop::http::routes::ROUTES {
        let path = route.path.replace("{digest}", &crate::support::app::sha256(b"")).replace(['{', '}'], "");
        if matches!(route.method, "GET" | "HEAD") {
            continue;
        }
        let method = http::Method::from_bytes(route.method.as_bytes()).expect("a method");
        for (name, value) in
            [("Origin", "http://evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")]
        {
            let refused = app.request(method.clone(), &path).header(name, value).await;
            assert_eq!(refused.to_string(), "403 forbidden", "{method} {path} with {name}: {value}");
        }
    }
    let own = format!("http://{}", app.address());
    assert_eq!(app.post("/api/v1/content").header("Origin", &own).body("hello").await.status, 201);
    let read = app.get("/api/v1/content").header("Origin", "http://evil.example").await.expect(200);
    assert_eq!(read.header("access-control-allow-origin"), "", "and no page of another site may read it");
    app.stop().await;
}
