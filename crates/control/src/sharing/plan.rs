//! Which leases to take and which to give back: a pure function of who is there and who
//! holds what.

use std::collections::BTreeMap;

use clawfarm_model::name::TargetName;
use clawfarm_model::server::{Lease, Peer};

/// What to do about the leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Shards to take, by target.
    pub(super) take: BTreeMap<TargetName, Vec<u32>>,
    /// Shards to give back.
    pub(super) release: Vec<(TargetName, u32)>,
}

/// Each server wants its share of each target it reaches: the shards divided by the live
/// servers that reach it, rounded up, so that the shares together are never less than all.
/// What is free, or whose holder is gone, is taken up to the share; what is above is given
/// back.
pub(super) fn plan(me: &str, targets: &[TargetName], servers: &[Peer], leases: &[Lease]) -> Plan {
    let mut plan = Plan::default();
    for target in targets {
        let shards: Vec<&Lease> = leases.iter().filter(|l| l.target == *target).collect();
        let others = servers.iter().filter(|s| s.node != me && s.live && s.targets.contains(target)).count();
        let share = shards.len().div_ceil(others + 1);
        let is_mine = |l: &Lease| l.live && l.holder.as_deref() == Some(me);
        let mine: Vec<u32> = shards.iter().filter(|l| is_mine(l)).map(|l| l.shard).collect();
        if mine.len() > share {
            plan.release.extend(mine[share..].iter().map(|shard| (target.clone(), *shard)));
            continue;
        }
        let mut free: Vec<u32> = shards.iter().filter(|l| !l.live).map(|l| l.shard).collect();
        if free.is_empty() || mine.len() == share {
            continue;
        }
        // Each begins elsewhere, so that two do not try for the same ones.
        let places = free.len();
        free.rotate_left(start(me) % places);
        free.truncate(share - mine.len());
        plan.take.insert(target.clone(), free);
    }
    plan
}

fn start(me: &str) -> usize {
    me.bytes().fold(7_usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(b)))
}

#[cfg(test)]
mod tests {
    use clawfarm_model::Timestamp;

    use super::*;

    fn target(name: &str) -> TargetName {
        TargetName::new(name).unwrap()
    }

    fn peer(node: &str, live: bool, targets: &[&str]) -> Peer {
        Peer {
            node: node.into(),
            name: node.into(),
            version: "1".into(),
            address: None,
            targets: targets.iter().map(|t| target(t)).collect(),
            live,
            started_at: Timestamp::from_millis(0),
            seen_at: Timestamp::from_millis(0),
            leases: 0,
        }
    }

    fn leases(name: &str, holders: &[Option<(&str, bool)>]) -> Vec<Lease> {
        holders
            .iter()
            .zip(0..)
            .map(|(holder, shard)| Lease {
                target: target(name),
                shard,
                holder: holder.map(|(node, _)| node.to_owned()),
                epoch: 1,
                live: holder.is_some_and(|(_, live)| live),
            })
            .collect()
    }

    /// Lets every live server follow its plan until none has one.
    fn settle(servers: &[Peer], mut all: Vec<Lease>) -> Vec<Lease> {
        for _ in 0..20 {
            let before = all.clone();
            for server in servers.iter().filter(|s| s.live) {
                let plan = plan(&server.node, &server.targets, servers, &all);
                for lease in &mut all {
                    if plan.release.contains(&(lease.target.clone(), lease.shard)) {
                        (lease.holder, lease.live) = (None, false);
                    }
                    if plan.take.get(&lease.target).is_some_and(|s| s.contains(&lease.shard)) && !lease.live {
                        (lease.holder, lease.live) = (Some(server.node.clone()), true);
                    }
                }
            }
            if before == all {
                return all;
            }
        }
        panic!("they never settle: {all:?}");
    }

    fn held(all: &[Lease], node: &str) -> usize {
        all.iter().filter(|l| l.live && l.holder.as_deref() == Some(node)).count()
    }

    #[test]
    fn everything_is_held_and_nobody_has_more_than_its_share() {
        for shards in [1, 2, 5, 64] {
            for count in 1..=9 {
                let servers: Vec<Peer> = (0..count).map(|n| peer(&format!("n{n}"), true, &["sim"])).collect();
                // From nothing, and from one that had it all.
                for begin in [None, Some(("n0", true))] {
                    let all = settle(&servers, leases("sim", &vec![begin; shards]));
                    assert!(all.iter().all(|l| l.live), "{shards} shards, {count} servers: {all:?}");
                    let share = shards.div_ceil(count);
                    assert!(servers.iter().all(|s| held(&all, &s.node) <= share), "{all:?}");
                }
            }
        }
    }

    #[test]
    fn what_a_dead_server_held_is_taken_when_its_time_is_over_and_not_before() {
        let servers = [peer("a", true, &["sim"]), peer("b", false, &["sim"])];
        let live = leases("sim", &[Some(("a", true)), Some(("b", true))]);
        assert_eq!(plan("a", &[target("sim")], &servers, &live), Plan::default());
        let over = leases("sim", &[Some(("a", true)), Some(("b", false))]);
        let plan = plan("a", &[target("sim")], &servers, &over);
        assert_eq!(plan.take[&target("sim")], [1]);
    }

    #[test]
    fn only_servers_that_reach_a_target_share_it() {
        let servers = [peer("a", true, &["sim", "a"]), peer("b", true, &["sim", "b"])];
        let mut all = leases("sim", &[None; 4]);
        all.extend(leases("a", &[None]));
        all.extend(leases("b", &[None]));
        let all = settle(&servers, all);
        let holder = |name: &str| all.iter().find(|l| l.target == target(name)).unwrap().holder.clone();
        assert_eq!((holder("a").as_deref(), holder("b").as_deref()), (Some("a"), Some("b")));
        assert_eq!((held(&all, "a"), held(&all, "b")), (3, 3));
    }

    #[test]
    fn a_server_that_is_not_in_the_list_yet_counts_itself() {
        let servers = [peer("a", true, &["sim"])];
        let all = leases("sim", &[Some(("a", true)), None, None, None]);
        assert_eq!(plan("b", &[target("sim")], &servers, &all).take[&target("sim")].len(), 2);
    }
}
