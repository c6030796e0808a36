//! The claw as an attacker: it runs what a model tells it to.

use super::farm::{Farm, runs};

#[test]
fn a_hostile_claw_reaches_nothing_but_its_own() {
    let farm = Farm::new();
    let alice = farm.new_claw("alice", &[]);
    let bob = farm.new_claw("bob", &["--overcommit"]);
    let (server, other) = (farm.server_pid(), farm.pid(&bob));
    let home = farm.folder();
    let home = home.to_str().unwrap();
    let state = farm.claw_folder(&bob).join("state");
    let state = state.to_str().unwrap();

    let inside = |script: &str| farm.run(&["exec", &alice, "--", "sh", "-c", script]);
    assert_eq!(
        inside("id -u; cat \"$HOME/openclaw.json\" >/dev/null && echo own").ends(0).out.lines().last(),
        Some("own")
    );

    let mut attempts = vec![
        ("read the master key", format!("cat {home}/master.key")),
        ("read the admin's token", format!("cat {home}/admin.token")),
        ("read the database", format!("cat {home}/clawfarm.db")),
        ("list the other claws", format!("ls {home}/claws")),
        ("read another's configuration", format!("cat {state}/openclaw.json")),
        ("write into another's state", format!("echo x > {state}/x")),
        ("read another's environment", format!("cat /proc/{other}/environ")),
        ("read the server's environment", format!("cat /proc/{server}/environ")),
        ("read the server's memory map", format!("cat /proc/{server}/maps")),
        ("signal the server", format!("kill -9 {server}")),
        ("signal another claw", format!("kill -9 {other}")),
        ("reach the shim's socket", format!("ls {home}/claws/{alice}/run/")),
        (
            "write into the shared installation",
            "echo x > \"$(dirname \"$(readlink -f \"$(command -v openclaw)\")\")/x\"".into(),
        ),
        ("write outside", "echo x > /etc/clawfarm-was-here".into()),
        ("write into the shared /tmp", "echo x > /tmp/clawfarm-was-here".into()),
    ];
    // With Python or Node at hand it would try the socket itself; Node it has.
    let connect = format!(
        "node -e \"require('net').connect('{home}/clawfarm.sock').on('connect', function () {{ this.write('GET /api/v1/instances HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); }}).on('data', d => {{ console.log(String(d)); process.exit(String(d).includes('200 OK') ? 0 : 9); }}).on('error', () => process.exit(9))\""
    );
    attempts.push(("use the server's socket", connect));
    let mut succeeded = Vec::new();
    for (what, script) in &attempts {
        let done = inside(script);
        if done.code == Some(0) {
            succeeded.push(format!("{what}: {done:?}"));
        }
    }
    assert!(succeeded.is_empty(), "{succeeded:#?}");
    assert!(runs(server) && runs(other));
    assert_eq!(farm.phase(&bob), "ready");
}
