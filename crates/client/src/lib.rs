//! A typed client of clawfarm's API, over the unix socket or TCP.
//!
//! One method a route. Answers are the types of `clawfarm-api`; errors are
//! [`clawfarm_model::Error`], with the code, field and fix that the server gave. What can't
//! be reached is `Unavailable`, with what to do.

mod calls;
mod connect;
mod console;
mod endpoint;
mod forward;
mod http;
mod patience;
mod sse;
mod stream;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::Error;
use secrecy::SecretString;

pub use calls::Steer;
pub use connect::{Io, connect, connect_unix};
pub use console::{Console, ConsoleInput, ConsoleOutput, ConsoleReader, ConsoleWriter};
pub use endpoint::Endpoint;
pub use forward::Tunnel;
pub use sse::{Parser as SseParser, SseEvent};
pub use stream::ItemStream;

/// How long a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a plain call may take, from the request to the end of the answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of one server. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<http::Inner>,
    tell: Option<patience::Tell>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoint", self.endpoint()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `endpoint`, which presents `token`. Nothing is connected yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, token: SecretString) -> Self {
        Self { inner: Arc::new(http::Inner::new(endpoint, token)), tell: None }
    }

    /// The same, but it asks again, a few times, when the server has no room for a request
    /// (429), after the pause that `Retry-After` wants. Before each pause `tell` is called with
    /// the reason and the pause. Otherwise such an answer is an `Overloaded` error at once.
    #[must_use]
    pub fn patient(self, tell: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Self {
        Self { tell: Some(Arc::new(tell)), ..self }
    }

    /// The server it speaks to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }
}
