//! `/instances/{id}/inbox`.

use clawfarm_api::{InboxChanged, InboxList, InboxMessageView, InboxQuery};
use clawfarm_model::Result;
use http::Method;

use crate::Client;
use crate::http::Call;

impl Client {
    /// The messages that wait for an instance or were given up.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn messages(&self, id: &str, query: &InboxQuery) -> Result<InboxList> {
        self.call(Call::get(&["instances", id, "inbox"]).query(query)?).await
    }

    /// One message, with what it says.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn message(&self, id: &str, message: &str) -> Result<InboxMessageView> {
        self.call(Call::get(&["instances", id, "inbox", message])).await
    }

    /// Has a message that was given up tried again, or all of them.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn replay(&self, id: &str, message: Option<&str>) -> Result<InboxChanged> {
        let path: Vec<&str> =
            ["instances", id, "inbox"].into_iter().chain(message).chain(["replay"]).collect();
        self.call(Call::new(Method::POST, &path)).await
    }

    /// Drops a message for good, or all that were given up.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn drop_messages(&self, id: &str, message: Option<&str>) -> Result<InboxChanged> {
        let path: Vec<&str> = ["instances", id, "inbox"].into_iter().chain(message).collect();
        self.call(Call::new(Method::DELETE, &path)).await
    }
}
