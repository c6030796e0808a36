//! The Docker runtime against a real daemon, and Podman's service. Needs root, for the daemon; does nothing without.

mod backup;
mod daemon;
mod farm;
mod hardened;
mod images;
mod life;
mod registry;
mod trouble;
mod upgrade;
