//! What revisions say. They never change, and a number is never used again, so each is read once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use clawfarm_config::Template;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ConfigKind, ConfigName, Context, Result};

use crate::core::Core;

/// So many are kept at most; a fleet goes by a handful at a time.
const KEPT: usize = 256;

/// Revisions that were read, by tenant, name and number.
#[derive(Default)]
pub(crate) struct Contents(Mutex<HashMap<(String, ConfigName, i64), Arc<Template>>>);

impl Core {
    /// What a revision says, of a configuration that is the tenant's or the fleet's.
    pub(super) async fn content(
        &self,
        tenant: &TenantName,
        name: &ConfigName,
        number: i64,
    ) -> Result<Arc<Template>> {
        let whose = if name.kind() == ConfigKind::Global { String::new() } else { tenant.to_string() };
        let key = (whose, name.clone(), number);
        if let Some(known) = self.contents.lock().get(&key) {
            return Ok(Arc::clone(known));
        }
        let read = self.store.revision_content(&Context::system("config"), tenant, name, number).await?;
        let read = Arc::new(read);
        let mut held = self.contents.lock();
        if held.len() >= KEPT {
            held.clear();
        }
        held.insert(key, Arc::clone(&read));
        Ok(read)
    }
}

impl Contents {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, ConfigName, i64), Arc<Template>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
