//! Whether a claw may sleep now, how deep, and what keeps it up otherwise. Pure.

use std::time::Duration;

use clawfarm_model::policy::Layer;
use clawfarm_model::{Cause, EffectivePolicy, Phase, Timestamp};

use super::marks::Traffic;

/// One that the clock woke goes back to sleep after so much rest: nobody came for it. A minute is
/// enough for a job to have begun.
const CLOCK_IDLE: Duration = Duration::from_secs(60);
/// What sleep must last at least, beside the time that waking takes, to be worth it.
const WORTH: Duration = Duration::from_secs(60);

/// How long a job that is due and has not begun keeps it up: one that never begins must not do so
/// for good. Its scheduler looks once a minute at the least.
const OVERDUE: Duration = Duration::from_secs(5 * 60);

/// How deep it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Warm,
    Suspended,
}

/// What to do about its sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays as it is, until something about it changes.
    Stay(Vec<String>),
    /// It stays as it is until then, at least.
    Until(Timestamp, Vec<String>),
    /// It may go to sleep, or deeper. The claw itself is asked first, when it is up.
    Sleep(Depth),
}

/// All that the verdict goes by.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) policy: &'a EffectivePolicy,
    pub(super) phase: Phase,
    pub(super) cause: Cause,
    pub(super) since: Timestamp,
    /// When it was last used, by whatever is known.
    pub(super) used: Timestamp,
    /// Somebody has used it since it is up.
    pub(super) visited: bool,
    pub(super) traffic: Traffic,
    /// Consoles, port-forwards and messages that are under way over the API.
    pub(super) in_use: usize,
    pub(super) channels: &'a [String],
    pub(super) can_freeze: bool,
    pub(super) next_run: Option<Timestamp>,
    pub(super) lead_warm: Duration,
    pub(super) lead_suspended: Duration,
    pub(super) now: Timestamp,
}

pub(super) fn seconds(secs: u32) -> Duration {
    Duration::from_secs(u64::from(secs))
}

/// Whether it is up for a job alone. Once somebody has used it, it is up for them, and goes by the
/// same times as if they had woken it.
pub(super) fn for_a_job(cause: Cause, visited: bool) -> bool {
    cause == Cause::Clock && !visited
}

/// After how much rest it sleeps, if it does by itself.
pub(super) fn idle(policy: &EffectivePolicy, for_a_job: bool) -> Option<Duration> {
    match policy.idle() {
        Some(idle) if for_a_job => Some(idle.min(CLOCK_IDLE)),
        None if for_a_job && !policy.never => Some(CLOCK_IDLE),
        idle => idle,
    }
}

/// How long it stays up at least.
pub(super) fn running(policy: &EffectivePolicy, for_a_job: bool) -> Duration {
    if for_a_job { Duration::ZERO } else { seconds(policy.min_running_seconds) }
}

/// Whether it may sleep.
pub(super) fn verdict(facts: &Facts<'_>) -> Verdict {
    match facts.phase {
        Phase::Ready => awake(facts),
        Phase::Warm => warm(facts),
        _ => Verdict::Stay(Vec::new()),
    }
}

fn awake(facts: &Facts<'_>) -> Verdict {
    let policy = facts.policy;
    let for_a_job = for_a_job(facts.cause, facts.visited);
    let Some(idle) = idle(policy, for_a_job) else {
        let why = match policy.never {
            true => format!("its policy says never ({})", said(policy.from.never)),
            false => "no policy lets it sleep by itself".to_owned(),
        };
        return Verdict::Stay(vec![why]);
    };
    if !facts.channels.is_empty() {
        return Verdict::Stay(facts.channels.to_vec());
    }
    // It goes back to what it was woken from for the clock's sake, when nobody says otherwise.
    let freezes = facts.can_freeze && policy.idle().is_some();
    let mut why = Vec::new();
    let mut until = facts.now;
    let mut not_before = |at: Timestamp, because: String| {
        if at > facts.now {
            until = until.max(at);
            why.push(because);
        }
    };
    if let Some(end) = policy.hours.until(facts.now) {
        not_before(end, format!("it is to be up at this hour ({})", said(policy.from.hours)));
    }
    not_before(facts.since.after(running(policy, for_a_job)), "it has not been up for long".to_owned());
    not_before(facts.used.after(idle), format!("it was used less than {} s ago", idle.as_secs()));
    let sockets = match facts.can_freeze {
        true => "WebSocket(s) are open, and no policy freezes it",
        false => "WebSocket(s) are open, and it can't be frozen",
    };
    // What is open is no matter of time: it is looked at again as if it had just been used.
    for (count, what) in [
        (facts.traffic.requests, "request(s) at its address are under way"),
        (facts.in_use, "console(s), port-forward(s) or message(s) are under way"),
        (if freezes { 0 } else { facts.traffic.sockets }, sockets),
    ] {
        if count > 0 {
            not_before(facts.now.after(idle.min(CLOCK_IDLE)), format!("{count} {what}"));
        }
    }
    if until > facts.now {
        return Verdict::Until(until, why);
    }
    let depth = if freezes { Depth::Warm } else { Depth::Suspended };
    if let Some(next) = facts.next_run
        && next <= facts.now
        && facts.now < next.after(OVERDUE)
    {
        let again = facts.now.after(CLOCK_IDLE).min(next.after(OVERDUE));
        return Verdict::Until(again, vec![format!("its job of {next} has not begun yet")]);
    }
    let worth = |lead: Duration| {
        facts.next_run.is_none_or(|next| next <= facts.now || next.since(facts.now) > lead + WORTH)
    };
    match depth {
        Depth::Warm if worth(facts.lead_warm) => Verdict::Sleep(Depth::Warm),
        Depth::Suspended if worth(facts.lead_suspended) => Verdict::Sleep(Depth::Suspended),
        _ => {
            let next = facts.next_run.unwrap_or(facts.now);
            Verdict::Until(next.after(Duration::from_secs(1)), vec![format!("its next job is due at {next}")])
        }
    }
}

fn warm(facts: &Facts<'_>) -> Verdict {
    let policy = facts.policy;
    if policy.idle().is_none() {
        return Verdict::Stay(vec!["no policy suspends it by itself".to_owned()]);
    }
    let at = facts.since.after(seconds(policy.min_warm_seconds));
    if at > facts.now {
        return Verdict::Until(at, vec![format!("it is warm for {} s first", policy.min_warm_seconds)]);
    }
    if facts.traffic.sockets > 0 {
        // A dashboard whose connection breaks makes another at once, and would wake it.
        let why = format!(
            "{} WebSocket(s) are open: suspended, it would be woken by them at once",
            facts.traffic.sockets
        );
        return Verdict::Until(facts.now.after(CLOCK_IDLE), vec![why]);
    }
    if let Some(next) = facts.next_run
        && next > facts.now
        && next.since(facts.now) <= facts.lead_suspended + WORTH
    {
        return Verdict::Until(
            next.after(Duration::from_secs(1)),
            vec![format!("its next job is due at {next}")],
        );
    }
    Verdict::Sleep(Depth::Suspended)
}

fn said(layer: Layer) -> String {
    match layer {
        Layer::Instance => "its own".to_owned(),
        Layer::Default => "as it comes".to_owned(),
        layer => format!("the {}'s", layer.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::RuntimePolicy;
    use clawfarm_model::policy::AwakeHours;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        // 2026-11-21, a Saturday, 00:00 UTC.
        Timestamp::from_millis(1_795_219_200_000 + secs * 1000)
    }

    fn policy(own: &RuntimePolicy) -> EffectivePolicy {
        RuntimePolicy::effective(&[(Layer::Instance, own)])
    }

    fn idle_policy() -> EffectivePolicy {
        policy(&RuntimePolicy { idle_seconds: Some(900), ..RuntimePolicy::default() })
    }

    fn facts(policy: &EffectivePolicy, now: i64) -> Facts<'_> {
        Facts {
            policy,
            phase: Phase::Ready,
            cause: Cause::Asked,
            since: at(0),
            used: at(0),
            visited: false,
            traffic: Traffic::default(),
            in_use: 0,
            channels: &[],
            can_freeze: true,
            next_run: None,
            lead_warm: Duration::from_secs(5),
            lead_suspended: Duration::from_secs(60),
            now: at(now),
        }
    }

    #[test]
    fn an_idle_one_sleeps_when_its_time_has_come_and_not_before() {
        let policy = idle_policy();
        assert!(matches!(verdict(&facts(&policy, 899)), Verdict::Until(until, _) if until == at(900)));
        assert_eq!(verdict(&facts(&policy, 900)), Verdict::Sleep(Depth::Warm));
        let no_freezer = Facts { can_freeze: false, ..facts(&policy, 900) };
        assert_eq!(verdict(&no_freezer), Verdict::Sleep(Depth::Suspended));
        let used = Facts { used: at(500), ..facts(&policy, 900) };
        assert!(matches!(verdict(&used), Verdict::Until(until, _) if until == at(1400)));
    }

    #[test]
    fn what_is_open_or_configured_keeps_it_up_and_is_told() {
        let policy = idle_policy();
        let told = |facts: Facts<'_>| match verdict(&facts) {
            Verdict::Stay(why) | Verdict::Until(_, why) => why.join("; "),
            Verdict::Sleep(depth) => panic!("it sleeps {depth:?}"),
        };
        let open = |requests, sockets| Traffic { requests, sockets, last: None };
        assert!(told(Facts { traffic: open(2, 0), ..facts(&policy, 2000) }).starts_with("2 request(s)"));
        assert!(told(Facts { in_use: 1, ..facts(&policy, 2000) }).contains("port-forward"));
        let channels = ["its bot polls".to_owned()];
        assert_eq!(told(Facts { channels: &channels, ..facts(&policy, 2000) }), "its bot polls");
        // A socket on which nobody says anything lets it be frozen, and no more.
        let silent = Facts { traffic: open(0, 1), ..facts(&policy, 2000) };
        assert_eq!(verdict(&silent), Verdict::Sleep(Depth::Warm));
        assert!(told(Facts { can_freeze: false, ..silent.clone() }).contains("WebSocket"));
        assert!(told(Facts { phase: Phase::Warm, ..silent }).contains("woken by them"));
        let never = RuntimePolicy { never: Some(true), idle_seconds: Some(1), ..RuntimePolicy::default() };
        assert!(told(facts(&super::tests::policy(&never), 99_999)).contains("never (its own)"));
    }

    #[test]
    fn one_whose_next_job_is_near_stays_up_until_it_has_run() {
        let policy = idle_policy();
        let near = Facts { next_run: Some(at(960)), ..facts(&policy, 900) };
        assert!(matches!(verdict(&near), Verdict::Until(until, _) if until == at(961)));
        let far = Facts { next_run: Some(at(1000)), ..facts(&policy, 900) };
        assert_eq!(verdict(&far), Verdict::Sleep(Depth::Warm));
        let deep = Facts { can_freeze: false, ..far };
        assert!(matches!(verdict(&deep), Verdict::Until(..)), "a start takes longer than that is worth");
        let warm = Facts { phase: Phase::Warm, next_run: Some(at(1000)), ..facts(&policy, 900) };
        assert!(matches!(verdict(&warm), Verdict::Until(..)));
        assert_eq!(verdict(&Facts { next_run: None, ..warm }), Verdict::Sleep(Depth::Suspended));
    }

    #[test]
    fn a_job_that_is_due_and_does_not_begin_keeps_it_up_for_a_while_only() {
        let policy = idle_policy();
        let until = |due: i64| match verdict(&Facts { next_run: Some(at(due)), ..facts(&policy, 1000) }) {
            Verdict::Until(until, _) => Some(until),
            Verdict::Sleep(Depth::Warm) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(until(1000), Some(at(1060)));
        assert_eq!(until(720), Some(at(1020)));
        assert_eq!(until(700), None);
    }

    #[test]
    fn at_its_hours_it_is_up() {
        let hours = AwakeHours { zone: "UTC".into(), windows: vec!["09:00-18:00".parse().unwrap()] };
        let own = RuntimePolicy { idle_seconds: Some(900), hours: Some(hours), ..RuntimePolicy::default() };
        let policy = policy(&own);
        let noon = Facts { since: at(8 * 3600), used: at(8 * 3600), ..facts(&policy, 12 * 3600) };
        assert!(matches!(verdict(&noon), Verdict::Until(until, _) if until == at(18 * 3600)));
        assert_eq!(verdict(&Facts { now: at(18 * 3600), ..noon }), Verdict::Sleep(Depth::Warm));
    }

    #[test]
    fn one_that_the_clock_woke_goes_back_to_sleep_when_its_job_is_done() {
        let none = policy(&RuntimePolicy::default());
        assert!(matches!(verdict(&facts(&none, 99_999)), Verdict::Stay(_)));
        let woken = Facts { cause: Cause::Clock, ..facts(&none, 60) };
        assert_eq!(verdict(&woken), Verdict::Sleep(Depth::Suspended));
        assert!(
            matches!(verdict(&Facts { used: at(30), ..woken.clone() }), Verdict::Until(until, _) if until == at(90))
        );
        let busy_day = idle_policy();
        assert_eq!(
            verdict(&Facts { policy: &busy_day, ..woken }),
            Verdict::Sleep(Depth::Warm),
            "whatever it is up at least"
        );
    }

    #[test]
    fn whoever_comes_to_one_that_the_clock_woke_keeps_it_as_if_they_had_woken_it() {
        let none = policy(&RuntimePolicy::default());
        let woken = Facts { cause: Cause::Clock, ..facts(&none, 100) };
        let visited = Facts { used: at(30), visited: true, ..woken.clone() };
        assert!(matches!(verdict(&visited), Verdict::Stay(_)), "nothing lets it sleep by itself");
        let day = policy(&RuntimePolicy { idle_seconds: Some(8 * 3600), ..RuntimePolicy::default() });
        let visited = Facts { policy: &day, ..visited };
        assert!(matches!(verdict(&visited), Verdict::Until(until, _) if until == at(30 + 8 * 3600)));
        // A dashboard that is open would connect again at once, and wake what is suspended.
        let open = Facts { traffic: Traffic { requests: 0, sockets: 1, last: None }, ..woken };
        assert!(matches!(verdict(&open), Verdict::Until(until, _) if until == at(160)));
        assert_eq!(verdict(&Facts { policy: &day, ..open }), Verdict::Sleep(Depth::Warm));
    }
}
