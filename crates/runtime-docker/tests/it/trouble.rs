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
        what_was_made_for_one_that_never_ran_is_taken_back
    ]
    docker [
        one_that_takes_too_much_memory_is_told_as_such
        what_somebody_changes_is_put_back
        a_container_that_is_renamed_or_loses_its_network_is_still_the_one
        those_that_start_at_once_are_in_one_network_and_a_second_of_its_name_goes
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

async fn a_container_that_is_renamed_or_loses_its_network_is_still_the_one(farm: Farm) {
    let id = farm.id("moved");
    let (before, port) = farm.up(&id, SERVES).await;
    let name = farm.container(&id);
    let _ = farm.engine.docker(&["rename", &name, &format!("{name}-else")]);
    assert_eq!(farm.runtime.observe(&id).await.unwrap(), before, "it is found by its labels");
    assert_eq!(farm.engine.docker(&["inspect", "-f", "{{.Name}}", &name]), format!("/{name}"));
    let network = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}";
    let networks = || farm.engine.docker(&["inspect", "-f", network, &name]);
    let network = networks();
    let _ = farm.engine.docker(&["network", "disconnect", "-f", &network, &name]);
    until("it has its network back", || async { networks() == network }).await;
    until("it is reached at its port", || async { farm.runtime.dial(&id, port).await.is_ok() }).await;
    assert_eq!(farm.runtime.observe(&id).await.unwrap().run, before.run);
    farm.clear().await;
}

async fn those_that_start_at_once_are_in_one_network_and_a_second_of_its_name_goes(farm: Farm) {
    let ids: Vec<_> = (0..4).map(|n| farm.id(&format!("many{n}"))).collect();
    let starting = ids.iter().map(|id| farm.up(id, SERVES));
    let started = futures::future::join_all(starting).await;
    assert!(started.iter().all(|(seen, _)| seen.state == S::Running));
    let format = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}";
    let name = farm.engine.docker(&["inspect", "-f", format, &farm.container(&ids[0])]);
    let filter = format!("name={name}");
    let all = || farm.engine.docker(&["network", "ls", "-q", "--filter", &filter]).lines().count();
    assert_eq!(all(), 1);
    // Some engines refuse to make another of the name, others do it.
    let second = std::process::Command::new("docker")
        .arg("--host")
        .arg(format!("unix://{}", farm.engine.socket().display()))
        .args(["network", "create", &name])
        .output()
        .unwrap();
    eprintln!("{second:?}");
    let more = farm.id("one-more");
    assert_eq!(farm.up(&more, SERVES).await.0.state, S::Running);
    assert_eq!(all(), 1);
    farm.clear().await;
}

async fn what_was_made_for_one_that_never_ran_is_taken_back(farm: Farm) {
    let (id, holder) = (farm.id("never"), farm.id("holds"));
    let (_, port) = farm.up(&holder, SERVES).await;
    let mut placement = farm.placement(&id, "other").await;
    placement.port = port;
    farm.runtime.ensure(&placement, &NoProgress).await.unwrap();
    farm.runtime.start(&launch(&id, 1, SERVES)).await.unwrap_err();
    for _ in 0..2 {
        farm.runtime.undo(&id).await.unwrap();
        let named = format!("name={}", farm.container(&id));
        assert_eq!(farm.engine.docker(&["ps", "-aq", "--filter", &named]), "");
        let dir = farm.home.path().join("claws").join(id.as_str());
        let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["container.json"]);
    }
    // What has run is nobody's to take back.
    farm.runtime.stop(&holder, GRACE).await.unwrap();
    farm.runtime.undo(&holder).await.unwrap();
    assert_eq!(farm.runtime.observe(&holder).await.unwrap().state, S::Exited);
    assert!(farm.home.path().join("claws").join(holder.as_str()).join("config/openclaw.json").exists());
    farm.clear().await;
}
