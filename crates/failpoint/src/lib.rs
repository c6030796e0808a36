//! Places at which a test lets something go wrong: an error, a delay, or the death of the
//! whole process.
//!
//! A place is written as [`point!`] (in an `async` function) or [`point_blocking!`], each in a
//! function that returns this project's `Result`. Without the feature `failpoints` both are
//! nothing, and no name of a point is in the program. `docs/design/0009-faults.md` says where
//! points are, and why they are our own.

#[cfg(feature = "failpoints")]
mod armed;
#[cfg(feature = "failpoints")]
mod points;

#[cfg(feature = "failpoints")]
pub use armed::{
    Action, Chaos, Hits, Plan, arm, arm_from_env, chaos, disarm, hit, hit_blocking, hits, hurry, wait,
};
#[cfg(feature = "failpoints")]
pub use points::{Layer, Point};

/// Whether points do anything in this program.
pub const ON: bool = cfg!(feature = "failpoints");

/// A place at which an `async` function may fail, wait or die.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! point {
    ($point:ident) => {
        $crate::hit($crate::Point::$point).await?
    };
}

/// A place at which an `async` function may fail, wait or die.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! point {
    ($point:ident) => {
        ()
    };
}

/// As [`point!`], on a thread that may block.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! point_blocking {
    ($point:ident) => {
        $crate::hit_blocking($crate::Point::$point)?
    };
}

/// As [`point!`], on a thread that may block.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! point_blocking {
    ($point:ident) => {
        ()
    };
}

/// How long to wait before another attempt: as long as it was asked to, but where a test is
/// in a hurry.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn wait(time: std::time::Duration) -> std::time::Duration {
    time
}

/// Takes what the environment says to arm: nothing, in this program.
#[cfg(not(feature = "failpoints"))]
pub const fn arm_from_env() {}
