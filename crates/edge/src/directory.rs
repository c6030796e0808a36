//! What the edge sees of the fleet.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::inbox::InboxRoute;
use clawfarm_model::{ClawId, Code, Error, Result, Timestamp};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a claw.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The fleet, as the edge sees it. The edge knows nothing of stores and runtimes, so that it can
/// run in the server's process or apart from it.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// What is known of a claw at this moment; `None` when there is none of that id. Called for
    /// every request: it answers from memory.
    ///
    /// # Errors
    /// `Unavailable` when that can't be told now.
    async fn look_up(&self, id: &ClawId) -> Result<Option<Arc<Site>>>;

    /// The same, asked of the source: for when what was known has turned out to be old.
    ///
    /// # Errors
    /// As for [`Self::look_up`].
    async fn look_again(&self, id: &ClawId) -> Result<Option<Arc<Site>>>;

    /// Wakes a claw, or goes along with a wake that is under way, and returns when it takes
    /// requests. The edge asks once for however many wait.
    ///
    /// # Errors
    /// Why it can't be woken: `Conflict` for one that was stopped, `Insufficient` without room
    /// for it, `Timeout`, `ClawFailed`.
    async fn wake(&self, id: &ClawId) -> Result<Arc<Site>>;

    /// Opens a connection to a claw's gateway.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn dial(&self, id: &ClawId) -> Result<Box<dyn Connection>>;

    /// Opens a connection to another address that a claw listens at, within its own machine or
    /// container.
    ///
    /// # Errors
    /// As for [`Self::dial`].
    async fn dial_at(&self, id: &ClawId, address: SocketAddr) -> Result<Box<dyn Connection>> {
        let _ = address;
        self.dial(id).await
    }

    /// Finds the place of a message that a service sends to a claw.
    ///
    /// # Errors
    /// `Unavailable` when that can't be told now.
    async fn line_up(&self, id: &ClawId, sender: Sender<'_>) -> Result<Place> {
        let _ = sender;
        Err(no_inbox(id))
    }

    /// Takes a message in. When this returns it is written down for good, and will be delivered.
    ///
    /// # Errors
    /// `Overloaded` or `Insufficient` when too much waits for the claw, `NotFound` when it is
    /// gone, `Unavailable`. The message was not taken then.
    async fn accept(&self, id: &ClawId, message: Message) -> Result<()> {
        let _ = message;
        Err(no_inbox(id))
    }

    /// Takes note of how a request to a claw ended; `failed` when its caller was told that it went
    /// wrong on this side (a 5xx).
    fn answered(&self, id: &ClawId, failed: bool) {
        let _ = (id, failed);
    }

    /// Who a token belongs to, for the sign-in page.
    ///
    /// # Errors
    /// `Unauthenticated` for a token that is nobody's.
    async fn sign_in(&self, token: &SecretString) -> Result<Person>;

    /// Marks a ticket as used, and returns whether it had not been: for all servers of the fleet.
    /// `until` is when it ends by itself, in seconds of the epoch; it may be forgotten then.
    ///
    /// # Errors
    /// `Unavailable` when that can't be told now: the ticket is not used then.
    async fn spend(&self, ticket: &str, until: u64) -> Result<bool>;

    /// A person that was signed in before; `None` when there is none of that name any more.
    ///
    /// # Errors
    /// `Unavailable` when that can't be told now.
    async fn person(&self, name: &str) -> Result<Option<Person>>;

    /// A claw that a person may open; `None` when there is none of that id for this person.
    ///
    /// # Errors
    /// `Unavailable` when that can't be told now.
    async fn site_of(&self, user: &str, id: &ClawId) -> Result<Option<Arc<Site>>>;

    /// The claws that a person may open, for the page of the base domain.
    ///
    /// # Errors
    /// `Unavailable` when that can't be told now.
    async fn sites(&self, user: &str) -> Result<Vec<Arc<Site>>>;
}

/// A fleet that keeps no messages refuses them.
fn no_inbox(id: &ClawId) -> Error {
    Error::new(Code::Unavailable, format!("no messages are kept for '{id}' here"))
}

/// What is said of where a message comes from.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The path it came in at: its route's.
    pub path: &'a str,
    /// The path and query that it asked for: what its number is unique among.
    pub target: &'a str,
    /// Its conversation, beside the path; empty when that is not known.
    pub conversation: &'a str,
    /// What its service calls it, when it does: it sends it again under that.
    pub number: Option<&'a str>,
}

/// A message's place among the others.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its id: what the claw is given with it, each time the same.
    pub id: String,
    /// Whose order it is in.
    pub lane: String,
    /// Whether earlier ones of the lane wait.
    pub waits: bool,
}

/// A message that is to be kept.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its place.
    pub place: Place,
    /// The path it came in at, for people.
    pub path: String,
    /// The request, packed.
    pub content: Vec<u8>,
}

/// Somebody who may sign in.
#[derive(Debug)]
pub struct Person {
    /// What the person is called.
    pub name: String,
    /// What the person's sessions depend on: they end when it changes.
    pub bound: SecretString,
}

/// A claw, as the edge sees it.
#[derive(Debug)]
pub struct Site {
    /// Its id, and its subdomain.
    pub id: ClawId,
    /// What its owner calls it.
    pub name: String,
    /// The tenant it belongs to.
    pub tenant: String,
    /// The claw type, to be shown.
    pub claw_type: String,
    /// How it runs, for the measurements.
    pub runtime: &'static str,
    /// Which of its runs this is: connections to an earlier one are of no use.
    pub run: i64,
    /// Whether it takes requests.
    pub state: SiteState,
    /// Since when.
    pub up_since: Timestamp,
    /// How it is told who a request is from.
    pub identity: Identity,
    /// Its gateway token: whoever brings it is let in.
    pub token: SecretString,
    /// Its paths.
    pub rules: Arc<PathRules>,
    /// Where services leave messages for it, and how they prove themselves.
    pub inbox: Arc<Vec<InboxRoute>>,
}

/// Whether a claw takes requests.
#[derive(Debug)]
pub enum SiteState {
    /// It does.
    Awake,
    /// It will when it is woken.
    Asleep {
        /// Whether it is frozen in memory, and so back in milliseconds.
        warm: bool,
    },
    /// It is on its way up.
    Starting,
    /// It was stopped or has failed: waking is not what it needs.
    Down(Error),
}
