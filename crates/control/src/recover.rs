//! Rebuilding a lost store from what the targets know by themselves.
//!
//! Looking and writing are apart, so that a person sees first what would be done. Nothing is
//! started or stopped here: the instances are written down as they are, and the next server
//! takes them up like any others.

use std::collections::BTreeSet;
use std::sync::Arc;

use clawfarm_model::dataset::Dataset;
use clawfarm_model::event::NewEvent;
use clawfarm_model::instance::Intent;
use clawfarm_model::name::{InstanceName, ProjectName, TargetName, TenantName};
use clawfarm_model::secret::SecretName;
use clawfarm_model::setup::Setup;
use clawfarm_model::target::Target;
use clawfarm_model::{
    Action, ClawId, Code, Context, Desired, Error, Health, Instance, InstanceSpec, Layered, Observation,
    ObservedState, Phase, Resource, Result, SoftwareUpdate, Timestamp, authorize,
};
use clawfarm_runtime::{Kept, KeptData, Recover};
use clawfarm_store::{Recovered, Store};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::Parts;
use crate::boundary::around;
use crate::core::put_targets;
use crate::instances::create::check_labels;
use crate::keys::{GATEWAY_TOKEN, MODEL_KEY, is_random_key};
use crate::secrets::seen_by_instance;

/// The first port that needs no root; no claw has a lower one.
const FIRST_PORT: u16 = 1024;

/// What the targets have.
#[derive(Debug, Default)]
pub struct Findings {
    /// Their instances.
    pub instances: Vec<Finding<LostInstance>>,
    /// The data that was set aside there.
    pub datasets: Vec<Finding<Dataset>>,
    /// Targets that could not be asked, with why.
    pub silent: Vec<(TargetName, Error)>,
}

/// One thing that a target has.
#[derive(Debug)]
pub struct Finding<T> {
    /// Its id.
    pub id: ClawId,
    /// Where it is.
    pub target: TargetName,
    /// What is to be done about it.
    pub verdict: Verdict<T>,
}

/// What is to be done about a finding.
#[derive(Debug)]
pub enum Verdict<T> {
    /// The store knows it; it stays as it is.
    Known,
    /// The store does not know it: it can be put back as this.
    Lost(Box<T>),
    /// It was put back.
    Recovered(Box<T>),
    /// It can't be put back, for this reason.
    Refused(Error),
}

/// An instance that can be put back.
#[derive(Debug)]
pub struct LostInstance {
    /// As it will be in the store.
    pub instance: Instance,
    /// It runs, and is started again by the next server: its keys could not be read back.
    pub restarts: bool,
    /// The secrets that its configuration refers to and that are not in the store.
    pub secrets: Vec<SecretName>,
    keys: Vec<(SecretName, SecretString)>,
}

/// What is kept beside an instance: see `reconcile::launch::record`, which writes it.
#[derive(Debug, Deserialize)]
struct Record {
    id: ClawId,
    tenant: TenantName,
    project: ProjectName,
    name: InstanceName,
    spec: InstanceSpec,
    intent: Intent,
    port: Option<u16>,
    created_at: Timestamp,
    #[serde(default)]
    failed: bool,
    #[serde(default)]
    update: Option<SoftwareUpdate>,
    /// Without it no command is run: it may have been.
    #[serde(default)]
    setup: Option<Setup>,
}

impl Findings {
    /// Asks every target what it has, and the store what it knows. Changes nothing.
    ///
    /// # Errors
    /// When the store can't be read. A target that does not answer is told in the findings.
    pub async fn look(parts: &Parts) -> Result<Self> {
        let mut found = Self::default();
        for (target, runtime) in &parts.targets {
            let runtime = around(Arc::clone(runtime));
            let asked = async {
                let recover = runtime.recover().ok_or_else(|| unsupported(target))?;
                Ok((recover, recover.kept().await?, recover.kept_data().await?))
            };
            let (recover, kept, data) = match asked.await {
                Ok(answer) => answer,
                Err(error) => {
                    found.silent.push((target.name.clone(), error));
                    continue;
                }
            };
            for it in kept {
                let id = it.id.clone();
                let verdict = verdict(parts, target, recover, it).await?;
                found.instances.push(Finding { id, target: target.name.clone(), verdict });
            }
            for it in data {
                let id = it.id.clone();
                let verdict = match parts.store.dataset(&system(), &id).await {
                    Ok(_) => Verdict::Known,
                    Err(error) if error.code() == Code::NotFound => match dataset(target, it) {
                        Ok(dataset) => Verdict::Lost(Box::new(dataset)),
                        Err(error) => Verdict::Refused(error),
                    },
                    Err(error) => return Err(error),
                };
                found.datasets.push(Finding { id, target: target.name.clone(), verdict });
            }
        }
        Ok(found)
    }

    /// Puts back what was lost: each in a transaction of its own, so that one which does not
    /// fit takes no other with it. No server may work on this store's targets meanwhile.
    ///
    /// # Errors
    /// When the targets can't be written. What could not be put back is `Refused` in the
    /// findings afterwards.
    pub async fn put_back(&mut self, parts: &Parts) -> Result<()> {
        put_targets(parts).await?;
        // Before the instances, which may have been given one.
        for finding in &mut self.datasets {
            let Verdict::Lost(dataset) = &finding.verdict else { continue };
            let resource = Resource::new(dataset.tenant.clone(), "dataset", dataset.id.as_str());
            let grant = authorize(&system(), Action::InstanceCreate, &resource)?;
            let outcome = parts.store.recover_dataset(&grant, dataset).await;
            let done = outcome.as_ref().is_ok_and(|missing| *missing);
            finding.verdict.settle(outcome.map(drop));
            if !done && matches!(finding.verdict, Verdict::Recovered(_)) {
                finding.verdict = Verdict::Known;
            }
        }
        for finding in &mut self.instances {
            let Verdict::Lost(lost) = &finding.verdict else { continue };
            let resource = Resource::new(lost.instance.tenant.clone(), "instance", finding.id.as_str());
            let grant = authorize(&system(), Action::InstanceCreate, &resource)?;
            let new = Recovered {
                instance: lost.instance.clone(),
                event: NewEvent::warning("recovered", told(lost)),
                secrets: lost.keys.clone(),
            };
            let outcome = parts.store.recover_instance(&grant, &new).await;
            finding.verdict.settle(outcome.map(drop));
        }
        Ok(())
    }

    /// How much could be put back.
    #[must_use]
    pub fn lost(&self) -> usize {
        let of = |lost: bool| usize::from(lost);
        self.instances.iter().map(|f| of(matches!(f.verdict, Verdict::Lost(_)))).sum::<usize>()
            + self.datasets.iter().map(|f| of(matches!(f.verdict, Verdict::Lost(_)))).sum::<usize>()
    }

    /// Whether there is anything that can't be put back, or could not be asked for.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        !self.silent.is_empty()
            || self.instances.iter().any(|f| matches!(f.verdict, Verdict::Refused(_)))
            || self.datasets.iter().any(|f| matches!(f.verdict, Verdict::Refused(_)))
    }
}

impl<T> Verdict<T> {
    fn settle(&mut self, outcome: Result<()>) {
        *self = match (std::mem::replace(self, Self::Known), outcome) {
            (Self::Lost(lost), Ok(())) => Self::Recovered(lost),
            (Self::Lost(_), Err(error)) => Self::Refused(error),
            (other, _) => other,
        };
    }
}

fn system() -> Context {
    Context::system("recover")
}

fn unsupported(target: &Target) -> Error {
    Error::new(Code::Unsupported, format!("the runtime {} keeps no records", target.runtime))
        .fix("restore a backup of the database instead")
}

async fn verdict(
    parts: &Parts,
    target: &Target,
    recover: &dyn Recover,
    kept: Kept,
) -> Result<Verdict<LostInstance>> {
    match parts.store.instance(&system(), &kept.id).await {
        Ok(_) => return Ok(Verdict::Known),
        Err(error) if error.code() == Code::NotFound => {}
        Err(error) => return Err(error),
    }
    let (instance, seen) = match instance(parts, target, kept) {
        Ok(found) => found,
        Err(error) => return Ok(Verdict::Refused(error)),
    };
    let keys = match keys(parts, recover, &instance, &seen).await {
        Ok(keys) => keys,
        Err(error) => return Ok(Verdict::Refused(error)),
    };
    let mut lost = LostInstance {
        secrets: missing_secrets(&parts.store, &instance).await?,
        restarts: seen.state.is_up() && keys.len() < 2,
        keys,
        instance,
    };
    if lost.restarts {
        // Nobody could speak to it with the key that it has.
        lost.instance.intent.run += 1;
        lost.instance.intent.generation += 1;
    }
    Ok(Verdict::Lost(Box::new(lost)))
}

/// The instance as its record and its target have it.
fn instance(parts: &Parts, target: &Target, kept: Kept) -> Result<(Instance, Observation)> {
    let seen = kept.seen?;
    let record = read(&kept.id, target, kept.record?)?;
    record.spec.check()?;
    check_labels(&record.spec.labels)?;
    parts.adapters.get(&record.spec.claw_type)?;
    let port = seen.port.filter(|_| seen.state.is_up()).or(record.port);
    if port.is_none_or(|port| port < FIRST_PORT) {
        return Err(refused(&kept.id, "port", "names no port that a claw can have"));
    }
    let mut intent = record.intent;
    let counts = |number: i64| (0..=i64::MAX / 2).contains(&number);
    if ![intent.run, intent.generation, kept.run, seen.run].into_iter().all(counts) {
        return Err(refused(&kept.id, "intent", "counts what nobody can have counted to"));
    }
    // What was started is never started again as an older run.
    intent.run = intent.run.max(kept.run).max(seen.run);
    let now = Timestamp::now();
    let phase = phase(intent.desired, seen.state, record.failed);
    let is_wanted = phase == Phase::Running && intent.desired == Desired::Running;
    let instance = Instance {
        id: record.id,
        tenant: record.tenant,
        project: record.project,
        name: record.name,
        spec: record.spec,
        intent,
        phase,
        observed: Some(seen.clone()),
        observed_at: Some(now),
        unknown_since: None,
        health: if is_wanted { Health::Starting } else { Health::Unknown },
        port,
        restarts: 0,
        restarts_total: 0,
        attempts: 0,
        not_before: None,
        phase_since: now,
        last_error: (phase == Phase::Failed).then(|| had_failed(&kept.id).report()),
        // What its layers said is in its specification; that it went by them is lost with the store.
        layers: Layered::default(),
        in_force: 0,
        update: record.update,
        setup: record.setup,
        version: 0,
        created_at: record.created_at,
        updated_at: now,
    };
    Ok((instance, seen))
}

fn read(id: &ClawId, target: &Target, record: serde_json::Value) -> Result<Record> {
    let mut record: Record = serde_json::from_value(record)
        .map_err(|error| refused(id, "record", &format!("can't be understood: {error}")))?;
    if record.id != *id {
        return Err(refused(id, "id", &format!("is that of '{}'", record.id)));
    }
    if record.spec.runtime != target.runtime {
        let of = format!("is of target '{}' ({})", record.spec.target, record.spec.runtime);
        return Err(refused(id, "target", &format!("{of}, and was found on '{}'", target.name)));
    }
    // It is on the target that has it. A machine's own is named otherwise where several servers
    // share a database, and what was written before says so.
    record.spec.target = target.name.clone();
    Ok(record)
}

fn refused(id: &ClawId, field: &str, why: &str) -> Error {
    Error::invalid(field, format!("the record that is kept with '{id}' {why}"))
        .fix("put the record back from a backup, then recover again")
}

fn had_failed(id: &ClawId) -> Error {
    Error::new(Code::ClawFailed, "it had failed before the store was lost; why is no longer known")
        .fix(format!("see clawfarm logs {id}, mend the cause, then: clawfarm start {id}"))
}

/// The phase of what is there, given what was wanted of it.
fn phase(desired: Desired, state: ObservedState, failed: bool) -> Phase {
    match (state, desired) {
        (_, Desired::Destroyed) => Phase::Destroying,
        (ObservedState::Running, _) => Phase::Running,
        (ObservedState::Frozen, _) => Phase::Warm,
        (_, Desired::Stopped) => Phase::Stopped,
        (_, Desired::Suspended | Desired::Warm) => Phase::Suspended,
        (_, Desired::Running) if failed => Phase::Failed,
        (ObservedState::Exited, Desired::Running) => Phase::Exited,
        (ObservedState::Prepared | ObservedState::Absent, Desired::Running) => Phase::Creating,
    }
}

/// The instance's own keys, as far as its claw was started with them and they look like ours.
async fn keys(
    parts: &Parts,
    recover: &dyn Recover,
    instance: &Instance,
    seen: &Observation,
) -> Result<Vec<(SecretName, SecretString)>> {
    let variables = parts.adapters.get(&instance.spec.claw_type)?.key_variables();
    let found = recover.environment(seen, &[variables.gateway_token, variables.model_key]).await?;
    let value = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, value)| value.expose_secret());
    let model_prefix = format!("{}.", instance.id);
    let token = value(variables.gateway_token);
    let model_key = value(variables.model_key).and_then(|text| text.strip_prefix(&model_prefix));
    let mut keys = Vec::new();
    for (name, value) in [(GATEWAY_TOKEN, token), (MODEL_KEY, model_key)] {
        if let Some(value) = value.filter(|text| is_random_key(text)) {
            keys.push((SecretName::new(name)?, SecretString::from(value)));
        }
    }
    Ok(keys)
}

/// The secrets of people that its next start would miss.
async fn missing_secrets(store: &Store, instance: &Instance) -> Result<Vec<SecretName>> {
    let owners = seen_by_instance(instance);
    let mut missing = BTreeSet::new();
    for reference in instance.spec.config.secrets() {
        let name = &reference.secret;
        if store.nearest_secret(&system(), &owners, name).await?.is_none() {
            missing.insert(name.clone());
        }
    }
    Ok(missing.into_iter().collect())
}

fn told(lost: &LostInstance) -> String {
    let what = match lost.instance.phase {
        Phase::Running | Phase::Warm if lost.restarts => {
            "it runs; its keys could not be read back, so it is started again with new ones"
        }
        Phase::Running | Phase::Warm => "it runs, and goes on",
        Phase::Destroying => "its removal goes on",
        _ => "it did not run",
    };
    format!("put back from the record beside it: {what}")
}

fn dataset(target: &Target, kept: KeptData) -> Result<Dataset> {
    let known = kept.known?;
    let record = read(&kept.id, target, known.record)?;
    if record.tenant != known.tenant {
        return Err(refused(
            &kept.id,
            "tenant",
            &format!("is of tenant '{}', its data of another", record.tenant),
        ));
    }
    Ok(Dataset {
        id: kept.id,
        tenant: record.tenant,
        project: record.project,
        claw_type: record.spec.claw_type,
        version: record.spec.version,
        target: record.spec.target,
        size_bytes: known.size_bytes,
        created_at: known.created_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_is_that_of_what_is_there() {
        use Desired as D;
        use ObservedState as S;
        let table = [
            (D::Running, S::Running, false, Phase::Running),
            (D::Running, S::Running, true, Phase::Running),
            (D::Stopped, S::Running, false, Phase::Running),
            (D::Warm, S::Frozen, false, Phase::Warm),
            (D::Warm, S::Exited, false, Phase::Suspended),
            (D::Suspended, S::Exited, false, Phase::Suspended),
            (D::Stopped, S::Prepared, false, Phase::Stopped),
            (D::Running, S::Exited, false, Phase::Exited),
            (D::Running, S::Exited, true, Phase::Failed),
            (D::Running, S::Prepared, false, Phase::Creating),
            (D::Destroyed, S::Running, false, Phase::Destroying),
        ];
        for (desired, state, failed, wanted) in table {
            assert_eq!(phase(desired, state, failed), wanted, "{desired:?} {state:?} {failed}");
        }
    }

    #[test]
    fn what_the_reconciler_writes_can_be_read() {
        let mut it = crate::testing::instance();
        it.phase = Phase::Failed;
        it.spec.labels.insert("team".into(), "blue".into());
        let target = Target {
            name: it.spec.target.clone(),
            runtime: it.spec.runtime,
            labels: Default::default(),
            reachable_from: None,
            settings: serde_json::Value::Null,
        };
        let record = crate::reconcile::launch::record(&it);
        let read = super::read(&it.id, &target, record.clone()).unwrap();
        assert_eq!((&read.spec, read.intent, read.port, read.failed), (&it.spec, it.intent, it.port, true));
        let other = ClawId::new("bob-x7k2b").unwrap();
        assert_eq!(super::read(&other, &target, record.clone()).unwrap_err().field_name(), Some("id"));
        let renamed = Target { name: TargetName::new("host1").unwrap(), ..target.clone() };
        let read = super::read(&it.id, &renamed, record.clone()).unwrap();
        assert_eq!(read.spec.target, renamed.name, "where it was found is where it is");
        let elsewhere = Target { runtime: clawfarm_model::target::RuntimeKind::Vm, ..target.clone() };
        assert_eq!(super::read(&it.id, &elsewhere, record).unwrap_err().field_name(), Some("target"));
        for junk in [serde_json::json!([]), serde_json::json!({ "id": "../x" }), serde_json::json!(7)] {
            assert_eq!(super::read(&it.id, &target, junk).unwrap_err().field_name(), Some("record"));
        }
    }
}
