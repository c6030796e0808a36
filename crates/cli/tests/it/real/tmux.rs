//! A terminal as a person has it: a tmux with the program in it.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::farm::{Farm, until_within};

/// How long a screen may take to show what is waited for, where nothing slow is waited for.
const SHOWS: Duration = Duration::from_secs(240);

/// How many terminals this test has had.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// A terminal of 100 by 30 with a command of the farm in it; gone at the end.
pub(super) struct Tmux {
    socket: String,
}

impl Tmux {
    /// A terminal that runs the command and then shows its exit code.
    pub(super) fn open(farm: &Farm, arguments: &[&str]) -> Self {
        let nth = OPENED.fetch_add(1, Ordering::Relaxed);
        let tmux = Self { socket: format!("clawfarm-test-{}-{nth}", std::process::id()) };
        let wanted = farm.command(arguments);
        // Its own server, so that nothing of anybody's tmux is touched; the program and its
        // environment go in as they are.
        let mut command = Command::new("tmux");
        command.args(["-u", "-L", &tmux.socket, "-f", "/dev/null"]);
        command.args(["new-session", "-d", "-x", "100", "-y", "30"]);
        for (name, value) in wanted.get_envs() {
            match value {
                Some(value) => {
                    command.arg("-e").arg(format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
                }
                None => {
                    command.env_remove(name);
                }
            }
        }
        let program = wanted.get_program().to_string_lossy().into_owned();
        command.args(["sh", "-c", "\"$0\" \"$@\"; echo \"ended with $?\"; read _", &program]);
        command.args(wanted.get_args());
        assert!(command.status().expect("tmux starts; `make test` installs it").success());
        tmux
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        Command::new("tmux").args(["-L", &self.socket]).args(arguments).output().expect("tmux runs")
    }

    /// Types a line.
    pub(super) fn types(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
        self.run(&["send-keys", "Enter"]);
    }

    /// What is on the screen.
    pub(super) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.run(&["capture-pane", "-p"]).stdout).into_owned()
    }

    /// What is on the screen and above it, with lines that were broken at its edge whole again.
    pub(super) fn history(&self) -> String {
        String::from_utf8_lossy(&self.run(&["capture-pane", "-p", "-J", "-S", "-"]).stdout).into_owned()
    }

    pub(super) fn shows(&self, text: &str) {
        self.shows_within(SHOWS, text);
    }

    pub(super) fn shows_within(&self, limit: Duration, text: &str) {
        self.shows_times(limit, text, 1);
    }

    /// Waits until a text was shown so many times.
    pub(super) fn shows_times(&self, limit: Duration, text: &str, times: usize) {
        until_within(
            limit,
            &format!("the terminal shows '{text}' ({times} times)"),
            || self.history().matches(text).count() >= times,
            || self.history(),
        );
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}
