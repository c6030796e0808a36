//! Messages for claws: written down before they are acknowledged, kept until their claw has
//! taken them. Encrypted like secrets: they are what people said to their claws.
//!
//! A message is in one lane, which is one sender's; a lane is delivered in the order of `seq`.
//! What was delivered is removed: the claw has it.

mod accept;
mod deliver;
mod manage;

use clawfarm_model::Result;
use clawfarm_model::inbox::InboxMessage;

use crate::convert::{from_word, name, number, time};
use crate::entity::inbox;
use crate::store::Store;

pub use self::accept::{InboxLimits, NewMessage};
pub use self::deliver::{Depth, Head, InboxNews, Tried};

/// The columns that tell of a message, without what it says.
const TELLS: [inbox::Column; 10] = {
    use inbox::Column as C;
    [
        C::Seq,
        C::Id,
        C::Instance,
        C::Path,
        C::State,
        C::Size,
        C::ReceivedAt,
        C::Attempts,
        C::NextAt,
        C::LastError,
    ]
};

type Told = (i64, String, String, String, String, i64, i64, i64, i64, Option<String>);

fn message(told: Told) -> Result<InboxMessage> {
    let (_, id, instance, path, state, size, received, attempts, next_at, last_error) = told;
    Ok(InboxMessage {
        instance: name("message", &id, &instance)?,
        state: from_word("message", &id, &state)?,
        size_bytes: number("message", &id, size)?,
        received_at: time(received),
        attempts: number("message", &id, attempts)?,
        next_at: (next_at > 0).then(|| time(next_at)),
        last_error,
        path,
        id,
    })
}

impl Store {
    /// A code of a text for one purpose of the inbox: the same on all servers of the database,
    /// and nothing that could be guessed without its master key.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn inbox_code(&self, purpose: &str, text: &str) -> Result<String> {
        self.0
            .keyring
            .keyed_hash(&format!("inbox {purpose}"), text)
            .map(|hash| hash.chars().take(32).collect())
    }
}
