//! What works here, and what would mend the rest.

use clawfarm_model::target::{Check, CheckLevel, Diagnosis};
use clawfarm_model::{Context, Error, Result};

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
        let types = self.claw_types();
        let mut runtimes = Vec::new();
        for (_, runtime) in self.core.targets().iter() {
            runtimes.push(runtime.diagnose().await);
        }
        let certificates = self.core.certificates.get().map_or_else(Vec::new, |it| it.checks());
        // Without a store there is nothing to be said of claws; that it does not answer is told above.
        let sleep = crate::sleep::channels::check(&self.core, context).await.unwrap_or_default();
        let key = self.master_key().await;
        let server = [Some(store), key, self.core.disk(), Some(types), sleep]
            .into_iter()
            .flatten()
            .chain(certificates)
            .collect();
        Ok((server, runtimes))
    }

    /// The claw types, with the version that a new instance of each gets. A file that describes
    /// one and can't be used is told.
    fn claw_types(&self) -> Check {
        let mut known = Vec::new();
        let mut broken: Option<Error> = None;
        for claw_type in self.core.adapters.types() {
            match self.core.adapters.get(&claw_type) {
                Ok(adapter) => known.push(format!("{claw_type} {}", adapter.default_version())),
                Err(error) => broken = Some(error),
            }
        }
        let (level, detail, fix) = match &broken {
            None => (CheckLevel::Ok, known.join(", "), None),
            Some(error) => (
                CheckLevel::Warning,
                format!("{}; {}", known.join(", "), error.message()),
                error.fix_text().map(str::to_owned),
            ),
        };
        Check { name: "claw types".into(), level, detail, fix }
    }

    /// How the master key is. Nothing when the store does not answer, which is told by itself.
    async fn master_key(&self) -> Option<Check> {
        let system = Context::system("doctor");
        // Whoever changes the key asks this, to be sure that it is known here before the one
        // before ends.
        let taken_up = self.core.store.take_keys_up(&system).await;
        let state = self.core.store.key_state(&system).await.ok()?;
        let check = |level, detail: String, fix: Option<&str>| Check {
            name: "master key".into(),
            level,
            detail,
            fix: fix.map(str::to_owned),
        };
        if let Err(error) = taken_up {
            return Some(check(CheckLevel::Error, error.message().to_owned(), error.fix_text()));
        }
        Some(if !state.masters.contains(&state.own) {
            check(
                CheckLevel::Error,
                format!(
                    "this server was started with the key {}, which is valid no more; {} is",
                    state.own,
                    state.masters.join(" or ")
                ),
                Some("put the valid key where this server finds it, or its next start fails"),
            )
        } else if state.masters.len() > 1 {
            check(
                CheckLevel::Warning,
                format!("it is being changed: {} are valid", state.masters.join(" and ")),
                Some("give the new one to all servers, then: clawfarm server rotate-master-key --finish"),
            )
        } else {
            let anew = if state.rewrapping { "; secrets are being wrapped anew" } else { "" };
            check(CheckLevel::Ok, format!("fingerprint {}{anew}", state.own), None)
        })
    }
}
