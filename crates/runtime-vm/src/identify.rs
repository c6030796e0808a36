//! Telling a machine that was copied who it is.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clawfarm_files::{Folder, NewFile, blocking, connect_own, io_error};
use clawfarm_guest::client::{Client, GuestError};
use clawfarm_guest::message::{Hidden, Identity, Mount, Request};
use clawfarm_model::{Code, Error, Result};
use clawfarm_qemu::ssh::Key;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::agent;
use crate::inner::Inner;
use crate::paths::KEYS;
use crate::record::MachineRecord;
use crate::{seed, shares};

/// What a machine from a base snapshot is told, until it was.
const FILE: &str = "identity.json";
/// Larger is none of ours.
const FILE_LIMIT: u64 = 64 * 1024;
/// How long its agent may take to answer, and then to do it: a second or two on an idle machine.
const ANSWERS: Duration = Duration::from_secs(45);
const DONE: Duration = Duration::from_secs(60);
/// Random bytes for the guest.
const ENTROPY: usize = 64;

/// What is kept for it: secrets, so it goes when the machine has it.
#[derive(Serialize, Deserialize)]
struct Kept {
    machine_id: String,
    host_key: Hidden<String>,
    host_key_public: String,
    authorized_key: String,
}

/// Keeps what the machine is told at its first start.
pub(crate) fn keep(keys: &Folder, host: &Key, login: &Key) -> Result<()> {
    let mut id = [0_u8; 16];
    random(&mut id)?;
    // As systemd makes one: a UUID of version 4.
    id[6] = (id[6] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    let kept = Kept {
        machine_id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
        host_key: Hidden(host.private.as_str().to_owned()),
        host_key_public: host.public.clone(),
        authorized_key: login.public.clone(),
    };
    let text = serde_json::to_vec(&kept).map_err(|e| Error::internal("an identity can't be written", e))?;
    let private = NewFile { mode: 0o600, owner: None, folder_owner: None };
    keys.write(Path::new(FILE), &text, private).map_err(|e| io_error("write what a machine is told", e))
}

/// Tells it, and waits until it is what it was told. Its folders must be plugged in.
pub(crate) async fn identify(inner: &Inner, record: &MachineRecord) -> Result<()> {
    let id = &record.id;
    let dir = inner.dir(id);
    let keys = dir.join(KEYS);
    let read = blocking(move || {
        let failed = |e| io_error(format!("read '{}'", keys.join(FILE).display()), e);
        Folder::open(&keys).and_then(|folder| folder.read(Path::new(FILE), FILE_LIMIT)).map_err(failed)
    });
    let text = read.await?.ok_or_else(|| {
        Error::new(Code::Internal, format!("it is not known who '{id}' is: {FILE} is missing"))
    })?;
    let kept: Kept = serde_json::from_slice(&text)
        .map_err(|e| Error::internal(format!("it is not known who '{id}' is"), e))?;
    let line = connect_own(&agent::socket(&dir))
        .and_then(UnixStream::from_std)
        .map_err(|e| io_error("connect to the machine's agent", e))?;
    let client = Client::connect(line, ANSWERS).await.map_err(|why| told(&why))?;
    let mut entropy = vec![0; ENTROPY];
    random(&mut entropy)?;
    let mounts = shares::all(&dir, record).into_iter().map(|share| Mount {
        fstab: seed::fstab(&share),
        tag: share.tag,
        path: share.guest,
    });
    let mounts = mounts.collect();
    // Last: it is what time it is.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let identity = Identity {
        instance_id: id.to_string(),
        hostname: id.to_string(),
        machine_id: kept.machine_id.clone(),
        entropy: Hidden(entropy),
        unix_nanos: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        host_key: kept.host_key.clone(),
        host_key_public: kept.host_key_public.clone(),
        authorized_key: kept.authorized_key.clone(),
        mounts,
    };
    client.ask::<()>(&Request::Identify(Box::new(identity)), DONE).await.map_err(|why| told(&why))?;
    inner.agents.keep(id, client).await;
    Ok(())
}

/// The machine has it: the secrets are its own.
pub(crate) async fn forget(inner: &Inner, record: &MachineRecord) {
    let keys = inner.dir(&record.id).join(KEYS);
    let removed = blocking(move || {
        Folder::open(&keys)
            .and_then(|folder| folder.remove(FILE.as_ref()))
            .map_err(|e| io_error("remove what a machine was told", e))
    });
    if let Err(error) = removed.await {
        tracing::warn!(id = %record.id, %error, "what the machine was told is left on this machine's disk");
    }
}

fn told(why: &GuestError) -> Error {
    let code = match why {
        GuestError::TimedOut => Code::Timeout,
        GuestError::Gone(_) => Code::Unavailable,
        GuestError::Refused(_) => Code::ClawFailed,
    };
    Error::new(code, format!("the agent in it did not take its identity: {why}"))
}

fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|e| Error::internal("no random numbers can be had", e))
}
