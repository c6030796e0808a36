//! A real OpenClaw, as the adapter starts it: it answers with the demo model, is busy when it
//! works, drains, and goes on.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_adapters::demo::{self, ChatRequest, Step};
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_adapters::{
    Access, Activity, ClawAdapter as _, Connection, Dial, Impact, InForce, Probe, SendEvent,
};
use clawfarm_model::config::ConfigMode;
use clawfarm_model::{Code, Error, InstanceSpec, Launch, Place, Result};
use futures::StreamExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::cases::{TOKEN, place, render, spec};
use crate::{real, wire};

/// 8 to 22 s on two idle cores; tests share them with compilers.
const START: Duration = Duration::from_secs(240);
/// A first turn takes 5 to 16 s.
const TURN: Duration = Duration::from_secs(120);

struct Tcp(u16);

#[async_trait]
impl Dial for Tcp {
    async fn dial(&self) -> Result<Box<dyn Connection>> {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, self.0)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(Error::new(Code::Unavailable, "nothing listens").source(e)),
        }
    }
}

/// Serves the demo model as the server will; returns where.
async fn serve_demo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    port
}

async fn answer(mut stream: TcpStream) {
    let mut buffer = Vec::new();
    while let Some(request) = wire::read(&mut stream, &mut buffer).await {
        assert_eq!(request.path, "/demo/v1/chat/completions");
        assert!(request.head.contains("authorization: bearer plain-demo-key\r\n"), "{}", request.head);
        let chat: ChatRequest = serde_json::from_slice(&request.body).expect("a chat request");
        let mut sent = wire::head(&mut stream, 200, "text/event-stream").await;
        for step in demo::answer(&chat).steps(&chat, "chatcmpl-1", 1) {
            match step {
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Send(text) => sent = sent.and(wire::piece(&mut stream, text.as_bytes()).await),
            }
        }
        if sent.and(wire::piece(&mut stream, b"").await).is_err() {
            return;
        }
    }
}

/// Folders of its own, under `home`.
fn place_in(home: &Path, port: u16, demo_port: u16) -> Place {
    let mut here = place();
    here.install_dir = real::install();
    here.state_dir = home.join("state");
    here.workspace_dir = home.join("workspace");
    here.log_dir = home.join("logs");
    here.tmp_dir = home.join("tmp");
    for folder in [&here.state_dir, &here.workspace_dir, &here.log_dir, &here.tmp_dir] {
        std::fs::create_dir(folder).expect("a folder");
    }
    here.port = port;
    here.host_url = format!("http://127.0.0.1:{demo_port}");
    here
}

fn start(launch: &Launch, here: &Place) -> Child {
    for file in &launch.files {
        std::fs::write(here.state_dir.join(&file.path), file.contents.expose_secret())
            .expect("it is written");
    }
    let output = std::fs::File::create(here.log_dir.join("output")).expect("a file");
    Command::new(&launch.argv[0])
        .args(&launch.argv[1..])
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value.expose_secret())))
        .current_dir(&launch.cwd)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file"))
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

/// Asks `look` until it says yes.
async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, mut look: impl FnMut() -> F) {
    let all = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(limit, all).await.unwrap_or_else(|_| panic!("waited {limit:?} for {what}"));
}

async fn say(access: &Access<'_>, message: &str) -> String {
    let turn = async {
        let events: Vec<_> = OpenClaw.send(access, message).await.expect("it is taken").collect().await;
        let mut text = String::new();
        for event in &events {
            match event.as_ref().expect("no error") {
                SendEvent::Text { text: piece } => text.push_str(piece),
                SendEvent::Done { input_tokens, output_tokens } => {
                    assert!(input_tokens.is_some() && output_tokens.is_some(), "it tells its usage");
                }
            }
        }
        assert!(matches!(events.last(), Some(Ok(SendEvent::Done { .. }))));
        text
    };
    tokio::time::timeout(TURN, turn)
        .await
        .unwrap_or_else(|_| panic!("waited {TURN:?} for an answer to '{message}'"))
}

#[tokio::test]
async fn real_openclaw_answers_drains_and_goes_on() {
    let home = tempfile::tempdir().expect("a folder");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let here = place_in(home.path(), port, serve_demo().await);
    let demo = spec(json!({"model": {"provider": "demo"}}), ConfigMode::Seeded);
    let launch = render(&demo, &here, &BTreeMap::new()).launch;
    let mut claw = start(&launch, &here);
    let dial = Tcp(port);
    let access = Access { dial: &dial, token: &SecretString::from(TOKEN) };

    until("the startup probe", START, || async {
        OpenClaw.probe_startup(access.dial).await == Probe::Passed
    })
    .await;
    assert_eq!(OpenClaw.probe_liveness(access.dial).await, Probe::Passed);
    let idle = || async { OpenClaw.activity(&access).await.expect("it says what it does") == Activity::Idle };
    until("it to finish its start", TURN, idle).await;
    assert!(say(&access, "hello there").await.starts_with("[clawfarm demo model] You said: hello there"));

    // While it works it says so, and a drain that may not wait changes nothing.
    let busy = async {
        until("it to be busy", TURN, || async { !idle().await }).await;
        let drained = OpenClaw.drain(&access, Duration::ZERO).await.expect("it answers");
        assert!(matches!(drained, Activity::Busy(on) if !on.is_empty()), "it works");
    };
    let (answer, ()) = tokio::join!(say(&access, "please take 6 seconds"), busy);
    assert!(answer.contains("This is message 2 of our conversation; it began with: hello there"), "{answer}");

    // A drain that may wait waits; then nothing is taken, until it is taken back.
    let drained = async {
        until("it to be busy", TURN, || async { !idle().await }).await;
        OpenClaw.drain(&access, TURN).await.expect("it answers")
    };
    let (_, drained) = tokio::join!(say(&access, "take 3 seconds"), drained);
    assert_eq!(drained, Activity::Idle);
    assert!(matches!(OpenClaw.probe_startup(access.dial).await, Probe::Failed(_)));
    assert_eq!(OpenClaw.send(&access, "x").await.map(|_| ()).unwrap_err().code(), Code::Unavailable);
    OpenClaw.undrain(&access).await.expect("it goes on");
    assert!(say(&access, "and now").await.contains("message 4"));
    takes_up_what_is_written(&access, &demo, &here).await;
    knows_what_needs_a_start(&access).await;

    // It kept its configuration, and the next start would change nothing in it.
    let kept = present(&here);
    let again = render(&spec(last_config(), ConfigMode::Seeded), &here, &kept);
    assert!(again.warnings.is_empty());
    let document = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("it is JSON");
    let next = &again.launch.files[0].contents;
    assert_eq!(document(next.expose_secret().as_bytes()), document(&kept[Path::new("openclaw.json")]));

    let pid = claw.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("it runs").success());
    let ended =
        tokio::time::timeout(OpenClaw.stop_grace(), claw.wait()).await.expect("it ends within its grace");
    assert_eq!(ended.expect("it is waited for").code(), Some(0));
    no_secret_in(home.path()).await;
}

/// The configuration that it is changed to while it runs.
fn last_config() -> Value {
    json!({
        "model": {"provider": "demo"}, "tools": {"exec": {"mode": "deny"}},
        "agents": {"timeout_secs": 300, "entries": {"ops": {"title": "Ops"}}},
    })
}

/// What is written while it runs is in force a moment later, when it is good; and only then.
async fn takes_up_what_is_written(access: &Access<'_>, was: &InstanceSpec, here: &Place) {
    let rendered = |spec: &InstanceSpec| -> BTreeMap<PathBuf, Vec<u8>> {
        let launch = render(spec, here, &present(here)).launch;
        let files = launch.files.iter();
        files.map(|file| (file.path.clone(), file.contents.expose_secret().as_bytes().to_vec())).collect()
    };
    let asked = |files: BTreeMap<PathBuf, Vec<u8>>| async move {
        OpenClaw.in_force(access, &files).await.expect("it says what it goes by")
    };
    assert_eq!(asked(rendered(was)).await, InForce::Yes);
    let is = spec(last_config(), ConfigMode::Seeded);
    assert_eq!(OpenClaw.impact(was, &is), Impact::Hot);
    let files = rendered(&is);
    assert!(matches!(asked(files.clone()).await, InForce::Not(_)), "nothing was written yet");
    write(here, &files);
    until("the change to be in force", TURN, || async { asked(files.clone()).await == InForce::Yes }).await;
    // It has two agents now, and is still spoken to as one.
    until("it to be done with the change", TURN, || async {
        OpenClaw.activity(access).await.expect("it says what it does") == Activity::Idle
    })
    .await;
    assert!(say(access, "hello again").await.contains("hello again"));

    let config = Path::new("openclaw.json");
    let mut bad = files.clone();
    bad.insert(config.to_owned(), br#"{"no-such-key": 1}"#.to_vec());
    write(here, &bad);
    until("it to refuse what is no configuration", TURN, || async {
        matches!(asked(files.clone()).await, InForce::Not(why) if why.iter().any(|it| it.contains("no-such-key")))
    })
    .await;
    write(here, &files);
    until("it to have its file again", TURN, || async { asked(files.clone()).await == InForce::Yes }).await;
}

/// What `impact` says of a setting is what the claw says of it.
async fn knows_what_needs_a_start(access: &Access<'_>) {
    let mut otherwise = Vec::new();
    for path in [
        "agents.defaults.timeoutSeconds",
        "agents.defaults.model.primary",
        "browser.enabled",
        "channels.telegram.enabled",
        "commands.bash",
        "cron.enabled",
        "diagnostics.enabled",
        "diagnostics.otel.endpoint",
        "env.vars",
        "env.shellEnv.enabled",
        "gateway.auth.rateLimit.maxAttempts",
        "gateway.controlUi.basePath",
        "gateway.controlUi.environment.label",
        "gateway.controlUi.root",
        "gateway.http.endpoints.responses.enabled",
        "gateway.nodes.pairing",
        "gateway.publicOrigin",
        "gateway.reload.mode",
        "gateway.terminal.enabled",
        "gateway.tools.deny",
        "hooks.path",
        "logging.level",
        "mcp.servers",
        "memory.citations",
        "memory.search.enabled",
        "messages.responsePrefix",
        "plugins.entries",
        "proxy.proxyUrl",
        "secrets.defaults.env",
        "session.scope",
        "skills.load.watch",
        "tools.exec.host",
        "update.channel",
    ] {
        let says = rpc(access, "config.schema.lookup", &json!({"path": path})).await;
        let kind = says["payload"]["reloadKind"].as_str().unwrap_or_else(|| panic!("{path}: {says}"));
        let native = path.rsplit('.').fold(json!("x"), |value, key| json!({ key: value }));
        let bare = spec(json!({}), ConfigMode::Managed);
        let ours = OpenClaw.impact(&bare, &spec(json!({ "native": native }), ConfigMode::Managed));
        if ours.is_restart() != (kind == "restart") {
            otherwise.push(format!("{path}: {kind} is {ours:?}"));
        }
    }
    assert!(otherwise.is_empty(), "{otherwise:#?}");
}

/// A call of the admin RPC.
async fn rpc(access: &Access<'_>, method: &str, params: &Value) -> Value {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let body = json!({"method": method, "params": params}).to_string();
    let mut stream = access.dial.dial().await.expect("it listens");
    let request = format!(
        "POST /api/v1/admin/rpc HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("it takes a request");
    let mut answer = String::new();
    let read = tokio::time::timeout(TURN, stream.read_to_string(&mut answer)).await;
    read.expect("it answers in time").expect("it answers");
    let (start, end) = (answer.find('{'), answer.rfind('}'));
    let body = start.zip(end).map(|(start, end)| &answer[start..=end]);
    serde_json::from_str(body.unwrap_or_default()).unwrap_or_else(|e| panic!("{method}: {e}: {answer}"))
}

/// The claw's files, as they are met at the next start.
fn present(here: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| Some((path.clone(), std::fs::read(here.state_dir.join(&path)).ok()?));
    OpenClaw.existing_files().into_iter().filter_map(read).collect()
}

/// Writes files as a runtime does: each is there at once, whole.
fn write(here: &Place, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, contents) in files {
        let beside = here.state_dir.join("being-written");
        std::fs::write(&beside, contents).expect("it is written");
        std::fs::rename(&beside, here.state_dir.join(path)).expect("it is put in place");
    }
}

/// No file of the claw's holds the gateway token or the demo model's key. (`grep`, because
/// there are 100 MB to look through.)
async fn no_secret_in(folder: &Path) {
    let grep = ["-r", "-l", "-F", "-e", TOKEN, "-e", crate::cases::MODEL_KEY];
    let found = Command::new("grep").args(grep).arg(folder).output().await.expect("it runs");
    assert_eq!(found.status.code(), Some(1), "{}", String::from_utf8_lossy(&found.stdout));
}
