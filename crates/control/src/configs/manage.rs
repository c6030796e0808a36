//! Saving, reading and removing configurations.

use clawfarm_config::{Change, Config, Revision, RevisionSummary, Template, diff};
use clawfarm_model::name::TenantName;
use clawfarm_model::{
    Action, Code, ConfigKind, ConfigName, Context, Error, Granted, Resource, Result, authorize,
};
use serde_json::{Map, Value};

use super::layering::typed;
use crate::Control;

/// What a configuration shall say.
#[derive(Clone, Debug, Default)]
pub struct NewConfig {
    /// All of it.
    pub content: Template,
    /// What for.
    pub message: String,
    /// The version that it is based on; 0 when there must be none yet.
    pub expect_version: Option<i64>,
}

impl Control {
    /// The configurations of the caller's tenant, and the fleet's.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn configs(&self, context: &Context) -> Result<Vec<Config>> {
        self.core.store.configs(context).await
    }

    /// One of them.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name.
    pub async fn config(&self, context: &Context, name: &ConfigName) -> Result<Config> {
        self.core.store.config(context, name).await
    }

    /// Saves what a configuration says as its next revision. It goes to nobody before it is
    /// published.
    ///
    /// # Errors
    /// `InvalidInput`, naming the place, for what can't be a configuration; `PreconditionFailed`
    /// when it is no longer at the version it is based on; `NotFound` for a project that there is
    /// not, and for `global` where the caller is not of the default tenant.
    pub async fn save_config(&self, context: &Context, name: &ConfigName, new: NewConfig) -> Result<Config> {
        let grant = self.savable(context, name, &new.content).await?;
        self.core.store.save_config(&grant, name, new.expect_version, &new.content, &new.message).await
    }

    /// What saving it would come to: the number that it would have, and what differs from the newest
    /// revision. Saves nothing.
    ///
    /// # Errors
    /// As for [`Self::save_config`].
    pub async fn would_save(
        &self,
        context: &Context,
        name: &ConfigName,
        content: &Template,
    ) -> Result<(i64, Vec<Change>)> {
        self.savable(context, name, content).await?;
        let (head, before) = match self.revision(context, name, None).await {
            Ok(newest) => (newest.number, newest.content),
            Err(error) if error.code() == Code::NotFound => (0, Template::default()),
            Err(error) => return Err(error),
        };
        let document = |it: &Template| serde_json::to_value(it).unwrap_or_default();
        let changes = diff(&document(&before), &document(content));
        let same = head > 0 && before == *content;
        Ok((if same { head } else { head + 1 }, changes))
    }

    /// Asks for leave to save a configuration, and checks what can be checked of it.
    async fn savable(&self, context: &Context, name: &ConfigName, content: &Template) -> Result<Granted> {
        let grant = leave(context, name)?;
        check(name, content)?;
        if let ConfigKind::Project(project) = name.kind() {
            let tenant = context.tenant()?.clone();
            let known = self.core.store.projects(context).await?;
            if !known.contains(&(tenant, project.clone())) {
                return Err(Error::not_found("project", project).field("name"));
            }
        }
        Ok(grant)
    }

    /// Removes a configuration that nobody needs: a template that no instance is bound to, or what
    /// says nothing to those that go by it.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict` when instances are bound to it or go by what it
    /// says, or a rollout of it is under way.
    pub async fn remove_config(&self, context: &Context, name: &ConfigName) -> Result<()> {
        let grant = leave(context, name)?;
        self.core.store.remove_config(&grant, name).await
    }

    /// Its revisions, the newest first, below `before` when it is given.
    ///
    /// # Errors
    /// `NotFound` when there is no such configuration.
    pub async fn revisions(
        &self,
        context: &Context,
        name: &ConfigName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<RevisionSummary>> {
        self.core.store.config(context, name).await?;
        self.core.store.revisions(context, name, before, limit).await
    }

    /// One revision; the newest when no number is given.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn revision(
        &self,
        context: &Context,
        name: &ConfigName,
        number: Option<i64>,
    ) -> Result<Revision> {
        let config = self.core.store.config(context, name).await?;
        self.core.store.revision(context, name, number.unwrap_or(config.head)).await
    }

    /// What leads from one revision to another.
    ///
    /// # Errors
    /// `NotFound` when there is one of them not.
    pub async fn config_diff(
        &self,
        context: &Context,
        name: &ConfigName,
        from: i64,
        to: i64,
    ) -> Result<Vec<Change>> {
        let from = self.revision(context, name, Some(from)).await?;
        let to = self.revision(context, name, Some(to)).await?;
        let document = |it: &Template| serde_json::to_value(it).unwrap_or_default();
        Ok(diff(&document(&from.content), &document(&to.content)))
    }
}

/// Asks for leave to write a configuration: the fleet's is the default tenant's to write.
pub(super) fn leave(context: &Context, name: &ConfigName) -> Result<Granted> {
    let tenant = match name.kind() {
        ConfigKind::Global => TenantName::default_tenant(),
        _ => context.tenant()?.clone(),
    };
    authorize(context, Action::ConfigWrite, &Resource::new(tenant, "config", name.as_str()))
}

/// Checks what can be checked without an instance.
fn check(name: &ConfigName, content: &Template) -> Result<()> {
    if name.kind() == ConfigKind::Own {
        return Err(Error::invalid(
            "name",
            format!("'{name}' is what rollouts of what instances say themselves go by"),
        )
        .fix("give another name; what instances say themselves is set with clawfarm config set"));
    }
    content.check()?;
    if name.kind() != ConfigKind::Template {
        if !content.variables.is_empty() {
            return Err(Error::invalid(
                "variables",
                format!("'{name}' is no template, so nothing is filled in"),
            )
            .fix("write the values into the body"));
        }
        let empty = Map::new();
        return check_partial(content.body.as_ref().unwrap_or(&empty));
    }
    check_partial(&content.outline()?)?;
    if content.variables.is_empty() { Ok(()) } else { check_sample(&content.sample()?) }
}

/// Checks a template with some value in each of its places: whether values of these types can be
/// there at all. Which values can is known when an instance gives them.
fn check_sample(sample: &Map<String, Value>) -> Result<()> {
    /// What is wrong whatever the value, as serde and the unified config have it.
    const ALWAYS: [&str; 3] = ["invalid type", "unknown field", "a variable is text"];
    for (key, value) in sample.iter().filter(|(_, value)| !value.is_null()) {
        let alone = Value::Object(std::iter::once((key.clone(), value.clone())).collect());
        if let Err(error) = typed(&without_nulls(alone))
            && ALWAYS.iter().any(|it| error.message().starts_with(it))
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Checks the words of a part of a configuration: what is missing in it others may say.
fn check_partial(body: &Map<String, Value>) -> Result<()> {
    for key in body.keys() {
        let alone = Value::Object(
            std::iter::once((key.clone(), body.get(key).cloned().unwrap_or_default())).collect(),
        );
        if body.get(key).is_some_and(Value::is_null) {
            // Taking away what is below it; only its name can be wrong.
            continue;
        }
        match typed(&without_nulls(alone)) {
            Ok(_) => {}
            // What is missing may be said by another layer.
            Err(error) if error.message().contains("missing field") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A `null` takes away what is below; what is left is what the words are checked of.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(all) => Value::Object(
            all.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        other => other,
    }
}
