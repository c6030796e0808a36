//! Sleep by policy, on a clock that the test moves on.

use std::time::Duration;

use clawfarm_control::{NewInstance, PolicyChange, PolicyOf};
use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::policy::{AwakeHours, Layer};
use clawfarm_model::target::CheckLevel;
use clawfarm_model::{Cause, Code, Context, Instance, Phase, RuntimePolicy, Timestamp};
use clawfarm_runtime_sim::{ActKind, Blocker, ClawBehaviour, Failure, Override, Verb};
use futures::StreamExt;

use crate::fleet::{Fleet, claw, owner};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A quarter of an hour to warm, and as it comes for the rest.
fn quarter() -> RuntimePolicy {
    RuntimePolicy { idle_seconds: Some(900), ..RuntimePolicy::default() }
}

fn with(name: &str, policy: RuntimePolicy) -> NewInstance {
    NewInstance { policy, ..claw(name) }
}

impl Fleet {
    async fn ready_with(&self, name: &str, policy: RuntimePolicy) -> Instance {
        let accepted = self.control.create(&owner(), with(name, policy), None).await.unwrap();
        let id = accepted.instance.id.clone();
        self.reached(accepted).await;
        self.settled(id.as_str(), Phase::Ready).await
    }

    /// Waits until it is in this phase, and until that is known to who decides about its sleep: a
    /// clock that is moved on before that counts as time before the phase began.
    async fn settled(&self, name: &str, phase: Phase) -> Instance {
        self.until(name, phase.as_str(), |it| it.phase == phase && self.control.sleep_knows(&it.id, phase))
            .await
    }

    fn later(&self, by: Duration) {
        self.control.advance_sleep_clock(by);
    }

    async fn kept_up_by(&self, name: &str) -> String {
        self.control.outlook(&owner(), name).await.unwrap().kept_awake_by.join("; ")
    }

    /// Moves the clock on until the instance is in this phase: what it is asked meanwhile may put
    /// a sleep off.
    async fn until_asleep(&self, name: &str, phase: Phase, step: Duration) -> Instance {
        for _ in 0..300 {
            let instance = self.control.get(&owner(), name).await.unwrap();
            if instance.phase == phase {
                return instance;
            }
            self.later(step);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("'{name}' was not {phase}: {:?}", self.control.outlook(&owner(), name).await)
    }

    async fn say(&self, name: &str) {
        let mut answer = self.control.send(&owner(), name, "hello").await.unwrap();
        while let Some(piece) = answer.next().await {
            piece.unwrap();
        }
    }
}

#[tokio::test]
async fn an_idle_claw_goes_warm_then_suspended_and_wakes_for_a_message() {
    let fleet = Fleet::new().await;
    fleet.ready_with("alice", quarter()).await;
    assert!(fleet.kept_up_by("alice").await.contains("used less than 900 s ago"));
    fleet.later(secs(901));
    let warm = fleet.settled("alice", Phase::Warm).await;
    assert_eq!(warm.intent.cause, Cause::Idle);
    fleet.later(secs(121));
    let suspended = fleet.settled("alice", Phase::Suspended).await;
    assert_eq!(suspended.intent.cause, Cause::WarmLong);
    fleet.say("alice").await;
    let awake = fleet.settled("alice", Phase::Ready).await;
    assert_eq!(awake.intent.cause, Cause::Message);
    let wake = fleet.control.outlook(&owner(), "alice").await.unwrap().last_wake.unwrap();
    assert_eq!((wake.cause, wake.from), (Cause::Message, clawfarm_model::WokenFrom::Suspended));
    let events = fleet.control.events(&owner(), Some("alice"), None, 100).await.unwrap().0;
    assert!(events.iter().any(|e| e.message == "suspend was asked for: it is idle"), "{events:?}");
    assert!(events.iter().any(|e| e.message == "resume was asked for: a message for it"), "{events:?}");
}

#[tokio::test]
async fn a_channel_that_fetches_its_messages_keeps_its_claw_up_and_that_is_said() {
    let fleet = Fleet::new().await;
    let mut new = with("alice", quarter());
    new.config.native =
        serde_json::json!({"channels": {"slack": {"enabled": true}}}).as_object().unwrap().clone();
    let accepted = fleet.control.create(&owner(), new, None).await.unwrap();
    let id = accepted.instance.id.clone();
    fleet.reached(accepted).await;
    fleet.settled("alice", Phase::Ready).await;
    fleet.ready_with("bob", quarter()).await;
    let why = "its Slack bot holds a connection to Slack, and can't be woken by a message";
    assert_eq!(fleet.kept_up_by("alice").await, why);
    let of_sleep = async || {
        let (checks, _) = fleet.control.doctor(&owner()).await.unwrap();
        checks.into_iter().find(|check| check.name == "sleep")
    };
    let told = of_sleep().await.expect("a policy says otherwise");
    assert_eq!(told.level, CheckLevel::Warning);
    assert!(told.detail.ends_with(&format!(": {id} ({why})")) && told.fix.is_some(), "{told:?}");
    // Idle for long it is up all the same; another one is not.
    fleet.until_asleep("bob", Phase::Warm, secs(901)).await;
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Ready);
    // Nobody wants it to sleep: nothing is to be mended.
    let change = PolicyChange { never: Some(Some(true)), ..PolicyChange::default() };
    fleet.control.change_policy(&owner(), "alice", None, &change).await.unwrap();
    assert_eq!(of_sleep().await, None);
}

#[tokio::test]
async fn nobody_sleeps_without_a_policy() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    fleet.later(secs(400 * 24 * 3600));
    assert_eq!(fleet.kept_up_by("alice").await, "no policy lets it sleep by itself");
    fleet.say("alice").await;
    let still = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!((still.phase, still.intent.generation), (Phase::Ready, alice.intent.generation));
}

#[tokio::test]
async fn one_that_works_is_asked_again_and_sleeps_when_it_is_done() {
    let fleet = Fleet::with(|b| b.claw.busy = Some(vec![Blocker::new("task", "1 background command")])).await;
    let alice = fleet.ready_with("alice", quarter()).await;
    fleet.later(secs(901));
    fleet.until("alice", "asked and found busy", |_| true).await;
    let begun = std::time::Instant::now();
    while !fleet.kept_up_by("alice").await.contains("1 background command") {
        assert!(begun.elapsed() < secs(30), "nobody asked it: {}", fleet.kept_up_by("alice").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let still = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!((still.phase, still.intent.generation), (Phase::Ready, alice.intent.generation));
    assert_eq!(fleet.count(&alice, ActKind::Drain), 0, "it was asked without a drain");
    fleet.world.change_behaviour(|b| b.claw.busy = None).unwrap();
    fleet.until_asleep("alice", Phase::Warm, secs(300)).await;
}

/// A gateway that is held up by what it works on does not answer in time: that is no leave to end
/// it.
#[tokio::test]
async fn one_that_does_not_say_that_it_has_finished_is_not_ended_by_its_policy() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready_with("alice", quarter()).await;
    fleet.later(secs(901));
    fleet.settled("alice", Phase::Warm).await;
    fleet.world.change_behaviour(|b| b.failures.push(Failure::new(Verb::Dial, Code::Unavailable))).unwrap();
    fleet.later(secs(121));
    fleet.until("alice", "kept up", |it| it.intent.desired == clawfarm_model::Desired::Running).await;
    fleet.world.change_behaviour(|b| b.failures.clear()).unwrap();
    fleet.settled("alice", Phase::Ready).await;
    assert_eq!((fleet.count(&alice, ActKind::Start), fleet.count(&alice, ActKind::Stop)), (1, 0));
    let events = fleet.control.events(&owner(), Some("alice"), None, 100).await.unwrap().0;
    assert!(events.iter().any(|e| e.message.contains("did not say that it has finished")), "{events:?}");
    // Once it answers again it is asked again.
    fleet.until_asleep("alice", Phase::Suspended, secs(300)).await;
}

#[tokio::test]
async fn use_by_whatever_way_puts_sleep_off() {
    let fleet = Fleet::new().await;
    fleet.ready_with("alice", quarter()).await;
    for _ in 0..3 {
        fleet.later(secs(800));
        fleet.say("alice").await;
    }
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Ready);
    // A connection that stays open keeps it up, however long.
    let open = fleet.control.forward(&owner(), "alice", None).await.unwrap();
    fleet.later(secs(100_000));
    let begun = std::time::Instant::now();
    while !fleet.kept_up_by("alice").await.contains("port-forward") {
        assert!(begun.elapsed() < secs(30), "{}", fleet.kept_up_by("alice").await);
    }
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Ready);
    drop(open);
    fleet.until_asleep("alice", Phase::Warm, secs(300)).await;
}

#[tokio::test]
async fn a_session_that_was_used_inside_the_claw_counts() {
    let fleet = Fleet::new().await;
    let soon = Timestamp::now().after(secs(3600)).as_millis();
    fleet.world.change_behaviour(|b| b.claw.used_at = Some(soon)).unwrap();
    fleet.ready_with("alice", quarter()).await;
    fleet.later(secs(3000));
    // It says that it was used later than that, so that it is looked at after a further quarter.
    let due = |at: Option<Timestamp>| at.is_some_and(|at| at.as_millis() >= soon + 900_000);
    let begun = std::time::Instant::now();
    while !due(fleet.control.outlook(&owner(), "alice").await.unwrap().sleeps_at) {
        assert!(begun.elapsed() < secs(30), "{:?}", fleet.control.outlook(&owner(), "alice").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Ready);
    fleet.later(secs(1600));
    fleet.settled("alice", Phase::Warm).await;
}

#[tokio::test]
async fn the_clock_wakes_it_in_time_for_its_next_job_and_it_goes_back_to_sleep() {
    let fleet = Fleet::new().await;
    let job = Timestamp::now().after(secs(7200));
    fleet.world.change_behaviour(|b| b.claw.jobs = Some(vec![job.as_millis()])).unwrap();
    let alice = fleet.ready_with("alice", quarter()).await;
    fleet.later(secs(1000));
    fleet.settled("alice", Phase::Warm).await;
    fleet.later(secs(130));
    fleet.settled("alice", Phase::Suspended).await;
    let outlook = fleet.control.outlook(&owner(), "alice").await.unwrap();
    assert_eq!(outlook.next_run_at, Some(job));
    let (wakes_at, cause) = outlook.wakes_at.unwrap();
    assert!(
        cause == Cause::Clock && wakes_at < job && job.since(wakes_at) <= secs(60),
        "{wakes_at} for {job}"
    );
    // Nearly there, and not yet.
    fleet.later(secs(7200 - 1130 - 600));
    let asleep = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!(asleep.phase, Phase::Suspended);
    fleet.later(secs(560));
    let awake = fleet.settled("alice", Phase::Ready).await;
    assert_eq!(awake.intent.cause, Cause::Clock);
    assert_eq!(fleet.count(&alice, ActKind::Start), 2);
    // It is up until its job was due, and for a minute of rest.
    fleet.world.change_behaviour(|b| b.claw.jobs = None).unwrap();
    fleet.until_asleep("alice", Phase::Warm, secs(30)).await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 2, "woken once");
}

#[tokio::test]
async fn whoever_comes_to_one_that_the_clock_woke_is_not_left_after_a_minute() {
    let fleet = Fleet::new().await;
    let job = Timestamp::now().after(secs(7200));
    fleet.world.change_behaviour(|b| b.claw.jobs = Some(vec![job.as_millis()])).unwrap();
    fleet.ready("alice").await;
    fleet.reached(fleet.control.suspend(&owner(), "alice", false, false).await.unwrap()).await;
    let asleep = fleet.settled("alice", Phase::Suspended).await;
    assert_eq!(asleep.intent.cause, Cause::Asked);
    fleet.later(secs(7200 - 30));
    let awake = fleet.settled("alice", Phase::Ready).await;
    assert_eq!(awake.intent.cause, Cause::Clock);
    let begun = std::time::Instant::now();
    // As if they had woken it: nothing lets it sleep by itself.
    while fleet.kept_up_by("alice").await != "no policy lets it sleep by itself" {
        assert!(begun.elapsed() < secs(30), "{:?}", fleet.control.outlook(&owner(), "alice").await);
        fleet.say("alice").await;
    }
    let still = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!((still.phase, still.intent.cause), (Phase::Ready, Cause::Clock));
}

#[tokio::test]
async fn a_job_that_is_near_keeps_it_up() {
    let fleet = Fleet::new().await;
    let job = Timestamp::now().after(secs(950));
    fleet.world.change_behaviour(|b| b.claw.jobs = Some(vec![job.as_millis()])).unwrap();
    fleet.ready_with("alice", quarter()).await;
    fleet.later(secs(901));
    let begun = std::time::Instant::now();
    let later = |at: Option<Timestamp>| at.is_some_and(|at| at > job);
    while !later(fleet.control.outlook(&owner(), "alice").await.unwrap().sleeps_at) {
        assert!(begun.elapsed() < secs(30), "{:?}", fleet.control.outlook(&owner(), "alice").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Ready);
}

#[tokio::test]
async fn a_time_that_was_missed_while_no_server_was_there_is_made_up_for_at_once() {
    let fleet = Fleet::new().await;
    let job = Timestamp::now().after(secs(7200));
    fleet.world.change_behaviour(|b| b.claw.jobs = Some(vec![job.as_millis()])).unwrap();
    let alice = fleet.ready_with("alice", quarter()).await;
    fleet.later(secs(1000));
    fleet.settled("alice", Phase::Warm).await;
    let fleet = fleet.restarted().await;
    // A new server knows of it by the store alone; its clock stands an hour after the job.
    let outlook = fleet.control.outlook(&owner(), "alice").await.unwrap();
    assert_eq!(outlook.next_run_at, Some(job));
    fleet.later(secs(7200 + 3600));
    let woken = fleet.until("alice", "woken by the clock", |it| it.intent.cause == Cause::Clock).await;
    assert_eq!(woken.intent.desired, clawfarm_model::Desired::Running);
    fleet.settled("alice", Phase::Ready).await;
    assert_eq!(fleet.count(&alice, ActKind::Thaw), 1);
}

#[tokio::test]
async fn in_its_hours_it_is_up_and_is_woken_when_they_begin() {
    let fleet = Fleet::new().await;
    // From ten hours from now, for two hours.
    let hour = |ahead: i64| (Timestamp::now().as_millis() / 3_600_000 + ahead).rem_euclid(24);
    let window = format!("{:02}:00-{:02}:00", hour(10), hour(12));
    let hours = AwakeHours { zone: "UTC".into(), windows: vec![window.parse().unwrap()] };
    fleet.ready_with("alice", RuntimePolicy { hours: Some(hours), ..quarter() }).await;
    fleet.later(secs(1000));
    fleet.settled("alice", Phase::Warm).await;
    fleet.later(secs(200));
    fleet.settled("alice", Phase::Suspended).await;
    fleet.later(secs(10 * 3600));
    let awake = fleet.settled("alice", Phase::Ready).await;
    assert_eq!(awake.intent.cause, Cause::Hours);
    fleet.later(secs(1800));
    assert!(
        fleet.kept_up_by("alice").await.contains("up at this hour (its own)"),
        "{}",
        fleet.kept_up_by("alice").await
    );
    fleet.until_asleep("alice", Phase::Warm, secs(1800)).await;
}

#[tokio::test]
async fn what_a_tenant_or_a_project_says_holds_at_once_unless_the_instance_says_otherwise() {
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    fleet.ready_with("bob", RuntimePolicy { never: Some(true), ..RuntimePolicy::default() }).await;
    fleet.later(secs(10_000));
    let tenant = PolicyOf::Tenant(TenantName::default_tenant());
    let change = PolicyChange { idle_seconds: Some(Some(600)), ..PolicyChange::default() };
    fleet.control.change_policy_of(&owner(), &tenant, &change).await.unwrap();
    fleet.settled("alice", Phase::Warm).await;
    let policy = fleet.control.outlook(&owner(), "alice").await.unwrap().policy;
    assert_eq!((policy.idle_seconds, policy.from.idle_seconds), (Some(600), Layer::Tenant));
    assert_eq!(fleet.kept_up_by("bob").await, "its policy says never (its own)");
    // The project's goes before the tenant's, and the instance's own before both.
    let project = PolicyOf::Project(TenantName::default_tenant(), ProjectName::default_project());
    let change = PolicyChange { idle_seconds: Some(Some(700)), ..PolicyChange::default() };
    fleet.control.change_policy_of(&owner(), &project, &change).await.unwrap();
    let own = PolicyChange { min_warm_seconds: Some(Some(5)), ..PolicyChange::default() };
    fleet.control.change_policy(&owner(), "alice", None, &own).await.unwrap();
    let policy = fleet.control.outlook(&owner(), "alice").await.unwrap().policy;
    assert_eq!((policy.idle_seconds, policy.from.idle_seconds), (Some(700), Layer::Project));
    assert_eq!((policy.min_warm_seconds, policy.from.min_warm_seconds), (5, Layer::Instance));
    // Unsaid, the broader one holds again.
    let unsaid = PolicyChange { idle_seconds: Some(None), ..PolicyChange::default() };
    fleet.control.change_policy_of(&owner(), &project, &unsaid).await.unwrap();
    assert!(fleet.control.policy_of(&owner(), &project).await.unwrap().is_empty());
    assert_eq!(fleet.control.outlook(&owner(), "alice").await.unwrap().policy.idle_seconds, Some(600));
}

#[tokio::test]
async fn policies_that_can_not_be_used_change_nothing() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let wrong = PolicyChange { idle_seconds: Some(Some(0)), ..PolicyChange::default() };
    let error = fleet.control.change_policy(&owner(), "alice", None, &wrong).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("idle_seconds")));
    let nowhere = PolicyOf::Project(TenantName::default_tenant(), ProjectName::new("nowhere").unwrap());
    let fine = PolicyChange { idle_seconds: Some(Some(60)), ..PolicyChange::default() };
    assert_eq!(
        fleet.control.change_policy_of(&owner(), &nowhere, &fine).await.unwrap_err().code(),
        Code::NotFound
    );
    let stranger = Context::owner("x".into(), TenantName::new("other").unwrap(), "r".into());
    for of in [PolicyOf::Server, PolicyOf::Tenant(TenantName::default_tenant())] {
        let error = fleet.control.change_policy_of(&stranger, &of, &fine).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{of:?}");
    }
    let same = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!(same.version, alice.version);
}

#[tokio::test]
async fn a_claw_that_is_called_back_in_the_middle_of_its_sleep_takes_work_again() {
    let fleet = Fleet::with(|b| {
        b.delays.insert(clawfarm_runtime_sim::Verb::Freeze, (400, 400));
    })
    .await;
    let alice = fleet.ready_with("alice", quarter()).await;
    for _ in 0..3 {
        fleet.control.suspend(&owner(), "alice", true, false).await.unwrap();
        let begun = std::time::Instant::now();
        while fleet.count(&alice, ActKind::Drain) <= fleet.count(&alice, ActKind::Undrain) {
            assert!(begun.elapsed() < secs(30), "it was never drained");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A drained one answers 503 to all that is new.
        fleet.say("alice").await;
        fleet.settled("alice", Phase::Ready).await;
    }
}

/// A fleet with every kind of policy, used at random: none sleeps while it works, all idle ones
/// sleep in the end, none is woken twice for one message.
#[tokio::test]
async fn a_fleet_sleeps_and_wakes_as_its_policies_say() {
    const CLAWS: usize = 100;
    let fleet = Fleet::with(|b| {
        b.overrides.push(Override::of(
            "busy*",
            ClawBehaviour {
                busy: Some(vec![Blocker::new("task", "1 background command")]),
                ..ClawBehaviour::default()
            },
        ));
    })
    .await;
    let mut claws = Vec::new();
    for n in 0..CLAWS {
        let (name, policy) = match n % 4 {
            0 => (format!("busy{n}"), quarter()),
            1 => (format!("never{n}"), RuntimePolicy { never: Some(true), ..quarter() }),
            _ => (format!("idle{n}"), quarter()),
        };
        claws.push(fleet.control.create(&owner(), with(&name, policy), None).await.unwrap());
    }
    let mut ready = Vec::new();
    for accepted in claws {
        ready.push(fleet.reached(accepted).await);
    }
    let mut random = 12_345_u64;
    for round in 0..4 {
        fleet.later(secs(600));
        for _ in 0..10 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let which = usize::try_from(random >> 33).unwrap() % CLAWS;
            if which % 4 > 1 {
                fleet.say(ready[which].id.as_str()).await;
            }
        }
        for it in ready
            .iter()
            .filter(|it| it.name.as_str().starts_with("busy") || it.name.as_str().starts_with("never"))
        {
            let now = fleet.control.get(&owner(), it.id.as_str()).await.unwrap();
            assert_eq!(now.phase, Phase::Ready, "round {round}: {}", it.id);
        }
    }
    let mut asleep = 0;
    for it in ready.iter().filter(|it| it.name.as_str().starts_with("idle")) {
        let now = fleet.until_asleep(it.id.as_str(), Phase::Suspended, secs(200)).await;
        assert_eq!(now.intent.cause, Cause::WarmLong);
        // As often as it slept it was woken, but for the last time; never twice.
        let (slept, woken) = (
            fleet.count(it, ActKind::Freeze),
            fleet.count(it, ActKind::Start) - 1 + fleet.count(it, ActKind::Thaw),
        );
        assert!(woken <= 2 * slept, "{}: slept {slept} times, woken {woken}: {:?}", it.id, fleet.acts(it));
        asleep += 1;
    }
    for it in ready.iter().filter(|it| !it.name.as_str().starts_with("idle")) {
        assert_eq!(
            fleet.count(it, ActKind::Freeze) + fleet.count(it, ActKind::Stop),
            0,
            "{:?}",
            fleet.acts(it)
        );
    }
    assert_eq!(asleep, CLAWS / 2);
}

/// Two hundred sleepers that are called at once start a few at a time, those for people first.
#[tokio::test]
async fn many_wakes_at_once_are_let_in_a_few_at_a_time() {
    const CLAWS: usize = 24;
    let fleet = Fleet::with(|b| {
        b.capacity.cpus = 1.0;
        b.claw.boot_ms = Some((60, 60));
    })
    .await;
    let mut ready = Vec::new();
    for n in 0..CLAWS {
        ready.push(fleet.ready(&format!("c{n}")).await);
    }
    for it in &ready {
        fleet.reached(fleet.control.suspend(&owner(), it.id.as_str(), false, false).await.unwrap()).await;
    }
    let wakes =
        ready.iter().map(|it| async { fleet.control.wake(&owner(), it.id.as_str(), Cause::Hours).await });
    let accepted: Vec<_> = futures::future::join_all(wakes).await.into_iter().map(Result::unwrap).collect();
    let mut most = 0;
    let begun = std::time::Instant::now();
    loop {
        let mut starting = 0;
        let mut up = 0;
        // All at one moment: looked at one after the other, more of them seem to start at a time.
        let all = fleet.control.list(&owner(), &Default::default(), None, 100).await.unwrap();
        for now in &all.items {
            let runs =
                now.observed.as_ref().is_some_and(|seen| seen.state.is_up() && seen.run == now.intent.run);
            starting += usize::from(runs && now.phase != Phase::Ready);
            up += usize::from(now.phase == Phase::Ready);
        }
        most = most.max(starting);
        if up == CLAWS {
            break;
        }
        assert!(begun.elapsed() < secs(60), "{up} of {CLAWS} are up");
    }
    assert!(most <= 2, "{most} started at a time on one core");
    for accepted in accepted {
        fleet.reached(accepted).await;
    }
}
