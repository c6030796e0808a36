//! The configuration centre: what is said for many instances, in revisions, and how those go out.
//!
//! What an instance is configured with is worked out when one of its layers changes, and kept
//! whole in its specification: the reconciler starts a claw with what is written there and asks no
//! layer. So a rollout is a series of changes of instances, each in a transaction of its own, and
//! a server that ends in between leaves every instance with one configuration or the other.
//!
//! Where a rollout is, is in the store; what comes next is decided by
//! [`Strategy::next`](clawfarm_config::Strategy::next) from that alone. Any server may drive any
//! rollout, and several at once do it no harm: each step is written only if it was not taken yet.

mod asking;
mod batch;
mod bind;
mod change;
mod contents;
mod drift;
mod drive;
mod explain;
mod late;
mod layering;
mod manage;
mod members;
mod own;
mod plan;
mod publish;
mod steer;

pub use batch::{Batch, ChangeMany, Configured};
pub use bind::{Changed, Configure};
pub use drift::{Drift, DriftedFile};
pub use explain::ExplainedConfig;
pub use manage::NewConfig;
pub use plan::{Plan, PlannedInstance, Refusal};
pub use publish::{Publish, ROLLBACK_WINDOW};

pub(crate) use change::reconfigure;
pub(crate) use contents::Contents;
pub(crate) use drive::{Driver, run};
pub(crate) use layering::{Whose, seeded_with_locks};
pub(crate) use own::{document, merge};
