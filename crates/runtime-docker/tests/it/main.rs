//! The Docker runtime against a real daemon.
