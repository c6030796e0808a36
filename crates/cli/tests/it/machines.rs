//! `new IMAGE`: bare machines, simulated, and the commands that set them up.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Done, Home, eventually};
use crate::terminal::Terminal;

/// `new` of a simulated machine called lab.
fn new(home: &Home, more: &[&str]) -> Done {
    home.run(&[&["new", "ubuntu:24.04", "lab", "--runtime", "sim"], more].concat())
}

fn lab(home: &Home) -> Value {
    home.run(&["status", "lab", "--json"]).ends(0).json()["instance"].clone()
}

/// How far the commands are, in order.
fn states(home: &Home) -> Vec<String> {
    let steps = lab(home)["setup"]["steps"].as_array().cloned().unwrap_or_default();
    steps.iter().map(|step| step["state"].as_str().unwrap_or_default().to_owned()).collect()
}

/// How often a command was begun in the machine.
fn begun(home: &Home, command: &str) -> usize {
    let log = home.run(&["logs", "lab"]).ends(0).out;
    log.lines().filter(|line| line.ends_with(&format!("runs: {command}"))).count()
}

#[test]
fn a_machine_is_set_up_by_its_commands_in_order_and_is_like_any_other_instance() {
    let home = Home::new();
    let project = home.path().join("project");
    std::fs::create_dir(&project).expect("a folder");
    let made = new(
        &home,
        &[
            "--run",
            "echo first",
            "--run",
            "echo second && true",
            "--volume",
            ".openclaw:/root/.openclaw",
            "--workspace",
            &project.display().to_string(),
            "--publish",
            "28080:80",
            "--cpus",
            "2",
            "--memory-mib",
            "1024",
            "--disk-gib",
            "20",
        ],
    )
    .ends(0);
    let (first, second) = (made.out.find("first\n"), made.out.find("second\n"));
    assert!(first.is_some() && first < second, "{made:?}");
    assert!(made.err.contains("[1/2] echo first") && made.err.contains("[2/2] echo second"), "{made:?}");
    for told in
        ["is ready", "ubuntu:24.04", ".openclaw at /root/.openclaw", "127.0.0.1:28080 leads to port 80"]
    {
        assert!(made.out.contains(told), "no {told}: {made:?}");
    }
    let ps = home.run(&["ps"]).ends(0).out;
    assert!(ps.lines().nth(1).is_some_and(|l| l.contains("ubuntu:24.04") && l.contains("ready")), "{ps}");
    let lab = lab(&home);
    assert_eq!(lab["vm"]["disk_gib"], 20);
    assert_eq!(lab["vm"]["workspace"], project.display().to_string());
    assert_eq!(lab["resources"]["memory_mib"], 1024);
    let status = home.run(&["status", "lab"]).ends(0).out;
    assert!(status.contains("done (code 0): echo first"), "{status}");
    assert_eq!(home.run(&["exec", "lab", "--", "echo", "in", "it"]).ends(0).out, "in it\n");
    let send = home.run(&["send", "lab", "hello"]);
    assert!(send.code != Some(0) && send.err.contains("clawfarm exec"), "{send:?}");

    for (verb, phase) in [
        (&["suspend", "lab"][..], "suspended"),
        (&["resume", "lab"], "ready"),
        (&["stop", "lab"], "stopped"),
        (&["start", "lab"], "ready"),
    ] {
        assert!(home.run(verb).ends(0).out.contains(&format!("is {phase}")), "{verb:?}");
    }
    assert_eq!((begun(&home, "echo first"), begun(&home, "echo second && true")), (1, 1), "each once");
    let done = home.run(&["setup", "lab"]).ends(0);
    assert!(done.out.contains("is ready"), "nothing is left to do: {done:?}");
    home.run(&["setup", "lab", "--again"]).ends(4);
    home.run(&["rm", "lab"]).ends(0);
}

#[test]
fn a_command_that_fails_without_a_terminal_ends_it_and_says_how_to_go_on() {
    let home = Home::new();
    let made = new(&home, &["--run", "exit 7", "--run", "echo on"]).ends(1);
    assert!(made.err.contains("setup command 1 of 2 exited with code 7"), "{made:?}");
    assert!(made.err.contains("--again") && !made.out.contains("on\n"), "{made:?}");
    eventually("it is unhealthy", || (lab(&home)["phase"] == "unhealthy").then_some(()));
    assert!(home.run(&["ps"]).ends(0).out.contains("exited with code 7"));

    // Nothing is run again in silence, nor is anything left out.
    home.run(&["setup", "lab"]).ends(1);
    assert_eq!(begun(&home, "exit 7"), 1);
    let again = home.run(&["setup", "lab", "--again"]).ends(1);
    assert!(again.err.contains("exited with code 7"), "{again:?}");
    assert_eq!(begun(&home, "exit 7"), 2);
    let on = home.run(&["setup", "lab", "--ignore", "--json"]).ends(0);
    assert_eq!((&on.json()["phase"], on.err.contains("on\n")), (&Value::from("ready"), true), "{on:?}");
    assert_eq!(states(&home), ["ignored", "done"]);
    assert_eq!(lab(&home)["last_error"], Value::Null);
}

#[test]
fn detached_the_server_runs_the_commands_and_keeps_what_a_failed_one_said() {
    let home = Home::new();
    let made = new(&home, &["--detach", "--run", "read", "--run", "echo why && exit 3"]).ends(0);
    assert!(made.out.starts_with("lab-"), "{made:?}");
    // Nobody answers what is asked: the input has ended.
    eventually("the command that asks is over", || (states(&home)[0] == "failed").then_some(()));
    home.run(&["setup", "lab", "--ignore", "--detach"]).ends(0);
    let lab = eventually("it is unhealthy for the next one", || {
        let lab = lab(&home);
        let message = lab["last_error"]["message"].as_str().unwrap_or_default().to_owned();
        (lab["phase"] == "unhealthy" && message.contains("command 2 of 2")).then_some(lab)
    });
    let message = lab["last_error"]["message"].as_str().expect("a message");
    assert!(message.contains("exited with code 3; its last lines: why"), "{message}");
    assert_eq!(states(&home), ["ignored", "failed"]);
}

#[test]
fn what_a_kill_cut_off_is_told_and_not_run_again() {
    let home = Home::new();
    new(&home, &["--detach", "--run", "sleep 600", "--run", "echo on"]).ends(0);
    eventually("the command runs", || {
        (states(&home)[0] == "running" && begun(&home, "sleep 600") == 1).then_some(())
    });
    let pid = home.server_pid().expect("a server");
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("sent");
    let lab = eventually("the next server has noticed", || {
        // One that still met the dying server fails.
        let asked = home.run(&["status", "lab", "--json"]);
        let lab = (asked.code == Some(0)).then(|| asked.json()["instance"].clone())?;
        (lab["phase"] == "unhealthy").then_some(lab)
    });
    let message = lab["last_error"]["message"].as_str().expect("a message");
    assert!(message.contains("command 1 of 2 was cut off"), "{message}");
    assert_eq!((states(&home)[0].as_str(), begun(&home, "sleep 600")), ("cut_off", 1));
    home.run(&["setup", "lab", "--ignore"]).ends(0);
    assert_eq!(states(&home), ["ignored", "done"]);
    assert_eq!(begun(&home, "sleep 600"), 1);
}

#[test]
fn at_a_terminal_a_command_can_ask_and_a_failed_one_asks_what_now() {
    let home = Home::new();
    let mut terminal = Terminal::open(
        &home,
        &[
            "new",
            "ubuntu:24.04",
            "lab",
            "--runtime",
            "sim",
            "--run",
            "size && read",
            "--run",
            "exit 7",
            "--run",
            "echo on",
        ],
    );
    terminal.sees("40 100");
    terminal.type_in("four words of mine\r");
    terminal.sees("it was four words of mine");
    terminal.sees("Command 2 of 3 exited with code 7.");
    terminal.sees("[e/s/i/r] ");
    assert_eq!(lab(&home)["vm"]["setup"][1], "exit 7");
    terminal.type_in("what\r");
    terminal.sees("Type one of e, s, i and r.");
    terminal.asks(2);
    terminal.type_in("s\r");
    terminal.sees("(simulated)$ ");
    terminal.type_in("echo rescued\r");
    terminal.sees("rescued\r\n");
    terminal.type_in("exit 0\r");
    terminal.asks(3);
    terminal.type_in("r\r");
    terminal.asks(4);
    terminal.type_in("i\r");
    terminal.sees("[3/3] echo on");
    terminal.sees("ready\u{1b}[0m");
    terminal.ends(0);
    assert_eq!((begun(&home, "exit 7"), begun(&home, "size && read")), (2, 1));
    assert_eq!(states(&home), ["done", "ignored", "done"]);
}

#[test]
fn leaving_at_the_question_leaves_it_unhealthy_and_setup_goes_on_there() {
    let home = Home::new();
    let mut terminal =
        Terminal::open(&home, &["new", "debian:12", "lab", "--runtime", "sim", "--run", "false"]);
    terminal.asks(1);
    // Ctrl-C is an answer, too.
    terminal.type_in("\u{3}");
    terminal.sees("setup command 1 of 1 exited with code 1");
    terminal.ends(1);
    eventually("it is unhealthy", || (lab(&home)["phase"] == "unhealthy").then_some(()));
    let mut terminal = Terminal::open(&home, &["setup", "lab"]);
    terminal.asks(1);
    terminal.type_in("i\r");
    terminal.sees("ready\u{1b}[0m");
    terminal.ends(0);
}

#[test]
fn what_can_t_be_a_machine_is_refused_before_anything_is_made() {
    let home = Home::new();
    let file = home.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let file = file.display().to_string();
    let gone = home.path().join("gone").display().to_string();
    for (arguments, names) in [
        (&["--volume", "data"][..], "no path in the machine"),
        (&["--volume", "../x:/x"], "can't be a volume's name"),
        (&["--volume", "a:/proc"], "the system's own"),
        (&["--volume", "a:/x", "--volume", "b:/x"], "vm.volumes[1].guest"),
        (&["--publish", "70000:80"], "no pair of ports"),
        (&["--publish", "28081:80", "--publish", "28081:81"], "vm.publish[1].host"),
        (&["--publish", "28081:80", "--port", "28081"], "vm.publish[0].host"),
        (&["--disk-gib", "0"], "vm.disk_gib"),
        (&["--memory-mib", "128"], "resources.memory_mib"),
        (&["--run", " "], "vm.setup[0]"),
        (&["--workspace", &file], "vm.workspace"),
        (&["--workspace", &gone], "vm.workspace"),
        (&["--set", "env.A=1"], "config.env.A"),
        (&["--provider", "openai"], "config.model.provider"),
        (&["--version", "2"], "version"),
    ] {
        let refused = new(&home, arguments).ends(2);
        assert!(refused.err.contains(names), "{arguments:?}: {refused:?}");
    }
    let none = new(&home, &["--from-snapshot"]).ends(1);
    assert!(none.err.contains("field: vm.from_snapshot") && none.err.contains("fix:"), "{none:?}");
    let refused = home.run(&["new", "Ubuntu:24.04", "--runtime", "sim"]).ends(2);
    assert!(refused.err.contains("'Ubuntu:24.04' has no name"), "{refused:?}");
    let refused = home.run(&["new", "openclaw", "--runtime", "sim", "--volume", "a:/x"]).ends(2);
    assert!(refused.err.contains("--volume") && refused.err.contains("image"), "{refused:?}");
    let refused = home.run(&["new", "ubuntu:24.04", "--runtime", "process"]).ends(2);
    assert!(refused.err.contains("runs no virtual machines"), "{refused:?}");
    let refused = home.run(&["new", "machine", "--runtime", "sim"]).ends(2);
    assert!(refused.err.contains("vm.image"), "{refused:?}");
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out, "");

    // A port that another instance has.
    let made = new(&home, &["--json"]).ends(0).json();
    let port = made["instance"]["port"].to_string();
    let refused =
        home.run(&["new", "debian:12", "--runtime", "sim", "--publish", &format!("{port}:80")]).ends(4);
    assert!(refused.err.contains("another instance's"), "{refused:?}");
}

#[test]
fn a_machine_is_written_out_and_made_again_from_that() {
    let home = Home::new();
    new(&home, &["--run", "echo once", "--volume", "data:/srv/data", "--publish", "28082:80"]).ends(0);
    let written = home.run(&["export", "lab"]).ends(0).out;
    assert!(written.contains("ubuntu:24.04") && written.contains("/srv/data"), "{written}");
    let file = home.path().join("lab.yaml");
    std::fs::write(&file, &written).expect("written");
    let file = file.display().to_string();
    // It says what is.
    let same = home.run(&["apply", "-f", &file]).ends(0);
    assert!(same.out.contains("unchanged"), "{same:?}");
    let other = home.path().join("other.yaml");
    std::fs::write(&other, written.replace("28082", "28083")).expect("written");
    let refused = home.run(&["apply", "-f", &other.display().to_string()]).ends(4);
    assert!(refused.err.contains("spec.vm.publish") && refused.err.contains("28083"), "{refused:?}");
    let before = lab(&home)["vm"].clone();
    home.run(&["rm", "lab", "--purge"]).ends(0);
    home.run(&["apply", "-f", &file]).ends(0);
    eventually("it is ready", || (lab(&home)["phase"] == "ready").then_some(()));
    assert_eq!((&lab(&home)["vm"], states(&home)), (&before, vec!["done".to_owned()]));
    assert_eq!(begun(&home, "echo once"), 1, "by the server");
}

#[test]
fn what_is_for_claws_is_refused_to_a_machine_with_what_to_do() {
    let home = Home::new();
    let made = new(&home, &[]).ends(0);
    for told in ["starting a machine of ubuntu:24.04", "until it has booted"] {
        assert!(made.err.contains(told), "no {told}: {made:?}");
    }
    assert!(!made.err.contains("configuration"), "it has none: {made:?}");
    let archive = home.path().join("lab.tar.zst").display().to_string();
    for (arguments, code, names) in [
        (&["backup", "lab", "--output", &archive][..], 1, "volumes"),
        (&["update", "lab"], 1, "clawfarm shell"),
        (&["update", "lab", "--version", "2"], 1, "clawfarm shell"),
        (&["send", "lab", "hello"], 1, "clawfarm exec"),
        (&["config", "set", "lab", "model.name=x"], 2, "--run"),
    ] {
        let refused = home.run(arguments);
        assert_eq!(refused.code, Some(code), "{arguments:?}: {refused:?}");
        assert!(refused.err.contains("  fix: ") && refused.err.contains(names), "{arguments:?}: {refused:?}");
    }
    assert!(!home.path().join("lab.tar.zst").exists());
    // All claws, of which it is none.
    home.run(&["update", "--all"]).ends(0);
    // Nothing in it has the token, so it is not rebooted for a new one.
    let run = |home: &Home| home.run(&["logs", "lab"]).ends(0).out.matches(" started, run ").count();
    home.run(&["token", "rotate", "lab"]).ends(0);
    assert_eq!((run(&home), lab(&home)["phase"].as_str()), (1, Some("ready")));
    let status = home.run(&["status", "lab"]).ends(0).out;
    for misleading in ["model ", "config ", "digest "] {
        assert!(!status.contains(&format!("\n{misleading}")), "{misleading}: {status}");
    }
    // What is a matter of ports works: something in it may listen there.
    home.run(&["open", "lab", "--json"]).ends(0);
}

#[test]
fn a_site_that_does_not_answer_is_told_soon_and_with_what_to_do() {
    let home = Home::new();
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let site = format!("http://{nobody}/");
    let begun = std::time::Instant::now();
    let mut command = home.command(&["new", "ubuntu:24.04", "lab"]);
    command.env("CLAWFARM_UBUNTU_IMAGES", &site);
    let refused = crate::support::finish(command.spawn().expect("starts")).ends(5);
    assert!(
        refused.err.contains("can't be reached") && refused.err.contains("CLAWFARM_UBUNTU_IMAGES"),
        "{refused:?}"
    );
    assert!(refused.err.contains("clawfarm image import"), "{refused:?}");
    assert!(begun.elapsed().as_secs() < 40, "it took {:?}", begun.elapsed());
    assert_eq!(lab(&home)["phase"], "failed");
    assert!(home.run(&["ps"]).ends(0).out.contains("can't be reached"));
    // It is for the next try: nothing was made that would be in its way.
    home.run(&["rm", "lab"]).ends(0);
}

#[test]
fn doctor_says_whether_machines_get_the_agent() {
    let home = Home::new();
    let told = home.run(&["doctor"]).out;
    let line = told.lines().find(|line| line.contains("agent: ")).unwrap_or_default().to_owned();
    // As `scripts/test` and `scripts/build` have it built; at one's own desk it may not be.
    match option_env!("CLAWFARM_GUEST_AGENT").filter(|agent| !agent.is_empty()) {
        Some(_) => assert!(line.contains("ok") && line.contains("get clawfarm's agent"), "{told}"),
        None => assert!(line.contains("without the agent"), "{told}"),
    }
}

/// What a release is built with: cargo is a script that tells how it was called.
#[test]
fn a_release_has_the_agent_in_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let calls = folder.path().join("calls");
    let program = folder.path().join("cargo");
    let script =
        format!("#!/bin/sh\necho \"agent=$CLAWFARM_GUEST_AGENT cargo $*\" >>'{}'\n", calls.display());
    std::fs::write(&program, script).expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
    let repository =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a repository");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("a PATH"));
    let built = std::process::Command::new(repository.join("scripts/build"))
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", "/nowhere")
        .env_remove("CLAWFARM_GUEST_AGENT")
        .output()
        .expect("it runs");
    assert!(built.status.success(), "{built:?}");
    let calls = std::fs::read_to_string(calls).expect("it was called");
    let [guest, clawfarm] = calls.lines().collect::<Vec<_>>()[..] else { panic!("{calls}") };
    assert!(guest.contains("--bin clawfarm-guest") && guest.contains("--profile guest"), "{calls}");
    assert!(clawfarm.contains("cargo build --release --bin clawfarm"), "{calls}");
    assert!(clawfarm.starts_with("agent=/nowhere/") && clawfarm.contains("/clawfarm-guest "), "{calls}");
}
