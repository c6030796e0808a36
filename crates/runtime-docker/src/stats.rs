//! What a container uses, by the engine's own figures.

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use clawfarm_model::resources::Usage;
use clawfarm_model::{ClawId, Result};
use futures::StreamExt;

use crate::end::not_running;
use crate::fault::failed;
use crate::inner::Inner;
use crate::observe;

/// [`clawfarm_runtime::Stats::usage`].
pub(crate) async fn usage(inner: &Inner, id: &ClawId) -> Result<Usage> {
    if !observe::is_up(inner, id).await? {
        return Err(not_running(id));
    }
    let client = inner.engine.docker().await?;
    let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
    let name = inner.container(id);
    let mut stats = client.stats(&name, Some(options));
    match stats.next().await {
        Some(Ok(stats)) => Ok(of(&stats)),
        Some(Err(error)) => Err(failed(format!("measure '{id}'"), error)),
        None => Err(not_running(id)),
    }
}

fn of(stats: &ContainerStatsResponse) -> Usage {
    let memory = stats.memory_stats.as_ref();
    let details = memory.and_then(|memory| memory.stats.as_ref());
    let detail = |name: &str| details.and_then(|details| details.get(name)).copied();
    // Pages of files that could be dropped at any time are no use of memory: as `docker stats`
    // has it, for version 1 and 2 of cgroups.
    let cache = detail("total_inactive_file").or_else(|| detail("inactive_file")).unwrap_or(0);
    let moved = |verb: &str| {
        let blocks = stats.blkio_stats.as_ref();
        let all = blocks.and_then(|blocks| blocks.io_service_bytes_recursive.as_ref());
        let of_verb = all
            .iter()
            .flat_map(|all| all.iter())
            .filter(|entry| entry.op.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(verb)));
        of_verb.filter_map(|entry| entry.value).sum()
    };
    let cpu = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref());
    Usage {
        // The engine counts in nanoseconds.
        cpu_millis: cpu.and_then(|cpu| cpu.total_usage).unwrap_or(0) / 1_000_000,
        memory_bytes: memory.and_then(|memory| memory.usage).unwrap_or(0).saturating_sub(cache),
        memory_limit_bytes: memory.and_then(|memory| memory.limit).unwrap_or(0),
        read_bytes: moved("read"),
        written_bytes: moved("write"),
        tasks: stats.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_understood() {
        for name in ["total_inactive_file", "inactive_file"] {
            let stats = serde_json::from_value(serde_json::json!({
                "cpu_stats": {"cpu_usage": {"total_usage": 3_500_000}},
                "memory_stats": {"usage": 1000, "limit": 5000, "stats": {name: 300}},
                "blkio_stats": {"io_service_bytes_recursive": [
                    {"major": 8, "minor": 0, "op": "Read", "value": 7},
                    {"major": 8, "minor": 0, "op": "write", "value": 9}]},
                "pids_stats": {"current": 4}
            }))
            .unwrap();
            let usage = of(&stats);
            assert_eq!((usage.cpu_millis, usage.memory_bytes, usage.memory_limit_bytes), (3, 700, 5000));
            assert_eq!((usage.read_bytes, usage.written_bytes, usage.tasks), (7, 9, 4));
        }
    }
}
