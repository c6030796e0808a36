//! Secrets: set, rotated, removed, listed; never read back.

mod drive;
mod rotate;
mod users;

use clawfarm_model::config::ClawConfig;
use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::secret::{SecretInfo, SecretName, SecretOwner, SecretScope};
use clawfarm_model::{Action, ClawId, Context, Error, Granted, Instance, Resource, Result, authorize};
use secrecy::{ExposeSecret, SecretString};

use crate::Control;
use crate::core::Core;
use crate::keys::RESERVED_PREFIX;

pub(crate) use self::drive::{Driver, run};
pub use self::rotate::RotateSecret;
pub use self::users::SecretUsers;
pub(crate) use self::users::nearest;

/// The longest value, in bytes.
const MAX_VALUE: usize = 64 * 1024;

/// Whose secret is meant. With nothing said it is the caller's tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretAt {
    /// For whom it is; to be left out where a project or an instance is named.
    pub scope: Option<SecretScope>,
    /// The project.
    pub project: Option<ProjectName>,
    /// The instance, by its id, a unique name or a unique beginning.
    pub instance: Option<String>,
}

impl SecretAt {
    /// Of a scope that needs no name.
    #[must_use]
    pub fn scope(scope: SecretScope) -> Self {
        Self { scope: Some(scope), ..Self::default() }
    }

    /// Of a project.
    #[must_use]
    pub fn project(project: ProjectName) -> Self {
        Self { project: Some(project), ..Self::default() }
    }
}

impl From<Option<&str>> for SecretAt {
    fn from(instance: Option<&str>) -> Self {
        Self { instance: instance.map(str::to_owned), ..Self::default() }
    }
}

impl Control {
    /// Sets a secret. An instance that uses it gets the new value at its next start;
    /// [`Self::rotate_secret`] brings it to those that are up.
    ///
    /// # Errors
    /// `InvalidInput` for a value that is empty, too long or holds a NUL byte (no environment
    /// could carry it), and for a reserved name; `NotFound` for a project or an instance that
    /// there is not, and for the whole farm's where the caller is not of the default tenant.
    pub async fn set_secret(
        &self,
        context: &Context,
        at: impl Into<SecretAt>,
        name: &SecretName,
        value: &SecretString,
    ) -> Result<SecretInfo> {
        check_name(name)?;
        check_value(value)?;
        let owner = self.secret_owner(context, at.into()).await?;
        let grant = leave(context, &owner, name)?;
        self.core.store.set_secret(&grant, &owner, name, value).await?;
        self.info(context, &owner, name).await
    }

    /// Removes a secret that nobody is configured with; with `force` also one that somebody is,
    /// whose next start fails then.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict`, with who uses it.
    pub async fn remove_secret(
        &self,
        context: &Context,
        at: impl Into<SecretAt>,
        name: &SecretName,
        force: bool,
    ) -> Result<()> {
        check_name(name)?;
        let owner = self.secret_owner(context, at.into()).await?;
        let grant = leave(context, &owner, name)?;
        let there = self.core.store.secret(context, &owner, name).await?;
        if there.is_some() && !force {
            self.refuse_if_used(context, &owner, name).await?;
        }
        if self.core.store.remove_secret(&grant, &owner, name).await? {
            return Ok(());
        }
        Err(missing(name))
    }

    /// What may be shown of the secrets.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn secrets(&self, context: &Context) -> Result<Vec<SecretInfo>> {
        let mut secrets = self.core.store.secrets(context).await?;
        secrets.retain(|s| !s.name.as_str().starts_with(RESERVED_PREFIX));
        self.core.count_users(context, &mut secrets).await?;
        Ok(secrets)
    }

    /// What may be shown of one secret, and who is configured with it.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn secret(
        &self,
        context: &Context,
        at: impl Into<SecretAt>,
        name: &SecretName,
    ) -> Result<(SecretInfo, SecretUsers)> {
        check_name(name)?;
        let owner = self.secret_owner(context, at.into()).await?;
        let mut info = self.info(context, &owner, name).await?;
        let users = self.users(context, &owner, name).await?;
        info.used_by = users.instances.len() as u64;
        Ok((info, users))
    }

    async fn info(&self, context: &Context, owner: &SecretOwner, name: &SecretName) -> Result<SecretInfo> {
        self.core.store.secret(context, owner, name).await?.ok_or_else(|| missing(name))
    }

    async fn secret_owner(&self, context: &Context, at: SecretAt) -> Result<SecretOwner> {
        let named = match (&at.project, &at.instance) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "project",
                    "a secret is a project's or an instance's, not both's",
                )
                .fix("leave one of them out"));
            }
            (Some(_), None) => SecretScope::Project,
            (None, Some(_)) => SecretScope::Instance,
            (None, None) => at.scope.unwrap_or_default(),
        };
        if at.scope.is_some_and(|scope| scope != named)
            || (named == SecretScope::Project && at.project.is_none())
            || (named == SecretScope::Instance && at.instance.is_none())
        {
            return Err(Error::invalid("scope", "the scope does not fit what is named with it").fix(
                "give 'global' or 'tenant' alone, 'project' with a project, 'instance' with an instance",
            ));
        }
        if let Some(text) = at.instance {
            let instance = self.core.find(context, &text).await?;
            return Ok(SecretOwner::Instance(instance.tenant, instance.id));
        }
        let tenant = context.tenant()?.clone();
        Ok(match at.project {
            Some(project) => SecretOwner::Project(tenant, project),
            None if named == SecretScope::Global => SecretOwner::Global,
            None => SecretOwner::Tenant(tenant),
        })
    }
}

/// Asks for leave to change a secret.
fn leave(context: &Context, owner: &SecretOwner, name: &SecretName) -> Result<Granted> {
    authorize(context, Action::SecretWrite, &Resource::new(owner.authority(), "secret", name.as_str()))
}

fn missing(name: &SecretName) -> Error {
    Error::not_found("secret", name).fix("clawfarm secret ls shows those there are")
}

/// Whose secrets are looked through for an instance of a project: one that is not made yet has
/// none of its own.
pub(crate) fn seen_by(
    tenant: &TenantName,
    project: &ProjectName,
    instance: Option<&ClawId>,
) -> Vec<SecretOwner> {
    let mut owners = vec![
        SecretOwner::Global,
        SecretOwner::Tenant(tenant.clone()),
        SecretOwner::Project(tenant.clone(), project.clone()),
    ];
    owners.extend(instance.map(|id| SecretOwner::Instance(tenant.clone(), id.clone())));
    owners
}

/// The same for an instance that there is.
pub(crate) fn seen_by_instance(instance: &Instance) -> Vec<SecretOwner> {
    seen_by(&instance.tenant, &instance.project, Some(&instance.id))
}

impl Core {
    /// Checks that every secret a config refers to exists for `owners`, or is among `given`.
    pub(crate) async fn check_secrets(
        &self,
        context: &Context,
        config: &ClawConfig,
        owners: &[SecretOwner],
        given: impl Fn(&SecretName) -> bool,
    ) -> Result<()> {
        for reference in config.secrets() {
            let name = &reference.secret;
            if given(name) {
                continue;
            }
            if self.store.nearest_secret(context, owners, name).await?.is_none() {
                return Err(Error::invalid(
                    "config",
                    format!("it refers to the secret '{name}', which does not exist"),
                )
                .fix(format!("set it first: clawfarm secret set {name}")));
            }
        }
        Ok(())
    }
}

/// People can't name their secrets as clawfarm names its own.
pub(crate) fn check_name(name: &SecretName) -> Result<()> {
    if name.as_str().starts_with(RESERVED_PREFIX) {
        return Err(Error::invalid(
            "secret",
            format!("names beginning with '{RESERVED_PREFIX}' are clawfarm's own"),
        )
        .fix("choose another name"));
    }
    Ok(())
}

pub(crate) fn check_value(value: &SecretString) -> Result<()> {
    let value = value.expose_secret();
    let refuse = |why: &str| {
        Err(Error::invalid("value", why.to_owned()).fix("give 1 byte to 64 KiB of text without NUL bytes"))
    };
    if value.is_empty() {
        return refuse("the value is empty");
    }
    if value.len() > MAX_VALUE {
        return refuse("the value is longer than 64 KiB");
    }
    if value.contains('\0') {
        return refuse("the value contains a NUL byte, which no environment variable can");
    }
    Ok(())
}
