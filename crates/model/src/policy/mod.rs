//! When a claw sleeps by itself, and when it is kept awake.
//!
//! A policy is said in layers: the server's, a tenant's, a project's, an instance's own. Each
//! field comes from the nearest layer that says it, so that a layer says no more than it means
//! to. (A pool, when there are pools, is one layer more between project and instance.)

mod hours;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use hours::{AwakeHours, Window};

use crate::error::{Error, Result};

/// What a layer says of sleep. What it leaves out is said by a broader one, or is as it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimePolicy {
    /// It never sleeps by itself, whatever else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub never: Option<bool>,
    /// Idle for so long it goes to sleep, in seconds: warm where its runtime can freeze it. When
    /// no layer says it, it never sleeps by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub idle_seconds: Option<u32>,
    /// Warm for so long its memory is given back: it is suspended. In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub min_warm_seconds: Option<u32>,
    /// It stays up for so long at least after it has become ready, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub min_running_seconds: Option<u32>,
    /// How long it may finish what has come in while it was being put to sleep, in seconds; one
    /// that works longer stays up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 3600)]
    pub drain_timeout_seconds: Option<u32>,
    /// The hours in which it is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<AwakeHours>,
    /// Whether it is woken shortly before the hours in which it was used on most of its last days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prewake: Option<bool>,
}

impl RuntimePolicy {
    /// The longest that may be said, in seconds: a year.
    pub const LONGEST: u32 = 31_536_000;
    /// The longest drain, in seconds.
    pub const LONGEST_DRAIN: u32 = 3600;

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what is said.
    ///
    /// # Errors
    /// Names the field and the range.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("idle_seconds", self.idle_seconds, 1, Self::LONGEST),
            ("min_warm_seconds", self.min_warm_seconds, 0, Self::LONGEST),
            ("min_running_seconds", self.min_running_seconds, 0, Self::LONGEST),
            ("drain_timeout_seconds", self.drain_timeout_seconds, 0, Self::LONGEST_DRAIN),
        ];
        for (field, said, least, most) in ranges {
            if said.is_some_and(|it| !(least..=most).contains(&it)) {
                let said = said.unwrap_or_default();
                return Err(Error::invalid(field, format!("{said} s can't be used"))
                    .fix(format!("give {least} to {most} seconds")));
            }
        }
        self.hours.as_ref().map_or(Ok(()), AwakeHours::check)
    }

    /// What holds, from layers of which the nearest comes first.
    #[must_use]
    pub fn effective(layers: &[(Layer, &Self)]) -> EffectivePolicy {
        fn nearest<T>(
            layers: &[(Layer, &RuntimePolicy)],
            of: impl Fn(&RuntimePolicy) -> Option<T>,
            or: T,
        ) -> (T, Layer) {
            let said = layers.iter().find_map(|(layer, policy)| of(policy).map(|it| (it, *layer)));
            said.unwrap_or((or, Layer::Default))
        }
        let (never, never_from) = nearest(layers, |p| p.never, false);
        let (idle, idle_from) = nearest(layers, |p| p.idle_seconds.map(Some), None);
        let (warm, warm_from) = nearest(layers, |p| p.min_warm_seconds, EffectivePolicy::MIN_WARM);
        let (running, running_from) =
            nearest(layers, |p| p.min_running_seconds, EffectivePolicy::MIN_RUNNING);
        let (drain, drain_from) = nearest(layers, |p| p.drain_timeout_seconds, EffectivePolicy::DRAIN);
        let (hours, hours_from) = nearest(layers, |p| p.hours.clone(), AwakeHours::default());
        let (prewake, prewake_from) = nearest(layers, |p| p.prewake, false);
        EffectivePolicy {
            never,
            idle_seconds: idle,
            min_warm_seconds: warm,
            min_running_seconds: running,
            drain_timeout_seconds: drain,
            hours,
            prewake,
            from: PolicyOrigin {
                never: never_from,
                idle_seconds: idle_from,
                min_warm_seconds: warm_from,
                min_running_seconds: running_from,
                drain_timeout_seconds: drain_from,
                hours: hours_from,
                prewake: prewake_from,
            },
        }
    }
}

/// Where a value of a policy is from, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The instance's own.
    Instance,
    /// Its project's.
    Project,
    /// Its tenant's.
    Tenant,
    /// The server's.
    Server,
    /// Nobody said it.
    Default,
}

impl Layer {
    /// The name as it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Project => "project",
            Self::Tenant => "tenant",
            Self::Server => "server",
            Self::Default => "default",
        }
    }
}

/// What holds for an instance, and who said it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EffectivePolicy {
    /// It never sleeps by itself.
    pub never: bool,
    /// Idle for so long it goes to sleep, in seconds; without it, never by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u32>,
    /// Warm for so long it is suspended, in seconds.
    pub min_warm_seconds: u32,
    /// It stays up for so long at least, in seconds.
    pub min_running_seconds: u32,
    /// How long it may finish what came in while it was being put to sleep, in seconds.
    pub drain_timeout_seconds: u32,
    /// The hours in which it is up.
    pub hours: AwakeHours,
    /// Whether it is woken before the hours in which it is usually used.
    pub prewake: bool,
    /// Who said each.
    pub from: PolicyOrigin,
}

impl EffectivePolicy {
    /// Seconds for which one stays warm when nothing is said: document 004's figure. A person who
    /// comes back comes back within two minutes or much later.
    pub const MIN_WARM: u32 = 120;
    /// Seconds for which one stays up when nothing is said: document 004's figure. A start costs
    /// an OpenClaw half a minute of a processor.
    pub const MIN_RUNNING: u32 = 300;
    /// Seconds for a drain when nothing is said: document 004's figure.
    pub const DRAIN: u32 = 30;

    /// The idle time after which it sleeps by itself, if it does.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        let idle = self.idle_seconds.filter(|_| !self.never)?;
        Some(Duration::from_secs(u64::from(idle)))
    }
}

/// Who said each field of an [`EffectivePolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "each is the field by that name")]
pub struct PolicyOrigin {
    pub never: Layer,
    pub idle_seconds: Layer,
    pub min_warm_seconds: Layer,
    pub min_running_seconds: Layer,
    pub drain_timeout_seconds: Layer,
    pub hours: Layer,
    pub prewake: Layer,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_said_never_sleeps_by_itself() {
        let holds = RuntimePolicy::effective(&[]);
        assert_eq!((holds.idle(), holds.from.idle_seconds), (None, Layer::Default));
        assert_eq!(
            (holds.min_warm_seconds, holds.min_running_seconds, holds.drain_timeout_seconds),
            (120, 300, 30)
        );
    }

    #[test]
    fn never_wins_over_an_idle_time_of_a_broader_layer() {
        let project = RuntimePolicy { idle_seconds: Some(60), ..RuntimePolicy::default() };
        let own = RuntimePolicy { never: Some(true), ..RuntimePolicy::default() };
        let layers = [(Layer::Instance, &own), (Layer::Project, &project)];
        assert_eq!(RuntimePolicy::effective(&layers).idle(), None);
        let again = RuntimePolicy { never: Some(false), ..RuntimePolicy::default() };
        let layers = [(Layer::Instance, &again), (Layer::Project, &own), (Layer::Server, &project)];
        assert_eq!(RuntimePolicy::effective(&layers).idle(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_can_not_be_used_names_its_field() {
        let refused = |policy: RuntimePolicy| policy.check().unwrap_err().field_name().map(str::to_owned);
        let said = RuntimePolicy::default;
        assert_eq!(
            refused(RuntimePolicy { idle_seconds: Some(0), ..said() }).as_deref(),
            Some("idle_seconds")
        );
        let longer = Some(RuntimePolicy::LONGEST + 1);
        assert_eq!(
            refused(RuntimePolicy { min_warm_seconds: longer, ..said() }).as_deref(),
            Some("min_warm_seconds")
        );
        assert_eq!(
            refused(RuntimePolicy { drain_timeout_seconds: Some(3601), ..said() }).as_deref(),
            Some("drain_timeout_seconds")
        );
        assert!(RuntimePolicy { min_running_seconds: Some(0), ..said() }.check().is_ok());
        assert!(
            serde_json::from_str::<RuntimePolicy>(r#"{"idle": 3}"#).is_err(),
            "a mistyped field is no policy"
        );
    }

    fn any_policy() -> impl Strategy<Value = RuntimePolicy> {
        let number = || prop::option::of(1_u32..1000);
        let hours =
            prop::option::of(prop::sample::select(vec!["09:00-18:00", "mon-fri 22:00-06:00"]).prop_map(
                |text| AwakeHours { windows: vec![text.parse().unwrap()], ..AwakeHours::default() },
            ));
        (
            prop::option::of(any::<bool>()),
            number(),
            number(),
            number(),
            number(),
            hours,
            prop::option::of(any::<bool>()),
        )
            .prop_map(|(never, idle, warm, running, drain, hours, prewake)| RuntimePolicy {
                never,
                idle_seconds: idle,
                min_warm_seconds: warm,
                min_running_seconds: running,
                drain_timeout_seconds: drain,
                hours,
                prewake,
            })
    }

    /// The value that a field must have, and from where, told the slow way.
    fn told<T: Clone + PartialEq>(
        layers: &[(Layer, RuntimePolicy)],
        of: fn(&RuntimePolicy) -> Option<T>,
    ) -> Option<(T, Layer)> {
        let mut found = None;
        for (layer, policy) in layers.iter().rev() {
            if let Some(value) = of(policy) {
                found = Some((value, *layer));
            }
        }
        found
    }

    proptest! {
        /// Every field comes from the nearest layer that says it, whatever the others say.
        #[test]
        fn each_field_is_of_the_nearest_layer(
            own in any_policy(), project in any_policy(), tenant in any_policy(), server in any_policy()
        ) {
            let said = [
                (Layer::Instance, own), (Layer::Project, project), (Layer::Tenant, tenant), (Layer::Server, server),
            ];
            let layers: Vec<_> = said.iter().map(|(layer, policy)| (*layer, policy)).collect();
            let holds = RuntimePolicy::effective(&layers);
            let or = |it: Option<(u32, Layer)>, default| it.unwrap_or((default, Layer::Default));
            prop_assert_eq!((holds.never, holds.from.never), told(&said, |p| p.never).unwrap_or((false, Layer::Default)));
            let idle = told(&said, |p| p.idle_seconds);
            prop_assert_eq!(holds.idle_seconds, idle.map(|(it, _)| it));
            prop_assert_eq!(holds.from.idle_seconds, idle.map_or(Layer::Default, |(_, layer)| layer));
            let running = or(told(&said, |p| p.min_running_seconds), 300);
            prop_assert_eq!((holds.min_running_seconds, holds.from.min_running_seconds), running);
            let warm = or(told(&said, |p| p.min_warm_seconds), 120);
            prop_assert_eq!((holds.min_warm_seconds, holds.from.min_warm_seconds), warm);
            let drain = or(told(&said, |p| p.drain_timeout_seconds), 30);
            prop_assert_eq!((holds.drain_timeout_seconds, holds.from.drain_timeout_seconds), drain);
            prop_assert_eq!(holds.from.hours, told(&said, |p| p.hours.clone()).map_or(Layer::Default, |(_, layer)| layer));
        }

        /// A policy is what it was after it was kept.
        #[test]
        fn a_kept_policy_is_the_same(policy in any_policy()) {
            let kept = serde_json::to_string(&policy).unwrap();
            prop_assert_eq!(serde_json::from_str::<RuntimePolicy>(&kept).unwrap(), policy);
        }
    }

    #[test]
    fn fuzz_policies() {
        let seeds: [&[u8]; 2] = [
            br#"{"never":false,"idle_seconds":900,"min_warm_seconds":120,"prewake":true}"#,
            br#"{"hours":{"zone":"Europe/Berlin","windows":["mon-fri 09:00-18:00","22:00-06:00"]}}"#,
        ];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            if let Ok(policy) = serde_json::from_slice::<RuntimePolicy>(bytes)
                && policy.check().is_ok()
                && let Some(hours) = &policy.hours
            {
                let now = crate::Timestamp::from_millis(1_795_228_885_109);
                let _ = (hours.until(now), hours.next_start(now));
            }
        });
    }
}
