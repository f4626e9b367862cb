//! The pages: one file each, a handler and the struct of its template.
//!
//! Every page works without JavaScript; the modules in `web/static/` keep the values of some live. Templates are named
//! `.html`, so that askama escapes whatever they are given: nobody's name or label is ever markup.

pub mod assets;
pub mod docs;
pub mod failure;
pub mod front;
pub mod login;
pub mod problems;
mod prose;
pub mod pull;
mod show;

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::access::Identity;
use super::error::ApiError;
use super::serve::{Peer, Transport};
use crate::error::Error;

/// What stands around every page: the navigation, and who is logged in.
#[derive(Debug, Clone)]
pub struct Shell {
    pub version: &'static str,
    pub place: Place,
    pub login: Option<Login>,
}

/// The entry of the navigation that a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Overview,
    Docs,
    Problems,
    /// None: a login or an error.
    Elsewhere,
}

/// Who is logged in with a cookie, and the secret that their forms carry.
#[derive(Debug, Clone)]
pub struct Login {
    pub name: String,
    pub csrf: String,
}

impl Shell {
    pub fn new(place: Place, identity: &Identity) -> Shell {
        let login = match identity {
            Identity::Session(session) => {
                Some(Login { name: session.token.name.clone(), csrf: session.csrf.clone() })
            }
            Identity::Anonymous { .. } | Identity::Token(_) => None,
        };
        Shell { version: env!("CARGO_PKG_VERSION"), place, login }
    }

    /// The shell where it does not matter who asks: such a page is there also when nobody can say.
    pub fn plain(place: Place) -> Shell {
        Shell::new(place, &Identity::Anonymous { trusted: false })
    }

    /// For `aria-current` in the navigation.
    fn is_at(&self, place: &str) -> bool {
        let here = match self.place {
            Place::Overview => "overview",
            Place::Docs => "docs",
            Place::Problems => "problems",
            Place::Elsewhere => "",
        };
        here == place
    }
}

/// A page as an answer. It is never kept by the browser: it shows a moment, and who may see it can change.
fn page(status: StatusCode, template: &impl Template) -> Result<Response, ApiError> {
    let text = template.render().map_err(|error| Error::internal(format!("render a page: {error}")))?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((status, headers, text).into_response())
}

/// What stands before the paths in the commands that the page shows.
fn base_of(parts: &Parts) -> String {
    let scheme = match parts.extensions.get::<Peer>().map(|peer| peer.transport) {
        Some(Transport::Tls) => "https",
        Some(Transport::Plain) | None => "http",
    };
    let named = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = parts.uri.authority().map(|authority| authority.as_str()).or(named);
    format!("{scheme}://{}", host.unwrap_or("127.0.0.1:7070"))
}

/// The flag by which `orlop` asks the server at `base`; nothing where it does so anyway.
fn server_flag(base: &str) -> String {
    match base {
        "http://127.0.0.1:7070" => String::new(),
        other => format!(" --server '{other}'"),
    }
}
