//! Taking a message in.

use clawfarm_model::{Action, ClawId, Context, Error, Result};
use clawfarm_store::{InboxLimits, NewMessage};
use metrics::counter;

use crate::Control;
use crate::core::may;

/// What is said of where a message comes from.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The path it came in at: its route's.
    pub path: &'a str,
    /// The path and query that it asked for. Two hooks of one route may number what they send
    /// alike.
    pub target: &'a str,
    /// Whose order it is in, beside the path: a chat, a channel. Empty when that is not known.
    pub conversation: &'a str,
    /// What the service itself calls the message, when it does: it sends it again under it.
    pub number: Option<&'a str>,
}

/// A message's place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lined {
    /// The message's id, and the key that the claw is sent with it.
    pub id: String,
    /// Its sender's lane.
    pub lane: String,
    /// Whether another one of the lane waits, so that it has to wait too.
    pub waits: bool,
}

/// A message to be taken in.
#[derive(Clone, Debug)]
pub struct NewInboxMessage {
    /// Its place.
    pub lined: Lined,
    /// The path it came in at.
    pub path: String,
    /// The request, packed (`InboxRequest::pack`).
    pub content: Vec<u8>,
}

impl Control {
    /// Finds a message's place: its id, which is the same when its service sends it again, and
    /// whether it has to wait behind others.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn line_up(&self, context: &Context, id: &ClawId, sender: Sender<'_>) -> Result<Lined> {
        let store = &self.core.store;
        let lane = store.inbox_code("lane", &format!("{id}\0{}\0{}", sender.path, sender.conversation))?;
        let number = match sender.number {
            Some(number) => store.inbox_code("message", &format!("{id}\0{}\0{number}", sender.target))?,
            None => random()?,
        };
        let waits = store.waits_in_lane(context, id, &lane).await?;
        Ok(Lined { id: format!("in-{number}"), lane, waits })
    }

    /// Takes a message in. When this returns it is on the disk, and will be delivered.
    ///
    /// # Errors
    /// `Overloaded` or `Insufficient` when too much waits for the claw, `NotFound` when it is
    /// gone, `Unavailable` when the store does not answer. Nothing is taken in then.
    pub async fn accept(&self, context: &Context, id: &ClawId, message: NewInboxMessage) -> Result<()> {
        let instance = self.core.store.instance(context, id).await?;
        let grant = may(context, Action::InstanceUse, &instance)?;
        let NewInboxMessage { lined, path, content } = message;
        let new = NewMessage { id: lined.id, lane: lined.lane, path, content };
        let accepted = self.core.store.accept_message(&grant, id, &new, InboxLimits::default()).await;
        match accepted {
            Ok(_) => counter!("clawfarm_inbox_accepted_total").increment(1),
            Err(_) => counter!("clawfarm_inbox_refused_total").increment(1),
        }
        accepted.map(drop)
    }
}

fn random() -> Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal("no random bytes can be had", e.to_string()))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
