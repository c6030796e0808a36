//! The phases of an instance, and the one function that moves between them.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where an instance is in its life. Every other vocabulary (`Creating`/`Running`/`Failed`
/// of control planes, `booting`/`ready`/`exited` of VM tools) maps onto this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Accepted, being prepared: install, image, disk, files.
    Creating,
    /// The process, container, VM or pod is being started.
    Booting,
    /// It is up; its health is not yet known, or its type has none.
    Running,
    /// Its startup probe passed: it answers.
    Ready,
    /// Up, but its probe fails.
    Unhealthy,
    /// Frozen in memory; wakes in milliseconds.
    Warm,
    /// State on disk only, no memory held.
    Suspended,
    /// On the way from warm or suspended to ready.
    Waking,
    /// Its software is being replaced.
    Updating,
    /// On the way to stopped or suspended.
    Stopping,
    /// Stopped on request.
    Stopped,
    /// Ended by itself.
    Exited,
    /// What was asked for can't be reached, and no further attempt is made.
    Failed,
    /// Being removed.
    Destroying,
    /// Gone; kept in the history only.
    Destroyed,
}

/// What happened to an instance. Only signals move a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Preparation began (again).
    PrepareBegun,
    /// A start was issued to the runtime.
    StartBegun,
    /// A wake was issued to the runtime.
    WakeBegun,
    /// The runtime reports it up.
    Up,
    /// A probe passed.
    ProbePassed,
    /// A probe of something that was up failed.
    ProbeFailed,
    /// The runtime reports it frozen.
    Frozen,
    /// A stop was issued, on the way to stopped or suspended.
    StopBegun,
    /// It is down because it was asked to stop.
    Stopped,
    /// It is down because it was asked to sleep.
    Suspended,
    /// It ended without being asked to.
    Ended,
    /// Its software is being replaced.
    UpdateBegun,
    /// The replacing was called off, or undone: it is down, on its old software.
    UpdateEnded,
    /// No further attempt is made.
    GaveUp,
    /// Its removal was issued.
    DestroyBegun,
    /// It is gone.
    Destroyed,
}

impl Signal {
    /// Every signal, in the order of a life.
    pub const ALL: [Self; 16] = [
        Self::PrepareBegun,
        Self::StartBegun,
        Self::WakeBegun,
        Self::Up,
        Self::ProbePassed,
        Self::ProbeFailed,
        Self::Frozen,
        Self::StopBegun,
        Self::Stopped,
        Self::Suspended,
        Self::Ended,
        Self::UpdateBegun,
        Self::UpdateEnded,
        Self::GaveUp,
        Self::DestroyBegun,
        Self::Destroyed,
    ];
}

impl Phase {
    /// Every phase, in the order of a life.
    pub const ALL: [Self; 15] = [
        Self::Creating,
        Self::Booting,
        Self::Running,
        Self::Ready,
        Self::Unhealthy,
        Self::Warm,
        Self::Suspended,
        Self::Waking,
        Self::Updating,
        Self::Stopping,
        Self::Stopped,
        Self::Exited,
        Self::Failed,
        Self::Destroying,
        Self::Destroyed,
    ];

    /// The phase after `signal`, or `None` when that signal has no meaning in this phase
    /// (the caller has old news: it must look again, not write).
    #[must_use]
    pub const fn next(self, signal: Signal) -> Option<Self> {
        use Phase as P;
        use Signal as S;
        match (self, signal) {
            // Nothing comes back from the dead, and nothing stops a removal but its end.
            (P::Destroyed, _) => None,
            (_, S::Destroyed) => Some(P::Destroyed),
            (_, S::DestroyBegun) | (P::Destroying, S::GaveUp) => Some(P::Destroying),
            (P::Destroying, _) => None,
            (_, S::GaveUp) => Some(P::Failed),

            (P::Creating | P::Stopped | P::Exited | P::Failed, S::PrepareBegun) => Some(P::Creating),
            // A waking instance is prepared on its way: it is still waking to whoever waits.
            (P::Waking | P::Booting | P::Updating, S::PrepareBegun) => Some(self),
            (P::Creating | P::Booting | P::Stopped | P::Exited | P::Failed | P::Stopping, S::StartBegun) => {
                Some(P::Booting)
            }
            (P::Waking | P::Updating, S::StartBegun) => Some(self),
            (P::Warm | P::Suspended | P::Waking, S::WakeBegun) => Some(P::Waking),
            // A claw that is up although nobody here started it (adopted after the store was
            // behind) is running, whatever was believed before.
            (P::Waking | P::Updating | P::Ready | P::Unhealthy, S::Up) => Some(self),
            (_, S::Up) => Some(P::Running),
            (_, S::ProbePassed) => Some(P::Ready),
            // While it starts, a failing probe is no news.
            (P::Running | P::Ready | P::Unhealthy, S::ProbeFailed) => Some(P::Unhealthy),
            (P::Booting | P::Waking | P::Updating, S::ProbeFailed) => Some(self),
            (_, S::Frozen) => Some(P::Warm),
            (P::Updating, S::StopBegun | S::Stopped) => Some(self),
            (_, S::StopBegun) => Some(P::Stopping),
            (_, S::Stopped) => Some(P::Stopped),
            (_, S::Suspended) => Some(P::Suspended),
            (P::Stopped | P::Suspended, S::Ended) => None,
            (_, S::Ended) => Some(P::Exited),
            (
                P::Booting
                | P::Waking
                | P::Stopping
                | P::Stopped
                | P::Ready
                | P::Running
                | P::Unhealthy
                | P::Exited
                | P::Failed,
                S::UpdateBegun,
            ) => Some(P::Updating),
            (P::Updating, S::UpdateEnded) => Some(P::Stopping),
            _ => None,
        }
    }

    /// Whether the instance holds memory in this phase (what an admission must count).
    #[must_use]
    pub const fn holds_memory(self) -> bool {
        !matches!(self, Self::Suspended | Self::Stopped | Self::Exited | Self::Failed | Self::Destroyed)
    }

    /// Whether it is on the way somewhere, so that a reconcile is due.
    #[must_use]
    pub const fn in_transit(self) -> bool {
        matches!(
            self,
            Self::Creating
                | Self::Booting
                | Self::Running
                | Self::Waking
                | Self::Updating
                | Self::Stopping
                | Self::Destroying
        )
    }

    /// The name as it is shown and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Warm => "warm",
            Self::Suspended => "suspended",
            Self::Waking => "waking",
            Self::Updating => "updating",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        }
    }

    /// The phase of this name, as stored.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Phase as P;
    use Signal as S;

    /// One line a transition that a life needs. What is not here is covered by the laws below.
    const TABLE: &[(P, S, Option<P>)] = &[
        (P::Creating, S::StartBegun, Some(P::Booting)),
        (P::Booting, S::Up, Some(P::Running)),
        (P::Running, S::ProbePassed, Some(P::Ready)),
        (P::Ready, S::Up, Some(P::Ready)),
        (P::Ready, S::ProbeFailed, Some(P::Unhealthy)),
        (P::Unhealthy, S::ProbePassed, Some(P::Ready)),
        (P::Unhealthy, S::Up, Some(P::Unhealthy)),
        (P::Booting, S::ProbeFailed, Some(P::Booting)),
        (P::Ready, S::Frozen, Some(P::Warm)),
        (P::Warm, S::WakeBegun, Some(P::Waking)),
        (P::Waking, S::Up, Some(P::Waking)),
        (P::Waking, S::StartBegun, Some(P::Waking)),
        (P::Waking, S::ProbePassed, Some(P::Ready)),
        (P::Ready, S::StopBegun, Some(P::Stopping)),
        (P::Stopping, S::Suspended, Some(P::Suspended)),
        (P::Stopping, S::Stopped, Some(P::Stopped)),
        (P::Stopping, S::StartBegun, Some(P::Booting)),
        (P::Suspended, S::WakeBegun, Some(P::Waking)),
        (P::Suspended, S::Ended, None),
        (P::Stopped, S::Ended, None),
        (P::Stopped, S::PrepareBegun, Some(P::Creating)),
        (P::Ready, S::Ended, Some(P::Exited)),
        (P::Exited, S::StartBegun, Some(P::Booting)),
        (P::Exited, S::GaveUp, Some(P::Failed)),
        (P::Failed, S::StartBegun, Some(P::Booting)),
        (P::Failed, S::Up, Some(P::Running)),
        (P::Ready, S::UpdateBegun, Some(P::Updating)),
        (P::Updating, S::StopBegun, Some(P::Updating)),
        (P::Updating, S::ProbePassed, Some(P::Ready)),
        (P::Waking, S::UpdateBegun, Some(P::Updating)),
        (P::Updating, S::UpdateEnded, Some(P::Stopping)),
        (P::Ready, S::UpdateEnded, None),
        (P::Stopped, S::ProbeFailed, None),
        (P::Ready, S::StartBegun, None),
        (P::Ready, S::PrepareBegun, None),
        (P::Destroying, S::Up, None),
        (P::Destroying, S::GaveUp, Some(P::Destroying)),
        (P::Destroying, S::Destroyed, Some(P::Destroyed)),
    ];

    #[test]
    fn the_table_of_transitions_holds() {
        for (from, signal, to) in TABLE {
            assert_eq!(from.next(*signal), *to, "{from} on {signal:?}");
        }
    }

    #[test]
    fn every_phase_but_destroyed_can_be_destroyed_and_nothing_returns() {
        for phase in Phase::ALL {
            if phase == P::Destroyed {
                continue;
            }
            assert_eq!(phase.next(S::DestroyBegun), Some(P::Destroying));
            assert_eq!(phase.next(S::Destroyed), Some(P::Destroyed));
        }
        for signal in [S::Up, S::StartBegun, S::ProbePassed, S::DestroyBegun, S::Destroyed, S::GaveUp] {
            assert_eq!(P::Destroyed.next(signal), None);
        }
    }

    #[test]
    fn names_are_the_same_in_json_and_store() {
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
            assert_eq!(Phase::from_name(phase.as_str()), Some(phase));
        }
    }
}
