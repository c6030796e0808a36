//! A server is killed, and fails, at every point of its own beginning and at its model.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;

use clawfarm_failpoint::{Layer, Point};
use clawfarm_model::name::TenantName;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{ClawId, Context};
use clawfarm_store::{MasterKey, Store, StoreConfig};
use nix::sys::signal::Signal;
use secrecy::{ExposeSecret, SecretString};

use super::{serve, signal};
use crate::support::{Home, LIMIT, finish};

const ARMED: &str = "CLAWFARM_FAILPOINTS";

#[test]
fn at_each_point_of_its_beginning_it_may_die_or_fail_and_the_next_one_begins() {
    let home = Home::new();
    let mut tried = 0;
    for point in Point::ALL.iter().filter(|p| p.layer() == Layer::Server && **p != Point::ModelAsked) {
        for (what, ends) in [("kill", None), ("fail:unavailable", Some(5))] {
            let text = format!("{}@1={what}", point.as_str());
            let mut child = home.command(&["serve"]).env(ARMED, &text).spawn().expect("starts");
            let status = crate::support::eventually(&format!("{text} to end it"), || {
                child.try_wait().expect("waited")
            });
            assert_eq!((status.code(), status.signal()), (ends, ends.is_none().then_some(9)), "{text}");
            let done = finish(child);
            assert!(ends.is_none() || done.err.contains("error: a test lets"), "{text}: {done:?}");
            // The claws of before are there, and one more can be made.
            let name = format!("c{tried}");
            home.run(&["new", "openclaw", &name, "--runtime", "sim"]).ends(0);
            tried += 1;
            assert_eq!(home.run(&["ps", "-q"]).ends(0).out.lines().count(), tried, "{text}");
            home.run(&["down"]).ends(0);
        }
    }
    assert_eq!(tried, 8, "there are points that this does not know");
}

/// A claw's own credential for the model, as it is told it at its start.
async fn credential(home: &Home, id: &ClawId) -> SecretString {
    let key = MasterKey::load_or_create(&home.farm().join("master.key")).expect("a key");
    let store =
        Store::open(StoreConfig::sqlite(home.farm().join("clawfarm.db"), key)).await.expect("a store");
    let owner = SecretOwner::Instance(TenantName::default_tenant(), id.clone());
    let name = SecretName::new("clawfarm.model-key").expect("a name");
    let found = store.secret_value(&Context::system("test"), &owner, &name).await.expect("read");
    store.close().await;
    SecretString::from(format!("{id}.{}", found.expect("it has one").expose_secret()))
}

/// What the listener for claws answers; nothing when it hangs up.
fn ask_model(home: &Home, credential: &SecretString) -> String {
    let port = std::fs::read_to_string(home.farm().join("claw-port")).expect("a port");
    let port: u16 = port.trim().parse().expect("a number");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    let body = r#"{"model":"demo","messages":[{"role":"user","content":"hello"}]}"#;
    let request = format!(
        "POST /demo/v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        credential.expose_secret(),
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    // A reset is as good an end as another.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_fails_is_told_and_a_server_that_dies_at_it_is_followed_by_another() {
    let home = Home::new();
    let made = home.run(&["new", "openclaw", "alice", "--runtime", "sim", "--json"]).ends(0).json();
    let id: ClawId = made["instance"]["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    home.run(&["down"]).ends(0);
    let credential = credential(&home, &id).await;
    let name = Point::ModelAsked.as_str();
    let mut command = home.command(&["serve"]);
    command.env(ARMED, format!("{name}@1=fail:unavailable,{name}@2=kill"));
    let server = serve(&home, command);
    let failed = ask_model(&home, &credential);
    assert!(failed.starts_with("HTTP/1.1 503 ") && failed.contains("retry-after"), "{failed}");
    assert_eq!(ask_model(&home, &credential), "", "it was killed");
    assert_eq!(finish(server).code, None, "it was killed");
    let server = serve(&home, home.command(&["serve"]));
    let answered = ask_model(&home, &credential);
    assert!(answered.starts_with("HTTP/1.1 200 ") && answered.contains("\"choices\""), "{answered}");
    assert!(home.run(&["ps"]).ends(0).out.contains("ready"));
    signal(&server, Signal::SIGTERM);
    finish(server).ends(0);
}
