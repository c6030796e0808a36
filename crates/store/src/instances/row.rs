//! Between an instance and its row.

use clawfarm_model::{Instance, Phase, Result};

use crate::convert::{from_json, from_word, name, number, time, to_json, to_word};
use crate::entity::instance;
use crate::error::unreadable;

const WHAT: &str = "instance";

pub(super) fn to_row(instance: &Instance) -> Result<instance::Model> {
    // A destroyed instance's port is free for the next; the store makes sure of it, because
    // a row that kept it would block that port for good.
    let port = instance.port.filter(|_| instance.phase != Phase::Destroyed);
    Ok(instance::Model {
        id: instance.id.as_str().to_owned(),
        tenant: instance.tenant.as_str().to_owned(),
        project: instance.project.as_str().to_owned(),
        name: instance.name.as_str().to_owned(),
        claw_type: instance.spec.claw_type.as_str().to_owned(),
        runtime: instance.spec.runtime.as_str().to_owned(),
        target: instance.spec.target.as_str().to_owned(),
        phase: instance.phase.as_str().to_owned(),
        desired: instance.intent.desired.as_str().to_owned(),
        generation: instance.intent.generation,
        run: instance.intent.run,
        port: port.map(i64::from),
        version: instance.version,
        spec: to_json(&instance.spec)?,
        intent: to_json(&instance.intent)?,
        observed: instance.observed.as_ref().map(to_json).transpose()?,
        observed_at: instance.observed_at.map(|t| t.as_millis()),
        unknown_since: instance.unknown_since.map(|t| t.as_millis()),
        health: to_word(&instance.health)?,
        restarts: i64::from(instance.restarts),
        memory_mib: i64::from(instance.spec.resources.memory_mib),
        restarts_total: i64::from(instance.restarts_total),
        attempts: i64::from(instance.attempts),
        not_before: instance.not_before.map(|t| t.as_millis()),
        phase_since: instance.phase_since.as_millis(),
        last_error: instance.last_error.as_ref().map(to_json).transpose()?,
        software_update: instance.update.as_ref().map(to_json).transpose()?,
        setup: instance.setup.as_ref().map(to_json).transpose()?,
        template: instance.layers.template.as_ref().map(ToString::to_string),
        layers: Some(to_json(&instance.layers)?),
        in_force: instance.in_force,
        labels: to_json(&instance.spec.labels)?,
        created_at: instance.created_at.as_millis(),
        updated_at: instance.updated_at.as_millis(),
    })
}

pub(crate) fn from_row(row: &instance::Model) -> Result<Instance> {
    let id = row.id.as_str();
    Ok(Instance {
        id: name(WHAT, id, id)?,
        tenant: name(WHAT, id, &row.tenant)?,
        project: name(WHAT, id, &row.project)?,
        name: name(WHAT, id, &row.name)?,
        spec: from_json(WHAT, id, &row.spec)?,
        layers: row.layers.as_deref().map(|text| from_json(WHAT, id, text)).transpose()?.unwrap_or_default(),
        in_force: row.in_force,
        intent: from_json(WHAT, id, &row.intent)?,
        phase: Phase::from_name(&row.phase)
            .ok_or_else(|| unreadable(WHAT, id, format!("no phase is named '{}'", row.phase)))?,
        observed: row.observed.as_deref().map(|text| from_json(WHAT, id, text)).transpose()?,
        observed_at: row.observed_at.map(time),
        unknown_since: row.unknown_since.map(time),
        health: from_word(WHAT, id, &row.health)?,
        port: row.port.map(|port| number(WHAT, id, port)).transpose()?,
        restarts: number(WHAT, id, row.restarts)?,
        restarts_total: number(WHAT, id, row.restarts_total)?,
        attempts: number(WHAT, id, row.attempts)?,
        not_before: row.not_before.map(time),
        phase_since: time(row.phase_since),
        last_error: row.last_error.as_deref().map(|text| from_json(WHAT, id, text)).transpose()?,
        update: row.software_update.as_deref().map(|text| from_json(WHAT, id, text)).transpose()?,
        setup: row.setup.as_deref().map(|text| from_json(WHAT, id, text)).transpose()?,
        version: row.version,
        created_at: time(row.created_at),
        updated_at: time(row.updated_at),
    })
}
