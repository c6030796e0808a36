//! `shell` in a real terminal, driven as a person drives it: by tmux.

use super::farm::{Farm, until};
use super::tmux::Tmux;

#[test]
fn a_shell_in_a_real_terminal() {
    let farm = Farm::new();
    let id = farm.new_claw("alice", &[]);
    let terminal = Tmux::open(&farm, &["shell", &id]);
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
