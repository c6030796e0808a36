//! What an instance says itself, and the template that it is bound to.

use std::collections::BTreeMap;

use clawfarm_adapters::Warning;
use clawfarm_config::{ConfigPath, Impact, Origin, Refused, check_keys};
use clawfarm_model::{
    Action, Code, ConfigName, Context, Desired, Error, Instance, InstanceSpec, Layered, Result,
};
use serde_json::{Map, Value};

use super::layering::is_template;
use crate::Control;
use crate::core::{Core, may};
use crate::instances::software::refuse_if_updating;
use crate::secrets::seen_by_instance;

/// A change of what an instance says itself. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Configure {
    /// Goes into what it says (RFC 7396); a `null` takes away what is said below it, too.
    pub patch: Map<String, Value>,
    /// Places at which it says nothing more, before that.
    pub unset: Vec<ConfigPath>,
    /// Whether all that it said before is forgotten first.
    pub replace: bool,
    /// Another template, or none.
    pub template: Option<Option<ConfigName>>,
    /// Other values for the template's variables, all of them.
    pub variables: Option<BTreeMap<String, Value>>,
}

/// What came of a change of one.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The instance, as it is now.
    pub instance: Instance,
    /// What it asks of it.
    pub impact: Impact,
    /// What was accepted, but is worth a word.
    pub warnings: Vec<Warning>,
}

/// A change that was checked.
pub(super) struct Checked {
    pub(super) layered: Layered,
    pub(super) spec: InstanceSpec,
    pub(super) impact: Impact,
    pub(super) warnings: Vec<Warning>,
}

impl Control {
    /// Changes what an instance says itself, or what it is bound to.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field: what is no configuration, or is locked by a layer;
    /// `PreconditionFailed` when it is no longer at `expect_version`; `NotFound` and `Conflict` for
    /// a template that there is not, or that was never published.
    pub async fn configure(
        &self,
        context: &Context,
        id: &str,
        expect_version: Option<i64>,
        change: &Configure,
    ) -> Result<Changed> {
        self.core.configure(context, id, expect_version, change).await
    }

    /// What [`Self::configure`] would do. Changes nothing.
    ///
    /// # Errors
    /// As for [`Self::configure`].
    pub async fn would_configure(&self, context: &Context, id: &str, change: &Configure) -> Result<Changed> {
        let present = self.core.find(context, id).await?;
        may(context, Action::InstanceChange, &present)?;
        let Checked { impact, warnings, .. } = self.core.configured(context, &present, change).await?;
        Ok(Changed { instance: present, impact, warnings })
    }
}

impl Core {
    /// See [`Control::configure`].
    pub(super) async fn configure(
        &self,
        context: &Context,
        id: &str,
        expect_version: Option<i64>,
        change: &Configure,
    ) -> Result<Changed> {
        let mut tries = 0;
        loop {
            let present = self.find(context, id).await?;
            may(context, Action::InstanceChange, &present)?;
            if expect_version.is_some_and(|expected| expected != present.version) {
                return Err(Error::new(
                    Code::PreconditionFailed,
                    format!("instance '{}' is at version {}", present.id, present.version),
                )
                .field("If-Match")
                .fix("read it again and repeat the change on what it is now"));
            }
            let Checked { layered, spec, impact, warnings } =
                self.configured(context, &present, change).await?;
            if layered == present.layers && spec.config == present.spec.config {
                return Ok(Changed { instance: present, impact: Impact::None, warnings });
            }
            match self.put(context, &present, layered, *spec.config, None).await {
                Err(error)
                    if error.code() == Code::PreconditionFailed && expect_version.is_none() && tries < 8 =>
                {
                    tries += 1;
                }
                done => {
                    let instance = done?;
                    self.bound_meanwhile(&present, &instance).await?;
                    return Ok(Changed { instance, impact, warnings });
                }
            }
        }
    }

    /// What comes of a change, checked, and what it asks of the instance.
    pub(super) async fn configured(
        &self,
        context: &Context,
        instance: &Instance,
        change: &Configure,
    ) -> Result<Checked> {
        if instance.intent.desired == Desired::Destroyed {
            return Err(Error::new(Code::Conflict, format!("'{}' is being removed", instance.id))
                .fix("make a new instance"));
        }
        refuse_if_updating(instance)?;
        let mut layered = instance.layers.clone();
        if change.replace {
            layered.own = Some(Map::new());
        }
        if let Some(template) = &change.template {
            self.bind(instance, &mut layered, template.as_ref()).await?;
        }
        if let Some(variables) = &change.variables {
            for (name, value) in variables {
                check_keys(value, &format!("variables.{name}"))?;
            }
            layered.variables.clone_from(variables);
        }
        if layered.template.is_none() && !layered.variables.is_empty() {
            return Err(Error::invalid("variables", "there is no template that they are for")
                .fix("bind it to one, or set the values themselves: clawfarm config set"));
        }
        let (layered, made) = self.saying(instance, layered, &change.unset, &change.patch).await?;
        if let Some(variables) = &change.variables
            && let Some(refused) = made.effective.refused.iter().find(|it| gives(variables, &layered, it))
        {
            return Err(refused.error().field(format!("variables.{}", refused.path)));
        }
        self.check_secrets(context, &made.config, &seen_by_instance(instance), |_| false).await?;
        let spec = InstanceSpec { config: Box::new(made.config.clone()), ..instance.spec.clone() };
        let warnings = made.warnings(self.adapter(instance)?.as_ref(), &spec)?;
        let impact = self.impact(instance, &spec)?;
        Ok(Checked { layered, spec, impact, warnings })
    }

    /// Binds to another template, or to none.
    async fn bind(
        &self,
        instance: &Instance,
        layered: &mut Layered,
        template: Option<&ConfigName>,
    ) -> Result<()> {
        if let Some(name) = template {
            is_template(name)?;
        }
        if layered.template.as_ref() == template {
            return Ok(());
        }
        if let Some(old) = layered.template.take() {
            // What is said for all of a tenant, say, goes for it whatever it is bound to.
            if is_template(&old).is_ok() {
                layered.applied.remove(&old);
            }
            layered.variables.clear();
        }
        if let Some(name) = template {
            let all = self.published(&instance.tenant, &instance.project, Some(name)).await?;
            if let Some(number) = all.get(name) {
                layered.applied.insert(name.clone(), *number);
            }
            layered.template = Some(name.clone());
        }
        Ok(())
    }
}

/// Whether it is a variable's value that is refused: the template's, where variables are places,
/// and a layer has locked one.
fn gives(variables: &BTreeMap<String, Value>, layered: &Layered, refused: &Refused) -> bool {
    let own = layered.own.as_ref().map(|own| Value::Object(own.clone())).unwrap_or_default();
    refused.by == Origin::Instance
        && refused.path.find(&own).is_none()
        && variables
            .keys()
            .any(|name| name.parse::<ConfigPath>().is_ok_and(|place| place.touches(&refused.path)))
}
