//! What the edge has to know of a claw type: which of its paths are whose.

use serde::{Deserialize, Serialize};

/// The paths of a claw type's gateway, as the edge treats them. A path is `/a/b`: it stands for
/// itself and for everything below it (`/a/b/c`, not `/a/bc`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRules {
    /// Nobody outside reaches these, whoever they are.
    pub closed: Vec<String>,
    /// Messages for the claw from services that can't wait for it to wake, and that prove
    /// themselves to the claw.
    pub inbox: Vec<String>,
}

/// How a claw is told who a request that passed the edge is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By its own gateway token: the edge adds it as a bearer token, and nothing about where the
    /// request came from, because the claw takes no proxy's word.
    Token,
    /// By a header with the person's name, which the claw believes from the edge. The header's
    /// name is a secret of the instance's, because on a machine's loopback device the claw can't
    /// tell the edge from other programs.
    Header {
        /// The header's name, in lower case.
        name: String,
        /// The one name that the claw lets in.
        user: String,
        /// The one origin from which the claw lets its pages' WebSockets be opened; the edge,
        /// which has checked the real one, puts it in its place.
        origin: String,
    },
}
