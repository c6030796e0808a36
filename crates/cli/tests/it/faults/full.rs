//! The home's disk is full, to its last byte. It is a small one of its own, in a mount
//! namespace of this test's thread and what it starts; that takes root.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use super::home::may_mount;
use super::{serve, signal};
use crate::support::{Home, eventually, finish};

/// Gives the home a disk of its own, which only this thread and its children see.
fn small_disk(home: &Home) {
    fs::create_dir(home.farm()).expect("a folder");
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("made private");
    mount(Some("tmpfs"), &home.farm(), Some("tmpfs"), MsFlags::empty(), Some("size=64m,mode=700"))
        .expect("mounted");
}

/// A server whose simulated claws are on the small disk too, and whose log is not.
fn begin(home: &Home) -> Child {
    let log = File::options().create(true).append(true).open(home.path().join("log")).expect("a log");
    let mut command: Command = home.command(&["serve"]);
    command.env("CLAWFARM_SIM_WORLD", home.farm().join("world")).stderr(log);
    serve(home, command)
}

/// Writes until nothing more can be written.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for piece in [vec![1; 1 << 20], vec![1; 4096], vec![1]] {
        while file.write_all(&piece).is_ok() {}
    }
}

#[test]
fn on_a_full_disk_what_makes_room_is_done_and_the_rest_is_refused() {
    if !may_mount() {
        return;
    }
    let home = Home::new();
    small_disk(&home);
    let mut server = begin(&home);
    let (reserve, filler) = (home.farm().join("disk-reserve"), home.farm().join("filler"));
    for killed in [false, true] {
        eventually("room to be kept", || fs::metadata(&reserve).ok().filter(|found| found.len() == 8 << 20));
        home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
        fill(&filler);
        let refused = home.run(&["new", "openclaw", "bob", "--runtime", "sim"]).ends(5);
        for words in ["the disk of clawfarm's home is full", "nothing was made", "fix: free some space"] {
            assert!(refused.err.contains(words), "{words}: {refused:?}");
        }
        assert_eq!(home.run(&["ps", "-q"]).ends(0).out.lines().count(), 1, "it left something");
        assert!(reserve.exists(), "what makes no room does not get it");
        let doctor = home.run(&["doctor"]);
        assert!(doctor.out.contains("disk: full"), "{doctor:?}");
        if killed {
            // The next one has to begin on the full disk.
            signal(&server, Signal::SIGKILL);
            finish(server);
            server = begin(&home);
            assert!(!reserve.exists(), "it needed the room");
        }
        assert!(home.run(&["stop", "alice"]).ends(0).out.contains("is stopped"));
        assert!(!reserve.exists(), "it was not needed: the disk was not full");
        home.run(&["rm", "alice", "--purge"]).ends(0);
        assert_eq!(home.run(&["ps", "-q"]).ends(0).out, "");
        assert!(server.try_wait().expect("waited").is_none(), "the server ended");
        // There is room again.
        fs::remove_file(&filler).expect("removed");
    }
    eventually("room to be kept", || reserve.exists().then_some(()));
    home.run(&["new", "openclaw", "carol", "--runtime", "sim"]).ends(0);
    assert!(home.run(&["doctor"]).out.contains("8 MiB kept for when it is full"));
    home.run(&["rm", "carol", "--purge"]).ends(0);
    signal(&server, Signal::SIGTERM);
    finish(server).ends(0);
    let log = fs::read_to_string(home.path().join("log")).expect("a log");
    assert!(log.matches("the reserve was given back").count() >= 2, "{log}");
    assert!(!log.contains("panicked"), "{log}");
}
