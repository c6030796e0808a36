//! A server that passes requests on, to another that is what it says, is a stranger, or stands still.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::body::{Body, Bytes};
use clawfarm_adapters::Registry;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_control::{Control, Parts, Sharing};
use clawfarm_model::name::TargetName;
use clawfarm_model::server::Member;
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{Context, Result};
use clawfarm_runtime_sim::{SimConfig, SimRuntime};
use clawfarm_server::{ClawListener, HomeLock, PeerConnect, PeerStream, PeersConfig, ServerConfig};
use clawfarm_store::{MasterKey, Store, StoreConfig};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LIMIT, Running, TOKEN, request};

const NEAR: &str = "n0000000001";
const FAR: &str = "n0000000002";

/// Two servers of one database. Only the far one reaches the target `far`.
struct Two {
    near: Farm,
    far: Running,
    line: Arc<Line>,
    store: Store,
    member: Member,
    _dir: tempfile::TempDir,
}

impl Two {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = MasterKey::load_or_create(&dir.path().join("master.key")).unwrap();
        let store = Store::open(StoreConfig::sqlite(dir.path().join("clawfarm.db"), key)).await.unwrap();
        // The far one says seldom that it is there: it can be said of it that it is gone.
        let member = member(FAR, "far", Some("http://far.example:1"));
        let control = control(dir.path(), &store, &member, Duration::from_secs(3600)).await;
        let home = dir.path().join("far-home");
        std::fs::create_dir(&home).unwrap();
        let line = Arc::new(Line { socket: home.join("s.sock"), ..Line::default() });
        let far = Running::of(ServerConfig {
            control,
            home: HomeLock::take(&home).unwrap(),
            socket: line.socket.clone(),
            listen: None,
            tls: None,
            allow_plaintext: false,
            admin_token: (&secrecy::SecretString::from(TOKEN)).into(),
            peers: Some(peers(&store, "far-1", &line)),
            listener: None,
            claws: ClawListener::bind(&home).await.unwrap(),
            shutdown: CancellationToken::new(),
        })
        .await;
        let near = control_of_near(dir.path(), &store).await;
        let near = Farm::among(near, dir.path(), Some(peers(&store, "near-1", &line)));
        Self { near, far, line, store, member, _dir: dir }
    }

    fn ticket(&self, ticket: &str, body: Body) -> Request<Body> {
        let path = format!("/api/v1/consoles/{ticket}");
        Request::builder().uri(path).header("content-length", "10").body(body).unwrap()
    }
}

async fn control_of_near(folder: &Path, store: &Store) -> Control {
    control(folder, store, &member(NEAR, "near", None), Duration::from_secs(4)).await
}

async fn control(folder: &Path, store: &Store, member: &Member, ttl: Duration) -> Control {
    let target = Target {
        name: TargetName::new(&member.name).unwrap(),
        runtime: RuntimeKind::Sim,
        labels: Default::default(),
        reachable_from: Some(member.node.clone()),
        settings: serde_json::Value::Null,
    };
    let runtime = SimRuntime::open(SimConfig::new(folder.join(format!("world-{}", member.name)))).unwrap();
    let parts = Parts {
        store: store.clone(),
        adapters: Registry::new([Arc::new(OpenClaw) as _]),
        targets: vec![(target, Arc::new(runtime))],
        opener: None,
        sharing: Some(Sharing { member: member.clone(), ttl }),
    };
    Control::begin(parts).await.unwrap()
}

fn member(node: &str, name: &str, address: Option<&str>) -> Member {
    Member {
        node: node.into(),
        session: format!("{name}-1"),
        name: name.into(),
        version: "0.1.0".into(),
        address: address.map(Into::into),
        targets: Vec::new(),
    }
}

fn peers(store: &Store, session: &str, line: &Arc<Line>) -> PeersConfig {
    let connect = Arc::new(Over(Arc::clone(line)));
    PeersConfig { key: store.peer_key().unwrap(), session: session.into(), connect }
}

/// The way to the far server.
#[derive(Default)]
struct Line {
    socket: std::path::PathBuf,
    /// Somebody else listens there, who takes what he gets and says yes to all.
    stranger: AtomicBool,
    /// The far server stands still, as soon as it has proven on the next connection who it is.
    freezes: AtomicBool,
    frozen: AtomicBool,
    dials: AtomicUsize,
    taken: Mutex<Vec<u8>>,
}

struct Over(Arc<Line>);

#[async_trait]
impl PeerConnect for Over {
    async fn connect(&self, address: &str) -> Result<Box<dyn PeerStream>> {
        assert_eq!(address, "http://far.example:1");
        self.0.dials.fetch_add(1, Ordering::SeqCst);
        let (near, far) = duplex(1 << 16);
        let line = Arc::clone(&self.0);
        if line.stranger.load(Ordering::SeqCst) {
            tokio::spawn(be_a_stranger(far, line));
        } else {
            tokio::spawn(carry(far, line));
        }
        Ok(Box::new(near))
    }
}

async fn be_a_stranger(mut caller: DuplexStream, line: Arc<Line>) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = caller.read(&mut piece).await {
        line.taken.lock().unwrap().extend(&piece[..length]);
        let yes = format!("far-1.{}", "0".repeat(64));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{yes}", yes.len());
        if caller.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Carries bytes both ways, until that server stands still: then the connection stays open.
async fn carry(caller: DuplexStream, line: Arc<Line>) {
    if line.frozen.load(Ordering::SeqCst) {
        let _caller = caller;
        return std::future::pending().await;
    }
    let far = UnixStream::connect(&line.socket).await.unwrap();
    let ((mut from, mut to), (mut answers, mut asks)) = (tokio::io::split(caller), far.into_split());
    let there = async {
        let _ = tokio::io::copy(&mut from, &mut asks).await;
        let _ = asks.shutdown().await;
    };
    let back = async {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = answers.read(&mut piece).await {
            if to.write_all(&piece[..length]).await.is_err() {
                return;
            }
            if line.freezes.swap(false, Ordering::SeqCst) {
                line.frozen.store(true, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(there, back);
}

const SECRET: &str = "s3cret-4711-value";

fn new_on_far(name: &str) -> String {
    format!(
        r#"{{"claw_type":"openclaw","name":"{name}","target":"far","secrets":{{"OPENAI_API_KEY":"{SECRET}"}}}}"#
    )
}

#[tokio::test]
async fn nothing_is_told_to_a_stranger_who_listens_where_a_server_was() {
    let two = Two::new().await;
    two.line.stranger.store(true, Ordering::SeqCst);
    let refused = two.near.post("/api/v1/instances", &new_on_far("alice")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text);
    assert!(refused.text.contains("does not prove that it is that server"), "{}", refused.text);
    assert!(refused.text.contains("'far'"), "its name is told: {}", refused.text);
    let taken = String::from_utf8_lossy(&two.line.taken.lock().unwrap()).into_owned();
    assert!(taken.contains("peer-proof"), "it was asked: {taken}");
    assert!(!taken.contains(SECRET) && !taken.contains("/instances") && !taken.contains(TOKEN), "{taken}");

    // The server itself proves it, and does what it is asked.
    two.line.stranger.store(false, Ordering::SeqCst);
    let made = two.near.post("/api/v1/instances", &new_on_far("alice")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    two.far.ended().await;
}

#[tokio::test]
async fn a_stranger_without_a_ticket_takes_no_place_and_has_nobody_asked() {
    let two = Two::new().await;
    let never = || Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let made_up = [
        format!("{FAR}-x"),
        format!("{FAR}-{}", "0".repeat(48)),
        format!("{NEAR}-{}", "0".repeat(48)),
        "0".repeat(64),
    ];
    for ticket in &made_up {
        // Its body never comes: whoever waited for it would wait for ever.
        let refused = two.near.ask(two.ticket(ticket, never())).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{ticket}: {}", refused.text);
    }
    assert_eq!(two.line.dials.load(Ordering::SeqCst), 0, "nobody was asked for it");

    // One that the far server gave is passed on to it, and is good there.
    let made = two.near.post("/api/v1/instances", &new_on_far("alice")).await.json();
    let id = made["instance"]["id"].as_str().unwrap();
    let given = two.near.post(&format!("/api/v1/instances/{id}/console"), "{}").await.json();
    let path = given["path"].as_str().unwrap().to_owned();
    let dials = two.line.dials.load(Ordering::SeqCst);
    let answer = two.near.ask(Request::builder().uri(&path).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::UPGRADE_REQUIRED, "the far one knows it: {}", answer.text);
    assert_eq!(two.line.dials.load(Ordering::SeqCst), dials + 1);
    two.far.ended().await;
}

#[tokio::test]
async fn who_waits_for_a_server_that_stands_still_is_told() {
    let two = Two::new().await;
    let made = two.near.post("/api/v1/instances", &new_on_far("alice")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let id = made.json()["instance"]["id"].as_str().unwrap().to_owned();
    two.line.freezes.store(true, Ordering::SeqCst);
    let sending = request(Method::POST, &format!("/api/v1/instances/{id}/send"))
        .header("content-type", "application/json")
        .body(Body::from(r#"{"message":"hello"}"#))
        .unwrap();
    let gone = async {
        let begun = Instant::now();
        while !two.line.frozen.load(Ordering::SeqCst) {
            assert!(begun.elapsed() < LIMIT, "nothing was sent");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        two.store.leave(&Context::system("test"), &two.member).await.unwrap();
    };
    let (refused, ()) = tokio::join!(two.near.ask_long(sending), gone);
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text);
    assert!(refused.text.contains("server 'far', which this is for, does not answer"), "{}", refused.text);
    two.far.ended().await;
}

/// Opens a connection to a claw's gateway through a server: the connection, and the status line.
async fn forwarded(near: &Farm, id: &str) -> (DuplexStream, String) {
    let mut stream = near.connect();
    let head = format!(
        "GET /api/v1/instances/{id}/port-forward HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let byte = tokio::time::timeout(LIMIT, stream.read_u8()).await.expect("it is answered").unwrap();
        answer.push(byte);
    }
    (stream, String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn connections_to_claws_elsewhere_are_shared_out_and_take_no_console_s_place() {
    let two = Two::new().await;
    let mut ids = Vec::new();
    for name in ["alice", "bob"] {
        let made = two.near.post("/api/v1/instances", &new_on_far(name)).await.json();
        let ended = two.near.ended(made["operation"]["id"].as_str().unwrap()).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        ids.push(made["instance"]["id"].as_str().unwrap().to_owned());
    }
    // One claw has its share, by whatever name it is called, ...
    let mut open = Vec::new();
    let refused = loop {
        let (stream, status) = forwarded(&two.near, [&*ids[0], "alice"][open.len() % 2]).await;
        if !status.contains(" 101 ") {
            break status;
        }
        open.push(stream);
        assert!(open.len() < 400, "one claw takes all");
    };
    assert!(refused.contains(" 429 "), "{refused}");
    // ... and another one gets more than there are consoles (256).
    while open.len() <= 256 {
        let (stream, status) = forwarded(&two.near, &ids[1]).await;
        assert!(status.contains(" 101 "), "{}: {status}", open.len());
        open.push(stream);
    }
    drop(open);
    two.far.ended().await;
}
