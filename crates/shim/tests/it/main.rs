//! Real shims with real claws (shell scripts), as the server would start them.

mod beside;
mod exec;
mod harness;
mod hostile;
mod lifecycle;
mod limits;
mod output;
mod stuck;
