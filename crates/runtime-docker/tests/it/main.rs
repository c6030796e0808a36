//! The Docker runtime against a real daemon, and Podman's service. Needs root, for the daemon; does nothing without.

mod daemon;
mod farm;
mod hardened;
mod life;
mod trouble;
mod upgrade;
