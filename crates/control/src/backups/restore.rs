//! Making a new instance of an archive.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clawfarm_adapters::Warning;
use clawfarm_archive::{Manifest, unpack};
use clawfarm_model::error::Class;
use clawfarm_model::name::{InstanceName, ProjectName, TargetName};
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{Context, Error, InstanceSpec, Layered, Result};
use clawfarm_runtime::Runtime;
use clawfarm_store::Idempotency;
use futures::Stream;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::pipe::{PIECES, Receiving, pump};
use super::{Workplace, check_room, offered};
use crate::core::Core;
use crate::instances::create::{Checked, check_labels};
use crate::secrets::seen_by;
use crate::{Accepted, Control};

/// How many bytes are unpacked between two looks at the disk.
const LOOK_EVERY: u64 = 16 << 20;

/// What the instance that is made of an archive should be. What is `None` is as it was.
#[derive(Clone, Debug, Default)]
pub struct NewRestore {
    /// Its name.
    pub name: Option<InstanceName>,
    /// How it runs; when that can't be had here any more, as anything runs here by default.
    pub runtime: Option<RuntimeKind>,
    /// Where it runs.
    pub target: Option<TargetName>,
    /// Make it even when there is no memory for it.
    pub overcommit: bool,
}

/// An archive that was read to its end and is whole.
struct Unpacked {
    manifest: Manifest,
    tree: Workplace,
    target: Target,
    runtime: Arc<dyn Runtime>,
    checked: Checked,
}

impl Control {
    /// Makes a new instance of an archive, with an id, a port and keys of its own. The archive is
    /// read to its end and checked before anything is made of it.
    ///
    /// # Errors
    /// `InvalidInput` on `archive` when it is damaged, cut off or forged, or of a claw that can't be
    /// made here; otherwise as for [`Self::create`]. Then nothing was made.
    pub async fn restore(
        &self,
        context: &Context,
        wanted: NewRestore,
        idempotency_key: Option<String>,
        archive: impl Stream<Item = Result<Bytes>> + Send,
    ) -> Result<Accepted> {
        let core = &self.core;
        context.tenant()?;
        core.check_disk().await?;
        let place = core.backups.place()?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let reading = tokio::task::spawn_blocking({
            let (core, context, wanted) = (Arc::clone(core), context.clone(), wanted.clone());
            let runtime = Handle::current();
            move || read(&core, &context, &wanted, Receiving::new(receiver), &runtime)
        });
        let (read, ()) = tokio::join!(reading, pump(archive, sender));
        let unpacked = read.map_err(|e| Error::internal("the archive's reader broke off", e))??;
        drop(place);
        clawfarm_failpoint::point!(RestoreUnpacked);
        let Unpacked { manifest, mut tree, target, runtime, mut checked } = unpacked;
        let idempotency = match idempotency_key {
            Some(key) => Some(Idempotency { key, request_hash: request_hash(&checked, &manifest)? }),
            None => None,
        };
        checked.spec.restore = Some(tree.name.clone());
        if let Some(warning) = core.twice(context, &manifest).await {
            checked.warnings.push(warning);
        }
        let memory = checked.spec.resources.memory_mib;
        let reserved = if wanted.overcommit {
            None
        } else {
            Some(core.admit(&target.name, runtime.as_ref(), memory).await?)
        };
        // From now on it may be the instance's, whoever hangs up: what turns out to be nobody's is
        // tidied up later.
        tree.stays = true;
        let made = core.insert(context, checked, runtime.as_ref(), idempotency, reserved.as_ref()).await;
        match &made {
            Err(error) => tree.stays = error.code().class() != Class::User,
            Ok(made) => tree.stays = !made.replayed,
        }
        let made = made?;
        tracing::info!(id = %made.instance.id, of = %manifest.origin.id, bytes = manifest.bytes(), "an archive is restored");
        Ok(made)
    }
}

/// What tells this request from another: what is made, of which data.
fn request_hash(checked: &Checked, manifest: &Manifest) -> Result<String> {
    let text = serde_json::to_vec(&(&checked.name, &checked.spec, manifest))
        .map_err(|e| Error::internal("a manifest could not be put into JSON", e))?;
    Ok(Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read(
    core: &Arc<Core>,
    context: &Context,
    wanted: &NewRestore,
    archive: Receiving,
    on: &Handle,
) -> Result<Unpacked> {
    let mut begun = None;
    let mut looked = 0;
    let room = std::cell::RefCell::new(PathBuf::new());
    let unpacked = unpack(
        archive,
        &mut |manifest| {
            let (target, runtime) = on.block_on(core.place_for_archive(wanted, manifest))?;
            let checked = on.block_on(core.check_archive(context, wanted, manifest, &target))?;
            let tree = core.backups.folder(&offered(runtime.as_ref())?.room(), None)?;
            check_room(&tree.room)?;
            room.borrow_mut().clone_from(&tree.room);
            let path = tree.path();
            begun = Some((tree, target, runtime, checked));
            Ok(path)
        },
        &mut |bytes| {
            if bytes >= looked + LOOK_EVERY {
                looked = bytes;
                check_room(&room.borrow())?;
            }
            Ok(())
        },
    );
    let (_, manifest) = unpacked?;
    let (tree, target, runtime, checked) = begun.ok_or_else(|| {
        Error::new(clawfarm_model::Code::Internal, "an archive was read without a manifest")
    })?;
    Ok(Unpacked { manifest, tree, target, runtime, checked })
}

impl Core {
    /// Where an archive's instance is made: where it was asked for; else as it ran, where that can
    /// be had here; else where new instances are made.
    async fn place_for_archive(
        &self,
        wanted: &NewRestore,
        manifest: &Manifest,
    ) -> Result<(Target, Arc<dyn Runtime>)> {
        let found = if wanted.runtime.is_some() || wanted.target.is_some() {
            self.choose_target(wanted.runtime, wanted.target.as_ref())?
        } else {
            let origin = &manifest.origin.spec;
            self.choose_target(Some(origin.runtime), Some(&origin.target))
                .or_else(|_| self.choose_target(Some(origin.runtime), None))
                .or_else(|_| self.choose_target(None, None))?
        };
        offered(found.1.as_ref()).map_err(|e| e.field("runtime"))?;
        Ok(found)
    }

    /// What an archive makes of a new instance. Whoever wrote it may have written anything.
    async fn check_archive(
        &self,
        context: &Context,
        wanted: &NewRestore,
        manifest: &Manifest,
        target: &Target,
    ) -> Result<Checked> {
        if !manifest.has_files() {
            return Err(Error::invalid("archive", "there is no file in the archive")
                .fix("make a new instance instead: clawfarm new"));
        }
        let origin = &manifest.origin;
        let adapter = self.adapters.get(&origin.spec.claw_type).map_err(in_archive)?;
        adapter.software(&origin.spec.version).map_err(in_archive)?;
        let spec = InstanceSpec {
            runtime: target.runtime,
            target: target.name.clone(),
            // A file does not say which program is run: clawfarm's own of that version is.
            image: None,
            vm: machine_of(&origin.spec, target.runtime)?.map(Box::new),
            // The other may still have it.
            port: None,
            import: None,
            dataset: None,
            restore: None,
            overcommit: wanted.overcommit,
            ..origin.spec.clone()
        };
        spec.check().map_err(in_archive)?;
        check_labels(&spec.labels).map_err(in_archive)?;
        self.check_vm(context, &spec).await.map_err(in_archive)?;
        let mut warnings = adapter.validate(&spec).map_err(in_archive)?;
        if let Some(image) = origin.spec.image.as_ref().filter(|_| target.runtime == RuntimeKind::Docker) {
            warnings.push(Warning {
                field: "image".into(),
                message: format!("it ran the image {image}; now it runs clawfarm's own of {}", spec.version),
            });
        }
        let owners = seen_by(context.tenant()?, &ProjectName::default_project(), None);
        self.check_secrets(context, &spec.config, &owners, |_| false).await.map_err(|e| {
            let fix = e.fix_text().unwrap_or_default().to_owned();
            in_archive(e).fix(format!("{fix}, then restore again: an archive holds no values of secrets"))
        })?;
        let name = wanted.name.clone().unwrap_or_else(|| origin.name.clone());
        // All that it is configured with is its own: the layers of where it was may not be here.
        Ok(Checked {
            name,
            spec,
            attended: false,
            layers: Layered::default(),
            secrets: Default::default(),
            warnings,
        })
    }

    /// A word about the instance that the archive is of, should it still be there.
    async fn twice(&self, context: &Context, manifest: &Manifest) -> Option<Warning> {
        let other = self.store.instance(context, &manifest.origin.id).await.ok()?;
        other.phase.holds_memory().then(|| Warning {
            field: "archive".into(),
            message: format!(
                "'{0}', which it is of, is up too: where both are signed in to the same channel, both answer (clawfarm stop {0})",
                other.id
            ),
        })
    }
}

/// The machine of a claw that ran in one: of the same image, with the volumes whose contents are in the
/// archive. A file does not say which folders of this machine are shared, what is run to set one
/// up, and which ports lead to it.
fn machine_of(origin: &InstanceSpec, runtime: RuntimeKind) -> Result<Option<VmSpec>> {
    if runtime != RuntimeKind::Vm {
        return Ok(None);
    }
    let vm = origin.vm.as_ref().ok_or_else(|| {
        Error::invalid(
            "runtime",
            "the archive is of a claw that ran in no virtual machine, and names no image of one",
        )
        .fix("restore it as a process or a container: --runtime process")
    })?;
    Ok(Some(VmSpec { volumes: vm.volumes.clone(), disk_gib: vm.disk_gib, ..VmSpec::new(vm.image.clone()) }))
}

/// What is wrong with a specification, when it came in an archive.
#[expect(clippy::needless_pass_by_value, reason = "it is what errors are mapped with")]
fn in_archive(error: Error) -> Error {
    let field = error.field_name().map_or_else(String::new, |field| format!(" ({field})"));
    let told = Error::new(
        error.code(),
        format!("what the archive is of can't be made here{field}: {}", error.message()),
    );
    match error.fix_text() {
        Some(fix) => told.field("archive").fix(fix.to_owned()),
        None => told.field("archive").fix("see what its manifest.json says"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;

    #[test]
    fn a_machine_comes_back_with_its_image_and_volumes_and_nothing_of_the_host() {
        let mut origin = instance().spec;
        assert_eq!(machine_of(&origin, RuntimeKind::Process).unwrap(), None);
        let error = machine_of(&origin, RuntimeKind::Vm).unwrap_err();
        assert_eq!(error.field_name(), Some("runtime"));
        let vm = serde_json::json!({
            "image": "debian:12", "disk_gib": 20, "workspace": "/etc", "setup": ["rm -rf /"],
            "volumes": [{"name": "notes", "guest": "/notes"}], "publish": [{"host": 8080, "guest": 80}],
        });
        origin.vm = Some(Box::new(serde_json::from_value(vm).unwrap()));
        let made = machine_of(&origin, RuntimeKind::Vm).unwrap().unwrap();
        let kept = serde_json::json!({
            "image": "debian:12", "disk_gib": 20, "volumes": [{"name": "notes", "guest": "/notes"}],
        });
        assert_eq!(made, serde_json::from_value(kept).unwrap());
    }
}
