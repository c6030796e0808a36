//! What is known of the instances and datasets here without the store: by the containers' labels,
//! and by the records beside the data, which lie in folders that only the server writes to.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use clawfarm_files::{Folder, blocking, check_owner, io_error};
use clawfarm_model::{ClawId, Code, Error, Observation, Result};
use clawfarm_runtime::{Kept, KeptData, KnownData, check_kept};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::inner::Inner;
use crate::paths::CONFIG;
use crate::record::{self, ContainerRecord};
use crate::{dataset, observe};

/// Where the secrets of a claw are in its state: its container's environment has none.
const ENV_FILE: &str = ".env";
/// No larger one is read, in bytes: a claw may have put anything there.
const ENV_LIMIT: u64 = 1 << 20;

/// [`clawfarm_runtime::Recover::kept`].
pub(crate) async fn kept(inner: &Arc<Inner>) -> Result<Vec<Kept>> {
    // First, because an engine that does not answer can't say what runs.
    let mut ids: BTreeSet<ClawId> = observe::labelled(inner).await?.into_iter().collect();
    let this = Arc::clone(inner);
    ids.extend(blocking(move || recorded(&this)).await?);
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

/// The instances whose records exist and are not another target's; a damaged one is nobody's yet.
fn recorded(inner: &Inner) -> Result<Vec<ClawId>> {
    let all = record::folders(&inner.paths)?;
    let others = |id: &ClawId| matches!(ContainerRecord::read(&inner.dir(id)), Ok(Some(found)) if found.target != inner.config.target);
    Ok(all.into_iter().filter(|id| inner.dir(id).join(record::FILE).exists() && !others(id)).collect())
}

/// The record of an instance, if nobody but the server can have written it.
fn trusted(inner: &Inner, id: &ClawId) -> Result<ContainerRecord> {
    let dir = inner.dir(id);
    if !dir.exists() {
        return Err(missing(&dir.join(record::FILE)).fix(format!(
            "put back the folder from a backup, or remove what is left: docker rm -f {}",
            inner.container(id)
        )));
    }
    check_owner(&dir, record::FILE)?;
    let found = ContainerRecord::read(&dir)?.ok_or_else(|| missing(&dir.join(record::FILE)))?;
    check_kept(&dir.join(record::FILE), id, (found.version, &found.id), &found.record)?;
    Ok(found)
}

/// [`clawfarm_runtime::Recover::kept_data`].
pub(crate) fn kept_data(inner: &Inner) -> Result<Vec<KeptData>> {
    let mut all = Vec::new();
    for id in dataset::ids(inner)? {
        let dir = inner.paths.dataset(&id);
        let path = dir.join(dataset::MANIFEST);
        let found = check_owner(&dir, dataset::MANIFEST)
            .and_then(|()| dataset::manifest(inner, &id)?.ok_or_else(|| missing(&path)));
        if found.as_ref().is_ok_and(|found| found.target != inner.config.target) {
            continue;
        }
        let known = found.and_then(|found| {
            check_kept(&path, &id, (found.version, &found.id), &found.record)?;
            let (tenant, record) = (found.tenant, found.record);
            Ok(KnownData { tenant, size_bytes: found.size_bytes, created_at: found.created_at, record })
        });
        all.push(KeptData { id, known });
    }
    Ok(all)
}

fn missing(path: &Path) -> Error {
    Error::new(Code::NotFound, format!("there is no '{}'", path.display()))
        .fix("put back the file from a backup")
}

/// What a claw was last started with: the file that its program read. Nothing when it can't be
/// read. What came as a variable of the container is no secret, and nobody asks for it here.
pub(crate) fn environment(
    inner: &Inner,
    seen: &Observation,
    names: &[String],
) -> Vec<(String, SecretString)> {
    let read = Folder::open(&inner.dir(&seen.id).join(CONFIG))
        .and_then(|folder| folder.read(Path::new(ENV_FILE), ENV_LIMIT));
    let bytes = match read {
        Ok(Some(bytes)) => Zeroizing::new(bytes),
        Ok(None) => return Vec::new(),
        Err(error) => {
            let error = io_error("read its secrets", error);
            tracing::warn!(id = %seen.id, ?error, "the keys of a claw can't be read back");
            return Vec::new();
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let value = |name: &String| {
        // One that is set twice has its last value.
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let (_, value) = lines.rfind(|(known, _)| known.trim() == name)?;
        Some((name.clone(), SecretString::from(unquoted(value.trim()))))
    };
    names.iter().filter_map(value).collect()
}

/// A value without the quotes around it.
fn unquoted(value: &str) -> &str {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    ['\'', '`', '"'].into_iter().find_map(inner).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_no_part_of_a_value() {
        for (value, wanted) in
            [("'a b'", "a b"), ("`it's`", "it's"), ("\"x\"", "x"), ("plain", "plain"), ("'", "'")]
        {
            assert_eq!(unquoted(value), wanted);
        }
    }
}
