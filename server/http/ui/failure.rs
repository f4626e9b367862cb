//! A problem as a page: what a person gets where a program gets `application/problem+json`.

use askama::Template;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use super::prose::{self, Line, Span};
use super::{Place, Shell};
use crate::http::accept::Accept;
use crate::http::error::Problem;

/// The routes that answer with pages.
const PAGES: [&str; 8] =
    ["/", "/pulls/{id}", "/login", "/logout", "/docs", "/problems", "/problems/{code}", "/static/{name}"];

#[derive(Template)]
#[template(path = "failure.html")]
struct Failure<'p> {
    shell: Shell,
    problem: &'p Problem,
    detail: Line,
    hint: Line,
}

/// Whether whoever sent the request would rather read a page: it names HTML before JSON, and is for no program.
pub fn asks_for_page(request: &Request) -> bool {
    !request.uri().path().starts_with("/api/") && prefers_html(request.headers())
}

/// Whether the route answers with pages, or there is no such route.
pub fn is_for_people(route: Option<&str>) -> bool {
    route.is_none_or(|route| PAGES.contains(&route))
}

/// Writes the problem into its response once more, as a page. If that fails the JSON stays.
pub fn show(response: &mut Response, problem: &Problem) {
    let failure = Failure {
        shell: Shell::plain(Place::Elsewhere),
        problem,
        detail: prose::line(&problem.detail),
        hint: prose::line(&problem.hint),
    };
    match failure.render() {
        Ok(text) => {
            *response.body_mut() = Body::from(text);
            let headers = response.headers_mut();
            headers.remove(CONTENT_LENGTH);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        }
        Err(error) => tracing::error!("Cannot render the page of a problem: {error}"),
    }
}

/// Whether `text/html` is named, and weighs at least as much as any JSON (RFC 9110, section 12.5.1). A client that
/// takes everything is a program.
fn prefers_html(headers: &HeaderMap) -> bool {
    let accept = Accept::of(headers);
    let most = |names: [&str; 2]| names.map(|name| accept.names(name)).into_iter().max().unwrap_or_default();
    let html = most(["text/html", "application/xhtml+xml"]);
    html > 0 && html >= most(["application/json", "application/problem+json"])
}

#[cfg(test)]
pub(super) mod tests {
    use axum::response::IntoResponse;
    use http::header::ACCEPT;
    use http_body_util::BodyExt;

    use super::*;
    use crate::error::Error;
    use crate::http::error::ApiError;

    pub async fn body_of(response: Response) -> String {
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    fn prefers(accept: &'static str) -> bool {
        prefers_html(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
    }

    #[test]
    fn browsers_read_pages_and_programs_read_json() {
        assert!(prefers("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(prefers("application/json;q=0.5, text/html"));
        assert!(!prefers("*/*") && !prefers("application/json") && !prefers("text/html;q=0, */*"));
        assert!(!prefers("application/problem+json, text/html;q=0.1"));
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn only_requests_for_people_are_answered_with_pages() {
        let request = |path: &str| {
            let request = Request::builder().uri(path).header(ACCEPT, "text/html");
            request.body(Body::empty()).expect("a request")
        };
        assert!(asks_for_page(&request("/nothing/here")));
        assert!(!asks_for_page(&request("/api/v1/nothing")));
        assert!(is_for_people(None) && is_for_people(Some("/docs")) && !is_for_people(Some("/version")));
    }

    #[tokio::test]
    async fn hostile_text_in_a_problem_stays_text() {
        let mut response =
            ApiError::from(Error::not_found("image", "<script>alert(1)</script>")).into_response();
        let problem = Problem::complete(&mut response, "req_1", "/\"><img src=x>").expect("a problem");
        show(&mut response, &problem);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        let page = body_of(response).await;
        crate::http::ui::front::tests::write_page("failure.html", &page);
        assert!(page.contains("&#60;script&#62;alert(1)") && page.contains("req_1"), "{page}");
        assert!(!page.contains("<script>alert") && !page.contains("<img src=x"));
    }
}
