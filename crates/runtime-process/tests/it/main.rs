//! The process runtime with real shims, and small scripts in the place of a claw.

mod backup;
mod data;
mod farm;
mod hostile;
mod install;
mod killed;
mod life;
mod pip;
mod recover;
mod upgrade;
