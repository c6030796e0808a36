//! Starting a claw: its files, then its shim.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Launch, Observation, ObservedState, Result};
use clawfarm_shim::ShimSpec;
use clawfarm_shim::spec::{Bind, CgroupSpec, EnvVar, LandlockSpec, LogSpec, MountSpec, SPEC_VERSION, User};
use secrecy::ExposeSecret;

use crate::inner::{Inner, owner};
use crate::paths::{CLAW_LOGS, STATE, TMP, VOLUMES, WORKSPACE};
use crate::prepare::{give_all, make_folders};
use crate::record::InstanceRecord;
use crate::{end, insisted, keeper, observe, port};
use clawfarm_files::Folder;
use clawfarm_files::{blocking, io_error};
use clawfarm_local::folders::hidden;
use clawfarm_local::state::{file_error, new_file};

/// [`clawfarm_runtime::Runtime::start`].
pub(crate) async fn start(inner: &Arc<Inner>, launch: &Launch) -> Result<Observation> {
    launch.resources.check()?;
    let id = &launch.id;
    let _verb = inner.lock(id).await;
    let record = inner.record(id)?;
    let seen = observe::observe(inner, id).await?;
    if let Some(running) = already(launch, &seen)? {
        return Ok(running);
    }
    port::check_free(record.port)?;
    let (this, launch) = (Arc::clone(inner), launch.clone());
    let spec = blocking(move || {
        let record = write_files(&this, &launch, record)?;
        spec(&this, &launch, &record)
    })
    .await?;
    clawfarm_failpoint::point!(FilesWritten);
    let dir = inner.dir(id);
    if let Err(error) = keeper::start(&inner.config.shim_command, &dir, &spec).await {
        return Err(after_failure(inner, id, not_gone(error, &spec)).await);
    }
    clawfarm_failpoint::point!(ShimStarted);
    inner.watch.follow(id);
    inner.tell(id);
    observe::observe(inner, id).await
}

/// What is to be done about a launch when this was seen: `Some` when it runs already.
fn already(launch: &Launch, seen: &Observation) -> Result<Option<Observation>> {
    let newer = seen.run.cmp(&launch.run);
    match (seen.state.is_up(), newer) {
        (true, std::cmp::Ordering::Equal | std::cmp::Ordering::Greater) => Ok(Some(seen.clone())),
        (true, std::cmp::Ordering::Less) => Err(Error::new(
            Code::Conflict,
            format!("'{}' still runs an earlier launch ({} instead of {})", launch.id, seen.run, launch.run),
        )
        .field("run")
        .fix(format!("stop it first with `clawfarm stop {}`", launch.id))),
        (false, std::cmp::Ordering::Greater) if seen.state == ObservedState::Exited => Err(Error::new(
            Code::Conflict,
            format!("'{}' had a later launch already ({} after {})", launch.id, seen.run, launch.run),
        )
        .field("run")
        .fix("look at the instance again before deciding")),
        (false, _) => Ok(None),
    }
}

fn write_files(inner: &Inner, launch: &Launch, mut record: InstanceRecord) -> Result<InstanceRecord> {
    let dir = inner.dir(&launch.id);
    // The claw may have removed its folders while it ran.
    make_folders(&dir, &record)?;
    give_all(&dir, &record)?;
    let state = dir.join(STATE);
    let folder = Folder::open(&state).map_err(|e| io_error(format!("open '{}'", state.display()), e))?;
    for file in &launch.files {
        folder
            .write(
                &file.path,
                file.contents.expose_secret().as_bytes(),
                new_file(owner(&record), file.read_only),
            )
            .map_err(|e| file_error(&file.path, e))?;
    }
    record.run = launch.run;
    record.resources = launch.resources;
    record.write(&dir)?;
    Ok(record)
}

fn spec(inner: &Inner, launch: &Launch, record: &InstanceRecord) -> Result<ShimSpec> {
    let dir = inner.dir(&launch.id);
    let install = inner.install(&record.software)?.dir();
    let spec = ShimSpec {
        version: SPEC_VERSION,
        id: launch.id.clone(),
        run: launch.run,
        argv: launch.argv.clone(),
        env: environment(launch, &dir),
        cwd: launch.cwd.clone(),
        exec_cwd: Some(dir.join(STATE).join(WORKSPACE)),
        user: record.uid.map(|uid| User { uid, gid: uid }),
        groups: Vec::new(),
        landlock: Some(landlock(&dir, &install, record)?),
        claw_landlock: None,
        mounts: record.uid.map(|_| mounts(inner, &dir, &install)),
        cgroup: Some(CgroupSpec {
            name: Path::new("clawfarm").join(inner.home_hash()).join(launch.id.as_str()),
            parent: None,
            loopback: None,
        }),
        resources: launch.resources,
        max_tasks: ShimSpec::DEFAULT_MAX_TASKS,
        logs: LogSpec::default(),
        token: keeper::token()?,
        term_grace_ms: 60_000,
        helpers: Vec::new(),
        ask: None,
    };
    spec.check()?;
    Ok(spec)
}

/// The launch's environment, and what every program expects where the launch does not say it.
fn environment(launch: &Launch, dir: &Path) -> Vec<EnvVar> {
    let mut all: Vec<EnvVar> =
        launch.env.iter().map(|(name, value)| EnvVar { name: name.clone(), value: value.clone() }).collect();
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    for (name, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("HOME", path(dir.join(STATE))),
        ("TMPDIR", path(dir.join(TMP))),
        ("LANG", "C.UTF-8".to_owned()),
    ] {
        if !all.iter().any(|var| var.name == name) {
            all.push(EnvVar::new(name, value));
        }
    }
    all
}

/// What a claw may use. Only folders whose own place is out of the claw's reach are named: a
/// name within its state could be a link that it has planted.
fn landlock(dir: &Path, install: &Path, record: &InstanceRecord) -> Result<LandlockSpec> {
    let own = [STATE, VOLUMES, TMP, CLAW_LOGS].map(|name| dir.join(name)).to_vec();
    let write = [own.clone(), insisted::make(record)?].concat();
    // Skills are scripts that lie in the state, and some tools unpack programs into TMPDIR.
    let execute = [vec![install.to_owned()], own].concat();
    Ok(LandlockSpec::system(record.uid.is_some()).with(LandlockSpec { read: Vec::new(), write, execute }))
}

/// The claw's view: its own folders and the software, nothing else of the home.
fn mounts(inner: &Inner, dir: &Path, install: &Path) -> MountSpec {
    let hide = hidden(&inner.paths.home, &[install]);
    let mut binds: Vec<Bind> =
        [STATE, VOLUMES, TMP, CLAW_LOGS].map(|name| Bind { path: dir.join(name), read_only: false }).to_vec();
    if hide.iter().any(|hide| install.starts_with(hide)) {
        binds.push(Bind { path: install.to_owned(), read_only: true });
    }
    MountSpec { hide, binds }
}

/// "No such program" must not be mistaken for "no such instance".
fn not_gone(error: Error, spec: &ShimSpec) -> Error {
    if error.code() != Code::NotFound {
        return error;
    }
    let program = spec.argv.first().map_or("", String::as_str);
    Error::new(Code::ClawFailed, format!("'{program}': {}", error.message()))
        .field("argv")
        .fix(
            "remove the installation below CLAWFARM_CACHE_DIR/installs, so that the next start makes it anew",
        )
        .source(error)
}

/// A failed start leaves nothing that runs.
async fn after_failure(inner: &Arc<Inner>, id: &ClawId, error: Error) -> Error {
    // One that ended by itself is waited for; one that got stuck on the way is killed.
    let ended = observe::wait_for_end(inner, id, Duration::from_secs(2)).await;
    let cleaned = if ended.is_ok() { observe::observe(inner, id).await } else { end::kill(inner, id).await };
    if let Err(further) = cleaned {
        tracing::warn!(%id, error = %further, "what a failed start left could not be cleared away yet");
    }
    error
}
