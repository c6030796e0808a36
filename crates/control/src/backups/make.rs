//! Making an archive of an instance.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_adapters::{ClawAdapter, SoftwareFile};
use clawfarm_archive::{LeftOut, Origin, STATE, pack};
use clawfarm_files::{Folder, NewFile, blocking, io_error};
use clawfarm_model::event::NewEvent;
use clawfarm_model::{
    Action, ClawId, Code, Context, Desired, Error, Instance, ObservedState, Phase, Result, StopOptions,
    Urgency,
};
use clawfarm_runtime::Runtime;
use clawfarm_store::{Changes, Outcome};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::pipe::{PIECES, Sending};
use super::{Workplace, check_room, offered};
use crate::Control;
use crate::core::{Core, may};
use crate::instances::not_of_a_machine;
use crate::instances::software::refuse_if_updating;
use crate::operations::StepLog;
use crate::reconcile::{Aside, act};
use crate::sharing::held::{Claim, Hold};

/// How long what is being done to an instance may take before its backup is refused.
const TURN_LIMIT: Duration = Duration::from_secs(30);
/// The largest of a claw's configuration files that is looked into, in bytes.
const MAX_CONFIG: u64 = 16 << 20;
/// The largest description of a package that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// The bytes of an archive. One that ends with an error is none.
pub type ArchiveBytes = BoxStream<'static, Result<Bytes>>;

/// An archive that is being written.
pub struct Archive {
    /// Of which instance.
    pub id: ClawId,
    /// Its bytes, as they are packed.
    pub bytes: ArchiveBytes,
}

impl Control {
    /// Makes an archive of an instance: its data at one moment, and what is needed to make it
    /// again. One that is up finishes what it is doing, is frozen for as long as its data is
    /// copied (stopped, where its runtime can't freeze), and goes on; the archive is written from
    /// the copy. Audited, and told in its events: the archive holds the claw's keys.
    ///
    /// # Errors
    /// `Conflict` when it is being updated or removed or is on its way somewhere, or when
    /// something else is asked of it meanwhile; `Unsupported` when its runtime can't copy data;
    /// `Insufficient` when the disk is full; `Overloaded` when too many archives are under way.
    pub async fn back_up(&self, context: &Context, id: &str) -> Result<Archive> {
        let core = &self.core;
        let present = core.find(context, id).await?;
        let grant = may(context, Action::DataRead, &present)?;
        check(&present)?;
        not_of_a_machine(
            &present,
            "and archives are of claws: what is on its disk is not copied",
            format!(
                "copy what you need from its volumes, which also stay when it is removed: clawfarm status {}",
                present.id
            ),
        )?;
        let runtime = core.runtime(&present.spec.target)?;
        let room = offered(runtime.as_ref())?.room();
        let place = core.backups.place()?;
        let tree = core.backups.folder(&room, Some(&present.id))?;
        check_room(&room)?;
        // Written before anything is shown: what can't be audited is not shown.
        core.store.record_audit(&grant, Outcome::Done, "backed up").await?;
        let told = NewEvent::info("backup", "an archive of its data is made");
        core.store.record_event(&grant, &told).await?;
        // A caller who hangs up must not leave a claw standing still.
        let waited_for = CancellationToken::new();
        let copying =
            Arc::clone(core).copied(context.clone(), present.id.clone(), tree.path(), waited_for.clone());
        let _called_off = waited_for.drop_guard();
        let copied = core.backups.copies.spawn(copying).await;
        let (origin, left_out) = copied.map_err(|e| Error::internal("the copy broke off", e))??;
        clawfarm_failpoint::point!(BackupCopied);
        let id = present.id.clone();
        Ok(Archive { id, bytes: packed(tree, origin, left_out, place).await? })
    }
}

/// What was done to keep it still.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Still {
    /// Nothing, or not yet.
    AsItWas,
    /// Drained, and frozen where that came to be.
    Drained,
    /// Stopped: the reconciler starts it again.
    Stopped,
}

/// Whether it is somewhere, and nothing is done with it.
fn check(it: &Instance) -> Result<()> {
    refuse_if_updating(it)?;
    let on_its_way = matches!(
        it.phase,
        Phase::Creating
            | Phase::Booting
            | Phase::Waking
            | Phase::Stopping
            | Phase::Updating
            | Phase::Destroying
    );
    if on_its_way || it.intent.desired == Desired::Destroyed || it.phase == Phase::Destroyed {
        return Err(Error::new(Code::Conflict, format!("'{}' is {}", it.id, it.phase))
            .field("id")
            .fix(format!("wait until it is there (clawfarm status {}), then try again", it.id)));
    }
    Ok(())
}

impl Core {
    /// Copies an instance's data, with nobody else at it. Goes on by itself to an end that leaves
    /// the claw as it was, also when `called_off`.
    async fn copied(
        self: Arc<Self>,
        context: Context,
        id: ClawId,
        to: PathBuf,
        called_off: CancellationToken,
    ) -> Result<(Origin, Vec<PathBuf>)> {
        let id = &id;
        let busy = || {
            Error::new(Code::Conflict, format!("something is being done to '{id}'"))
                .field("id")
                .fix(format!("wait until it is over (clawfarm status {id}), then try again"))
        };
        let aside = tokio::time::timeout(TURN_LIMIT, Aside::take(&self, id)).await.map_err(|_| busy())?;
        let instance = self.store.instance(&context, id).await?;
        check(&instance)?;
        let Claim::Mine(hold) = self.claim(&instance) else {
            return Err(Error::new(Code::Unavailable, format!("another server has just taken '{id}' over"))
                .field("id")
                .fix("try again in a few seconds"));
        };
        let runtime = self.acting(&hold, &instance.spec.target)?;
        let origin = self.origin(&instance, runtime.as_ref()).await;
        let mut still = Still::AsItWas;
        let copy = to.clone();
        let copying = self.copy_still(&hold, &instance, runtime.as_ref(), to, &mut still);
        let copied = tokio::select! {
            copied = Box::pin(copying) => copied,
            // Whoever wants something else is served first.
            () = aside.turning.interrupt.notified() => {
                Err(Error::new(Code::Conflict, format!("something else was asked of '{id}' while it was copied"))
                    .field("id")
                    .fix("try again: no archive was made"))
            }
            () = hold.lost() => Err(busy()),
            () = self.stopping.cancelled() => Err(Error::new(Code::Unavailable, "the server ends")),
            () = called_off.cancelled() => Err(Error::new(Code::Gone, "nobody waits for the archive any more")),
        };
        if still == Still::Drained
            && let Err(error) = self.go_on(&hold, &instance, runtime.as_ref()).await
        {
            // The reconciler lets it go on; its drain ends by itself.
            tracing::warn!(%id, ?error, "a claw was not let go on at once after its data was copied");
        }
        drop(aside);
        let left_out = copied?;
        let adapter = self.adapter(&instance)?;
        let (cleans, at) = (Arc::clone(&adapter), copy.clone());
        blocking(move || without_keys(cleans.as_ref(), &at)).await?;
        nobody_has_it_open(adapter.as_ref(), &copy).await;
        Ok((origin, left_out))
    }

    /// Lets one go on that was drained and, perhaps, frozen.
    async fn go_on(&self, hold: &Hold, instance: &Instance, runtime: &dyn Runtime) -> Result<()> {
        let id = &instance.id;
        if let Some(freezer) = runtime.freeze()
            && runtime.observe(id).await?.state == ObservedState::Frozen
        {
            freezer.thaw(id).await?;
        }
        clawfarm_failpoint::point!(BackupGoesOn);
        act::undrain(self, hold, instance).await
    }

    /// What an archive says of where it comes from.
    async fn origin(&self, instance: &Instance, runtime: &dyn Runtime) -> Origin {
        let schemas = async {
            let adapter = self.adapter(instance).ok()?;
            let version = &instance.spec.version;
            let software = adapter.software(version).ok()?;
            let file = runtime.upgrade()?.software_file(&software, &adapter.software_file(), MAX_FILE).await;
            Some(adapter.data_schemas(&SoftwareFile { version, contents: file.ok()?.as_deref() }))
        };
        Origin {
            id: instance.id.clone(),
            name: instance.name.clone(),
            spec: instance.spec.clone(),
            schemas: schemas.await.unwrap_or_default(),
        }
    }

    /// Copies while nothing of it moves.
    async fn copy_still(
        &self,
        hold: &Hold,
        instance: &Instance,
        runtime: &dyn Runtime,
        to: PathBuf,
        still: &mut Still,
    ) -> Result<Vec<PathBuf>> {
        let (id, backup) = (&instance.id, offered(runtime)?);
        // What was seen last may have ended, or been let go on, since.
        if runtime.observe(id).await?.state != ObservedState::Running {
            return backup.copy_out(id, &to).await;
        }
        *still = Still::Drained;
        act::drain_all(self, hold, instance, &StepLog::nobody(self.store.clone())).await?;
        let frozen = match runtime.freeze() {
            Some(freezer) => freezer.freeze(id).await.map(drop),
            None => Err(Error::new(Code::Unsupported, "its runtime can't freeze")),
        };
        match frozen {
            Ok(()) => backup.copy_out(id, &to).await,
            Err(error) if error.code() == Code::Unsupported => {
                *still = Still::Stopped;
                self.copy_stopped(hold, instance, runtime, to).await
            }
            Err(error) => Err(error),
        }
    }

    /// Where nothing can be frozen it is stopped, and started again by the reconciler.
    async fn copy_stopped(
        &self,
        hold: &Hold,
        instance: &Instance,
        runtime: &dyn Runtime,
        to: PathBuf,
    ) -> Result<Vec<PathBuf>> {
        // Before it is stopped: a server that dies in between leaves one that is to be started.
        let grant =
            may(&Context::system("backup"), Action::InstanceChange, instance)?.under(hold.fence().cloned());
        let writing = self.store.update_instance(&grant, &instance.id, None, |it| {
            it.intent.run += 1;
            Ok(Changes::event(NewEvent::info("backup", "it is stopped for as long as its data is copied")))
        });
        writing.await?;
        let grace = act::grace(self, instance, Urgency::Graceful)?;
        runtime.stop(&instance.id, StopOptions { grace }).await?;
        offered(runtime)?.copy_out(&instance.id, &to).await
    }
}

/// Takes out of a copy what the launch had written there for this instance alone.
fn without_keys(adapter: &dyn ClawAdapter, copy: &Path) -> Result<()> {
    let failed = |e| io_error("take the keys out of the copied data", e);
    let state = match Folder::open(&copy.join(STATE)) {
        Ok(state) => state,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let mut files = BTreeMap::new();
    for path in adapter.existing_files() {
        // What the claw has made something else of holds no key of ours.
        if let Ok(Some(contents)) = state.read(&path, MAX_CONFIG) {
            files.insert(path, contents);
        }
    }
    let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
    for (path, contents) in adapter.archived(&files) {
        state.write(&path, &contents, new).map_err(failed)?;
    }
    Ok(())
}

/// Takes out of a copy that a process has it open.
async fn nobody_has_it_open(adapter: &dyn ClawAdapter, copy: &Path) {
    for (file, tables) in adapter.open_marks() {
        let state = copy.join(STATE);
        if !is_plain_file(&state, &file) {
            continue;
        }
        // An archive of a database that is broken is still all that there is.
        if let Err(error) = clawfarm_store::empty_tables(&state.join(&file), tables).await {
            tracing::warn!(file = %file.display(), ?error, "a copied database says that it is open");
        }
    }
}

/// Whether a file of the copy is one, and what SQLite has beside it, too: a claw may have put links
/// there, to databases of others. The copy itself is the server's alone, so none appear meanwhile.
fn is_plain_file(root: &Path, file: &Path) -> bool {
    let mut at = root.to_owned();
    for part in file.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        if !at.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            return false;
        }
    }
    let path = root.join(file);
    let beside = ["-wal", "-shm", "-journal"].map(|end| {
        let mut name = path.clone().into_os_string();
        name.push(end);
        PathBuf::from(name)
    });
    path.symlink_metadata().is_ok_and(|meta| meta.is_file())
        && beside.iter().all(|path| path.symlink_metadata().map_or(true, |meta| meta.is_file()))
}

/// Packs the copy on a thread of its own. The copy goes when that has ended, however it does.
async fn packed(
    tree: Workplace,
    origin: Origin,
    left_out: Vec<PathBuf>,
    place: OwnedSemaphorePermit,
) -> Result<ArchiveBytes> {
    let left_out = left_out
        .into_iter()
        .map(|path| LeftOut { path, why: "a socket, pipe or device".to_owned() })
        .collect();
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let telling = sender.clone();
        let advance = &mut |_| {
            if telling.is_closed() {
                return Err(Error::new(Code::Gone, "nobody reads the archive any more"));
            }
            Ok(())
        };
        let id = origin.id.clone();
        match pack(&tree.path(), origin, left_out, Sending::new(sender.clone()), advance) {
            Ok(manifest) => {
                tracing::info!(%id, entries = manifest.entries.len(), bytes = manifest.bytes(), "backed up");
            }
            Err(error) => {
                tracing::warn!(%id, ?error, "an archive was not written to its end");
                // Whoever reads is told, unless he is gone.
                let _ = sender.blocking_send(Err(error));
            }
        }
    });
    let bytes =
        futures::stream::unfold(receiver, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
    // What is wrong with the data shows before the first byte: then it is told as an error.
    let mut bytes = bytes.boxed().peekable();
    match std::pin::Pin::new(&mut bytes).peek().await {
        Some(Err(error)) => Err(Error::from(error.report())),
        _ => Ok(bytes.boxed()),
    }
}
