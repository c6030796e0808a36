//! Failures and delays that the world is told to have.

use std::time::{Duration, Instant};

use clawfarm_model::target::CheckLevel;
use clawfarm_model::{Code, ObservedState};
use clawfarm_runtime::{NoProgress, Runtime};
use clawfarm_runtime_sim::{ActKind, Failure, Verb};

use crate::common::{GRACE, PORT, id, launch, open, placement, up, world};

#[tokio::test]
async fn the_scripted_calls_fail_and_no_others_over_all_servers() {
    let (folder, one) = world();
    let two = open(&folder);
    let a = id("a-12345");
    one.ensure(&placement(&a, PORT), &NoProgress).await.unwrap();
    one.world()
        .change_behaviour(|b| b.failures = vec![Failure::new(Verb::Start, Code::Internal).on_calls(&[1, 2])])
        .unwrap();
    assert_eq!(one.start(&launch(&a, 1)).await.unwrap_err().code(), Code::Internal);
    assert_eq!(two.start(&launch(&a, 1)).await.unwrap_err().code(), Code::Internal);
    assert_eq!(one.observe(&a).await.unwrap().state, ObservedState::Prepared);
    assert_eq!(one.start(&launch(&a, 1)).await.unwrap().state, ObservedState::Running);
}

#[tokio::test]
async fn a_failure_after_the_act_leaves_it_done() {
    let (_folder, sim) = world();
    let (a, b) = (id("a-12345"), id("b-12345"));
    sim.ensure(&placement(&a, PORT), &NoProgress).await.unwrap();
    sim.ensure(&placement(&b, PORT + 1), &NoProgress).await.unwrap();
    let failure = Failure::new(Verb::Start, Code::Timeout).of("a-*").on_calls(&[1]).after_the_act();
    sim.world().change_behaviour(|behaviour| behaviour.failures = vec![failure]).unwrap();
    assert_eq!(sim.start(&launch(&b, 1)).await.unwrap().state, ObservedState::Running);
    assert_eq!(sim.start(&launch(&a, 1)).await.unwrap_err().code(), Code::Timeout);
    assert_eq!(sim.observe(&a).await.unwrap().state, ObservedState::Running);
    sim.start(&launch(&a, 1)).await.unwrap();
    assert_eq!(sim.world().acts_on(&a).unwrap(), [ActKind::Ensure, ActKind::Start]);
}

#[tokio::test]
async fn a_probability_is_about_kept_and_repeats_with_its_seed() {
    let outcome = |seed| async move {
        let (_folder, sim) = world();
        let failure = Failure::new(Verb::Observe, Code::Unavailable).with_probability(0.3);
        sim.world()
            .change_behaviour(|b| {
                b.seed = seed;
                b.failures = vec![failure];
            })
            .unwrap();
        let mut failed = Vec::new();
        for _ in 0..300 {
            failed.push(sim.observe(&id("a-12345")).await.is_err());
        }
        failed
    };
    let first = outcome(1).await;
    let count = first.iter().filter(|failed| **failed).count();
    assert!((50..130).contains(&count), "{count} of 300 at 30 %");
    assert_eq!(first, outcome(1).await);
    assert_ne!(first, outcome(2).await);
}

#[tokio::test]
async fn a_target_that_is_down_is_unavailable_and_never_absent() {
    let (folder, sim) = world();
    let a = id("a-12345");
    up(&sim, &a, PORT, 1).await;
    sim.world().change_behaviour(|b| b.target_down = true).unwrap();
    let code = |error: clawfarm_model::Error| error.code();
    assert_eq!(sim.observe(&a).await.map_err(code), Err(Code::Unavailable));
    assert_eq!(sim.list().await.map_err(code), Err(Code::Unavailable));
    assert_eq!(sim.capacity().await.map_err(code), Err(Code::Unavailable));
    assert_eq!(sim.stop(&a, GRACE).await.map_err(code), Err(Code::Unavailable));
    assert_eq!(sim.kill(&a).await.map_err(code), Err(Code::Unavailable));
    assert_eq!(sim.dial(&a, PORT).await.map(|_| ()).map_err(code), Err(Code::Unavailable));
    let diagnosis = sim.diagnose().await;
    assert!(!diagnosis.usable);
    assert!(diagnosis.checks.iter().any(|check| check.level == CheckLevel::Error));
    sim.world().change_behaviour(|b| b.target_down = false).unwrap();
    assert_eq!(sim.observe(&a).await.unwrap().state, ObservedState::Running);
    assert!(sim.diagnose().await.usable);
    assert!(sim.diagnose().await.checks[0].detail.contains("simulated"));

    // The world itself is gone, as a disk that is not mounted: can't be seen, not "is absent".
    std::fs::rename(folder.path().join("sim"), folder.path().join("elsewhere")).unwrap();
    assert_eq!(sim.observe(&a).await.map_err(code), Err(Code::Unavailable));
    assert_eq!(sim.list().await.map_err(code), Err(Code::Unavailable));
    assert_eq!(sim.kill(&a).await.map_err(code), Err(Code::Unavailable));
    std::fs::rename(folder.path().join("elsewhere"), folder.path().join("sim")).unwrap();
    assert_eq!(sim.observe(&a).await.unwrap().state, ObservedState::Running);
}

#[tokio::test]
async fn delays_and_times_of_a_claw() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    up(&sim, &a, PORT, 1).await;
    sim.world()
        .change_behaviour(|b| {
            b.delays.insert(Verb::Observe, (60, 60));
            b.claw.stop_ms = Some((150, 150));
        })
        .unwrap();
    let began = Instant::now();
    sim.observe(&a).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(60));
    let began = Instant::now();
    let seen = sim.stop(&a, GRACE).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert_eq!(seen.exit.unwrap().code, Some(0));
    sim.start(&launch(&a, 2)).await.unwrap();
    // Far longer than its grace: on a machine that stands still for a while it must not end by
    // itself before it is looked at.
    sim.world().change_behaviour(|b| b.claw.stop_ms = Some((600_000, 600_000))).unwrap();
    let grace = clawfarm_model::StopOptions { grace: Duration::from_millis(20) };
    assert_eq!(sim.stop(&a, grace).await.unwrap().exit.unwrap().signal, Some(9));
}

#[tokio::test]
async fn a_stop_whose_server_dies_still_ends_the_claw() {
    let (folder, sim) = world();
    let a = id("a-12345");
    up(&sim, &a, PORT, 1).await;
    sim.world().change_behaviour(|b| b.claw.stop_ms = Some((1_500, 1_500))).unwrap();
    let cut_off = tokio::time::timeout(Duration::from_millis(50), sim.stop(&a, GRACE)).await;
    assert!(cut_off.is_err());
    drop(sim);
    let after = open(&folder);
    assert_eq!(after.observe(&a).await.unwrap().state, ObservedState::Running);
    assert_eq!(after.stop(&a, GRACE).await.unwrap().state, ObservedState::Exited);
    assert_eq!(after.world().acts_on(&a).unwrap(), [ActKind::Ensure, ActKind::Start, ActKind::Stop]);
}
