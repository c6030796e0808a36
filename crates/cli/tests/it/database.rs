//! The state is saved while the server runs, and moves from SQLite to PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::Home;

#[test]
fn a_farm_moves_from_sqlite_to_postgres_and_is_not_begun_anew_by_mistake() {
    let home = Home::new();
    let postgres = clawfarm_test_postgres::Database::new();
    let made = home.run(&["new", "openclaw", "alice", "--runtime", "sim", "--json"]).ends(0).json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    home.run_with_input(&["secret", "set", "some-key"], "s3cret-4711\n").ends(0);
    let token = home.run(&["token", "reveal", "alice"]).ends(0).out;

    let file = home.path().join("farm.backup");
    let file = file.to_str().expect("UTF-8");
    let done = home.run(&["db", "backup", file]).ends(0);
    assert!(done.out.contains("rows") && done.err.contains("master.key"), "{done:?}");
    assert_eq!(fs::metadata(file).expect("it was written").permissions().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(file).expect("text");
    assert!(text.contains(&id) && !text.contains("s3cret-4711") && !text.contains(token.trim()));
    let again = home.run(&["db", "backup", file]);
    assert!(again.code != Some(0) && again.err.contains("exists already"), "{again:?}");
    // Not under a server that would go on with what it knows.
    let early = home.run(&["db", "restore", file, "--force"]);
    assert!(early.code != Some(0) && early.err.contains("server"), "{early:?}");
    home.run(&["down"]).ends(0);

    let url = postgres.url();
    let arguments = ["db", "restore", file, "--database", &url];
    let done = home.run(&arguments).ends(0);
    assert!(done.out.contains("1 instances"), "{done:?}");
    // Who forgets where the state is now is told, and gets no empty one.
    let lost = home.run(&["ps"]);
    assert!(lost.code != Some(0) && lost.err.contains("kept in PostgreSQL"), "{lost:?}");
    let remembered = home.farm().join("database.url");
    fs::write(&remembered, &url).expect("the home is ours");
    fs::set_permissions(&remembered, fs::Permissions::from_mode(0o600)).expect("it is ours");
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out, format!("{id}\n"));
    assert_eq!(home.run(&["token", "reveal", "alice"]).ends(0).out, token);
    assert!(home.run(&["secret", "ls"]).ends(0).out.contains("some-key"));
    home.run(&["restart", "alice"]).ends(0);
    assert!(!home.run(&["send", "alice", "hello"]).ends(0).out.trim().is_empty());
    assert!(postgres.sql("SELECT count(*) FROM events").parse::<u32>().expect("a number") > 0);
    home.run(&["rm", "alice", "--purge"]).ends(0);
    home.run(&["down"]).ends(0);
    let wrong = home.run(&["serve", "--database", "postgres://u:s3cret-4711@h/d"]);
    assert!(wrong.code != Some(0) && wrong.err.contains("must not be an argument"), "{wrong:?}");
    assert!(!wrong.err.contains("s3cret-4711"), "{wrong:?}");
}
