//! A container engine of one server's machine, used by all servers of its database.

use clawfarm_test_docker::{Engine, TINY_CLAW_VERSION};

use super::servers::{Farm, Node, Options, until_servers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_an_engine_of_one_server_is_reached_through_the_other() {
    if !Engine::possible() {
        return;
    }
    let engine = Engine::shared();
    engine.with_tiny_claw();
    // Servers are started by this thread, so both are where the engine is.
    engine.enter();
    let farm = Farm::new();
    let has = Node::start(&farm, "has", Options::default()).await;
    let asked = Node::start(&farm, "asked", Options::default()).await;
    until_servers(&asked, "it knows of the other", |s| s.len() == 2).await;
    let socket = engine.socket().to_str().expect("UTF-8").to_owned();
    let added = has.home().run(&["target", "add", "boxes", "--socket", &socket, "--json"]).ends(0).json();
    assert!(added["reachable_from"].is_string(), "{added}");
    until_servers(&asked, "it knows of the other's target", |servers| {
        servers.iter().any(|s| s.server.targets.iter().any(|target| target.as_str() == "boxes"))
    })
    .await;
    // Another one of its name can't be made elsewhere.
    let home = asked.home();
    let taken = home.run(&["target", "add", "boxes", "--socket", &socket]).ends(4);
    assert!(taken.err.contains("another server"), "{taken:?}");
    let mut arguments = vec!["new", "openclaw", "far", "--target", "boxes", "--version", TINY_CLAW_VERSION];
    arguments.extend(["--memory-mib", "64", "--overcommit", "--json"]);
    let made = home.run(&arguments).ends(0).json();
    assert_eq!(made["instance"]["phase"], "ready", "{made}");
    let id = made["instance"]["id"].as_str().expect("an id");
    assert_eq!(home.run(&["exec", id, "--", "echo", "from afar"]).ends(0).out, "from afar\n");
    let listed = home.run(&["image", "ls"]).ends(0);
    assert!(listed.err.contains("boxes"), "that some are not seen is told: {listed:?}");
    let image = format!("clawfarm/openclaw:{TINY_CLAW_VERSION}");
    let own = has.home().run(&["image", "ls"]).ends(0);
    assert!(!own.err.contains("boxes"), "its own engine's are seen: {own:?}");
    let missing = home.run(&["image", "logs", &image, "--target", "boxes"]).ends(3);
    assert!(missing.err.contains(&image), "asked of the other: {missing:?}");
    let used = home.run(&["target", "rm", "boxes"]).ends(4);
    assert!(used.err.contains("in use"), "{used:?}");
    home.run(&["rm", id, "--purge", "--force"]).ends(0);
    home.run(&["target", "rm", "boxes"]).ends(0);
    // Its name is free again, for any of them.
    home.run(&["target", "add", "boxes", "--socket", &socket]).ends(0);
    let again = home.run(&arguments).ends(0).json();
    assert_eq!(again["instance"]["phase"], "ready", "{again}");
    home.run(&["rm", "far", "--purge", "--force"]).ends(0);
    home.run(&["target", "rm", "boxes"]).ends(0);
}
