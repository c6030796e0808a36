//! New values on their way: the value before is kept until the new one is everywhere.

use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{RotationStage, SecretInfo, SecretName, SecretOwner, SecretRotation};
use clawfarm_model::{Code, Context, Error, Granted, Result};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use secrecy::{ExposeSecret as _, SecretString};

use super::{before, belongs, check_value, info, key_of, value_id, whose};
use crate::convert::to_json;
use crate::entity::secret;
use crate::error::db;
use crate::guard::server_only;
use crate::store::Store;
use crate::tx::{Tries, Tx};

impl Store {
    /// Gives a secret a new value, keeping the one before, and begins its rotation; with no value
    /// it is the one before that it gets back.
    ///
    /// # Errors
    /// `NotFound` when there is no such secret; `Conflict` when there is no value before; as for
    /// [`Store::set_secret`].
    pub async fn rotate_secret(
        &self,
        granted: &Granted,
        owner: &SecretOwner,
        name: &SecretName,
        value: Option<&SecretString>,
        rotation: &SecretRotation,
    ) -> Result<SecretInfo> {
        let mut tries = Tries::default();
        loop {
            match self.try_rotate(granted, owner, name, value, rotation).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_rotate(
        &self,
        granted: &Granted,
        owner: &SecretOwner,
        name: &SecretName,
        value: Option<&SecretString>,
        rotation: &SecretRotation,
    ) -> Result<SecretInfo> {
        use secret::Column as C;
        let mut tx = self.begin_secret_write(granted, owner, name).await?;
        let row = tx.lock_secret(owner, name).await?.ok_or_else(|| {
            Error::not_found("secret", name).fix("clawfarm secret ls shows those there are")
        })?;
        let (sealed, id) = match value {
            Some(value) => {
                check_value(name, value.expose_secret())?;
                let bound = belongs(owner, name);
                (tx.keyring().seal(bound.as_array(), value.expose_secret().as_bytes())?, Some(value_id()?))
            }
            None => {
                let before = before(&row).ok_or_else(|| {
                    let why = format!("the value before of secret '{name}' is not kept any more");
                    Error::new(Code::Conflict, why).field("secret").fix("give the value")
                })?;
                (before, row.previous_id.clone())
            }
        };
        let halted = |it: &SecretRotation| it.stage == RotationStage::Halted || it.after_halt;
        let present = info(&row)?.rotation;
        let rotation =
            SecretRotation { after_halt: present.as_ref().is_some_and(halted), ..rotation.clone() };
        tx.at(owner, name)
            .col_expr(C::WrappedKey, Expr::value(sealed.wrapped_key))
            .col_expr(C::Value, Expr::value(sealed.value))
            .col_expr(C::ValueId, Expr::value(id))
            .col_expr(C::PreviousId, Expr::value(row.value_id))
            .col_expr(C::PreviousKey, Expr::value(Some(row.wrapped_key)))
            .col_expr(C::PreviousValue, Expr::value(Some(row.value)))
            .col_expr(C::Version, Expr::value(row.version + 1))
            .col_expr(C::Rotation, Expr::value(Some(to_json(&rotation)?)))
            .col_expr(C::UpdatedAt, Expr::value(tx.now.as_millis()))
            .exec(tx.on())
            .await
            .map_err(db)?;
        let told = match value {
            Some(_) => format!("secret '{name}' has a new value, which goes to those that use it"),
            None => {
                format!("secret '{name}' has its value from before again, which goes to those that use it")
            }
        };
        tx.secret_written(granted, owner, &NewEvent::info("secret-rotated", told)).await?;
        let row = tx.lock_secret(owner, name).await?.ok_or_else(|| Error::not_found("secret", name))?;
        tx.commit().await?;
        info(&row)
    }

    /// The secrets with a rotation that is not over; for the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn rotating_secrets(&self, context: &Context) -> Result<Vec<(SecretOwner, SecretInfo)>> {
        server_only(context, "rotations")?;
        let rows = secret::Entity::find()
            .filter(secret::Column::Rotation.is_not_null())
            .order_by_asc(secret::Column::Name)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.iter().map(|row| Ok((whose(row)?.0, info(row)?))).collect()
    }

    /// Writes down where a rotation is, when it is still the one of this version; with none it is
    /// over, and the value before is forgotten. Says whether it was.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn move_rotation(
        &self,
        context: &Context,
        owner: &SecretOwner,
        seen: &SecretInfo,
        to: Option<&SecretRotation>,
    ) -> Result<bool> {
        use secret::Column as C;
        server_only(context, "rotations")?;
        let mut tx = Tx::begin(&self.0).await?;
        let present = tx.lock_secret(owner, &seen.name).await?;
        let Some(present) = present.filter(|row| row.version == seen.version) else { return Ok(false) };
        if info(&present)?.rotation != seen.rotation {
            return Ok(false);
        }
        let mut update =
            tx.at(owner, &seen.name).col_expr(C::Rotation, Expr::value(to.map(to_json).transpose()?));
        if to.is_none() {
            update = update
                .col_expr(C::PreviousKey, Expr::value(Option::<String>::None))
                .col_expr(C::PreviousValue, Expr::value(Option::<String>::None));
        }
        update.exec(tx.on()).await.map_err(db)?;
        let name = &seen.name;
        let event = match to {
            None => {
                NewEvent::info("secret-rotated", format!("the value before of secret '{name}' is forgotten"))
            }
            Some(to) if to.stage == RotationStage::Halted => NewEvent::warning(
                "secret-halted",
                format!(
                    "the new value of secret '{name}' goes to no more instances: {}",
                    to.error.as_deref().unwrap_or("it was halted")
                ),
            ),
            Some(_) => NewEvent::info(
                "secret-rotated",
                format!("all instances that are up have the new value of secret '{name}'"),
            ),
        };
        tx.event(owner.authority().as_str(), owner.instance(), &event)?;
        tx.commit().await?;
        Ok(true)
    }
}

impl Tx {
    async fn lock_secret(&self, owner: &SecretOwner, name: &SecretName) -> Result<Option<secret::Model>> {
        secret::Entity::find_by_id(key_of(owner, name)).lock_exclusive().one(self.on()).await.map_err(db)
    }

    fn at(&self, owner: &SecretOwner, name: &SecretName) -> sea_orm::UpdateMany<secret::Entity> {
        let (tenant, place, name) = key_of(owner, name);
        secret::Entity::update_many()
            .filter(secret::Column::Tenant.eq(tenant))
            .filter(secret::Column::Instance.eq(place))
            .filter(secret::Column::Name.eq(name))
    }
}
