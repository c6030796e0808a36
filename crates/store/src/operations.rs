//! Operations: begun with the change that somebody waits for, ended with the one that
//! reached it.

use clawfarm_model::error::ErrorReport;
use clawfarm_model::fence::Fence;
use clawfarm_model::operation::Step;
use clawfarm_model::{ClawId, Context, Error, Operation, OperationKind, OperationState, Result};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};
use tokio::sync::watch;

use crate::convert::{from_json, from_word, name, time, to_json, to_word};
use crate::entity::operation;
use crate::error::db;
use crate::guard::{server_only, visible};
use crate::page::{Page, PageRequest, Place, page};
use crate::store::Store;
use crate::tx::Tx;

const LIST: &str = "operations";

/// An operation that is to begin. It gets its id from the store, and the generation that the
/// instance has after the change it begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOperation {
    /// What is asked for.
    pub kind: OperationKind,
    /// The steps that are known already.
    pub steps: Vec<Step>,
}

impl NewOperation {
    /// An operation whose steps are not known yet.
    #[must_use]
    pub const fn new(kind: OperationKind) -> Self {
        Self { kind, steps: Vec::new() }
    }
}

/// How an operation ended. One that ended before is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationEnd {
    /// Which; it must be of the instance that is being changed.
    pub id: String,
    /// How; not [`OperationState::Running`].
    pub state: OperationState,
    /// Why, when it failed.
    pub error: Option<ErrorReport>,
    /// Its steps as they ended, where they are newer than those stored.
    pub steps: Option<Vec<Step>>,
}

impl OperationEnd {
    /// It was reached.
    pub fn succeeded(id: impl Into<String>) -> Self {
        Self { id: id.into(), state: OperationState::Succeeded, error: None, steps: None }
    }

    /// It was not reached.
    pub fn failed(id: impl Into<String>, error: ErrorReport) -> Self {
        Self { id: id.into(), state: OperationState::Failed, error: Some(error), steps: None }
    }
}

impl Store {
    /// One operation.
    ///
    /// # Errors
    /// `NotFound` when there is none or it is another tenant's.
    pub async fn operation(&self, context: &Context, id: &str) -> Result<Operation> {
        let row = visible(operation::Entity::find_by_id(id), context, operation::Column::Tenant)
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        read(row.ok_or_else(|| Error::not_found("operation", shown(id)))?)
    }

    /// Operations, newest first, of one instance or of all.
    ///
    /// # Errors
    /// When the cursor or limit is wrong, or the database fails.
    pub async fn operations(
        &self,
        context: &Context,
        instance: Option<&ClawId>,
        request: &PageRequest,
    ) -> Result<Page<Operation>> {
        use operation::Column as C;
        let limit = request.rows()?;
        let mut query = visible(operation::Entity::find(), context, C::Tenant)
            .order_by_desc(C::CreatedAt)
            .order_by_desc(C::Id)
            .limit(limit as u64 + 1);
        if let Some(instance) = instance {
            query = query.filter(C::Instance.eq(instance.as_str()));
        }
        if let Some(place) = request.place(LIST)? {
            query = query.filter(place.before(C::CreatedAt, C::Id));
        }
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        page(rows, limit, LIST, |row| Place { at: row.created_at, id: row.id.clone() }, read)
    }

    /// The operation that is under way on an instance: one at most, for beginning another
    /// supersedes it.
    ///
    /// # Errors
    /// When the database fails. An instance that is not seen has none.
    pub async fn running_operation(&self, context: &Context, instance: &ClawId) -> Result<Option<Operation>> {
        use operation::Column as C;
        let row = visible(operation::Entity::find(), context, C::Tenant)
            .filter(C::Instance.eq(instance.as_str()))
            .filter(C::State.eq(to_word(&OperationState::Running)?))
            .order_by_desc(C::CreatedAt)
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        row.map(read).transpose()
    }

    /// Changes whenever the operation of this id did, by whichever server on this database.
    /// To be taken before the operation is read, so that no change falls between the two.
    #[must_use]
    pub fn watch_operation(&self, id: &str) -> watch::Receiver<()> {
        self.0.signals.operation(id)
    }

    /// Writes how far an operation is, and tells who waits for it; for the server's own tasks.
    /// One that ended is left as it is.
    ///
    /// # Errors
    /// When the context is a tenant's, the lease of `fence` is another server's by now, or the
    /// database fails.
    pub async fn set_operation_steps(
        &self,
        context: &Context,
        id: &str,
        steps: &[Step],
        fence: Option<&Fence>,
    ) -> Result<()> {
        use operation::Column as C;
        server_only(context, "progress of an operation")?;
        let mut tx = Tx::begin(&self.0).await?;
        tx.check_fence(fence).await?;
        let written = operation::Entity::update_many()
            .col_expr(C::Steps, Expr::value(to_json(&steps)?))
            .col_expr(C::UpdatedAt, Expr::value(tx.now.as_millis()))
            .filter(C::Id.eq(id))
            .filter(C::State.eq(to_word(&OperationState::Running)?))
            .exec(tx.on())
            .await
            .map_err(db)?;
        if written.rows_affected == 0 {
            return Ok(());
        }
        tx.operation_changed(id);
        tx.commit().await
    }
}

impl Tx {
    /// Begins an operation on an instance in place of those that run.
    pub(crate) async fn begin_operation(
        &mut self,
        tenant: &str,
        instance: &ClawId,
        generation: i64,
        new: NewOperation,
    ) -> Result<Operation> {
        self.end_running(instance, OperationState::Superseded, None).await?;
        let operation = Operation {
            id: new_id()?,
            kind: new.kind,
            instance: Some(instance.clone()),
            generation,
            state: OperationState::Running,
            steps: new.steps,
            error: None,
            created_at: self.now,
            updated_at: self.now,
            ended_at: None,
        };
        let row = operation::Model {
            id: operation.id.clone(),
            tenant: tenant.to_owned(),
            instance: Some(instance.as_str().to_owned()),
            kind: to_word(&operation.kind)?,
            generation,
            state: to_word(&operation.state)?,
            steps: to_json(&operation.steps)?,
            error: None,
            created_at: self.now.as_millis(),
            updated_at: self.now.as_millis(),
            ended_at: None,
        };
        operation::Entity::insert(row.into_active_model())
            .exec_without_returning(self.on())
            .await
            .map_err(db)?;
        self.operation_changed(&operation.id);
        Ok(operation)
    }

    /// Ends one operation of an instance.
    pub(crate) async fn end_operation(&mut self, instance: &ClawId, end: &OperationEnd) -> Result<()> {
        if !end.state.ended() {
            return Err(Error::internal("an operation can't end as 'running'", end.id.as_str()));
        }
        if let Some(steps) = &end.steps {
            operation::Entity::update_many()
                .col_expr(operation::Column::Steps, Expr::value(to_json(steps)?))
                .filter(operation::Column::Id.eq(end.id.as_str()))
                .filter(operation::Column::Instance.eq(instance.as_str()))
                .filter(operation::Column::State.eq(to_word(&OperationState::Running)?))
                .exec(self.on())
                .await
                .map_err(db)?;
        }
        self.end_where(
            instance,
            Condition::all().add(operation::Column::Id.eq(end.id.as_str())),
            end.state,
            end.error.as_ref(),
        )
        .await
    }

    /// Ends whichever operations run on an instance, of one kind or of all.
    pub(crate) async fn end_running(
        &mut self,
        instance: &ClawId,
        state: OperationState,
        kind: Option<OperationKind>,
    ) -> Result<()> {
        let mut which = Condition::all();
        if let Some(kind) = kind {
            which = which.add(operation::Column::Kind.eq(to_word(&kind)?));
        }
        self.end_where(instance, which, state, None).await
    }

    async fn end_where(
        &mut self,
        instance: &ClawId,
        which: Condition,
        state: OperationState,
        error: Option<&ErrorReport>,
    ) -> Result<()> {
        use operation::Column as C;
        let running: Vec<String> = operation::Entity::find()
            .select_only()
            .column(C::Id)
            .filter(which)
            .filter(C::Instance.eq(instance.as_str()))
            .filter(C::State.eq(to_word(&OperationState::Running)?))
            .into_tuple()
            .all(self.on())
            .await
            .map_err(db)?;
        if running.is_empty() {
            return Ok(());
        }
        operation::Entity::update_many()
            .col_expr(C::State, Expr::value(to_word(&state)?))
            .col_expr(C::Error, Expr::value(error.map(to_json).transpose()?))
            .col_expr(C::UpdatedAt, Expr::value(self.now.as_millis()))
            .col_expr(C::EndedAt, Expr::value(Some(self.now.as_millis())))
            .filter(C::Id.is_in(running.iter().map(String::as_str)))
            .filter(C::State.eq(to_word(&OperationState::Running)?))
            .exec(self.on())
            .await
            .map_err(db)?;
        for id in running {
            self.operation_changed(&id);
        }
        Ok(())
    }
}

/// 20 characters of 32: 100 random bits, not to be guessed and never met twice.
fn new_id() -> Result<String> {
    random_id("op-")
}

/// 100 random bits after a beginning that says what it is of.
pub(crate) fn random_id(begin: &str) -> Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal("the operating system gives no random bytes", e.to_string()))?;
    let mut id = begin.to_owned();
    id.extend(bytes.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])));
    Ok(id)
}

fn shown(id: &str) -> String {
    id.chars().take(60).flat_map(char::escape_default).collect()
}

fn read(row: operation::Model) -> Result<Operation> {
    let id = row.id.as_str();
    Ok(Operation {
        kind: from_word("operation", id, &row.kind)?,
        instance: row.instance.as_deref().map(|text| name("operation", id, text)).transpose()?,
        generation: row.generation,
        state: from_word("operation", id, &row.state)?,
        steps: from_json("operation", id, &row.steps)?,
        error: row.error.as_deref().map(|text| from_json("operation", id, text)).transpose()?,
        created_at: time(row.created_at),
        updated_at: time(row.updated_at),
        ended_at: row.ended_at.map(time),
        id: row.id,
    })
}
