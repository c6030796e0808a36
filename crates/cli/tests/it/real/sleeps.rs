//! A real OpenClaw sleeps by its policy, is woken by a request, and by the clock for its job.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use clawfarm_model::Timestamp;
use serde_json::{Value, json};

use super::farm::{Farm, until};

/// How long after it was planned the job is due: enough for it to be asleep by then on a slow
/// machine, and for the clock to see some worth in that.
const JOB_AFTER: Duration = Duration::from_secs(240);

#[test]
fn it_goes_warm_wakes_for_a_request_is_suspended_and_is_woken_for_its_job() {
    let farm = Farm::new();
    let id = farm.new_claw("sleepy", &["--idle", "3s"]);
    farm.run(&["policy", "set", &id, "--min-running", "0s", "--min-warm", "100000s"]).ends(0);
    farm.until_phase(&id, "warm");
    // A request at its address wakes it and is answered.
    let models = at_its_address(&farm, &id, "/v1/models");
    assert!(models.starts_with("HTTP/1.1 200"), "{models}");
    let wake = farm.run(&["policy", "show", &id, "--json"]).ends(0).json()["last_wake"].clone();
    assert_eq!((wake["from"].as_str(), wake["cause"].as_str()), (Some("warm"), Some("request")), "{wake}");
    // A job is planned, by hand and not through the edge, which keeps that closed.
    farm.run(&["policy", "set", &id, "--idle", "1h"]).ends(0);
    farm.run(&["resume", &id]).ends(0);
    let due = Timestamp::now().after(JOB_AFTER);
    let job = rpc(
        &farm,
        &id,
        "cron.add",
        &json!({
            "name": "a test's job",
            "schedule": {"kind": "every", "everyMs": 86_400_000, "anchorMs": due.as_millis()},
            "sessionTarget": "isolated", "wakeMode": "now",
            "payload": {"kind": "agentTurn", "message": "say hello"},
            "delivery": {"mode": "none"},
        }),
    );
    let job = job["id"]
        .as_str()
        .or(job["job"]["id"].as_str())
        .unwrap_or_else(|| panic!("no job: {job}"))
        .to_owned();
    farm.run(&["policy", "set", &id, "--idle", "3s", "--min-warm", "1s"]).ends(0);
    farm.until_phase(&id, "suspended");
    let sleep = farm.run(&["policy", "show", &id, "--json"]).ends(0).json();
    let planned = Timestamp::parse(sleep["next_run_at"].as_str().expect("it is known")).unwrap();
    assert!(planned <= due, "its job, or what it has planned before: {sleep}");
    assert_eq!(sleep["wakes_for"], "clock", "{sleep}");
    // Nobody comes; it is woken before its job is due, and does it.
    until("the clock wakes it", || woken_by_the_clock(&farm, &id));
    // From here on it stays up, so that it can be asked.
    farm.run(&["policy", "set", &id, "--never"]).ends(0);
    farm.run(&["resume", &id]).ends(0);
    until("its job has run", || {
        let jobs = rpc(&farm, &id, "cron.list", &json!({"includeDisabled": true}));
        let ran = jobs["jobs"].as_array().into_iter().flatten().find(|it| it["id"] == job.as_str());
        ran.is_some_and(|it| it["state"]["lastRunAtMs"].as_i64().is_some())
    });
}

/// Whether its last wake was for something that was due.
fn woken_by_the_clock(farm: &Farm, id: &str) -> bool {
    farm.run(&["policy", "show", id, "--json"]).ends(0).json()["last_wake"]["cause"] == "clock"
}

/// A request at its address, as a program makes it.
fn at_its_address(farm: &Farm, id: &str, path: &str) -> String {
    let address = farm.run(&["open", id, "--json"]).ends(0).out;
    let port = address.split(".localhost:").nth(1).expect("an address").split('/').next().expect("a port");
    let port: u16 = port.parse().expect("a port");
    ask(port, &format!("{id}.localhost:{port}"), "GET", path, &token(farm, id), "")
}

fn token(farm: &Farm, id: &str) -> String {
    let told = farm.run(&["token", "reveal", id, "--json"]).ends(0).json();
    told["token"].as_str().expect("a token").to_owned()
}

/// A call of its admin interface, over its own port.
fn rpc(farm: &Farm, id: &str, method: &str, params: &Value) -> Value {
    let port = u16::try_from(farm.status(id)["port"].as_u64().expect("a port")).expect("a port");
    let body = json!({ "method": method, "params": params }).to_string();
    let answer = ask(port, "127.0.0.1", "POST", "/api/v1/admin/rpc", &token(farm, id), &body);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    let start = body.find('{').unwrap_or_else(|| panic!("no JSON: {answer}"));
    let end = body.rfind('}').unwrap_or_else(|| panic!("no JSON: {answer}"));
    // Chunks are joined: their sizes stand on lines of their own.
    let text: String = body[start..=end].lines().filter(|line| !is_size(line)).collect();
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(answer["ok"], true, "{method}: {answer}");
    answer["payload"].clone()
}

fn is_size(line: &str) -> bool {
    !line.is_empty() && line.len() <= 6 && line.chars().all(|c| c.is_ascii_hexdigit())
}

fn ask(port: u16, host: &str, method: &str, path: &str, token: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    // A request that waits for a start is held for 55 s.
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a limit");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}
