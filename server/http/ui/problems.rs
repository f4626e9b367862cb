//! `GET /problems` and `GET /problems/{code}`: what each kind of problem means, and what helps. Offline, so that the
//! `type` of every problem leads somewhere.

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use super::prose::{self, Line, Span};
use super::{Place, Shell, page as render};
use crate::error::Error;
use crate::http::error::ApiError;
use crate::http::extract::Path;
use crate::http::problems::{PROBLEMS, ProblemDoc, find};

#[derive(Template)]
#[template(path = "problems.html")]
struct Index {
    shell: Shell,
    kinds: Vec<Kind>,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct One {
    shell: Shell,
    kind: Kind,
}

/// A kind of problem, ready to be written.
struct Kind {
    code: &'static str,
    status: u16,
    title: &'static str,
    meaning: Line,
    remedy: Line,
}

impl Kind {
    fn new(doc: &ProblemDoc) -> Kind {
        Kind {
            code: doc.code,
            status: doc.status.as_u16(),
            title: doc.title,
            meaning: prose::line(doc.meaning),
            remedy: prose::line(doc.remedy),
        }
    }
}

pub async fn index() -> Result<Response, ApiError> {
    let kinds = PROBLEMS.iter().map(|doc| Kind::new(doc)).collect();
    render(StatusCode::OK, &Index { shell: Shell::plain(Place::Problems), kinds })
}

pub async fn page(Path(code): Path<String>) -> Result<Response, ApiError> {
    let doc = find(&code).ok_or_else(|| Error::not_found("problem", &code))?;
    let shell = Shell::plain(Place::Problems);
    render(StatusCode::OK, &One { shell, kind: Kind::new(doc) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ui::failure::tests::body_of;

    #[tokio::test]
    async fn every_code_has_its_page_and_its_place_in_the_index() {
        let index = body_of(index().await.expect("the index")).await;
        for doc in PROBLEMS {
            let shown = page(Path(doc.code.to_owned())).await.expect(doc.code);
            assert!(body_of(shown).await.contains(&format!("<h1>{}</h1>", doc.title)), "{}", doc.code);
            assert!(index.contains(&format!("href=\"/problems/{}\"", doc.code)), "{}", doc.code);
        }
    }

    #[tokio::test]
    async fn a_code_that_nobody_uses_is_not_found() {
        let unknown = page(Path("<b>".to_owned())).await;
        assert_eq!(unknown.expect_err("refused").doc().code, "not-found");
    }
}
