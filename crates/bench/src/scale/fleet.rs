//! A fleet is made, and waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clawfarm_api::CreateInstance;
use clawfarm_client::Client;
use tokio::task::JoinSet;

use crate::served::Served;

/// Clients that create at a time.
const CREATORS: usize = 16;
/// How long a fleet may take to become ready after the last was accepted.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) struct Fleet {
    pub(crate) ids: Vec<String>,
    pub(crate) creates_per_sec: f64,
    /// From the first request until every instance was ready.
    pub(crate) all_ready: Duration,
}

pub(crate) async fn make(served: &Served, size: usize) -> Result<Fleet> {
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut creators = JoinSet::new();
    for _ in 0..CREATORS {
        let (client, next) = (served.client()?, Arc::clone(&next));
        creators.spawn(async move {
            let mut ids = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= size {
                    return Ok::<_, anyhow::Error>(ids);
                }
                ids.push(create(&client, n).await?);
            }
        });
    }
    let mut ids = Vec::with_capacity(size);
    while let Some(made) = creators.join_next().await {
        ids.extend(made??);
    }
    let creates_per_sec = size as f64 / begun.elapsed().as_secs_f64();
    until(&served.client()?, "ready", size).await?;
    Ok(Fleet { ids, creates_per_sec, all_ready: begun.elapsed() })
}

async fn create(client: &Client, n: usize) -> Result<String> {
    let wanted = CreateInstance {
        claw_type: "openclaw".to_owned(),
        name: Some(format!("s{n}").parse().context("a name")?),
        target: Some("sim".parse().context("a target")?),
        ..CreateInstance::default()
    };
    let made = client.create(&wanted, None).await?;
    Ok(made.instance.id.to_string())
}

/// Waits until so many are in a phase.
pub(crate) async fn until(client: &Client, phase: &str, size: usize) -> Result<()> {
    let begun = Instant::now();
    loop {
        let there = in_phase(&client.prometheus().await?, phase);
        if there == size {
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            bail!("{there} of {size} instances were {phase} after {LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many instances the metrics have in a phase.
fn in_phase(metrics: &str, phase: &str) -> usize {
    let wanted = format!("clawfarm_instances{{phase=\"{phase}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok()).unwrap_or(0)
}
