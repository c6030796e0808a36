//! What a machine's first boot is told, and the keys that are made for it.

use std::path::{Path, PathBuf};

use clawfarm_files::{Folder, NewFile, Owner, io_error};
use clawfarm_model::{ClawId, Error, Result};
use clawfarm_qemu::ssh::{Key, Ssh, known_host};
use clawfarm_vm::claw::add_service as add_claw;
use clawfarm_vm::{HostKey, Seed, agent};
use secrecy::SecretString;

use crate::claw;
use crate::identify;
use crate::inner::Inner;
use crate::paths::{KEYS, SEED};
use crate::record::MachineRecord;
use crate::shares::{self, Shared};

/// The key to log in with.
const IDENTITY: &str = "id_ed25519";
/// What the size of a seed's disk is a multiple of, in bytes: more than a seed has beside the agent.
const PADDED: usize = 4 << 20;
/// The guest's key, pinned.
const KNOWN_HOSTS: &str = "known_hosts";

/// Sets up what every machine has: a way in, and its folders mounted, now and at each boot. Its
/// arguments are pairs of a folder and its line of fstab.
///
/// What does not come up must not keep the machine from booting (`nofail`), and must not be
/// taken for set up either.
const SET_UP: &str = r#"set -eu
if ! [ -x /usr/sbin/sshd ]; then
  apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y openssh-server
fi
mounts=$#
while [ $# -gt 0 ]; do
  mkdir -p -- "$1"
  grep -qxF -- "$2" /etc/fstab || printf '%s\n' "$2" >>/etc/fstab
  # Again at a later boot, where fstab has brought it already.
  mountpoint -q -- "$1" || mount -- "$1"
  mountpoint -q -- "$1"
  shift 2
done
[ "$mounts" = 0 ] || systemctl daemon-reload
mkdir -p /run/clawfarm
: >/run/clawfarm/mounted
"#;

/// The last of a first boot: says, on the disk, that all of it is on the disk. When what comes first
/// failed, so does this, and cloud-init tells. It is said of this machine: a disk may be the image of others.
const WHOLE: &str = r#"set -eu
[ -e /run/clawfarm/mounted ]
sync
: >/var/lib/cloud/instance/clawfarm-set-up
sync
"#;

/// Has a first boot that was cut off done again at the next. cloud-init writes down that it does a thing
/// before it does (`FileSemaphores`), and never comes back to it: without this a machine whose host lost its
/// power in the middle would stay half set up for good.
const AGAIN: &str = "cd /var/lib/cloud/instance && { [ -e clawfarm-set-up ] || rm -f sem/config_*; }";

/// Adds what makes a first boot whole, once everything else is in its seed.
pub(crate) fn make_whole(seed: &mut Seed) {
    let shell = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    seed.boot_commands.push(shell(AGAIN));
    seed.commands.push(shell(WHOLE));
}

/// Makes keys and seed, once: with another seed cloud-init would take the machine for another.
pub(crate) fn make(inner: &Inner, record: &MachineRecord, owner: Option<Owner>) -> Result<()> {
    let dir = inner.dir(&record.id);
    let failed = |e| io_error(format!("write what '{}' is told at its first boot", record.id), e);
    let folder = Folder::open(&dir).map_err(failed)?;
    if folder.kind(SEED.as_ref()).map_err(failed)?.is_some() {
        return Ok(());
    }
    let login = Key::make(&format!("clawfarm@{}", record.id))?;
    let host = Key::make(&format!("root@{}", record.id))?;
    let keys = folder.make_folder(Path::new(KEYS), None).map_err(failed)?;
    let private = NewFile { mode: 0o600, owner: None, folder_owner: None };
    if record.vm.from_snapshot {
        identify::keep(&keys, &host, &login)?;
    }
    let known = known_host(record.id.as_str(), &host.public)?;
    keys.write(Path::new(IDENTITY), login.private.as_bytes(), private).map_err(failed)?;
    keys.write(Path::new(KNOWN_HOSTS), known.as_bytes(), private).map_err(failed)?;
    let mut seed = Seed {
        instance_id: record.id.to_string(),
        hostname: record.id.to_string(),
        authorized_key: login.public,
        host_key: Some(HostKey { private: SecretString::from(host.private.as_str()), public: host.public }),
        files: Vec::new(),
        boot_commands: Vec::new(),
        commands: vec![set_up(&dir, record)],
        packages: Vec::new(),
    };
    if record.installed.is_some() {
        add_claw(&mut seed, 0, &claw::needs(record).each_ref().map(String::as_str));
    }
    if inner.config.agent.is_some() {
        agent::add_service(&mut seed);
    }
    make_whole(&mut seed);
    // Last: where it is, the keys are.
    let new = NewFile { mode: 0o600, owner, folder_owner: None };
    folder.write(Path::new(SEED), &bytes(inner, &seed)?, new).map_err(failed)
}

/// The bytes of a seed's disk. Padded, so that those of all machines have one size: one that was
/// restored has the size that its base snapshot had.
pub(crate) fn bytes(inner: &Inner, seed: &Seed) -> Result<Vec<u8>> {
    let mut disk = seed.iso()?;
    if let Some(program) = &inner.config.agent {
        agent::add_program(&mut disk, program.to_vec())?;
    }
    let mut bytes = disk.to_bytes();
    bytes.resize(bytes.len().next_multiple_of(PADDED), 0);
    Ok(bytes)
}

pub(crate) fn set_up(dir: &Path, record: &MachineRecord) -> Vec<String> {
    let mut command = ["sh", "-c", SET_UP, "sh"].map(str::to_owned).to_vec();
    command.extend(claw::mount(record).into_iter().flatten());
    for share in shares::all(dir, record) {
        let line = fstab(&share);
        command.extend([share.guest, line]);
    }
    command
}

/// A folder's line of the guest's fstab. Neither name has a letter that means something there.
pub(crate) fn fstab(share: &Shared) -> String {
    format!("{} {} virtiofs rw,nofail 0 0", share.tag, share.guest)
}

/// The way into a machine.
pub(crate) fn ssh(inner: &Inner, record: &MachineRecord) -> Result<Ssh> {
    let keys = inner.dir(&record.id).join(KEYS);
    Ok(Ssh {
        program: Ssh::find()?,
        port: record.ssh_port,
        user: "root".into(),
        identity: keys.join(IDENTITY),
        known_hosts: keys.join(KNOWN_HOSTS),
        alias: record.id.to_string(),
    })
}

/// A file for ssh's own messages about one command, which is removed by who asked for it.
pub(crate) fn messages(inner: &Inner, id: &ClawId) -> Result<Messages> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal("no random numbers can be had", e))?;
    let name = u64::from_le_bytes(bytes);
    Ok(Messages(inner.dir(id).join(KEYS).join(format!("said-{name:016x}"))))
}

/// Is removed with its last use.
pub(crate) struct Messages(PathBuf);

impl Messages {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        // Nothing was said: there is none.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_up_is_of_scripts_that_a_shell_takes() {
        for script in [SET_UP, WHOLE, AGAIN] {
            let checked = std::process::Command::new("/bin/sh").args(["-n", "-c", script]).status().unwrap();
            assert!(checked.success(), "{script}");
        }
    }
}
