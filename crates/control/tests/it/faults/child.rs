//! The server that is killed: this test binary once more, running only its "test".

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use clawfarm_failpoint::{Action, Hits, Plan, Point};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::home::{LIMIT, Server};
use super::scenario::{self, Op};

const HOME: &str = "CLAWFARM_FAULTS_HOME";
const SCENARIO: &str = "CLAWFARM_FAULTS_SCENARIO";
const KILL: &str = "CLAWFARM_FAULTS_KILL";

/// What a server did before it ended.
pub(crate) struct Ended {
    /// It was killed.
    pub(crate) killed: bool,
    /// It had answered that the operation is accepted.
    pub(crate) accepted: bool,
    /// Which points it hit, when it was not killed.
    pub(crate) hits: Hits,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests as a process of its own"]
async fn server() {
    let (Ok(home), Ok(name)) = (std::env::var(HOME), std::env::var(SCENARIO)) else { return };
    let scenario = scenario::by_name(&name);
    let plans: Vec<Plan> = std::env::var(KILL).ok().iter().map(|text| parse(text)).collect();
    if scenario.op == Op::Begin {
        clawfarm_failpoint::arm(&plans);
    }
    let server = Server::begin(home.as_ref()).await;
    if scenario.op == Op::Begin {
        say("accepted");
    } else {
        clawfarm_failpoint::arm(&plans);
        let operation = scenario::perform(&server, scenario.op, "alice", 1).await.unwrap();
        say("accepted");
        if let Some(operation) = operation {
            scenario::ended(&server, &operation).await.unwrap();
        }
    }
    server.settles(scenario.name).await;
    for (point, count) in clawfarm_failpoint::hits() {
        say(&format!("hit {} {count}", point.as_str()));
    }
    clawfarm_failpoint::disarm();
    server.end().await;
}

fn say(line: &str) {
    // With its own line feed, for the harness leaves a line open.
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

fn parse(text: &str) -> Plan {
    let (name, hit) = text.split_once('@').unwrap();
    Plan::once(point(name), hit.parse().unwrap(), Action::Kill)
}

fn point(name: &str) -> Point {
    Point::ALL.iter().copied().find(|p| p.as_str() == name).expect("a point")
}

/// Runs a scenario's operation in a process of its own; killed at a point, or to its end.
pub(crate) async fn run(home: &Path, name: &str, kill: Option<(Point, u64)>) -> Ended {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "faults::child::server", "--ignored", "--nocapture"])
        .env(HOME, home)
        .env(SCENARIO, name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some((point, hit)) = kill {
        command.env(KILL, format!("{}@{hit}", point.as_str()));
    }
    let mut child = command.spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut said, mut complained) = (String::new(), String::new());
    let whole = async {
        let (a, b) = tokio::join!(out.read_to_string(&mut said), err.read_to_string(&mut complained));
        a.unwrap();
        b.unwrap();
        child.wait().await.unwrap()
    };
    let status = tokio::time::timeout(LIMIT * 2, whole).await.expect("the server ends or is killed");
    use std::os::unix::process::ExitStatusExt;
    let killed = status.signal() == Some(9);
    assert!(killed || status.success(), "{name} {kill:?}: {said}\n{complained}");
    assert!(!killed || kill.is_some(), "{name}: it was killed by nobody");
    let hits = said.lines().filter_map(|line| line.strip_prefix("hit ")?.split_once(' '));
    Ended {
        killed,
        accepted: said.lines().any(|line| line == "accepted"),
        hits: hits.map(|(name, count)| (point(name), count.parse().unwrap())).collect(),
    }
}
