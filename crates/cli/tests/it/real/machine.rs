//! A real virtual machine through the command, as a person uses it: at a terminal, with what is on the
//! screen. One boot serves all of it, because emulated that takes a minute of both cores.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::farm::{Farm, finish, kill, processes_with, runs, until, until_within};
use super::tmux::Tmux;

/// The image that can be made without a download.
const IMAGE: &str = "debian:12";
/// How long a boot may take on a machine that does much else.
const BOOT: Duration = Duration::from_secs(25 * 60);
/// How long anything in the machine may take there.
const LONG: Duration = Duration::from_secs(8 * 60);

/// Whether an image can be built here, which takes root and GRUB for BIOS.
fn can() -> bool {
    let can = rustix::process::geteuid().is_root() && std::env::consts::ARCH == "x86_64";
    if !can {
        eprintln!("skipped: scripts/test-setup installs what an image needs for root on x86_64 alone");
    }
    can
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

#[test]
fn a_machine_is_made_at_a_terminal_used_suspended_adopted_and_removed() {
    if !can() {
        return;
    }
    let farm = Farm::of_machines(IMAGE);
    let project = farm.path().join("project");
    std::fs::create_dir(&project).expect("a folder");
    std::fs::write(project.join("README"), "of the host").expect("written");
    let port = free_port();

    let id = made_at_a_terminal(&farm, &project, port);
    is_listed_and_described(&farm, &id, port);
    let volume = farm.claw_folder(&id).join("volumes/.openclaw");
    shares_its_folders(&farm, &id, &volume, &project);
    has_a_shell(&farm, &id);
    serves(&farm, &id, port);
    is_commanded_without_its_agent(&farm, &id, &volume);
    outlives_the_server(&farm, &id);
    sleeps_with_an_open_file(&farm, &id, &volume, port);
    is_refused_what_a_machine_can_not(&farm, &id);
    leaves_nothing_but_its_volume(&farm, &id);
    assert_eq!(std::fs::read_to_string(project.join("copy")).expect("it is there"), "of the host");
}

/// `new`, with a command that asks, two that fail, and every answer that there is to the question what now.
fn made_at_a_terminal(farm: &Farm, project: &Path, port: u16) -> String {
    let listed = farm.run(&["image", "ls"]).ends(0).out;
    assert!(listed.lines().any(|line| line.contains(IMAGE) && line.contains("yes")), "{listed}");
    let terminal = Tmux::open(
        farm,
        &[
            "new",
            IMAGE,
            "--name",
            "lab",
            "--run",
            "echo ok > ~/new-ok",
            "--run",
            "read -r -p 'Who are you? ' who; echo \"Good evening, $who.\"; tty; id -un",
            "--run",
            "ls ~/mended",
            "--run",
            "exit 7",
            "--volume",
            ".openclaw:/root/.openclaw",
            "--workspace",
            &project.display().to_string(),
            "--publish",
            &format!("{port}:80"),
            "--cpus",
            "2",
            "--memory-mib",
            "512",
        ],
    );
    // It is listed while it boots.
    let begun = Instant::now();
    until("it is listed", || farm.run(&["ps"]).ends(0).out.contains(IMAGE));
    let listed_after = begun.elapsed();
    until("it is said to boot", || farm.run(&["ps"]).ends(0).out.contains("booting"));
    eprintln!("listed after {listed_after:?}, booting after {:?}\n{}", begun.elapsed(), terminal.screen());
    eprintln!("{}", farm.run(&["ps"]).out);
    let id = farm.run(&["ps", "-q"]).ends(0).out.trim().to_owned();
    assert!(id.starts_with("lab-"), "{id}");

    // A command that asks.
    terminal.shows_within(BOOT, "\nWho are you? ");
    eprintln!("it asks after {:?}\n{}", begun.elapsed(), terminal.screen());
    terminal.types("Ada");
    terminal.shows_within(LONG, "Good evening, Ada.");
    // One that fails, is mended in the rescue shell, and run again.
    terminal.shows_within(LONG, "[e/s/i/r]");
    eprintln!("{}", terminal.screen());
    let seen = terminal.history();
    assert!(seen.contains("/dev/pts/") && seen.contains("\nroot\n"), "a terminal, and root: {seen}");
    assert!(seen.contains("No such file or directory"), "what it said: {seen}");
    terminal.types("s");
    terminal.shows_within(LONG, &format!("root@{id}:"));
    terminal.types("touch ~/mended; exit");
    terminal.shows_times(LONG, "What now? [e/s/i/r]", 2);
    terminal.types("r");
    // The next fails, too, and it is left so.
    terminal.shows_times(LONG, "exited with code 7", 1);
    terminal.shows_times(LONG, "What now? [e/s/i/r]", 3);
    eprintln!("{}", terminal.screen());
    terminal.types("e");
    terminal.shows_within(LONG, "ended with 1");
    eprintln!("{}", terminal.screen());
    let ps = || farm.run(&["ps"]).ends(0).out;
    let told = || ps().contains("unhealthy") && ps().contains("4 of 4 exited with code 7");
    until_within(LONG, "ps tells the last failure", told, ps);
    let status = farm.run(&["status", &id]).ends(0);
    eprintln!("{}{}", ps(), status.out);
    drop(terminal);

    // Without a terminal nothing is asked.
    let again = farm.run(&["setup", &id, "--again"]).ends(1);
    assert!(again.err.contains("exited with code 7") && again.err.contains("--ignore"), "{again:?}");
    // At one it is, and it is gone on.
    let terminal = Tmux::open(farm, &["setup", &id, "--again"]);
    terminal.shows_within(LONG, "What now? [e/s/i/r]");
    terminal.types("i");
    terminal.shows_within(LONG, "ended with 0");
    eprintln!("{}", terminal.screen());
    assert_eq!(farm.phase(&id), "ready");
    id
}

fn is_listed_and_described(farm: &Farm, id: &str, port: u16) {
    let ps = farm.run(&["ps"]).ends(0).out;
    eprintln!("{ps}");
    let (head, line) = ps.split_once('\n').expect("two lines");
    let columns: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(
        columns,
        ["CLAWID", "IMAGE", "STATUS", "GATEWAY", "PID", "UPDATED(UTC)", "LAST_ERROR"],
        "as document 000 has them"
    );
    let pid = farm.pid(id);
    for wanted in [id, IMAGE, "ready", &pid.to_string()] {
        assert!(line.contains(wanted), "no {wanted}: {ps}");
    }
    assert!(runs(pid), "it is QEMU's own");
    let told = farm.run(&["ps", "--json"]).ends(0).json()["items"][0].clone();
    assert_eq!((told["id"].as_str(), told["phase"].as_str()), (Some(id), Some("ready")), "{told}");
    assert_eq!(told["vm"]["publish"][0]["host"], port, "{told}");
    let steps: Vec<&str> = farm.status(id)["setup"]["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter_map(|step| step["state"].as_str())
        .map(|state| match state {
            "done" => "done",
            "ignored" => "ignored",
            _ => "else",
        })
        .collect();
    assert_eq!(steps, ["done", "done", "done", "ignored"]);
    // What document 000 wants to find in its folder.
    for name in [
        "instance.json",
        "state.json",
        "instance.flock",
        "instance.img",
        "state",
        "volumes/.openclaw",
        "serial.log",
        "qemu.log",
    ] {
        assert!(farm.claw_folder(id).join(name).exists(), "no {name}");
    }
    let logs = farm.run(&["logs", id]).ends(0).out;
    assert!(logs.contains("Linux") || logs.contains("systemd"), "its serial port: {logs}");
}

/// A line of the machine's shell, which must succeed.
fn sh(farm: &Farm, id: &str, line: &str) -> String {
    farm.run(&["exec", id, "--", "bash", "-lc", line]).ends(0).out
}

fn shares_its_folders(farm: &Farm, id: &str, volume: &Path, project: &Path) {
    assert_eq!(sh(farm, id, "cat ~/new-ok"), "ok\n");
    std::fs::write(volume.join("from-host"), "hello").expect("written");
    assert_eq!(sh(farm, id, "cat ~/.openclaw/from-host; pwd"), "hello/workspace\n");
    sh(farm, id, "echo made > ~/.openclaw/from-guest; cp README copy");
    assert_eq!(std::fs::read_to_string(volume.join("from-guest")).expect("it is there"), "made\n");
    assert_eq!(std::fs::read_to_string(project.join("copy")).expect("it is there"), "of the host");
    // Codes, both outputs and input as they are.
    let done = farm.run(&["exec", id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).ends(7);
    assert_eq!((done.out.as_str(), done.err.as_str()), ("out\n", "err\n"));
    let piped = farm.run_with_input(&["exec", "-i", id, "--", "tr", "a-z", "A-Z"], "piped through").ends(0);
    assert_eq!(piped.out, "PIPED THROUGH");
}

fn has_a_shell(farm: &Farm, id: &str) {
    let terminal = Tmux::open(farm, &["shell", id]);
    terminal.shows_within(LONG, &format!("root@{id}:/workspace#"));
    terminal.types("stty size; echo in=$((40+2))");
    terminal.shows("in=42");
    terminal.shows("30 100");
    terminal.types("exit 42");
    terminal.shows("ended with 42");
}

/// A program of the machine's answers at the published port.
fn serves(farm: &Farm, id: &str, port: u16) {
    sh(farm, id, "systemd-run -q --unit=web python3 -m http.server 80 -d /root/.openclaw");
    answers(port, "/from-guest", "made\n");
    // Its published ports can be had elsewhere, too; others can't, and how they would is told.
    let mut forward = farm.start(&["port-forward", id, "80", "81"]);
    let mut lines = BufReader::new(forward.stdout.take().expect("a pipe")).lines();
    let mut local = || {
        let line = lines.next().expect("a line").expect("read");
        line.split(' ').next().and_then(|address| address.rsplit(':').next()?.parse().ok()).expect("a port")
    };
    let (published, other) = (local(), local());
    assert!(get(published, "/from-guest").is_some_and(|said| said.ends_with("made\n")));
    assert_eq!(get(other, "/").unwrap_or_default(), "");
    forward.kill().expect("killed");
    let said = finish(forward).err;
    assert!(said.contains("does not listen on port 81") && said.contains("--publish HOST:81"), "{said}");
}

/// Without the agent commands go by SSH.
fn is_commanded_without_its_agent(farm: &Farm, id: &str, volume: &Path) {
    // Not while it carries the very command that ends it, and no other is begun before it has ended.
    sh(
        farm,
        id,
        "systemd-run -q --on-active=1 sh -c 'systemctl stop clawfarm-guest; touch /root/.openclaw/stopped'",
    );
    let stopped = || volume.join("stopped").exists();
    until_within(LONG, "the agent was stopped", stopped, String::new);
    let said = sh(farm, id, "pgrep -x clawfarm-guest; whoami; systemctl start clawfarm-guest");
    assert_eq!(said, "root\n");
}

fn answers(port: u16, path: &str, wanted: &str) {
    until_within(
        LONG,
        &format!("port {port} answers {path}"),
        || get(port, path).is_some_and(|said| said.ends_with(wanted)),
        || format!("{:?}", get(port, path)),
    );
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn server_is_killed(farm: &Farm) {
    let server = farm.server_pid();
    kill(server, Signal::SIGKILL);
    until("the server is gone", || !runs(server));
    // A command that still meets the dying one fails.
    until("the next server answers", || farm.run(&["ps"]).code == Some(0));
}

fn outlives_the_server(farm: &Farm, id: &str) {
    let pid = farm.pid(id);
    server_is_killed(farm);
    assert!(runs(pid));
    farm.until_phase(id, "ready");
    assert_eq!(farm.pid(id), pid, "adopted, not started again");
    assert_eq!(sh(farm, id, "cat ~/new-ok"), "ok\n");
    // The agent, which has had two servers by now, holds no processor while nobody talks to it.
    let used = "p=$(pidof clawfarm-guest); used() { echo $(($(cut -d' ' -f14,15 /proc/$p/stat | tr ' ' +))); }; \
                before=$(used); sleep 5; echo $(($(used) - before))";
    let ticks: u32 = sh(farm, id, used).trim().parse().expect("a number");
    assert!(ticks < 250, "it used {ticks} of 500 ticks");
}

fn numbers(file: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_terminator('\n').filter_map(|line| line.parse().ok()).collect()
}

fn sleeps_with_an_open_file(farm: &Farm, id: &str, volume: &Path, port: u16) {
    sh(
        farm,
        id,
        "systemd-run -q --unit=writer sh -c 'exec 3>>/root/.openclaw/log; i=0; while :; do i=$((i+1)); echo $i >&3; sleep 0.1; done'",
    );
    let log = volume.join("log");
    until("the writer writes", || numbers(&log).len() > 3);
    let pid = farm.pid(id);
    let told = farm.run(&["suspend", id, "--json"]).ends(0);
    assert!(told.out.contains("\"suspended\""), "{told:?}");
    assert!(!runs(pid), "QEMU holds its memory");
    let folder = farm.claw_folder(id).display().to_string();
    until_within(
        LONG,
        "none of its processes is left",
        || processes_with(&folder).is_empty(),
        || processes_with(&folder).join("\n"),
    );
    let at = numbers(&log).len();
    let ps = farm.run(&["ps"]).ends(0).out;
    eprintln!("{ps}");
    assert!(ps.contains("suspended"), "{ps}");
    std::fs::write(volume.join("meanwhile"), "seen").expect("written");
    // A server that ends meanwhile takes nothing from it.
    server_is_killed(farm);
    let exec = farm.run(&["exec", id, "--", "true"]);
    eprintln!("exec while it is suspended: {exec:?}");
    let told = farm.run(&["resume", id]).ends(0);
    eprintln!("{}", told.out);
    assert_eq!(farm.phase(id), "ready");
    assert_eq!(sh(farm, id, "cat ~/.openclaw/meanwhile"), "seen");
    until("the writer goes on", || numbers(&log).len() > at + 5);
    let written = numbers(&log);
    assert!(written.windows(2).all(|two| two[1] == two[0] + 1), "{written:?}");
    answers(port, "/meanwhile", "seen");
    let events = farm.run(&["events", id, "--json"]).ends(0).out;
    assert!(!events.contains("memory-lost"), "it went on, and did not begin anew: {events}");
    sh(farm, id, "systemctl stop writer");
}

fn is_refused_what_a_machine_can_not(farm: &Farm, id: &str) {
    let send = farm.run(&["send", id, "hello"]);
    assert!(send.code != Some(0) && send.err.contains("clawfarm exec"), "{send:?}");
    let image = farm.run(&["image", "rm", IMAGE]).ends(4);
    assert!(image.err.contains(id), "its disk leans on the image: {image:?}");
}

fn leaves_nothing_but_its_volume(farm: &Farm, id: &str) {
    let pid = farm.pid(id);
    farm.run(&["rm", id]).ends(0);
    assert!(!runs(pid), "QEMU still runs");
    assert!(!farm.claw_folder(id).exists(), "its folder is still there");
    let folder = farm.claw_folder(id).display().to_string();
    until_within(
        LONG,
        "none of its processes is left",
        || processes_with(&folder).is_empty(),
        || processes_with(&folder).join("\n"),
    );
    let kept: Value = farm.run(&["dataset", "ls", "--json"]).ends(0).json();
    assert_eq!(kept["items"][0]["id"], id, "{kept}");
    let data = farm.folder().join("datasets").join(id).join("volumes/.openclaw/from-guest");
    assert_eq!(std::fs::read_to_string(data).expect("it is kept"), "made\n");
    assert_eq!(farm.run(&["ps", "-q"]).ends(0).out, "");
    farm.run(&["image", "rm", IMAGE]).ends(0);
}

/// What is said of a port that no QEMU can have.
const ROOTS: &str = "for root's programs";

#[test]
fn what_can_not_be_a_machine_is_refused_before_anything_is_made() {
    if !can() {
        return;
    }
    let farm = Farm::of_machines(IMAGE);
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = held.local_addr().expect("an address").port().to_string();
    let home = farm.folder().display().to_string();
    let file = farm.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let (file, free) = (file.display().to_string(), free_port());
    let publish = |port: &str| format!("{port}:80");
    // Inside of containers all users may have all ports, as a rule.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let roots = first.trim().parse().is_ok_and(|first: u16| first > 80);
    for (arguments, code, names) in [
        (vec!["--publish", &publish(&taken)], 4, "vm.publish[0].host"),
        (
            vec!["--publish", &format!("{free}:80"), "--publish", &format!("{free}:81")],
            2,
            "vm.publish[1].host",
        ),
        (vec!["--publish", "80:80"], 2, ROOTS),
        (vec!["--publish", "0:80"], 2, "no pair of ports"),
        (vec!["--publish", "65536:80"], 2, "no pair of ports"),
        (vec!["--publish", &format!("{free}:0")], 2, "no pair of ports"),
        (vec!["--port", &taken], 4, "port"),
        (vec!["--volume", "..:/srv/x"], 2, "can't be a volume's name"),
        (vec!["--volume", "a/b:/srv/x"], 2, "can't be a volume's name"),
        (vec!["--volume", "a:srv"], 2, "absolute"),
        (vec!["--volume", "a:/srv/../etc"], 2, ".."),
        (vec!["--memory-mib", "255"], 2, "resources.memory_mib"),
        (vec!["--memory-mib", "99999999"], 2, "resources.memory_mib"),
        (vec!["--cpus", "0"], 2, "resources.cpus"),
        (vec!["--cpus", "2000"], 2, "resources.cpus"),
        (vec!["--disk-gib", "0"], 2, "vm.disk_gib"),
        (vec!["--disk-gib", "1"], 2, "vm.disk_gib"),
        (vec!["--workspace", &file], 2, "vm.workspace"),
        (vec!["--workspace", &home], 2, "vm.workspace"),
        (vec!["--workspace", "/etc"], 2, "vm.workspace"),
    ] {
        if names == ROOTS && !roots {
            continue;
        }
        let mut all = vec!["new", IMAGE, "lab"];
        all.extend(&arguments);
        let begun = Instant::now();
        let refused = farm.run(&all);
        eprintln!("{arguments:?} ({:?}):\n{}{}", begun.elapsed(), refused.out, refused.err);
        assert_eq!(refused.code, Some(code), "{arguments:?}: {refused:?}");
        assert!(refused.err.contains(names), "{arguments:?}: {refused:?}");
        assert_eq!(farm.run(&["ps", "-q", "-a"]).ends(0).out, "", "{arguments:?}: something was made");
    }
    for (image, code) in [("nosuch:1", 3), ("debian:12@20250115", 1)] {
        let refused = farm.run(&["new", image, "lab"]).ends(code);
        assert!(refused.err.contains("  field: vm.image\n  fix: "), "{refused:?}");
        assert_eq!(farm.run(&["ps", "-q", "-a"]).ends(0).out, "");
    }
    let made = std::fs::read_dir(farm.folder().join("claws")).map_or(0, Iterator::count);
    assert_eq!(made, 0, "folders were made");
    // Nothing leans on the image.
    farm.run(&["image", "rm", IMAGE]).ends(0);
}
