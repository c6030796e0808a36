//! A server's parts on a simulated world, in a folder of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use clawfarm_adapters::Registry;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_client::{Client, Endpoint};
use clawfarm_control::{Control, Parts};
use clawfarm_model::Result;
use clawfarm_model::name::TargetName;
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_runtime_sim::{SimConfig, SimRuntime};
use clawfarm_server::{ClawListener, HomeLock, PeersConfig, ServerConfig, ServerState, StateConfig, serve};
use clawfarm_store::{MasterKey, Store, StoreConfig};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) const TOKEN: &str = "the-token-of-this-test-0123456789abcdef";
/// A busy machine takes longer than the few hundred milliseconds that anything here needs.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A router without listeners.
pub(crate) struct Farm {
    router: Router,
    _dir: Option<tempfile::TempDir>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Farm {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = control(dir.path()).await;
        let farm = Self::over(control, dir.path());
        Self { _dir: Some(dir), ..farm }
    }

    /// The routes of a server that runs.
    pub(crate) fn over(control: Control, home: &std::path::Path) -> Self {
        Self::among(control, home, None)
    }

    /// The routes of a server that knows others.
    pub(crate) fn among(control: Control, home: &std::path::Path, peers: Option<PeersConfig>) -> Self {
        let router = clawfarm_server::router(&ServerState::new(StateConfig {
            control,
            home: home.to_owned(),
            admin_token: (&SecretString::from(TOKEN)).into(),
            listen: None,
            shutdown: CancellationToken::new(),
            peers,
        }));
        Self { router, _dir: None }
    }

    /// Asks, and leaves the answer's body unread: the request holds its place.
    pub(crate) async fn hold(&self, path: &str) -> Response<Body> {
        self.raw(request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    /// As [`Self::ask`], for what may take two of the server's own limits.
    pub(crate) async fn ask_long(&self, request: Request<Body>) -> Answer {
        let answer = tokio::time::timeout(3 * LIMIT, self.router.clone().oneshot(request));
        Self::read(answer.await.expect("an answer").unwrap()).await
    }

    /// A connection on which the routes answer, for what becomes a WebSocket.
    pub(crate) fn connect(&self) -> DuplexStream {
        let (ours, theirs) = duplex(64 << 10);
        let routes = TowerToHyperService::new(self.router.clone());
        let served = http1::Builder::new().serve_connection(TokioIo::new(theirs), routes).with_upgrades();
        tokio::spawn(async move {
            let _ = served.await;
        });
        ours
    }

    /// Sends a request as it is.
    async fn raw(&self, request: Request<Body>) -> Response<Body> {
        tokio::time::timeout(LIMIT, self.router.clone().oneshot(request)).await.expect("an answer").unwrap()
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        Self::read(self.raw(request).await).await
    }

    async fn read(response: Response<Body>) -> Answer {
        let (parts, body) = response.into_parts();
        let whole =
            tokio::time::timeout(LIMIT, body.collect()).await.expect("the end of the answer").unwrap();
        // One answer is no text: the support bundle.
        let text = String::from_utf8_lossy(&whole.to_bytes()).into_owned();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(request(Method::DELETE, path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, &[], body).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = request(method, path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// A new instance; its id.
    pub(crate) async fn new_claw(&self, name: &str) -> String {
        let made = self
            .post(
                "/api/v1/instances",
                &format!(r#"{{"claw_type":"openclaw","name":"{name}","labels":{{"n":"{name}"}}}}"#),
            )
            .await;
        assert_eq!(made.status, 201, "{}", made.text);
        made.json()["instance"]["id"].as_str().unwrap().to_owned()
    }

    /// A new instance that is up; its id.
    pub(crate) async fn ready_claw(&self, name: &str) -> String {
        let id = self.new_claw(name).await;
        let operations = self.get(&format!("/api/v1/operations?instance={id}")).await.json();
        let operation = operations["items"][0]["id"].as_str().unwrap().to_owned();
        let ended = self.ended(&operation).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        id
    }

    pub(crate) async fn ended(&self, operation: &str) -> Value {
        let begun = std::time::Instant::now();
        let mut after = String::new();
        loop {
            let now = self.get(&format!("/api/v1/operations/{operation}?wait=10{after}")).await.json();
            if now["state"] != "running" {
                return now;
            }
            assert!(begun.elapsed() < LIMIT, "{operation} did not end: {now}");
            after = format!("&after={}", now["updated_at"].as_str().unwrap());
        }
    }
}

pub(crate) fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("authorization", format!("Bearer {TOKEN}"))
}

async fn control(home: &std::path::Path) -> Control {
    let key = MasterKey::load_or_create(&home.join("master.key")).unwrap();
    let store = Store::open(StoreConfig::sqlite(home.join("clawfarm.db"), key)).await.unwrap();
    let target = Target {
        name: TargetName::new("sim").unwrap(),
        runtime: RuntimeKind::Sim,
        labels: Default::default(),
        reachable_from: None,
        settings: Value::Null,
    };
    let runtime = SimRuntime::open(SimConfig::new(home.join("world"))).unwrap();
    let parts = Parts {
        store,
        adapters: Registry::new([Arc::new(OpenClaw) as _]),
        targets: vec![(target, Arc::new(runtime))],
        opener: None,
        sharing: None,
    };
    Control::begin(parts).await.unwrap()
}

/// A whole server with its listeners.
pub(crate) struct Running {
    pub(crate) control: Control,
    pub(crate) socket: PathBuf,
    pub(crate) claw_port: u16,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<()>>,
}

impl Running {
    pub(crate) async fn start(home: &std::path::Path) -> Self {
        Self::with(home, |_| {}).await
    }

    pub(crate) async fn with(home: &std::path::Path, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = config(home).await;
        change(&mut config);
        Self::of(config).await
    }

    pub(crate) async fn of(config: ServerConfig) -> Self {
        let running = Self {
            control: config.control.clone(),
            socket: config.socket.clone(),
            claw_port: config.claws.port(),
            stop: config.shutdown.clone(),
            task: tokio::spawn(serve(config)),
        };
        let client = running.client();
        let begun = std::time::Instant::now();
        while let Err(error) = client.ready().await {
            assert!(begun.elapsed() < LIMIT, "the server is not ready: {error}");
            assert!(!running.task.is_finished(), "the server ended: {:?}", running.task.await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.socket.clone()), SecretString::from(TOKEN))
    }

    pub(crate) async fn ended(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.expect("the server ends").unwrap().unwrap();
    }
}

pub(crate) async fn config(home: &std::path::Path) -> ServerConfig {
    ServerConfig {
        home: HomeLock::take(home).unwrap(),
        claws: ClawListener::bind(home).await.unwrap(),
        control: control(home).await,
        socket: home.join("clawfarm.sock"),
        listen: None,
        tls: None,
        allow_plaintext: false,
        admin_token: (&SecretString::from(TOKEN)).into(),
        peers: None,
        listener: None,
        shutdown: CancellationToken::new(),
    }
}
