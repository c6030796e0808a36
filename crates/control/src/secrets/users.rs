//! Who is configured with a secret, and whether it has the present value.

use std::collections::BTreeSet;

use clawfarm_model::secret::{
    SecretInfo, SecretName, SecretOwner, SecretRotation, SecretScope, SecretUse, SecretUser,
};
use clawfarm_model::{
    Code, ConfigKind, ConfigName, Context, Desired, Error, Instance, ObservedState, Phase, Result,
};
use clawfarm_store::{Given, InstanceFilter, PageRequest};
use serde_json::Value;

use crate::Control;
use crate::core::Core;

/// So many users are named in an error.
const NAMED: usize = 5;

/// Who is configured with a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretUsers {
    /// The instances, by id.
    pub instances: Vec<SecretUser>,
    /// The configurations that name it in their newest or their published revision. What comes of
    /// that for an instance is among `instances`.
    pub configs: Vec<ConfigName>,
}

/// A user with all that is known of it.
pub(super) struct User {
    pub(super) instance: Instance,
    pub(super) user: SecretUser,
}

impl Control {
    pub(super) async fn users(
        &self,
        context: &Context,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<SecretUsers> {
        let rotation = self.core.store.secret(context, owner, name).await?.and_then(|it| it.rotation);
        let instances = self.core.users_of(owner, name, rotation.as_ref()).await?;
        // Of the whole farm's, tenants are told of their own instances.
        let seen = instances.into_iter().filter(|it| sees(context, &it.instance));
        Ok(SecretUsers {
            instances: seen.map(|it| it.user).collect(),
            configs: self.core.configs_naming(context, owner, name).await?,
        })
    }

    pub(super) async fn refuse_if_used(
        &self,
        context: &Context,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<()> {
        let users = self.users(context, owner, name).await?;
        let configs = users.configs.iter().map(|it| format!("configuration {it}"));
        let mut all: Vec<String> =
            users.instances.iter().map(|it| it.instance.to_string()).chain(configs).collect();
        if all.is_empty() {
            return Ok(());
        }
        let more = all.len().saturating_sub(NAMED);
        all.truncate(NAMED);
        let others = if more > 0 { format!(", and {more} more") } else { String::new() };
        Err(Error::new(
            Code::Conflict,
            format!("secret '{name}' of {owner} is used by {}{others}", all.join(", ")),
        )
        .field("secret")
        .fix("change what they are configured with first, or remove it all the same with --force: they can't be started then"))
    }
}

/// The tenants' own, and of another tenant none. The default tenant's owners administer the farm.
fn sees(context: &Context, instance: &Instance) -> bool {
    let admin = context.tenant().is_ok_and(|it| *it == clawfarm_model::name::TenantName::default_tenant());
    admin || context.sees(&instance.tenant)
}

impl Core {
    /// The instances that a secret's value goes to: it is the most particular of its name that
    /// they see.
    pub(super) async fn users_of(
        &self,
        owner: &SecretOwner,
        name: &SecretName,
        rotation: Option<&SecretRotation>,
    ) -> Result<Vec<User>> {
        let system = Context::system("secrets");
        let stamps = self.store.stamps_of(&system, name).await?;
        let mut instances = self.store.instances_naming(&system, owner, name).await?;
        instances.retain(|it| {
            it.intent.desired != Desired::Destroyed
                && nearest(&stamps, it).is_some_and(|(nearest, _)| nearest == owner)
        });
        let ids: Vec<_> = instances.iter().map(|it| &it.id).collect();
        let given = self.store.given(&system, &ids).await?;
        let retry = rotation.is_some_and(|it| it.after_halt);
        let mut users = Vec::new();
        for instance in instances {
            let fields: Vec<String> = instance
                .spec
                .config
                .secret_fields()
                .into_iter()
                .filter(|(_, secret)| secret.secret == *name)
                .map(|(field, _)| field)
                .collect();
            let Some((_, stamp)) = nearest(&stamps, &instance).filter(|_| !fields.is_empty()) else {
                continue;
            };
            let adapter = self.adapter(&instance)?;
            let restarts = fields.iter().any(|field| adapter.secret_restarts(field));
            let state = standing(&instance, given.get(&instance.id), name, stamp, retry);
            let user = SecretUser { instance: instance.id.clone(), fields, restarts, state };
            users.push(User { instance, user });
        }
        Ok(users)
    }

    /// Says of each secret how many instances its value goes to.
    pub(super) async fn count_users(&self, context: &Context, secrets: &mut [SecretInfo]) -> Result<()> {
        let mut cursor = None;
        loop {
            let page = PageRequest::after(cursor, PageRequest::MAX);
            let page = self.store.instances(context, &InstanceFilter::default(), &page).await?;
            for instance in page.items.iter().filter(|it| it.intent.desired != Desired::Destroyed) {
                let names: BTreeSet<_> = instance.spec.config.secrets().map(|it| &it.secret).collect();
                for name in names {
                    let of_name = secrets.iter_mut().filter(|it| it.name == *name && reaches(it, instance));
                    if let Some(nearest) = of_name.max_by_key(|it| it.scope) {
                        nearest.used_by += 1;
                    }
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// The configurations whose newest or published revision names a secret of this name, as far
    /// as their instances see this one.
    async fn configs_naming(
        &self,
        context: &Context,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<Vec<ConfigName>> {
        let system = Context::system("secrets");
        let mut found = BTreeSet::new();
        for config in self.store.configs(&system).await? {
            let tenant = config.tenant.clone().unwrap_or_else(|| owner.authority());
            let fits = match (owner, config.name.kind()) {
                (SecretOwner::Instance(..), _) => false,
                (SecretOwner::Project(own, of), ConfigKind::Project(project)) => {
                    *own == tenant && *of == project
                }
                (SecretOwner::Project(own, _), ConfigKind::Template) => *own == tenant,
                (SecretOwner::Project(..), _) => false,
                (SecretOwner::Tenant(own), ConfigKind::Global) => {
                    *own == clawfarm_model::name::TenantName::default_tenant()
                }
                (SecretOwner::Tenant(own), _) => *own == tenant,
                (SecretOwner::Global, _) => context.sees(&tenant),
            };
            if !fits {
                continue;
            }
            for number in [Some(config.head), config.published].into_iter().flatten() {
                let content = self.store.revision_content(&system, &tenant, &config.name, number).await?;
                let content = serde_json::to_value(&content)
                    .map_err(|e| Error::internal("a configuration can't be written as JSON", e))?;
                if names(&content, name) {
                    found.insert(config.name.clone());
                }
            }
        }
        Ok(found.into_iter().collect())
    }
}

/// Whether a document refers to a secret somewhere, as `{"secret": "<name>"}` does.
fn names(document: &Value, name: &SecretName) -> bool {
    match document {
        Value::Object(object) => {
            let refers = object.len() == 1
                && object.get("secret").and_then(Value::as_str).is_some_and(|text| text == name.as_str());
            refers || object.values().any(|value| names(value, name))
        }
        Value::Array(items) => items.iter().any(|value| names(value, name)),
        _ => false,
    }
}

fn reaches(secret: &SecretInfo, instance: &Instance) -> bool {
    match secret.scope {
        SecretScope::Global | SecretScope::Tenant => true,
        SecretScope::Project => secret.project.as_ref() == Some(&instance.project),
        SecretScope::Instance => secret.instance.as_ref() == Some(&instance.id),
    }
}

/// The most particular of those that an instance sees.
pub(crate) fn nearest<'a>(
    stamps: &'a [(SecretOwner, String)],
    instance: &Instance,
) -> Option<(&'a SecretOwner, &'a str)> {
    stamps
        .iter()
        .filter(|(owner, _)| owner.reaches(&instance.tenant, &instance.project, &instance.id))
        .max_by_key(|(owner, _)| owner.scope())
        .map(|(owner, stamp)| (owner, stamp.as_str()))
}

/// How an instance stands to a value, by what it was last given and what is seen of it.
fn standing(
    instance: &Instance,
    given: Option<&Given>,
    name: &SecretName,
    stamp: &str,
    retry: bool,
) -> SecretUse {
    let run = instance.observed.as_ref().map_or(0, |it| it.run);
    let state = instance.observed.as_ref().map_or(ObservedState::Absent, |it| it.state);
    let had_another = given.is_some_and(|it| it.stamps.contains_key(name));
    let given = given.filter(|it| it.stamps.get(name).is_some_and(|it| it == stamp));
    let wants_start = instance.intent.run > run;
    if instance.intent.desired != Desired::Running {
        // One that is frozen goes on with what it has when it is woken, unless a start is wanted.
        let stays = state.is_up() && instance.intent.desired == Desired::Warm;
        return match given {
            Some(given) if stays && given.run >= run => SecretUse::Current,
            _ if stays && !wants_start => SecretUse::Behind,
            _ => SecretUse::NextStart,
        };
    }
    if instance.phase == Phase::Failed {
        return match given {
            Some(given) if given.run >= instance.intent.run => SecretUse::Failed,
            // One that failed before is left alone, unless it may have been the value before.
            _ if retry && had_another => SecretUse::Behind,
            _ => SecretUse::NextStart,
        };
    }
    if !state.is_up() {
        return if given.is_some() || wants_start { SecretUse::OnItsWay } else { SecretUse::NextStart };
    }
    match given {
        // Its machine is away: it is started again when it is back, and keeps nobody waiting.
        _ if wants_start && instance.unknown_since.is_some() => SecretUse::NextStart,
        _ if wants_start => SecretUse::OnItsWay,
        Some(given) if given.run == run => {
            if instance.phase == Phase::Ready {
                SecretUse::Current
            } else {
                SecretUse::OnItsWay
            }
        }
        _ if instance.in_force < instance.layers.revision => SecretUse::OnItsWay,
        _ => SecretUse::Behind,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_is_found_wherever_it_is() {
        let name = SecretName::new("key").unwrap();
        for found in [
            json!({"body": {"model": {"api_key": {"secret": "key"}}}}),
            json!({"variables": [{"name": "x", "default": {"secret": "key"}}]}),
        ] {
            assert!(names(&found, &name), "{found}");
        }
        for other in [
            json!({"body": {"env": {"secret": "other"}}}),
            json!({"secret": ["key"]}),
            json!({"secret": "key", "more": 1}),
            json!("key"),
        ] {
            assert!(!names(&other, &name), "{other}");
        }
    }
}
