//! How an instance stands that was given another revision.

use std::time::Duration;

use clawfarm_config::{Member, Rollout};
use clawfarm_model::{ConfigKind, Desired, Health, Instance, ObservedState, Phase, Timestamp};
use clawfarm_store::Taken;
use serde_json::Value;

use super::layering::own;
use crate::reconcile::stays_down;

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is not known yet.
    Waiting,
    /// It goes by it, is ready, and has been seen to run with it; or it is down, and begins with
    /// it: then it was not seen.
    Well {
        /// Whether it was.
        seen: bool,
    },
    /// It was not given it: a server ended before it could, or could not.
    NotGiven,
    /// It is not well, for this reason.
    Bad(String),
    /// It is not well, and was not before either: that says nothing of the revision.
    Sick(String),
    /// It could not be given it in time.
    Late(String),
    /// It is no longer of the rollout's concern.
    Left(String),
}

/// How an instance is when its turn comes.
pub(super) fn taken(instance: &Instance) -> Taken {
    let at_rest = matches!(instance.phase, Phase::Stopped | Phase::Suspended | Phase::Warm);
    Taken {
        instance: instance.id.clone(),
        ends: instance.restarts_total,
        well: at_rest || is_well(instance),
        up: instance.intent.desired == Desired::Running,
    }
}

/// Whether it is up, in the run that is wanted, and answers.
pub(super) fn is_well(instance: &Instance) -> bool {
    let running = instance
        .observed
        .as_ref()
        .is_some_and(|it| it.state == ObservedState::Running && it.run >= instance.intent.run);
    running && instance.phase == Phase::Ready && instance.health == Health::Passing
}

/// Whether an instance is configured as a rollout would have it; or, on the way back, as before.
fn has(instance: &Instance, member: &Member, rollout: &Rollout, back: bool) -> bool {
    let to = if back { member.before } else { Some(rollout.to) };
    match rollout.config.kind() {
        ConfigKind::Own => {
            let own = Value::Object(own(instance));
            if back { member.changes.back().is_done(&own) } else { member.changes.is_done(&own) }
        }
        _ => instance.layers.applied.get(&rollout.config).copied() == to,
    }
}

/// Looks at an instance that was given what a rollout brings, or (`back`) what it had before.
/// `now` is by the clock that the member's times are by.
pub(super) fn standing(
    instance: &Instance,
    member: &Member,
    rollout: &Rollout,
    back: bool,
    now: Timestamp,
) -> Standing {
    let name = &rollout.config;
    let limit = Duration::from_secs(u64::from(rollout.strategy.ready_within_secs));
    if instance.phase == Phase::Destroyed || instance.intent.desired == Desired::Destroyed {
        return Standing::Left("it was removed".to_owned());
    }
    if name.kind() == ConfigKind::Template && instance.layers.template.as_ref() != Some(name) {
        return Standing::Left("it is bound to another template".to_owned());
    }
    if !has(instance, member, rollout, back) {
        let why =
            format!("it could not be given it within {} s: something else is done to it", limit.as_secs());
        return if now.since(member.since) > limit { Standing::Late(why) } else { Standing::NotGiven };
    }
    if instance.phase == Phase::Failed {
        return not_well(member, reason(instance).unwrap_or_else(|| "it failed".to_owned()));
    }
    if instance.restarts_total > member.ends_before {
        let why = reason(instance).map_or_else(String::new, |why| format!(": {why}"));
        return not_well(member, format!("it ended by itself with it{why}"));
    }
    match instance.intent.desired {
        // It has ended, and is not started again: its policy says so.
        Desired::Running if stays_down(instance) => return Standing::Well { seen: false },
        Desired::Running => {}
        // Whoever stops it may do so because of what it does with the revision.
        Desired::Stopped if member.was_up => return Standing::Left("it was stopped meanwhile".to_owned()),
        _ => return Standing::Well { seen: false },
    }
    let ready = is_well(instance);
    if ready && instance.in_force >= instance.layers.revision {
        return Standing::Well { seen: true };
    }
    if is_late(instance, member, limit, now) {
        let what = if ready { "has not taken it up" } else { "is not ready with it" };
        let why = reason(instance).map_or_else(String::new, |why| format!(": {why}"));
        return not_well(member, format!("it {what} after {} s{why}", limit.as_secs()));
    }
    Standing::Waiting
}

/// Whether its time is over. It runs from when it was given the revision, and anew from each phase
/// that it comes to since: one that waits for its turn to start, or finishes what it works on
/// before it ends, is not slow because of the revision. Not for ever, though.
fn is_late(instance: &Instance, member: &Member, limit: Duration, now: Timestamp) -> bool {
    let given = now.since(member.since);
    let in_line = instance.phase == Phase::Ready
        && instance.observed.as_ref().is_some_and(|it| it.run < instance.intent.run);
    given > limit * 4 || (given > limit && !in_line && now.since(instance.phase_since) > limit)
}

/// One that was well before is not because of the revision, as far as can be told.
fn not_well(member: &Member, why: String) -> Standing {
    if member.was_well {
        Standing::Bad(why)
    } else {
        Standing::Sick(format!("it was not well before: {why}"))
    }
}

/// What has become of one that had the revision and counted as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Nothing that counts.
    Same,
    /// It was asleep, and is up and well by now.
    Seen,
    /// It is not well any more, for this reason.
    Bad(String),
}

/// Looks at one that has the revision and counted as well.
pub(super) fn since(instance: &Instance, member: &Member, rollout: &Rollout) -> Since {
    if !has(instance, member, rollout, false) || instance.intent.desired == Desired::Destroyed {
        return Since::Same;
    }
    let bad = |what: &str| {
        let why = reason(instance).map_or_else(String::new, |why| format!(": {why}"));
        if member.was_well || member.seen { Since::Bad(format!("{what}{why}")) } else { Since::Same }
    };
    if instance.phase == Phase::Failed {
        return bad("it failed");
    }
    if instance.restarts_total > member.ends_before {
        return bad("it ended by itself with it");
    }
    if instance.intent.desired != Desired::Running {
        return Since::Same;
    }
    if instance.phase == Phase::Unhealthy && instance.health == Health::Failing {
        return bad("it does not answer any more");
    }
    if !member.seen && is_well(instance) && instance.in_force >= instance.layers.revision {
        return Since::Seen;
    }
    Since::Same
}

/// What is known of why it is not well. What the claw wrote last stays out of it: a rollout is told
/// of to more people than may read an instance's logs.
fn reason(instance: &Instance) -> Option<String> {
    let exit = || instance.observed.as_ref().and_then(|it| it.exit.as_ref()).map(ToString::to_string);
    let told = instance.last_error.as_ref().map(|it| without_log(&it.message));
    told.or_else(exit)
}

fn without_log(message: &str) -> String {
    message.split("; its last lines:").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use clawfarm_config::{ChangeSet, Impact, MemberState};
    use clawfarm_model::ConfigName;
    use serde_json::json;

    use super::*;
    use crate::testing::{instance, observation};

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + secs * 1000)
    }

    fn name() -> ConfigName {
        ConfigName::tenant()
    }

    fn member() -> Member {
        Member {
            instance: instance().id,
            place: 0,
            state: MemberState::Changing,
            since: at(0),
            before: Some(1),
            impact: Impact::Hot,
            ends_before: 0,
            was_well: true,
            was_up: true,
            seen: false,
            error: None,
            changes: Default::default(),
        }
    }

    /// One that was given revision 2, and is up and well with it.
    fn with_it() -> Instance {
        let mut it = instance();
        it.intent.desired = Desired::Running;
        it.intent.run = 1;
        it.layers.applied.insert(name(), 2);
        it.layers.revision = 5;
        it.in_force = 5;
        it.phase = Phase::Ready;
        it.phase_since = at(0);
        it.health = Health::Passing;
        it.observed = Some(observation(&it.id, ObservedState::Running, 1));
        it
    }

    fn stands(it: &Instance, member: &Member, secs: i64) -> Standing {
        standing(it, member, &rollout(), false, at(secs))
    }

    #[test]
    fn only_one_that_runs_with_it_was_seen_to() {
        assert_eq!(stands(&with_it(), &member(), 1), Standing::Well { seen: true });
        let waiting = Instance { in_force: 4, ..with_it() };
        assert_eq!(stands(&waiting, &member(), 1), Standing::Waiting);
        for desired in [Desired::Suspended, Desired::Warm] {
            let mut asleep = with_it();
            asleep.intent.desired = desired;
            assert_eq!(stands(&asleep, &member(), 1), Standing::Well { seen: false });
        }
    }

    #[test]
    fn one_that_somebody_stopped_says_nothing_and_one_that_ended_does_though_it_was_stopped_then() {
        let mut stopped = with_it();
        stopped.intent.desired = Desired::Stopped;
        assert!(matches!(stands(&stopped, &member(), 1), Standing::Left(_)));
        let down_before = Member { was_up: false, ..member() };
        assert_eq!(stands(&stopped, &down_before, 1), Standing::Well { seen: false });
        stopped.restarts_total = 1;
        assert!(matches!(stands(&stopped, &member(), 1), Standing::Bad(_)));
    }

    #[test]
    fn one_that_was_not_well_before_is_no_reason_to_turn_round() {
        let mut failed = with_it();
        failed.phase = Phase::Failed;
        assert!(matches!(stands(&failed, &member(), 1), Standing::Bad(_)));
        let sick = Member { was_well: false, ..member() };
        assert!(matches!(stands(&failed, &sick, 1), Standing::Sick(why) if why.contains("before")));
    }

    #[test]
    fn what_is_done_to_it_otherwise_is_not_its_failure() {
        let mut updating = with_it();
        updating.layers.applied.insert(name(), 1);
        assert_eq!(stands(&updating, &member(), 1), Standing::NotGiven);
        assert!(matches!(stands(&updating, &member(), 301), Standing::Late(_)));
    }

    #[test]
    fn its_time_runs_while_something_can_be_expected_of_it() {
        let mut it = with_it();
        it.intent.run = 2;
        assert_eq!(stands(&it, &member(), 600), Standing::Waiting, "it waits for its turn to start");
        it.phase = Phase::Stopping;
        it.phase_since = at(500);
        assert_eq!(stands(&it, &member(), 700), Standing::Waiting, "it finishes what it works on");
        assert!(matches!(stands(&it, &member(), 801), Standing::Bad(_)));
        it.phase_since = at(100_000);
        assert!(matches!(stands(&it, &member(), 1_201), Standing::Bad(_)), "by a clock that runs ahead");
        let slow = Instance { in_force: 4, ..with_it() };
        assert!(matches!(stands(&slow, &member(), 301), Standing::Bad(_)));
    }

    fn rollout() -> Rollout {
        Rollout {
            id: "ro-1".into(),
            tenant: None,
            config: name(),
            from: Some(1),
            to: 2,
            selector: Default::default(),
            strategy: Default::default(),
            stage: clawfarm_config::Stage::Going,
            step: 0,
            stage_since: at(0),
            paused_from: None,
            promoted: false,
            author: String::new(),
            message: String::new(),
            error: None,
            counts: Default::default(),
            version: 1,
            created_at: at(0),
            ended_at: None,
        }
    }

    #[test]
    fn one_whose_own_words_are_changed_has_it_when_it_says_so() {
        let changes = ChangeSet::between(&json!({}), &json!({"env": {"A": "1"}}));
        let (member, rollout) =
            (Member { changes, ..member() }, Rollout { config: ConfigName::own(), ..rollout() });
        let mut it = with_it();
        it.layers.own = json!({"env": {"A": "1", "B": "mine"}}).as_object().cloned();
        assert_eq!(standing(&it, &member, &rollout, false, at(1)), Standing::Well { seen: true });
        assert_eq!(standing(&it, &member, &rollout, true, at(1)), Standing::NotGiven);
        it.layers.own = json!({"env": {"B": "mine"}}).as_object().cloned();
        assert_eq!(standing(&it, &member, &rollout, false, at(1)), Standing::NotGiven);
        assert_eq!(standing(&it, &member, &rollout, true, at(1)), Standing::Well { seen: true });
        assert_eq!(since(&it, &member, &rollout), Since::Same, "somebody took it back");
    }

    #[test]
    fn one_that_was_well_is_watched() {
        let proven = Member { state: MemberState::Proven, seen: true, ..member() };
        assert_eq!(since(&with_it(), &proven, &rollout()), Since::Same);
        let mut ill = with_it();
        ill.phase = Phase::Unhealthy;
        ill.health = Health::Failing;
        assert!(matches!(since(&ill, &proven, &rollout()), Since::Bad(_)));
        let mut ended = with_it();
        ended.restarts_total = 1;
        assert!(matches!(since(&ended, &proven, &rollout()), Since::Bad(_)));
        ended.layers.applied.insert(name(), 3);
        assert_eq!(since(&ended, &proven, &rollout()), Since::Same, "it goes by another one");
        let slept = Member { seen: false, ..proven };
        assert_eq!(since(&with_it(), &slept, &rollout()), Since::Seen);
    }

    #[test]
    fn what_a_claw_wrote_is_not_told_on() {
        let mut failed = with_it();
        failed.phase = Phase::Failed;
        let message = "exited with code 1, 6 times in a row; its last lines: key=sk-secret";
        failed.last_error =
            Some(clawfarm_model::Error::new(clawfarm_model::Code::ClawFailed, message).report());
        let told = format!("{:?}", stands(&failed, &member(), 1));
        assert!(told.contains("6 times") && !told.contains("sk-secret"), "{told}");
    }
}
