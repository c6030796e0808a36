//! What the world knows of its claws, for a store that was lost.

use async_trait::async_trait;
use clawfarm_model::{Error, Observation, Result};
use clawfarm_runtime::{Kept, KeptData, Recover};
use secrecy::SecretString;

use crate::behaviour::Verb;
use crate::disk::now;
use crate::record::Life;
use crate::runtime::SimRuntime;

#[async_trait]
impl Recover for SimRuntime {
    async fn kept(&self) -> Result<Vec<Kept>> {
        self.verb(Verb::List, None, |world| {
            let now = now();
            let mut all: Vec<_> = world.records()?;
            all.sort_by(|a, b| a.id.cmp(&b.id));
            let kept = |record: &serde_json::Value| match record {
                serde_json::Value::Null => Err(Error::not_found("record", "of the simulated claw")),
                record => Ok(record.clone()),
            };
            Ok(all
                .iter()
                .map(|it| Kept {
                    id: it.id.clone(),
                    record: kept(&it.kept),
                    run: it.run,
                    seen: Ok(it.observe(now)),
                })
                .collect())
        })
        .await
    }

    /// None: nothing is kept beside simulated data.
    async fn kept_data(&self) -> Result<Vec<KeptData>> {
        Ok(Vec::new())
    }

    async fn environment(&self, seen: &Observation, names: &[&str]) -> Result<Vec<(String, SecretString)>> {
        let (id, names) = (seen.id.clone(), names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>());
        self.verb(Verb::List, Some(&seen.id), move |world| {
            let Some(record) = world.record(&id)? else { return Ok(Vec::new()) };
            let keys = match record.life {
                Life::Prepared => Vec::new(),
                Life::Up(up) => up.keys,
                Life::Saved { up, .. } => up.keys,
            };
            let wanted = keys.into_iter().filter(|(name, _)| names.contains(name));
            Ok(wanted.map(|(name, value)| (name, SecretString::from(value))).collect())
        })
        .await
    }
}
