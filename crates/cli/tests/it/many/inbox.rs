//! Services that send messages while servers are killed, claws put to sleep, crash and refuse:
//! what was acknowledged is delivered, in order, each time under the same key.
//!
//! `CLAWFARM_TEST_SEED` replays a run's draws; `CLAWFARM_TEST_CHAOS=inbox` is the long one
//! (`make chaos-inbox`), with two real OpenClaws among the claws.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use clawfarm_api::{CreateInstance, InboxQuery, SuspendRequest};
use clawfarm_client::Client;
use clawfarm_model::inbox::InboxState;
use clawfarm_model::{ClawId, Phase};
use clawfarm_runtime_sim::World;
use futures::stream::{FuturesUnordered, StreamExt as _};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::chaos::seed;
use super::load::Draws;
use super::servers::{Farm, Node, Options};

/// How long anything may take, with every server killed on the way, on a machine that has more to
/// do: ten thousand messages took five and a half minutes at a load of 12 on two cores.
const LIMIT: Duration = Duration::from_secs(900);
/// As long as a service waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Every so many messages are of a kind that its claw refuses.
const REFUSED_EVERY: usize = 50;

struct Size {
    claws: usize,
    /// Senders to each claw.
    sources: usize,
    /// Messages of each sender.
    messages: usize,
    /// Real OpenClaws, which are sent as many.
    real: usize,
}

impl Size {
    const SHORT: Self = Self { claws: 4, sources: 5, messages: 25, real: 0 };
    const FULL: Self = Self { claws: 20, sources: 5, messages: 91, real: 2 };
}

/// The edges of the servers that live.
type Ports = Arc<RwLock<Vec<Option<u16>>>>;

/// One sender's messages of one claw.
struct Source {
    claw: ClawId,
    number: usize,
    real: bool,
}

/// What became of a source's messages.
#[derive(Default)]
struct Sent {
    /// Those that were acknowledged, in the order they were sent.
    acknowledged: Vec<String>,
    /// Those that the claw refused to the sender's face.
    refused: usize,
    /// How often one was sent again.
    again: usize,
}

impl Source {
    fn body(&self, n: usize) -> String {
        // Only a simulated claw knows what it is to refuse.
        let refused = !self.real && n % REFUSED_EVERY == REFUSED_EVERY / 4;
        let kind = if refused { " refuse-this" } else { "" };
        format!("{}/{}/{n}{kind}", self.claw, self.number)
    }

    /// Sends its messages, one after the other, each until it is acknowledged.
    async fn send(self, messages: usize, ports: Ports, seed: u64, so_far: Arc<AtomicUsize>) -> (Self, Sent) {
        let mut draws = Draws::new(seed ^ (self.number as u64) << 40 ^ self.claw.as_str().len() as u64);
        let mut sent = Sent::default();
        for n in 0..messages {
            so_far.fetch_add(1, Ordering::Relaxed);
            let body = self.body(n);
            let begun = Instant::now();
            loop {
                let port = {
                    let all = ports.read().expect("not poisoned");
                    let live: Vec<u16> = all.iter().flatten().copied().collect();
                    live.get(draws.below(live.len())).copied()
                };
                let answered = match port {
                    Some(port) => timeout(PATIENCE, post(port, &self, n, &body)).await.ok().flatten(),
                    None => None,
                };
                match answered {
                    Some(200..300) => {
                        sent.acknowledged.push(body);
                        break;
                    }
                    Some(422) => {
                        sent.refused += 1;
                        break;
                    }
                    // As services do: the same again, a little later.
                    _ => sent.again += 1,
                }
                assert!(begun.elapsed() < LIMIT, "'{body}' is not taken: {answered:?}");
                sleep(Duration::from_millis(50 + draws.below(200) as u64)).await;
            }
        }
        (self, sent)
    }
}

/// One try of a message; the answer's status.
async fn post(port: u16, source: &Source, n: usize, body: &str) -> Option<u16> {
    let Source { claw, number, .. } = source;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!(
        "POST /hooks/log/{number} HTTP/1.1\r\nhost: {claw}.localhost:{port}\r\nconnection: close\r\n\
         authorization: Bearer hook-token\r\ncontent-type: application/json\r\nx-github-delivery: {number}-{n}\r\n\
         content-length: {}\r\n\r\n{}",
        json!({ "text": body }).to_string().len(),
        json!({ "text": body })
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).split_whitespace().nth(1)?.parse().ok()
}

/// The port of a server's edge.
fn port_of(node: &Node) -> Option<u16> {
    let text = std::fs::read_to_string(node.home().farm().join("edge.port")).ok()?;
    text.trim().parse().ok()
}

/// A new claw with hooks.
async fn claw(client: &Client, name: &str, runtime: &str, config: serde_json::Value) -> ClawId {
    let request: CreateInstance = serde_json::from_value(json!({
        "claw_type": "openclaw", "name": name, "runtime": runtime, "config": {"native": config},
    }))
    .expect("a request");
    let made = client.create(&request, None).await.expect("made");
    let begun = Instant::now();
    loop {
        let operation = client.operation(&made.operation.id).await.expect("an operation");
        if operation.state.ended() {
            assert!(operation.error.is_none(), "{operation:?}");
            return made.instance.id;
        }
        assert!(begun.elapsed() < LIMIT, "{name} is not made: {operation:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn hooks() -> serde_json::Value {
    json!({ "hooks": { "enabled": true, "token": "hook-token" } })
}

/// What a real OpenClaw does with a message: it writes it down in its own state folder.
const TRANSFORM: &str = r#"
import { appendFileSync } from "node:fs";
export default ({ payload, headers }) => {
  const line = JSON.stringify({ text: payload.text, key: headers["idempotency-key"] ?? "" });
  appendFileSync(`${process.env.OPENCLAW_STATE_DIR}/received.log`, `${line}\n`);
  return null;
};
"#;

/// A real OpenClaw at this server, which takes any hook.
async fn real(node: &Node, name: &str) -> ClawId {
    let config = json!({ "hooks": {
        "enabled": true, "token": "hook-token", "mappings": [{ "transform": { "module": "log.mjs" } }],
    } });
    let id = claw(node.client(), name, "process", config).await;
    let write = "mkdir -p \"$OPENCLAW_STATE_DIR/hooks/transforms\" && cat > \"$OPENCLAW_STATE_DIR/hooks/transforms/log.mjs\"";
    let arguments = ["exec", "-i", id.as_str(), "--", "sh", "-c", write];
    tokio::task::block_in_place(|| node.home().run_with_input(&arguments, TRANSFORM)).ends(0);
    id
}

/// What a real OpenClaw has written down, below its folder.
fn written(node: &Node, id: &ClawId) -> Vec<(String, String)> {
    let mut folders = vec![node.home().farm().join("claws").join(id.as_str())];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name() == "received.log" {
                let text = std::fs::read_to_string(entry.path()).expect("read");
                let line = |line: &str| {
                    let line: serde_json::Value = serde_json::from_str(line).expect("a line");
                    let field = |name: &str| line[name].as_str().expect("a text").to_owned();
                    (field("text"), field("key"))
                };
                return text.lines().map(line).collect();
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    Vec::new()
}

/// Puts claws to sleep, now and then, until it is told that it is enough.
async fn put_to_sleep(
    claws: Vec<ClawId>,
    reals: Vec<ClawId>,
    nodes: Arc<RwLock<Vec<Option<Client>>>>,
    seed: u64,
    slept: Arc<AtomicUsize>,
) {
    let mut draws = Draws::new(seed ^ 0x51ee);
    loop {
        sleep(Duration::from_millis(100 + draws.below(300) as u64)).await;
        let client = {
            let all = nodes.read().expect("not poisoned");
            let live: Vec<&Client> = all.iter().flatten().collect();
            live.get(draws.below(live.len())).map(|client| (*client).clone())
        };
        let Some(client) = client else { continue };
        // A real one takes half a minute to wake.
        let these = if !reals.is_empty() && draws.below(60) == 0 { &reals } else { &claws };
        let id = &these[draws.below(these.len())];
        let request = SuspendRequest { warm: draws.below(2) == 0, force: draws.below(3) == 0 };
        // One that is asleep, busy, or on its way is left alone.
        if client.suspend(id.as_str(), request).await.is_ok() {
            slept.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_three_servers_are_killed_while_services_send() {
    let full = std::env::var("CLAWFARM_TEST_CHAOS").is_ok_and(|text| text == "inbox");
    let size = if full { Size::FULL } else { Size::SHORT };
    let seed = seed();
    let farm = Farm::new();
    let world = farm.world();
    world
        .change_behaviour(|b| {
            b.claw.messages_fail = Some(0.1);
            // Each crashes a few times; a claw that did so for ever would be given up.
            b.claw.crash_after_ms = Some((1_000, 8_000));
            b.claw.crash_times = Some(3);
            b.claw.boot_ms = Some((50, 400));
        })
        .expect("written");
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        let options = Options { real: size.real > 0, ..Options::default() };
        nodes.push(Node::start(&farm, name, options).await);
    }
    let mut reals = Vec::new();
    for number in 0..size.real {
        reals.push(real(&nodes[0], &format!("real{number}")).await);
    }
    let mut claws = Vec::new();
    for number in 0..size.claws {
        claws.push(claw(nodes[number % 3].client(), &format!("claw{number}"), "sim", hooks()).await);
    }
    let ports: Ports = Arc::new(RwLock::new(nodes.iter().map(port_of).collect()));
    let clients = Arc::new(RwLock::new(nodes.iter().map(|node| node.client.clone()).collect()));
    let slept = Arc::new(AtomicUsize::new(0));
    let sleeper = tokio::spawn(put_to_sleep(
        claws.clone(),
        reals.clone(),
        Arc::clone(&clients),
        seed,
        Arc::clone(&slept),
    ));
    let so_far = Arc::new(AtomicUsize::new(0));
    let mut senders = FuturesUnordered::new();
    for claw in claws.iter().chain(&reals) {
        for number in 0..size.sources {
            let source = Source { claw: claw.clone(), number, real: reals.contains(claw) };
            senders.push(tokio::spawn(source.send(
                size.messages,
                Arc::clone(&ports),
                seed ^ senders.len() as u64,
                Arc::clone(&so_far),
            )));
        }
    }
    let sending = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(sent) = senders.next().await {
            all.push(sent.expect("a sender failed"));
        }
        all
    });
    let mut draws = Draws::new(seed);
    let (mut kills, begun) = (0, Instant::now());
    while !sending.is_finished() {
        if kills % 10 == 9 {
            println!(
                "{:?}: {} messages begun, {kills} kills",
                begun.elapsed(),
                so_far.load(Ordering::Relaxed)
            );
        }
        // A server's start takes a second of one of few cores.
        let pause = if full { 3_000 + draws.below(4_000) } else { 1_000 + draws.below(2_000) };
        sleep(Duration::from_millis(pause as u64)).await;
        let victim = draws.below(3);
        ports.write().expect("not poisoned")[victim] = None;
        clients.write().expect("not poisoned")[victim] = None;
        nodes[victim].end(Signal::SIGKILL).await;
        kills += 1;
        nodes[victim].run(&farm).await;
        ports.write().expect("not poisoned")[victim] = port_of(&nodes[victim]);
        clients.write().expect("not poisoned")[victim] = nodes[victim].client.clone();
    }
    let sent = sending.await.expect("sent");
    sleeper.abort();
    let _ = sleeper.await;
    settle(nodes[0].client(), &claws).await;
    settle(nodes[0].client(), &reals).await;
    let mut received: Vec<(ClawId, Vec<(String, String)>)> =
        claws.iter().map(|claw| (claw.clone(), simulated(&world, claw))).collect();
    received.extend(reals.iter().map(|claw| (claw.clone(), written(&nodes[0], claw))));
    let counted = count(nodes[0].client(), &received, &sent).await;

    let again: usize = sent.iter().map(|(_, sent)| sent.again).sum();
    println!(
        "{} messages to {} simulated and {} real claws of {} senders each: {} acknowledged, {} of them refused by their claws \
         and kept as dead letters, {} refused to their senders' faces, {} sent again; {} deliveries, {} of them \
         repeated under the same key; {kills} servers killed, claws put to sleep {} times; none lost, none out of order",
        (size.claws + size.real) * size.sources * size.messages,
        size.claws,
        size.real,
        size.sources,
        counted.acknowledged,
        counted.dead,
        counted.refused,
        again,
        counted.deliveries,
        counted.repeated,
        slept.load(Ordering::Relaxed),
    );
}

/// Waits until nothing waits any more.
async fn settle(client: &Client, claws: &[ClawId]) {
    let begun = Instant::now();
    for id in claws {
        loop {
            let query = InboxQuery { state: Some(InboxState::Waiting), ..InboxQuery::default() };
            let waiting = client.messages(id.as_str(), &query).await.map(|list| list.items);
            if waiting.as_ref().is_ok_and(Vec::is_empty) {
                break;
            }
            // One that crashed too often was given up, and is its owner's to start.
            if let Ok(it) = client.instance(id.as_str()).await
                && matches!(it.phase, Phase::Failed | Phase::Exited)
            {
                let _ = client.start(id.as_str()).await;
            }
            assert!(begun.elapsed() < LIMIT, "messages of {id} still wait: {waiting:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[derive(Default)]
struct Counted {
    acknowledged: usize,
    dead: usize,
    refused: usize,
    deliveries: usize,
    repeated: usize,
}

/// What a simulated claw was given: texts and keys.
fn simulated(world: &World, claw: &ClawId) -> Vec<(String, String)> {
    let text = |it: clawfarm_runtime_sim::Received| {
        let body: serde_json::Value = serde_json::from_str(&it.body).expect("a body as it was sent");
        (body["text"].as_str().expect("a text").to_owned(), it.key)
    };
    world.received(claw).expect("read").into_iter().map(text).collect()
}

/// Holds what claws were given against what was acknowledged.
async fn count(
    client: &Client,
    received: &[(ClawId, Vec<(String, String)>)],
    sent: &[(Source, Sent)],
) -> Counted {
    let mut counted = Counted::default();
    for (claw, texts) in received {
        counted.deliveries += texts.len();
        let mut keys: HashMap<&str, &str> = HashMap::new();
        for (text, key) in texts {
            assert!(!key.is_empty(), "{text}: without a key");
            if let Some(first) = keys.insert(text, key) {
                assert_eq!(first, key, "{text}: another key each time");
                counted.repeated += 1;
            }
        }
        let of_keys: BTreeSet<&&str> = keys.values().collect();
        assert_eq!(of_keys.len(), keys.len(), "a key for each message");
        let dead = dead_letters(client, claw).await;
        for (source, sent) in sent.iter().filter(|(source, _)| source.claw == *claw) {
            counted.acknowledged += sent.acknowledged.len();
            counted.refused += sent.refused;
            let own = format!("{claw}/{}/", source.number);
            let mut firsts: Vec<&str> = Vec::new();
            for (text, _) in texts.iter().filter(|(text, _)| text.starts_with(&own)) {
                if !firsts.contains(&text.as_str()) {
                    firsts.push(text);
                }
            }
            let (refused, taken): (Vec<&String>, Vec<&String>) =
                sent.acknowledged.iter().partition(|text| text.contains("refuse-this"));
            for text in &refused {
                assert!(dead.contains(text.as_str()), "{text}: acknowledged, refused, and not kept");
            }
            counted.dead += refused.len();
            let wanted: Vec<&str> = taken.iter().map(|text| text.as_str()).collect();
            assert_eq!(firsts, wanted, "{own}: what was acknowledged, in order, and nothing else");
        }
    }
    counted
}

/// What was given up, by what it says.
async fn dead_letters(client: &Client, claw: &ClawId) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut after = None;
    loop {
        let query = InboxQuery { state: Some(InboxState::Dead), after, limit: Some(500) };
        let page = client.messages(claw.as_str(), &query).await.expect("listed").items;
        let Some(last) = page.last() else { return found };
        after = Some(last.id.clone());
        for message in &page {
            let view = client.message(claw.as_str(), &message.id).await.expect("shown");
            let body: serde_json::Value = serde_json::from_str(&view.body).expect("a body as it was sent");
            found.insert(body["text"].as_str().expect("a text").to_owned());
        }
    }
}
