//! Messages for claws that could not take them when they came.
//!
//! The edge takes a message in ([`accept`]); it is on the disk before its sender is told so. One
//! deliverer of each server ([`deliver`]) is told by the store which claws have messages, wakes
//! them, and gives them what waits, one after the other of each sender ([`attempt`]). Of several
//! servers the one that reconciles a claw delivers to it, and what it writes down is held against
//! its lease. A message is removed when its claw has taken it; so a server that ends in between
//! gives it twice, under the same key.

mod accept;
mod attempt;
mod deliver;
mod line;
mod manage;
mod routes;
mod sign;

pub use accept::{Lined, NewInboxMessage, Sender};
pub(crate) use deliver::begin;
