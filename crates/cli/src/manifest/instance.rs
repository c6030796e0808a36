//! From an instance to its document, and from a document to what can be compared.

use clawfarm_api::manifest::{
    InstanceConfig, InstanceManifest, InstanceMetadata, InstanceSpec, Override, Quantity, Resources,
};
use clawfarm_api::{ExplainView, InstanceView};
use clawfarm_config::ConfigPath;
use clawfarm_model::Error;
use clawfarm_model::name::ProjectName;
use serde_json::{Map, Value, json};

/// An instance that there is, as a document.
pub(crate) fn of_instance(view: &InstanceView, explained: &ExplainView) -> InstanceManifest {
    let own = explained.layers.own.clone().unwrap_or_default();
    InstanceManifest {
        metadata: InstanceMetadata {
            name: view.name.clone(),
            namespace: Some(view.tenant.to_string()),
            labels: Some(view.labels.clone()),
        },
        spec: InstanceSpec {
            config: Some(InstanceConfig {
                template: Some(explained.layers.template.clone()),
                variables: Some(explained.layers.variables.clone()),
                overrides: Some(leaves(&own)),
            }),
            ..of_view(view).spec
        },
        status: None,
    }
}

/// The same without what only its layers tell.
pub(crate) fn of_view(view: &InstanceView) -> InstanceManifest {
    InstanceManifest {
        metadata: InstanceMetadata {
            name: view.name.clone(),
            namespace: Some(view.tenant.to_string()),
            labels: Some(view.labels.clone()),
        },
        spec: InstanceSpec {
            claw_type: view.claw_type.to_string(),
            version: Some(view.version.clone()),
            replicas: Some(1),
            runtime: Some(view.runtime),
            target: Some(view.target.clone()),
            image: view.image_reference.clone(),
            vm: view.vm.clone(),
            project: Some(view.project.clone()).filter(|it| *it != ProjectName::default_project()),
            port: view.wanted_port,
            resources: Some(Resources {
                cpu: Some(Quantity::of_cores(view.resources.cpus)),
                memory: Some(Quantity::of_mebibytes(view.resources.memory_mib)),
            }),
            config_mode: Some(view.config_mode),
            restart: Some(view.restart),
            ready_timeout_secs: Some(view.ready_timeout_secs),
            sleep: Some(view.policy.clone()),
            config: None,
            storage: None,
        },
        status: None,
    }
}

/// What a document says, in a form in which two say the same when they are equal; only what `like`
/// says something of.
pub(crate) fn comparable(it: &InstanceManifest, like: &InstanceManifest) -> Result<Value, Error> {
    let (spec, wanted) = (&it.spec, &like.spec);
    let mut all = Map::new();
    let mut put = |name: &str, said: bool, value: Value| {
        if said {
            all.insert(name.to_owned(), value);
        }
    };
    put("type", true, spec.claw_type.to_lowercase().into());
    put("version", wanted.version.is_some(), json!(spec.version));
    put("runtime", wanted.runtime.is_some(), json!(spec.runtime));
    put("target", wanted.target.is_some(), json!(spec.target));
    put("image", wanted.image.is_some(), json!(spec.image));
    let project = spec.project.clone().unwrap_or_else(ProjectName::default_project);
    put("vm", wanted.vm.is_some(), json!(spec.vm));
    put("project", wanted.project.is_some(), json!(project));
    put("port", wanted.port.is_some(), json!(spec.port));
    let (has, share) = (wanted.resources.clone().unwrap_or_default(), spec.resources.clone());
    let share = share.unwrap_or_default();
    put("cpu", has.cpu.is_some(), json!(share.cpu.and_then(|it| it.cores())));
    put("memoryMib", has.memory.is_some(), json!(share.memory.and_then(|it| it.mebibytes())));
    put("configMode", wanted.config_mode.is_some(), json!(spec.config_mode));
    put("restart", wanted.restart.is_some(), json!(spec.restart));
    put("readyTimeoutSecs", wanted.ready_timeout_secs.is_some(), json!(spec.ready_timeout_secs));
    put("sleep", wanted.sleep.is_some(), json!(spec.sleep));
    let labels = it.metadata.labels.clone().unwrap_or_default();
    put("labels", like.metadata.labels.is_some(), json!(labels));
    if let Some(wanted) = &wanted.config {
        put("config", true, config(&spec.config.clone().unwrap_or_default(), wanted)?);
    }
    Ok(Value::Object(all))
}

fn config(it: &InstanceConfig, like: &InstanceConfig) -> Result<Value, Error> {
    let mut all = Map::new();
    if like.template.is_some() {
        all.insert("template".into(), json!(it.template.clone().flatten()));
    }
    if like.variables.is_some() {
        all.insert("variables".into(), json!(it.variables.clone().unwrap_or_default()));
    }
    if like.overrides.is_some() {
        all.insert("overrides".into(), Value::Object(it.patch()?));
    }
    Ok(Value::Object(all))
}

/// The values of a document by their places.
pub(super) fn leaves(document: &Map<String, Value>) -> Vec<Override> {
    fn walk(value: &Value, at: &ConfigPath, found: &mut Vec<Override>) {
        match value {
            // What no path can lead to stays in one piece.
            Value::Object(map) if !map.is_empty() && map.keys().all(|key| speakable(&at.child(key))) => {
                for (key, value) in map {
                    walk(value, &at.child(key), found);
                }
            }
            _ => found.push(Override { key: at.clone(), value: value.clone() }),
        }
    }
    let mut found = Vec::new();
    for (key, value) in document {
        walk(value, &ConfigPath::root().child(key), &mut found);
    }
    found
}

fn speakable(path: &ConfigPath) -> bool {
    path.to_string().parse::<ConfigPath>().is_ok_and(|again| again == *path)
}
