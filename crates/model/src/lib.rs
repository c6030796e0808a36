//! The words of clawfarm: ids, phases, specs, intents, observations, policies and errors.
//!
//! Nothing here does I/O. Every other crate depends on this one, so a rule that two of
//! them must agree on (what a name may look like, which phase may follow which) is
//! written once, here.

pub mod authz;
pub mod certificate;
pub mod clawid;
pub mod config;
pub mod dataset;
pub mod edge;
pub mod error;
pub mod event;
pub mod fence;
pub mod image;
pub mod inbox;
pub mod instance;
pub mod launch;
pub mod layered;
pub mod name;
pub mod observed;
pub mod operation;
pub mod phase;
pub mod policy;
pub mod resources;
pub mod schema;
pub mod secret;
pub mod server;
pub mod setup;
pub mod target;
pub mod time;
pub mod update;
pub mod vm;
pub mod vm_image;
pub mod wake;

pub use authz::{Action, Actor, Context, Granted, Resource, authorize};
pub use clawid::ClawId;
pub use error::{Code, Error, Result};
pub use fence::{Fence, is_fenced};
pub use instance::{Desired, Instance, InstanceSpec, Intent, Urgency};
pub use launch::{
    DataFate, Launch, LaunchFile, NpmInstall, OwnSoftware, Place, Placement, Software, StopOptions,
};
pub use layered::{ConfigKind, ConfigName, Layered};
pub use observed::{Health, Observation, ObservedState};
pub use operation::{Operation, OperationKind, OperationState};
pub use phase::{Phase, Signal};
pub use policy::{EffectivePolicy, RuntimePolicy};
pub use resources::Resources;
pub use time::Timestamp;
pub use update::{SoftwareUpdate, UpdateStage};
pub use wake::{Cause, LastWake, WokenFrom};
