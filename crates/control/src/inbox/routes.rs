//! Where services leave messages for an instance: as its configuration had it when it was last
//! started, kept among its own secrets, because the routes have the keys that senders prove
//! themselves with. A claw that sleeps can't be asked.

use clawfarm_model::inbox::InboxRoute;
use clawfarm_model::secret::SecretName;
use clawfarm_model::{Context, Error, Instance, Result};
use secrecy::{ExposeSecret as _, SecretString};

use crate::core::Core;
use crate::keys::{owner, system_grant};

/// The secret that has them.
const ROUTES: &str = "clawfarm.inbox-routes";

impl Core {
    /// Keeps the routes of a launch.
    pub(crate) async fn keep_routes(&self, instance: &Instance, routes: &[InboxRoute]) -> Result<()> {
        let name = SecretName::new(ROUTES)?;
        let text = serde_json::to_string(routes).map_err(|e| Error::internal("routes are no JSON", e))?;
        let owner = owner(instance);
        let kept = self.store.secret_value(&Context::system("inbox"), &owner, &name).await?;
        match kept {
            Some(kept) if kept.expose_secret() == text => return Ok(()),
            None if routes.is_empty() => return Ok(()),
            _ => {}
        }
        let grant = system_grant(instance)?;
        if routes.is_empty() {
            self.store.remove_secret(&grant, &owner, &name).await?;
        } else {
            self.store.set_secret(&grant, &owner, &name, &SecretString::from(text)).await?;
        }
        Ok(())
    }

    /// The routes of an instance's last launch.
    pub(crate) async fn routes(&self, instance: &Instance) -> Result<Vec<InboxRoute>> {
        let name = SecretName::new(ROUTES)?;
        let kept = self.store.secret_value(&Context::system("inbox"), &owner(instance), &name).await?;
        let Some(kept) = kept else { return Ok(Vec::new()) };
        // Of a later version of clawfarm perhaps: then its senders are refused, and it is told.
        Ok(serde_json::from_str(kept.expose_secret()).unwrap_or_else(|error| {
            tracing::warn!(id = %instance.id, %error, "where messages come in can't be read; start the claw anew");
            Vec::new()
        }))
    }
}

/// The route of a path: the longest that it is at or below.
pub(super) fn of<'a>(routes: &'a [InboxRoute], path: &str) -> Option<&'a InboxRoute> {
    let below = |root: &str| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    };
    routes.iter().filter(|route| below(&route.path)).max_by_key(|route| route.path.len())
}
