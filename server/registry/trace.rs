//! What passed between us and the registries of one pull, for whoever wants to know. No secret is in it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};

/// Who is told of each request and of each change of plan; mostly nobody.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<dyn Fn(Told) + Send + Sync>>);

/// What is told.
#[derive(Debug, Clone)]
pub enum Told {
    /// A request and its answer.
    Exchange(Exchange),
    /// An endpoint did not help, and another is asked.
    Fallback { from: String, to: String, reason: String },
}

/// One request, and the head of its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub method: String,
    /// Without user information, and without the text of its query.
    pub url: String,
    /// The scheme of the credential that was sent, never the credential.
    pub authorization: Option<String>,
    /// The `Range` that was asked for.
    pub range: Option<String>,
    pub outcome: Outcome,
    /// Until the head of the answer.
    pub took: Duration,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Answered {
        status: u16,
        /// Headers that say how to go on, in the order of their names; never one that holds a secret.
        headers: Vec<(&'static str, String)>,
    },
    Failed {
        reason: String,
    },
}

impl Trace {
    /// Tells everything to `listener`, at once and in the middle of a request: it must not wait.
    pub fn to(listener: impl Fn(Told) + Send + Sync + 'static) -> Trace {
        Trace(Some(Arc::new(listener)))
    }

    pub const fn nobody() -> Trace {
        Trace(None)
    }

    pub(super) fn tell(&self, exchange: impl FnOnce() -> Exchange) {
        if let Some(listener) = &self.0 {
            listener(Told::Exchange(exchange()));
        }
    }

    pub(super) fn tell_fallback(&self, from: &str, to: &str, reason: impl fmt::Display) {
        if let Some(listener) = &self.0 {
            listener(Told::Fallback { from: from.to_owned(), to: to.to_owned(), reason: reason.to_string() });
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Trace(on)" } else { "Trace(off)" })
    }
}

impl Outcome {
    pub(super) fn answered(response: &Response) -> Outcome {
        const TOLD: [(&str, reqwest::header::HeaderName); 4] = [
            ("content-length", CONTENT_LENGTH),
            ("content-range", CONTENT_RANGE),
            ("retry-after", RETRY_AFTER),
            ("www-authenticate", WWW_AUTHENTICATE),
        ];
        /// A longer value is cut: it is a stranger's text.
        const LONGEST: usize = 200;
        let value = |text: &str| text.chars().filter(|c| !c.is_control()).take(LONGEST).collect::<String>();
        let found = TOLD.into_iter().filter_map(|(name, header)| {
            let text = response.headers().get(header)?.to_str().ok()?;
            Some((name, value(text)))
        });
        Outcome::Answered { status: response.status().as_u16(), headers: found.collect() }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)?;
        self.range.iter().try_for_each(|range| write!(f, " [{range}]"))?;
        self.authorization.iter().try_for_each(|scheme| write!(f, " ({scheme})"))?;
        match &self.outcome {
            Outcome::Answered { status, headers } => {
                write!(f, " → {status}")?;
                headers.iter().try_for_each(|(name, value)| write!(f, ", {name}: {value}"))?;
            }
            Outcome::Failed { reason } => write!(f, " → {reason}")?,
        }
        write!(f, " in {} ms", self.took.as_millis())
    }
}
