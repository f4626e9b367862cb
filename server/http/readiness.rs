//! Whether the server can do its work. Anybody may ask, and each look writes to the disk: so one look at a time is
//! under way, and what it found is told to everybody who asks soon after.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Mutex;

use super::AppState;
use crate::clock::Time;
use crate::error::{Error, Result, with_causes};
use crate::limits;

/// The last look at the parts of the server. A cheap clone.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Option<Look>>>);

struct Look {
    ended_at: Time,
    checks: Vec<Check>,
}

/// A part of the server, and what it answers.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    pub detail: String,
}

impl Readiness {
    /// Every part that the server needs, as it stands now or stood [`limits::READY_KEPT`] ago.
    ///
    /// # Errors
    /// `Internal` when the look was cut short by the end of the server.
    pub async fn look(&self, state: &AppState) -> Result<Vec<Check>> {
        let mut last = self.0.clone().lock_owned().await;
        let now = state.clock.now();
        // A clock that was set back must not keep an answer for hours.
        let is_fresh = |look: &&Look| look.ended_at <= now && now.since(look.ended_at) < limits::READY_KEPT;
        if let Some(look) = last.as_ref().filter(is_fresh) {
            return Ok(look.checks.clone());
        }
        // In a task of its own: who hangs up must not have the next one begin another look beside it.
        let asked = state.clone();
        let looking = state.shutdown.spawn("look at the parts", async move {
            let (database, disk) = tokio::join!(
                check(&asked, "db", asked.store.check_database()),
                check(&asked, "disk", asked.store.check_disk()),
            );
            let checks = vec![database, disk];
            *last = Some(Look { ended_at: asked.clock.now(), checks: checks.clone() });
            checks
        });
        looking.await.ok().flatten().ok_or_else(|| Error::internal("look at the parts of the server"))
    }
}

/// What a part answers, in words that hide its insides: those are for the log.
async fn check(state: &AppState, name: &'static str, answer: impl Future<Output = Result<()>>) -> Check {
    let asked_at = state.clock.now();
    let Err(error) = answer.await else {
        let waited = state.clock.now().since(asked_at);
        return Check { name, ok: true, detail: format!("answers in {} ms", waited.as_millis()) };
    };
    tracing::warn!(part = name, "Not ready: {}", with_causes(&error));
    let detail = match error {
        Error::OutOfSpace { .. } => "is full",
        _ => "does not answer as it should",
    };
    Check { name, ok: false, detail: detail.to_owned() }
}
