//! A home and a runtime of its own for each test, on an engine that is shared as a rule.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clawfarm_model::launch::{Launch, LaunchFile, Placement, Software, StopOptions};
use clawfarm_model::name::{ClawType, TargetName, TenantName};
use clawfarm_model::observed::Observation;
use clawfarm_model::resources::Resources;
use clawfarm_model::{ClawId, DataFate};
use clawfarm_runtime::{ExecOutput, ExecRequest, NoProgress, Runtime};
use clawfarm_runtime_docker::{DockerConfig, DockerRuntime};
use clawfarm_test_docker::{Engine, Kind, TINY};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// How long anything may take: a busy machine needs seconds for a container.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const GRACE: StopOptions = StopOptions { grace: Duration::from_secs(30) };

/// A claw that serves its state folder, says so, and ends when it is asked to.
pub(crate) const SERVES: &str =
    "echo ready; trap 'echo bye; exit 0' TERM; httpd -f -p 18789 -h /home/node/.openclaw & wait";

pub(crate) struct Farm {
    pub(crate) engine: Engine,
    pub(crate) home: TempDir,
    pub(crate) runtime: DockerRuntime,
    /// What stands for the server's listener for claws.
    pub(crate) server: TcpListener,
    ids: std::sync::Mutex<Vec<ClawId>>,
}

/// Makes each of these functions a test of Docker and one of Podman; those of `docker` are of it
/// alone, since Podman can't do what they look at (docs/docker.md says so).
macro_rules! on_engines {
    (both [$($test:ident)*] docker [$($only:ident)*]) => {
        mod docker {
            $crate::farm::on_engines! { @ Docker $($test)* $($only)* }
        }
        mod podman {
            $crate::farm::on_engines! { @ Podman $($test)* }
        }
    };
    (@ $kind:ident $($test:ident)*) => {
        $(#[tokio::test]
        async fn $test() {
            if let Some(farm) = $crate::farm::Farm::of(clawfarm_test_docker::Kind::$kind).await {
                super::$test(farm).await;
            }
        })*
    };
}
pub(crate) use on_engines;

impl Farm {
    /// `None` where no engine can be had.
    pub(crate) async fn of(kind: Kind) -> Option<Self> {
        if !Engine::possible() {
            return None;
        }
        Some(Self::on(Engine::shared_of(kind)).await)
    }

    pub(crate) async fn on(engine: Engine) -> Self {
        engine.with_tiny();
        // Before anything opens a socket: this test's threads are on the engine's network.
        engine.enter();
        let home = TempDir::new().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let runtime = open(&engine, &home, server.local_addr().unwrap().port()).await;
        Self { engine, home, runtime, server, ids: Default::default() }
    }

    /// A runtime as another server would open it.
    pub(crate) async fn again(&self) -> DockerRuntime {
        open(&self.engine, &self.home, self.server.local_addr().unwrap().port()).await
    }

    /// An id that no other test has.
    pub(crate) fn id(&self, name: &str) -> ClawId {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = ClawId::new(format!("{name}-{}x{number}", std::process::id())).unwrap();
        self.ids.lock().unwrap().push(id.clone());
        id
    }

    pub(crate) async fn placement(&self, id: &ClawId, tenant: &str) -> Placement {
        Placement {
            id: id.clone(),
            tenant: TenantName::new(tenant).unwrap(),
            software: Software {
                claw_type: ClawType::new("openclaw").unwrap(),
                version: "1".into(),
                npm: None,
                own: None,
                pip: None,
                image: Some(TINY.into()),
            },
            image: None,
            mark: None,
            vm: None,
            resources: resources(),
            port: self.runtime.pick_port(&Default::default()).await.unwrap(),
            dataset: None,
            record: serde_json::json!({"id": id}),
        }
    }

    /// Prepares and starts one; returns it with the port it is published on.
    pub(crate) async fn up(&self, id: &ClawId, script: &str) -> (Observation, u16) {
        let placement = self.placement(id, "default").await;
        self.runtime.ensure(&placement, &NoProgress).await.unwrap();
        (self.runtime.start(&launch(id, 1, script)).await.unwrap(), placement.port)
    }

    pub(crate) fn container(&self, id: &ClawId) -> String {
        format!("clawfarm-{id}")
    }

    /// The folder of an instance.
    pub(crate) fn dir(&self, id: &ClawId) -> PathBuf {
        self.home.path().join("claws").join(id.as_str())
    }

    /// The label by which this farm's things are known.
    pub(crate) fn server(&self) -> String {
        use sha2::{Digest, Sha256};
        let home = self.home.path().canonicalize().unwrap();
        let digest = Sha256::digest(home.to_str().unwrap().as_bytes());
        digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What a command prints in an instance, and how it ends.
    pub(crate) async fn run(&self, id: &ClawId, argv: &[&str]) -> (String, i32) {
        let argv = argv.iter().map(|&part| part.to_owned()).collect();
        let request = ExecRequest { argv, tty: None, term: None };
        let mut session = self.runtime.exec().unwrap().exec(id, request).await.unwrap();
        let mut printed = Vec::new();
        while let Some(piece) = tokio::time::timeout(LIMIT, session.output.recv()).await.unwrap() {
            match piece {
                ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => printed.extend_from_slice(&bytes),
                ExecOutput::Exit(code) => return (String::from_utf8(printed).unwrap(), code),
            }
        }
        panic!("it did not end, and printed {:?}", String::from_utf8_lossy(&printed));
    }

    /// Waits until what is seen of an instance is as wanted.
    pub(crate) async fn until(
        &self,
        what: &str,
        id: &ClawId,
        wanted: impl Fn(&Observation) -> bool,
    ) -> Observation {
        let began = Instant::now();
        loop {
            let seen = self.runtime.observe(id).await.unwrap();
            if wanted(&seen) {
                return seen;
            }
            assert!(began.elapsed() < LIMIT, "waited in vain until {what}: {seen:?}");
            pause().await;
        }
    }

    /// Removes what the test has made. Called at a test's end, so that what a failed one leaves
    /// goes with the engine.
    pub(crate) async fn clear(self) {
        let ids = self.ids.lock().unwrap().clone();
        for id in ids {
            self.runtime.destroy(&id, DataFate::Purge).await.unwrap();
        }
    }
}

async fn open(engine: &Engine, home: &TempDir, claw_port: u16) -> DockerRuntime {
    let mut config = DockerConfig::new(home.path(), TargetName::new("docker").unwrap());
    config.socket = engine.socket();
    config.claw_port = claw_port;
    DockerRuntime::open(config).await.unwrap()
}

pub(crate) fn resources() -> Resources {
    Resources { cpus: 1.0, memory_mib: 64 }
}

pub(crate) fn launch(id: &ClawId, run: i64, script: &str) -> Launch {
    Launch {
        id: id.clone(),
        run,
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/bin".into()), ("COLOUR".into(), "blue".into())],
        cwd: PathBuf::from("/home/node/.openclaw/workspace"),
        files: vec![
            LaunchFile { path: "openclaw.json".into(), contents: "{\"a\":1}".into(), read_only: false },
            LaunchFile { path: ".env".into(), contents: "TOKEN=secret".into(), read_only: false },
            LaunchFile { path: "deep/locked.json".into(), contents: "{}".into(), read_only: true },
        ],
        resources: resources(),
    }
}

/// Waits until something holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < LIMIT, "waited in vain until {what}");
        pause().await;
    }
}

pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}
