//! A new revision to a fleet of simulated claws, and the plan of one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clawfarm_api::{NewConfig, PlanRequest, PublishRequest};
use clawfarm_config::{Amount, Pause, Stage, Step, Strategy};
use clawfarm_model::ConfigName;
use serde_json::json;

use crate::database::Kind;
use crate::figures::{millis, row, seconds};
use crate::scale::fleet;
use crate::served::Served;

/// How long a rollout may take.
const LIMIT: Duration = Duration::from_secs(600);
/// So many on their way at a time: the fleet is of one machine.
const PARALLEL: u32 = 250;

/// The aims: a thousand instances have it in 5 s, and the canary plan of ten thousand is there in
/// one.
pub(crate) async fn run(binary: &Path, sizes: &[usize], databases: &[Kind]) -> Result<()> {
    for kind in databases {
        for size in sizes {
            one(binary, *kind, *size).await?;
        }
    }
    Ok(())
}

async fn one(binary: &Path, kind: Kind, size: usize) -> Result<()> {
    let served = Served::start(binary, kind).await?;
    fleet::make(&served, size).await?;
    let client = served.client()?;
    let name = ConfigName::global();
    let content = json!({ "body": { "logging": { "level": "debug" } } });
    let content = serde_json::from_value(content).context("a revision")?;
    client.create_config(&NewConfig { name: name.clone(), content, message: String::new() }).await?;
    let begun = Instant::now();
    let plan = client.plan(&name, &PlanRequest::default()).await?;
    let planned = begun.elapsed();
    if plan.counts.hot != size as u64 {
        bail!("{:?} of {size}", plan.counts);
    }
    // A canary of one in a hundred, whose step waits for nothing.
    let strategy = Strategy {
        steps: vec![Step { to: Amount::Percent(1), then: Pause::None }],
        parallel: PARALLEL,
        ..Strategy::default()
    };
    let begun = Instant::now();
    let rollout = client.publish(&name, &PublishRequest { strategy, ..PublishRequest::default() }).await?;
    let accepted = begun.elapsed();
    loop {
        let now = client.rollout(&rollout.id).await?;
        if now.stage == Stage::Done && now.counts.proven as usize == size {
            break;
        }
        if now.stage.is_over() || begun.elapsed() > LIMIT {
            bail!("after {:?}: {now:?}", begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = begun.elapsed();
    let on = format!("{size} instances, {kind:?}");
    row(&format!("plan of a revision, {on}"), &millis(planned), "", "aim for 10,000: 1 s");
    row(&format!("publish accepted, {on}"), &millis(accepted), "", "");
    row(
        &format!("in force at every claw, {on}"),
        &seconds(took),
        &format!("{:.0} a second", size as f64 / took.as_secs_f64()),
        "aim for 1,000: 5 s",
    );
    Ok(())
}
