//! Starting a claw: its files, then its container.

use std::path::Path;
use std::sync::Arc;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Status};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use clawfarm_files::{Folder, NewFile, Owner, blocking, io_error};
use clawfarm_model::{ClawId, Code, Error, Launch, Observation, ObservedState, Result};
use secrecy::ExposeSecret as _;

use crate::engine::found;
use crate::fault::{failed, is_missing, is_state, may_be_stale};
use crate::inner::Inner;
use crate::paths::{CONFIG, WORKSPACE, part_of};
use crate::prepare::{give_all, make_folders};
use crate::record::ContainerRecord;
use crate::spec::{self, SPEC_HASH};
use crate::{end, image, network, observe};

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
    // What the engine started again by itself belongs to a launch that has ended.
    if observe::is_up(inner, id).await? {
        end::end_now(inner, id).await?;
    }
    let reference = record.software.image.clone().ok_or_else(|| Error::not_found("image", id))?;
    let digest = image::digest(inner, &reference).await?;
    write(inner, launch).await?;
    // No network is removed from here on until the container is in it.
    let used = inner.networks.read().await;
    let network = network::ensure(inner, &record.tenant, id).await?;
    let kind = inner.engine.kind().await?;
    let (body, hash) = spec::container(inner, launch, &record, &digest, &network, kind)?;
    let old = reusable(inner, id, &hash).await?;
    let before = old.as_ref().and_then(|old| old.state.as_ref()).and_then(observe::started);
    if old.is_none() {
        create(inner, id, body.clone()).await?;
    }
    begin_run(inner, launch, before, digest.clone()).await?;
    let client = inner.engine.docker().await?;
    let name = inner.container(id);
    let mut begun = client.start_container(&name, None).await;
    if let (Some(_), Err(error)) = (&old, &begun)
        && may_be_stale(error)
    {
        // A container remembers its network by more than its name: one that was removed and made
        // again since then is another. So is a container that somebody removed just now.
        tracing::info!(%id, %error, "its container fits no longer; it is made anew");
        remove(inner, id).await?;
        create(inner, id, body).await?;
        begin_run(inner, launch, None, digest).await?;
        begun = client.start_container(&name, None).await;
    }
    drop(used);
    match begun {
        Ok(()) => {}
        Err(error) if is_state(&error) => {}
        Err(error) => return Err(not_gone(failed(format!("start '{id}'"), error), launch)),
    }
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

async fn write(inner: &Arc<Inner>, launch: &Launch) -> Result<()> {
    let (inner, launch) = (Arc::clone(inner), launch.clone());
    blocking(move || {
        let id = &launch.id;
        // The claw may have removed its folders while it ran.
        make_folders(&inner, id)?;
        give_all(&inner, id)?;
        for file in &launch.files {
            write_file(&inner, id, &file.path, file.contents.expose_secret().as_bytes(), file.read_only)?;
        }
        Ok(())
    })
    .await
}

/// Writes a file of the claw's state.
pub(crate) fn write_file(
    inner: &Inner,
    id: &ClawId,
    path: &Path,
    contents: &[u8],
    read_only: bool,
) -> Result<()> {
    let (part, rest) = part_of(path);
    folder(inner, id, part)?
        .write(&rest, contents, new_file(inner, read_only))
        .map_err(|e| file_error(path, e))
}

/// One of the folders of an instance.
pub(crate) fn folder(inner: &Inner, id: &ClawId, part: &'static str) -> Result<Folder> {
    debug_assert!([CONFIG, WORKSPACE].contains(&part));
    let path = inner.dir(id).join(part);
    Folder::open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found("instance", id),
        _ => io_error(format!("open '{}'", path.display()), e),
    })
}

/// The mode and owner of a claw's file. A read-only one belongs to root where the server is
/// root, so that it can't be changed in place; it lies in a folder of the claw's all the same.
fn new_file(inner: &Inner, read_only: bool) -> NewFile {
    let user = inner.user();
    let root = rustix::process::geteuid().is_root();
    let (mode, owner) = match (read_only, root) {
        (true, true) => (0o440, Owner { uid: 0, gid: user.gid }),
        (true, false) => (0o400, user),
        (false, _) => (0o600, user),
    };
    NewFile { mode, owner: Some(owner), folder_owner: Some(user) }
}

/// What a fault about a claw's file means.
pub(crate) fn file_error(path: &Path, error: std::io::Error) -> Error {
    let shown = path.display();
    match error.kind() {
        std::io::ErrorKind::InvalidInput => Error::invalid("path", error.to_string())
            .fix("give a path below the instance's state folder, without links and '..'")
            .source(error),
        std::io::ErrorKind::FileTooLarge => {
            Error::new(Code::Insufficient, error.to_string()).field("path").source(error)
        }
        _ => io_error(format!("use '{shown}' in the instance's state"), error).field("path"),
    }
}

/// The container that there is, when it is what would be made now; another is removed.
async fn reusable(inner: &Inner, id: &ClawId, hash: &str) -> Result<Option<ContainerInspectResponse>> {
    let Some(old) = observe::container(inner, id).await? else { return Ok(None) };
    let labels = old.config.as_ref().and_then(|config| config.labels.as_ref());
    let same = labels.and_then(|labels| labels.get(SPEC_HASH)).is_some_and(|known| known == hash);
    let whole = old
        .state
        .as_ref()
        .and_then(|state| state.status)
        .is_some_and(|status| matches!(status, Status::CREATED | Status::EXITED));
    if same && whole {
        return Ok(Some(old));
    }
    remove(inner, id).await?;
    Ok(None)
}

/// Removes an instance's container, ended or not. Gone already is a success.
pub(crate) async fn remove(inner: &Inner, id: &ClawId) -> Result<()> {
    let client = inner.engine.docker().await?;
    let name = inner.container(id);
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match client.remove_container(&name, Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(failed(format!("remove the container '{name}'"), error)),
    }
}

async fn create(inner: &Inner, id: &ClawId, body: bollard::models::ContainerCreateBody) -> Result<()> {
    let client = inner.engine.docker().await?;
    let name = inner.container(id);
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let made =
        found(client.create_container(Some(options), body).await, || format!("make the container '{name}'"))?;
    match made {
        Some(_) => Ok(()),
        None => Err(Error::new(Code::Unavailable, "its image or its network was removed as it was made")
            .fix("it is tried again by itself")),
    }
}

/// Writes the launch down before it begins: who finds a container that was not started since
/// then knows that it was not this launch's.
async fn begin_run(inner: &Arc<Inner>, launch: &Launch, before: Option<String>, image: String) -> Result<()> {
    let (inner, id, run) = (Arc::clone(inner), launch.id.clone(), launch.run);
    blocking(move || {
        inner.change_record(&id, |it: &mut ContainerRecord| {
            it.run = run;
            it.before = before;
            it.asked = false;
            it.ended = None;
            it.image = Some(image);
        })
    })
    .await
    .map(drop)
}

/// "No such file" is about the claw's program, not about the instance.
fn not_gone(error: Error, launch: &Launch) -> Error {
    let program = launch.argv.first().map_or("", String::as_str);
    let cannot_run = ["executable file not found", "no such file or directory", "permission denied"]
        .iter()
        .any(|text| error.message().to_lowercase().contains(text));
    if cannot_run || error.code() == Code::NotFound {
        return Error::new(Code::ClawFailed, format!("'{program}': {}", error.message()))
            .field("argv")
            .fix("build the image anew, or choose another version")
            .source(error);
    }
    error
}
