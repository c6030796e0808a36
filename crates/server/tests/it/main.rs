//! The real router and listeners over a control with simulated claws.

mod archives;
mod auth;
mod conditional;
mod configs;
mod description;
mod farm;
mod inputs;
mod listening;
mod overload;
mod peers;
mod streams;
