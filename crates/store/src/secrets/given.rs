//! Which values of secrets each claw was given: by stamps, which tell nothing of the values.

use std::collections::BTreeMap;

use clawfarm_model::fence::Fence;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{ClawId, Context, Instance, Phase, Result};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder};

use crate::convert::{from_json, name, to_json};
use crate::entity::{given_secret, instance};
use crate::error::db;
use crate::guard::server_only;
use crate::store::Store;
use crate::tx::Tx;

/// So many are asked for at once: databases limit the parameters of a query.
const CHUNK: usize = 500;

/// What a claw was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The run that was given it.
    pub run: i64,
    /// The stamps of the values, by the secrets' names.
    pub stamps: BTreeMap<SecretName, String>,
}

impl Store {
    /// Writes down what a claw is about to be given.
    ///
    /// # Errors
    /// One that [`is_fenced`](clawfarm_model::is_fenced) when the lease is another server's by
    /// now; when the context is a tenant's, or the database fails.
    pub async fn note_given(
        &self,
        context: &Context,
        fence: Option<&Fence>,
        id: &ClawId,
        given: &Given,
    ) -> Result<()> {
        use given_secret::Column as C;
        server_only(context, "what claws were given")?;
        let row = given_secret::Model {
            instance: id.as_str().to_owned(),
            run: given.run,
            secrets: to_json(&given.stamps)?,
        };
        let over = OnConflict::column(C::Instance).update_columns([C::Run, C::Secrets]).to_owned();
        let tx = Tx::begin(&self.0).await?;
        tx.check_fence(fence).await?;
        given_secret::Entity::insert(row.into_active_model())
            .on_conflict(over)
            .exec_without_returning(tx.on())
            .await
            .map_err(db)?;
        tx.commit().await
    }

    /// What these claws were given; one that was given nothing is not in it.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn given(&self, context: &Context, ids: &[&ClawId]) -> Result<BTreeMap<ClawId, Given>> {
        server_only(context, "what claws were given")?;
        let mut all = BTreeMap::new();
        for chunk in ids.chunks(CHUNK) {
            let rows = given_secret::Entity::find()
                .filter(given_secret::Column::Instance.is_in(chunk.iter().map(|id| id.as_str())))
                .all(&self.0.reader)
                .await
                .map_err(db)?;
            for row in rows {
                let stamps = from_json("instance", &row.instance, &row.secrets)?;
                all.insert(name("instance", &row.instance, &row.instance)?, Given { run: row.run, stamps });
            }
        }
        Ok(all)
    }

    /// The instances that see a secret of this owner and that may be configured with one of this
    /// name: what they are configured with decides. For the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn instances_naming(
        &self,
        context: &Context,
        owner: &SecretOwner,
        secret: &SecretName,
    ) -> Result<Vec<Instance>> {
        use instance::Column as C;
        server_only(context, "the instances that use a secret")?;
        let mut query = instance::Entity::find()
            .filter(C::Phase.ne(Phase::Destroyed.as_str()))
            // No name has a character that JSON would write otherwise; '_' stands for any here, so
            // that one too many may be found.
            .filter(C::Spec.like(format!("%\"{secret}\"%")))
            .order_by_asc(C::Id);
        query = match owner {
            SecretOwner::Global => query,
            SecretOwner::Tenant(tenant) => query.filter(C::Tenant.eq(tenant.as_str())),
            SecretOwner::Project(tenant, project) => {
                query.filter(C::Tenant.eq(tenant.as_str())).filter(C::Project.eq(project.as_str()))
            }
            SecretOwner::Instance(tenant, id) => {
                query.filter(C::Tenant.eq(tenant.as_str())).filter(C::Id.eq(id.as_str()))
            }
        };
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        rows.iter().map(crate::instances::row::from_row).collect()
    }
}

impl Tx {
    /// Forgets what an instance that is no more was given.
    pub(crate) async fn forget_given_secrets(&self, id: &ClawId) -> Result<()> {
        given_secret::Entity::delete_by_id(id.as_str()).exec(self.on()).await.map_err(db)?;
        Ok(())
    }
}
