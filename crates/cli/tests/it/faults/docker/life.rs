//! What somebody does with an instance in a container.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::{Farm, until};
use crate::support::{eventually, pause};
use crate::terminal::Terminal;

#[test]
fn a_container_is_spoken_to_like_any_other_instance() {
    let Some(farm) = Farm::shared() else { return };
    let id = farm.new_claw("alice", &[]);
    let status = farm.until_ready(&id);
    let port = status["port"].as_u64().expect("a port");
    assert!((10_000..20_000).contains(&port), "{status}");
    assert_eq!(farm.inspect(&id, "json .HostConfig.PortBindings").matches("127.0.0.1").count(), 1);

    // 32 random bytes, in a file that is the container's user's alone.
    let token = farm.run(&["token", "reveal", &id]).ends(0).out.trim().to_owned();
    assert!(token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
    for file in ["config/.env", "config/openclaw.json"] {
        let meta = std::fs::metadata(farm.claw_folder(&id).join(file)).expect("it is there");
        assert_eq!((meta.permissions().mode() & 0o777, meta.uid()), (0o600, 1000), "{file}");
    }
    let env = std::fs::read_to_string(farm.claw_folder(&id).join("config/.env")).expect("read");
    assert!(env.contains(&token));
    assert!(!farm.engine.docker(&["inspect", &format!("clawfarm-{id}")]).contains(&token));
    let inside = farm.run(&["exec", &id, "--", "sh", "-c", "ls /var/run /run; echo $?"]).ends(0).out;
    assert!(!inside.contains("docker.sock"), "{inside}");

    says_what_it_printed(&farm, &id);
    // Its image has no bash: sh is as well. Its terminal has this one's size, and takes on another.
    let mut terminal = Terminal::open(&farm.home, &["shell", &id]);
    terminal.sees("$ ");
    terminal.type_in("stty size\r");
    terminal.sees("40 100");
    terminal.resize(24, 80);
    eventually("the new size on the other side", || {
        terminal.type_in("stty size\r");
        pause();
        terminal.seen().contains("24 80").then_some(())
    });
    terminal.type_in("exit 42\r");
    terminal.ends(42);

    // Asleep it holds its memory and no processor; awake it is the same run.
    farm.run(&["suspend", "--warm", &id]).ends(0);
    assert_eq!(farm.inspect(&id, ".State.Status"), "paused");
    farm.run(&["resume", &id]).ends(0);
    assert_eq!((farm.inspect(&id, ".State.Status").as_str(), farm.runs(&id)), ("running", 1));

    ends_by_its_memory(&farm, &id);
    farm.clear();
}

/// Nobody but the engine starts it again: after a reboot, say, before there is a server.
#[test]
fn a_container_that_its_engine_starts_again_has_the_newest_secret() {
    let Some(farm) = Farm::shared() else { return };
    let secret = |how: &str, value: &str| {
        farm.home.run_with_input(&["secret", how, "test-key"], value).ends(0);
    };
    secret("set", "sk-first");
    let id = farm.new_claw("alice", &["--set", "env.TEST_KEY.secret=test-key"]);
    // What it was given, start by start.
    let given = || std::fs::read_to_string(farm.claw_folder(&id).join("config/given")).unwrap_or_default();
    farm.until_ready(&id);
    assert_eq!(given(), "TEST_KEY='sk-first'\n");
    // A variable of a process is its own: the rotation starts the claw again.
    secret("rotate", "sk-second");
    let both = "TEST_KEY='sk-first'\nTEST_KEY='sk-second'\n";
    until("it was started with the new value", || if given() == both { Ok(()) } else { Err(given()) });
    farm.until_ready(&id);
    for alone in [false, true] {
        let before = given();
        if alone {
            farm.run(&["down"]).ends(0);
        }
        let _ = farm.engine.docker(&["restart", "-t", "1", &format!("clawfarm-{id}")]);
        let anew = until("it was begun again", || {
            let now = given();
            if now.len() > before.len() { Ok(now) } else { Err(now) }
        });
        let fresh = &anew[before.len()..];
        assert!(fresh.lines().all(|line| line == "TEST_KEY='sk-second'"), "{anew}");
        farm.until_ready(&id);
        assert!(given().ends_with("TEST_KEY='sk-second'\n"));
    }
    // Nobody else can read it: not whoever may use the engine, and not other users.
    assert!(!farm.engine.docker(&["inspect", &format!("clawfarm-{id}")]).contains("sk-second"));
    let env = std::fs::metadata(farm.claw_folder(&id).join("config/.env")).expect("it is there");
    assert_eq!((env.permissions().mode() & 0o777, env.uid()), (0o600, 1000));
    farm.clear();
}

fn says_what_it_printed(farm: &Farm, id: &str) {
    assert!(farm.run(&["logs", id]).ends(0).out.contains("the gateway listens"));
    assert_eq!(farm.run(&["logs", id, "--since", "2100-01-01T00:00:00Z"]).ends(0).out, "");
    assert!(farm.run(&["logs", id, "--since", "1h"]).ends(0).out.contains("the gateway listens"));
    let mut following = farm.start(&["logs", "-f", id]);
    let mut lines = BufReader::new(following.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("read"), "the gateway listens");
    // What is printed from now on comes by itself.
    farm.run(&["exec", id, "--", "sh", "-c", "echo later >/proc/1/fd/1"]).ends(0);
    assert_eq!(lines.next().expect("a line").expect("read"), "later");
    following.kill().expect("it runs");
    following.wait().expect("waited");
}

/// The kernel ends it, and that is what is told; the next run is as any other.
fn ends_by_its_memory(farm: &Farm, id: &str) {
    farm.run(&["exec", id, "--", "touch", "/home/node/.openclaw/workspace/eat"]).ends(0);
    farm.run(&["restart", id, "--detach"]).ends(0);
    until("its end is told", || {
        let told = farm.status(id)["last_error"]["message"].as_str().unwrap_or_default().to_owned();
        let restarts = farm.status(id)["restarts_total"].as_u64();
        if told.contains("memory limit") && restarts == Some(1) { Ok(()) } else { Err((told, restarts)) }
    });
    farm.until_ready(id);
    let events = farm.run(&["events", id]).ends(0).out;
    assert!(events.contains("memory limit"), "{events}");
    assert_eq!(farm.containers(), [id]);
}
