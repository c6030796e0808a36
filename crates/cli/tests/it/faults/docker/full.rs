//! The disk of the home is full, and then that of the engine. Both are small ones of their own in
//! the engine's mount namespace, which the test and its server enter.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::{Farm, made_of, until};
use crate::support::{Home, eventually};
use clawfarm_test_docker::Engine;

/// Gives a folder a disk of its own, which the engine and this thread's children see.
fn small_disk(folder: &Path, options: &str) {
    std::fs::create_dir_all(folder).expect("a folder");
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("mounted");
}

/// Writes until nothing more can be written.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for piece in [vec![1; 1 << 20], vec![1; 4096], vec![1]] {
        while file.write_all(&piece).is_ok() {}
    }
}

#[test]
fn on_a_full_disk_nothing_is_half_made_and_what_makes_room_is_done() {
    if !Engine::possible() {
        return;
    }
    let engine = Engine::private();
    let pid = engine.pid().expect("it runs").as_raw_nonzero();
    // A thread of several has its own view of the file system only when it shares it with none.
    unshare(CloneFlags::CLONE_FS).expect("unshared");
    let mounts = File::open(format!("/proc/{pid}/ns/mnt")).expect("it runs");
    setns(mounts, CloneFlags::CLONE_NEWNS).expect("root may");
    let home = Home::new();
    small_disk(&home.farm(), "size=64m,mode=700");
    // The engine's, too: it begins anew on an empty one.
    engine.crash();
    small_disk(&engine.socket().with_file_name("data"), "size=96m");
    engine.revive();
    engine.with_stand_in();
    engine.enter();
    let farm = Farm { home, engine };
    farm.add_target(&farm.socket());
    let alice = farm.new_claw("alice", &[]);
    eventually("room to be kept", || farm.home.farm().join("disk-reserve").exists().then_some(()));

    // The home's: nothing new, and what is there can be stopped and started again later.
    let filler = farm.home.farm().join("filler");
    fill(&filler);
    let refused = farm.run(&made_of("bob"));
    assert!(
        refused.code == Some(5) && refused.err.contains("the disk of clawfarm's home is full"),
        "{refused:?}"
    );
    assert_eq!(farm.containers(), [alice.as_str()]);
    farm.run(&["stop", &alice]).ends(0);
    std::fs::remove_file(&filler).expect("removed");
    farm.run(&["start", &alice]).ends(0);

    // The engine's: a new one waits for room, what runs goes on, and room is all it takes.
    let filler = farm.engine.socket().with_file_name("data").join("filler");
    fill(&filler);
    let mut arguments = made_of("carol").to_vec();
    arguments.push("--detach");
    farm.run(&arguments).ends(0);
    until("it is told why", || {
        let status = farm.status("carol");
        let told = status["last_error"]["message"].as_str().unwrap_or_default().to_owned();
        if told.contains("no space left on device") { Ok(()) } else { Err(status) }
    });
    assert_eq!(farm.status(&alice)["phase"], "ready");
    std::fs::remove_file(&filler).expect("removed");
    // It tried again until then, or gave up; asked for once more, it comes up.
    farm.run(&["start", "carol"]).ends(0);
    let carol = farm.status("carol")["id"].as_str().expect("an id").to_owned();
    assert_eq!((farm.runs(&carol), farm.containers().len()), (1, 2));
    farm.clear();
}
