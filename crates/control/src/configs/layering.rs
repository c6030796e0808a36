//! From an instance's layers to what it is configured with.

use std::collections::BTreeMap;
use std::sync::Arc;

use clawfarm_adapters::{ClawAdapter, Warning};
use clawfarm_config::{ConfigPath, Effective, Layer, Origin, Template, resolve};
use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::name::{ClawType, ProjectName, TenantName};
use clawfarm_model::{Code, ConfigKind, ConfigName, Context, Error, Instance, InstanceSpec, Layered, Result};
use serde_json::{Map, Value, json};

use crate::core::Core;

/// What came of an instance's layers.
pub(crate) struct Made {
    /// In the words of the unified config.
    pub(crate) config: ClawConfig,
    /// The same, with where each value came from.
    pub(crate) effective: Effective,
    /// Whether a layer has locked anything.
    pub(crate) locked: bool,
}

impl Made {
    /// What is worth a word of an instance that is configured so: what its type says of it, what
    /// it says itself and doesn't hold, and where a lock can be got round.
    ///
    /// # Errors
    /// When the specification is none, or its type refuses it.
    pub(crate) fn warnings(&self, adapter: &dyn ClawAdapter, spec: &InstanceSpec) -> Result<Vec<Warning>> {
        spec.check()?;
        let mut warnings = adapter.validate(spec)?;
        for it in self.effective.refused.iter().filter(|it| it.by == Origin::Instance) {
            warnings.push(Warning {
                field: format!("config.{}", it.path),
                message: format!(
                    "what the instance says itself here doesn't hold: '{}' is locked by {}",
                    it.lock, it.locked_by
                ),
            });
        }
        if self.locked && spec.config_mode == ConfigMode::Seeded {
            warnings.push(seeded_with_locks());
        }
        Ok(warnings)
    }
}

/// What to know of one whose claw's user has the last word on its file, while layers have locks.
pub(crate) fn seeded_with_locks() -> Warning {
    Warning {
        field: "config_mode".to_owned(),
        message: "who uses the claw can change what is locked in its own configuration file; config_mode \
                  'managed' keeps that as it is said here"
            .to_owned(),
    }
}

/// Whose layers.
pub(crate) struct Whose<'a> {
    pub(crate) tenant: &'a TenantName,
    /// Of which type.
    pub(crate) claw_type: &'a ClawType,
    /// Whether the demo model answers when nobody says which.
    pub(crate) demo: bool,
}

impl<'a> Whose<'a> {
    pub(crate) fn of(instance: &'a Instance) -> Self {
        let begun_with_data = instance.spec.import.is_some() || instance.spec.dataset.is_some();
        Self { tenant: &instance.tenant, claw_type: &instance.spec.claw_type, demo: !begun_with_data }
    }
}

/// What the demo model is in the unified config.
fn demo() -> Value {
    json!({ "provider": "demo" })
}

/// What an instance says itself.
pub(crate) fn own(instance: &Instance) -> Map<String, Value> {
    if let Some(own) = &instance.layers.own {
        return own.clone();
    }
    // One of before there were layers: all is its own, but for the model that nobody asked for.
    match serde_json::to_value(&instance.spec.config) {
        Ok(Value::Object(mut all)) => {
            if all.get("model") == Some(&demo()) {
                all.remove("model");
            }
            all
        }
        _ => Map::new(),
    }
}

/// The layers below an instance, from the most general to the most particular.
pub(crate) fn names(project: &ProjectName, template: Option<&ConfigName>) -> Vec<ConfigName> {
    let mut names = vec![ConfigName::global(), ConfigName::tenant(), ConfigName::project(project)];
    names.extend(template.cloned());
    names
}

impl Core {
    /// The revisions that a new instance goes by.
    ///
    /// # Errors
    /// `NotFound` and `Conflict` on the template, when there is none or it was never published.
    pub(crate) async fn published(
        &self,
        tenant: &TenantName,
        project: &ProjectName,
        template: Option<&ConfigName>,
    ) -> Result<BTreeMap<ConfigName, i64>> {
        if let Some(name) = template {
            is_template(name)?;
        }
        let system = Context::system("config");
        let mut applied = BTreeMap::new();
        for name in names(project, template) {
            match self.store.tenants_config(&system, tenant, &name).await {
                Ok(config) => match config.published {
                    Some(number) => {
                        applied.insert(name, number);
                    }
                    None if Some(&name) == template => {
                        return Err(Error::new(
                            Code::Conflict,
                            format!("template '{name}' was never published"),
                        )
                        .field("template")
                        .fix(format!("clawfarm config publish {name}")));
                    }
                    None => {}
                },
                Err(error) if error.code() == Code::NotFound && Some(&name) != template => {}
                Err(error) if error.code() == Code::NotFound => return Err(error.field("template")),
                Err(error) => return Err(error),
            }
        }
        Ok(applied)
    }

    /// Lays an instance's layers on each other. `own` is what it says itself.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field: a variable without a value, a value that is none of the
    /// unified config.
    pub(crate) async fn make(
        &self,
        whose: &Whose<'_>,
        layered: &Layered,
        own: &Map<String, Value>,
    ) -> Result<Made> {
        let mut contents = BTreeMap::new();
        for (name, number) in &layered.applied {
            contents.insert(name.clone(), (*number, self.content(whose.tenant, name, *number).await?));
        }
        self.lay(whose, layered, own, &contents)
    }

    /// The same, with the contents at hand.
    pub(crate) fn lay(
        &self,
        whose: &Whose<'_>,
        layered: &Layered,
        own: &Map<String, Value>,
        contents: &BTreeMap<ConfigName, (i64, Arc<Template>)>,
    ) -> Result<Made> {
        lay(self.adapters.get(whose.claw_type)?.as_ref(), whose, layered, own, contents)
    }
}

fn lay(
    adapter: &dyn ClawAdapter,
    whose: &Whose<'_>,
    layered: &Layered,
    own: &Map<String, Value>,
    contents: &BTreeMap<ConfigName, (i64, Arc<Template>)>,
) -> Result<Made> {
    let mut layers = Vec::new();
    // What the instance says: for variables that are places, and over that what it says itself.
    let mut says = Value::Object(Map::new());
    if whose.demo {
        layers.push(Layer { origin: Origin::Default, values: json!({ "model": demo() }), locks: Vec::new() });
    }
    let mut ordered: Vec<_> = contents.iter().collect();
    ordered.sort_by_key(|(name, _)| rank(name));
    for (name, (number, content)) in ordered {
        let values = match name.kind() {
            ConfigKind::Template => {
                let filled = content.fill(&given(content, layered, own)?)?;
                says = filled.instance;
                filled.template
            }
            _ => Value::Object(content.body.clone().unwrap_or_default()),
        };
        without_demo(&mut layers, &values);
        let origin = origin(name, *number, whose.tenant);
        layers.push(Layer { origin, values, locks: locks(adapter, content) });
    }
    super::own::merge(&mut says, &Value::Object(own.clone()));
    without_demo(&mut layers, &says);
    let locked = layers.iter().any(|it| !it.locks.is_empty());
    layers.push(Layer { origin: Origin::Instance, values: says, locks: Vec::new() });
    let effective = resolve(&layers)?;
    let config = typed(&effective.document)?;
    Ok(Made { config, effective, locked })
}

/// What a layer locks: the places that it names, and of the type's own configuration, which is
/// laid over all others, what decides about these.
fn locks(adapter: &dyn ClawAdapter, content: &Template) -> Vec<ConfigPath> {
    let mut locks = content.locks.clone();
    for lock in content.locks.iter().filter(|it| it.parts().first().is_some_and(|part| part != "native")) {
        for native in adapter.native_of(lock.parts()) {
            let place = native.iter().fold(ConfigPath::root().child("native"), |at, key| at.child(key));
            if !locks.iter().any(|lock| lock.holds(&place)) {
                locks.push(place);
            }
        }
    }
    locks
}

/// Refuses to bind an instance to what is said for all instances of a tenant, say: it goes by that
/// anyway, and would no longer when it is bound to something else.
///
/// # Errors
/// `InvalidInput` on `template`.
pub(super) fn is_template(name: &ConfigName) -> Result<()> {
    if name.kind() == ConfigKind::Template {
        return Ok(());
    }
    Err(Error::invalid("template", format!("'{name}' is no template: all that it is for go by it anyway"))
        .fix("name a template, see clawfarm config ls"))
}

/// A document as a unified config.
///
/// # Errors
/// Names the place that is none of it.
pub(crate) fn typed(document: &Value) -> Result<ClawConfig> {
    serde_path_to_error::deserialize(document).map_err(|e| {
        let error = Error::of_serde(format!("config.{}", e.path()), &e.inner().to_string());
        match error.fix_text() {
            Some(_) => error,
            None => {
                error.fix("what a configuration may say is in its schema: GET /api/v1/schemas/claw-config")
            }
        }
    })
}

/// Takes the demo model away below a layer that says anything of a model: it would fill in a
/// provider where the layer forgot one.
fn without_demo(layers: &mut Vec<Layer>, above: &Value) {
    if above.get("model").is_some_and(|model| model.get("provider").is_some()) {
        layers.retain(|it| it.origin != Origin::Default);
    }
}

/// General before particular.
fn rank(name: &ConfigName) -> u8 {
    match name.kind() {
        ConfigKind::Global => 0,
        ConfigKind::Tenant => 1,
        ConfigKind::Project(_) => 2,
        ConfigKind::Template => 3,
        ConfigKind::Own => 4,
    }
}

fn origin(name: &ConfigName, revision: i64, tenant: &TenantName) -> Origin {
    match name.kind() {
        ConfigKind::Global => Origin::Global,
        ConfigKind::Tenant => Origin::Tenant { name: tenant.clone() },
        ConfigKind::Project(project) => Origin::Project { name: project },
        ConfigKind::Template => Origin::Template { name: name.to_string(), revision },
        ConfigKind::Own => Origin::Instance,
    }
}

/// What an instance gives for a template's variables. Without a body their names are places, and
/// what the instance says there is theirs.
fn given(
    template: &Template,
    layered: &Layered,
    own: &Map<String, Value>,
) -> Result<BTreeMap<ConfigPath, Value>> {
    let mut given = BTreeMap::new();
    for (name, value) in &layered.variables {
        given.insert(name.parse::<ConfigPath>()?, value.clone());
    }
    if template.body.is_none() {
        let own = Value::Object(own.clone());
        for variable in &template.variables {
            if let Some(value) = variable.name.find(&own) {
                given.insert(variable.name.clone(), value.clone());
            }
        }
    }
    let unknown = layered.variables.keys().find(|name| {
        name.parse::<ConfigPath>().is_ok_and(|it| !template.variables.iter().any(|known| known.name == it))
    });
    if let Some(name) = unknown {
        let known: Vec<_> = template.variables.iter().map(|it| it.name.to_string()).collect();
        return Err(Error::invalid(format!("variables.{name}"), "the template has no such variable")
            .fix(format!("its variables are: {}", known.join(", "))));
    }
    Ok(given)
}
