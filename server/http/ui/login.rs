//! `/login` and `/logout`: a token becomes a session cookie, and ends as one.
//!
//! The login form carries a secret that its page also sets as a cookie: another site can make a browser send the
//! cookie, and cannot read what the form has to repeat.

use askama::Template;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{Place, Shell, page as render};
use crate::error::Error;
use crate::http::AppState;
use crate::http::access::{Identity, SESSION_COOKIE, session_cookie};
use crate::http::error::ApiError;
use crate::http::params::Params;
use crate::http::serve::{Peer, Transport};
use crate::id::random_bytes;
use crate::limits;
use crate::store::{SESSION_TIME, is_same};

/// The cookie that the login form's secret is compared with.
const FORM_COOKIE: &str = "orlop_login";
/// How long a login page may lie open before it is sent, in seconds.
const FORM_SECONDS: u64 = 3600;

#[derive(Template)]
#[template(path = "login.html")]
struct Page {
    shell: Shell,
    csrf: String,
    /// Why the last try failed.
    failure: Option<&'static str>,
    /// Whether one gets nowhere without a login.
    needed: bool,
}

pub async fn page(State(state): State<AppState>, parts: Parts) -> Result<Response, ApiError> {
    show(&state, &Visit::of(&parts), StatusCode::OK, None)
}

/// # Errors
/// What is wrong with the form; `Unavailable`. A wrong token is no error: the page again, with 401.
pub async fn log_in(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let visit = Visit::of(&parts);
    let form = read_form(&parts.headers, body, &["token", "csrf"]).await?;
    let shown = form.one("csrf")?.unwrap_or_default();
    if !visit.form_secret.as_deref().is_some_and(|secret| is_same(secret.as_bytes(), shown.as_bytes())) {
        let failure =
            "This page had been open for too long, or the browser takes no cookies. Please try again.";
        return show(&state, &visit, StatusCode::FORBIDDEN, Some(failure));
    }
    let secret = form.one("token")?.unwrap_or_default().trim();
    let Some(session) = state.store.begin_session(secret).await? else {
        let failure = "No such token: it is unknown, revoked or expired.";
        return show(&state, &visit, StatusCode::UNAUTHORIZED, Some(failure));
    };
    if let Some(earlier) = session_cookie(&parts.headers) {
        state.store.end_session(earlier).await?;
    }
    let mut response = Redirect::to("/").into_response();
    let cookies = [
        cookie(SESSION_COOKIE, &session.secret, "/", SESSION_TIME.as_secs(), visit.transport),
        cookie(FORM_COOKIE, "", "/login", 0, visit.transport),
    ];
    response.headers_mut().extend(cookies.map(|cookie| (SET_COOKIE, cookie)));
    Ok(response)
}

/// # Errors
/// `Forbidden` when the form is not one of this session; `Unavailable`.
pub async fn log_out(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let visit = Visit::of(&parts);
    let form = read_form(&parts.headers, body, &["csrf"]).await?;
    if let Identity::Session(session) = Identity::of(&parts) {
        let shown = form.one("csrf")?.unwrap_or_default();
        if !is_same(shown.as_bytes(), session.csrf.as_bytes()) {
            let reason = "the form does not belong to this session: load the page again".to_owned();
            return Err(ApiError::Forbidden { reason });
        }
        state.store.end_session(&session.secret).await?;
    }
    let gone = cookie(SESSION_COOKIE, "", "/", 0, visit.transport);
    Ok(([(SET_COOKIE, gone)], Redirect::to("/login")).into_response())
}

/// What of a request the login goes by.
struct Visit {
    identity: Identity,
    transport: Transport,
    form_secret: Option<String>,
}

impl Visit {
    fn of(parts: &Parts) -> Visit {
        let transport = parts.extensions.get::<Peer>().map_or(Transport::Plain, |peer| peer.transport);
        Visit { identity: Identity::of(parts), transport, form_secret: form_cookie(&parts.headers) }
    }
}

fn show(
    state: &AppState,
    visit: &Visit,
    status: StatusCode,
    failure: Option<&'static str>,
) -> Result<Response, ApiError> {
    // A secret that is there is kept: two login pages side by side must both work.
    let csrf = visit.form_secret.clone().unwrap_or_else(|| crate::id::hex(&random_bytes::<16>()));
    let set = cookie(FORM_COOKIE, &csrf, "/login", FORM_SECONDS, visit.transport);
    let shell = Shell::new(Place::Elsewhere, &visit.identity);
    let mut response = render(status, &Page { shell, csrf, failure, needed: state.auth_required })?;
    response.headers_mut().insert(SET_COOKIE, set);
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110, section 15.5.2: a 401 names a way to be let in.
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"orlop\""));
    }
    Ok(response)
}

/// A cookie that no script reads and no other site's request carries.
fn cookie(name: &str, value: &str, path: &str, seconds: u64, transport: Transport) -> HeaderValue {
    let secure = match transport {
        Transport::Plain => "",
        Transport::Tls => "; Secure",
    };
    let text = format!("{name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&text).expect("names, hexadecimal digits and numbers")
}

/// The secret of the login form, if it is one of ours by its look: it goes back into a header.
fn form_cookie(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, secret) = pairs.find(|(name, _)| *name == FORM_COOKIE)?;
    let ours = secret.len() == 32 && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
    ours.then(|| secret.to_owned())
}

/// The fields of a form that has `names`, each once and filled in, and no others.
async fn read_form(headers: &HeaderMap, body: axum::body::Body, names: &[&str]) -> Result<Params, ApiError> {
    const TYPE: &str = "application/x-www-form-urlencoded";
    const MOST: usize = limits::FORM_BYTES;
    /// Far more than a secret of ours has.
    const FIELD_CHARS: usize = 512;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(TYPE) {
        return Err(ApiError::UnsupportedMediaType { expected: TYPE });
    }
    let bytes = match Limited::new(body, MOST).collect().await {
        Ok(read) => read.to_bytes(),
        Err(failed) if failed.is::<LengthLimitError>() => {
            return Err(Error::TooLarge { what: "the form", limit: MOST as u64 }.into());
        }
        Err(_) => return Err(Error::invalid("the form broke off").into()),
    };
    let form = Params::of(Some(&String::from_utf8_lossy(&bytes)))?;
    if let Some(unknown) = form.names().find(|name| !names.contains(name)) {
        return Err(Error::invalid_field(unknown, format!("the form has no field `{unknown}`")).into());
    }
    if let Some(missing) = names.iter().find(|wanted| !form.names().any(|name| name == **wanted)) {
        return Err(Error::invalid_field(*missing, format!("the form lacks `{missing}`")).into());
    }
    for name in names {
        let length = form.one(name)?.unwrap_or_default().chars().count();
        if !(1..=FIELD_CHARS).contains(&length) {
            let reason = format!("`{name}` has from 1 to {FIELD_CHARS} characters");
            return Err(Error::invalid_field(*name, reason).into());
        }
    }
    Ok(form)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::http::ui::failure::tests::body_of;

    #[test]
    fn a_session_cookie_is_for_this_server_alone_and_never_for_a_script() {
        let plain = cookie(SESSION_COOKIE, "ab12", "/", 60, Transport::Plain);
        assert_eq!(plain, "orlop_session=ab12; Path=/; Max-Age=60; HttpOnly; SameSite=Strict");
        let tls = cookie(SESSION_COOKIE, "ab12", "/", 60, Transport::Tls);
        assert_eq!(tls, "orlop_session=ab12; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure");
    }

    #[test]
    fn a_form_cookie_that_we_did_not_set_is_not_taken() {
        let of = |text: &str| {
            form_cookie(&HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(text).expect("visible"))]))
        };
        let secret = "0123456789abcdef0123456789abcdef";
        assert_eq!(of(&format!("a=b; orlop_login={secret}")).as_deref(), Some(secret));
        assert_eq!(of("orlop_login=short"), None);
        assert_eq!(of("orlop_login=0123456789abcdef0123456789abcde\""), None);
    }

    #[tokio::test]
    async fn a_form_has_its_own_fields_and_no_others() {
        let read = async |kind: &'static str, text: String| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            read_form(&headers, Body::from(text), &["token", "csrf"]).await
        };
        let form = "application/x-www-form-urlencoded";
        let good = read(form, "token=a%2Bb&csrf=c".to_owned()).await.expect("a form");
        assert_eq!(good.one("token").expect("one"), Some("a+b"));
        let code = |read: Result<Params, ApiError>| read.expect_err("refused").doc().code;
        assert_eq!(code(read("application/json", "{}".to_owned()).await), "unsupported-media-type");
        assert_eq!(code(read(form, "token=a".to_owned()).await), "invalid-argument");
        assert_eq!(code(read(form, "token=a&csrf=b&next=//evil".to_owned()).await), "invalid-argument");
        assert_eq!(code(read(form, "x".repeat(limits::FORM_BYTES + 1)).await), "too-large");
    }

    #[tokio::test]
    async fn the_page_says_why_it_is_there_again() {
        let shell = Shell::plain(Place::Elsewhere);
        let page = Page { shell, csrf: "abc".to_owned(), failure: Some("No such token."), needed: true };
        let text = body_of(render(StatusCode::UNAUTHORIZED, &page).expect("a page")).await;
        crate::http::ui::front::tests::write_page("login.html", &text);
        assert!(text.contains("role=\"alert\"") && text.contains("No such token."));
        assert!(text.contains("name=\"csrf\" value=\"abc\""));
    }
}
