//! The event streams of a server, read as they come.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use super::request::{Answer, Request};

/// How long the next line may take.
const LIMIT: Duration = Duration::from_secs(60);

pub struct EventStream {
    path: String,
    response: Response,
    rest: Vec<u8>,
    lines: VecDeque<String>,
}

impl EventStream {
    /// One event a line.
    pub async fn ndjson(request: Request) -> EventStream {
        EventStream::open(request, "application/x-ndjson").await
    }

    /// Server-sent events.
    pub async fn sse(request: Request) -> EventStream {
        EventStream::open(request, "text/event-stream").await
    }

    async fn open(request: Request, form: &str) -> EventStream {
        let (path, response) = request.header("Accept", form).begin().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], form, "{path}");
        EventStream { path, response, rest: Vec::new(), lines: VecDeque::new() }
    }

    /// The next line, without its end; `None` when the stream has ended.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            let piece = timeout(LIMIT, self.response.chunk()).await.expect("something comes in time");
            // A stream that is cut off has ended as well.
            let piece = piece.ok().flatten()?;
            self.rest.extend_from_slice(&piece);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                self.lines.push_back(String::from_utf8(line[..end].to_vec()).expect("text"));
            }
        }
    }

    /// The next event of an NDJSON stream, which fits the contract; `None` when the stream has ended.
    pub async fn try_next(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await?;
            if !line.is_empty() {
                let headers = self.response.headers().clone();
                let answer = Answer { status: 200, headers, body: line.into_bytes().into() };
                answer.must_fit("GET", &self.path);
                return Some(answer.json());
            }
        }
    }

    pub async fn next(&mut self) -> Value {
        self.try_next().await.expect("another event")
    }

    /// The next frame of a stream of server-sent events: its lines, without the empty one behind them.
    pub async fn frame(&mut self) -> Vec<String> {
        let mut frame = Vec::new();
        loop {
            match self.line().await.expect("another frame") {
                line if line.is_empty() => return frame,
                line => frame.push(line),
            }
        }
    }
}

/// The id of an event.
pub fn id(event: &Value) -> i64 {
    event["id"].as_i64().expect("an id")
}

/// Topic and subject of an event.
pub fn told(event: &Value) -> (String, String) {
    let text = |name: &str| event[name].as_str().expect("text").to_owned();
    (text("topic"), text("subject"))
}
