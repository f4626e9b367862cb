//! The one place of the command line that speaks HTTP: requests, answers, and what went wrong in words.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use url::Url;

use super::curl;
use super::failure::{Exit, Failure};

/// A connection that takes longer than this is not coming.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// The longest `wait=` of the server is 60 s; an answer may take a little more.
const ANSWER_WAIT: Duration = Duration::from_secs(90);
/// The slowest upload that is waited for, in bytes a second.
const SLOWEST_UPLOAD: u64 = 32 << 10;
/// A JSON answer larger than this is not one of ours.
const ANSWER_BYTES: usize = 64 << 20;
/// A problem is a few lines; whatever is behind them is not read.
const PROBLEM_BYTES: usize = 256 << 10;

pub struct Client {
    http: reqwest::Client,
    server: Url,
    token: Option<HeaderValue>,
    namespace: Option<String>,
    echo: Echo,
}

/// Whether each request is shown as a `curl` command on stderr as it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    Silent,
    Curl,
}

impl Client {
    /// # Errors
    /// `Usage` for an address that is not one, or a token that cannot stand in a header.
    pub fn new(
        server: &str,
        token: Option<&str>,
        namespace: Option<String>,
        echo: Echo,
    ) -> Result<Client, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("use the server `{server}`"), why)
                .hint("--server http://127.0.0.1:7070, or ORLOP_SERVER")
        };
        let url = Url::parse(server).map_err(|_| wrong("it is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(wrong("it is not an http:// or https:// URL"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong(
                "it carries a credential or a query: a token goes in ORLOP_TOKEN or --token-file",
            ));
        }
        let token = token.map(bearer).transpose()?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WAIT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("orlop/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&url) {
            // A proxy of the environment cannot reach this machine's own loopback.
            builder = builder.no_proxy();
        }
        let http =
            builder.build().map_err(|e| Failure::new(Exit::Other, "start the HTTP client", causes(&e)))?;
        Ok(Client { http, server: url, token, namespace, echo })
    }

    pub fn server(&self) -> &str {
        self.server.as_str().trim_end_matches('/')
    }

    /// The namespace of scoped calls, by its name.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// A call outside any namespace; `doing` says what it is for, as in "list images".
    pub fn call(&self, method: Method, path: &[&str], doing: impl Into<String>) -> Call<'_> {
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let wait = ANSWER_WAIT;
        Call {
            client: self,
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
            stream: None,
            wait,
            doing: doing.into(),
        }
    }

    /// A call below `/api/v1`, in the namespace of `--namespace`.
    pub fn scoped(&self, method: Method, path: &[&str], doing: impl Into<String>) -> Call<'_> {
        let path: Vec<&str> = ["api", "v1"].iter().chain(path).copied().collect();
        let call = self.call(method, &path, doing);
        match &self.namespace {
            Some(namespace) => call.query("namespace", namespace),
            None => call,
        }
    }

    /// # Errors
    /// `Unreachable` for an answer that breaks off; `Other` for one that is not JSON.
    pub async fn read_json(&self, response: Response, doing: String) -> Result<Value, Failure> {
        let server = self.server();
        let body = read_up_to(response, ANSWER_BYTES, &doing).await?;
        serde_json::from_slice(&body).map_err(|_| {
            Failure::new(Exit::Other, doing, "the answer is not JSON")
                .hint(format!("is there an orlop server at {server}? orlop version --server {server}"))
        })
    }

    fn unreached(&self, doing: String, error: &reqwest::Error) -> Failure {
        let server = self.server();
        let text = causes(error);
        if is_refused(error) {
            return Failure::new(Exit::Unreachable, doing, format!("nothing listens at {server}"))
                .hint("start it with `orlop serve`, or name another with --server or ORLOP_SERVER");
        }
        if error.is_timeout() {
            return Failure::new(Exit::Unreachable, doing, format!("no answer from {server} in time"));
        }
        let hint = if text.contains("certificate") {
            "set SSL_CERT_FILE to the PEM file of the authority that signed the server's certificate"
        } else if text.contains("dns error") || text.contains("lookup") {
            "look for a typing error in the host name, or name another with --server or ORLOP_SERVER"
        } else {
            "orlop health, and the server's log"
        };
        Failure::new(Exit::Unreachable, doing, format!("{server} cannot be reached: {text}")).hint(hint)
    }
}

/// One request on its way.
pub struct Call<'a> {
    client: &'a Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
    /// A body that is read as it is sent, in place of the other.
    stream: Option<reqwest::Body>,
    wait: Duration,
    doing: String,
}

impl Call<'_> {
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }

    pub fn queries<'v>(mut self, name: &str, values: impl IntoIterator<Item = &'v String>) -> Self {
        for value in values {
            self = self.query(name, value);
        }
        self
    }

    /// A header whose value is not fit for one is left out: the server then says what it misses.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    pub fn json(self, value: &Value) -> Self {
        self.content("application/json", Bytes::from(value.to_string()))
    }

    pub fn merge_patch(self, value: &Value) -> Self {
        self.content("application/merge-patch+json", Bytes::from(value.to_string()))
    }

    pub fn content(mut self, media_type: &'static str, body: Bytes) -> Self {
        self.wait = ANSWER_WAIT + Duration::from_secs(body.len() as u64 / SLOWEST_UPLOAD);
        self.headers.insert("content-type", HeaderValue::from_static(media_type));
        self.body = Some(body);
        self
    }

    /// A body that is read as it is sent, for as long as that takes.
    pub fn stream(mut self, media_type: &'static str, body: reqwest::Body) -> Self {
        self.wait = Duration::MAX;
        self.headers.insert("content-type", HeaderValue::from_static(media_type));
        self.stream = Some(body);
        self
    }

    /// The answer, whatever its status.
    ///
    /// # Errors
    /// `Unreachable` when there is none.
    pub async fn raw(self) -> Result<Response, Failure> {
        if self.client.echo == Echo::Curl {
            let has_token = self.client.token.is_some();
            // Of bytes that are not shown there are none to be had.
            let body = self.body.as_deref().or(self.stream.as_ref().map(|_| b"\xff".as_slice()));
            eprintln!("{}", curl::command(&self.method, &self.url, &self.headers, body, has_token));
        }
        let mut request = self.client.http.request(self.method, self.url).headers(self.headers);
        if let Some(token) = &self.client.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if let Some(body) = self.stream.or(self.body.map(Into::into)) {
            request = request.body(body);
        }
        match tokio::time::timeout(self.wait, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.client.unreached(self.doing, &error)),
            Err(_) => {
                let why = format!("no answer from {} in {} s", self.client.server(), self.wait.as_secs());
                Err(Failure::new(Exit::Unreachable, self.doing, why))
            }
        }
    }

    /// The answer, if it is a good one.
    ///
    /// # Errors
    /// As [`Call::raw`]; and the server's problem, in its words.
    pub async fn send(self) -> Result<Response, Failure> {
        let doing = self.doing.clone();
        let response = self.raw().await?;
        match response.status() {
            status if status.is_success() => Ok(response),
            _ => Err(refused(response, doing).await),
        }
    }

    /// The JSON of a good answer.
    ///
    /// # Errors
    /// As [`Call::send`]; `Other` for an answer that is not JSON.
    pub async fn fetch(self) -> Result<Value, Failure> {
        self.fetch_told().await.map(|(_, value)| value)
    }

    /// The same with its status: which of the good ones it is.
    ///
    /// # Errors
    /// As [`Call::fetch`].
    pub async fn fetch_told(self) -> Result<(StatusCode, Value), Failure> {
        let (doing, client) = (self.doing.clone(), self.client);
        let response = self.header("accept", "application/json").send().await?;
        let status = response.status();
        client.read_json(response, doing).await.map(|value| (status, value))
    }
}

/// The failure that a refusing answer stands for.
pub async fn refused(response: Response, doing: String) -> Failure {
    let status = response.status();
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (location, request_id) = (header("location"), header("x-request-id"));
    let media_type = header("content-type").unwrap_or_default();
    if status.is_redirection() {
        let why = format!("the server sends on to {}", location.as_deref().unwrap_or("another address"));
        return Failure::new(Exit::Unreachable, doing, why)
            .hint("give that address with --server or ORLOP_SERVER");
    }
    let resource = resource_of(response.url());
    let body = read_up_to(response, PROBLEM_BYTES, &doing).await.unwrap_or_default();
    let problem = Some(media_type).filter(|media_type| media_type.contains("json"));
    let problem = problem.and_then(|_| serde_json::from_slice(&body).ok()).filter(Value::is_object);
    in_words_for(&resource, of_problem(status, problem, request_id, doing))
}

/// `pulls` of `/api/v1/pulls/…`, wherever the API is.
fn resource_of(url: &Url) -> String {
    let mut segments = url.path_segments().into_iter().flatten().skip_while(|segment| *segment != "api");
    segments.nth(2).unwrap_or_default().to_owned()
}

/// The failure, told as it is for what the request was about.
fn in_words_for(resource: &str, failure: Failure) -> Failure {
    match resource {
        "pulls" => Failure {
            why: Failure::in_flags(&failure.why),
            hint: failure.hint.as_deref().map(Failure::in_flags),
            ..failure
        },
        // These are in no namespace.
        "registries" if failure.exit == Exit::NotFound => {
            failure.hint("check the spelling; orlop registry ls lists those with settings")
        }
        "tokens" if failure.exit == Exit::NotFound => {
            failure.hint("check the spelling; orlop token ls lists them")
        }
        _ => failure,
    }
}

fn of_problem(
    status: StatusCode,
    problem: Option<Value>,
    request_id: Option<String>,
    doing: String,
) -> Failure {
    let text = |name: &str| problem.as_ref().and_then(|p| p.get(name)).and_then(Value::as_str);
    let code = text("code").unwrap_or_default();
    let exit = Exit::of_problem(code, status.as_u16());
    let mut why = match text("detail").or(text("title")) {
        Some(detail) => detail.to_owned(),
        None => format!("the server answered {status}"),
    };
    if let Some(position) = problem.as_ref().and_then(|p| p.get("position")).and_then(Value::as_u64) {
        why.push_str(&format!(" (at character {})", position + 1));
    }
    for list in ["holders", "inside"] {
        if let Some(items) = problem.as_ref().and_then(|p| p.get(list)).and_then(Value::as_array) {
            why.push_str(&format!(": {}", named(items)));
        }
    }
    let hint = Failure::hint_of_problem(code, text("hint"));
    let request_id = text("request_id").map(str::to_owned).or(request_id);
    Failure { exit, doing, why, hint, request_id, problem: problem.map(Box::new), silent: false }
}

/// Who holds something, on one line: the first three, and how many more.
fn named(items: &[Value]) -> String {
    const SHOWN: usize = 3;
    let name = |item: &Value| match item {
        Value::String(text) => text.clone(),
        other => {
            let field = |name: &str| other.get(name).and_then(Value::as_str).unwrap_or_default();
            let name = if field("name").is_empty() { field("id") } else { field("name") };
            format!("{} {name}", field("kind"))
        }
    };
    let mut text = items.iter().take(SHOWN).map(name).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}

async fn read_up_to(mut response: Response, most: usize, doing: &str) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let broken = |why: String| Failure::new(Exit::Unreachable, doing, why);
        match tokio::time::timeout(ANSWER_WAIT, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= most => body.extend_from_slice(&chunk),
            Ok(Ok(Some(_))) => {
                let why = format!("the answer is larger than {most} bytes");
                return Err(Failure::new(Exit::Other, doing, why));
            }
            Ok(Ok(None)) => return Ok(body),
            Ok(Err(error)) => return Err(broken(format!("the answer broke off: {}", causes(&error)))),
            Err(_) => return Err(broken("the answer stalled".to_owned())),
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Failure::usage("read the token", "it holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_refused(error: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

/// What is behind an error of the HTTP client; its own outer layers only say that a request failed.
pub fn causes(error: &reqwest::Error) -> String {
    let mut layers = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        layers.push(error.to_string());
        cause = error.source();
    }
    let telling = |text: &&String| !text.is_empty() && !text.starts_with("client error");
    let told: Vec<&str> = layers.iter().filter(telling).map(String::as_str).collect();
    if told.is_empty() { error.to_string() } else { told.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_the_words_of_what_it_is_about() {
        let url = |text: &str| Url::parse(text).expect(text);
        assert_eq!(resource_of(&url("http://h/api/v1/registries/r.io")), "registries");
        assert_eq!(resource_of(&url("http://h/base/api/v1/pulls?dry_run=true")), "pulls");
        assert_eq!(resource_of(&url("http://h/healthz")), "");
        let lost = || {
            let hint = Failure::hint_of_problem("not-found", None).expect("a hint");
            Failure::new(Exit::NotFound, "look", "with `trace`").hint(hint)
        };
        let hint = |resource: &str| in_words_for(resource, lost()).hint.expect("a hint");
        assert!(hint("images").contains("--namespace"));
        assert!(!hint("registries").contains("--namespace") && !hint("tokens").contains("--namespace"));
        assert_eq!(in_words_for("pulls", lost()).why, "with --trace");
    }
}
