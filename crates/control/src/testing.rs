//! Instances and observations for the unit tests of this crate.

use clawfarm_model::instance::{Intent, RestartPolicy};
use clawfarm_model::name::{InstanceName, ProjectName, TenantName};
use clawfarm_model::{
    ClawId, Desired, Health, Instance, InstanceSpec, Observation, ObservedState, Phase, Timestamp, Urgency,
};

pub(crate) fn spec() -> InstanceSpec {
    let mut spec: InstanceSpec = serde_json::from_value(serde_json::json!({
        "claw_type": "openclaw", "version": "2026.9.6", "runtime": "sim", "target": "sim",
    }))
    .unwrap();
    spec.restart = RestartPolicy::default();
    spec
}

pub(crate) fn instance() -> Instance {
    let then = Timestamp::from_millis(0);
    Instance {
        id: ClawId::new("alice-x7k2b").unwrap(),
        tenant: TenantName::default_tenant(),
        project: ProjectName::default_project(),
        name: InstanceName::new("alice").unwrap(),
        spec: spec(),
        intent: Intent {
            desired: Desired::Running,
            generation: 1,
            run: 1,
            urgency: Urgency::Graceful,
            purge: false,
            cause: clawfarm_model::Cause::Asked,
        },
        phase: Phase::Creating,
        observed: None,
        observed_at: None,
        unknown_since: None,
        health: Health::Unknown,
        port: Some(20_001),
        restarts: 0,
        restarts_total: 0,
        attempts: 0,
        not_before: None,
        phase_since: then,
        last_error: None,
        layers: clawfarm_model::Layered::default(),
        in_force: 0,
        update: None,
        setup: None,
        version: 1,
        created_at: then,
        updated_at: then,
    }
}

pub(crate) fn observation(id: &ClawId, state: ObservedState, run: i64) -> Observation {
    Observation {
        state,
        run,
        pid: Some(7),
        started_at: Some(Timestamp::from_millis(1_000_000)),
        ..Observation::absent(id.clone())
    }
}
