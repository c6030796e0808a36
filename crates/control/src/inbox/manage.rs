//! What people see of messages, and do to them.

use clawfarm_model::inbox::{InboxMessage, InboxRequest, InboxState};
use clawfarm_model::{Action, Context, Error, Result};

use crate::Control;
use crate::core::may;

impl Control {
    /// The messages that wait for an instance or were given up, oldest first.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance.
    pub async fn messages(
        &self,
        context: &Context,
        id: &str,
        state: Option<InboxState>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<InboxMessage>> {
        let id = self.core.store.resolve(context, id).await?;
        self.core.store.messages(context, &id, state, after, limit).await
    }

    /// One message, with what it says: its request and its body.
    ///
    /// # Errors
    /// `NotFound` when there is no such message.
    pub async fn message(
        &self,
        context: &Context,
        id: &str,
        message: &str,
    ) -> Result<(InboxMessage, InboxRequest, Vec<u8>)> {
        let instance = self.core.find(context, id).await?;
        may(context, Action::InstanceUse, &instance)?;
        let told = self.core.store.message(context, &instance.id, message).await?;
        let content = self.core.store.message_content(context, &instance.id, message).await?;
        let content = content.ok_or_else(|| Error::not_found("message", message))?;
        let (request, body) = InboxRequest::unpack(&content)
            .ok_or_else(|| Error::internal("a message can't be read", message.to_owned()))?;
        let body = body.to_vec();
        Ok((told, request, body))
    }

    /// Has a message that was given up tried again, or all of an instance; says how many.
    ///
    /// # Errors
    /// `NotFound` when there is no such message that was given up.
    pub async fn replay(&self, context: &Context, id: &str, message: Option<&str>) -> Result<u64> {
        let instance = self.core.find(context, id).await?;
        let grant = may(context, Action::InstanceUse, &instance)?;
        let count = self.core.store.replay_messages(&grant, &instance.id, message).await?;
        match message {
            Some(message) if count == 0 => Err(Error::not_found("message", message)
                .fix(format!("see which were given up: clawfarm inbox ls {} --dead", instance.id))),
            _ => Ok(count),
        }
    }

    /// Removes a message for good, or all that were given up of an instance; says how many.
    ///
    /// # Errors
    /// `NotFound` when there is no such message.
    pub async fn drop_messages(&self, context: &Context, id: &str, message: Option<&str>) -> Result<u64> {
        let instance = self.core.find(context, id).await?;
        let grant = may(context, Action::InstanceUse, &instance)?;
        // All at once only of those that nobody will try again: what waits is wanted.
        let state = message.is_none().then_some(InboxState::Dead);
        let count = self.core.store.drop_messages(&grant, &instance.id, message, state).await?;
        match message {
            Some(message) if count == 0 => Err(Error::not_found("message", message)),
            _ => Ok(count),
        }
    }
}
