//! The server as a service: its unit, what is asked of systemd (which a script plays), and what
//! the server tells it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Done, Home, LIMIT, eventually, finish, pause};

/// A machine with a systemd that notes what it is asked.
struct Machine {
    home: Home,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { home: Home::new() };
        machine.script(
            "systemctl",
            "printf '%s\\n' \"$*\" >>\"$0.asked\"\ncase \"$*\" in\n*is-active*) cat \"$0.state\";;\n*is-enabled*) echo enabled;;\nesac\n",
        );
        machine.script("loginctl", "printf '%s\\n' \"$*\" >>\"$0.asked\"\n");
        machine.becomes("inactive");
        machine
    }

    fn bin(&self) -> PathBuf {
        self.home.path().join("bin")
    }

    fn script(&self, name: &str, text: &str) {
        fs::create_dir_all(self.bin()).expect("a folder");
        let path = self.bin().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made executable");
    }

    /// What `systemctl is-active` says from now on.
    fn becomes(&self, state: &str) {
        fs::write(self.bin().join("systemctl.state"), format!("{state}\n")).expect("written");
    }

    fn asked(&self, of: &str) -> Vec<String> {
        let text = fs::read_to_string(self.bin().join(format!("{of}.asked"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(arguments);
        command.env("PATH", format!("{}:/usr/bin:/bin", self.bin().display())).env_remove("XDG_CONFIG_HOME");
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        finish(self.command(arguments).spawn().expect("starts"))
    }

    fn unit(&self) -> PathBuf {
        self.home.path().join(".config/systemd/user/clawfarm.service")
    }

    /// Starts the server as systemd would.
    fn serve(&self, variables: &[(&str, &str)]) -> Child {
        self.command(&["serve"]).envs(variables.iter().copied()).spawn().expect("starts")
    }
}

fn terminate(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM).expect("sent");
}

#[test]
fn the_database_of_the_environment_is_kept_where_only_the_server_reads_it() {
    let machine = Machine::new();
    let install = |url: &str, more: &[&str]| {
        let arguments = [&["service", "install"], more].concat();
        let mut command = machine.command(&arguments);
        finish(command.env("CLAWFARM_DATABASE", url).spawn().expect("starts"))
    };
    let file = machine.home.farm().join("database.url");
    let printed = install("postgres://u:s3cret-4711@h/d", &["--print"]).ends(0);
    assert!(!file.exists() && !printed.out.contains("s3cret-4711"), "{printed:?}");
    let wrong = install("mysql://u:s3cret-4711@h/d", &[]);
    assert!(wrong.code != Some(0) && wrong.err.contains("CLAWFARM_DATABASE"), "{wrong:?}");
    assert!(!file.exists() && !machine.unit().exists(), "nothing is half done");
    // The last one counts, and systemd is asked to start the server anew with it.
    for url in ["postgres://u:s3cret-4711@h/d", "postgres://u:s3cret-4712@h/other"] {
        let done = install(url, &["--now"]).ends(0);
        assert!(done.out.contains("database.url"), "{done:?}");
        assert_eq!(fs::read_to_string(&file).expect("written"), format!("{url}\n"));
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o7777, 0o600);
        let unit = fs::read_to_string(machine.unit()).expect("a unit");
        assert!(!unit.contains("s3cret") && !done.out.contains("s3cret") && !done.err.contains("s3cret"));
        assert_eq!(machine.asked("systemctl").last().expect("asked"), "--user restart clawfarm.service");
    }
    // What is said by an option is in the unit, and the file is left.
    let before = fs::read(&file).expect("there");
    install("postgres://u:s3cret-4713@h/d", &["--", "--database", "postgres://u@h/named"]).ends(0);
    assert_eq!(fs::read(&file).expect("there"), before);
    assert!(fs::read_to_string(machine.unit()).expect("a unit").contains("postgres://u@h/named"));
}

#[test]
fn a_life_of_a_service_from_install_to_uninstall() {
    let machine = Machine::new();
    let printed = machine.run(&["service", "install", "--print", "--", "--listen", "127.0.0.1:0"]).ends(0);
    assert!(!machine.unit().exists() && machine.asked("systemctl").is_empty(), "printing changes nothing");

    // A server that a command has started makes room for it.
    machine.run(&["ps"]).ends(0);
    let installed = machine.run(&["service", "install", "--now", "--", "--listen", "127.0.0.1:0"]).ends(0);
    assert_eq!(fs::read_to_string(machine.unit()).expect("a unit"), printed.out);
    assert!(printed.out.contains("\"--listen\" \"127.0.0.1:0\"\n"), "{printed:?}");
    assert!(installed.out.contains("After a reboot"), "the rule is told: {installed:?}");
    assert_eq!(
        machine.asked("systemctl"),
        [
            "--user show --property=Version",
            "--user daemon-reload",
            "--user enable clawfarm.service",
            "--user restart clawfarm.service"
        ]
    );
    assert_eq!(machine.asked("loginctl"), ["enable-linger"]);
    assert!(!machine.home.farm().join("clawfarm.sock").exists(), "the server in the background has ended");

    machine.becomes("active");
    let status = machine.run(&["service", "status", "--json"]).ends(0).json();
    assert_eq!(
        (&status["installed"], &status["enabled"], &status["active"]),
        (&true.into(), &"enabled".into(), &"active".into())
    );
    let removed = machine.run(&["service", "uninstall"]).ends(0);
    assert!(removed.out.contains("claws go on") && !machine.unit().exists(), "{removed:?}");
    let asked = machine.asked("systemctl");
    assert_eq!(asked[asked.len() - 2..], ["--user disable --now clawfarm.service", "--user daemon-reload"]);
    machine.run(&["service", "uninstall"]).ends(0);
}

#[test]
fn what_can_not_be_a_service_is_refused_and_nothing_is_written() {
    let machine = Machine::new();
    for (arguments, code, words) in [
        (&["service", "install", "--", "--lissten"][..], 2, "--lissten"),
        (&["service", "install", "--", "--restart"], 2, "foreground"),
        (&["service", "install", "--", "--listen", "0.0.0.0"], 2, "listen"),
        (&["service", "install", "--system", "--run-as", "no-such-user-4711"], 2, "--run-as"),
        (&["service", "install", "--run-as", "root"], 2, "--system"),
        (&["--host", "http://127.0.0.1:1", "--token-file", "/x", "service", "status"], 1, "from here"),
        (&["--home", "/a\nb", "service", "install"], 2, "control character"),
    ] {
        let done = machine.run(arguments);
        assert!(done.code == Some(code) && done.err.contains(words), "{arguments:?}: {done:?}");
    }
    // A machine whose systemd does not run, and one that has none.
    machine
        .script("systemctl", "echo 'System has not been booted with systemd as init system' >&2; exit 1\n");
    let refused = machine.run(&["service", "install"]).ends(1);
    assert!(refused.err.contains("not been booted") && refused.err.contains("--print"), "{refused:?}");
    let none = machine.home.path().join("none");
    fs::create_dir_all(&none).expect("a folder");
    let refused =
        finish(machine.command(&["service", "install", "--now"]).env("PATH", &none).spawn().expect("starts"))
            .ends(1);
    assert!(refused.err.contains("no systemd") && refused.err.contains("clawfarm serve"), "{refused:?}");
    assert!(!machine.unit().exists());
    // Somebody else's unit is not touched.
    let machine = Machine::new();
    fs::create_dir_all(machine.unit().parent().expect("a folder")).expect("made");
    fs::write(machine.unit(), "[Service]\nExecStart=/mine\n").expect("written");
    for verb in ["install", "uninstall"] {
        let refused = machine.run(&["service", verb]).ends(4);
        assert!(refused.err.contains("not written by clawfarm"), "{refused:?}");
    }
    assert_eq!(fs::read_to_string(machine.unit()).expect("there"), "[Service]\nExecStart=/mine\n");
}

#[test]
fn systemd_is_told_when_it_is_ready_that_it_lives_and_that_it_ends() {
    let machine = Machine::new();
    let socket = machine.home.path().join("notify");
    let listener = UnixDatagram::bind(&socket).expect("bound");
    listener.set_read_timeout(Some(LIMIT)).expect("set");
    let told = || {
        let mut buffer = [0; 256];
        let length = listener.recv(&mut buffer).expect("something is told in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let path = socket.to_str().expect("text");
    let server = machine.serve(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "400000")]);
    assert!(told().starts_with("READY=1"), "not before it answers");
    let info = machine.run(&["version", "--json"]).ends(0).json()["server"].clone();
    assert_eq!((&info["pid"], &info["supervised"]), (&server.id().into(), &true.into()));
    assert_eq!([told(), told()], ["WATCHDOG=1", "WATCHDOG=1"]);
    // Its manager would start it again.
    let refused = machine.run(&["down"]).ends(4);
    assert!(refused.err.contains("systemctl stop"), "{refused:?}");
    let refused = machine.run(&["serve", "--restart", "--log-format", "json"]).ends(4);
    assert!(refused.err.contains("service install"), "{refused:?}");
    terminate(&server);
    finish(server).ends(0);
    let last = std::iter::repeat_with(told).find(|word| word != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}

#[test]
fn a_command_between_two_lives_of_the_service_waits_for_the_next() {
    let machine = Machine::new();
    machine.run(&["service", "install"]).ends(0);
    machine.becomes("activating");
    let waiting = machine.command(&["ps", "--json"]).spawn().expect("starts");
    eventually("systemd to be asked", || {
        machine.asked("systemctl").iter().any(|line| line.contains("is-active")).then_some(())
    });
    let server = machine.serve(&[]);
    finish(waiting).ends(0);
    let pid = machine.home.server_pid().expect("a server");
    assert_eq!(pid, i64::from(server.id()));
    assert!(!machine.home.farm().join("server.log").exists(), "no other server was started");
    terminate(&server);
    finish(server).ends(0);
    // One that was stopped on purpose is not waited for.
    machine.becomes("inactive");
    machine.run(&["ps"]).ends(0);
    assert!(machine.home.farm().join("server.log").exists());
}

#[test]
fn a_restart_is_left_to_the_manager() {
    let machine = Machine::new();
    let socket = machine.home.path().join("notify");
    let listener = UnixDatagram::bind(&socket).expect("bound");
    listener.set_nonblocking(true).expect("set");
    let ready = || {
        eventually("READY=1", || {
            let mut buffer = [0; 256];
            listener.recv(&mut buffer).ok().filter(|n| buffer[..*n].starts_with(b"READY=1")).map(drop)
        });
    };
    let variables = [("NOTIFY_SOCKET", socket.to_str().expect("text"))];
    let first = machine.serve(&variables);
    ready();
    let restart = machine.command(&["serve", "--restart", "--json"]).spawn().expect("starts");
    let old = first.id();
    finish(first).ends(0);
    for _ in 0..5 {
        // As long as RestartSec would be, on a small scale.
        pause();
    }
    let second = machine.serve(&variables);
    let done = finish(restart).ends(0).json();
    assert_eq!(done["replaced"]["pid"], old);
    assert_eq!(done["server"]["pid"], second.id());
    terminate(&second);
    finish(second).ends(0);
}

/// The unit's stop must not take longer than the server may take.
#[test]
fn the_time_to_stop_is_longer_than_what_the_server_takes() {
    let machine = Machine::new();
    let text = machine.run(&["service", "install", "--print", "--system"]).ends(0).out;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("set");
        Duration::from_secs(line.parse().expect("seconds"))
    };
    assert!(value("TimeoutStopSec=") > Duration::from_secs(30));
    for line in ["KillMode=process", "Delegate=yes", "OOMPolicy=continue", "Type=notify", "Restart=always"] {
        assert!(text.lines().any(|l| l == line), "{line}: without it claws would end with the server");
    }
}
