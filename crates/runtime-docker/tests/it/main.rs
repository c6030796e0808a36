//! The Docker runtime against a real daemon. Needs root, for the daemon; does nothing without.

mod daemon;
mod farm;
mod hardened;
mod life;
mod trouble;
