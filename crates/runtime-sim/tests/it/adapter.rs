//! The OpenClaw adapter works on simulated claws, unchanged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_adapters::{Access, Activity, ClawAdapter, Connection, Dial, InForce, Probe, SendEvent};
use clawfarm_model::{ClawId, Code, Result};
use clawfarm_runtime::{NoProgress, Runtime};
use clawfarm_runtime_sim::{Blocker, SimRuntime};
use futures::TryStreamExt;
use secrecy::SecretString;

use crate::common::{GRACE, PORT, id, launch, placement, until, up, world};

struct ToSim<'a>(&'a SimRuntime, ClawId);

#[async_trait]
impl Dial for ToSim<'_> {
    async fn dial(&self) -> Result<Box<dyn Connection>> {
        Ok(Box::new(self.0.dial(&self.1, PORT).await?))
    }
}

#[tokio::test]
async fn it_probes_talks_drains_and_goes_on() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    let (dial, token) = (ToSim(&sim, a.clone()), SecretString::from("open-sesame"));
    let access = Access { dial: &dial, token: &token };
    assert!(matches!(OpenClaw.probe_startup(access.dial).await, Probe::NoAnswer(_)));
    sim.world()
        .change_behaviour(|b| (b.claw.listen_ms, b.claw.boot_ms) = (Some((0, 0)), Some((60_000, 60_000))))
        .unwrap();
    up(&sim, &a, PORT, 1).await;
    assert!(matches!(OpenClaw.probe_startup(access.dial).await, Probe::Failed(_)));
    assert_eq!(OpenClaw.probe_liveness(access.dial).await, Probe::Passed);
    sim.kill(&a).await.unwrap();
    sim.world().change_behaviour(|b| b.claw.boot_ms = None).unwrap();
    up(&sim, &a, PORT, 2).await;
    assert_eq!(OpenClaw.probe_startup(access.dial).await, Probe::Passed);
    assert_eq!(OpenClaw.activity(&access).await.unwrap(), Activity::Idle);

    let events: Vec<_> = OpenClaw.send(&access, "hello there").await.unwrap().try_collect().await.unwrap();
    let text: String = events
        .iter()
        .filter_map(|event| match event {
            SendEvent::Text { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "sim says: hello there");
    assert!(matches!(events.last(), Some(SendEvent::Done { input_tokens: Some(2), .. })), "{events:?}");

    assert_eq!(OpenClaw.drain(&access, Duration::from_secs(5)).await.unwrap(), Activity::Idle);
    assert!(matches!(OpenClaw.probe_startup(access.dial).await, Probe::Failed(_)));
    assert_eq!(OpenClaw.activity(&access).await.unwrap(), Activity::Idle);
    assert!(matches!(OpenClaw.probe_startup(access.dial).await, Probe::Failed(_)), "asking leaves the drain");
    OpenClaw.undrain(&access).await.unwrap();
    assert_eq!(OpenClaw.probe_startup(access.dial).await, Probe::Passed);

    let stranger = Access { dial: &dial, token: &SecretString::from("wrong") };
    assert!(OpenClaw.activity(&stranger).await.is_err());
    sim.stop(&a, GRACE).await.unwrap();
    assert!(matches!(OpenClaw.probe_liveness(access.dial).await, Probe::NoAnswer(_)));
    assert_eq!(OpenClaw.activity(&access).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn it_tells_what_a_busy_claw_works_on_and_waits_for_it() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    up(&sim, &a, PORT, 1).await;
    let (dial, token) = (ToSim(&sim, a), SecretString::from("open-sesame"));
    let access = Access { dial: &dial, token: &token };
    let work = "2 queued or active operation(s)";
    sim.world().change_behaviour(|b| b.claw.busy = Some(vec![Blocker::new("queue", work)])).unwrap();
    let busy = Activity::Busy(vec![work.to_owned()]);
    assert_eq!(OpenClaw.activity(&access).await.unwrap(), busy);
    assert_eq!(OpenClaw.drain(&access, Duration::ZERO).await.unwrap(), busy);
    assert_eq!(OpenClaw.probe_startup(access.dial).await, Probe::Passed, "a refused drain is taken back");
    sim.world().change_behaviour(|b| b.claw.drain_ms = Some((300, 300))).unwrap();
    assert_eq!(OpenClaw.drain(&access, Duration::from_secs(30)).await.unwrap(), Activity::Idle);
    OpenClaw.undrain(&access).await.unwrap();

    sim.world().change_behaviour(|b| (b.claw.busy, b.claw.answer_ms) = (None, Some((2_000, 2_000)))).unwrap();
    let talk = async {
        let answer: Vec<_> = OpenClaw.send(&access, "hello").await.unwrap().try_collect().await.unwrap();
        answer
    };
    let (answer, ()) = tokio::join!(
        talk,
        until("its answer makes it busy", || async {
            matches!(OpenClaw.activity(&access).await.unwrap(), Activity::Busy(_))
        })
    );
    assert!(matches!(answer.last(), Some(SendEvent::Done { .. })), "{answer:?}");
}

#[tokio::test]
async fn it_tells_which_configuration_is_in_force() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    let (dial, token) = (ToSim(&sim, a.clone()), SecretString::from("open-sesame"));
    let access = Access { dial: &dial, token: &token };
    let config = PathBuf::from("openclaw.json");
    let asked = |text: &str| {
        let files = BTreeMap::from([(config.clone(), text.as_bytes().to_vec())]);
        let access = &access;
        async move { OpenClaw.in_force(access, &files).await.unwrap() }
    };
    let write = |text: &str| {
        let (sim, a, config, text) = (&sim, &a, &config, text.to_owned());
        async move { sim.files().unwrap().write(a, config, text.as_bytes(), false).await.unwrap() }
    };
    up(&sim, &a, PORT, 1).await;
    assert_eq!(asked("{}").await, InForce::Yes);
    let hot = r#"{"logging":{"level":"debug"}}"#;
    assert!(
        matches!(asked(hot).await, InForce::Not(why) if why[0].contains("logging")),
        "nothing was written"
    );

    sim.world().change_behaviour(|b| b.claw.reload_ms = Some((3_600_000, 3_600_000))).unwrap();
    write(hot).await;
    assert!(
        matches!(asked(hot).await, InForce::Not(why) if why[0].contains("still runs")),
        "an hour is not over"
    );
    sim.world().change_behaviour(|b| b.claw.reload_ms = None).unwrap();
    assert_eq!(asked(hot).await, InForce::Yes);
    sim.world().change_behaviour(|b| b.claw.no_reload = Some(true)).unwrap();
    assert!(matches!(asked(hot).await, InForce::Not(_)));
    sim.world().change_behaviour(|b| b.claw.no_reload = None).unwrap();

    // What needs a start is not in force before one.
    let fixed = r#"{"memory":{"search":{"enabled":false}}}"#;
    write(fixed).await;
    assert!(matches!(asked(fixed).await, InForce::Not(why) if why[0].contains("still runs")));
    write(r#"{"sim":{"invalid":"no such key"}}"#).await;
    assert!(matches!(asked(fixed).await, InForce::Not(why) if why[1].contains("no such key")));

    // A drain is no time to ask.
    assert_eq!(OpenClaw.drain(&access, Duration::from_secs(5)).await.unwrap(), Activity::Idle);
    assert_eq!(asked("{}").await, InForce::Unknown);
}

#[tokio::test]
async fn a_configuration_may_break_its_start() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    let (dial, run) = (ToSim(&sim, a.clone()), |run, config: &str| {
        let mut launch = launch(&a, run);
        launch.files[0].contents = config.to_owned().into();
        launch
    });
    sim.ensure(&placement(&a, PORT), &NoProgress).await.unwrap();
    sim.start(&run(1, r#"{"sim":{"break":"ready"}}"#)).await.unwrap();
    assert!(matches!(OpenClaw.probe_startup(&dial).await, Probe::Failed(_)));
    assert_eq!(OpenClaw.probe_liveness(&dial).await, Probe::Passed);
    sim.kill(&a).await.unwrap();
    for (n, refused) in [(2, r#"{"sim":{"break":"exit"}}"#), (3, r#"{"sim":{"invalid":1}}"#), (4, "{")] {
        sim.start(&run(n, refused)).await.unwrap();
        let exit = sim.observe(&a).await.unwrap().exit.expect("it ended");
        assert!(OpenClaw.final_exit(&exit).is_some(), "{refused}: {exit:?}");
    }
    sim.start(&run(5, "{}")).await.unwrap();
    assert_eq!(OpenClaw.probe_startup(&dial).await, Probe::Passed);
}
