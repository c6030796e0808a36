//! Keeping a share of the work: the heartbeat, and what follows from it.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use clawfarm_model::fence::Fence;
use clawfarm_model::name::TargetName;
use clawfarm_model::{Code, Context, Error, Result, Timestamp};
use clawfarm_store::Beat;
use metrics::{counter, gauge};

use super::Shared;
use super::held::{boot_millis, good_until};
use super::plan::plan;
use crate::core::Core;
use crate::reconcile::queue::Priority;

/// Heartbeats in the time of a lease: two may fail before it is over.
const BEATS: u32 = 4;

/// The heartbeat, until the server ends.
pub(super) async fn run(core: Arc<Core>) {
    let Some(shared) = core.shares.shared() else { return };
    let mut rounds = 0_u32;
    loop {
        tokio::select! {
            () = core.stopping.cancelled() => return,
            () = tokio::time::sleep(shared.ttl / BEATS) => {}
            () = shared.hurry.notified() => {}
        }
        if let Err(error) = once(&core, shared).await {
            missed(&core, shared, &error).await;
            continue;
        }
        rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(2) {
            look_at_waited_for(&core).await;
        }
    }
}

/// One heartbeat: renews, takes, gives back.
pub(super) async fn once(core: &Arc<Core>, shared: &Shared) -> Result<()> {
    let member = core.member(shared);
    let asked = boot_millis();
    let beat = limited(shared.ttl, core.store.beat(&system(), &member, shared.ttl)).await?;
    let mut news = shared.table.follow(&shared.member.node, &beat.leases, good_until(asked, shared.ttl));
    shared.ahead.store(beat.now.as_millis() - Timestamp::now().as_millis(), Ordering::Relaxed);
    tell_versions(shared, &beat);
    let plan = plan(&shared.member.node, &member.targets, &beat.servers, &beat.leases);
    *shared.peers.write().unwrap_or_else(PoisonError::into_inner) = beat.servers;
    let back = shared.table.leave(&plan.release);
    if !back.is_empty() {
        core.store.release_leases(&system(), &shared.member, &back).await?;
    }
    for (target, shards) in plan.take {
        let asked = boot_millis();
        let took = limited(
            shared.ttl,
            core.store.take_leases(&system(), &shared.member, &target, &shards, shared.ttl),
        )
        .await?;
        shared.table.took(&took, good_until(asked, shared.ttl));
        counter!("clawfarm_lease_takeovers_total").increment(took.len() as u64);
        news.extend(took);
    }
    for target in &member.targets {
        let held = shared.table.counts().get(target).copied().unwrap_or(0);
        gauge!("clawfarm_leases_held", "target" => target.to_string())
            .set(u32::try_from(held).map_or(f64::MAX, f64::from));
    }
    if !news.is_empty() {
        tracing::info!(leases = news.len(), "took over shares of the work");
        take_up(core, &news).await?;
    }
    Ok(())
}

/// A query that takes as long as a lease is of no use any more.
async fn limited<T>(ttl: Duration, query: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ttl, query).await.unwrap_or_else(|_| {
        Err(Error::new(Code::Timeout, "the database did not answer within the time of a lease"))
    })
}

/// Looks at every instance of the shards that are new.
async fn take_up(core: &Core, news: &[Fence]) -> Result<()> {
    let new: HashSet<(&TargetName, u32)> = news.iter().map(|f| (&f.target, f.shard)).collect();
    for (id, name) in core.store.placed_instances(&system()).await? {
        let Some(target) = core.target(&name) else { continue };
        if new.contains(&(&target.name, id.shard(target.shards()))) {
            core.reconciler.queue.push(&id, Priority::Event);
        }
    }
    core.inbox.notify_one();
    Ok(())
}

/// The net under the events: whoever waits for something is waited for here, too.
pub(super) async fn look_at_waited_for(core: &Core) {
    match core.store.instances_waited_for(&system()).await {
        Ok(ids) => {
            for id in ids.iter().filter(|id| core.may_be_mine(id)) {
                core.reconciler.queue.push(id, Priority::Event);
            }
        }
        Err(error) => tracing::warn!(?error, "the running operations could not be listed"),
    }
}

async fn missed(core: &Core, shared: &Shared, error: &Error) {
    match (error.code(), error.field_name()) {
        // It was away so long that the others forgot it.
        (Code::Gone, _) => {
            shared.table.clear();
            tracing::warn!("the other servers had forgotten this one; it joins them again");
            if let Err(error) = core.enter(shared).await {
                tracing::warn!(?error, "this server can't join the others again");
            }
        }
        (Code::Conflict, Some("node")) => {
            shared.table.clear();
            tracing::error!(?error, "this server leaves its work to the other one");
        }
        (Code::Conflict, Some("database")) => {
            shared.table.clear();
            tracing::error!(?error, "this server ends: what it knows is of a state that is no more");
            core.outdated.cancel();
        }
        _ => tracing::warn!(?error, "a heartbeat failed; without one its leases run out"),
    }
}

/// Servers work side by side while they are at most one minor version apart: so far is an
/// upgrade rolled, one server after the other.
fn tell_versions(shared: &Shared, beat: &Beat) {
    let known: HashSet<String> = shared.peers().into_iter().map(|p| p.node + &p.version).collect();
    for peer in beat.servers.iter().filter(|p| p.live && !known.contains(&format!("{}{}", p.node, p.version)))
    {
        if !near(&shared.member.version, &peer.version) {
            tracing::warn!(
                server = peer.name,
                version = peer.version,
                own = shared.member.version,
                "a server of this database is more than one minor version away; bring it up to date"
            );
        }
    }
}

fn near(a: &str, b: &str) -> bool {
    let parts = |text: &str| {
        let mut parts = text.split('.').map(|p| p.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    match (parts(a), parts(b)) {
        (Some((major, minor)), Some((other, its))) => major == other && minor.abs_diff(its) <= 1,
        _ => a == b,
    }
}

fn system() -> Context {
    Context::system("sharing")
}

#[cfg(test)]
mod tests {
    use super::near;

    #[test]
    fn one_minor_version_apart_is_near() {
        for (a, b, is) in [
            ("0.1.0", "0.1.7", true),
            ("0.1.0", "0.2.0", true),
            ("0.3.0", "0.1.0", false),
            ("1.0.0", "0.9.0", false),
            ("1.2.0-rc1", "1.3.0", true),
            ("x", "y", false),
        ] {
            assert_eq!((near(a, b), near(b, a)), (is, is), "{a} {b}");
        }
    }
}
