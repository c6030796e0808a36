//! A fleet for the edge, an edge before it, and a client.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use clawfarm_edge::{
    BaseDomain, Connection, Directory, Edge, EdgeConfig, EdgeTls, Limits, Listener, Message, Person, Place,
    Sender, Site, SiteState, serve,
};
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::inbox::{InboxRoute, Proof};
use clawfarm_model::{ClawId, Code, Error, Result, Timestamp};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

/// As long as anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The header that claws here believe.
pub(crate) const USER_HEADER: &str = "x-clawfarm-user-0123";

/// What a claw here is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Awake,
    Asleep,
    Down,
}

/// A claw of the fleet.
pub(crate) struct Known {
    pub(crate) state: State,
    pub(crate) address: SocketAddr,
    pub(crate) run: i64,
    /// By default long ago.
    pub(crate) up_since: Timestamp,
    pub(crate) identity: Identity,
    /// What it is when it has been woken; `None`: it can't be.
    pub(crate) wakes_at: Option<SocketAddr>,
}

/// The fleet.
pub(crate) struct Fleet {
    pub(crate) claws: Mutex<HashMap<String, Known>>,
    /// How often each was woken.
    pub(crate) wakes: AtomicU64,
    /// Where services leave messages for each of them.
    pub(crate) routes: Vec<InboxRoute>,
    /// The messages that were taken in.
    pub(crate) taken: Mutex<Vec<Message>>,
    /// What the messages asked for that were lined up.
    pub(crate) targets: Mutex<Vec<String>>,
    /// Whether earlier ones wait.
    pub(crate) waits: AtomicBool,
    /// A wake takes one.
    pub(crate) may_wake: Semaphore,
    /// Tickets that were used.
    pub(crate) spent: Mutex<HashSet<String>>,
    /// How often it was asked for a claw.
    pub(crate) looks: AtomicU64,
}

impl Fleet {
    fn site(&self, id: &ClawId) -> Option<Arc<Site>> {
        let claws = self.claws.lock().unwrap();
        let known = claws.get(id.as_str())?;
        Some(Arc::new(Site {
            id: id.clone(),
            name: id.as_str().split('-').next().unwrap().to_owned(),
            tenant: "default".into(),
            claw_type: "openclaw".into(),
            runtime: "sim",
            run: known.run,
            state: match known.state {
                State::Awake => SiteState::Awake,
                State::Asleep => SiteState::Asleep { warm: false },
                State::Down => SiteState::Down(
                    Error::new(Code::Conflict, format!("'{id}' is stopped")).fix("clawfarm start it"),
                ),
            },
            up_since: known.up_since,
            identity: known.identity.clone(),
            token: token_of(id.as_str()).into(),
            rules: Arc::new(PathRules {
                closed: vec!["/api/v1/admin".into()],
                inbox: ["/hooks", "/telegram", "/feishu", "/unproven"].map(String::from).into(),
            }),
            inbox: Arc::new(self.routes.clone()),
        }))
    }
}

/// Where services leave messages.
fn routes() -> Vec<InboxRoute> {
    let route = |path: &str, proof, accepted: Option<&str>| InboxRoute {
        path: path.into(),
        listener: None,
        proof,
        accepted: accepted.map(str::to_owned),
    };
    vec![
        route("/hooks", Proof::Token { token: "hook".into(), header: None }, None),
        route("/hooks/open", Proof::Open, None),
        route("/telegram", Proof::Telegram { secret: "tg".into() }, Some("x-durable")),
        route("/feishu", Proof::Feishu { token: "fs".into(), encrypt_key: None }, None),
    ]
}

/// A claw's gateway token.
pub(crate) fn token_of(id: &str) -> String {
    format!("token-of-{id}")
}

#[async_trait]
impl Directory for Fleet {
    async fn look_up(&self, id: &ClawId) -> Result<Option<Arc<Site>>> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        Ok(self.site(id))
    }

    async fn look_again(&self, id: &ClawId) -> Result<Option<Arc<Site>>> {
        Ok(self.site(id))
    }

    async fn wake(&self, id: &ClawId) -> Result<Arc<Site>> {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        self.may_wake.acquire().await.unwrap().forget();
        let mut claws = self.claws.lock().unwrap();
        let known = claws.get_mut(id.as_str()).unwrap();
        let Some(address) = known.wakes_at else {
            return Err(Error::new(Code::Insufficient, "no memory is left").fix("stop another"));
        };
        (known.address, known.state, known.run) = (address, State::Awake, known.run + 1);
        drop(claws);
        Ok(self.site(id).unwrap())
    }

    async fn dial(&self, id: &ClawId) -> Result<Box<dyn Connection>> {
        let address = self.claws.lock().unwrap().get(id.as_str()).unwrap().address;
        match TcpStream::connect(address).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(Error::new(Code::Unavailable, "nothing listens").source(error)),
        }
    }

    async fn dial_at(&self, id: &ClawId, _address: SocketAddr) -> Result<Box<dyn Connection>> {
        self.dial(id).await
    }

    async fn line_up(&self, _id: &ClawId, sender: Sender<'_>) -> Result<Place> {
        self.targets.lock().unwrap().push(sender.target.to_owned());
        Ok(Place {
            id: format!("in-{}", sender.number.unwrap_or("1")),
            lane: format!("{} {}", sender.path, sender.conversation),
            waits: self.waits.load(Ordering::Relaxed),
        })
    }

    async fn accept(&self, id: &ClawId, message: Message) -> Result<()> {
        match id.as_str() {
            "full-1" => Err(Error::new(Code::Overloaded, "10000 messages wait")),
            "large-1" => Err(Error::new(Code::Insufficient, "too large together")),
            "broken-1" => Err(Error::new(Code::Unavailable, "the disk is full")),
            _ => {
                self.taken.lock().unwrap().push(message);
                Ok(())
            }
        }
    }

    async fn sign_in(&self, token: &SecretString) -> Result<Person> {
        match token.expose_secret() {
            "ann's token" => Ok(self.person("ann").await?.unwrap()),
            _ => Err(Error::new(Code::Unauthenticated, "nobody's")),
        }
    }

    async fn spend(&self, ticket: &str, _until: u64) -> Result<bool> {
        Ok(self.spent.lock().unwrap().insert(ticket.to_owned()))
    }

    async fn person(&self, name: &str) -> Result<Option<Person>> {
        Ok((name == "ann").then(|| Person { name: "ann".into(), bound: "b".into() }))
    }

    async fn site_of(&self, user: &str, id: &ClawId) -> Result<Option<Arc<Site>>> {
        Ok(self.site(id).filter(|_| user == "ann"))
    }

    async fn sites(&self, _user: &str) -> Result<Vec<Arc<Site>>> {
        let ids: Vec<String> = self.claws.lock().unwrap().keys().cloned().collect();
        Ok(ids.iter().filter_map(|id| self.site(&ClawId::new(id.clone()).unwrap())).collect())
    }
}

/// An edge that listens.
pub(crate) struct Farm {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) edge: Arc<Edge>,
    pub(crate) address: SocketAddr,
    pub(crate) stopping: CancellationToken,
    _ends: DropGuard,
}

impl Farm {
    pub(crate) async fn new() -> Self {
        Self::with(|config| config).await
    }

    /// With other limits.
    pub(crate) async fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        Self::with(|mut config| {
            change(&mut config.limits);
            config
        })
        .await
    }

    pub(crate) async fn with(change: impl FnOnce(EdgeConfig) -> EdgeConfig) -> Self {
        Self::over(None, change).await
    }

    /// Over TLS, when there is a certificate.
    pub(crate) async fn over(tls: Option<EdgeTls>, change: impl FnOnce(EdgeConfig) -> EdgeConfig) -> Self {
        let fleet = Arc::new(Fleet {
            claws: Mutex::default(),
            wakes: AtomicU64::new(0),
            routes: routes(),
            taken: Mutex::default(),
            targets: Mutex::default(),
            waits: AtomicBool::new(false),
            may_wake: Semaphore::new(0),
            spent: Mutex::default(),
            looks: AtomicU64::new(0),
        });
        let config = change(EdgeConfig {
            base: BaseDomain::new("claws.test").unwrap(),
            key: "a key".into(),
            hold: LIMIT,
            hsts: None,
            page_after: Duration::from_millis(200),
            limits: Limits::default(),
            proxies: None,
            paths: false,
        });
        let edge = Arc::new(Edge::new(fleet.clone(), config));
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), tls).await.unwrap();
        let address = listener.address().unwrap();
        let stopping = CancellationToken::new();
        tokio::spawn(serve(edge.clone(), listener, stopping.clone(), LIMIT));
        Self { fleet, edge, address, _ends: stopping.clone().drop_guard(), stopping }
    }

    /// A claw of this name that is awake at an address.
    pub(crate) fn put(&self, id: &str, state: State, address: SocketAddr) {
        let identity = Identity::Header {
            name: USER_HEADER.into(),
            user: "owner".into(),
            origin: "http://clawfarm.internal".into(),
        };
        let up_since = Timestamp::from_millis(0);
        let known = Known { state, address, run: 1, up_since, identity, wakes_at: Some(address) };
        self.fleet.claws.lock().unwrap().insert(id.into(), known);
    }

    pub(crate) fn change(&self, id: &str, change: impl FnOnce(&mut Known)) {
        change(self.fleet.claws.lock().unwrap().get_mut(id).unwrap());
    }

    pub(crate) fn looks(&self) -> u64 {
        self.fleet.looks.load(Ordering::Relaxed)
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.fleet.wakes.load(Ordering::Relaxed)
    }

    /// The name of a claw, as a browser has it.
    pub(crate) fn host(&self, id: &str) -> String {
        format!("{id}.claws.test:{}", self.address.port())
    }

    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        tokio::time::timeout(LIMIT, sender.send_request(request)).await.expect("it is answered").unwrap()
    }

    /// Asks for a path of a claw with its token.
    pub(crate) async fn get(&self, id: &str, path: &str) -> Answer {
        let request = self.request("GET", id, path).header("authorization", bearer(id));
        Answer::of(self.ask(request.body(Full::default()).unwrap()).await).await
    }

    pub(crate) fn request(&self, method: &str, id: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header("host", self.host(id))
    }

    /// A session at a claw, as its cookie.
    pub(crate) async fn session(&self, id: &str) -> String {
        let site = self.fleet.look_up(&ClawId::new(id).unwrap()).await.unwrap().unwrap();
        let ann = self.fleet.person("ann").await.unwrap().unwrap();
        let ticket = self.edge.ticket(&site, &ann).unwrap();
        let request = self.request("GET", id, &ticket).body(Full::default()).unwrap();
        let answer = self.ask(request).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }
}

pub(crate) fn bearer(id: &str) -> String {
    format!("Bearer {}", token_of(id))
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(LIMIT, body.collect()).await.expect("it ends").unwrap().to_bytes();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{self:?}"))
    }
}
