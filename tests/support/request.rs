//! Requests as a test writes them, and answers as it reads them.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use super::app::contract;
use super::contract;

/// A request that is sent when it is awaited.
#[derive(Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Request {
    client: reqwest::Client,
    address: SocketAddr,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Option<reqwest::Body>,
}

/// What came back. It fits the contract: that was checked.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    pub fn new(client: reqwest::Client, address: SocketAddr, method: Method, path: String) -> Request {
        Request { client, address, method, path, headers: HeaderMap::new(), body: None }
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        let name = HeaderName::try_from(name).expect("the name of a header");
        self.headers.append(name, HeaderValue::try_from(value).expect("the text of a header"));
        self
    }

    pub fn json(self, value: Value) -> Request {
        self.typed("application/json").body(value.to_string())
    }

    pub fn merge_patch(self, value: Value) -> Request {
        self.typed("application/merge-patch+json").body(value.to_string())
    }

    fn typed(mut self, media_type: &'static str) -> Request {
        self.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(media_type));
        self
    }

    pub fn body(mut self, bytes: impl AsRef<[u8]>) -> Request {
        self.body = Some(bytes.as_ref().to_vec().into());
        self
    }

    /// A body without a Content-Length.
    pub fn chunked(mut self, chunks: Vec<Bytes>) -> Request {
        let chunks = chunks.into_iter().map(Ok::<_, std::io::Error>);
        self.body = Some(reqwest::Body::wrap_stream(futures_util::stream::iter(chunks)));
        self
    }

    /// `bytes=1-3`, for instance.
    pub fn range(self, range: &str) -> Request {
        self.header(RANGE.as_str(), range)
    }

    pub fn token(self, secret: &str) -> Request {
        self.header(AUTHORIZATION.as_str(), &format!("Bearer {secret}"))
    }

    /// Adds the query parameter `namespace`.
    pub fn namespace(mut self, namespace: &str) -> Request {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        self.path.push_str(&format!("{joint}namespace={namespace}"));
        self
    }

    /// Sends it; panics when there is no answer, and when the answer is not one of the contract.
    pub async fn send(self) -> Answer {
        let asked = format!("{} {}", self.method, self.path);
        match self.try_send().await {
            Ok(answer) => answer,
            Err(error) => panic!("{asked}: no answer: {error:?}"),
        }
    }

    /// Sends it, and reads nothing but the head of the answer; its path.
    pub async fn begin(self) -> reqwest::Result<(String, reqwest::Response)> {
        let url = format!("http://{}{}", self.address, self.path);
        let mut request = self.client.request(self.method, url).headers(self.headers);
        if let Some(body) = self.body {
            request = request.body(body);
        }
        Ok((self.path, request.send().await?))
    }

    /// As [`Request::send`], for a request that may end without an answer.
    pub async fn try_send(self) -> reqwest::Result<Answer> {
        let method = self.method.clone();
        let (path, response) = self.begin().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let answer = Answer { status, headers, body: response.bytes().await? };
        answer.must_fit(method.as_str(), &path);
        Ok(answer)
    }
}

impl IntoFuture for Request {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl Answer {
    /// # Panics
    /// When the contract does not know this answer. A call that it does not know at all must be refused; only
    /// HEAD is answered wherever GET is.
    pub fn must_fit(&self, method: &str, path: &str) {
        let path = path.split('?').next().unwrap_or_default();
        let (status, headers, body) = (self.status, &self.headers, &self.body[..]);
        if contract().operation(method, path).is_some() {
            let answer = contract::Answer { method, path, status, headers, body };
            if let Err(violation) = contract().check(&answer) {
                panic!("{violation}\n{self:?}");
            }
        } else if method != "HEAD" {
            assert!(matches!(status, 400..=499), "{method} {path} is not in the contract: {self:?}");
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}): {self:?}"),
        }
    }

    /// A header's text; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("(not text)"))
    }

    /// The path of what was made, without the namespace that its `Location` may name.
    pub fn place(&self) -> &str {
        self.header("location").split('?').next().unwrap_or_default()
    }

    pub fn problem(&self) -> Option<Value> {
        let is_problem = self.header(CONTENT_TYPE.as_str()).starts_with("application/problem+json");
        is_problem.then(|| self.json())
    }

    /// The `code` of a problem; empty when it is none.
    pub fn problem_code(&self) -> String {
        let problem = self.problem();
        problem.and_then(|problem| Some(problem["code"].as_str()?.to_owned())).unwrap_or_default()
    }

    /// Ends the test when the answer has another status; the answer itself otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self}\n{:?}", self.headers);
        self
    }
}

/// One line for a snapshot: `206 bytes 1-3/5 "ell"`, `409 digest-mismatch`, `201 {"digest":…}`, `204`.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 400;
        write!(f, "{}", self.status)?;
        let problem = self.problem_code();
        if !problem.is_empty() {
            return write!(f, " {problem}");
        }
        if let Some(range) = self.headers.get(CONTENT_RANGE) {
            write!(f, " {}", range.to_str().unwrap_or("(not text)"))?;
        }
        match std::str::from_utf8(&self.body) {
            Ok("") => Ok(()),
            Ok(text) if text.len() > SHOWN => write!(f, " {} bytes", text.len()),
            Ok(text) if self.header(CONTENT_TYPE.as_str()).contains("json") => {
                write!(f, " {}", text.trim_end())
            }
            Ok(text) => write!(f, " {text:?}"),
            Err(_) => write!(f, " {} bytes", self.body.len()),
        }
    }
}
