//! What a change of an instance's configuration asks of a claw that is up, and whether it has
//! taken one up.

use clawfarm_model::InstanceSpec;
use serde::{Deserialize, Serialize};

use crate::shared::expressed;

/// What a change asks of a claw that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "impact", content = "fields", rename_all = "snake_case")]
pub enum Impact {
    /// Nothing that it could see has changed.
    None,
    /// Its files are written anew, and it goes by them without a restart.
    Hot,
    /// It has to be started again, because of these fields: `config.memory.search`,
    /// `resources`; where a field of the unified config can't be told, the key of the type's
    /// own file. Never empty.
    Restart(Vec<String>),
}

impl Impact {
    /// Whether it has to be started again.
    #[must_use]
    pub const fn is_restart(&self) -> bool {
        matches!(self, Self::Restart(_))
    }

    /// A restart because of these fields, each named once; `otherwise` when there are none.
    pub(crate) fn restart_or(mut fields: Vec<String>, otherwise: Self) -> Self {
        fields.sort();
        fields.dedup();
        if fields.is_empty() { otherwise } else { Self::Restart(fields) }
    }
}

/// Whether a running claw goes by what was rendered for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "in_force", content = "why", rename_all = "snake_case")]
pub enum InForce {
    /// It does.
    Yes,
    /// It does not, for these reasons: never empty, at most 20.
    Not(Vec<String>),
    /// It can't be told: the type does not say, or it drains or restarts just now.
    Unknown,
}

/// What a change of one place of a configuration asks of a claw that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Nothing: it could not see it.
    Nothing,
    /// Its files, or what clawfarm itself does for it, anew.
    Hot,
    /// A start.
    Start,
}

/// What a change of a place asks that clawfarm does for every type; `None` for the others.
pub(crate) fn everywhere(place: &str) -> Option<Asks> {
    match place.split('.').next() {
        // They are in the environment, which only a start brings to a process.
        Some("env" | "proxy") => Some(Asks::Start),
        // The server's own.
        Some("inbox") => Some(Asks::Hot),
        _ => None,
    }
}

/// The fields beside its configuration that differ and that only a start can bring to a claw.
pub(crate) fn beside_config(before: &InstanceSpec, after: &InstanceSpec) -> Vec<String> {
    [
        ("claw_type", before.claw_type != after.claw_type),
        ("version", before.version != after.version),
        ("runtime", before.runtime != after.runtime),
        ("target", before.target != after.target),
        ("image", before.image != after.image),
        ("resources", before.resources != after.resources),
        ("port", before.port != after.port),
        ("config_mode", before.config_mode != after.config_mode),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(field, _)| field.to_owned())
    .collect()
}

/// What the changed places of a configuration ask together, and what differs beside it.
pub(crate) fn of_places(before: &InstanceSpec, after: &InstanceSpec, asks: impl Fn(&str) -> Asks) -> Impact {
    let mut fields = beside_config(before, after);
    let mut otherwise = Impact::None;
    match expressed::differing(&before.config, &after.config) {
        Ok(places) => {
            for place in places {
                match asks(&place) {
                    Asks::Nothing => {}
                    Asks::Hot => otherwise = Impact::Hot,
                    Asks::Start => fields.push(format!("config.{place}")),
                }
            }
        }
        // It can't be told what differs.
        Err(_) => fields.push("config".to_owned()),
    }
    Impact::restart_or(fields, otherwise)
}

/// What a type can say that knows of no setting that is taken up without a start.
pub(crate) fn of_any_type(before: &InstanceSpec, after: &InstanceSpec) -> Impact {
    of_places(before, after, |place| everywhere(place).unwrap_or(Asks::Start))
}

/// The same for one that has words for these places only; see [`expressed::check`].
pub(crate) fn of_words(before: &InstanceSpec, after: &InstanceSpec, words: &[&str]) -> Impact {
    of_places(before, after, |place| match everywhere(place) {
        Some(asks) => asks,
        None if words.iter().any(|word| expressed::holds(word, place)) => Asks::Start,
        None => Asks::Nothing,
    })
}
