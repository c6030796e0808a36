//! The database is deleted under a running claw.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::farm::{Farm, kill, runs, until};

#[test]
fn a_running_claw_outlives_the_loss_of_the_database() {
    let farm = Farm::new();
    farm.run_with_input(&["secret", "set", "some-key"], "s3cret-4711\n").ends(0);
    let alice = farm.new_claw("alice", &["--set", "env.SOME_KEY.secret=some-key", "--label", "team=blue"]);
    let (claw, before) = (farm.pid(&alice), farm.status(&alice));
    let token = farm.run(&["token", "reveal", &alice]).ends(0).out;
    farm.send(&alice, "remember me");
    let early = farm.run(&["recover", "--yes"]).ends(4);
    assert!(early.err.contains("clawfarm down"), "{early:?}");

    let server = farm.server_pid();
    kill(server, Signal::SIGKILL);
    until("the server is gone", || !runs(server));
    for file in ["clawfarm.db", "clawfarm.db-wal", "clawfarm.db-shm"] {
        let _ = fs::remove_file(farm.folder().join(file));
    }
    // Records that are damaged, somebody else's, or writable by others.
    let record = farm.claw_folder(&alice).join("instance.json");
    let damaged = [("bob-aaaaa", "{ not JSON".to_owned(), 0o600), ("carol-aaaaa", text(&record), 0o600)];
    let loose = ("dave-aaaaa", text(&record).replace(&alice, "dave-aaaaa"), 0o666);
    for (id, text, mode) in damaged.iter().chain([&loose]) {
        let file = farm.claw_folder(id).join("instance.json");
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).expect("set");
    }

    // Without a terminal it lists only, and says how to go on.
    // The kernel lets go of the home's lock with the last thread of the server.
    until("the home is free", || farm.run(&["recover"]).code != Some(4));
    let listed = farm.run(&["recover"]).ends(0);
    assert!(listed.out.contains(&alice) && listed.out.contains("it runs, and goes on"), "{listed:?}");
    assert!(listed.err.contains("clawfarm recover --yes"), "{listed:?}");
    for (id, why) in [("bob-aaaaa", "damaged"), ("carol-aaaaa", "is that of"), ("dave-aaaaa", "mode 0666")] {
        assert!(listed.err.contains(id) && listed.err.contains(why), "{id}: {listed:?}");
    }
    // Three of four, which it does not hide.
    let done = farm.run(&["recover", "--yes"]).ends(1);
    assert!(done.out.contains("Put back: 1 instances"), "{done:?}");
    assert!(done.err.contains("clawfarm secret set some-key"), "{done:?}");
    let again = farm.run(&["recover", "--yes", "--json"]).ends(1).json();
    let verdict = |id: &str| {
        let all = again["instances"].as_array().expect("a list");
        all.iter().find(|i| i["id"] == id).map(|i| i["verdict"].clone())
    };
    assert_eq!((verdict(&alice), verdict("bob-aaaaa")), (Some("known".into()), Some("refused".into())));
    assert!(runs(claw));

    farm.until_phase(&alice, "ready");
    assert_eq!(farm.pid(&alice), claw, "the same claw, the same process");
    let after = farm.status(&alice);
    for field in ["id", "name", "port", "created_at", "spec"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(farm.run(&["token", "reveal", &alice]).ends(0).out, token);
    let answer = farm.send(&alice, "who am I?");
    assert!(answer.contains("remember me"), "{answer}");

    // Its data, set aside and lost once more, is listed again.
    farm.run(&["rm", &alice, "--force"]).ends(0);
    farm.run(&["down"]).ends(0);
    fs::remove_file(farm.folder().join("clawfarm.db")).expect("it was there");
    let done = farm.run(&["recover", "--yes"]).ends(1);
    assert!(done.out.contains("0 instances, 1 datasets"), "{done:?}");
    let datasets: Value = farm.run(&["dataset", "ls", "--json"]).ends(0).json();
    assert!(datasets.to_string().contains(&alice), "{datasets}");
    farm.run(&["dataset", "rm", &alice]).ends(0);
}

fn text(file: &std::path::Path) -> String {
    fs::read_to_string(file).expect("read")
}
