//! The simulated runtime, seen from outside.

mod adapter;
mod common;
mod failures;
mod gateway;
mod load;
mod verbs;
