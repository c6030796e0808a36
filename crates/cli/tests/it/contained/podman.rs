//! Podman through the command line, from the target to the last trace.

use clawfarm_test_docker::{Engine, Kind};

use super::{BROKEN, Farm, NEW, OLD};

#[test]
fn a_claw_lives_on_podman_as_on_docker() {
    if !Engine::possible() {
        return;
    }
    let farm = Farm::on(Engine::shared_of(Kind::Podman));
    let id = farm.new_claw("pod");
    let targets = farm.run(&["target", "ls"]).ends(0).out;
    assert!(targets.lines().any(|line| line.starts_with("docker ")), "{targets}");
    let printed = farm.run(&["exec", &id, "--", "sh", "-c", "echo kept > memory; id -u; pwd"]).ends(0).out;
    assert_eq!(printed, "1000\n/home/node/.openclaw/workspace\n");
    assert!(farm.run(&["logs", &id]).ends(0).out.contains("the gateway listens"));
    farm.run(&["stop", &id]).ends(0);
    assert_eq!(farm.status(&id).expect("it is there")["phase"], "stopped");
    farm.run(&["start", &id]).ends(0);
    assert_eq!(farm.run(&["exec", &id, "--", "cat", "memory"]).ends(0).out, "kept\n");
    let failed = farm.run(&["update", &id, "--version", BROKEN.version]);
    assert!(failed.code != Some(0) && failed.err.contains("this version has lost its footing"), "{failed:?}");
    farm.until_ready(&id);
    assert_eq!(farm.version(&id), OLD.version);
    farm.run(&["update", &id, "--version", NEW.version]).ends(0);
    assert_eq!(farm.versions(&id), [OLD.version, NEW.version]);
    // Ended behind its back, it is started again.
    let _ = farm.engine.docker(&["kill", &format!("clawfarm-{id}")]);
    super::until("it is started again", || {
        let status = farm.status(&id);
        let again = status.as_ref().is_some_and(|it| it["phase"] == "ready" && it["restarts_total"] == 1);
        if again { Ok(()) } else { Err(status) }
    });
    farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
    assert!(farm.containers().is_empty() && !farm.claw_folder(&id).exists());
    let label = format!("label=io.clawfarm.server={}", farm.label());
    assert_eq!(farm.engine.docker(&["network", "ls", "-q", "--filter", &label]), "");
    farm.run(&["target", "rm", "docker"]).ends(0);
}
