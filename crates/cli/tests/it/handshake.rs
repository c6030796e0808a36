//! A command and a server of different versions.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::fake::{Answer, Fake};
use crate::support::Home;

fn ps_against(version: &str) -> crate::support::Done {
    let home = Home::new();
    let _fake = Fake::serve(&home, version, |_, _| Answer::Json(200, json!({ "items": [] })));
    let done = home.run(&["ps"]);
    // Nothing is left to stop: the fake ends with the test.
    std::fs::remove_file(home.farm().join("clawfarm.sock")).expect("removed");
    done
}

#[test]
fn an_older_server_is_refused_with_the_command_that_replaces_it() {
    let done = ps_against("0.0.9").ends(1);
    assert!(done.err.contains("the server is older (0.0.9)"), "{done:?}");
    assert!(done.err.contains("clawfarm serve --restart"), "{done:?}");
}

#[test]
fn an_older_server_is_replaced_on_request() {
    let home = Home::new();
    let socket = home.farm().join("clawfarm.sock");
    let fake = Fake::serve(&home, "0.0.9", move |method, path| {
        assert_eq!((method, path), ("POST", "/api/v1/server/shutdown"));
        std::fs::remove_file(&socket).expect("removed");
        Answer::Json(202, json!(null))
    });
    // The fake's token is none that a server would take for its own.
    std::fs::write(home.farm().join("admin.token"), "0".repeat(64)).expect("written");
    std::fs::set_permissions(home.farm().join("admin.token"), std::fs::Permissions::from_mode(0o600))
        .expect("set");
    let done = home.run(&["serve", "--restart", "--json"]).ends(0).json();
    assert_eq!(done["replaced"]["version"], "0.0.9");
    assert_eq!(done["server"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(fake.asked()[0].2, r#"{"claws":false}"#, "its claws go on");
    home.run(&["ps"]).ends(0);
}

#[test]
fn a_newer_server_is_warned_of_and_used() {
    let done = ps_against("99.0.0").ends(0);
    assert!(done.err.contains("warning:") && done.err.contains("newer (99.0.0)"), "{done:?}");
}

#[test]
fn the_same_version_says_nothing() {
    let done = ps_against(env!("CARGO_PKG_VERSION")).ends(0);
    assert_eq!(done.err, "No instances yet. Make one with: clawfarm new openclaw\n");
}

#[test]
fn version_tells_both_whatever_they_are() {
    let home = Home::new();
    let _fake = Fake::serve(&home, "0.0.9", |_, _| Answer::Never);
    let done = home.run(&["version"]).ends(0);
    assert!(done.out.contains("server   0.0.9"), "{done:?}");
    std::fs::remove_file(home.farm().join("clawfarm.sock")).expect("removed");
}
