//! The one place where a test waits for something that it is not told of.

use std::time::Duration;

/// Asks until there is an answer, and ends the test when there is none within 30 seconds.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    const LIMIT: Duration = Duration::from_secs(30);
    const PAUSE: Duration = Duration::from_millis(5);
    let place = std::panic::Location::caller();
    async move {
        let asked = tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(found) = ask().await {
                    return found;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        asked.await.unwrap_or_else(|_| panic!("{place}: not within {LIMIT:?}: {what}"))
    }
}
