//! A claw runs while its state goes from SQLite to PostgreSQL, is lost there, and goes back.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use clawfarm_test_postgres::Database;

use super::farm::{Farm, runs};

#[test]
fn a_running_claw_goes_on_when_its_state_moves() {
    let farm = Farm::new();
    let postgres = Database::new();
    let alice = farm.new_claw("alice", &[]);
    let (claw, token) = (farm.pid(&alice), farm.run(&["token", "reveal", &alice]).ends(0).out);
    assert_eq!(farm.status(&alice)["target"], "local");
    let folder = farm.folder().parent().expect("a folder").to_owned();
    let file = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let stays = |target: &str| {
        farm.until_phase(&alice, "ready");
        assert_eq!(farm.pid(&alice), claw, "the same claw, the same process");
        assert_eq!(farm.status(&alice)["target"], target);
        assert_eq!(farm.run(&["exec", &alice, "--", "echo", "reached"]).ends(0).out, "reached\n");
    };

    let first = file("first.backup");
    farm.run(&["db", "backup", &first]).ends(0);
    farm.run(&["down"]).ends(0);
    let url = farm.folder().join("database.url");
    fs::write(&url, postgres.url()).expect("written");
    fs::set_permissions(&url, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let moved = farm.run(&["db", "restore", &first, "--node", "host1"]).ends(0);
    assert!(moved.err.contains("named 'host1' now, not 'local'; 1 instances"), "{moved:?}");
    stays("host1");

    // The database is lost; what lies beside the claw was written when it had another target.
    farm.run(&["down"]).ends(0);
    let _nothing = postgres.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    let done = farm.run(&["recover", "--yes"]).ends(0);
    assert!(done.out.contains("Put back: 1 instances"), "{done:?}");
    stays("host1");
    assert_eq!(farm.run(&["token", "reveal", &alice]).ends(0).out, token);

    // And back to a server that is alone.
    let second = file("second.backup");
    farm.run(&["db", "backup", &second]).ends(0);
    farm.run(&["down"]).ends(0);
    fs::remove_file(&url).expect("it was there");
    fs::remove_file(farm.folder().join("database.elsewhere")).expect("it was there");
    let moved = farm.run(&["db", "restore", &second, "--force"]).ends(0);
    assert!(moved.err.contains("named 'local' now, not 'host1'; 1 instances"), "{moved:?}");
    stays("local");
    assert!(runs(claw));
}
