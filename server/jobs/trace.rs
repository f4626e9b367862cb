//! The requests of a pull and their answers, kept for whoever asked for them. No secret is in them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::limits;
use crate::registry::{Outcome, Told};

/// What a pull remembers of its requests: the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullTrace {
    pub items: VecDeque<TraceLine>,
    /// Earlier ones that are forgotten.
    pub dropped: u64,
}

/// A request and its answer, or that another host was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLine {
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
}

impl TraceLine {
    /// `None` for what is told in the pull's log instead.
    pub(super) fn of(told: &Told, at: Time) -> Option<TraceLine> {
        let Told::Exchange(exchange) = told else { return None };
        let (status, headers, error) = match &exchange.outcome {
            Outcome::Answered { status, headers } => {
                let headers = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                (Some(*status), headers, None)
            }
            Outcome::Failed { reason } => (None, Vec::new(), Some(reason.clone())),
        };
        Some(TraceLine {
            at,
            method: exchange.method.clone(),
            url: exchange.url.clone(),
            authorization: exchange.authorization.clone(),
            range: exchange.range.clone(),
            status,
            headers,
            error,
            duration_ms: u64::try_from(exchange.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
