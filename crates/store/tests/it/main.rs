//! The store on real SQLite files.

mod create;
mod instances;
mod isolation;
mod kill;
mod leases;
mod lists;
mod opening;
mod parallel;
mod removal;
mod secrets;
mod support;
