//! The tables, one entity a file. Columns are text or 64-bit integers; documents are JSON
//! text; times are milliseconds since the epoch.
#![allow(unreachable_pub, reason = "SeaORM's derives make their types pub; the module is private")]

pub mod audit;
pub mod config;
pub mod config_revision;
pub mod dataset;
pub mod event;
pub mod event_mark;
pub mod given_secret;
pub mod idempotency_key;
pub mod inbox;
pub mod instance;
pub mod label;
pub mod lease;
pub mod meta;
pub mod operation;
pub mod policy;
pub mod project;
pub mod rest;
pub mod rollout;
pub mod rollout_member;
pub mod secret;
pub mod server;
pub mod target;
pub mod tenant;
pub mod ticket;
