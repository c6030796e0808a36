//! Tenants and their projects.

use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::{Action, Context, Granted, Result};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use crate::audit::Outcome;
use crate::convert::name;
use crate::entity::{project, tenant};
use crate::error::db;
use crate::guard::{fits, server_only, visible};
use crate::store::Store;
use crate::tx::Tx;

impl Store {
    /// The projects, with their tenants, in order of their names.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn projects(&self, context: &Context) -> Result<Vec<(TenantName, ProjectName)>> {
        let rows = visible(project::Entity::find(), context, project::Column::Tenant)
            .order_by_asc(project::Column::Tenant)
            .order_by_asc(project::Column::Name)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.iter()
            .map(|row| Ok((name("project", &row.name, &row.tenant)?, name("project", &row.name, &row.name)?)))
            .collect()
    }

    /// Makes a project of the tenant that the leave is for, and the tenant with it. One that
    /// is there stays as it is.
    ///
    /// # Errors
    /// When the leave is not one of the server's own tasks to [`Action::ServerAdmin`] the
    /// tenant, or the database fails.
    pub async fn add_project(&self, granted: &Granted, project: &ProjectName) -> Result<()> {
        fits(granted, &[Action::ServerAdmin], "tenant")?;
        server_only(granted.context(), "making a tenant")?;
        let tx = Tx::begin(&self.0).await?;
        if tx.project(granted.resource().tenant.as_str(), project.as_str()).await? {
            tx.audit(granted, Outcome::Done, &format!("made project {project}")).await?;
        }
        tx.commit().await
    }
}

impl Tx {
    /// Makes the project, and its tenant, unless they are there; says whether it was made.
    pub(crate) async fn project(&self, tenant: &str, project: &str) -> Result<bool> {
        if self.has_project(tenant, project).await? {
            return Ok(false);
        }
        let created_at = Set(self.now.as_millis());
        tenant::Entity::insert(tenant::ActiveModel {
            name: Set(tenant.to_owned()),
            created_at: created_at.clone(),
        })
        .on_conflict(OnConflict::column(tenant::Column::Name).do_nothing().to_owned())
        .try_insert()
        .exec_without_returning(self.on())
        .await
        .map_err(db)?;
        project::Entity::insert(project::ActiveModel {
            tenant: Set(tenant.to_owned()),
            name: Set(project.to_owned()),
            created_at,
        })
        // Where others write at the same moment, one of them makes it.
        .on_conflict(
            OnConflict::columns([project::Column::Tenant, project::Column::Name]).do_nothing().to_owned(),
        )
        .try_insert()
        .exec_without_returning(self.on())
        .await
        .map_err(db)?;
        Ok(true)
    }

    pub(crate) async fn has_project(&self, tenant: &str, project: &str) -> Result<bool> {
        let row = project::Entity::find()
            .filter(project::Column::Tenant.eq(tenant))
            .filter(project::Column::Name.eq(project))
            .one(self.on())
            .await
            .map_err(db)?;
        Ok(row.is_some())
    }
}
