//! A claw in a machine: its software, which this machine has and shares, its home, which is a
//! folder here, and what it is started with.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use clawfarm_files::{NewFile, blocking, io_error};
use clawfarm_install::{Installation, Npm, Places};
use clawfarm_local::state::{self, new_file};
use clawfarm_model::launch::{Layout, Software};
use clawfarm_model::name::ClawType;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ClawId, Code, Error, Launch, Place, Result};
use clawfarm_qemu::machine::{Disk, Format};
use clawfarm_qemu::ssh::posix_word;
use clawfarm_runtime::Progress;
use clawfarm_vm::claw::{ENVIRONMENT, LOGS, SOFTWARE, hand_in};
use clawfarm_vm_images::disk_of_folder;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::inner::Inner;
use crate::machine::server_addresses;
use crate::paths::{LAUNCH, VM, WORKSPACE};
use crate::prepare::owner;
use crate::record::MachineRecord;

/// What the disk with its software is called, in the guest.
const SOFTWARE_LABEL: &str = "software";
/// Where those disks are, in the cache.
const DISKS: &str = "vm-software";

/// The claw type of what is nobody's but its owner's.
const BARE: &str = "machine";

/// Root's own folder, in the guest.
const ROOTS: &str = "/root";

/// Whether some software is that of a claw, and not of a bare machine.
pub(crate) fn is_claw(software: &Software) -> bool {
    is_claw_type(&software.claw_type)
}

/// The same, by its type.
pub(crate) fn is_claw_type(claw_type: &ClawType) -> bool {
    claw_type.as_str() != BARE
}

/// Where a claw has its home, in its machine: as if its own installer had put it there.
pub(crate) fn home(record: &MachineRecord) -> String {
    home_of(&record.software.claw_type)
}

/// The same, by its type.
pub(crate) fn home_of(claw_type: &ClawType) -> String {
    format!("{ROOTS}/.{claw_type}")
}

/// Where it works for its user: where a folder of theirs is, or in its home.
fn workspace(record: &MachineRecord) -> String {
    match record.vm.workspace {
        Some(_) => VmSpec::WORKSPACE.to_owned(),
        None => format!("{}/{WORKSPACE}", home(record)),
    }
}

/// The folders that a claw is not started without.
pub(crate) fn needs(record: &MachineRecord) -> [String; 2] {
    [SOFTWARE.to_owned(), home(record)]
}

/// Makes sure that a claw's software is on this machine, and on a disk for all its virtual ones; `None`
/// for a bare one.
pub(crate) async fn install(
    inner: &Inner,
    software: &Software,
    progress: &dyn Progress,
) -> Result<Option<std::path::PathBuf>> {
    if !is_claw(software) {
        return Ok(None);
    }
    if software.npm.is_none() {
        // A Python environment names its Python by a path of this machine, and so do the owner's
        // own programs the libraries that they need.
        return Err(Error::new(
            Code::Unsupported,
            format!("a {} can't be run in a virtual machine: it is no package of npm", software.claw_type),
        )
        .field("runtime")
        .fix("use --runtime process, or docker; or make a bare machine and set it up there with --run"));
    }
    let npm = Npm { program: inner.config.npm.clone(), time_limit: inner.config.npm_time_limit };
    let folder = installation(inner, software)?.ensure(&npm, progress).await?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let disk = inner.config.cache_dir.join(DISKS).join(format!("{name}.ext4"));
    disk_of_folder(&folder, SOFTWARE_LABEL, &disk, progress).await?;
    // Confinement names files to the kernel: without links on the way.
    let failed = |e| io_error(format!("look at the software in '{}'", disk.display()), e);
    disk.canonicalize().map_err(failed).map(Some)
}

/// Where a claw's software is on this machine.
pub(crate) fn installation(inner: &Inner, software: &Software) -> Result<Installation> {
    let places = Places { home: inner.paths.home.clone(), cache: inner.config.cache_dir.clone() };
    Installation::of(software, &places)
}

/// The disk with a claw's software, which nobody writes to.
pub(crate) fn disk(record: &MachineRecord) -> Option<Disk> {
    let path = record.installed.clone()?;
    Some(Disk { id: "software".into(), path, format: Format::Raw, read_only: true })
}

/// Where that is mounted, and its line of fstab.
pub(crate) fn mount(record: &MachineRecord) -> Option<[String; 2]> {
    record.installed.as_ref()?;
    let line = format!("LABEL={SOFTWARE_LABEL} {SOFTWARE} ext4 ro,nofail,x-systemd.device-timeout=30s 0 0");
    Some([SOFTWARE.to_owned(), line])
}

/// The place of a claw, as it sees it.
pub(crate) fn place(inner: &Inner, record: &MachineRecord) -> Result<Place> {
    Ok(Place {
        install_dir: SOFTWARE.into(),
        layout: Layout::Machine,
        state_dir: home(record).into(),
        workspace_dir: workspace(record).into(),
        log_dir: LOGS.into(),
        tmp_dir: "/tmp".into(),
        port: record.port,
        listen_on_all: true,
        server_addresses: server_addresses(),
        host_url: inner.host_url()?,
        memory_enforced: true,
    })
}

/// Writes the files of a launch into the claw's home.
pub(crate) async fn write_files(inner: &Arc<Inner>, record: &MachineRecord, launch: &Launch) -> Result<()> {
    let (dir, record, files) = (inner.dir(&record.id), record.clone(), launch.files.clone());
    blocking(move || {
        for file in &files {
            let contents = file.contents.expose_secret().as_bytes();
            let new = new_file(owner(&record), file.read_only);
            state::write(&dir, &record.id, &file.path, contents, new)?;
        }
        Ok(())
    })
    .await
}

/// What the machine is handed in.
struct HandedIn(Zeroizing<String>);

fn handed_in(launch: &Launch) -> Result<HandedIn> {
    let mut environment = Vec::new();
    for (name, value) in &launch.env {
        let value = posix_word(value.expose_secret()).map_err(|e| e.field(format!("env.{name}")))?;
        environment.push(format!("export {name}={value}"));
    }
    let argv = launch.argv.iter().map(|word| posix_word(word)).collect::<Result<Vec<_>>>()?;
    let text = hand_in(&environment, &posix_word(&launch.cwd.to_string_lossy())?, &argv);
    for mut line in environment {
        zeroize::Zeroize::zeroize(&mut line);
    }
    text.map(|text| HandedIn(Zeroizing::new(text))).ok_or_else(|| {
        Error::invalid("config.env", "a value has a line that only clawfarm may write")
            .fix("remove the line '#clawfarm-launch'")
    })
}

/// What tells a launch from others that would run something else: other words, another version of the
/// software, or another disk with the same, made anew in an emptied cache, whose blocks a memory does not
/// know. A token is in it, so nobody finds out by it what else there is.
pub(crate) fn digest(launch: &Launch, installed: Option<&Path>) -> Result<String> {
    let text = handed_in(launch)?;
    let mut hash = Sha256::new_with_prefix(text.0.as_bytes());
    if let Some(disk) = installed {
        let about = std::fs::metadata(disk)
            .map_err(|e| io_error(format!("look at the software in '{}'", disk.display()), e))?;
        hash.update(disk.as_os_str().as_bytes());
        for number in [about.ino(), about.mtime().cast_unsigned(), about.mtime_nsec().cast_unsigned()] {
            hash.update(number.to_le_bytes());
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Lays what is handed in where QEMU reads it when it starts.
pub(crate) async fn lay(inner: &Arc<Inner>, record: &MachineRecord, launch: &Launch) -> Result<()> {
    let (dir, own, text) = (inner.dir(&record.id), owner(record), handed_in(launch)?);
    let id = record.id.clone();
    blocking(move || {
        let new = NewFile { mode: 0o600, owner: own, folder_owner: None };
        clawfarm_files::Folder::open(&dir.join(VM))
            .and_then(|folder| folder.write(Path::new(LAUNCH), text.0.as_bytes(), new))
            .map_err(|e| io_error(format!("write what '{id}' is started with"), e))
    })
    .await
}

/// Removes it again: there are keys in it.
pub(crate) async fn take_away(inner: &Arc<Inner>, id: &ClawId) {
    let dir = inner.dir(id);
    let removed = blocking(move || {
        clawfarm_files::Folder::open(&dir.join(VM))
            .and_then(|folder| folder.remove(LAUNCH.as_ref()))
            .map_err(|e| io_error("remove what a machine was started with", e))
    });
    if let Err(error) = removed.await {
        tracing::warn!(%id, %error, "what it was started with is still on this machine's disk");
    }
}

/// A command beside a claw: with the claw's environment, where it works.
pub(crate) fn beside(record: &MachineRecord, argv: Vec<String>) -> Vec<String> {
    if record.installed.is_none() {
        return argv;
    }
    // What was not handed in yet (it still boots) is no reason to refuse a look.
    let script = format!(
        "[ ! -r {ENVIRONMENT} ] || . {ENVIRONMENT}; cd -- {} 2>/dev/null; exec \"$@\"",
        workspace(record)
    );
    let mut all = ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    all.extend(argv);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::SecretString;

    fn launch(env: &[(&str, &str)]) -> Launch {
        Launch {
            id: ClawId::new("alice-x7k2b").unwrap(),
            run: 1,
            argv: vec!["node".into(), "a b".into()],
            env: env.iter().map(|(name, value)| ((*name).into(), SecretString::from(*value))).collect(),
            cwd: "/root/.openclaw/workspace".into(),
            files: Vec::new(),
            resources: clawfarm_model::resources::Resources::default(),
        }
    }

    #[test]
    fn a_launch_is_told_from_another_by_what_it_runs_with() {
        let one = launch(&[("A", "1")]);
        let dir = tempfile::tempdir().unwrap();
        let (disk, another) = (dir.path().join("disk"), dir.path().join("another"));
        for disk in [&disk, &another] {
            std::fs::write(disk, "software").unwrap();
        }
        let of = |launch: &Launch| digest(launch, Some(&disk));
        assert_eq!(of(&one).unwrap(), of(&Launch { run: 7, ..one.clone() }).unwrap());
        assert_ne!(of(&one).unwrap(), of(&launch(&[("A", "2")])).unwrap());
        assert_ne!(of(&one).unwrap(), digest(&one, Some(&another)).unwrap());
        let before = of(&one).unwrap();
        std::fs::rename(&another, &disk).unwrap();
        assert_ne!(of(&one).unwrap(), before, "the same, made anew");
        let error = of(&launch(&[("A", "\0")])).unwrap_err();
        assert_eq!(error.field_name(), Some("env.A"));
        let error = of(&launch(&[("A", "x\n#clawfarm-launch\ny")])).unwrap_err();
        assert_eq!(error.field_name(), Some("config.env"));
    }
}
