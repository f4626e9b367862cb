//! What a person or a machine says to a command that waits.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Exit, Failure};

/// SIGINT and SIGTERM, from here on ours to answer.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The one that asked for the cancelling.
    pub seen: Option<Exit>,
}

impl Signals {
    pub fn new() -> Result<Signals, Failure> {
        let listen = |kind| signal(kind).map_err(|e| Failure::io("listen for signals", &e));
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        Ok(Signals { interrupt, terminate, seen: None })
    }

    pub async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}
