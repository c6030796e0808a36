//! The real OpenClaw in a container, on a real daemon, with the demo model.

use std::time::{Duration, Instant};

use clawfarm_test_docker::{DEBIAN, Engine};
use serde_json::Value;

use super::farm::{Farm, until};
use crate::support::finish_within;

/// How long the first start on a machine may take: it builds the image, of 650 MB from npm.
const FIRST: Duration = Duration::from_secs(9 * 60);

#[test]
fn a_container_s_life_from_new_to_its_last_trace() {
    if !Engine::possible() {
        return;
    }
    let engine = Engine::shared();
    engine.with_debian();
    // The server is where the engine is, as on any machine: in its network.
    engine.enter();
    let farm = Farm::new();
    let before = left(&engine);
    let refused = farm.run(&["new", "openclaw", "--runtime", "docker"]).ends(2);
    assert!(refused.err.contains("clawfarm target add docker"), "{refused:?}");
    let socket = engine.socket().to_str().unwrap().to_owned();
    let none = farm.run(&["target", "add", "docker", "--socket", "/nowhere/docker.sock"]);
    assert!(none.code != Some(0) && none.err.contains("/nowhere/docker.sock"), "{none:?}");
    for _ in 0..2 {
        farm.run(&["target", "add", "docker", "--socket", &socket, "--base-image", DEBIAN]).ends(0);
    }
    let other = farm.run(&["target", "add", "docker", "--socket", "/run/podman/podman.sock"]).ends(4);
    assert!(other.err.contains("already"), "{other:?}");

    let id = makes(&farm);
    let claw = farm.claw_folder(&id);
    for part in ["config/openclaw.json", "config/.env", "workspace"] {
        assert!(claw.join(part).exists(), "{part}");
    }
    keeps_its_secrets(&farm, &engine, &id);
    let answer = farm.send(&id, "hello from the test");
    assert!(answer.contains("[clawfarm demo model]") && answer.contains("hello from the test"), "{answer}");
    asks_who_it_is(&farm, &engine, &id);
    let version = farm.run(&["exec", &id, "--", "openclaw", "--version"]).ends(0).out;
    assert!(version.contains("2026.9.6"), "{version}");
    assert!(farm.run(&["logs", &id]).ends(0).out.contains("gateway"));

    until("it is idle", || farm.run(&["suspend", "--warm", &id]).code == Some(0));
    assert_eq!(state(&engine, &id)["Status"], "paused");
    farm.run(&["resume", &id]).ends(0);
    assert_eq!(farm.phase(&id), "ready");
    farm.run(&["stop", &id]).ends(0);
    assert_eq!((farm.phase(&id).as_str(), &state(&engine, &id)["Running"]), ("stopped", &Value::from(false)));
    farm.run(&["start", &id]).ends(0);
    let answer = farm.send(&id, "are you there?");
    assert!(answer.contains("it began with: hello from the test"), "it lost its memory: {answer}");

    becomes_a_process(&farm, &id);

    let refused = farm.run(&["target", "rm", "docker"]).ends(4);
    assert!(refused.err.contains("1 instances"), "{refused:?}");
    farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
    assert!(!claw.exists(), "its folder is still there");
    assert!(!farm.folder().join("datasets").join(&id).exists());
    assert_eq!(left(&engine), before, "containers, networks and volumes");
    farm.run(&["target", "rm", "docker"]).ends(0);
    assert!(!farm.run(&["target", "ls"]).ends(0).out.contains("docker"));
}

/// Makes the image where it is missing, and an instance of it; then starts it again, for how long that
/// takes, and makes another for what is said of its memory.
fn makes(farm: &Farm) -> String {
    let built = farm.command(&["image", "build", "openclaw", "--json"]).spawn().expect("it starts");
    let image = finish_within(built, FIRST).ends(0).json();
    assert_eq!(image["reference"], "clawfarm/openclaw:2026.9.6");
    let again = farm.run(&["image", "build", "openclaw", "--target", "docker", "--json"]).ends(0).json();
    assert_eq!(again["digest"], image["digest"], "it was there");
    assert!(farm.run(&["image", "ls"]).ends(0).out.contains("clawfarm/openclaw:2026.9.6"));
    let unknown = farm.run(&["image", "build", "nobody"]).ends(2);
    assert!(unknown.err.contains("nobody"), "{unknown:?}");
    let mut command =
        farm.command(&["new", "openclaw", "boxed", "--runtime", "docker", "--memory-mib", "2048", "--json"]);
    let made = finish_within(command.spawn().expect("it starts"), FIRST).ends(0).json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    assert_eq!((farm.phase(&id).as_str(), &farm.status(&id)["runtime"]), ("ready", &Value::from("docker")));
    farm.run(&["stop", &id]).ends(0);
    let begun = Instant::now();
    farm.run(&["start", &id]).ends(0);
    eprintln!("from start to ready in a container: {:?}", begun.elapsed());
    let small = farm.run(&["new", "openclaw", "small", "--runtime", "docker", "--detach"]).ends(0);
    assert!(small.err.contains("1024 MiB") && small.err.contains("--memory-mib 2048"), "{small:?}");
    farm.run(&["rm", "small", "--purge", "--force"]).ends(0);
    id
}

/// Its admin interface is on loopback alone, and there for whoever knows the secret name of its
/// person's header, which is made of its token.
fn asks_who_it_is(farm: &Farm, engine: &Engine, id: &str) {
    use std::io::{Read, Write};
    let port = farm.status(id)["port"].as_u64().expect("a port");
    let body = r#"{"id":"x","method":"health","params":{}}"#;
    let path = "/api/v1/admin/rpc";
    let asked = |authorization: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).expect("a port")))
            .expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n{authorization}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    };
    // What the edge says of a person, but for the name of the header in which it says so.
    let forwarded = "x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\n";
    for wrong in [
        String::new(),
        "authorization: Bearer 0000\r\n".to_owned(),
        forwarded.to_owned(),
        format!("{forwarded}x-forwarded-user: owner\r\nx-clawfarm-user: owner\r\n"),
    ] {
        let answer = asked(&wrong);
        assert!(answer.contains(" 401 ") || answer.contains(" 403 "), "{wrong}: {answer}");
    }
    let config = std::fs::read(farm.claw_folder(id).join("config/openclaw.json")).expect("it is there");
    let config: Value = serde_json::from_slice(&config).expect("it is JSON");
    let header = config["gateway"]["auth"]["trustedProxy"]["userHeader"].as_str().expect("a name");
    let answer = asked(&format!("{forwarded}{header}: owner\r\n"));
    assert!(answer.contains(" 200 ") || answer.contains(" 400 "), "with it, it is let in: {answer}");
    let bound = engine.docker(&["port", &format!("clawfarm-{id}")]);
    assert_eq!(bound, format!("18789/tcp -> 127.0.0.1:{port}"));
}

/// What it remembers comes along when a process of this machine is made of its backup.
fn becomes_a_process(farm: &Farm, id: &str) {
    let file = farm.folder().parent().expect("a folder").join("boxed.tar.zst");
    let path = file.to_str().expect("UTF-8");
    farm.run(&["backup", id, "-o", path]).ends(0);
    assert_eq!(farm.phase(id), "ready");
    let made = farm.run(&["restore", path, "--name", "out", "--runtime", "process", "--json"]).ends(0).json();
    let out = made["instance"]["id"].as_str().expect("an id");
    assert_eq!(farm.status(out)["runtime"], "process");
    let answer = farm.send(out, "and now?");
    assert!(answer.contains("it began with: hello from the test"), "it lost its memory: {answer}");
    let token = farm.run(&["token", "reveal", id]).ends(0).out;
    assert!(
        super::farm::files_with(&farm.claw_folder(out), token.trim()).is_empty(),
        "the old token is in it"
    );
    farm.run(&["rm", out, "--purge", "--force"]).ends(0);
}

/// Whoever may use the engine can read all of a container's environment.
fn keeps_its_secrets(farm: &Farm, engine: &Engine, id: &str) {
    let token = farm.run(&["token", "reveal", id]).ends(0).out.trim().to_owned();
    assert!(token.len() >= 32);
    let inspected = engine.docker(&["inspect", &format!("clawfarm-{id}")]);
    assert!(!inspected.contains(&token) && !inspected.contains("CLAWFARM_MODEL_KEY"), "{inspected}");
    let holding: Vec<_> = super::farm::files_with(&farm.claw_folder(id), &token);
    assert_eq!(holding, [farm.claw_folder(id).join("config/.env")]);
}

fn state(engine: &Engine, id: &str) -> Value {
    let text = engine.docker(&["inspect", "-f", "{{json .State}}", &format!("clawfarm-{id}")]);
    serde_json::from_str(&text).expect("it is JSON")
}

/// All that instances of this test could leave behind: tests beside it have other names.
fn left(engine: &Engine) -> Vec<String> {
    let names = engine.docker(&["ps", "-a", "--format", "{{.Names}}"]);
    let of_this = |name: &&str| name.contains("boxed") || name.contains("small");
    let mut all: Vec<String> = names.lines().filter(of_this).map(str::to_owned).collect();
    all.extend(engine.docker(&["volume", "ls", "-q"]).lines().map(str::to_owned));
    all
}
