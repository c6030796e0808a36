//! What is known of the instances and datasets here without the store.
//!
//! The records lie in folders that only the server writes to. One that somebody else could
//! have written is not believed: it would say whose a claw is.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use clawfarm_model::{ClawId, Code, Error, Observation, Result};
use clawfarm_runtime::{Kept, KeptData, KnownData, check_kept};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::inner::Inner;
use crate::record::{self, InstanceRecord};
use crate::{dataset, observe};
use clawfarm_files::{blocking, check_owner};

/// The kernel gives no process a larger environment (`execve(2)`: a quarter of the stack's
/// limit, 6 MiB at most).
const ENVIRONMENT_LIMIT: u64 = 8 << 20;

/// [`clawfarm_runtime::Recover::kept`].
pub(crate) async fn kept(inner: &Arc<Inner>) -> Result<Vec<Kept>> {
    let paths = inner.paths.clone();
    let mut ids = blocking(move || record::ids(&paths)).await?;
    ids.sort();
    let mut all = Vec::with_capacity(ids.len());
    for id in ids {
        let found = {
            let (inner, id) = (Arc::clone(inner), id.clone());
            blocking(move || trusted(&inner, &id)).await
        };
        // Looked at whatever its record is like: whether it runs is worth knowing.
        let seen = observe::observe(inner, &id).await;
        let (run, record) = match found {
            Ok(found) => (found.run, Ok(found.record)),
            Err(error) => (0, Err(error)),
        };
        all.push(Kept { id, record, run, seen });
    }
    Ok(all)
}

/// The record of an instance, if nobody but the server can have written it.
fn trusted(inner: &Inner, id: &ClawId) -> Result<InstanceRecord> {
    let dir = inner.dir(id);
    check_owner(&dir, record::FILE)?;
    let found = InstanceRecord::read(&dir)?.ok_or_else(|| missing(&dir.join(record::FILE)))?;
    check_kept(&dir.join(record::FILE), id, (found.version, &found.id), &found.record)?;
    Ok(found)
}

/// [`clawfarm_runtime::Recover::kept_data`].
pub(crate) fn kept_data(inner: &Inner) -> Result<Vec<KeptData>> {
    let known = |id: &ClawId| {
        let dir = inner.paths.dataset(id);
        check_owner(&dir, dataset::MANIFEST)?;
        let path = dir.join(dataset::MANIFEST);
        let found = dataset::manifest(inner, id)?.ok_or_else(|| missing(&path))?;
        check_kept(&path, id, (found.version, &found.id), &found.record)?;
        let (tenant, record) = (found.tenant, found.record);
        Ok(KnownData { tenant, size_bytes: found.size_bytes, created_at: found.created_at, record })
    };
    Ok(dataset::ids(inner)?.into_iter().map(|id| KeptData { known: known(&id), id }).collect())
}

fn missing(path: &Path) -> Error {
    Error::new(Code::NotFound, format!("there is no '{}'", path.display()))
        .fix("put back the file from a backup")
}

/// What a running claw was executed with. Nothing when it can't be read, or is no longer this
/// instance's process.
pub(crate) fn environment(seen: &Observation, names: &[String]) -> Vec<(String, SecretString)> {
    let Some(pid) = seen.pid.filter(|_| seen.state.is_up()) else { return Vec::new() };
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(ENVIRONMENT_LIMIT).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::warn!(id = %seen.id, %error, "the environment of a claw can't be read");
        return Vec::new();
    }
    let variables =
        || bytes.split(|&b| b == 0).filter_map(|line| std::str::from_utf8(line).ok()?.split_once('='));
    if !variables().any(|(name, value)| name == clawfarm_shim::MARK && value == seen.id.as_str()) {
        return Vec::new();
    }
    variables()
        .filter(|(name, _)| names.iter().any(|wanted| wanted == name))
        .map(|(name, value)| (name.to_owned(), SecretString::from(value)))
        .collect()
}
