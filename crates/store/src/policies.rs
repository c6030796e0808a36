//! What the server, tenants and projects say of sleep. An instance's own policy is in its
//! specification.

use clawfarm_model::event::NewEvent;
use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::{Action, Context, Error, Granted, Result, RuntimePolicy};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use crate::audit::Outcome;
use crate::convert::{from_json, to_json};
use crate::entity::policy;
use crate::error::db;
use crate::guard::{fits, of_tenant};
use crate::store::Store;
use crate::tx::{Tries, Tx};

/// Whose policy, beside those of instances.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyOf {
    /// The server's, for all tenants.
    Server,
    /// A tenant's.
    Tenant(TenantName),
    /// A project's.
    Project(TenantName, ProjectName),
}

impl PolicyOf {
    fn key(&self) -> (String, String) {
        match self {
            Self::Server => (String::new(), String::new()),
            Self::Tenant(tenant) => (tenant.to_string(), String::new()),
            Self::Project(tenant, project) => (tenant.to_string(), project.to_string()),
        }
    }

    fn from_key(tenant: &str, project: &str) -> Result<Self> {
        use crate::convert::name;
        Ok(match (tenant, project) {
            ("", _) => Self::Server,
            (tenant, "") => Self::Tenant(name("policy", tenant, tenant)?),
            (tenant, project) => {
                Self::Project(name("policy", tenant, tenant)?, name("policy", project, project)?)
            }
        })
    }
}

impl Store {
    /// Every policy that the context may know: those of its tenant and its projects, and the
    /// server's, which holds for everybody.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn policies(&self, context: &Context) -> Result<Vec<(PolicyOf, RuntimePolicy)>> {
        let mut query = policy::Entity::find();
        if let clawfarm_model::authz::Scope::Tenant(own) = context.scope() {
            query = query.filter(policy::Column::Tenant.is_in(["", own.as_str()]));
        }
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        let read = |row: policy::Model| {
            Ok((
                PolicyOf::from_key(&row.tenant, &row.project)?,
                from_json("policy", &row.tenant, &row.policy)?,
            ))
        };
        rows.into_iter().map(read).collect()
    }

    /// Changes one; an empty one is removed. The leave is for [`Action::PolicyWrite`], on the
    /// `policy` of that tenant (of the default tenant for the server's). An error of `change`
    /// changes nothing.
    ///
    /// # Errors
    /// `NotFound` for a project that there is not; when the leave is for something else, or the
    /// database fails; and whatever `change` returns.
    pub async fn change_policy(
        &self,
        granted: &Granted,
        of: &PolicyOf,
        change: impl Fn(&RuntimePolicy) -> Result<RuntimePolicy> + Send + Sync,
    ) -> Result<RuntimePolicy> {
        fits(granted, &[Action::PolicyWrite], "policy")?;
        let mut tries = Tries::default();
        loop {
            match self.try_change_policy(granted, of, &change).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_change_policy(
        &self,
        granted: &Granted,
        of: &PolicyOf,
        change: &(impl Fn(&RuntimePolicy) -> Result<RuntimePolicy> + Send + Sync),
    ) -> Result<RuntimePolicy> {
        use policy::Column as C;
        let (tenant, project) = of.key();
        if !matches!(of, PolicyOf::Server) {
            of_tenant(granted, &tenant, "policy", &tenant)?;
        }
        let mut tx = Tx::begin(&self.0).await?;
        if let PolicyOf::Project(..) = of
            && !tx.has_project(&tenant, &project).await?
        {
            return Err(Error::not_found("project", &project).field("project"));
        }
        let present =
            policy::Entity::find_by_id((tenant.clone(), project.clone())).one(tx.on()).await.map_err(db)?;
        let before: RuntimePolicy = match &present {
            Some(row) => from_json("policy", &tenant, &row.policy)?,
            None => RuntimePolicy::default(),
        };
        let after = change(&before)?;
        if after == before {
            return Ok(after);
        }
        if after.is_empty() {
            policy::Entity::delete_by_id((tenant.clone(), project.clone()))
                .exec(tx.on())
                .await
                .map_err(db)?;
        } else {
            let row = policy::ActiveModel {
                tenant: Set(tenant.clone()),
                project: Set(project.clone()),
                policy: Set(to_json(&after)?),
                updated_at: Set(tx.now.as_millis()),
            };
            let over = OnConflict::columns([C::Tenant, C::Project])
                .update_columns([C::Policy, C::UpdatedAt])
                .to_owned();
            policy::Entity::insert(row)
                .on_conflict(over)
                .exec_without_returning(tx.on())
                .await
                .map_err(db)?;
        }
        let whose = match of {
            PolicyOf::Server => "the server's".to_owned(),
            PolicyOf::Tenant(tenant) => format!("tenant {tenant}'s"),
            PolicyOf::Project(_, project) => format!("project {project}'s"),
        };
        let told = format!("{whose} sleep policy was changed to {}", to_json(&after)?);
        tx.event(granted.resource().tenant.as_str(), None, &NewEvent::info("policy", told.clone()))?;
        tx.audit(granted, Outcome::Done, &told).await?;
        tx.commit().await?;
        Ok(after)
    }
}
