//! Following a pull, or the server's events: the event stream, taken up again where it broke.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{Stream, stream};
use reqwest::{Method, Response, StatusCode};

use super::client::{Client, causes, refused};
use super::failure::{Exit, Failure};
use super::picture::Event;

/// What following gives: an event, or the news that the connection is lost and will be tried again.
#[derive(Debug)]
pub enum Step {
    Event(Event),
    Lost(String),
    /// The stream ended, and its `end` was seen before.
    Over,
}

/// What is followed.
#[derive(Debug, Clone)]
pub struct Followed {
    /// Below `/api/v1`.
    pub path: Vec<String>,
    pub query: Vec<(&'static str, String)>,
    /// Whether it is in the namespace of `--namespace`.
    pub scoped: bool,
    /// In words, as in "follow pull 1".
    pub doing: String,
    /// What to try when patience has come to its end.
    pub hint: String,
}

impl Followed {
    pub fn pull(id: &str) -> Followed {
        Followed::job("pull", id, format!("orlop pulls logs -f {id}"))
    }

    pub fn unpack(id: &str) -> Followed {
        Followed::job("unpack", id, "the same command again waits for it".to_owned())
    }

    fn job(kind: &str, id: &str, hint: String) -> Followed {
        Followed {
            path: vec![format!("{kind}s"), id.to_owned(), "events".to_owned()],
            query: Vec::new(),
            scoped: true,
            doing: format!("follow {kind} {id}"),
            hint: format!("the {kind} goes on without us: {hint}"),
        }
    }
}

/// How long to go on trying without a single line.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The first wait; each is twice the one before, up to `longest`.
    pub first: Duration,
    pub longest: Duration,
    /// All waits together.
    pub total: Duration,
    /// Silence after which a connection counts as dead: the server says something every 15 s.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(5),
            total: Duration::from_secs(120),
            silence: Duration::from_secs(45),
        }
    }
}

/// A line longer than this is not an event of ours.
const LINE_BYTES: usize = 64 << 20;

/// The events until their `end`, if they have one, over as many connections as it takes. The stream keeps its place when it is
/// polled beside other futures; it ends after `end`, after [`Step::Over`], and after an error.
pub fn follow<'a>(
    client: &'a Client,
    followed: Followed,
    patience: Patience,
) -> impl Stream<Item = Result<Step, Failure>> + 'a {
    let follower = Follower {
        client,
        followed,
        patience,
        last_event: None,
        open: None,
        lines: Lines::default(),
        waited: Duration::ZERO,
        wait: patience.first,
        begun: false,
        pause: Duration::ZERO,
        finished: false,
    };
    stream::unfold(follower, |mut follower| async move {
        if follower.finished {
            return None;
        }
        let step = follower.step().await;
        follower.finished = match &step {
            Ok(Step::Event(event)) => event.is_end(),
            Ok(Step::Lost(_)) => false,
            Ok(Step::Over) | Err(_) => true,
        };
        Some((step, follower))
    })
}

struct Follower<'a> {
    client: &'a Client,
    followed: Followed,
    patience: Patience,
    last_event: Option<String>,
    open: Option<Response>,
    lines: Lines,
    /// Waits since the last line.
    waited: Duration,
    /// The next wait, should one be needed.
    wait: Duration,
    /// Whether there was a connection.
    begun: bool,
    /// What to wait before the next connection.
    pause: Duration,
    finished: bool,
}

/// What became of an attempt to connect.
enum Opened {
    Stream(Response),
    Seen,
    Again(Failure),
}

impl Follower<'_> {
    async fn step(&mut self) -> Result<Step, Failure> {
        loop {
            if let Some(event) = self.lines.next_event() {
                self.last_event = event.id.clone().or(self.last_event.take());
                return Ok(Step::Event(event));
            }
            let Some(open) = &mut self.open else {
                tokio::time::sleep(std::mem::take(&mut self.pause)).await;
                match self.connect().await? {
                    Opened::Stream(response) => (self.open, self.begun) = (Some(response), true),
                    Opened::Seen => return Ok(Step::Over),
                    Opened::Again(failure) => return self.lost(failure),
                }
                continue;
            };
            let why = match tokio::time::timeout(self.patience.silence, open.chunk()).await {
                Ok(Ok(Some(bytes))) if self.lines.take_in(&bytes) => {
                    // Also a line without an event: the server is there.
                    if bytes.contains(&b'\n') {
                        (self.waited, self.wait) = (Duration::ZERO, self.patience.first);
                    }
                    continue;
                }
                Ok(Ok(Some(_))) => {
                    return Err(self.failure(Exit::Other, "the server sends a line without end"));
                }
                Ok(Ok(None)) => "the server ended the stream".to_owned(),
                Ok(Err(error)) => causes(&error),
                Err(_) => format!("nothing came for {} s", self.patience.silence.as_secs()),
            };
            self.open = None;
            self.lines = Lines::default();
            let failure = self.failure(Exit::Unreachable, &why);
            return self.lost(failure);
        }
    }

    async fn connect(&self) -> Result<Opened, Failure> {
        let doing = self.doing();
        let path: Vec<&str> = self.followed.path.iter().map(String::as_str).collect();
        let mut call = match self.followed.scoped {
            true => self.client.scoped(Method::GET, &path, doing.clone()),
            false => {
                self.client.call(Method::GET, &[&["api", "v1"], path.as_slice()].concat(), doing.clone())
            }
        };
        for (name, value) in &self.followed.query {
            call = call.query(name, value);
        }
        call = call.header("accept", "application/x-ndjson");
        if let Some(last) = &self.last_event {
            call = call.header("last-event-id", last);
        }
        let response = match call.raw().await {
            Ok(response) => response,
            // The very first connection is not waited for: a wrong address should say so at once.
            Err(failure) if !self.begun => return Err(failure),
            Err(failure) => return Ok(Opened::Again(failure)),
        };
        match response.status() {
            StatusCode::NO_CONTENT => Ok(Opened::Seen),
            StatusCode::OK => Ok(Opened::Stream(response)),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Ok(Opened::Again(refused(response, doing).await)),
            _ => Err(refused(response, doing).await),
        }
    }

    /// Spends patience; the failure itself when there is none left.
    fn lost(&mut self, failure: Failure) -> Result<Step, Failure> {
        if self.waited >= self.patience.total {
            return Err(failure.hint(self.followed.hint.clone()));
        }
        self.pause = self.wait;
        self.waited += self.wait;
        self.wait = (self.wait * 2).min(self.patience.longest);
        Ok(Step::Lost(failure.why))
    }

    fn failure(&self, exit: Exit, why: &str) -> Failure {
        Failure::new(exit, self.doing(), why)
    }

    fn doing(&self) -> String {
        self.followed.doing.clone()
    }
}

/// Bytes as they come, cut into lines.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
    ready: VecDeque<Event>,
}

impl Lines {
    /// Whether the unfinished line is still of a sane length.
    fn take_in(&mut self, bytes: &[u8]) -> bool {
        let mut parts = bytes.split(|byte| *byte == b'\n');
        self.rest.extend_from_slice(parts.next().unwrap_or_default());
        for part in parts {
            let line = std::mem::replace(&mut self.rest, part.to_vec());
            // An empty line keeps the connection alive.
            self.ready.extend(Event::parse(&line));
        }
        self.rest.len() <= LINE_BYTES
    }

    fn next_event(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests;
