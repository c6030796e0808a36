//! Secrets: stored encrypted, listed without their values, read by the server only to be
//! handed to the claw they are for.

mod given;
mod rotate;

use clawfarm_model::authz::Scope;
use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{SecretInfo, SecretName, SecretOwner, SecretScope};
use clawfarm_model::{Action, ClawId, Context, Error, Granted, Phase, Result};
use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict};
use sea_orm::{ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder};
use secrecy::{ExposeSecret, SecretString};

use crate::audit::Outcome;
use crate::convert::{from_json, name, time};
use crate::crypto::{self, Sealed};
use crate::entity::{project, secret};
use crate::error::{db, unreadable};
use crate::guard::{about, fits, of_tenant, server_only};
use crate::store::Store;
use crate::tx::{Tries, Tx};

pub use self::given::Given;

/// The longest value, in bytes: an environment variable of Linux may have 128 KiB with its
/// name (`MAX_ARG_STRLEN`), and secrets reach claws as such.
const MAX_VALUE: usize = 64 * 1024;

/// What the place of a project's secrets begins with. No instance's id has a slash.
const PROJECT: &str = "project/";
/// The place of the whole farm's secrets. They are kept with the default tenant, whose owners set
/// them.
const GLOBAL: &str = "global/";

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
            return self.open_secret(&row, owner, name).await;
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

    /// What may be shown of the secrets: the tenant's own, its projects' and its instances', and
    /// the whole farm's, from the general to the particular, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn secrets(&self, context: &Context) -> Result<Vec<SecretInfo>> {
        use secret::Column as C;
        let rows = seen(secret::Entity::find(), context)
            .order_by_asc(C::Tenant)
            .order_by_asc(C::Instance)
            .order_by_asc(C::Name)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let mut secrets: Vec<SecretInfo> = rows.iter().map(info).collect::<Result<_>>()?;
        secrets.sort_by_key(|it| it.scope);
        Ok(secrets)
    }

    /// What may be shown of one secret; `None` when there is none or it is another tenant's.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn secret(
        &self,
        context: &Context,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<Option<SecretInfo>> {
        let row = seen(secret::Entity::find_by_id(key_of(owner, name)), context)
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        row.as_ref().map(info).transpose()
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
        let row = seen(secret::Entity::find_by_id(key_of(owner, name)), context)
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        match row {
            Some(row) => self.open_secret(&row, owner, name).await.map(Some),
            None => Ok(None),
        }
    }

    /// The secret of this name that somebody sees: of several, the most particular. `owners` are
    /// those whose secrets are looked through.
    ///
    /// # Errors
    /// When it can't be decrypted.
    pub async fn nearest_secret(
        &self,
        context: &Context,
        owners: &[SecretOwner],
        name: &SecretName,
    ) -> Result<Option<Nearest>> {
        let Some((owner, row)) = self.nearest(context, owners, name).await? else { return Ok(None) };
        let value = self.open_secret(&row, &owner, name).await?;
        Ok(Some(Nearest { owner, stamp: stamp(&row), value }))
    }

    /// All secrets of this name, with their stamps; for the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn stamps_of(
        &self,
        context: &Context,
        name: &SecretName,
    ) -> Result<Vec<(SecretOwner, String)>> {
        server_only(context, "the secrets of a name")?;
        let rows = secret::Entity::find()
            .filter(secret::Column::Name.eq(name.as_str()))
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.iter().map(|row| Ok((whose(row)?.0, stamp(row)))).collect()
    }

    async fn nearest(
        &self,
        context: &Context,
        owners: &[SecretOwner],
        name: &SecretName,
    ) -> Result<Option<(SecretOwner, secret::Model)>> {
        use secret::Column as C;
        let mut any = Condition::any();
        for owner in owners {
            let (tenant, instance, _) = key_of(owner, name);
            any = any.add(Condition::all().add(C::Tenant.eq(tenant)).add(C::Instance.eq(instance)));
        }
        let rows = seen(secret::Entity::find(), context)
            .filter(C::Name.eq(name.as_str()))
            .filter(any)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let found = rows.into_iter().filter_map(|row| {
            let owner = owners.iter().find(|owner| {
                let (tenant, instance, _) = key_of(owner, name);
                row.tenant == tenant && row.instance == instance
            })?;
            Some((owner.clone(), row))
        });
        Ok(found.max_by_key(|(owner, _)| owner.scope()))
    }

    /// The values of all secrets that can be seen, those before a rotation too, to be taken out of
    /// what is about to be shown; for nothing else.
    ///
    /// # Errors
    /// When one can't be decrypted, or the database fails.
    pub async fn secret_values(&self, context: &Context) -> Result<Vec<SecretString>> {
        let rows = seen(secret::Entity::find(), context).all(&self.0.reader).await.map_err(db)?;
        let mut values = Vec::with_capacity(rows.len());
        for row in &rows {
            let (owner, name) = whose(row)?;
            values.push(self.open_secret(row, &owner, &name).await?);
            if let Some(before) = before(row) {
                values.push(self.open_sealed(&before, &owner, &name).await?);
            }
        }
        Ok(values)
    }

    pub(super) async fn open_secret(
        &self,
        row: &secret::Model,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<SecretString> {
        let sealed = Sealed { wrapped_key: row.wrapped_key.clone(), value: row.value.clone() };
        self.open_sealed(&sealed, owner, name).await
    }

    pub(super) async fn open_sealed(
        &self,
        sealed: &Sealed,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<SecretString> {
        let plain = self
            .0
            .unseal(belongs(owner, name).as_array(), sealed)
            .await
            .map_err(|e| e.field(format!("secret {name}")))?;
        let text = std::str::from_utf8(&plain).map_err(|e| unreadable("secret", name.as_str(), e))?;
        Ok(SecretString::from(text))
    }

    pub(super) async fn begin_secret_write(
        &self,
        granted: &Granted,
        owner: &SecretOwner,
        name: &SecretName,
    ) -> Result<Tx> {
        let tenant = owner.authority();
        match (owner, granted.resource().kind) {
            (SecretOwner::Instance(_, id), "instance") => {
                fits(granted, &[Action::SecretWrite, Action::InstanceChange], "instance")?;
                about(granted, tenant.as_str(), "instance", id.as_str())?;
            }
            _ => {
                fits(granted, &[Action::SecretWrite], "secret")?;
                of_tenant(granted, tenant.as_str(), "secret", name.as_str())?;
            }
        }
        let tx = Tx::begin(&self.0).await?;
        match owner {
            SecretOwner::Instance(_, id) => {
                let row = tx.instance(id.as_str()).await?;
                if row.tenant != tenant.as_str() || row.phase == Phase::Destroyed.as_str() {
                    return Err(Error::not_found("instance", id));
                }
            }
            SecretOwner::Project(_, of) => {
                let key = (tenant.as_str().to_owned(), of.as_str().to_owned());
                if project::Entity::find_by_id(key).one(tx.on()).await.map_err(db)?.is_none() {
                    return Err(Error::not_found("project", of)
                        .field("project")
                        .fix("name the project of a claw; clawfarm status shows it"));
                }
            }
            SecretOwner::Global | SecretOwner::Tenant(_) => {}
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
        let sealed = self.keyring().seal(belongs(owner, name).as_array(), value.as_bytes())?;
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
            version: 1,
            previous_key: None,
            previous_value: None,
            rotation: None,
            value_id: Some(value_id()?),
            previous_id: None,
        };
        let over = OnConflict::columns([C::Tenant, C::Instance, C::Name])
            .update_columns([C::WrappedKey, C::Value, C::UpdatedAt, C::ValueId])
            .value(C::Version, Expr::col((secret::Entity, C::Version)).add(1))
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
        self.forget_given_secrets(instance).await
    }

    pub(super) async fn secret_written(
        &mut self,
        granted: &Granted,
        owner: &SecretOwner,
        event: &NewEvent,
    ) -> Result<()> {
        self.event(owner.authority().as_str(), owner.instance(), event)?;
        self.audit(granted, Outcome::Done, &event.message).await
    }
}

pub(super) fn check_value(name: &SecretName, value: &str) -> Result<()> {
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

/// A secret with its value, as an instance sees it.
pub struct Nearest {
    /// Whose it is.
    pub owner: SecretOwner,
    /// Which value it is: another for each that was ever set anywhere of this name, and the same
    /// again for one that came back.
    pub stamp: String,
    /// The value.
    pub value: SecretString,
}

/// Whose rows a context sees: its tenant's, and the whole farm's.
fn seen<Q: QueryFilter>(query: Q, context: &Context) -> Q {
    match context.scope() {
        Scope::Tenant(own) => {
            query.filter(secret::Column::Tenant.eq(own.as_str()).or(secret::Column::Instance.eq(GLOBAL)))
        }
        Scope::Every => query,
    }
}

/// Which value of which row this is. The time keeps apart one that was removed and made again.
pub(super) fn stamp(row: &secret::Model) -> String {
    let scope = match row.instance.as_str() {
        GLOBAL => SecretScope::Global,
        "" => SecretScope::Tenant,
        place if place.starts_with(PROJECT) => SecretScope::Project,
        _ => SecretScope::Instance,
    };
    format!("{scope}:{}:{}", row.created_at, row.value_id.as_deref().unwrap_or("first"))
}

/// By what a value is told apart from others, which says nothing of it.
pub(super) fn value_id() -> Result<String> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal("the operating system gives no random bytes", e.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a secret's encryption is bound to.
pub(super) struct Bound {
    tenant: String,
    place: String,
    name: String,
}

impl Bound {
    pub(super) fn as_array(&self) -> crypto::Belongs<'_> {
        [&self.tenant, &self.place, &self.name]
    }
}

/// The key of a secret's row: tenant, place and name.
pub(super) fn key_of(owner: &SecretOwner, name: &SecretName) -> (String, String, String) {
    let tenant = owner.authority().as_str().to_owned();
    let place = match owner {
        SecretOwner::Global => GLOBAL.to_owned(),
        SecretOwner::Tenant(_) => String::new(),
        SecretOwner::Project(_, project) => format!("{PROJECT}{project}"),
        SecretOwner::Instance(_, id) => id.as_str().to_owned(),
    };
    (tenant, place, name.as_str().to_owned())
}

pub(super) fn belongs(owner: &SecretOwner, name: &SecretName) -> Bound {
    let (tenant, place, name) = key_of(owner, name);
    Bound { tenant, place, name }
}

/// Whose a row is, and its name.
pub(super) fn whose(row: &secret::Model) -> Result<(SecretOwner, SecretName)> {
    let of = |text: &str| name("secret", &row.name, text);
    let owner = match (row.tenant.as_str(), row.instance.as_str()) {
        (_, GLOBAL) => SecretOwner::Global,
        (tenant, "") => SecretOwner::Tenant(of(tenant)?),
        (tenant, place) => match place.strip_prefix(PROJECT) {
            Some(project) => SecretOwner::Project(of(tenant)?, name("secret", &row.name, project)?),
            None => SecretOwner::Instance(of(tenant)?, name("secret", &row.name, place)?),
        },
    };
    Ok((owner, name("secret", &row.name, &row.name)?))
}

/// The value before, as it is sealed, while it is kept.
pub(super) fn before(row: &secret::Model) -> Option<Sealed> {
    let (wrapped_key, value) = row.previous_key.clone().zip(row.previous_value.clone())?;
    Some(Sealed { wrapped_key, value })
}

pub(super) fn info(row: &secret::Model) -> Result<SecretInfo> {
    let (owner, secret) = whose(row)?;
    let rotation = row.rotation.as_deref().map(|text| from_json("secret", &row.name, text)).transpose()?;
    Ok(SecretInfo {
        name: secret,
        scope: owner.scope(),
        project: owner.project().cloned(),
        instance: owner.instance().cloned(),
        version: row.version,
        previous_kept: row.previous_key.is_some(),
        rotation,
        used_by: 0,
        created_at: time(row.created_at),
        updated_at: time(row.updated_at),
    })
}
