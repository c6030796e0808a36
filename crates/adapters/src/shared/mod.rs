//! What several claw types need: HTTP to a claw, its files, its model.

pub(crate) mod channels;
pub(crate) mod chat;
pub(crate) mod document;
pub(crate) mod environment;
pub(crate) mod expressed;
pub(crate) mod http;
pub(crate) mod inbox;
pub(crate) mod json;
pub(crate) mod merge;
pub(crate) mod model;
pub(crate) mod place;
pub(crate) mod probe;
pub(crate) mod secrets;
mod sse;
pub(crate) mod text;
