//! Making a base snapshot: a machine of an image is booted, made idle, stripped of what only one
//! machine may have, and saved. It is an instance of nobody, in a folder beside the images.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_files::{Folder, blocking, connect_own, io_error};
use clawfarm_guest::client::{Client, Event};
use clawfarm_guest::message::{Exec, Exit};
use clawfarm_local::{keeper, uid};
use clawfarm_model::launch::Software;
use clawfarm_model::name::{ClawType, TenantName};
use clawfarm_model::resources::Resources;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{ClawId, Code, Error, Result, Timestamp};
use clawfarm_qemu::snapshot::Limits;
use clawfarm_qemu::ssh::Key;
use clawfarm_qemu::{Qmp, Snapshot};
use clawfarm_runtime::{Progress, WantedSize};
use clawfarm_shim::layout::LOG_DIR;
use clawfarm_vm::{HostKey, Seed, agent as seed_agent};
use clawfarm_vm_images::{BaseMaking, BaseRecord, Format, How};
use secrecy::SecretString;
use tokio::net::UnixStream;

use crate::inner::{Inner, guard};
use crate::machine::{cpus, machine, qmp_socket};
use crate::paths::{DISK, SEED, SHARED, STATE, VM, VOLUMES};
use crate::prepare::{give_disk, owner, size};
use crate::record::{self, DiskRecord, MachineRecord, OnBase};
use crate::spec::spec;
use crate::{agent, base, seed};

/// How long QEMU may take until it greets.
const GREETING: Duration = Duration::from_secs(90);
/// How long the first boot may take until the agent answers, and then until it is at rest: minutes
/// where it is emulated on a busy machine.
const BOOT: Duration = Duration::from_secs(30 * 60);
const REST: Duration = Duration::from_secs(30 * 60);
/// How long the agent is greeted over one line, and how long until it is over the next.
const ASKED: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(200);
/// How long a shim may take to end.
const ENDING: Duration = Duration::from_secs(30);
/// What its memory is called while it is made; a name for [`Snapshot::at`].
const MEMORY: &str = "memory";
/// How much of what the guest says is told, in characters.
const SAID: usize = 500;

/// Makes the machine idle, and nobody's: what is left is made anew in each copy. Services of SSH are
/// stopped and written down, because they hold a key. Memory that is free is zeroed, so that it takes
/// no room; 64 MiB of it are left to the system.
const AT_REST: &str = r#"set -u
if command -v cloud-init >/dev/null; then
  cloud-init status --wait >/dev/null 2>&1 || { cloud-init status --long 2>&1 | tail -n 20; exit 1; }
fi
timeout 600 systemctl is-system-running --wait >/dev/null 2>&1
set -e
: >/run/clawfarm-base-units
for unit in ssh.socket ssh.service sshd.socket sshd.service; do
  if systemctl is-active --quiet "$unit"; then
    echo "$unit" >>/run/clawfarm-base-units
  fi
done
systemctl stop $(cat /run/clawfarm-base-units)
rm -f /etc/ssh/ssh_host_* /root/.ssh/authorized_keys /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
modprobe virtiofs 2>/dev/null || true
fstrim / 2>/dev/null || true
sync
echo 3 >/proc/sys/vm/drop_caches
free=$(awk '/^MemAvailable:/ { print int($2 / 1024) - 64 }' /proc/meminfo)
if [ "$free" -gt 0 ]; then
  mkdir -p /run/clawfarm-zero
  mount -t tmpfs -o size=100% none /run/clawfarm-zero
  dd if=/dev/zero of=/run/clawfarm-zero/zero bs=1M count="$free" 2>/dev/null || true
  umount /run/clawfarm-zero
  rmdir /run/clawfarm-zero
fi
# What each copy runs first is read from the disk once, here.
systemctl --version >/dev/null
sshd -t 2>/dev/null || true
sync
"#;

/// [`clawfarm_runtime::Bases::warm`].
pub(crate) async fn warm(
    inner: &Arc<Inner>,
    image: &VmImageReference,
    wanted: WantedSize,
    progress: &dyn Progress,
) -> Result<()> {
    let agent = check(inner)?;
    let default = Resources::default();
    let size = Resources {
        cpus: f64::from(cpus(&Resources { cpus: wanted.cpus.unwrap_or(default.cpus), ..default })),
        memory_mib: wanted.memory_mib.unwrap_or(default.memory_mib),
    };
    size.check()?;
    if size.memory_mib < VmSpec::MEMORY_MIN_MIB {
        return Err(Error::invalid("memory_mib", format!("no image boots with {} MiB", size.memory_mib))
            .fix(format!("give at least {} MiB", VmSpec::MEMORY_MIN_MIB)));
    }
    inner.images.fetch(image, progress).await?;
    let making = inner.images.begin_base(image, (cpus(&size), size.memory_mib), progress).await?;
    // Made meanwhile by the one who was waited for, or long ago.
    if base::choose(inner, image, size).await.is_ok() {
        return Ok(());
    }
    ended(making.folder()).await?;
    making.clear().await?;
    let record = described(image, size)?;
    let record = MachineRecord { id: id_of(&making)?, ..record };
    let made = Box::pin(make(inner, &making, record, &agent, progress)).await;
    ended(making.folder()).await?;
    making.clear().await?;
    drop(making);
    let name = made?;
    let size = (cpus(&size), size.memory_mib);
    inner
        .images
        .sweep_bases(image, move |base| {
            base.name == name || (base.record.cpus, base.record.memory_mib) != size
        })
        .await
}

/// What bases need of the server.
fn check(inner: &Inner) -> Result<Bytes> {
    if !inner.images.keeps_bases() {
        return Err(Error::new(
            Code::Unsupported,
            "base snapshots are not kept in a cache, which people empty (CLAWFARM_CACHE_DIR)",
        )
        .fix("unset CLAWFARM_CACHE_DIR for the server, so that its images are in its home"));
    }
    inner.config.agent.clone().ok_or_else(|| {
        Error::new(
            Code::Unsupported,
            "a base snapshot needs the agent, which this clawfarm was built without",
        )
        .fix(
            "build it with `make build`, which puts the agent in; `clawfarm doctor` says whether it is there",
        )
    })
}

/// A base as an instance of nobody.
pub(crate) fn described(image: &VmImageReference, size: Resources) -> Result<MachineRecord> {
    let software = Software {
        claw_type: ClawType::new("machine")?,
        version: "1".into(),
        npm: None,
        pip: None,
        own: None,
        image: None,
    };
    let vm = VmSpec { from_snapshot: true, ..VmSpec::new(image.clone()) };
    Ok(MachineRecord {
        version: 1,
        id: ClawId::new("base")?,
        tenant: TenantName::default_tenant(),
        software,
        installed: None,
        vm,
        resources: size,
        port: 0,
        ssh_port: 0,
        uid: None,
        disk: Some(DiskRecord { how: How::Overlay, format: Format::Qcow2 }),
        run: 1,
        started: None,
        frozen: false,
        booted: None,
        base: Some(OnBase { name: String::new(), tried: true, identified: true }),
        base_lost: None,
        memory_lost: None,
        launched: None,
        created_at: Timestamp::now(),
        dataset: None,
        record: serde_json::Value::Null,
    })
}

fn id_of(making: &BaseMaking) -> Result<ClawId> {
    let name = making.folder().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ClawId::new(format!("base-{name}"))
}

/// Makes it in its folder; what it is called in its place.
async fn make(
    inner: &Arc<Inner>,
    making: &BaseMaking,
    record: MachineRecord,
    agent: &Bytes,
    progress: &dyn Progress,
) -> Result<String> {
    let dir = making.folder().to_owned();
    let image = record.vm.image.clone();
    let digest = inner.images.get(&image).await?.map(|image| image.digest).unwrap_or_default();
    let disk_bytes = size(inner, &VmSpec::new(image.clone())).await?;
    inner.images.make_disk_of_base(making, &dir.join(DISK), disk_bytes).await?;
    let this = Arc::clone(inner);
    let folder = dir.clone();
    let record = blocking(move || prepare(&this, &folder, record)).await?;
    clawfarm_failpoint::point!(BasePrepared);

    let qemu = inner.qemu().await?;
    let accelerator = inner.accelerator(&qemu).await?;
    let disk = DiskRecord { how: How::Overlay, format: Format::Qcow2 };
    let mut machine = machine(&dir, &record, disk, (&qemu, &qemu.machine, accelerator), false);
    if let Some(network) = &mut machine.network {
        network.forwards.clear();
    }
    let message =
        format!("booting {image} with {} processors and {} MiB of memory", machine.cpus, machine.memory_mib);
    progress.step("boot", &message, None, "");
    let spec = spec(inner, &dir, &record, &machine, (&qemu, None))?;
    keeper::start(&inner.config.shim_command, &dir, &spec).await?;
    clawfarm_failpoint::point!(BaseStarted);
    let up = async {
        let qmp = Qmp::connect(&qmp_socket(&dir), GREETING).await?;
        qmp.run_state().await?;
        at_rest(&dir, progress).await?;
        Ok::<_, Error>(qmp)
    };
    let qmp = tokio::select! {
        qmp = up => qmp?,
        () = until_gone(&dir) => return Err(said(&dir).await),
    };
    progress.step("save", "saving its memory", None, "bytes");
    let limits = Limits::of(machine.memory_mib);
    Snapshot::at(&dir, MEMORY)?
        .save(&qmp, &machine.shape(), limits, |done, _| progress.advance(done))
        .await?;
    drop(qmp);
    keeper::wait_for_end(&dir, &record.id, ENDING).await?;
    let about = BaseRecord {
        version: 1,
        digest,
        cpus: machine.cpus,
        memory_mib: machine.memory_mib,
        disk_bytes,
        agent: base::agent_digest(agent),
        made_at: Timestamp::now(),
    };
    let base = inner.images.publish_base(making, (&dir.join(DISK), &dir.join(MEMORY)), about).await?;
    Ok(base.name)
}

/// Its user, its folders and its seed.
fn prepare(inner: &Inner, dir: &Path, record: MachineRecord) -> Result<MachineRecord> {
    let failed = |e| io_error(format!("make '{}'", dir.display()), e);
    let uid = match inner.config.own_users {
        true => {
            let _choosing = guard(&inner.choosing);
            let taken = record::uids(&inner.paths, &record.id)?;
            Some(uid::choose(&inner.paths.home, &record.id, &taken)?)
        }
        false => None,
    };
    let record = MachineRecord { uid, ..record };
    let own = owner(&record);
    let folder = Folder::open(dir).map_err(failed)?;
    for (name, own) in [(VM, own), (VOLUMES, own), (SHARED, None), (STATE, None), (LOG_DIR, None)] {
        folder.make_folder(Path::new(name), own).map_err(failed)?;
    }
    // Keys that nobody keeps: what is made of them here is removed before it is saved.
    let nobody = Key::make("nobody")?;
    let host = Key::make("nobody")?;
    let name = record.id.to_string();
    let mut first = Seed {
        instance_id: name.clone(),
        hostname: name,
        authorized_key: nobody.public,
        host_key: Some(HostKey { private: SecretString::from(host.private.as_str()), public: host.public }),
        files: Vec::new(),
        boot_commands: Vec::new(),
        commands: vec![seed::set_up(dir, &record)],
        packages: Vec::new(),
    };
    seed_agent::add_service(&mut first);
    seed::make_whole(&mut first);
    let new = clawfarm_files::NewFile { mode: 0o600, owner: own, folder_owner: None };
    folder.write(Path::new(SEED), &seed::bytes(inner, &first)?, new).map_err(failed)?;
    give_disk(inner, &dir.join(DISK), &record.vm, own)?;
    Ok(record)
}

/// Waits for the agent, and has it bring the machine to rest.
async fn at_rest(dir: &Path, progress: &dyn Progress) -> Result<()> {
    let failed = |why: String| {
        Error::new(Code::ClawFailed, format!("the machine that was to be saved did not come to rest: {why}"))
            .fix("try again; or make a machine of the image without a snapshot, and look what is wrong in it")
    };
    let client = tokio::time::timeout(BOOT, greeted(dir)).await;
    let client = client.map_err(|_| failed(format!("no agent answered within {} s", BOOT.as_secs())))?;
    progress.step("rest", "it runs; waiting until it is idle", None, "");
    let exec = Exec { argv: ["sh", "-c", AT_REST].map(str::to_owned).to_vec(), ..Exec::default() };
    let running = client.exec(&exec, BOOT).await.map_err(|why| failed(why.to_string()))?;
    let mut output = running.output;
    let mut told = Vec::new();
    let ended = async {
        loop {
            match output.next().await {
                Ok(Event::Output(bytes) | Event::Errors(bytes)) if told.len() < 4 * SAID => {
                    told.extend_from_slice(&bytes);
                }
                Ok(Event::Output(_) | Event::Errors(_)) => {}
                Ok(Event::Exit(exit)) => return Ok(exit),
                Err(why) => return Err(failed(why.to_string())),
            }
        }
    };
    let ended = tokio::time::timeout(REST, ended).await;
    let exit = ended.map_err(|_| failed(format!("it was not idle within {} s", REST.as_secs())))??;
    if exit == (Exit { code: Some(0), signal: None }) {
        return Ok(());
    }
    // Of a guest: one line, and nothing that a terminal would obey.
    let said = String::from_utf8_lossy(&told);
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID).collect();
    Err(failed(said.trim().to_owned()))
}

/// The agent, once there is one. Asked anew now and then: what is said to a guest that does not
/// listen yet piles up in the line.
///
/// A QEMU that can't be connected to listens in a moment, or has ended, and whoever waits for that
/// knows why.
async fn greeted(dir: &Path) -> Client {
    loop {
        let greeted = async {
            let line = connect_own(&agent::socket(dir)).and_then(UnixStream::from_std);
            let line = line.map_err(|e| e.to_string())?;
            Client::connect(line, ASKED).await.map_err(|e| e.to_string())
        };
        match greeted.await {
            Ok(client) => return client,
            Err(why) => tracing::debug!(why, "the agent of a base snapshot does not answer yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits until its shim has ended.
async fn until_gone(dir: &Path) {
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if !keeper::is_up(dir).await.unwrap_or(true) {
            return;
        }
    }
}

/// Why its QEMU ended by itself.
async fn said(dir: &Path) -> Error {
    let folder = dir.to_owned();
    let state = blocking(move || clawfarm_shim::ShimState::read(&folder)).await.ok().flatten();
    let exit = state.and_then(|state| state.exit);
    let how = exit.as_ref().map_or_else(|| "ended".to_owned(), ToString::to_string);
    let said = exit.map(|exit| exit.log_tail.trim().to_owned()).unwrap_or_default();
    Error::new(Code::ClawFailed, format!("QEMU {how} before the machine was at rest: {said}"))
        .fix("see `clawfarm doctor`")
}

/// Ends what runs in a folder in which a base was made.
async fn ended(dir: &Path) -> Result<()> {
    let folder = dir.to_owned();
    blocking(move || {
        if !folder.exists() {
            return Ok(());
        }
        keeper::kill_shim(&folder)
    })
    .await?;
    let id = ClawId::new("base")?;
    keeper::wait_for_end(dir, &id, ENDING).await?;
    let folder = dir.to_owned();
    blocking(move || clawfarm_shim::sweep(&folder).map(drop)).await
}

/// Removes what servers left that were ended while they made a base.
pub(crate) async fn sweep_abandoned(inner: &Inner) {
    let abandoned = match inner.images.abandoned_bases().await {
        Ok(abandoned) => abandoned,
        Err(error) => {
            tracing::warn!(%error, "what is left of base snapshots can't be told");
            return;
        }
    };
    for one in abandoned {
        let folder = one.folder.clone();
        let removed = async {
            ended(&folder).await?;
            one.remove().await
        };
        if let Err(error) = removed.await {
            tracing::warn!(folder = %folder.display(), %error, "what is left of a base snapshot takes up space");
        }
    }
}
