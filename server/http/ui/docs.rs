//! `GET /docs`: the contract to read, made of `openapi.yaml` when it is first asked for.

mod contract;
mod curl;
mod schema;

use std::sync::LazyLock;

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use self::contract::Contract;
use super::prose::{Block, Span};
use super::{Place, Shell, page as render};
use crate::http::error::ApiError;

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml"));
    Contract::parse(text).expect("the contract is compiled in, and a test parses it")
});

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs {
    shell: Shell,
    contract: &'static Contract,
}

pub async fn page() -> Result<Response, ApiError> {
    render(StatusCode::OK, &Docs { shell: Shell::plain(Place::Docs), contract: &CONTRACT })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ui::failure::tests::body_of;

    #[tokio::test]
    async fn the_page_has_every_operation_and_every_schema_and_no_link_into_nothing() {
        let text = body_of(page().await.expect("the page")).await;
        let yaml = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml"));
        let operations = yaml.lines().filter_map(|line| line.trim().strip_prefix("operationId: "));
        let mut count = 0;
        for id in operations.map(|id| id.trim_matches('"')) {
            assert!(text.contains(&format!("id=\"{id}\"")), "{id}");
            count += 1;
        }
        assert!(count > 50, "{count} operations");
        for link in text.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(text.contains(&format!("id=\"{link}\"")), "#{link} leads nowhere");
        }
    }

    #[test]
    fn every_operation_has_a_curl_line_with_nothing_left_to_fill_in() {
        let operations = CONTRACT.sections.iter().flat_map(|section| &section.operations);
        for operation in operations {
            assert!(operation.curl.starts_with("curl"), "{}", operation.id);
            let url = operation.curl.split("http://").nth(1).expect("an address");
            assert!(!url.contains('{'), "{}", operation.curl);
        }
    }
}
