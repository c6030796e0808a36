//! Secrets on the command line: whose they are, new values on their way, and the master key.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use clawfarm_model::Context;
use clawfarm_store::{MasterKey, Store, StoreConfig};
use serde_json::Value;

use crate::support::{Done, Home, eventually, finish};

const VALUE: &str = "sk-value-that-nobody-sees";

impl Home {
    fn set(&self, arguments: &[&str]) -> Done {
        let all: Vec<&str> = ["secret", "set"].iter().chain(arguments).copied().collect();
        self.run_with_input(&all, VALUE).ends(0)
    }

    fn claw(&self, name: &str) {
        let new = ["new", "openclaw", name, "--runtime", "sim", "--set", "env.KEY.secret=key"];
        self.run(&new).ends(0);
    }

    fn shown(&self) -> Value {
        self.run(&["secret", "show", "key", "--json"]).ends(0).json()
    }

    fn states(&self) -> Vec<String> {
        let shown = self.shown();
        let users = shown["instances"].as_array().expect("users");
        users.iter().map(|it| it["state"].as_str().expect("a state").to_owned()).collect()
    }

    /// How often a claw was given a new value.
    fn given(&self, name: &str) -> usize {
        let events = self.run(&["events", name, "--json"]).ends(0).out;
        events.matches("secret 'key' has a new value").count()
    }
}

#[test]
fn a_secret_has_a_scope_and_is_brought_to_those_that_run() {
    let home = Home::new();
    home.set(&["key", "--scope", "global"]);
    home.set(&["key", "--project", "default"]);
    home.set(&["other"]);
    for wrong in [
        &["secret", "set", "key", "--scope", "project"] as &[&str],
        &["secret", "set", "key", "--scope", "global", "--project", "default"],
        &["secret", "set", "key", "--project", "nowhere"],
    ] {
        let refused = home.run_with_input(wrong, VALUE);
        assert!(matches!(refused.code, Some(2 | 3)), "{refused:?}");
    }
    home.claw("ann");
    home.claw("ben");
    let listed = home.run(&["secret", "ls"]).ends(0).out;
    let rows: Vec<Vec<&str>> = listed.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
    let scopes: Vec<_> = rows.iter().map(|row| (row[0], row[1], row[2], row[4])).collect();
    assert_eq!(
        scopes,
        [("key", "global", "-", "0"), ("other", "tenant", "-", "0"), ("key", "project", "default", "2")]
    );
    let whose = ["--project", "default"];
    let rotate = |more: &[&str]| {
        let all: Vec<&str> = ["secret", "rotate", "key"].iter().chain(&whose).chain(more).copied().collect();
        home.run_with_input(&all, "sk-another")
    };
    let planned = rotate(&["--dry-run"]).ends(0).out;
    assert!(planned.contains("a start") && planned.contains("env.KEY"), "{planned}");
    let done = rotate(&["--parallel", "1"]).ends(0).out;
    assert!(done.contains("version 2 everywhere"), "{done}");
    let shown = home.run(&["secret", "show", "key", "--project", "default", "--json"]).ends(0);
    assert_eq!(shown.json()["version"], 2);
    assert!(!shown.out.contains("sk-"), "{shown:?}");
    let refused = home.run(&["secret", "rm", "key", "--project", "default"]).ends(4);
    assert!(refused.err.contains("--force"), "{refused:?}");
    // Nobody sees the whole farm's as long as there is a nearer one.
    home.run(&["secret", "rm", "key", "--scope", "global"]).ends(0);
    home.run(&["secret", "rm", "key", "--project", "default", "--force"]).ends(0);
    let back = home.run(&["secret", "rotate", "other", "--back"]);
    assert!(back.code == Some(4) && back.err.contains("not kept"), "{back:?}");
}

#[test]
fn a_server_killed_half_way_of_a_rotation_is_followed_by_one_that_goes_on() {
    let home = Home::new();
    home.set(&["key"]);
    for name in ["ann", "ben", "cid"] {
        home.claw(name);
    }
    home.run(&["down"]).ends(0);
    let mut server = home
        .command(&["serve"])
        .env("CLAWFARM_FAILPOINTS", "failpoint.reconcile.secret-hands@2=kill")
        .spawn()
        .expect("starts");
    // No command that would start another one.
    eventually("the server to answer", || home.server_pid());
    let begun =
        home.run_with_input(&["secret", "rotate", "key", "--parallel", "1", "--detach"], "sk-another");
    assert!(begun.ends(0).out.contains("version 2"));
    let status = eventually("it to be killed", || server.try_wait().expect("waited"));
    assert_eq!(status.signal(), Some(9));
    finish(server);
    eventually("the next server to bring it to its end", || {
        let shown = home.shown();
        (shown["rotation"].is_null()).then_some(())
    });
    assert!(home.states().iter().all(|it| it == "current"), "{:?}", home.states());
    assert_eq!(["ann", "ben", "cid"].map(|name| home.given(name)), [1; 3], "each was started again once");
}

fn key_in(home: &Home) -> Vec<u8> {
    fs::read(home.farm().join("master.key")).expect("a key")
}

fn store_in(home: &Home) -> Vec<u8> {
    fs::read(home.farm().join("clawfarm.db")).expect("a database")
}

async fn opened(home: &Home, key: &Path) -> Store {
    let key = MasterKey::read(key).expect("a key");
    Store::open(StoreConfig::sqlite(home.farm().join("clawfarm.db"), key)).await.expect("a store")
}

#[test]
fn the_master_key_is_changed_while_the_server_serves() {
    let home = Home::new();
    home.set(&["key"]);
    home.claw("ann");
    let pid = home.server_pid();
    let old = key_in(&home);
    let done = home.run(&["server", "rotate-master-key", "--json"]).ends(0).json();
    assert_eq!((done["finished"].as_bool(), done["rewrapped"].as_u64() > Some(0)), (Some(true), true));
    assert!(key_in(&home) != old && !home.farm().join("master.key.new").exists());
    // It goes on with what it knows, and so does the next one.
    home.set(&["more"]);
    home.claw("ben");
    assert_eq!(home.server_pid(), pid);
    let doctor = home.run(&["doctor"]).out;
    assert!(doctor.contains("is valid no more"), "{doctor}");
    home.run(&["down"]).ends(0);
    home.claw("cid");
    let doctor = home.run(&["doctor"]).out;
    assert!(doctor.contains(done["fingerprint"].as_str().unwrap()), "{doctor}");
    home.run(&["down"]).ends(0);
    // With the key before nothing is opened, and nothing is written.
    let right = key_in(&home);
    fs::write(home.farm().join("master.key"), &old).unwrap();
    let before = store_in(&home);
    let refused = home.run(&["serve"]);
    assert!(
        refused.err.contains("fingerprint") && refused.err.contains(done["fingerprint"].as_str().unwrap())
    );
    assert!(store_in(&home) == before && key_in(&home) == old);
    fs::write(home.farm().join("master.key"), &right).unwrap();
    home.run(&["ps"]).ends(0);
}

#[test]
fn a_change_of_the_master_key_goes_on_wherever_it_was_interrupted() {
    let home = Home::new();
    home.set(&["key"]);
    home.run(&["down"]).ends(0);
    let (file, new) = (home.farm().join("master.key"), home.farm().join("master.key.new"));
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let system = Context::system("test");
    // Before the database knew of it; after; and after the file was put in its place.
    for interrupted in ["written", "known", "in place"] {
        MasterKey::generate().unwrap().write_to(&new).unwrap();
        let made = fs::read(&new).unwrap();
        if interrupted != "written" {
            tokio.block_on(async {
                let store = opened(&home, &file).await;
                store.add_master_key(&system, &MasterKey::read(&new).unwrap()).await.unwrap();
                store.close().await;
            });
        }
        if interrupted == "in place" {
            MasterKey::replace(&file, &new).unwrap();
        }
        // Either way the server begins.
        home.run(&["ps"]).ends(0);
        home.run(&["server", "rotate-master-key"]).ends(0);
        assert!(key_in(&home) == made && !new.exists(), "{interrupted}");
        let state = tokio.block_on(async {
            let store = opened(&home, &file).await;
            let state = store.key_state(&system).await.unwrap();
            store.close().await;
            state
        });
        assert_eq!((state.masters, state.own == state.newest), (vec![state.own.clone()], true));
        home.run(&["down"]).ends(0);
        home.claw(&format!("after-{}", interrupted.replace(' ', "-")));
        home.run(&["down"]).ends(0);
    }
}

#[test]
fn the_master_key_comes_from_a_file_the_environment_or_a_program() {
    let home = Home::new();
    let hex = "00112233445566778899aabbccddeeff".repeat(2);
    let elsewhere = home.path().join("elsewhere.key");
    let told = home.path().join("told");
    fs::write(&told, &hex).unwrap();
    let key = MasterKey::from_text(&hex).unwrap();
    key.write_to(&elsewhere).unwrap();
    let fingerprint = key.fingerprint().unwrap();
    let command = format!(r#"["cat", "{}"]"#, told.display());
    let from_file = ["serve", "--background", "--master-key-file", elsewhere.to_str().unwrap()];
    home.run(&from_file).ends(0);
    home.set(&["key"]);
    home.claw("ann");
    let begins = |done: Done| {
        done.ends(0);
        let doctor = home.run(&["doctor"]).out;
        assert!(doctor.contains(&fingerprint), "{doctor}");
        home.run(&["restart", "ann"]).ends(0);
        home.run(&["down"]).ends(0);
    };
    begins(home.run(&["ps"]));
    begins(home.run(&["serve", "--background", "--master-key-command", &command]));
    // The first command starts a server with what the environment says.
    let child = home.command(&["ps"]).env("CLAWFARM_MASTER_KEY", &hex).spawn().unwrap();
    begins(finish(child));
    // One that is told nothing of it makes none of its own.
    let without = home.run(&["serve"]);
    assert!(without.code != Some(0) && without.err.contains("there is no master key"), "{without:?}");
    let file = home.farm().join("master-key.command");
    fs::write(&file, &command).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    begins(home.run(&["ps"]));
    assert!(!home.farm().join("master.key").exists(), "no key is made where another is used");
    // What prints it finds nothing in its environment that it could tell; its complaint is told.
    let complains = r#"["sh", "-c", "echo wrong vault $CLAWFARM_MASTER_KEY >&2; exit 7"]"#;
    let child = home
        .command(&["serve", "--master-key-command", complains])
        .env("CLAWFARM_MASTER_KEY", &hex)
        .spawn()
        .unwrap();
    let failed = finish(child);
    assert!(failed.code != Some(0) && failed.err.contains("wrong vault"), "{failed:?}");
    assert!(!failed.err.contains(&hex), "{failed:?}");
    // Changed to another that is kept elsewhere, step by step.
    let next = home.path().join("next.key");
    MasterKey::generate().unwrap().write_to(&next).unwrap();
    let next = next.to_str().unwrap();
    let refused = home.run(&["server", "rotate-master-key"]);
    assert!(refused.err.contains("--new-key-file"), "{refused:?}");
    let added = home.run(&["server", "rotate-master-key", "--new-key-file", next]).ends(0);
    assert!(added.err.contains("--finish"), "{added:?}");
    let early = home.run(&["server", "rotate-master-key", "--finish"]).ends(4);
    assert!(early.err.contains("put the new key"), "{early:?}");
    let command = format!(r#"["base64", "{next}"]"#);
    fs::write(&file, &command).unwrap();
    home.run(&["server", "rotate-master-key", "--finish"]).ends(0);
    let failed = home.run(&["serve", "--master-key-file", elsewhere.to_str().unwrap()]);
    assert!(failed.err.contains(&fingerprint), "{failed:?}");
    home.run(&["ps"]).ends(0);
    home.run(&["restart", "ann"]).ends(0);
}
