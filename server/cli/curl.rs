//! A request as the `curl` command that makes it. The token is never in it: the shell puts it there.

use std::fmt::Write as _;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use url::Url;

use super::text::escape;

pub fn command(
    method: &Method,
    url: &Url,
    headers: &HeaderMap,
    body: Option<&[u8]>,
    with_token: bool,
) -> String {
    let mut text = "curl".to_owned();
    match (method, body) {
        (&Method::GET, None) | (&Method::POST, Some(_)) => {}
        (&Method::HEAD, _) => text.push_str(" --head"),
        _ => {
            let _ = write!(text, " -X {method}");
        }
    }
    let _ = write!(text, " {}", quoted(url.as_str()));
    if with_token {
        text.push_str(" -H \"Authorization: Bearer $ORLOP_TOKEN\"");
    }
    for (name, value) in headers {
        let value = value.to_str().unwrap_or_default();
        let _ = write!(text, " -H {}", quoted(&format!("{name}: {value}")));
    }
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().ends_with(b"json"));
    match body.map(std::str::from_utf8) {
        Some(Ok(json)) if is_json => {
            let _ = write!(text, " --data {}", quoted(&without_secrets(json)));
        }
        // Bytes are not shown: whoever repeats the command has the file.
        Some(_) => text.push_str(" --data-binary @FILE"),
        None => {}
    }
    escape(&text)
}

/// The body with an ellipsis for each secret: whoever repeats the command knows them.
fn without_secrets(json: &str) -> String {
    const SECRETS: [&str; 5] = ["password", "token", "identity_token", "client_key", "headers"];
    fn hide(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    match SECRETS.contains(&name.as_str()) && !field.is_null() {
                        true => *field = "…".into(),
                        false => hide(field),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(hide),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let Ok(mut body) = serde_json::from_str::<Value>(json) else { return json.to_owned() };
    let before = body.clone();
    hide(&mut body);
    if body == before { json.to_owned() } else { body.to_string() }
}

/// In single quotes for a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_body_is_not_shown() {
        let body = r#"{"ref":"a","auth":{"username":"me","password":"s3cret"},"mirrors":[{"client_key":"s3cret","headers":{"X":["s3cret"]}}]}"#;
        let shown = without_secrets(body);
        assert!(!shown.contains("s3cret") && shown.contains("\"username\":\"me\""), "{shown}");
        assert_eq!(without_secrets(r#"{"b":1,"a":2}"#), r#"{"b":1,"a":2}"#);
    }

    #[test]
    fn a_request_is_shown_as_a_command_that_holds_no_token() {
        let url = Url::parse("http://127.0.0.1:7070/api/v1/pulls?namespace=a").expect("a URL");
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().expect("a header"));
        let shown = command(&Method::POST, &url, &headers, Some(br#"{"ref":"it's"}"#), true);
        assert_eq!(
            shown,
            "curl 'http://127.0.0.1:7070/api/v1/pulls?namespace=a' -H \"Authorization: Bearer $ORLOP_TOKEN\" \
             -H 'content-type: application/json' --data '{\"ref\":\"it'\\''s\"}'"
        );
    }
}
