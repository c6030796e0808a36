//! `shell` in a real terminal: size, keys, exit code, and the terminal as it was afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::support::{Home, eventually, pause};

const SIZE: Winsize = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };

/// A program in a terminal of its own.
pub(crate) struct Terminal {
    master: File,
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    pub(crate) fn open(home: &Home, arguments: &[&str]) -> Self {
        Self::open_with(home, arguments, &[])
    }

    fn open_with(home: &Home, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let pty = openpty(&SIZE, None).expect("a terminal");
        let mut command = home.command(arguments);
        let end = || pty.slave.try_clone().expect("cloned");
        command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .env("TERM", "xterm-256color")
            .envs(environment.iter().copied());
        // SAFETY: setsid and ioctl are async-signal-safe and touch no memory of ours.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(rustix::process::ioctl_tiocsctty(std::io::stdin())?)
            });
        }
        let child = command.spawn().expect("starts");
        // The parent's copies would keep the terminal open after the program's end.
        drop((command, pty.slave));
        let master = File::from(pty.master);
        let mut reader = master.try_clone().expect("cloned");
        let seen = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&seen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                sink.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { master, child, seen }
    }

    pub(crate) fn seen(&self) -> String {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).expect("resized");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("sent");
    }

    pub(crate) fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("typed");
    }

    pub(crate) fn sees(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.seen().contains(text) {
            assert!(
                begun.elapsed() < crate::support::LIMIT,
                "no {text:?} on the terminal: {:?}",
                self.seen()
            );
            pause();
        }
    }

    /// Waits for the question what is to become of a command that failed, for the nth time.
    pub(crate) fn asks(&self, nth: usize) {
        eventually("the question", || (self.seen().matches("[e/s/i/r] ").count() >= nth).then_some(()));
    }

    fn is_raw(&self) -> bool {
        !self.has(LocalFlags::ICANON)
    }

    fn has(&self, flag: LocalFlags) -> bool {
        tcgetattr(&self.master).expect("modes").local_flags.contains(flag)
    }

    fn end(&mut self) -> ExitStatus {
        eventually("the program to end", || self.child.try_wait().expect("waited"))
    }

    #[track_caller]
    pub(crate) fn ends(mut self, code: i32) {
        let status = self.end();
        assert_eq!(status.code(), Some(code), "{:?}", self.seen());
        assert!(!self.is_raw(), "the terminal was left in raw mode");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

fn home_with_alice() -> Home {
    let home = Home::new();
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    home
}

#[test]
fn a_shell_has_this_terminals_size_and_ends_with_its_exit_code() {
    let home = home_with_alice();
    let mut terminal = Terminal::open(&home, &["shell", "alice"]);
    terminal.sees("$ ");
    assert!(terminal.is_raw(), "keys go to the other side as they are");
    terminal.type_in("size\r");
    terminal.sees("40 100");
    terminal.resize(24, 80);
    // The new size is on its way beside the keys: asked for until it is there.
    eventually("the new size on the other side", || {
        terminal.type_in("size\r");
        pause();
        terminal.seen().contains("24 80").then_some(())
    });
    terminal.type_in("exit 42\r");
    terminal.ends(42);
}

#[test]
fn ctrl_c_goes_to_the_other_side_and_not_to_this_program() {
    let home = home_with_alice();
    let mut terminal = Terminal::open(&home, &["exec", "-it", "alice", "--", "cat"]);
    eventually("raw mode", || terminal.is_raw().then_some(()));
    terminal.type_in("\u{3}still here");
    terminal.sees("\u{3}still here");
    // And a signal restores the terminal as well.
    terminal.signal(Signal::SIGTERM);
    terminal.ends(143);
}

#[test]
fn the_end_of_the_server_restores_the_terminal_and_is_told() {
    let home = home_with_alice();
    let terminal = Terminal::open(&home, &["shell", "alice"]);
    terminal.sees("$ ");
    home.run(&["down"]).ends(0);
    terminal.sees("error:");
    terminal.ends(5);
}

#[test]
fn a_secret_is_asked_for_without_being_shown() {
    let home = Home::new();
    let mut terminal = Terminal::open(&home, &["secret", "set", "key"]);
    terminal.sees("Value of key (not shown): ");
    terminal.type_in("hush-4711\r");
    terminal.sees("key is set");
    assert!(!terminal.seen().contains("hush-4711"));
    terminal.ends(0);
}

#[test]
fn ctrl_c_at_a_hidden_question_gives_the_terminal_back_and_sets_nothing() {
    let home = Home::new();
    let mut terminal = Terminal::open(&home, &["secret", "set", "key"]);
    terminal.sees("Value of key (not shown): ");
    assert!(!terminal.has(LocalFlags::ECHO), "the echo is off before the question is there");
    terminal.type_in("hush\u{3}");
    assert_eq!(terminal.end().code(), Some(130), "{:?}", terminal.seen());
    assert!(terminal.has(LocalFlags::ECHO), "typing can be seen again");
    assert!(!terminal.seen().contains("hush"));
    assert!(!home.run(&["secret", "ls"]).ends(0).out.contains("key"));
}

#[test]
fn ps_watch_draws_over_itself_when_something_happens() {
    let home = home_with_alice();
    let mut terminal = Terminal::open(&home, &["ps", "--watch"]);
    terminal.sees("ready");
    home.run(&["stop", "alice"]).ends(0);
    terminal.sees("stopped");
    terminal.sees("\u{1b}[2A\r\u{1b}[J");
    terminal.type_in("\u{3}");
    terminal.end();
}

#[test]
fn colours_are_left_out_when_no_color_is_set() {
    let home = home_with_alice();
    let coloured = Terminal::open(&home, &["ps"]);
    coloured.sees("\u{1b}[38;5;10mready");
    let plain = Terminal::open_with(&home, &["ps"], &[("NO_COLOR", "1")]);
    plain.sees("ready");
    assert!(!plain.seen().contains('\u{1b}'), "{:?}", plain.seen());
}

#[test]
fn steps_are_bars_on_a_terminal() {
    let home = Home::new();
    let terminal = Terminal::open(&home, &["new", "openclaw", "alice", "--runtime", "sim"]);
    terminal.sees("is \u{1b}[32mready");
    terminal.sees("✓");
    terminal.ends(0);
}

#[test]
fn ctrl_c_during_a_wait_takes_the_spinner_away() {
    let home = Home::new();
    let world = home.path().join("world");
    std::fs::create_dir_all(&world).expect("a folder");
    std::fs::write(world.join("sim.json"), r#"{"delays":{"ensure":[5000,5000]}}"#).expect("written");
    let mut terminal = Terminal::open(&home, &["new", "openclaw", "alice", "--runtime", "sim"]);
    terminal.sees("preparing a simulated claw");
    // The caret would wrap to the next line, and the spinner's line would stay.
    assert!(!terminal.has(LocalFlags::ECHOCTL));
    terminal.type_in("\u{3}");
    assert_eq!(terminal.end().code(), Some(130), "{:?}", terminal.seen());
    terminal.sees("Not waiting any longer");
    let seen = terminal.seen();
    let last = seen.rfind("preparing a simulated claw").expect("it was drawn");
    assert!(!seen.contains("^C"), "{seen:?}");
    assert!(seen[last..].contains("\u{1b}[2K"), "its line is cleared: {seen:?}");
    assert!(terminal.has(LocalFlags::ECHOCTL), "the terminal is as it was");
}

#[test]
fn ctrl_c_ends_the_look_at_a_rollout_and_not_the_rollout() {
    let home = Home::new();
    let save = |greeting: &str| {
        let body = format!(r#"{{"body": {{"env": {{"GREETING": "{greeting}"}}}}}}"#);
        home.run_with_input(&["config", "save", "support", "-f", "-"], &body).ends(0);
    };
    save("hello");
    home.run(&["config", "publish", "support"]).ends(0);
    for name in ["alice", "bob"] {
        home.run(&["new", "openclaw", name, "--runtime", "sim", "--template", "support"]).ends(0);
    }
    save("good day");
    // The pause outlasts any machine.
    let mut terminal = Terminal::open(&home, &["config", "publish", "support", "--step", "1:24h"]);
    terminal.sees("waiting");
    terminal.type_in("\u{3}");
    terminal.sees("the rollout goes on");
    terminal.ends(130);
    let rollout =
        || home.run(&["rollout", "ls", "--config", "support", "--json"]).ends(0).json()["items"][0].clone();
    assert_eq!(rollout()["stage"], "waiting");
    let mut watch = Terminal::open(&home, &["rollout", "status", "support", "--watch"]);
    watch.sees("waiting");
    watch.type_in("\u{3}");
    watch.ends(130);
    home.run(&["rollout", "promote", "support"]).ends(0);
    eventually("the rollout to get through", || (rollout()["stage"] == "done").then_some(()));
}

#[test]
fn recover_asks_before_it_puts_anything_back() {
    let home = Home::new();
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    home.run(&["down"]).ends(0);
    for file in ["clawfarm.db", "clawfarm.db-wal", "clawfarm.db-shm"] {
        let _ = std::fs::remove_file(home.farm().join(file));
    }
    for (keys, says) in
        [("n\r", "Nothing was changed"), ("\r", "Nothing was changed"), ("yes\r", "Put back: 1 instances")]
    {
        let mut terminal = Terminal::open(&home, &["recover"]);
        terminal.sees("Put back these 1? [y/N]");
        terminal.type_in(keys);
        terminal.sees(says);
        terminal.ends(0);
    }
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out.lines().count(), 1);
    assert!(home.run(&["send", "alice", "hello"]).ends(0).out.len() > 1);
}

#[test]
fn a_backup_shows_what_it_does_and_leaves_the_terminal_as_it_was() {
    let home = home_with_alice();
    let world = clawfarm_runtime_sim::World::open(home.path().join("world")).expect("a world");
    let slow = [(clawfarm_runtime_sim::Verb::CopyOut, (1_500, 1_500))];
    world.change_behaviour(|behaviour| behaviour.delays = slow.into()).expect("written");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("alice.tar.zst");
    let terminal = Terminal::open(&home, &["backup", "alice", "-o", file.to_str().expect("UTF-8")]);
    terminal.sees("letting it finish, and copying its data");
    terminal.sees("is saved");
    terminal.ends(0);
    assert!(file.exists());
}

#[test]
fn a_backup_that_is_left_leaves_nothing() {
    let home = home_with_alice();
    let world = clawfarm_runtime_sim::World::open(home.path().join("world")).expect("a world");
    let slow = [(clawfarm_runtime_sim::Verb::CopyOut, (3_600_000, 3_600_000))];
    world.change_behaviour(|behaviour| behaviour.delays = slow.into()).expect("written");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("alice.tar.zst");
    let mut terminal = Terminal::open(&home, &["backup", "alice", "-o", file.to_str().expect("UTF-8")]);
    terminal.sees("letting it finish");
    let frozen = |act| world.journal().expect("a journal").iter().filter(|a| a.act == act).count();
    eventually("it is frozen", || (frozen(clawfarm_runtime_sim::ActKind::Freeze) == 1).then_some(()));
    terminal.type_in("\u{3}");
    terminal.ends(130);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    eventually("it goes on", || (frozen(clawfarm_runtime_sim::ActKind::Thaw) == 1).then_some(()));
}
