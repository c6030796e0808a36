//! Why a claw is woken, or put to sleep.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::time::Timestamp;

/// Who or what a wish is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A person, or a program, over the API.
    #[default]
    Asked,
    /// A request or a WebSocket at its address.
    Request,
    /// A message over the API (`clawfarm send`).
    Message,
    /// A message in its inbox.
    Inbox,
    /// Another instance.
    Instance,
    /// Its next cron job or heartbeat.
    Clock,
    /// The hours in which it is to be up have begun.
    Hours,
    /// It is usually used at this time.
    Habit,
    /// It was idle.
    Idle,
    /// It was warm for long enough.
    WarmLong,
}

impl Cause {
    /// In words, after "was asked for".
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::Asked => "",
            Self::Request => ": a request at its address",
            Self::Message => ": a message for it",
            Self::Inbox => ": a message in its inbox",
            Self::Instance => ": by another instance",
            Self::Clock => ": its next job or heartbeat is due",
            Self::Hours => ": its hours begin",
            Self::Habit => ": it is usually used at this time",
            Self::Idle => ": it is idle",
            Self::WarmLong => ": it was warm for long enough",
        }
    }

    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Request => "request",
            Self::Message => "message",
            Self::Inbox => "inbox",
            Self::Instance => "instance",
            Self::Clock => "clock",
            Self::Hours => "hours",
            Self::Habit => "habit",
            Self::Idle => "idle",
            Self::WarmLong => "warm_long",
        }
    }

    /// Whether somebody waits for it.
    #[must_use]
    pub const fn is_of_people(self) -> bool {
        matches!(self, Self::Asked | Self::Request | Self::Message | Self::Inbox | Self::Instance)
    }
}

/// What a wake began from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WokenFrom {
    /// Frozen in memory.
    Warm,
    /// On disk only, by a restore or a start.
    Suspended,
    /// It was stopped, or had never run.
    Cold,
}

impl WokenFrom {
    /// The name as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Suspended => "suspended",
            Self::Cold => "cold",
        }
    }
}

/// How the last wake of a claw went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastWake {
    /// When it was ready.
    pub at: Timestamp,
    /// Why it was woken.
    pub cause: Cause,
    /// From what.
    pub from: WokenFrom,
    /// From the wish until something was done about it, in milliseconds.
    pub queue_ms: u64,
    /// Until its process was there, or went on, in milliseconds.
    pub runtime_ms: u64,
    /// Until it answered, in milliseconds.
    pub claw_ms: u64,
}

impl LastWake {
    /// From the wish until it answered, in milliseconds.
    #[must_use]
    pub const fn total_ms(&self) -> u64 {
        self.queue_ms.saturating_add(self.runtime_ms).saturating_add(self.claw_ms)
    }
}
