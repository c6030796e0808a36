//! Several servers on one PostgreSQL database, as processes of their own.

mod chaos;
mod engines;
mod forwarding;
mod frozen;
mod frozen_database;
mod inbox;
mod load;
mod servers;
mod tokens;
