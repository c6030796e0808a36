//! The target that is a machine's own: its name depends on the database. A server that is alone
//! calls it `local`; one that shares a database calls it by its own name, because the others
//! have one, too. A restore from one to the other has to follow, or no server would reach the
//! instances on it.

use std::collections::BTreeMap;

use clawfarm_model::target::{LOCAL_TARGET, Target};
use serde_json::Value as Json;

use super::Row;

/// The own target of the next server of a home.
#[derive(Clone, Debug)]
pub struct OwnTarget {
    /// As that server will have it.
    pub target: Target,
    /// The home's node id, when it ever shared a database.
    pub node: Option<String>,
}

/// Instances that a restore gave to a target of another name, or that no server here reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Their target in the backup.
    pub target: String,
    /// How many of them there are, without the removed ones.
    pub instances: u64,
}

/// What a backup has on its targets.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// Who reaches them, by their names.
    reach: BTreeMap<String, (String, Option<String>)>,
    /// How many instances they have.
    counts: BTreeMap<String, u64>,
}

impl Targets {
    /// Takes note of a row.
    pub(super) fn note(&mut self, table: &str, row: &Row) {
        let text = |column: &str| row.get(column).and_then(Json::as_str);
        match table {
            "targets" => {
                if let (Some(name), Some(runtime)) = (text("name"), text("runtime")) {
                    let by = text("reachable_from").map(str::to_owned);
                    self.reach.insert(name.to_owned(), (runtime.to_owned(), by));
                }
            }
            "instances" if text("phase") != Some("destroyed") => {
                *self.counts.entry(text("target").unwrap_or_default().to_owned()).or_default() += 1;
            }
            _ => {}
        }
    }

    fn count(&self, target: &str) -> Moved {
        Moved { target: target.to_owned(), instances: self.counts.get(target).copied().unwrap_or(0) }
    }

    /// The target that is the home's own under another name than it will have.
    pub(super) fn own_before(&self, own: &OwnTarget) -> Option<Moved> {
        let is_own = |(name, (runtime, by)): &(&String, &(String, Option<String>))| {
            *name != own.target.name.as_str()
                && runtime == own.target.runtime.as_str()
                && match by {
                    Some(node) => own.node.as_ref() == Some(node),
                    None => *name == LOCAL_TARGET,
                }
        };
        self.reach.iter().find(is_own).map(|(name, _)| self.count(name))
    }

    /// The targets with instances that only other servers reach.
    pub(super) fn of_others(&self, own: &OwnTarget) -> Vec<Moved> {
        self.reach
            .iter()
            .filter(|(_, (_, by))| by.is_some() && *by != own.node)
            .map(|(name, _)| self.count(name))
            .filter(|moved| moved.instances > 0)
            .collect()
    }

    /// How a row is put back when the target `from` becomes `own`; `None` when it is not.
    pub(super) fn follow(&self, from: &str, own: &OwnTarget, table: &str, mut row: Row) -> Option<Row> {
        let to = own.target.name.as_str();
        let column = if table == "targets" { "name" } else { "target" };
        let concerned = matches!(table, "targets" | "instances" | "datasets");
        if !concerned || row.get(column).and_then(Json::as_str) != Some(from) {
            return Some(row);
        }
        if table == "targets" {
            if self.reach.contains_key(to) {
                return None;
            }
            row.insert("reachable_from".into(), own.target.reachable_from.clone().into());
        }
        row.insert(column.into(), to.into());
        if let Some(Ok(Json::Object(mut spec))) =
            row.get("spec").and_then(Json::as_str).map(serde_json::from_str)
        {
            spec.insert("target".into(), to.into());
            row.insert("spec".into(), Json::Object(spec).to_string().into());
        }
        Some(row)
    }
}
