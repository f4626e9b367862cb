//! Layers that the server reads for the first time: until it has, it says when to ask again.

use std::time::Duration;

use reqwest::{Response, StatusCode};

use super::client::Call;
use super::context::say;
use super::failure::{Exit, Failure};

/// Between two questions, whatever the server says.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// A layer that takes longer than this is not being read any more.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The answer to a call that may be about a layer which nobody has read yet, once it is read. Calls are made by `call`, each
/// time the same.
///
/// # Errors
/// `Unreachable` when there is no answer, or none in an hour.
pub async fn answer_once_read<'c>(call: impl Fn() -> Call<'c>, doing: &str) -> Result<Response, Failure> {
    let mut waited = Duration::ZERO;
    loop {
        let response = call().raw().await?;
        if response.status() != StatusCode::ACCEPTED {
            return Ok(response);
        }
        if waited.is_zero() {
            say("the server reads the layers for the first time: waiting");
        }
        let wait = pause(&response);
        waited += wait;
        if waited > PATIENCE {
            let why = format!("the server has read the layers for {} minutes", PATIENCE.as_secs() / 60);
            return Err(Failure::new(Exit::Unreachable, doing, why).hint("the server's log"));
        }
        tokio::time::sleep(wait).await;
    }
}

/// As long as `Retry-After` says.
fn pause(response: &Response) -> Duration {
    let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let seconds = header.and_then(|text| text.parse().ok()).map_or(SHORTEST, Duration::from_secs);
    seconds.clamp(SHORTEST, LONGEST)
}
