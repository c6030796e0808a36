//! How a new configuration goes out: a decision from what is known, apart from carrying it out.
//!
//! A rollout has its instances in an order ([`crate::Cohort`]), and steps that each say how many
//! of them have the new configuration when the step is through. Within a step so many at once are
//! on their way as the strategy allows. When more fail than it allows, the ones that were changed
//! are given back what they had.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

use crate::cohort::share;

/// How a rollout goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Strategy {
    /// The steps before the last, which is always all instances; none for all at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub steps: Vec<Step>,
    /// Those with these labels come first. Without steps they are one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub first: BTreeMap<String, String>,
    /// How many instances may be on their way at once.
    #[schema(minimum = 1, maximum = 1_000)]
    pub parallel: u32,
    /// How many may fail before the rollout has failed.
    #[schema(maximum = 1_000_000)]
    pub max_failures: u32,
    /// How long an instance may take until it is ready with it, in seconds.
    #[schema(minimum = 1, maximum = 86_400)]
    pub ready_within_secs: u32,
    /// Whether a rollout that has failed gives back what there was; else it stops and waits.
    pub roll_back: bool,
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            first: BTreeMap::new(),
            parallel: Self::PARALLEL,
            max_failures: 0,
            ready_within_secs: Self::READY_WITHIN_SECS,
            roll_back: true,
        }
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RolloutStep)]
pub struct Step {
    /// How many have the new configuration after it, of all.
    pub to: Amount,
    /// What is waited for then.
    #[serde(default)]
    pub then: Pause,
}

/// A number of instances: `5`, or `"10%"`, of which some are never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u8),
}

/// What is waited for between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// Nothing.
    #[default]
    None,
    /// So many seconds, in which those that were changed must stay well.
    Secs(u32),
    /// Somebody's word.
    Promotion,
}

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Instances are given the new configuration.
    Going,
    /// A step is through, and its pause is not over.
    Waiting,
    /// Somebody has halted it.
    Paused,
    /// Too many have failed, and nobody said that it is to be rolled back; or some were not well
    /// with what they were given back.
    Halted,
    /// Those that were changed are given back what they had.
    RollingBack,
    /// Every instance has it, or was left out with a reason.
    Done,
    /// Every instance has what it had.
    RolledBack,
    /// It was ended where it was.
    Aborted,
}

impl Stage {
    /// Whether it has ended.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack | Self::Aborted)
    }
}

/// How many instances are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Nothing was done yet.
    pub pending: u32,
    /// On their way.
    pub changing: u32,
    /// They have it, and are well, or asleep.
    pub proven: u32,
    /// Of those, how many were seen to run with it.
    #[serde(default)]
    pub seen: u32,
    /// They have it, and are not.
    pub failed: u32,
    /// They were left out, with a reason: nothing is learned from them.
    pub skipped: u32,
    /// On their way back.
    pub reverting: u32,
    /// They have again what they had.
    pub reverted: u32,
    /// They were to have again what they had, and are not well with it, or can't have it.
    #[serde(default)]
    pub revert_failed: u32,
}

impl Counts {
    /// All of them.
    #[must_use]
    pub const fn all(&self) -> u32 {
        self.pending
            + self.changing
            + self.proven
            + self.failed
            + self.skipped
            + self.reverting
            + self.reverted
            + self.revert_failed
    }

    /// Those that were begun with. One that was left out counts for no step: another has its turn.
    const fn begun(&self) -> u32 {
        self.changing + self.proven + self.failed
    }
}

/// What is known of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is.
    pub stage: Stage,
    /// Which step it is in, from 0; the last is all instances.
    pub step: u32,
    /// How long the present pause has lasted, in seconds.
    pub waited_secs: u64,
    /// Whether somebody has given the word to go on.
    pub promoted: bool,
    /// Its instances.
    pub counts: Counts,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Give so many more instances the new configuration.
    Change(u32),
    /// Give so many that were changed back what they had.
    Revert(u32),
    /// Go over to a stage, and to a step.
    Enter(Stage, u32),
    /// Nothing before something of its instances changes, or for so many seconds.
    Wait(Option<u64>),
}

impl Strategy {
    /// At once on their way when nothing is said.
    const PARALLEL: u32 = 100;
    /// As an instance's own limit when nothing is said.
    const READY_WITHIN_SECS: u32 = 300;
    /// More than a server has hands for: it works on 64 instances at a time.
    const PARALLEL_MAX: u32 = 1_000;
    /// More than any fleet.
    const FAILURES_MAX: u32 = 1_000_000;
    /// The longest pause between two steps: a year.
    const PAUSE_MAX: u32 = 31_536_000;
    /// The most steps.
    const STEPS_MAX: usize = 20;

    /// How a rollout goes that brings back what was well before: it neither stops at those that
    /// fail nor turns round, for what it would turn to is what is got away from.
    #[must_use]
    pub fn back() -> Self {
        Self { roll_back: false, max_failures: Self::FAILURES_MAX, ..Self::default() }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// Names the field and what it may be.
    pub fn check(&self) -> Result<()> {
        if !(1..=Self::PARALLEL_MAX).contains(&self.parallel) {
            return Err(Error::invalid(
                "strategy.parallel",
                format!("{} at once can't be had: with none nothing happens", self.parallel),
            )
            .fix(format!("give 1 to {}", Self::PARALLEL_MAX)));
        }
        if self.max_failures > Self::FAILURES_MAX {
            return Err(Error::invalid(
                "strategy.max_failures",
                format!("{} is more than there can be instances", self.max_failures),
            )
            .fix(format!("give 0 to {}", Self::FAILURES_MAX)));
        }
        if !(1..=86_400).contains(&self.ready_within_secs) {
            return Err(Error::invalid(
                "strategy.ready_within_secs",
                format!("{} s can't be waited for", self.ready_within_secs),
            )
            .fix("give 1 to 86400 seconds"));
        }
        if self.steps.len() > Self::STEPS_MAX {
            return Err(Error::invalid("strategy.steps", format!("there are more than {}", Self::STEPS_MAX))
                .fix("give fewer steps"));
        }
        for (index, step) in self.steps.iter().enumerate() {
            let field = format!("strategy.steps[{index}].to");
            if matches!(step.to, Amount::Count(0) | Amount::Percent(0 | 101..)) {
                return Err(Error::invalid(field, format!("{} is no step", step.to))
                    .fix("give a number from 1, or 1% to 100%"));
            }
            if let Pause::Secs(secs) = step.then
                && secs > Self::PAUSE_MAX
            {
                return Err(Error::invalid(
                    format!("strategy.steps[{index}].then"),
                    format!("a pause of {secs} s is longer than a year"),
                )
                .fix("give fewer seconds, or wait for somebody's word: promotion"));
            }
        }
        Ok(())
    }

    /// How many of `all` have it after a step; all after the last.
    #[must_use]
    pub fn goal(&self, step: u32, all: u32) -> u32 {
        let to = |step: &Step| match step.to {
            Amount::Count(count) => count.min(all),
            Amount::Percent(percent) => {
                u32::try_from(share(usize::try_from(all).unwrap_or(usize::MAX), percent)).unwrap_or(all)
            }
        };
        // A later step is never less than an earlier one: of three instances, 10% and 20% are one.
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        if step >= self.steps.len() {
            all
        } else {
            self.steps.iter().take(step + 1).map(to).max().unwrap_or(all)
        }
    }

    /// What is to be done next. A function of what is known, so that whoever takes over after a
    /// kill decides the same.
    #[must_use]
    pub fn next(&self, known: &Known) -> Next {
        let counts = &known.counts;
        match known.stage {
            Stage::Done | Stage::RolledBack | Stage::Aborted | Stage::Paused | Stage::Halted => {
                Next::Wait(None)
            }
            Stage::RollingBack => match counts.proven + counts.failed + counts.changing {
                0 if counts.reverting == 0 && counts.revert_failed > 0 => {
                    Next::Enter(Stage::Halted, known.step)
                }
                0 if counts.reverting == 0 => Next::Enter(Stage::RolledBack, known.step),
                left => match left.min(self.parallel.saturating_sub(counts.reverting)) {
                    0 => Next::Wait(None),
                    more => Next::Revert(more),
                },
            },
            Stage::Going | Stage::Waiting if counts.failed > self.max_failures => {
                let stage = if self.roll_back { Stage::RollingBack } else { Stage::Halted };
                Next::Enter(stage, known.step)
            }
            Stage::Going => self.go_on(known),
            Stage::Waiting => match self.pause(known.step) {
                _ if known.promoted => Next::Enter(Stage::Going, known.step + 1),
                // Nothing was learned of it yet: one that sleeps may wake, or somebody knows better.
                _ if counts.seen == 0 => Next::Wait(None),
                Pause::None => Next::Enter(Stage::Going, known.step + 1),
                Pause::Secs(secs) => match u64::from(secs).checked_sub(known.waited_secs) {
                    None | Some(0) => Next::Enter(Stage::Going, known.step + 1),
                    left => Next::Wait(left),
                },
                Pause::Promotion => Next::Wait(None),
            },
        }
    }

    fn go_on(&self, known: &Known) -> Next {
        let counts = &known.counts;
        let goal = self.goal(known.step, counts.all());
        let left = goal.saturating_sub(counts.begun()).min(counts.pending);
        if left > 0 {
            return match left.min(self.parallel.saturating_sub(counts.changing)) {
                0 => Next::Wait(None),
                more => Next::Change(more),
            };
        }
        if counts.changing > 0 {
            return Next::Wait(None);
        }
        if counts.pending == 0 {
            return Next::Enter(Stage::Done, known.step);
        }
        match self.pause(known.step) {
            Pause::None if counts.seen > 0 => Next::Enter(Stage::Going, known.step + 1),
            _ => Next::Enter(Stage::Waiting, known.step),
        }
    }

    fn pause(&self, step: u32) -> Pause {
        usize::try_from(step).ok().and_then(|step| self.steps.get(step)).map_or(Pause::None, |step| step.then)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Amount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse().ok().filter(|it| *it <= 100).map(Self::Percent),
            None => text.parse().ok().map(Self::Count),
        };
        parsed.ok_or_else(|| {
            let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
            Error::invalid("strategy.steps", format!("'{shown}' is no number of instances"))
                .fix("give a number, or a percentage such as 10%")
        })
    }
}

impl PartialSchema for Amount {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
        let count =
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(4_294_967_295_i64));
        let share = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^(100|[1-9][0-9]?)%$"));
        OneOfBuilder::new().item(count).item(share).into()
    }
}

impl ToSchema for Amount {}

impl PartialSchema for Pause {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Type};
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["none", "promotion"]));
        let secs = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .maximum(Some(i64::from(Strategy::PAUSE_MAX)))
            .description(Some("So many seconds, in which those that were changed must stay well."));
        let time = ObjectBuilder::new()
            .property("secs", secs)
            .required("secs")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)));
        OneOfBuilder::new().item(word).item(time).into()
    }
}

impl ToSchema for Pause {}

impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        text.parse().map_err(Error::into_serde)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::Strategy;
    use super::*;

    fn strategy(value: serde_json::Value) -> Strategy {
        let strategy: Strategy = serde_json::from_value(value).unwrap();
        strategy.check().unwrap();
        strategy
    }

    /// A rollout of `all` instances of which `broken` fail, by their place, done to its end.
    fn run(strategy: &Strategy, all: u32, broken: impl Fn(u32) -> bool, promote: bool) -> (Known, u32) {
        let counts = Counts { pending: all, ..Counts::default() };
        let mut known = Known { stage: Stage::Going, step: 0, waited_secs: 0, promoted: false, counts };
        let (mut next_up, mut most) = (0, 0);
        for _ in 0..10_000 {
            match strategy.next(&known) {
                Next::Change(more) => {
                    assert!(more > 0 && more <= known.counts.pending);
                    known.counts.pending -= more;
                    known.counts.changing += more;
                    assert!(known.counts.changing <= strategy.parallel);
                }
                Next::Revert(more) => {
                    // Those that are on their way are turned round too.
                    for _ in 0..more {
                        let counts = &mut known.counts;
                        counts.seen = 0;
                        let from = [&mut counts.proven, &mut counts.failed, &mut counts.changing]
                            .into_iter()
                            .find(|it| **it > 0)
                            .unwrap();
                        *from -= 1;
                        counts.reverting += 1;
                    }
                    assert!(known.counts.reverting <= strategy.parallel);
                }
                Next::Enter(stage, step) => {
                    known = Known { stage, step, waited_secs: 0, promoted: false, ..known };
                }
                Next::Wait(None) if known.stage == Stage::Waiting && promote => known.promoted = true,
                Next::Wait(None) if known.stage == Stage::Waiting => return (known, most),
                Next::Wait(Some(secs)) => known.waited_secs += secs,
                Next::Wait(None) if known.counts.changing > 0 => {
                    known.counts.changing -= 1;
                    if broken(next_up) {
                        known.counts.failed += 1;
                    } else {
                        known.counts.proven += 1;
                        known.counts.seen += 1;
                    }
                    next_up += 1;
                }
                Next::Wait(None) if known.counts.reverting > 0 => {
                    known.counts.reverting -= 1;
                    known.counts.reverted += 1;
                }
                Next::Wait(None) => return (known, most),
            }
            most = most.max(known.counts.begun());
        }
        panic!("it does not end: {known:?}");
    }

    #[test]
    fn a_broken_one_stops_at_the_canary() {
        let canary = strategy(json!({"steps": [{"to": 1}, {"to": "10%", "then": {"secs": 60}}]}));
        let (known, most) = run(&canary, 100, |_| true, true);
        assert_eq!((known.stage, most), (Stage::RolledBack, 1));
        assert_eq!((known.counts.pending, known.counts.reverted), (99, 1));
        let (known, most) = run(&canary, 100, |n| n == 5, true);
        assert_eq!((known.stage, most), (Stage::RolledBack, 10));
    }

    #[test]
    fn what_waits_for_a_word_gets_no_further_without_it() {
        let manual = strategy(json!({"steps": [{"to": "50%", "then": "promotion"}], "parallel": 2}));
        let (known, most) = run(&manual, 10, |_| false, false);
        assert_eq!((known.stage, most, known.counts.proven), (Stage::Waiting, 5, 5));
        assert_eq!(run(&manual, 10, |_| false, true).0.stage, Stage::Done);
    }

    #[test]
    fn a_step_is_not_through_before_one_was_seen_to_run_with_it() {
        let canary = strategy(json!({"steps": [{"to": 1}], "max_failures": 5}));
        let counts = Counts { pending: 9, ..Counts::default() };
        let at = |stage, counts| Known { stage, step: 0, waited_secs: 900, promoted: false, counts };
        for unseen in [
            Counts { proven: 1, ..counts },
            // That one of those that may fail has failed says nothing for it.
            Counts { failed: 1, ..counts },
        ] {
            assert_eq!(canary.next(&at(Stage::Going, unseen)), Next::Enter(Stage::Waiting, 0));
            assert_eq!(canary.next(&at(Stage::Waiting, unseen)), Next::Wait(None));
            let word = Known { promoted: true, ..at(Stage::Waiting, unseen) };
            assert_eq!(canary.next(&word), Next::Enter(Stage::Going, 1));
        }
        let seen = Counts { proven: 1, seen: 1, ..counts };
        assert_eq!(canary.next(&at(Stage::Going, seen)), Next::Enter(Stage::Going, 1));
        assert_eq!(canary.next(&at(Stage::Waiting, seen)), Next::Enter(Stage::Going, 1));
        // One that was left out proves nothing: another has its turn.
        assert_eq!(canary.next(&at(Stage::Going, Counts { skipped: 1, ..counts })), Next::Change(1));
    }

    #[test]
    fn what_could_not_be_brought_back_is_not_called_rolled_back() {
        let strategy = Strategy::default();
        let counts = Counts { reverted: 3, revert_failed: 1, ..Counts::default() };
        let known = Known { stage: Stage::RollingBack, step: 0, waited_secs: 0, promoted: false, counts };
        assert_eq!(strategy.next(&known), Next::Enter(Stage::Halted, 0));
        let counts = Counts { reverting: 1, ..counts };
        assert_eq!(strategy.next(&Known { counts, ..known }), Next::Wait(None));
        let counts = Counts { reverted: 4, ..Counts::default() };
        assert_eq!(strategy.next(&Known { counts, ..known }), Next::Enter(Stage::RolledBack, 0));
    }

    #[test]
    fn one_that_is_not_to_be_rolled_back_halts() {
        let halting = strategy(json!({"roll_back": false, "parallel": 1}));
        let (known, most) = run(&halting, 10, |n| n == 3, false);
        assert_eq!((known.stage, most, known.counts.reverted), (Stage::Halted, 4, 0));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (broken, field) in [
            (json!({"parallel": 0}), "strategy.parallel"),
            (json!({"ready_within_secs": 0}), "strategy.ready_within_secs"),
            (json!({"steps": [{"to": 0}]}), "strategy.steps[0].to"),
            (json!({"steps": vec![json!({"to": 1}); 21]}), "strategy.steps"),
        ] {
            let refused = serde_json::from_value::<Strategy>(broken).unwrap().check().unwrap_err();
            assert_eq!((refused.field_name(), refused.fix_text().is_some()), (Some(field), true));
        }
        for text in ["", "%", "101%", "-1", "1.5", "x"] {
            assert!(text.parse::<Amount>().unwrap_err().fix_text().is_some(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_rollout_ends_and_nobody_is_forgotten(
            all in 0..60_u32,
            steps in prop::collection::vec((1..=100_u8, any::<bool>()), 0..4),
            parallel in 1..10_u32,
            max_failures in 0..3_u32,
            bad in prop::collection::btree_set(0..60_u32, 0..5),
        ) {
            let steps: Vec<_> = steps
                .into_iter()
                .map(|(percent, wait)| Step {
                    to: Amount::Percent(percent),
                    then: if wait { Pause::Secs(5) } else { Pause::Promotion },
                })
                .collect();
            let strategy = Strategy { steps, parallel, max_failures, ..Strategy::default() };
            let (known, _) = run(&strategy, all, |n| bad.contains(&n), true);
            prop_assert!(known.stage.is_over());
            prop_assert_eq!(known.counts.all(), all);
            let failing = u32::try_from(bad.iter().filter(|n| **n < all).count()).unwrap();
            if failing > max_failures {
                prop_assert_eq!(known.stage, Stage::RolledBack);
                prop_assert_eq!(known.counts.pending + known.counts.reverted, all);
            } else {
                prop_assert_eq!(known.stage, Stage::Done);
                prop_assert_eq!(known.counts.proven + known.counts.failed, all);
            }
        }
    }
}
