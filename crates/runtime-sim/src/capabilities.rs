//! What the simulated runtime can do beyond the verbs that all runtimes have.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::resources::Usage;
use clawfarm_model::{ClawId, Error, Observation, Result};
use clawfarm_runtime::{
    Exec, ExecRequest, ExecSession, Files, Freeze, LogLine, LogQuery, LogStream, Logs, Progress, Stats,
    Suspend,
};
use futures::{StreamExt, stream};

use crate::behaviour::Verb;
use crate::data::tell_import;
use crate::disk::{broken, now};
use crate::journal::ActKind;
use crate::record::{Life, Record};
use crate::runtime::SimRuntime;
use crate::world::{Step, World};

/// How often a followed log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// What an OpenClaw holds when it is ready (0.8 GB, measured on 2026.9.6), in bytes.
const MEMORY: u64 = 858 << 20;

/// Changes a claw that must exist, and says what it is then.
fn change(
    world: &World,
    id: &ClawId,
    act: ActKind,
    how: impl FnOnce(&mut Record, i64) -> Result<bool>,
) -> Result<Observation> {
    world.update(id, |record, now| {
        let record = record.as_mut().ok_or_else(|| Error::not_found("simulated claw", id))?;
        let new = how(record, now)?;
        Ok((Step::when(new, act), record.observe(now)))
    })
}

#[async_trait]
impl Freeze for SimRuntime {
    async fn freeze(&self, id: &ClawId) -> Result<Observation> {
        let claw = id.clone();
        self.verb(Verb::Freeze, Some(id), move |world| change(world, &claw, ActKind::Freeze, Record::freeze))
            .await
    }

    async fn thaw(&self, id: &ClawId) -> Result<Observation> {
        let claw = id.clone();
        self.verb(Verb::Thaw, Some(id), move |world| {
            change(world, &claw, ActKind::Thaw, |record, now| {
                if record.is_up(now) { Ok(record.thaw(now)) } else { Err(record.not_up()) }
            })
        })
        .await
    }
}

#[async_trait]
impl Suspend for SimRuntime {
    async fn suspend(&self, id: &ClawId) -> Result<Observation> {
        let claw = id.clone();
        self.verb(Verb::Suspend, Some(id), move |world| change(world, &claw, ActKind::Suspend, Record::save))
            .await
    }

    async fn resume(&self, id: &ClawId) -> Result<Observation> {
        let claw = id.clone();
        self.verb(Verb::Resume, Some(id), move |world| change(world, &claw, ActKind::Resume, Record::restore))
            .await
    }
}

#[async_trait]
impl Exec for SimRuntime {
    async fn exec(&self, id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
        let claw = id.clone();
        let script = (request.argv.first().map(String::as_str) == Some("bash"))
            .then(|| request.argv.get(2).cloned().unwrap_or_default());
        self.verb(Verb::Exec, Some(id), move |world| {
            let record = world.running(&claw)?;
            if let Some(script) = script {
                world.print(&claw, &format!("runs: {script}"));
            }
            Ok(record)
        })
        .await?;
        crate::exec::run(id, request)
    }
}

#[async_trait]
impl Stats for SimRuntime {
    async fn usage(&self, id: &ClawId) -> Result<Usage> {
        let claw = id.clone();
        let record = self.verb(Verb::Usage, Some(id), move |world| world.running(&claw)).await?;
        Ok(usage(&record, now()))
    }
}

/// A twentieth of a core, and what an OpenClaw holds: plausible, and the same each time.
fn usage(record: &Record, now: i64) -> Usage {
    let limit = u64::from(record.memory_mib) << 20;
    let up = match &record.life {
        Life::Up(up) => up.frozen_at.unwrap_or(now).saturating_sub(up.started_at),
        Life::Prepared | Life::Saved { .. } => 0,
    };
    Usage {
        cpu_millis: u64::try_from(up / 20).unwrap_or(0),
        memory_bytes: MEMORY.min(limit),
        memory_limit_bytes: limit,
        read_bytes: 0,
        written_bytes: 0,
        tasks: 1,
    }
}

#[async_trait]
impl Logs for SimRuntime {
    async fn logs(&self, id: &ClawId, query: LogQuery) -> Result<LogStream> {
        let claw = id.clone();
        let (mut lines, read) =
            self.verb(Verb::Logs, Some(id), move |world| read_log(world, &claw, 0)).await?;
        if read == 0 {
            return Err(Error::not_found("output of simulated claw", id).fix("start it first"));
        }
        let wanted = move |line: &LogLine| query.since.is_none_or(|since| line.at >= since);
        lines.retain(wanted);
        if let Some(tail) = query.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        let past = stream::iter(lines.into_iter().map(Ok));
        if !query.follow {
            return Ok(past.boxed());
        }
        let state = (self.world.clone(), id.clone(), read);
        Ok(past.chain(stream::unfold(state, next_lines).flat_map(stream::iter)).boxed())
    }
}

type FollowState = (Arc<World>, ClawId, u64);

async fn next_lines((world, id, read): FollowState) -> Option<(Vec<Result<LogLine>>, FollowState)> {
    loop {
        tokio::time::sleep(FOLLOW_EVERY).await;
        match read_log(&world, &id, read) {
            // Its output went with it.
            Ok((_, 0)) => return None,
            Ok((lines, _)) if lines.is_empty() => {}
            Ok((lines, read)) => return Some((lines.into_iter().map(Ok).collect(), (world, id, read))),
            Err(error) => return Some((vec![Err(error)], (world, id, read))),
        }
    }
}

/// The lines behind `from`, and how far the log goes; 0 when there is none.
fn read_log(world: &World, id: &ClawId, from: u64) -> Result<(Vec<LogLine>, u64)> {
    use std::io::{ErrorKind, Seek, SeekFrom};
    let path = world.log_path(id);
    let read = || {
        let mut file = std::fs::File::open(&path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut file = BufReader::new(file);
        let (mut lines, mut at, mut line) = (Vec::new(), from, Vec::new());
        while file.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            at += line.len() as u64;
            lines.extend(serde_json::from_slice(&line).ok());
            line.clear();
        }
        Ok((lines, at))
    };
    match read() {
        Err(e) if ErrorKind::NotFound == std::io::Error::kind(&e) => Ok((Vec::new(), 0)),
        read => read.map_err(|e| broken(&path, "read", e)),
    }
}

#[async_trait]
impl Files for SimRuntime {
    async fn read(&self, id: &ClawId, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let (claw, path) = (id.clone(), path.to_owned());
        self.verb(Verb::Read, Some(id), move |world| world.read_file(&claw, &path, limit)).await
    }

    async fn write(&self, id: &ClawId, path: &Path, contents: &[u8], read_only: bool) -> Result<()> {
        let (claw, path, contents) = (id.clone(), path.to_owned(), contents.to_owned());
        self.verb(Verb::Write, Some(id), move |world| world.write_file(&claw, &path, &contents, read_only))
            .await
    }

    async fn import(&self, id: &ClawId, from: &Path, progress: &dyn Progress) -> Result<u64> {
        tell_import(progress);
        let (claw, from) = (id.clone(), from.to_owned());
        let bytes = self.verb(Verb::Import, Some(id), move |world| world.import(&claw, &from)).await?;
        progress.advance(bytes);
        Ok(bytes)
    }
}
