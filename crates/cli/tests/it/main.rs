//! The command line as it is used: the built program, in a home of its own.

mod backups;
mod bad_input;
mod browser;
mod bundle;
mod certificates;
mod contained;
mod contexts;
mod database;
mod fake;
mod farm;
mod faults;
mod forward;
mod handshake;
mod hostile;
mod many;
mod nginx;
mod overload;
mod pages;
mod real;
mod service;
mod serving;
mod support;
mod terminal;
mod updates;
mod usage;
mod waiting;
