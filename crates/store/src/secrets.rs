//! Secrets: stored encrypted, listed without their values, read by the server only to be
//! handed to the claw they are for.

use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{SecretInfo, SecretName, SecretOwner};
use clawfarm_model::{Action, ClawId, Context, Error, Granted, Phase, Result};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder};
use secrecy::{ExposeSecret, SecretString};

use crate::audit::Outcome;
use crate::convert::{name, time};
use crate::crypto::{self, Sealed};
use crate::entity::secret;
use crate::error::{db, unreadable};
use crate::guard::{about, fits, of_tenant, visible};
use crate::store::Store;
use crate::tx::{Tries, Tx};

/// The longest value, in bytes: an environment variable of Linux may have 128 KiB with its
/// name (`MAX_ARG_STRLEN`), and secrets reach claws as such.
const MAX_VALUE: usize = 64 * 1024;

impl Store {
    /// Sets a secret, in place of the one of that name.
    ///
    /// The leave must be for [`Action::SecretWrite`] on a `secret` of the owner's tenant, or
    /// on the `instance` that owns it.
    ///
    /// # Errors
    /// `NotFound` when the owning instance is not there, `InvalidInput` for a value that is
    /// empty, longer than 64 KiB or holds a NUL byte.
    pub async fn set_secret(
        &self,
        granted: &Granted,
        owner: &SecretOwner,
        name: &SecretName,
        value: &SecretString,
    ) -> Result<()> {
        let mut tries = Tries::default();
        loop {
            match self.try_set_secret(granted, owner, name, value).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_set_secret(
        &self,
        granted: &Granted,
        owner: &SecretOwner,
        name: &SecretName,
        value: &SecretString,
    ) -> Result<()> {
        let mut tx = self.begin_secret_write(granted, owner, name).await?;
        tx.put_secret(owner, name, value).await?;
        tx.secret_written(granted, owner, &NewEvent::info("secret-set", format!("secret '{name}' was set")))
            .await?;
        tx.commit().await
    }

    /// The value of a secret; `value` when it has none yet, which is set then. Of several
    /// servers that do so at once, all get the one that was first.
    ///
    /// # Errors
    /// As for [`Store::set_secret`] and [`Store::secret_value`].
    pub async fn secret_or_set(
        &self,
        granted: &Granted,
        owner: &SecretOwner,
        name: &SecretName,
        value: &SecretString,
    ) -> Result<SecretString> {
        let mut tx = self.begin_secret_write(granted, owner, name).await?;
        let there = secret::Entity::find_by_id(key_of(owner, name)).one(tx.on()).await.map_err(db)?;
        if let Some(row) = there {
            return self.open_secret(row, owner, name);
        }
        tx.put_secret(owner, name, value).await?;
        tx.secret_written(granted, owner, &NewEvent::info("secret-set", format!("secret '{name}' was set")))
            .await?;
        tx.commit().await?;
        Ok(value.clone())
    }

    /// Removes a secret; says whether it was there.
    ///
    /// # Errors
    /// As for [`Store::set_secret`].
    pub async fn remove_secret(
        &self,
        granted: &Granted,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<bool> {
        let mut tx = self.begin_secret_write(granted, owner, name).await?;
        let gone = secret::Entity::delete_by_id(key_of(owner, name)).exec(tx.on()).await.map_err(db)?;
        if gone.rows_affected == 0 {
            return Ok(false);
        }
        let event = NewEvent::info("secret-removed", format!("secret '{name}' was removed"));
        tx.secret_written(granted, owner, &event).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// What may be shown of the secrets: the tenant's own and its instances', by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn secrets(&self, context: &Context) -> Result<Vec<SecretInfo>> {
        use secret::Column as C;
        let rows = visible(secret::Entity::find(), context, C::Tenant)
            .order_by_asc(C::Instance)
            .order_by_asc(C::Name)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.iter().map(info).collect()
    }

    /// The value of a secret; `None` when there is none or it is another tenant's.
    ///
    /// # Errors
    /// When it can't be decrypted: it was altered, or moved from another row.
    pub async fn secret_value(
        &self,
        context: &Context,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<Option<SecretString>> {
        let row = visible(secret::Entity::find_by_id(key_of(owner, name)), context, secret::Column::Tenant)
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        row.map(|row| self.open_secret(row, owner, name)).transpose()
    }

    /// The values of all secrets that can be seen, to be taken out of what is about to be
    /// shown; for nothing else.
    ///
    /// # Errors
    /// When one can't be decrypted, or the database fails.
    pub async fn secret_values(&self, context: &Context) -> Result<Vec<SecretString>> {
        let rows = visible(secret::Entity::find(), context, secret::Column::Tenant)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let open = |row: secret::Model| {
            let secret = info(&row)?;
            let owner =
                SecretOwner { tenant: name("secret", &row.name, &row.tenant)?, instance: secret.instance };
            self.open_secret(row, &owner, &secret.name)
        };
        rows.into_iter().map(open).collect()
    }

    fn open_secret(
        &self,
        row: secret::Model,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<SecretString> {
        let sealed = Sealed { wrapped_key: row.wrapped_key, value: row.value };
        let plain = crypto::unseal(&self.0.master_key, belongs(owner, name), &sealed)
            .map_err(|e| e.field(format!("secret {name}")))?;
        let text = std::str::from_utf8(&plain).map_err(|e| unreadable("secret", name.as_str(), e))?;
        Ok(SecretString::from(text))
    }

    async fn begin_secret_write(
        &self,
        granted: &Granted,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<Tx> {
        let tenant = owner.tenant.as_str();
        match (&owner.instance, granted.resource().kind) {
            (Some(id), "instance") => {
                fits(granted, &[Action::SecretWrite, Action::InstanceChange], "instance")?;
                about(granted, tenant, "instance", id.as_str())?;
            }
            _ => {
                fits(granted, &[Action::SecretWrite], "secret")?;
                of_tenant(granted, tenant, "secret", name.as_str())?;
            }
        }
        let tx = Tx::begin(&self.0).await?;
        if let Some(id) = &owner.instance {
            let row = tx.instance(id.as_str()).await?;
            if row.tenant != tenant || row.phase == Phase::Destroyed.as_str() {
                return Err(Error::not_found("instance", id));
            }
        }
        Ok(tx)
    }
}

impl Tx {
    pub(crate) async fn put_secret(
        &self,
        owner: &SecretOwner,
        name: &SecretName,
        value: &SecretString,
    ) -> Result<()> {
        use secret::Column as C;
        let value = value.expose_secret();
        check_value(name, value)?;
        let sealed = crypto::seal(self.master_key(), belongs(owner, name), value.as_bytes())?;
        let (tenant, instance, name) = key_of(owner, name);
        let now = self.now.as_millis();
        let row = secret::Model {
            tenant,
            instance,
            name,
            wrapped_key: sealed.wrapped_key,
            value: sealed.value,
            created_at: now,
            updated_at: now,
        };
        let over = OnConflict::columns([C::Tenant, C::Instance, C::Name])
            .update_columns([C::WrappedKey, C::Value, C::UpdatedAt])
            .to_owned();
        secret::Entity::insert(row.into_active_model())
            .on_conflict(over)
            .exec_without_returning(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Removes what only a destroyed instance could have used.
    pub(crate) async fn remove_secrets_of(&self, tenant: &str, instance: &ClawId) -> Result<()> {
        secret::Entity::delete_many()
            .filter(secret::Column::Tenant.eq(tenant))
            .filter(secret::Column::Instance.eq(instance.as_str()))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    async fn secret_written(
        &mut self,
        granted: &Granted,
        owner: &SecretOwner,
        event: &NewEvent,
    ) -> Result<()> {
        self.event(owner.tenant.as_str(), owner.instance.as_ref(), event)?;
        self.audit(granted, Outcome::Done, &event.message).await
    }
}

fn check_value(name: &SecretName, value: &str) -> Result<()> {
    let why = if value.is_empty() {
        "it is empty".to_owned()
    } else if value.len() > MAX_VALUE {
        format!("it has {} bytes", value.len())
    } else if value.contains('\0') {
        "it contains a NUL byte".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::invalid("value", format!("the value of secret '{name}' can't be kept: {why}"))
        .fix(format!("give 1 to {MAX_VALUE} bytes of text without NUL bytes")))
}

fn key_of(owner: &SecretOwner, name: &SecretName) -> (String, String, String) {
    let [tenant, instance, name] = belongs(owner, name);
    (tenant.to_owned(), instance.to_owned(), name.to_owned())
}

fn belongs<'a>(owner: &'a SecretOwner, name: &'a SecretName) -> crypto::Belongs<'a> {
    [owner.tenant.as_str(), owner.instance.as_ref().map_or("", ClawId::as_str), name.as_str()]
}

fn info(row: &secret::Model) -> Result<SecretInfo> {
    Ok(SecretInfo {
        name: name("secret", &row.name, &row.name)?,
        instance: if row.instance.is_empty() {
            None
        } else {
            Some(name("secret", &row.name, &row.instance)?)
        },
        created_at: time(row.created_at),
        updated_at: time(row.updated_at),
    })
}
