//! `clawfarm backup` and `restore`, as they are typed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clawfarm_runtime_sim::World;

use crate::support::Home;

fn home_with_alice() -> (Home, String) {
    let home = Home::new();
    let made = home.run(&["new", "openclaw", "alice", "--runtime", "sim", "--json"]).ends(0).json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    (home, id)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

#[test]
fn an_instance_goes_into_a_file_and_comes_out_as_another() {
    let (home, id) = home_with_alice();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("alice.tar.zst");
    let path = file.to_str().expect("UTF-8");
    let saved = home.run(&["backup", "alice", "-o", path]).ends(0);
    assert!(saved.out.starts_with(&format!("{id} is saved: {path} (")), "{saved:?}");
    assert!(saved.err.contains("keep it like a key"), "{saved:?}");
    assert_eq!(names(folder.path()), ["alice.tar.zst"], "nothing else is left");
    let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let again = home.run(&["backup", "alice", "-o", path]).ends(4);
    assert!(again.err.contains("--force"), "{again:?}");
    let json = home.run(&["backup", "alice", "-o", path, "--force", "--json"]).ends(0).json();
    assert_eq!((json["instance"].as_str(), json["path"].as_str()), (Some(id.as_str()), Some(path)));
    assert_eq!(json["bytes"].as_u64(), Some(std::fs::metadata(&file).expect("it is there").len()));

    let token = home.run(&["token", "reveal", "alice"]).ends(0).out;
    let made = home.run(&["restore", path, "--name", "bob"]).ends(0);
    let bob = made.out.split_whitespace().next().expect("an id").to_owned();
    assert!(bob.starts_with("bob-") && made.out.contains("is ready"), "{made:?}");
    assert!(made.err.contains("both answer"), "the other is up, too: {made:?}");
    assert_ne!(home.run(&["token", "reveal", "bob"]).ends(0).out, token);
    let world = World::open(home.path().join("world")).expect("a world");
    assert_eq!(
        world.versions(&bob.parse().expect("an id")).expect("read").len(),
        2,
        "with the data of before"
    );
    home.run(&["rm", "alice", "--purge"]).ends(0);
    let detached = home.run(&["restore", path, "--detach"]).ends(0);
    assert!(detached.out.starts_with("alice-") && !detached.out.contains(&id), "{detached:?}");
    assert!(names(folder.path()) == ["alice.tar.zst"]);
}

#[test]
fn a_file_that_is_no_whole_archive_is_not_even_sent() {
    let (home, _) = home_with_alice();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("alice.tar.zst");
    let path = file.to_str().expect("UTF-8");
    home.run(&["backup", "alice", "-o", path]).ends(0);
    let whole = std::fs::read(&file).expect("read");
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 4;
    for (bytes, says) in [
        (&whole[..whole.len() - 7], "cut off"),
        (changed.as_slice(), "damaged"),
        (b"no archive".as_slice(), "cut off"),
    ] {
        std::fs::write(&file, bytes).expect("written");
        let refused = home.run(&["restore", path]).ends(2);
        assert!(refused.err.contains(says) && refused.err.contains("another copy"), "{refused:?}");
    }
    let missing = home.run(&["restore", "/nowhere/alice.tar.zst"]).ends(2);
    assert!(missing.err.contains("can't be read"), "{missing:?}");
    let nowhere = home.run(&["backup", "alice", "-o", "/nowhere/alice.tar.zst"]).ends(2);
    assert!(nowhere.err.contains("can't be written"), "{nowhere:?}");
    home.run(&["backup", "nobody"]).ends(3);
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out.lines().count(), 1, "nothing was made");
}
