//! The store on real SQLite files and on a real PostgreSQL.

mod backup;
mod certificates;
mod configs;
mod create;
mod inbox;
mod instances;
mod isolation;
mod keys;
mod kill;
mod leases;
mod lists;
mod opening;
mod parallel;
mod postgres;
mod recover;
mod removal;
mod retention;
mod secrets;
mod support;
mod tickets;
mod tls;
