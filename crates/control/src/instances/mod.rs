//! Instances: the use cases, one file each.

pub(crate) mod change;
pub(crate) mod create;
pub(crate) mod edge;
mod forward;
mod ids;
mod lifecycle;
mod read;
mod send;
pub(crate) mod software;
pub(crate) mod token;
mod vm;

pub(crate) use lifecycle::{Wanted, busy};
pub(crate) use vm::{is_bare, not_of_a_machine};
