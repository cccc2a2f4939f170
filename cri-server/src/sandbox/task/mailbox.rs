//! Where a sandbox's task hears. What is said carries its request's span, in which the task then acts.

use tokio::sync::mpsc;
use tracing::Span;

use super::Message;

/// What may wait for one sandbox's task.
const MESSAGES: usize = 64;

/// Says things to a task.
#[derive(Debug, Clone)]
pub struct Mailbox(mpsc::Sender<(Span, Message)>);

/// The task's end of it.
pub(super) type Incoming = mpsc::Receiver<(Span, Message)>;

/// The task has ended, and its sandbox is no more.
#[derive(Debug)]
pub struct Gone;

pub(super) fn new() -> (Mailbox, Incoming) {
    let (sender, incoming) = mpsc::channel(MESSAGES);
    (Mailbox(sender), incoming)
}

impl Mailbox {
    /// Of a task that has ended.
    #[cfg(test)]
    pub(crate) fn unheard() -> Mailbox {
        new().0
    }

    /// Waits while too much else waits.
    ///
    /// # Errors
    /// The task has ended.
    pub async fn send(&self, message: Message) -> Result<(), Gone> {
        self.0.send((Span::current(), message)).await.map_err(|_| Gone)
    }
}
