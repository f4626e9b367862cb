//! The requests of a pull and their answers, kept for whoever asked for them. No secret is in them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::limits;
use crate::registry::{Exchange, Outcome, Received};

/// What a pull remembers of its requests: the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullTrace {
    pub items: VecDeque<TraceLine>,
    /// Earlier ones that are forgotten.
    pub dropped: u64,
}

/// A request and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLine {
    /// Of the exchange among those of one attempt; none once it is over.
    #[serde(skip)]
    number: Option<u64>,
    pub at: Time,
    pub method: String,
    /// Without user information, and without the text of its query.
    pub url: String,
    /// The scheme of the credential that was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Headers of the answer that say how to go on, as `name: value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Bytes of its body that came; `None` for one that nobody read, or that is still being read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Why less of the body was read than there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    /// Until the head of the answer, in milliseconds.
    pub duration_ms: u64,
}

impl PullTrace {
    pub(super) fn push(&mut self, line: TraceLine) {
        self.items.push_back(line);
        while self.items.len() > limits::PULL_TRACE {
            self.items.pop_front();
            self.dropped += 1;
        }
    }

    /// Notes how much came of a body. Of equal numbers the last is meant: the others are of earlier attempts.
    pub(super) fn note_body(&mut self, received: Received) {
        let line = self.items.iter_mut().rfind(|line| line.number == Some(received.exchange));
        if let Some(line) = line {
            (line.received_bytes, line.cut) = (Some(received.bytes), received.cut);
        }
    }
}

impl TraceLine {
    pub(super) fn of(exchange: Exchange, at: Time) -> TraceLine {
        let (status, headers, error) = match exchange.outcome {
            Outcome::Answered { status, headers } => {
                let headers = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                (Some(status), headers, None)
            }
            Outcome::Failed { reason } => (None, Vec::new(), Some(reason)),
        };
        TraceLine {
            number: Some(exchange.number),
            at,
            method: exchange.method,
            url: exchange.url,
            authorization: exchange.authorization,
            range: exchange.range,
            status,
            headers,
            error,
            received_bytes: None,
            cut: None,
            duration_ms: u64::try_from(exchange.took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
