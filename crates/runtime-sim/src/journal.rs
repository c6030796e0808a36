//! What was done in the world, act by act: an append-only file of JSON lines.
//!
//! A line is written before the claw's own file is replaced, and carries the revision that
//! file will have. So a process that is killed between the two leaves a line whose revision
//! the file never reached; [`effective`] leaves such lines out, and what it returns is
//! exactly what happened.

use std::collections::HashMap;

use clawfarm_model::{ClawId, Timestamp};
use serde::{Deserialize, Serialize};

/// What was done to a claw. Only what changed something: a start of a running claw is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActKind {
    /// Its place was made, or its port changed.
    Ensure,
    /// It was started.
    Start,
    /// It was asked to end.
    Stop,
    /// It was ended at once.
    Kill,
    /// It was frozen.
    Freeze,
    /// It went on.
    Thaw,
    /// Its memory was saved and it ended.
    Suspend,
    /// It went on from its saved memory.
    Resume,
    /// Its gateway was asked to take no further work.
    Drain,
    /// Its gateway takes work again.
    Undrain,
    /// It was removed.
    Destroy,
}

/// One act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// When.
    pub at: Timestamp,
    /// To which claw.
    pub id: ClawId,
    /// What was done.
    pub act: ActKind,
    /// The run it was last started for at that time; 0 before the first start.
    pub run: i64,
    /// The process that did it.
    pub pid: u32,
    /// Which life of the id: when its place was first made, in nanoseconds since the epoch.
    pub born: u64,
    /// Which act of that life, counted from 1.
    pub rev: u64,
    /// When it will end by itself, as far as this act decided that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
}

/// The acts of a journal's text, torn lines left out.
pub(crate) fn parse(text: &[u8]) -> Vec<Act> {
    text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Of the acts that were announced, those that took place. `present` says which life and
/// revision the file of a claw now holds.
pub(crate) fn effective(acts: Vec<Act>, present: &HashMap<ClawId, (u64, u64)>) -> Vec<Act> {
    // The line that counts for an act is its last: earlier ones were announced by a process
    // that died before it acted.
    let mut last: HashMap<(ClawId, u64, u64), usize> = HashMap::new();
    let mut ended: HashMap<(ClawId, u64), u64> = HashMap::new();
    for (index, act) in acts.iter().enumerate() {
        last.insert((act.id.clone(), act.born, act.rev), index);
        if act.act == ActKind::Destroy {
            ended.insert((act.id.clone(), act.born), act.rev);
        }
    }
    let happened = |act: &Act| match present.get(&act.id) {
        Some((born, rev)) if *born == act.born => act.rev <= *rev,
        // Its file is gone: it was destroyed, or never came to be.
        _ => ended.get(&(act.id.clone(), act.born)).is_some_and(|rev| act.rev <= *rev),
    };
    let counts: Vec<bool> = acts
        .iter()
        .enumerate()
        .map(|(index, act)| last[&(act.id.clone(), act.born, act.rev)] == index && happened(act))
        .collect();
    acts.into_iter().zip(counts).filter_map(|(act, counts)| counts.then_some(act)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(id: &str, act: ActKind, born: u64, rev: u64) -> Act {
        let id = ClawId::new(id).unwrap();
        Act { at: Timestamp::from_millis(0), id, act, run: 1, pid: 1, born, rev, ends_at: None }
    }

    #[test]
    fn an_act_announced_by_a_process_that_died_is_none() {
        let id = ClawId::new("a").unwrap();
        let acts = vec![
            act("a", ActKind::Ensure, 7, 1),
            act("a", ActKind::Start, 7, 2),
            act("a", ActKind::Start, 7, 2),
            act("a", ActKind::Stop, 7, 3),
        ];
        let kinds = |present: &[(ClawId, (u64, u64))]| {
            let present = present.iter().cloned().collect();
            effective(acts.clone(), &present).iter().map(|a| a.act).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&[(id.clone(), (7, 2))]), [ActKind::Ensure, ActKind::Start]);
        assert_eq!(kinds(&[(id, (7, 3))]), [ActKind::Ensure, ActKind::Start, ActKind::Stop]);
        assert_eq!(kinds(&[]), []);
    }

    #[test]
    fn lives_of_one_id_are_told_apart() {
        let acts = vec![
            act("a", ActKind::Ensure, 1, 1),
            act("a", ActKind::Destroy, 1, 2),
            act("a", ActKind::Ensure, 2, 1),
            act("a", ActKind::Ensure, 3, 1),
        ];
        let present = HashMap::from([(ClawId::new("a").unwrap(), (3, 1))]);
        let lives: Vec<u64> = effective(acts, &present).iter().map(|a| a.born).collect();
        assert_eq!(lives, [1, 1, 3]);
    }

    #[test]
    fn a_torn_line_costs_itself_only() {
        let whole = serde_json::to_string(&act("a", ActKind::Start, 1, 1)).unwrap();
        let text = format!("\n{}\n{whole}\n{whole}", &whole[..20]);
        assert_eq!(parse(text.as_bytes()).len(), 2);
    }

    #[test]
    fn fuzz_journals() {
        clawfarm_fuzz::fuzz(&[b"{}\n{\"claw\":\"a-b\"}\n", b"\n\n"], |bytes| {
            assert!(parse(bytes).len() <= bytes.split(|byte| *byte == b'\n').count());
        });
    }
}
