//! The runtime's verbs on the simulated world.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::launch::{DataFate, Launch, Place, Placement, StopOptions};
use clawfarm_model::target::{Capacity, Check, CheckLevel, Diagnosis, RuntimeKind};
use clawfarm_model::{ClawId, Code, Error, Fence, Observation, Result};
use clawfarm_runtime::{
    Backup, Connection, Exec, Files, Freeze, Logs, Progress, Recover, Runtime, Stats, Suspend, Upgrade,
};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;

use crate::behaviour::{Behaviour, Failure, Verb};
use crate::claw;
use crate::disk::{nanos, now};
use crate::journal::ActKind;
use crate::loaded::{Break, FILE, Loaded};
use crate::ports::port_taken;
use crate::record::{Gateway, Life, Record, View};
use crate::watch::Watch;
use crate::world::{Step, World};

/// The first port that needs no root.
const FIRST_PORT: u16 = 1024;

/// What a [`SimRuntime`] is made with. Everything else is the world's own: [`Behaviour`].
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The folder of the world. Runtimes on the same folder, in whatever process, are the
    /// same target.
    pub world: PathBuf,
    /// The port of the server's listener for claws, which its places name. No simulated claw
    /// calls there.
    pub claw_port: u16,
    /// Whether it offers [`Freeze`].
    pub can_freeze: bool,
    /// Whether it offers [`Suspend`].
    pub can_suspend: bool,
}

impl SimConfig {
    /// A world in this folder, with every capability.
    pub fn new(world: impl Into<PathBuf>) -> Self {
        Self { world: world.into(), claw_port: 0, can_freeze: true, can_suspend: true }
    }
}

/// The simulated runtime.
#[derive(Clone, Debug)]
pub struct SimRuntime {
    config: SimConfig,
    pub(crate) world: Arc<World>,
    pub(crate) chats: Arc<claw::Chats>,
    watch: Arc<Watch>,
    draws: Arc<AtomicU64>,
}

impl SimRuntime {
    /// Opens the world and makes it when there is none. Inside of a tokio runtime, or
    /// [`Runtime::watch`] tells nothing.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(config: SimConfig) -> Result<Self> {
        let world = Arc::new(World::open(&config.world)?);
        let watch = Arc::new(Watch::start(world.clone()));
        Ok(Self { config, world, chats: Arc::default(), watch, draws: Arc::default() })
    }

    /// Its world, to look at and to change.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Does a verb with the delay and the failure that the world has for it.
    pub(crate) async fn verb<T: Send + 'static>(
        &self,
        verb: Verb,
        id: Option<&ClawId>,
        act: impl FnOnce(&World) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let failure = self.before(verb, id).await?;
        let world = self.world.clone();
        let result = tokio::task::spawn_blocking(move || world.pass_fence().and_then(|()| act(&world)))
            .await
            .map_err(|e| Error::internal(format!("the simulated {verb} broke off"), e))??;
        after(failure, id)?;
        Ok(result)
    }

    /// The delay of a verb and the failure before it; returns the one after it.
    pub(crate) async fn before(&self, verb: Verb, id: Option<&ClawId>) -> Result<Option<Failure>> {
        let behaviour = self.world.behaviour()?;
        check_up(&behaviour)?;
        let name = id.map_or("", ClawId::as_str);
        if let Some(range) = behaviour.delays.get(&verb) {
            let delay = behaviour.draw(*range, &[name, verb.as_str()], self.next_draw());
            tokio::time::sleep(Duration::from_millis(delay)).await;
            check_up(&*self.world.behaviour()?)?;
        }
        match self.failure(&behaviour, verb, name)? {
            Some(failure) if !failure.after => Err(failure.error(name)),
            failure => Ok(failure),
        }
    }

    fn failure(&self, behaviour: &Behaviour, verb: Verb, name: &str) -> Result<Option<Failure>> {
        let mut found = None;
        let apply = |f: &&Failure| f.verb == verb && crate::behaviour::matches(&f.claws, name);
        for failure in behaviour.failures.iter().filter(apply) {
            // Each counts its calls, also when another one has failed this call already.
            if !failure.calls.is_empty() {
                let label = match failure.label.as_str() {
                    "" => format!("{verb}-{}-{}", failure.claws, failure.code.as_str()),
                    label => label.to_owned(),
                };
                if !failure.calls.contains(&self.world.count_call(&label)?) {
                    continue;
                }
            }
            let happens = failure.probability >= 1.0
                || behaviour.happens(failure.probability, &[name, verb.as_str(), "fails"], self.next_draw());
            if happens && found.is_none() {
                found = Some(failure.clone());
            }
        }
        Ok(found)
    }

    fn next_draw(&self) -> u64 {
        self.draws.fetch_add(1, Ordering::Relaxed)
    }
}

/// The failure that comes after the work was done.
pub(crate) fn after(failure: Option<Failure>, id: Option<&ClawId>) -> Result<()> {
    failure.map_or(Ok(()), |failure| Err(failure.error(id.map_or("", ClawId::as_str))))
}

pub(crate) fn check_up(behaviour: &Behaviour) -> Result<()> {
    if behaviour.target_down {
        return Err(Error::new(Code::Unavailable, "the simulated target does not answer")
            .fix("set target_down to false in the simulated world's sim.json"));
    }
    Ok(())
}

#[async_trait]
impl Runtime for SimRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Sim
    }

    fn under(&self, fence: &Fence) -> Option<Arc<dyn Runtime>> {
        Some(Arc::new(Self { world: Arc::new(self.world.under(fence)), ..self.clone() }))
    }

    async fn diagnose(&self) -> Diagnosis {
        let mut checks = vec![Check {
            name: "simulation".to_owned(),
            level: CheckLevel::Warning,
            detail: format!(
                "claws here are simulated, none really runs; their world is {}",
                self.world.root().display()
            ),
            fix: Some("use --runtime process for real claws".to_owned()),
        }];
        let world = self.world.behaviour().and_then(|behaviour| check_up(&behaviour));
        let world = world.and_then(|()| self.world.instances());
        checks.push(match &world {
            Ok(claws) => Check {
                name: "world".to_owned(),
                level: CheckLevel::Ok,
                detail: format!("{} simulated claws", claws.len()),
                fix: None,
            },
            Err(error) => Check {
                name: "world".to_owned(),
                level: CheckLevel::Error,
                detail: error.message().to_owned(),
                fix: error.fix_text().map(str::to_owned),
            },
        });
        Diagnosis { runtime: RuntimeKind::Sim, usable: world.is_ok(), checks }
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.before(Verb::Capacity, None).await?;
        let capacity = self.world.behaviour()?.capacity;
        Ok(Capacity {
            cpus: capacity.cpus,
            memory_mib: capacity.memory_mib,
            memory_available_mib: capacity.memory_available_mib,
        })
    }

    async fn ensure(&self, placement: &Placement, progress: &dyn Progress) -> Result<Place> {
        progress.step("prepare", "preparing a simulated claw", None, "");
        let wanted = placement.clone();
        let host_url = self.host_route(self.config.claw_port).await?;
        self.verb(Verb::Ensure, Some(&placement.id), move |world| {
            world.adopt_dataset(&wanted)?;
            world.update(&wanted.id, |record, now| Ok((ensure(record, &wanted, now), ())))?;
            Ok(world.place(&wanted, host_url))
        })
        .await
    }

    async fn keep_record(&self, id: &ClawId, record: &serde_json::Value) -> Result<()> {
        let (claw, record) = (id.clone(), record.clone());
        self.verb(Verb::KeepRecord, Some(id), move |world| {
            world.update(&claw, |present, _| {
                let step = match present {
                    Some(present) if present.kept != record => {
                        present.kept = record;
                        Step::Note
                    }
                    _ => Step::Nothing,
                };
                Ok((step, ()))
            })
        })
        .await
    }

    async fn start(&self, launch: &Launch) -> Result<Observation> {
        let wanted = launch.clone();
        self.verb(Verb::Start, Some(&launch.id), move |world| start(world, &wanted)).await
    }

    async fn observe(&self, id: &ClawId) -> Result<Observation> {
        // One small file: read here, a thread's turn would cost more.
        let failure = self.before(Verb::Observe, Some(id)).await?;
        let seen = observe(&self.world, id)?;
        after(failure, Some(id))?;
        Ok(seen)
    }

    async fn list(&self) -> Result<Vec<Observation>> {
        self.verb(Verb::List, None, World::instances).await
    }

    fn watch(&self) -> broadcast::Receiver<ClawId> {
        self.watch.subscribe()
    }

    async fn stop(&self, id: &ClawId, options: StopOptions) -> Result<Observation> {
        let claw = id.clone();
        let ends_at = self.verb(Verb::Stop, Some(id), move |world| stop(world, &claw, options)).await?;
        if let Some(ends_at) = ends_at {
            let left = u64::try_from(ends_at.saturating_sub(now())).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        observe(&self.world, id)
    }

    async fn kill(&self, id: &ClawId) -> Result<Observation> {
        let claw = id.clone();
        self.verb(Verb::Kill, Some(id), move |world| {
            world.update(&claw, |record, now| {
                let killed = record.as_mut().is_some_and(|record| record.kill(now));
                if killed {
                    world.print(&claw, "killed");
                }
                Ok((Step::when(killed, ActKind::Kill), ()))
            })?;
            observe(world, &claw)
        })
        .await
    }

    async fn destroy(&self, id: &ClawId, data: DataFate) -> Result<u64> {
        let claw = id.clone();
        self.verb(Verb::Destroy, Some(id), move |world| {
            world.update(&claw, |record, _| {
                // The data first: what is left after a kill still has its record, so that the
                // next attempt finds it.
                let size = world.part_with_data(&claw, data, record.is_some())?;
                Ok((Step::when(record.take().is_some(), ActKind::Destroy), size))
            })
        })
        .await
    }

    async fn remove_dataset(&self, id: &ClawId) -> Result<()> {
        let claw = id.clone();
        self.verb(Verb::RemoveDataset, Some(id), move |world| world.remove_dataset(&claw)).await
    }

    async fn pick_port(&self, taken: &BTreeSet<u16>) -> Result<u16> {
        // Nothing is bound, so every port that needs no root can be given.
        let behaviour = self.world.behaviour()?;
        let count = u64::from(u16::MAX - FIRST_PORT) + 1;
        let begin = behaviour.draw((0, count - 1), &["port"], nanos());
        (0..count)
            .filter_map(|n| u16::try_from((begin + n) % count).ok().map(|offset| FIRST_PORT + offset))
            .find(|port| !taken.contains(port) && !behaviour.taken_ports.contains(port))
            .ok_or_else(|| {
                Error::new(Code::Insufficient, "no port is free on the simulated target")
                    .field("port")
                    .fix("remove instances that are no longer needed")
            })
    }

    async fn dial(&self, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
        let failure = self.before(Verb::Dial, Some(id)).await?;
        let connection = claw::dial(&self.world, &self.chats, id, port)?;
        after(failure, Some(id))?;
        Ok(connection)
    }

    async fn host_route(&self, claw_port: u16) -> Result<String> {
        Ok(format!("http://127.0.0.1:{claw_port}"))
    }

    fn freeze(&self) -> Option<&dyn Freeze> {
        if self.config.can_freeze { Some(self) } else { None }
    }

    fn suspend(&self) -> Option<&dyn Suspend> {
        if self.config.can_suspend { Some(self) } else { None }
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn stats(&self) -> Option<&dyn Stats> {
        Some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    fn files(&self) -> Option<&dyn Files> {
        Some(self)
    }

    fn upgrade(&self) -> Option<&dyn Upgrade> {
        Some(self)
    }

    fn backup(&self) -> Option<&dyn Backup> {
        Some(self)
    }

    fn recover(&self) -> Option<&dyn Recover> {
        Some(self)
    }
}

pub(crate) fn observe(world: &World, id: &ClawId) -> Result<Observation> {
    Ok(world.record(id)?.map_or_else(|| Observation::absent(id.clone()), |record| record.observe(now())))
}

fn ensure(record: &mut Option<Record>, wanted: &Placement, now: i64) -> Step {
    let Some(record) = record else {
        *record = Some(Record {
            id: wanted.id.clone(),
            born: nanos(),
            rev: 0,
            port: wanted.port,
            memory_mib: wanted.resources.memory_mib,
            cpus: wanted.resources.cpus,
            version: wanted.software.version.clone(),
            run: 0,
            starts: 0,
            confinement: None,
            life: Life::Prepared,
            kept: wanted.record.clone(),
        });
        return Step::Act(ActKind::Ensure);
    };
    let noted = record.kept != wanted.record;
    record.kept.clone_from(&wanted.record);
    let resources = wanted.resources;
    let same = record.port == wanted.port
        && record.memory_mib == resources.memory_mib
        && record.version == wanted.software.version
        && (record.cpus - resources.cpus).abs() <= f64::EPSILON;
    if same || record.is_up(now) {
        return if noted { Step::Note } else { Step::Nothing };
    }
    record.port = wanted.port;
    record.memory_mib = resources.memory_mib;
    record.cpus = resources.cpus;
    record.version.clone_from(&wanted.software.version);
    Step::Act(ActKind::Ensure)
}

fn start(world: &World, launch: &Launch) -> Result<Observation> {
    let behaviour = world.behaviour()?;
    let mut port_guard = None;
    let seen = world.update(&launch.id, |record, now| {
        let record = record.as_mut().ok_or_else(|| {
            Error::not_found("prepared simulated claw", &launch.id).fix("prepare its place first")
        })?;
        if record.run > launch.run || (record.is_up(now) && record.run < launch.run) {
            return Err(Error::new(
                Code::Conflict,
                format!(
                    "'{}' has run {}; it was to be started for run {}",
                    record.id, record.run, launch.run
                ),
            )
            .fix("look at it again"));
        }
        if record.is_up(now) {
            return Ok((Step::Nothing, record.observe(now)));
        }
        if behaviour.taken_ports.contains(&record.port) {
            return Err(port_taken(record.port, "something else on the simulated target"));
        }
        port_guard = Some(world.take_port(record.port, &record.id, now)?);
        world.write_launch(launch)?;
        world.note_version(&launch.id, &record.version)?;
        let claw = behaviour.claw(launch.id.as_str(), &record.version);
        record.start(launch.run, gateway(launch), now, &behaviour, &claw);
        world.print(
            &launch.id,
            &format!("simulated claw {} {} started, run {}", launch.id, record.version, launch.run),
        );
        Ok((Step::Act(ActKind::Start), record.observe(now)))
    });
    // Held until the claw's record says that it has the port.
    drop(port_guard);
    seen
}

fn gateway(launch: &Launch) -> Gateway {
    let config = launch.files.iter().find(|file| file.path.ends_with(FILE));
    let config = config.map(|file| file.contents.expose_secret().as_bytes());
    Gateway {
        token_sha256: token_sha256(launch),
        user_header: user_header(launch),
        keys: keys(launch),
        loaded: config.and_then(|text| Loaded::read(text).ok()).map(|(loaded, _)| Box::new(loaded)),
        breaks: config.and_then(Break::of),
    }
}

/// Whether a variable holds the token that a gateway asks for.
fn is_token(name: &str) -> bool {
    name.ends_with("_GATEWAY_TOKEN") || name.ends_with("_GATEWAY_PASSWORD")
}

/// The token its gateway is to ask for: what the launch's environment calls so.
fn token_sha256(launch: &Launch) -> Option<String> {
    let (_, token) = launch.env.iter().find(|(name, _)| is_token(name))?;
    Some(sha256(token.expose_secret()))
}

/// The header in which it is told who a request is from, as OpenClaw's configuration says it.
fn user_header(launch: &Launch) -> Option<String> {
    let file = launch.files.iter().find(|file| file.path.ends_with(FILE))?;
    let document: serde_json::Value = serde_json::from_str(file.contents.expose_secret()).ok()?;
    Some(document.pointer("/gateway/auth/trustedProxy/userHeader")?.as_str()?.to_owned())
}

/// The keys that clawfarm made for it. Those of its user are nowhere in the world.
fn keys(launch: &Launch) -> Vec<(String, String)> {
    let made = |name: &str| is_token(name) || name.ends_with("_MODEL_KEY");
    let of_ours = launch.env.iter().filter(|(name, _)| made(name));
    of_ours.map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect()
}

pub(crate) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks it to end; returns when it will have ended.
fn stop(world: &World, id: &ClawId, options: StopOptions) -> Result<Option<i64>> {
    let behaviour = world.behaviour()?;
    world.update(id, |record, now| {
        let stopping = record.as_mut().and_then(|r| {
            let claw = behaviour.claw(id.as_str(), &r.version);
            r.stop(now, options.grace, &behaviour, &claw)
        });
        let new = stopping.is_some_and(|(_, new)| new);
        if new {
            world.print(id, "asked to end");
        }
        Ok((Step::when(new, ActKind::Stop), stopping.map(|(at, _)| at)))
    })
}

impl World {
    /// The running claw, or why there is none.
    pub(crate) fn running(&self, id: &ClawId) -> Result<Record> {
        let record = self.record(id)?.ok_or_else(|| Error::not_found("simulated claw", id))?;
        match record.view(now()) {
            View::Running(_) | View::Frozen(_) => Ok(record),
            View::Prepared | View::Ended(..) => Err(record.not_up()),
        }
    }
}
