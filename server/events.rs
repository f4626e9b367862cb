//! What happened, for whoever listens: a bounded bus. A listener that is too slow hears that it missed something.

use tokio::sync::broadcast;

use crate::clock::Time;
use crate::limits;

/// Something that is now so.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: Time,
    pub namespace: String,
    pub topic: Topic,
    /// The digest, id or name of what it happened to.
    pub subject: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    ContentCreated,
    ContentDeleted,
    ImageCreated,
    ImageUpdated,
    ImageDeleted,
    LeaseCreated,
    LeaseUpdated,
    LeaseDeleted,
    IngestChanged,
    PullChanged,
}

/// The bus: a cheap clone.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Events {
        Events(broadcast::Sender::new(limits::EVENT_QUEUE))
    }
}

impl Events {
    /// Tells everybody who listens; that nobody does is not an error.
    pub fn publish(&self, event: Event) {
        let _ = self.0.send(event);
    }

    /// Hears of everything from now on.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
