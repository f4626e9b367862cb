//! A request as the `curl` command that makes it. The token is never in it: the shell puts it there.

use std::fmt::Write as _;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
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
            let _ = write!(text, " --data {}", quoted(json));
        }
        // Bytes are not shown: whoever repeats the command has the file.
        Some(_) => text.push_str(" --data-binary @FILE"),
        None => {}
    }
    escape(&text)
}

/// In single quotes for a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
