//! What works here, and what would mend the rest.

use clawfarm_model::target::{Check, CheckLevel, Diagnosis};
use clawfarm_model::{Context, Result};

use crate::Control;

impl Control {
    /// Looks at the server and at each runtime.
    ///
    /// # Errors
    /// None so far: what is broken is a check.
    pub async fn doctor(&self, context: &Context) -> Result<(Vec<Check>, Vec<Diagnosis>)> {
        let store = match self.core.store.ping().await {
            Ok(()) => Check {
                name: "store".into(),
                level: CheckLevel::Ok,
                detail: self.core.store.description().to_owned(),
                fix: None,
            },
            Err(error) => Check {
                name: "store".into(),
                level: CheckLevel::Error,
                detail: error.message().to_owned(),
                fix: error.fix_text().map(str::to_owned),
            },
        };
        let types: Vec<_> = self
            .core
            .adapters
            .types()
            .filter_map(|t| self.core.adapters.get(t).ok().map(|a| format!("{t} {}", a.default_version())))
            .collect();
        let types =
            Check { name: "claw types".into(), level: CheckLevel::Ok, detail: types.join(", "), fix: None };
        let mut runtimes = Vec::new();
        for (_, runtime) in self.core.targets().iter() {
            runtimes.push(runtime.diagnose().await);
        }
        let certificates = self.core.certificates.get().map_or_else(Vec::new, |it| it.checks());
        // Without a store there is nothing to be said of claws; that it does not answer is told above.
        let sleep = crate::sleep::channels::check(&self.core, context).await.unwrap_or_default();
        let server = [Some(store), self.core.disk(), Some(types), sleep]
            .into_iter()
            .flatten()
            .chain(certificates)
            .collect();
        Ok((server, runtimes))
    }
}
