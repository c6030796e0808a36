//! The agent and its host, over a line within this process; what it runs is real.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod commands;
mod lines;
mod support;
