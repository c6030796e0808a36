//! Claws that end by themselves, and people who meddle.

use clawfarm_model::{Code, DataFate, ObservedState as S};
use clawfarm_runtime::{NoProgress, Runtime};
use clawfarm_test_docker::Kind;

use crate::farm::{Farm, GRACE, SERVES, launch, pause, until};

crate::farm::on_engines! {
    both [
        an_end_is_told_and_left_to_the_reconciler
        what_somebody_removes_is_missed_and_made_again
        a_container_of_somebody_else_is_left_alone
        what_is_in_the_way_of_a_start_is_named
        another_server_takes_over_what_runs
    ]
    docker [
        one_that_takes_too_much_memory_is_told_as_such
        what_somebody_changes_is_put_back
    ]
}

async fn an_end_is_told_and_left_to_the_reconciler(farm: Farm) {
    let id = farm.id("crash");
    let mut told = farm.runtime.watch();
    farm.up(&id, "echo oh no; sleep 1; exit 3").await;
    let seen = farm.until("it ends", &id, |seen| seen.state == S::Exited).await;
    let exit = seen.exit.unwrap();
    assert_eq!((exit.code, exit.requested, exit.out_of_memory), (Some(3), false, false));
    assert!(exit.log_tail.contains("oh no"), "{exit:?}");
    // The engine, whose policy would start it again, is kept from it.
    let state = || farm.engine.docker(&["inspect", "-f", "{{.State.Status}}", &farm.container(&id)]);
    until("the engine lets it be", || async { state() == "exited" }).await;
    assert_eq!(farm.runtime.observe(&id).await.unwrap().exit.unwrap().code, Some(3));
    assert!(std::iter::from_fn(|| told.try_recv().ok()).any(|told| told == id), "it was told");
    // Another start is another run, also of the same launch.
    let seen = farm.runtime.start(&launch(&id, 1, SERVES)).await.unwrap();
    assert_eq!((seen.state, seen.exit), (S::Running, None));
    farm.clear().await;
}

async fn one_that_takes_too_much_memory_is_told_as_such(farm: Farm) {
    let id = farm.id("memory");
    // tail keeps all of a line in memory.
    farm.up(&id, "sleep 1; tail /dev/zero").await;
    let exit = farm.until("it ends", &id, |seen| seen.state == S::Exited).await.exit.unwrap();
    assert!(exit.out_of_memory && !exit.requested, "{exit:?}");
    assert!(exit.to_string().contains("memory limit"));
    farm.clear().await;
}

async fn what_somebody_removes_is_missed_and_made_again(farm: Farm) {
    let id = farm.id("removed");
    farm.up(&id, SERVES).await;
    farm.run(&id, &["sh", "-c", "echo kept > memory"]).await;
    let mut told = farm.runtime.watch();
    let _ = farm.engine.docker(&["rm", "-f", &farm.container(&id)]);
    tokio::time::timeout(crate::farm::LIMIT, told.recv()).await.expect("it is told").unwrap();
    farm.until("it is missed", &id, |seen| !seen.state.is_up()).await;
    let seen = farm.runtime.start(&launch(&id, 1, SERVES)).await.unwrap();
    assert_eq!(seen.state, S::Running);
    assert_eq!(farm.run(&id, &["cat", "memory"]).await.0, "kept\n");
    farm.clear().await;
}

async fn what_somebody_changes_is_put_back(farm: Farm) {
    let id = farm.id("changed");
    farm.up(&id, SERVES).await;
    let name = farm.container(&id);
    let _ = farm.engine.docker(&[
        "update",
        "--memory",
        "200m",
        "--memory-swap",
        "200m",
        "--pids-limit",
        "9",
        &name,
    ]);
    let format = "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}";
    let now = || farm.engine.docker(&["inspect", "-f", format, &name]);
    until("it is put back", || async { now() == format!("{} 512", 64 << 20) }).await;
    farm.clear().await;
}

async fn a_container_of_somebody_else_is_left_alone(farm: Farm) {
    let id = farm.id("theirs");
    let name = farm.container(&id);
    let _ = farm.engine.docker(&[
        "create",
        "--name",
        &name,
        "--network=none",
        clawfarm_test_docker::TINY,
        "true",
    ]);
    let placement = farm.placement(&id, "default").await;
    for error in [
        farm.runtime.observe(&id).await.unwrap_err(),
        farm.runtime.ensure(&placement, &NoProgress).await.unwrap_err(),
        farm.runtime.destroy(&id, DataFate::Purge).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::Conflict, "{error}");
        assert!(error.fix_text().unwrap().contains("docker rename"));
    }
    let _ = farm.engine.docker(&["rm", &name]);
    farm.clear().await;
}

async fn what_is_in_the_way_of_a_start_is_named(farm: Farm) {
    let (id, holder) = (farm.id("port"), farm.id("holder"));
    let (_, port) = farm.up(&holder, SERVES).await;
    let mut placement = farm.placement(&id, "default").await;
    placement.port = port;
    farm.runtime.ensure(&placement, &NoProgress).await.unwrap();
    let error = farm.runtime.start(&launch(&id, 1, SERVES)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")), "{error}");
    assert_eq!(farm.runtime.observe(&id).await.unwrap().state, S::Prepared);
    // With another port the same launch starts.
    let placement = farm.placement(&id, "default").await;
    farm.runtime.ensure(&placement, &NoProgress).await.unwrap();
    assert_eq!(farm.runtime.start(&launch(&id, 1, SERVES)).await.unwrap().state, S::Running);
    farm.runtime.stop(&id, GRACE).await.unwrap();
    let mut no_program = launch(&id, 2, "");
    no_program.argv = vec!["/no/such/program".into()];
    // Its init, which the engine starts, finds that out: it is an end as any other.
    farm.runtime.start(&no_program).await.unwrap();
    let exit = farm.until("it ends", &id, |seen| seen.state == S::Exited).await.exit.unwrap();
    let (code, says) = match farm.engine.kind() {
        Kind::Docker => (127, "/no/such/program"),
        Kind::Podman => (1, "No such file"),
    };
    assert!(exit.code == Some(code) && exit.log_tail.contains(says), "{exit:?}");
    let mut no_image = farm.placement(&farm.id("image"), "default").await;
    no_image.software.image = Some("clawfarm-test/missing:1".into());
    let error = farm.runtime.ensure(&no_image, &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("version")), "{error}");
    farm.clear().await;
}

async fn another_server_takes_over_what_runs(farm: Farm) {
    let id = farm.id("adopt");
    let (before, port) = farm.up(&id, SERVES).await;
    let next = farm.again().await;
    let seen = next.observe(&id).await.unwrap();
    assert_eq!(seen, before);
    assert_eq!(next.list().await.unwrap(), [seen]);
    until("it is reached by the next", || async { next.dial(&id, port).await.is_ok() }).await;
    drop(next);
    // Twice the same start at once is one.
    farm.runtime.stop(&id, GRACE).await.unwrap();
    let launch = launch(&id, 2, SERVES);
    let (a, b) = tokio::join!(farm.runtime.start(&launch), farm.runtime.start(&launch));
    assert_eq!(a.unwrap().pid, b.unwrap().pid);
    pause().await;
    farm.clear().await;
}
