//! The configuration centre, without input or output: how layers become one configuration, where
//! each value came from, what a template makes of its variables, what differs between two
//! configurations, and who gets a new one first.
//!
//! Everything here is a function of its arguments. Who stores, rolls out and checks is
//! `clawfarm-control`; what a claw type makes of a configuration is its adapter.

mod change_set;
mod cohort;
mod diff;
mod layers;
mod objects;
mod patch;
mod path;
mod rollout;
mod template;
#[cfg(test)]
mod testing;

pub use change_set::ChangeSet;
pub use cohort::{Cohort, share};
pub use diff::{Change, apply, diff};
pub use layers::{Effective, Explained, Layer, Origin, Overridden, Refused, resolve};
pub use objects::{Config, Impact, Member, MemberState, Revision, RevisionSummary, Rollout, Selector};
pub use patch::Patch;
pub use path::{ConfigPath, ConfigPlace, check_keys};
pub use rollout::{Amount, Counts, Known, Next, Pause, Stage, Step, Strategy};
pub use template::{Filled, Template, Variable, VariableType, fill, places};
