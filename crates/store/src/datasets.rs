//! Datasets: listed while they are free, bound to the instance they were given to until
//! their data has become that instance's own.

use clawfarm_model::dataset::Dataset;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{Action, ClawId, Context, Error, Granted, Instance, Result};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};

use crate::audit::Outcome;
use crate::convert::{name, number, time};
use crate::entity::dataset;
use crate::error::db;
use crate::guard::{about, fits, visible};
use crate::page::{Page, PageRequest, Place, page};
use crate::store::Store;
use crate::tx::Tx;

const LIST: &str = "datasets";

impl Store {
    /// Datasets that nobody uses, oldest first.
    ///
    /// # Errors
    /// When the cursor or limit is wrong, or the database fails.
    pub async fn datasets(&self, context: &Context, request: &PageRequest) -> Result<Page<Dataset>> {
        use dataset::Column as C;
        let limit = request.rows()?;
        let mut query = visible(dataset::Entity::find(), context, C::Tenant)
            .filter(C::TakenBy.is_null())
            .order_by_asc(C::CreatedAt)
            .order_by_asc(C::Id)
            .limit(limit as u64 + 1);
        if let Some(place) = request.place(LIST)? {
            query = query.filter(place.after(C::CreatedAt, C::Id));
        }
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        page(rows, limit, LIST, |row| Place { at: row.created_at, id: row.id.clone() }, read)
    }

    /// One dataset that nobody uses.
    ///
    /// # Errors
    /// `NotFound` when there is none, it was given to an instance, or it is another tenant's.
    pub async fn dataset(&self, context: &Context, id: &ClawId) -> Result<Dataset> {
        let row = visible(dataset::Entity::find_by_id(id.as_str()), context, dataset::Column::Tenant)
            .filter(dataset::Column::TakenBy.is_null())
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        read(row.ok_or_else(|| Error::not_found("dataset", id))?)
    }

    /// The dataset that an instance was given and that is not its own data yet. It stays known
    /// until the instance first runs, so that one which comes to nothing gives it back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn dataset_given_to(&self, context: &Context, instance: &ClawId) -> Result<Option<Dataset>> {
        let row = visible(dataset::Entity::find(), context, dataset::Column::Tenant)
            .filter(dataset::Column::TakenBy.eq(instance.as_str()))
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        row.map(read).transpose()
    }

    /// Forgets a dataset that nobody uses, after its data was removed.
    ///
    /// # Errors
    /// `NotFound` as for [`Store::dataset`]; `Forbidden` when the leave is not for
    /// [`Action::DataPurge`] on this `dataset`.
    pub async fn remove_dataset(&self, granted: &Granted, id: &ClawId) -> Result<Dataset> {
        fits(granted, &[Action::DataPurge], "dataset")?;
        let mut tx = Tx::begin(&self.0).await?;
        let row = tx.free_dataset(granted.resource().tenant.as_str(), id).await?;
        about(granted, &row.tenant, "dataset", &row.id)?;
        dataset::Entity::delete_by_id(id.as_str()).exec(tx.on()).await.map_err(db)?;
        let event = NewEvent::info("dataset-removed", format!("dataset '{id}' was removed"));
        tx.event(&row.tenant, Some(id), &event)?;
        tx.audit(granted, Outcome::Done, &event.message).await?;
        tx.commit().await?;
        read(row)
    }
}

impl Tx {
    async fn free_dataset(&self, tenant: &str, id: &ClawId) -> Result<dataset::Model> {
        dataset::Entity::find_by_id(id.as_str())
            .filter(dataset::Column::Tenant.eq(tenant))
            .filter(dataset::Column::TakenBy.is_null())
            .one(self.on())
            .await
            .map_err(db)?
            .ok_or_else(|| {
                Error::not_found("dataset", id)
                    .field("dataset")
                    .fix("list the free ones with 'clawfarm dataset ls'")
            })
    }

    /// Gives a dataset to a new instance. Two instances can't both get it: only a free one is
    /// given, and it is free no more.
    pub(crate) async fn give_dataset(&self, id: &ClawId, instance: &Instance) -> Result<()> {
        let row = self.free_dataset(instance.tenant.as_str(), id).await?;
        let refuse = |what: &str, has: &str, wanted: &str| {
            Err(Error::invalid(
                "dataset",
                format!("dataset '{id}' is of {what} '{has}', the new instance of '{wanted}'"),
            )
            .fix(format!("make the instance with {what} '{has}'")))
        };
        if row.claw_type != instance.spec.claw_type.as_str() {
            return refuse("claw type", &row.claw_type, instance.spec.claw_type.as_str());
        }
        if row.target != instance.spec.target.as_str() {
            return refuse("target", &row.target, instance.spec.target.as_str());
        }
        let given = dataset::Entity::update_many()
            .col_expr(dataset::Column::TakenBy, Expr::value(Some(instance.id.as_str())))
            .filter(dataset::Column::Id.eq(id.as_str()))
            .filter(dataset::Column::TakenBy.is_null())
            .exec(self.on())
            .await
            .map_err(db)?;
        if given.rows_affected == 1 { Ok(()) } else { Err(Error::not_found("dataset", id).field("dataset")) }
    }

    /// Binds a free dataset to an instance that was to be made from it, where it is listed.
    pub(crate) async fn bind_dataset(&self, id: &ClawId, instance: &Instance) -> Result<()> {
        dataset::Entity::update_many()
            .col_expr(dataset::Column::TakenBy, Expr::value(Some(instance.id.as_str())))
            .filter(dataset::Column::Id.eq(id.as_str()))
            .filter(dataset::Column::Tenant.eq(instance.tenant.as_str()))
            .filter(dataset::Column::TakenBy.is_null())
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Whether a dataset is listed, free or given.
    pub(crate) async fn has_dataset(&self, id: &ClawId) -> Result<bool> {
        Ok(dataset::Entity::find_by_id(id.as_str()).one(self.on()).await.map_err(db)?.is_some())
    }

    /// Lists what an instance left behind; again, when the step that does so is repeated.
    pub(crate) async fn put_dataset(&self, dataset: &Dataset) -> Result<()> {
        use dataset::Column as C;
        let row = dataset::Model {
            id: dataset.id.as_str().to_owned(),
            tenant: dataset.tenant.as_str().to_owned(),
            project: dataset.project.as_str().to_owned(),
            claw_type: dataset.claw_type.as_str().to_owned(),
            version: dataset.version.clone(),
            target: dataset.target.as_str().to_owned(),
            size_bytes: i64::try_from(dataset.size_bytes).unwrap_or(i64::MAX),
            created_at: dataset.created_at.as_millis(),
            taken_by: None,
        };
        let over = OnConflict::column(C::Id).update_columns([C::Version, C::SizeBytes]).to_owned();
        dataset::Entity::insert(row.into_active_model())
            .on_conflict(over)
            .exec_without_returning(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Lists the dataset again that an instance was given and never used.
    pub(crate) async fn free_given(&self, instance: &ClawId) -> Result<()> {
        dataset::Entity::update_many()
            .col_expr(dataset::Column::TakenBy, Expr::value(None::<String>))
            .filter(dataset::Column::TakenBy.eq(instance.as_str()))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Forgets the dataset an instance was given: its data became the instance's.
    pub(crate) async fn forget_given(&self, instance: &ClawId) -> Result<()> {
        dataset::Entity::delete_many()
            .filter(dataset::Column::TakenBy.eq(instance.as_str()))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }
}

fn read(row: dataset::Model) -> Result<Dataset> {
    let id = row.id.as_str();
    Ok(Dataset {
        id: name("dataset", id, id)?,
        tenant: name("dataset", id, &row.tenant)?,
        project: name("dataset", id, &row.project)?,
        claw_type: name("dataset", id, &row.claw_type)?,
        target: name("dataset", id, &row.target)?,
        size_bytes: number("dataset", id, row.size_bytes)?,
        created_at: time(row.created_at),
        version: row.version,
    })
}
