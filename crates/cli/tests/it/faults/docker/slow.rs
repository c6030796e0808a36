//! An engine that is slow, stuck, mad, or that the server may not speak to.

use std::os::unix::fs::chown;
use std::process::{Command, Stdio};
use std::time::Instant;

use clawfarm_test_docker::Engine;

use super::proxy::{Mood, Proxy};
use super::{Farm, PATIENCE, made_of, until};
use crate::faults::{serve, signal};
use crate::support::{Home, finish, finish_within};

#[test]
fn an_engine_that_does_not_answer_holds_nobody_else_up() {
    if !Engine::possible() {
        return;
    }
    let farm = Farm::without_target(Engine::shared());
    let proxy = Proxy::of(farm.engine.socket(), farm.home.path());
    farm.add_target(proxy.socket.to_str().expect("UTF-8"));
    proxy.is(Mood::Slow);
    let id = farm.new_claw("alice", &[]);
    for mood in [Mood::Stuck, Mood::Mad] {
        let life = farm.life(&id).expect("it runs");
        proxy.is(mood);
        // At the latest when it is looked at by itself, every quarter of a minute.
        until("it is told that nothing is known", || {
            let status = farm.status(&id);
            if status["unknown_since"].is_string() { Ok(()) } else { Err(status) }
        });
        let said = farm.run(&["status", &id]).ends(0).out;
        assert!(said.contains("unknown"), "{mood:?}: {said}");
        let events = farm.run(&["events", &id]).ends(0).out;
        assert!(events.contains("its target does not answer"), "{mood:?}: {events}");
        // Others go on, and what is asked of the engine itself has an end.
        farm.run(&["new", "openclaw", "other", "--runtime", "sim"]).ends(0);
        farm.run(&["rm", "other", "--purge", "--force"]).ends(0);
        farm.run(&["target", "ls"]).ends(0);
        let doctor = farm.run(&["doctor"]);
        assert!(doctor.out.contains("docker"), "{doctor:?}");
        let begun = Instant::now();
        let refused = farm.run(&["logs", &id]);
        assert!(refused.code != Some(0) && begun.elapsed() < PATIENCE, "{refused:?}");
        // What is asked for meanwhile is done later.
        let mut arguments = made_of("bob").to_vec();
        arguments.push("--detach");
        farm.run(&arguments).ends(0);
        let asked = farm.start(&["start", "bob"]);
        proxy.is(Mood::Well);
        farm.until_ready(&id);
        assert_eq!(farm.life(&id).expect("it is there"), life, "{mood:?}: it was left as it is");
        farm.until_ready("bob");
        finish_within(asked, PATIENCE).ends(0);
        farm.run(&["rm", "bob", "--purge", "--force"]).ends(0);
        assert_eq!(farm.containers(), [id.as_str()]);
    }
    farm.clear();
}

#[test]
fn a_socket_that_the_server_may_not_use_is_told_as_such() {
    if !Engine::possible() {
        return;
    }
    let home = Home::new();
    let proxy = Proxy::of("/nowhere".into(), home.path());
    // Somebody else's, and root without the right to pass over that.
    chown(&proxy.socket, Some(65_534), Some(65_534)).expect("changed");
    std::fs::set_permissions(&proxy.socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("set");
    let inner = home.command(&["serve"]);
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set",
        "-dac_override,-dac_read_search",
        "--inh-caps",
        "-dac_override,-dac_read_search",
    ]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = serve(&home, command);
    let socket = proxy.socket.to_str().expect("UTF-8");
    let refused = home.run(&["target", "add", "docker", "--socket", socket]);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    assert!(refused.err.contains("may not use the container engine's socket"), "{refused:?}");
    assert!(refused.err.contains("usermod -aG docker"), "{refused:?}");
    // It is not remembered.
    assert!(!home.run(&["target", "ls"]).ends(0).out.contains("docker"));
    signal(&server, nix::sys::signal::Signal::SIGTERM);
    finish(server).ends(0);
}
