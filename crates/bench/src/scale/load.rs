//! Requests at a fixed rate, whatever the answers take, while many watch the events.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clawfarm_api::{EventsQuery, InstanceQuery, UpdateInstance};
use clawfarm_client::Client;
use futures::StreamExt;
use tokio::task::{JoinHandle, JoinSet};

use crate::served::Served;

/// One in ten streams watches the whole fleet, the others an instance each: as people at a
/// console do, and a few who collect everything.
const WHOLE_FLEET: usize = 10;
/// A tick this much late is the load's own trouble, and is told.
const LATE: Duration = Duration::from_millis(50);

/// What is asked of the server.
pub(crate) struct Plan {
    /// Requests a second.
    pub(crate) rate: u32,
    /// For how long.
    pub(crate) length: Duration,
    /// How many event streams are open meanwhile.
    pub(crate) streams: usize,
}

/// Times of one kind of request.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    fn sort(mut self) -> Self {
        self.0.sort_unstable();
        self
    }

    /// The time that `percent` of the requests were not slower than.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((self.0.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |percent| self.percentile(percent).as_secs_f64() * 1000.0;
        write!(f, "{:.1} / {:.1} / {:.1} ms", millis(50), millis(95), millis(99))
    }
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) get: Times,
    pub(crate) list: Times,
    pub(crate) patch: Times,
    /// Requests that were answered with an error.
    pub(crate) refused: usize,
    /// Requests that were sent late, because this process was held up.
    pub(crate) late: usize,
    /// Events that all streams together were told.
    pub(crate) events: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Get,
    List,
    Patch,
}

/// 6 : 2 : 2.
const MIX: [Kind; 10] = {
    use Kind::{Get as G, List as L, Patch as P};
    [G, L, G, P, G, G, L, G, P, G]
};

pub(crate) async fn run(served: &Served, ids: &[String], plan: &Plan) -> Result<Outcome> {
    let told = Arc::new(AtomicU64::new(0));
    let streams = watch(served, ids, plan.streams, &told).await?;
    told.store(0, Ordering::Relaxed);
    let outcome = requests(served, ids, plan).await;
    for stream in &streams {
        stream.abort();
    }
    let mut outcome = outcome?;
    outcome.events = told.load(Ordering::Relaxed);
    Ok(outcome)
}

async fn watch(
    served: &Served,
    ids: &[String],
    count: usize,
    told: &Arc<AtomicU64>,
) -> Result<Vec<JoinHandle<()>>> {
    let client = served.client()?;
    let mut streams = Vec::with_capacity(count);
    for n in 0..count {
        let id = if n % WHOLE_FLEET == 0 { None } else { Some(&ids[n % ids.len()]) };
        let query = EventsQuery { limit: Some(1), ..EventsQuery::default() };
        let mut events = client.follow_events(id.map(String::as_str), query).await?;
        let told = Arc::clone(told);
        streams.push(tokio::spawn(async move {
            while let Some(Ok(_)) = events.next().await {
                told.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    Ok(streams)
}

async fn requests(served: &Served, ids: &[String], plan: &Plan) -> Result<Outcome> {
    // Enough connections that no request waits for another's answer.
    let clients: Vec<Client> = (0..8).map(|_| served.client()).collect::<Result<_>>()?;
    let between = Duration::from_secs(1) / plan.rate;
    let count = plan.rate as usize * usize::try_from(plan.length.as_secs())?;
    let begun = Instant::now();
    let mut under_way = JoinSet::new();
    let mut late = 0;
    for n in 0..count {
        let due = begun + between * u32::try_from(n)?;
        tokio::time::sleep_until(due.into()).await;
        late += usize::from(due.elapsed() > LATE);
        let kind = MIX[n % MIX.len()];
        let client = clients[n % clients.len()].clone();
        // A stride that is prime to any size spreads over the whole fleet.
        let id = ids[n * 7919 % ids.len()].clone();
        under_way.spawn(async move {
            let sent = Instant::now();
            let answer = ask(&client, kind, &id, n).await;
            (kind, sent.elapsed(), answer)
        });
    }
    let (mut get, mut list, mut patch) = (Times::default(), Times::default(), Times::default());
    let mut refused = 0;
    let mut first = None;
    while let Some(done) = under_way.join_next().await {
        let (kind, took, answer) = done?;
        if let Err(error) = answer {
            refused += 1;
            first.get_or_insert(error);
        }
        match kind {
            Kind::Get => get.0.push(took),
            Kind::List => list.0.push(took),
            Kind::Patch => patch.0.push(took),
        }
    }
    if let Some(error) = first {
        eprintln!("{refused} of {count} requests were refused, the first with: {error}");
    }
    Ok(Outcome { get: get.sort(), list: list.sort(), patch: patch.sort(), refused, late, events: 0 })
}

async fn ask(client: &Client, kind: Kind, id: &str, n: usize) -> Result<()> {
    match kind {
        Kind::Get => client.instance(id).await.map(drop)?,
        Kind::List => {
            let query = InstanceQuery { limit: Some(50), ..InstanceQuery::default() };
            client.instances(&query).await.map(drop)?;
        }
        Kind::Patch => {
            let labels = [("round".to_owned(), n.to_string())].into();
            let change = UpdateInstance { labels, ..UpdateInstance::default() };
            client.update(id, &change, None).await.map(drop).context("a change of labels")?;
        }
    }
    Ok(())
}
