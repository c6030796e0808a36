//! A daemon that goes away. On one of its own: the others' tests go on.

use clawfarm_model::{Code, ObservedState as S};
use clawfarm_runtime::Runtime;
use clawfarm_test_docker::{Engine, Kind};

use crate::farm::{Farm, LIMIT, SERVES, launch, until};

#[tokio::test]
async fn a_daemon_that_is_gone_makes_nothing_absent() {
    if Engine::possible() {
        gone_and_back(Farm::on(Engine::private()).await).await;
    }
}

#[tokio::test]
async fn a_podman_that_is_gone_makes_nothing_absent() {
    if Engine::possible() {
        gone_and_back(Farm::on(Engine::private_of(Kind::Podman)).await).await;
    }
}

async fn gone_and_back(farm: Farm) {
    let id = farm.id("gone");
    farm.up(&id, SERVES).await;
    farm.engine.crash();
    let error = farm.runtime.observe(&id).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.fix_text().is_some());
    for error in [
        farm.runtime.list().await.map(drop).unwrap_err(),
        farm.runtime.start(&launch(&id, 2, SERVES)).await.map(drop).unwrap_err(),
        farm.runtime.capacity().await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::Unavailable, "{error}");
    }
    assert!(!farm.runtime.diagnose().await.usable);
    let mut told = farm.runtime.watch();
    farm.engine.revive();
    let told = tokio::time::timeout(LIMIT, told.recv()).await.expect("it is told by itself").unwrap();
    assert_eq!(told, id);
    // A daemon that comes back ends what ran and starts it again, as its policy says; what is
    // seen is that it ended or runs, never that there is none.
    let seen = farm.runtime.observe(&id).await.unwrap();
    assert!(matches!(seen.state, S::Running | S::Exited) && seen.run == 1, "{seen:?}");
    // The reconciler's answer to either is the same start, once more.
    until("it runs", || async {
        farm.runtime.start(&launch(&id, 1, SERVES)).await.is_ok_and(|seen| seen.state == S::Running)
    })
    .await;
    assert_eq!(farm.runtime.list().await.unwrap().len(), 1);
    assert!(farm.runtime.diagnose().await.usable);
    farm.clear().await;
}
