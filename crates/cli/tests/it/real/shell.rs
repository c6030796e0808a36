//! `shell` in a real terminal, driven as a person drives it: by tmux.

use std::process::{Command, Output};

use super::farm::{Farm, until};

/// A terminal with the shell of a claw in it; gone at the end.
struct Tmux {
    socket: String,
}

impl Tmux {
    /// A terminal that runs `command` and then shows its exit code.
    fn open(farm: &Farm, id: &str) -> Self {
        let tmux = Self { socket: format!("clawfarm-test-{}", std::process::id()) };
        let shell = farm.command(&["shell", id]);
        // Its own server, so that nothing of anybody's tmux is touched; the program and its
        // environment go in as they are.
        let mut command = Command::new("tmux");
        command.args(["-L", &tmux.socket, "-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30"]);
        for (name, value) in shell.get_envs().filter_map(|(n, v)| Some((n, v?))) {
            command.arg("-e").arg(format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
        }
        let program = shell.get_program().to_string_lossy().into_owned();
        command.args(["sh", "-c", "\"$0\" \"$@\"; echo \"ended with $?\"; read _", &program]);
        command.args(shell.get_args());
        assert!(command.status().expect("tmux starts; `make test` installs it").success());
        tmux
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new("tmux").args(["-L", &self.socket]).args(arguments).output().expect("tmux runs")
    }

    fn types(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
        self.run(&["send-keys", "Enter"]);
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.run(&["capture-pane", "-p"]).stdout).into_owned()
    }

    fn shows(&self, text: &str) {
        until(&format!("the terminal shows '{text}': {}", self.screen()), || self.screen().contains(text));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn a_shell_in_a_real_terminal() {
    let farm = Farm::new();
    let id = farm.new_claw("alice", &[]);
    let terminal = Tmux::open(&farm, &id);
    // The prompt names the instance, whose user has no name here.
    terminal.shows(&format!("{id}:"));
    assert!(!terminal.screen().contains("no name"), "{}", terminal.screen());
    terminal.types("echo \"name=$USER,$LOGNAME\"");
    terminal.shows("name=claw,claw");
    terminal.types("echo in=$((40+2)) user=$(id -u) && stty size");
    terminal.shows("in=42");
    terminal.shows("30 100");
    // The window changes its size, and the shell is told.
    terminal.run(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.types("stty size; echo asked");
    terminal.shows("24 80");
    // Ctrl-C ends what runs in the claw, not the shell. One that is typed before the command
    // has begun ends nothing, so it is typed again.
    terminal.types("sleep 300");
    until("the shell is back", || {
        terminal.run(&["send-keys", "C-c"]);
        terminal.types("echo still=$((6*7))");
        crate::support::pause();
        terminal.screen().contains("still=42")
    });
    terminal.types("exit 42");
    terminal.shows("ended with 42");
}
