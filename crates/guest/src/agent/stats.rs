//! How the machine is, as `/proc` tells it.

use std::{fs, io};

use crate::message::Stats;

/// The unit of `/proc/stat`: `USER_HZ`, which is 100 on every Linux that is asked here.
const MILLIS_PER_TICK: u64 = 10;

pub(super) fn now() -> io::Result<Stats> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let stat = fs::read_to_string("/proc/stat")?;
    let (load, uptime) = (fs::read_to_string("/proc/loadavg")?, fs::read_to_string("/proc/uptime")?);
    let disk = nix::sys::statvfs::statvfs("/")?;
    let block = disk.fragment_size();
    Ok(Stats {
        memory_total: kib(&meminfo, "MemTotal:") * 1024,
        memory_available: kib(&meminfo, "MemAvailable:") * 1024,
        cpu_millis: busy(&stat) * MILLIS_PER_TICK,
        cpus: stat.lines().filter(|line| is_processor(line)).count() as u32,
        load: first(&load),
        uptime_millis: (first(&uptime) * 1000.0) as u64,
        disk_total: disk.blocks() * block,
        disk_available: disk.blocks_available() * block,
    })
}

fn first(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

fn kib(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Ticks of work: all but idle and waiting for disks, and guests' time only once.
fn busy(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap_or_default()).collect();
    // user nice system idle iowait irq softirq steal; guest time is within user.
    ticks.iter().take(7).enumerate().filter(|(i, _)| *i != 3 && *i != 4).map(|(_, ticks)| ticks).sum()
}

fn is_processor(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read() {
        assert_eq!(kib("MemTotal:  10 kB\nMemAvailable:     7 kB\n", "MemAvailable:"), 7);
        assert_eq!(busy("cpu  1 2 4 100 100 8 16 32 64 128\ncpu0 1 1 1 1\n"), 31);
        let now = now().unwrap();
        assert!(now.memory_available > 0 && now.memory_available <= now.memory_total, "{now:?}");
        assert!(now.cpus > 0 && now.uptime_millis > 0 && now.cpu_millis > 0, "{now:?}");
        assert!(now.disk_available <= now.disk_total && now.disk_total > 0, "{now:?}");
    }
}
