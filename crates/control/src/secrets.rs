//! Secrets: set, removed, listed; never read back.

use clawfarm_model::config::ClawConfig;
use clawfarm_model::secret::{SecretInfo, SecretName, SecretOwner};
use clawfarm_model::{Action, Code, Context, Error, Resource, Result, authorize};
use clawfarm_store::{InstanceFilter, PageRequest};
use secrecy::{ExposeSecret, SecretString};

use crate::Control;
use crate::core::Core;
use crate::keys::RESERVED_PREFIX;

/// The longest value, in bytes.
const MAX_VALUE: usize = 64 * 1024;

impl Control {
    /// Sets a secret of the tenant, or of one instance. An instance that uses it gets the new
    /// value at its next start.
    ///
    /// # Errors
    /// `InvalidInput` for a value that is empty, too long or holds a NUL byte (no environment
    /// could carry it), and for a reserved name.
    pub async fn set_secret(
        &self,
        context: &Context,
        instance: Option<&str>,
        name: &SecretName,
        value: &SecretString,
    ) -> Result<SecretInfo> {
        check_name(name)?;
        check_value(value)?;
        let owner = self.secret_owner(context, instance).await?;
        let grant = authorize(
            context,
            Action::SecretWrite,
            &Resource::new(owner.tenant.clone(), "secret", name.as_str()),
        )?;
        self.core.store.set_secret(&grant, &owner, name, value).await?;
        let all = self.core.store.secrets(context).await?;
        all.into_iter()
            .find(|s| s.name == *name && s.instance == owner.instance)
            .ok_or_else(|| Error::not_found("secret", name))
    }

    /// Removes a secret that no instance refers to.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict`, with who uses it.
    pub async fn remove_secret(
        &self,
        context: &Context,
        instance: Option<&str>,
        name: &SecretName,
    ) -> Result<()> {
        check_name(name)?;
        let owner = self.secret_owner(context, instance).await?;
        let users = self.users_of(context, &owner, name).await?;
        if !users.is_empty() {
            return Err(Error::new(
                Code::Conflict,
                format!("secret '{name}' is used by {}", users.join(", ")),
            )
            .field("secret")
            .fix("change the configuration of those instances first, or remove them"));
        }
        let grant = authorize(
            context,
            Action::SecretWrite,
            &Resource::new(owner.tenant.clone(), "secret", name.as_str()),
        )?;
        if self.core.store.remove_secret(&grant, &owner, name).await? {
            return Ok(());
        }
        Err(Error::not_found("secret", name).fix("clawfarm secret ls shows those there are"))
    }

    /// What may be shown of the secrets.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn secrets(&self, context: &Context) -> Result<Vec<SecretInfo>> {
        let mut secrets = self.core.store.secrets(context).await?;
        secrets.retain(|s| !s.name.as_str().starts_with(RESERVED_PREFIX));
        Ok(secrets)
    }

    async fn secret_owner(&self, context: &Context, instance: Option<&str>) -> Result<SecretOwner> {
        match instance {
            Some(text) => {
                let instance = self.core.find(context, text).await?;
                Ok(SecretOwner { tenant: instance.tenant, instance: Some(instance.id) })
            }
            None => Ok(SecretOwner { tenant: context.tenant()?.clone(), instance: None }),
        }
    }

    async fn users_of(
        &self,
        context: &Context,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<Vec<String>> {
        let mut users = Vec::new();
        let mut cursor = None;
        loop {
            let page = self
                .core
                .store
                .instances(context, &InstanceFilter::default(), &PageRequest::after(cursor, PageRequest::MAX))
                .await?;
            users.extend(
                page.items
                    .iter()
                    .filter(|i| owner.instance.as_ref().is_none_or(|o| *o == i.id))
                    .filter(|i| i.spec.config.secrets().any(|r| r.secret == *name))
                    .map(|i| i.id.to_string()),
            );
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(users),
            }
        }
    }
}

impl Core {
    /// Checks that every secret a config refers to exists, for an instance or among `given`.
    pub(crate) async fn check_secrets(
        &self,
        context: &Context,
        config: &ClawConfig,
        owner: &SecretOwner,
        given: impl Fn(&SecretName) -> bool,
    ) -> Result<()> {
        for reference in config.secrets() {
            let name = &reference.secret;
            if given(name) {
                continue;
            }
            if self.resolve_secret(context, owner, name).await?.is_none() {
                return Err(Error::invalid(
                    "config",
                    format!("it refers to the secret '{name}', which does not exist"),
                )
                .fix(format!("set it first: clawfarm secret set {name}")));
            }
        }
        Ok(())
    }

    /// The value of a secret for an instance: its own before its tenant's.
    pub(crate) async fn resolve_secret(
        &self,
        context: &Context,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<Option<SecretString>> {
        if let Some(value) = self.store.secret_value(context, owner, name).await? {
            return Ok(Some(value));
        }
        let tenant = SecretOwner { tenant: owner.tenant.clone(), instance: None };
        self.store.secret_value(context, &tenant, name).await
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
