//! The real OpenClaw, on the process runtime, with the demo model: as a person uses it.
//!
//! Each test holds one OpenClaw for most of a minute, so each looks at all it can meanwhile.

mod backup;
mod configs;
mod contained;
mod containers;
mod docker;
mod edge;
mod farm;
mod forward;
mod hostile;
mod in_machine;
mod life;
mod machine;
mod moves;
mod nanobot;
mod recover;
mod secrets;
mod server;
mod shell;
mod sleeps;
mod telegram;
mod tmux;
mod update;
mod zeroclaw;
