//! What only one server reaches is asked of another.

use nix::sys::signal::Signal;

use super::servers::{Farm, Node, Options, until_servers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_what_another_server_reaches_is_passed_on_to_it() {
    let farm = Farm::new();
    let mut reaches = Node::start(&farm, "reaches", Options::default()).await;
    // This one has no simulated world: its `sim` target is the other's alone.
    let asked = Node::start(&farm, "asked", Options { blind: true, ..Options::default() }).await;
    until_servers(&asked, "it knows of the other", |s| s.len() == 2).await;
    let servers = asked.home().run(&["server", "ls"]).ends(0).out;
    assert!(servers.contains("reaches") && servers.contains("asked (this)"), "{servers}");

    let home = asked.home();
    let made = home.run(&["new", "openclaw", "alice", "--runtime", "sim", "--json"]).ends(0).json();
    assert_eq!(made["instance"]["phase"], "ready", "{made}");
    let id = made["instance"]["id"].as_str().expect("an id");
    assert!(!home.run(&["send", id, "hello"]).ends(0).out.trim().is_empty());
    assert_eq!(home.run(&["exec", id, "--", "echo", "a  b"]).ends(0).out, "a  b\n");
    home.run(&["exec", id, "--", "exit", "7"]).ends(7);
    assert_eq!(
        home.run_with_input(&["exec", "-i", id, "--", "cat"], "over two hops").ends(0).out,
        "over two hops"
    );
    assert!(home.run(&["logs", id]).ends(0).out.contains("started"));
    assert!(asked.client().metrics(id).await.expect("measured").id.as_str() == id);
    for (verb, state) in [
        (&["suspend", id, "--warm"][..], "warm"),
        (&["resume", id], "ready"),
        (&["stop", id], "stopped"),
        (&["start", id], "ready"),
    ] {
        assert_eq!(home.run(verb).ends(0).out, format!("{id} is {state}\n"), "{verb:?}");
    }
    // What is wrong is told as if it were asked there.
    home.run(&["exec", "nobody", "--", "true"]).ends(3);
    let refused = home.run(&["new", "openclaw", "x", "--runtime", "sim", "--memory-mib", "999999999"]);
    assert!(refused.code != Some(0) && refused.err.contains("memory"), "{refused:?}");

    // A connection to its port, and data that only the other has.
    let forward = crate::forward::Forward::open(home, &[id], 1);
    assert!(forward.get(0, "/healthz").starts_with("HTTP/1.1 200"), "over two hops");
    drop(forward);
    // The edge of a server that does not reach it leads there, too, and wakes it.
    let token = home.run(&["token", "reveal", id]).ends(0).out;
    let through = || at_the_edge(home, id, token.trim());
    assert!(through().starts_with("HTTP/1.1 200"), "{}", through());
    home.run(&["suspend", id]).ends(0);
    assert!(through().starts_with("HTTP/1.1 200"), "{}", through());
    assert_eq!(home.run(&["ps", "-q", "--filter", "phase=ready"]).ends(0).out.trim(), id);
    home.run(&["new", "openclaw", "bob", "--runtime", "sim"]).ends(0);
    let kept = home.run(&["rm", "bob", "--force", "--json"]).ends(0).json();
    let kept = kept[0]["instance"]["id"].as_str().expect("an id").to_owned();
    assert!(home.run(&["dataset", "ls"]).ends(0).out.contains(&kept));
    home.run(&["dataset", "rm", &kept]).ends(0);
    assert!(!home.run(&["dataset", "ls"]).ends(0).out.contains(&kept));
    assert!(farm.world().datasets().expect("read").is_empty(), "it is gone where it was");
    // What another has printed is not in a bundle of this one, and that is said in it.
    let bundle = home.path().join("bundle.tar.gz");
    home.run(&["support-bundle", id, "-o", bundle.to_str().expect("UTF-8")]).ends(0);
    let files = crate::bundle::unpack(home, &bundle);
    assert!(files[&format!("instances/{id}/instance.json")].contains(id), "{files:?}");
    let manifest: serde_json::Value = serde_json::from_str(&files["manifest.json"]).expect("JSON");
    let left_out = manifest["left_out"].as_array().expect("a list");
    let output = left_out.iter().find(|it| it["name"] == format!("instances/{id}/output.log"));
    assert!(
        output.is_some_and(|it| it["why"].as_str().is_some_and(|why| why.contains("'sim'"))),
        "{manifest}"
    );

    // With the other gone, its name and what to do are told; wishes are kept for it.
    reaches.end(Signal::SIGTERM).await;
    until_servers(&asked, "the other is gone", |s| s.iter().any(|s| !s.server.live)).await;
    let refused = home.run(&["exec", id, "--", "true"]);
    assert!(refused.code != Some(0), "{refused:?}");
    assert!(refused.err.contains("'reaches'") && refused.err.contains("fix:"), "{refused:?}");
    let stopping = home.run(&["stop", id, "--detach", "--json"]).ends(0).json();
    assert_eq!(stopping[0]["operation"]["state"], "running", "{stopping}");
    reaches.run(&farm).await;
    let waited = home.run(&["start", id]).ends(0).out;
    assert_eq!(waited, format!("{id} is ready\n"));
}

/// What a claw answers through the edge of a server.
fn at_the_edge(home: &crate::support::Home, id: &str, token: &str) -> String {
    use std::io::{Read as _, Write as _};
    let port = std::fs::read_to_string(home.farm().join("edge.port")).expect("an edge");
    let port: u16 = port.trim().parse().expect("a port");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(crate::support::LIMIT)).expect("set");
    let ask = format!(
        "GET /healthz HTTP/1.1\r\nhost: {id}.localhost:{port}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_servers_of_one_database_have_one_key_one_token_and_names_of_their_own() {
    let farm = Farm::new();
    let one = Node::start(&farm, "one", Options { deaf: true, ..Options::default() }).await;
    let two = Node::start(&farm, "two", Options { deaf: true, ..Options::default() }).await;
    let token =
        |node: &Node| std::fs::read_to_string(node.home().farm().join("admin.token")).expect("a token");
    assert_eq!(token(&one), token(&two), "any server knows the callers of the others");
    let url = farm.database.url();
    let refused = |prepare: &dyn Fn(&std::path::Path), arguments: &[&str], words: &[&str]| {
        let home = crate::support::Home::new();
        std::fs::create_dir_all(home.farm()).expect("a folder");
        prepare(&home.farm());
        let mut all = vec!["serve", "--database", &url];
        all.extend(arguments);
        let done = home.run(&all);
        assert!(done.code != Some(0) && words.iter().all(|w| done.err.contains(w)), "{words:?}: {done:?}");
    };
    refused(&|_| {}, &["--node", "three"], &["master key", "fix:"]);
    let key = one.home().farm().join("master.key");
    let copy = |home: &std::path::Path| {
        std::fs::copy(&key, home.join("master.key")).expect("copied");
    };
    refused(&copy, &["--node", "one"], &["--node", "another server"]);
    let other_token = |home: &std::path::Path| {
        copy(home);
        std::fs::copy(&key, home.join("admin.token")).expect("copied");
        std::fs::write(home.join("admin.token"), "0".repeat(64)).expect("written");
    };
    refused(&other_token, &["--node", "three"], &["admin.token", "rm "]);
    // Without an address, what only it reaches is refused with its name.
    let targets = one.home().run(&["target", "ls"]).ends(0).out;
    assert!(targets.contains("one") && targets.contains("two") && targets.contains("sim"), "{targets}");
    let refused = one.home().run(&["new", "openclaw", "x", "--target", "two"]);
    assert!(refused.err.contains("'two'") && refused.err.contains("--listen"), "{refused:?}");
}
