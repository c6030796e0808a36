//! Backups: all that is in the database, in one file that either kind of database can be made
//! from.
//!
//! A backup is lines of JSON: a head that says which schema it is of, a line for each row, and
//! an end with the number of rows and a checksum of everything before it. Secrets are in it as
//! they are in the database, encrypted: without its master key a backup gives none away, and is
//! of no use either.

mod file;
mod own;
mod read;
mod write;

use std::path::Path;

use clawfarm_model::{Code, Error, Result};

pub use self::own::{Moved, OwnTarget};
pub use self::read::{Contents, Restore};

/// The form of the file.
const FORM: u32 = 1;

/// The tables, with their keys, those that others refer to first. Not among them are the
/// entries of servers and their leases: they tell of processes, not of the state.
const TABLES: &[(&str, &[&str])] = &[
    ("meta", &["key"]),
    ("tenants", &["name"]),
    ("projects", &["tenant", "name"]),
    ("targets", &["name"]),
    ("instances", &["id"]),
    ("instance_labels", &["instance", "name"]),
    ("events", &["seq"]),
    ("event_marks", &["tenant", "instance"]),
    ("policies", &["tenant", "project"]),
    ("rests", &["instance"]),
    ("given_secrets", &["instance"]),
    ("audit", &["seq"]),
    ("operations", &["id"]),
    ("secrets", &["tenant", "instance", "name"]),
    ("datasets", &["id"]),
    ("idempotency_keys", &["tenant", "key"]),
    ("inbox", &["seq"]),
    ("configs", &["tenant", "name"]),
    ("config_revisions", &["tenant", "config", "number"]),
    ("rollouts", &["id"]),
    ("rollout_members", &["rollout", "instance"]),
];
/// Tables that are left out. A used ticket has ended before anybody reads a backup.
const LEFT_OUT: &[&str] = &["servers", "leases", "edge_tickets", "seaql_migrations"];
/// Tables whose rows are numbered by the database.
const NUMBERED: &[&str] = &["events", "audit", "inbox"];

fn table(name: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    TABLES.iter().find(|(known, _)| *known == name)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(Code::InvalidInput, format!("the backup {} can't be used: {why}", path.display()))
        .field("file")
        .fix("give a file that 'clawfarm db backup' wrote, whole and unchanged; nothing was changed")
}

fn no_file(path: &Path, why: &std::io::Error) -> Error {
    Error::new(Code::Unavailable, format!("the backup {} can't be written or read: {why}", path.display()))
        .field("file")
        .fix("check that its folder exists and is yours, and that its disk has space")
}

type Row = serde_json::Map<String, serde_json::Value>;

/// A result of the parts of this module.
type Done<T> = Result<T>;
