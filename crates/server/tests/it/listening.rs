//! The listeners.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use clawfarm_client::{Client, Endpoint};
use clawfarm_model::name::TenantName;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{ClawId, Code, Context};
use clawfarm_server::{HomeLock, Tls, serve};
use clawfarm_store::{MasterKey, Store, StoreConfig};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::farm::{LIMIT, Running, TOKEN, config};

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_a_stale_one_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("clawfarm.sock");
    drop(UnixListener::bind(&path).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let server = Running::start(home.path()).await;
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(home.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".socket"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    server.ended().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_home_serves_one_server() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let error = HomeLock::take(home.path()).unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.message().contains(&std::process::id().to_string()), "{error}");
    server.ended().await;
    HomeLock::take(home.path()).expect("free after the end");
}

#[tokio::test]
async fn a_long_home_is_no_obstacle() {
    let outer = tempfile::tempdir().unwrap();
    let home = outer.path().join("h".repeat(120)).join("o".repeat(120));
    std::fs::create_dir_all(&home).unwrap();
    let server = Running::start(&home).await;
    let info = server.client().server().await.unwrap();
    assert_eq!(info.home, home.display().to_string());
    assert_eq!(info.pid, std::process::id());
    server.ended().await;
}

#[tokio::test]
async fn beyond_loopback_it_wants_tls_or_insistence() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path()).await;
    config.listen = Some(SocketAddr::from(([0, 0, 0, 0], 0)));
    let error = serve(config).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("listen")));
    assert!(error.fix_text().is_some_and(|fix| fix.contains("tls")), "{error}");
}

#[tokio::test]
async fn tcp_on_loopback_serves_the_same_with_the_same_token() {
    let home = tempfile::tempdir().unwrap();
    let server =
        Running::with(home.path(), |config| config.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0))))
            .await;
    let listen = server.client().server().await.unwrap().listen.unwrap();
    let endpoint: Endpoint = format!("http://{listen}").parse().unwrap();
    Client::new(endpoint.clone(), SecretString::from(TOKEN)).server().await.unwrap();
    let error = Client::new(endpoint, SecretString::from("wrong")).server().await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    server.ended().await;
}

#[tokio::test]
async fn tls_is_spoken_with_the_certificate_that_was_given() {
    let home = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls { certificate: home.path().join("cert.pem"), key: home.path().join("key.pem") };
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let ca = tls.certificate.clone();
    let server = Running::with(home.path(), |config| {
        config.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.tls = Some(tls);
    })
    .await;
    let listen: SocketAddr = server.client().server().await.unwrap().listen.unwrap().parse().unwrap();
    let at = |ca| Endpoint::Https { host: "localhost".into(), port: listen.port(), ca };
    let client = Client::new(at(Some(ca)), SecretString::from(TOKEN));
    assert_eq!(client.server().await.unwrap().pid, std::process::id());
    let stranger = Client::new(at(None), SecretString::from(TOKEN)).server().await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unavailable, "an unknown authority is not trusted: {stranger}");
    server.ended().await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_does_not_hold_the_end_up() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let silent = UnixStream::connect(&server.socket).await.unwrap();
    let mut half = UnixStream::connect(&server.socket).await.unwrap();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    server.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    drop((silent, half));
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let mut stream = UnixStream::connect(&server.socket).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    let line = format!("x-filler: {}\r\n", "y".repeat(8000));
    for _ in 0..20 {
        // The server hangs up midway; what was not taken does not matter.
        if stream.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an end");
    let text = String::from_utf8_lossy(&answer);
    assert!(read.is_err() || text.starts_with("HTTP/1.1 431"), "{text}");
    server.ended().await;
}

/// Asks the listener for claws; returns the answer with its head.
async fn claw_asks(port: u16, path: &str, key: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    answer
}

#[tokio::test]
async fn the_demo_model_answers_claws_with_their_own_key_and_nothing_else_is_there() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let new = clawfarm_api::CreateInstance { claw_type: "openclaw".into(), ..Default::default() };
    let id: ClawId = client.create(&new, None).await.unwrap().instance.id;
    for key in [TOKEN, "x", "", &format!("{id}.wrong"), "nobody-x7k2b.wrong", "..", "é.é"] {
        let answer = claw_asks(server.claw_port, "/demo/v1/models", key, "").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{key}: {answer}");
        assert!(answer.contains("demo model"));
    }
    let key = key_of(home.path(), &id).await;
    for path in ["/api/v1/instances", "/metrics", "/healthz"] {
        let answer = claw_asks(server.claw_port, path, TOKEN, "").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
        let answer = claw_asks(server.claw_port, path, &key, "").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    let answer = claw_asks(server.claw_port, "/demo/v1/models", &key, "").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("clawfarm"), "{answer}");
    let chat = r#"{"model":"demo","messages":[{"role":"user","content":"ping"}]}"#;
    let answer = claw_asks(server.claw_port, "/demo/v1/chat/completions", &key, chat).await;
    assert!(answer.contains("[clawfarm demo model]") && answer.contains("ping"), "{answer}");
    let chat = chat.replace("\"model\"", "\"stream\":true,\"model\"");
    let answer = claw_asks(server.claw_port, "/demo/v1/chat/completions", &key, &chat).await;
    assert!(answer.contains("text/event-stream") && answer.contains("data: [DONE]"), "{answer}");
    let answer = claw_asks(server.claw_port, "/demo/v1/chat/completions", &key, "{").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    server.ended().await;
}

#[tokio::test]
async fn a_claw_wakes_another_with_its_own_key_alone() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let new = clawfarm_api::CreateInstance { claw_type: "openclaw".into(), ..Default::default() };
    let caller: ClawId = client.create(&new, None).await.unwrap().instance.id;
    let asleep: ClawId = client.create(&new, None).await.unwrap().instance.id;
    until(&client, asleep.as_str(), "ready").await;
    let request = clawfarm_api::SuspendRequest { warm: false, force: true };
    client.suspend(asleep.as_str(), request).await.unwrap();
    until(&client, asleep.as_str(), "suspended").await;
    let key = key_of(home.path(), &caller).await;
    let path = format!("/wake/v1/instances/{asleep}");
    for (key, path, expected) in [
        (TOKEN, path.as_str(), "401"),
        (key.as_str(), "/wake/v1/instances/nobody-x7k2b", "404"),
        (key.as_str(), "/wake/v1/instances/..", "404"),
        (key.as_str(), path.as_str(), "202"),
    ] {
        let answer = claw_asks(server.claw_port, path, key, "{}").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{path}: {answer}");
    }
    until(&client, asleep.as_str(), "ready").await;
    server.ended().await;
}

/// Waits until an instance is in a phase.
async fn until(client: &Client, id: &str, phase: &str) {
    let begun = std::time::Instant::now();
    loop {
        let now = client.instance(id).await.unwrap().phase.to_string();
        if now == phase {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {id} is {phase}; it is {now}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_servers_files_are_imported_for_nobody_from_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    let from = tempfile::tempdir().unwrap();
    std::fs::write(from.path().join("openclaw.json"), "{}").unwrap();
    let server =
        Running::with(home.path(), |config| config.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0))))
            .await;
    let listen = server.client().server().await.unwrap().listen.unwrap();
    let far = Client::new(format!("http://{listen}").parse::<Endpoint>().unwrap(), SecretString::from(TOKEN));
    let new = clawfarm_api::CreateInstance {
        claw_type: "openclaw".into(),
        import: Some(from.path().to_str().unwrap().into()),
        ..Default::default()
    };
    let error = far.create(&new, None).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("import")));
    assert!(far.instances(&Default::default()).await.unwrap().items.is_empty());
    server.client().create(&new, None).await.unwrap();
    server.ended().await;
}

#[tokio::test]
async fn a_claw_that_takes_every_connection_keeps_nobody_from_the_server() {
    // Both ends of each connection are in this process.
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limits.maximum, ..limits };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let mut held = Vec::new();
    // Beyond the listener's places they wait in the kernel's queue until that is full, too.
    for _ in 0..2100 {
        let connecting = TcpStream::connect(("127.0.0.1", server.claw_port));
        match tokio::time::timeout(Duration::from_secs(2), connecting).await {
            Ok(stream) => held.push(stream.unwrap()),
            Err(_) => break,
        }
    }
    assert!(held.len() > 512, "{}", held.len());
    let begun = Instant::now();
    server.client().server().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(held);
    server.ended().await;
}

#[tokio::test]
async fn one_claw_has_so_many_requests_at_a_time_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let new = clawfarm_api::CreateInstance { claw_type: "openclaw".into(), ..Default::default() };
    let id: ClawId = server.client().create(&new, None).await.unwrap().instance.id;
    let key = key_of(home.path(), &id).await;
    let mut held = Vec::new();
    for _ in 0..16 {
        // A body that never comes.
        let mut stream = TcpStream::connect(("127.0.0.1", server.claw_port)).await.unwrap();
        let head = format!(
            "POST /demo/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 9\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let begun = Instant::now();
    loop {
        let answer = claw_asks(server.claw_port, "/demo/v1/models", &key, "").await;
        if answer.starts_with("HTTP/1.1 429") {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "never refused: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(held);
    loop {
        let answer = claw_asks(server.claw_port, "/demo/v1/models", &key, "").await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "its places were not given back: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.ended().await;
}

/// The key that the claw is given, as the store has it.
async fn key_of(home: &std::path::Path, id: &ClawId) -> String {
    let key = MasterKey::load_or_create(&home.join("master.key")).unwrap();
    let store = Store::open(StoreConfig::sqlite(home.join("clawfarm.db"), key)).await.unwrap();
    let owner = SecretOwner::Instance(TenantName::default_tenant(), id.clone());
    let name = SecretName::new("clawfarm.model-key").unwrap();
    let system = Context::system("test");
    let begun = Instant::now();
    loop {
        if let Some(key) = store.secret_value(&system, &owner, &name).await.unwrap() {
            return format!("{id}.{}", key.expose_secret());
        }
        assert!(begun.elapsed() < LIMIT, "{id} got no key");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
