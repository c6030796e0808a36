//! The conversation with a real machine.

use std::time::Duration;

use clawfarm_model::Code;
use clawfarm_qemu::Qmp;
use clawfarm_qemu::qmp::RunState;
use serde_json::json;

use crate::support::{Home, LIMIT};

#[tokio::test]
async fn a_machine_is_let_go_stopped_and_ended() {
    let home = Home::new().await;
    let mut machine = home.machine();
    machine.paused = true;
    let mut running = home.start(&machine).await;
    let qmp = &running.qmp;
    assert_eq!(qmp.version(), home.qemu.version);
    assert_eq!(qmp.run_state().await.unwrap(), RunState::Prelaunch);
    assert_eq!(home.count(), None);

    let mut events = qmp.events();
    qmp.cont().await.unwrap();
    qmp.cont().await.unwrap();
    assert_eq!(events.recv().await.unwrap().name, "RESUME");
    home.counts_beyond(2).await;
    qmp.stop().await.unwrap();
    qmp.stop().await.unwrap();
    assert_eq!(qmp.run_state().await.unwrap(), RunState::Paused);
    let stands = home.count().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(home.count().unwrap(), stands);
    qmp.cont().await.unwrap();
    home.counts_beyond(stands).await;
    home.counted_without_a_gap();

    qmp.power_down().await.unwrap();
    loop {
        if events.recv().await.unwrap().name == "POWERDOWN" {
            break;
        }
    }
    qmp.quit().await.unwrap();
    qmp.until_gone(LIMIT).await.unwrap();
    assert!(running.process.ended().await);
    let error = running.qmp.stop().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test]
async fn refusals_are_told_in_qemus_words() {
    let home = Home::new().await;
    let running = home.start(&home.machine()).await;
    let error = running.qmp.execute("no-such-command", &json!({})).await.unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error}");
    assert!(error.message().contains("QEMU refused 'no-such-command'"), "{error}");
    let error = running.qmp.execute("device_del", &json!({"id": "nothing"})).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    let error = running.qmp.execute("device_add", &json!({"driver": "nothing"})).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict, "{error}");
    running.qmp.unplug("nothing", LIMIT).await.unwrap();
    assert_eq!(running.qmp.balloon(1).await.unwrap_err().code(), Code::Conflict);
}

#[tokio::test]
async fn one_client_at_a_time_and_then_the_next() {
    let home = Home::new().await;
    let machine = home.machine();
    let running = home.start(&machine).await;
    let error = Qmp::connect(&machine.qmp, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout);
    drop(running.qmp);
    for _ in 0..5 {
        let qmp = Qmp::connect(&machine.qmp, LIMIT).await.unwrap();
        qmp.run_state().await.unwrap();
    }
}

#[tokio::test]
async fn a_machine_that_is_killed_is_noticed() {
    let home = Home::new().await;
    let mut running = home.start(&home.machine()).await;
    running.process.0.kill().unwrap();
    running.qmp.until_gone(LIMIT).await.unwrap();
    assert_eq!(running.qmp.run_state().await.unwrap_err().code(), Code::Unavailable);
    // Its end closes one socket after the other.
    running.process.0.wait().unwrap();
    let error = Qmp::connect(&home.path("qmp"), Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout);
}

#[tokio::test]
async fn many_commands_at_once_get_their_own_answers() {
    let home = Home::new().await;
    let running = home.start(&home.machine()).await;
    let qmp = std::sync::Arc::new(running.qmp);
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..100u32 {
        let qmp = std::sync::Arc::clone(&qmp);
        asked.spawn(async move {
            if number % 2 == 0 {
                qmp.run_state().await.unwrap();
            } else {
                let answer = qmp.execute("query-version", &json!(null)).await.unwrap();
                assert!(answer["qemu"]["major"].is_u64());
            }
        });
    }
    assert_eq!(asked.join_all().await.len(), 100);
}
