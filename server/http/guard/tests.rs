use std::net::{Ipv4Addr, SocketAddr};

use axum::routing::get;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::http::serve::Transport;
use crate::telemetry::{Metrics, MetricsForm};

impl Inner for Router {
    async fn answer(&self, request: Request) -> Response {
        self.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

fn app() -> (Arc<Guarded<Router>>, Metrics) {
    let metrics = Metrics::new();
    let config = Config::load(&Default::default(), []).expect("defaults");
    let guard = Guard { hosts: Hosts::of(&config), metrics: metrics.http.clone() };
    let broken = || async {
        if true {
            panic!("this test panics on purpose");
        }
    };
    let failing =
        || async { ApiError::from(Error::Internal { doing: "count sheep".to_owned(), source: None }) };
    let own_policy = || async { ([(header::CONTENT_SECURITY_POLICY, "sandbox")], "a blob") };
    let router = Router::new()
        .route("/things/{id}", get(|| async { "a thing" }).put(|body: Bytes| async move { body }))
        .route("/broken", get(broken))
        .route("/failing", get(failing))
        .route("/blob", get(own_policy));
    (Arc::new(Guarded::new(finished(router), guard)), metrics)
}

async fn ask(app: &Arc<Guarded<Router>>, request: http::request::Builder) -> (http::response::Parts, String) {
    let request = request.body(Body::from("12345")).expect("a request");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let peer = Peer { address, transport: Transport::Plain };
    let (head, body) = app.clone().answer(request, peer).await.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    (head, String::from_utf8(bytes.to_vec()).expect("text"))
}

fn to(method: &str, path: &str) -> http::request::Builder {
    http::Request::builder().method(method).uri(path).header("host", "localhost")
}

fn problem(body: &str) -> serde_json::Value {
    serde_json::from_str(body).expect("a problem")
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_security_headers() {
    let (app, _) = app();
    for path in ["/things/1", "/nowhere", "/broken", "/failing"] {
        let (head, _) = ask(&app, to("GET", path)).await;
        assert!(head.headers["x-request-id"].to_str().expect("text").starts_with("req_"));
        assert_eq!(head.headers["x-content-type-options"], "nosniff");
        let policy = head.headers["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!head.headers.keys().any(|name| name.as_str().starts_with("access-control-")));
    }
    let (head, _) = ask(&app, to("GET", "/blob")).await;
    assert_eq!(head.headers["content-security-policy"], "sandbox");
}

#[tokio::test]
async fn a_harmless_request_id_is_kept_and_any_other_replaced() {
    let (app, _) = app();
    let (head, body) = ask(&app, to("GET", "/nowhere").header("x-request-id", "ci-7/a.b:c")).await;
    assert_eq!(head.headers["x-request-id"], "ci-7/a.b:c");
    assert_eq!(problem(&body)["request_id"], "ci-7/a.b:c");
    assert_eq!(problem(&body)["instance"], "/nowhere");
    let long = "x".repeat(limits::REQUEST_ID_BYTES + 1);
    for odd in ["", "a b", "<b>", "a\u{e9}", &long] {
        let (head, _) = ask(&app, to("GET", "/").header("x-request-id", odd)).await;
        assert!(head.headers["x-request-id"].to_str().expect("text").starts_with("req_"), "{odd}");
    }
}

#[tokio::test]
async fn what_the_router_does_not_know_is_a_problem_too() {
    let (app, _) = app();
    let (head, body) = ask(&app, to("GET", "/nowhere")).await;
    assert_eq!((head.status.as_u16(), problem(&body)["code"].as_str()), (404, Some("not-found")));
    let (head, body) = ask(&app, to("PATCH", "/things/1")).await;
    assert_eq!((head.status.as_u16(), problem(&body)["code"].as_str()), (405, Some("method-not-allowed")));
    assert_eq!(head.headers["allow"], "GET,HEAD,PUT");
}

#[tokio::test]
async fn a_panic_and_a_failure_are_500_and_say_nothing_of_the_inside() {
    let (app, metrics) = app();
    for path in ["/broken", "/failing"] {
        let (head, body) = ask(&app, to("GET", path)).await;
        assert_eq!((head.status.as_u16(), problem(&body)["code"].as_str()), (500, Some("internal")));
        assert!(!body.contains("on purpose") && !body.contains("sheep"), "{body}");
    }
    assert_eq!(metrics.http.in_flight.get(), 0);
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused_on_every_path() {
    let (app, _) = app();
    for path in ["/things/1", "/nowhere"] {
        let foreign = http::Request::builder().uri(path).header("host", "evil.example");
        let (head, body) = ask(&app, foreign).await;
        assert_eq!(
            (head.status.as_u16(), problem(&body)["code"].as_str()),
            (421, Some("misdirected-request"))
        );
        let (head, _) = ask(&app, http::Request::builder().uri(path)).await;
        assert_eq!(head.status, 400);
    }
    let (head, body) = ask(&app, to("PUT", "/things/1").header("origin", "http://evil.example")).await;
    assert_eq!((head.status.as_u16(), problem(&body)["code"].as_str()), (403, Some("forbidden")));
    let (head, _) = ask(&app, to("GET", "/things/1").header("origin", "http://evil.example")).await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn heads_beyond_the_limits_are_problems() {
    let (app, _) = app();
    let (head, body) = ask(&app, to("GET", &format!("/{}", "x".repeat(limits::URI_BYTES)))).await;
    assert_eq!((head.status.as_u16(), problem(&body)["code"].as_str()), (414, Some("uri-too-long")));
    let (head, body) = ask(&app, to("GET", "/").header("x", "x".repeat(limits::HEADER_BYTES))).await;
    assert_eq!((head.status.as_u16(), problem(&body)["code"].as_str()), (431, Some("headers-too-large")));
}

#[tokio::test]
async fn requests_are_counted_by_route_and_not_by_path() {
    let (app, metrics) = app();
    ask(&app, to("PUT", "/things/1")).await;
    ask(&app, to("PUT", "/things/2")).await;
    ask(&app, to("GET", "/nowhere/3")).await;
    let text = metrics.render(MetricsForm::OpenMetrics);
    for line in [
        "orlop_http_requests_total{method=\"PUT\",route=\"/things/{id}\",status=\"200\"} 2",
        "orlop_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1",
        "orlop_http_requests_in_flight 0",
    ] {
        assert!(text.lines().any(|seen| seen == line), "no `{line}` in\n{text}");
    }
}

#[test]
fn only_a_valid_traceparent_counts() {
    let trace = |text: &'static str| {
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static("traceparent"), HeaderValue::from_static(text))]);
        trace_id(&headers).map(str::to_owned)
    };
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    assert_eq!(trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").as_deref(), Some(id));
    assert_eq!(trace("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").as_deref(), Some(id));
    for wrong in [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6-00f067aa0ba902b7-01",
    ] {
        assert_eq!(trace(wrong), None, "{wrong}");
    }
}
