//! What is known of the machines and datasets here without the store.
//!
//! The records lie in folders that only the server writes to. One that somebody else could
//! have written is not believed: it would say whose an instance is.

use std::path::Path;
use std::sync::Arc;

use clawfarm_files::{blocking, check_owner};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::{Kept, KeptData, KnownData, check_kept};

use crate::inner::Inner;
use crate::record::{self, MachineRecord};
use crate::{dataset, observe};

/// [`clawfarm_runtime::Recover::kept`].
pub(crate) async fn kept(inner: &Arc<Inner>) -> Result<Vec<Kept>> {
    let paths = inner.paths.clone();
    let ids = blocking(move || record::ids(&paths)).await?;
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

fn trusted(inner: &Inner, id: &ClawId) -> Result<MachineRecord> {
    let dir = inner.dir(id);
    check_owner(&dir, record::FILE)?;
    let found = MachineRecord::read(&dir)?.ok_or_else(|| missing(&dir.join(record::FILE)))?;
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
