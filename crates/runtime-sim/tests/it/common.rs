//! A world of its own for each test.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clawfarm_model::launch::{Launch, LaunchFile, Placement, Software, StopOptions};
use clawfarm_model::name::{ClawType, TenantName};
use clawfarm_model::resources::Resources;
use clawfarm_model::{ClawId, Observation};
use clawfarm_runtime::{NoProgress, Runtime};
use clawfarm_runtime_sim::{SimConfig, SimRuntime};
use tempfile::TempDir;

pub(crate) const PORT: u16 = 20_000;
pub(crate) const GRACE: StopOptions = StopOptions { grace: Duration::from_secs(5) };

pub(crate) fn id(text: &str) -> ClawId {
    ClawId::new(text).unwrap()
}

pub(crate) fn world() -> (TempDir, SimRuntime) {
    let folder = TempDir::new().unwrap();
    let sim = open(&folder);
    (folder, sim)
}

pub(crate) fn open(folder: &TempDir) -> SimRuntime {
    SimRuntime::open(SimConfig::new(folder.path().join("sim"))).unwrap()
}

pub(crate) fn placement(claw: &ClawId, port: u16) -> Placement {
    Placement {
        id: claw.clone(),
        tenant: TenantName::new("default").unwrap(),
        software: Software {
            claw_type: ClawType::new("openclaw").unwrap(),
            version: "1".into(),
            npm: None,
            own: None,
            pip: None,
            image: None,
        },
        mark: None,
        vm: None,
        resources: Resources::default(),
        port,
        dataset: None,
        image: None,
        record: serde_json::json!({"id": claw}),
    }
}

pub(crate) fn launch(claw: &ClawId, run: i64) -> Launch {
    Launch {
        id: claw.clone(),
        run,
        argv: vec!["node".into()],
        env: vec![("OPENCLAW_GATEWAY_TOKEN".into(), "open-sesame".into())],
        cwd: PathBuf::from("/"),
        files: vec![
            LaunchFile { path: "openclaw.json".into(), contents: "{}".into(), read_only: false },
            LaunchFile { path: "deep/locked.json".into(), contents: "{}".into(), read_only: true },
        ],
        resources: Resources::default(),
    }
}

pub(crate) async fn up(sim: &SimRuntime, claw: &ClawId, port: u16, run: i64) -> Observation {
    sim.ensure(&placement(claw, port), &NoProgress).await.unwrap();
    sim.start(&launch(claw, run)).await.unwrap()
}

/// Waits until something holds, ten seconds at most.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(10), "waited 10 s in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
