//! The durable state: what is wanted of every instance, what was last seen of it, and what
//! happened.
//!
//! Three rules hold for every call:
//! - A read takes a [`Context`](clawfarm_model::Context) and the tenant filter is applied in
//!   here, so another tenant's object is simply not there.
//! - A write takes a [`Granted`](clawfarm_model::Granted), the proof that somebody asked
//!   whether it is allowed; the store checks that the proof is about the row it writes.
//! - A change, its events, its audit entry and its operation are one transaction. A server
//!   killed at any instruction leaves all of them or none.
//!
//! The schema and the queries are portable: text and 64-bit integers, documents as JSON
//! text. What is particular to SQLite or PostgreSQL is in the `backend` module alone.

mod agreed;
mod audit;
mod backend;
mod backup;
mod certificates;
mod configs;
mod convert;
mod crypto;
mod datasets;
mod entity;
mod error;
mod events;
mod guard;
mod inbox;
mod instances;
mod key;
mod keyring;
mod keys;
mod leases;
mod leftover;
mod meta;
mod migration;
mod operations;
mod page;
mod policies;
mod projects;
mod recover;
mod rests;
mod retention;
mod secrets;
mod servers;
mod signals;
mod store;
mod targets;
mod tickets;
mod tx;

pub use audit::{AuditEntry, Outcome};
pub use backend::{Database, PostgresUrl};
pub use backup::{Contents, Moved, OwnTarget, Restore};
pub use configs::{Fared, NewMember, NewRollout, Taken, Turn};
pub use events::{EventFilter, Told};
pub use inbox::{Depth, Head, InboxLimits, InboxNews, NewMessage, Tried};
pub use instances::{Changes, Created, Idempotency, InstanceFilter, NewInstance, NewKeys, Room};
pub use key::MasterKey;
pub use keys::{KeyState, Rewrapped};
pub use leftover::empty_tables;
pub use operations::{NewOperation, OperationEnd};
pub use page::{Page, PageRequest};
pub use policies::PolicyOf;
pub use recover::Recovered;
pub use rests::Rest;
pub use retention::{Pruned, Retention};
pub use secrets::{Given, Nearest};
pub use servers::Beat;
pub use store::{Store, StoreConfig};
