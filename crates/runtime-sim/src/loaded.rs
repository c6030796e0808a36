//! What a simulated claw has read from its configuration file: at its start, and while it is up.
//!
//! It plays OpenClaw as far as a rollout of configurations meets it: it takes a changed file up
//! after a while, unless what has changed needs a start; and of two keys of its own, `sim.break`
//! says how a start with this configuration fails, and `sim.invalid` that it is none.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::runtime::sha256;

/// The file's name in the state folder.
pub(crate) const FILE: &str = "openclaw.json";
/// What needs a start when it changes: of OpenClaw's keys some, and the simulation's own.
const FIXED: [&str; 5] = ["env", "memory", "proxy", "browser", "sim"];

/// A configuration that was read, by its digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// Of all of it.
    pub(crate) whole: String,
    /// Of what needs a start.
    pub(crate) fixed: String,
}

/// How a start fails that goes by a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// It ends at once, as OpenClaw does whose configuration is refused.
    Exit,
    /// It never becomes ready.
    Ready,
}

impl Loaded {
    /// What a file says, and what is wrong with it otherwise.
    pub(crate) fn read(text: &[u8]) -> Result<(Self, Value), String> {
        let document: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if let Some(why) = document.pointer("/sim/invalid") {
            return Err(format!("it is said to be invalid: {why}"));
        }
        let fixed: Vec<Option<&Value>> = FIXED.iter().map(|key| document.get(key)).collect();
        let digest = |value: String| {
            let mut digest = sha256(&value);
            digest.truncate(16);
            digest
        };
        let loaded = Self {
            whole: digest(document.to_string()),
            fixed: digest(serde_json::to_string(&fixed).unwrap_or_default()),
        };
        Ok((loaded, document))
    }
}

impl Break {
    /// What a configuration says of the start with it.
    pub(crate) fn of(text: &[u8]) -> Option<Self> {
        let Ok((_, document)) = Loaded::read(text) else { return Some(Self::Exit) };
        match document.pointer("/sim/break")?.as_str() {
            Some("exit") => Some(Self::Exit),
            Some("ready") => Some(Self::Ready),
            _ => None,
        }
    }
}
