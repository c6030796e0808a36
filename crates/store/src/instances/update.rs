//! Changing an instance: read, change and write in one transaction.

use clawfarm_model::dataset::Dataset;
use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{
    Action, ClawId, Code, Desired, Error, Granted, Instance, ObservedState, Operation, OperationKind,
    OperationState, Phase, Result,
};
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter};
use secrecy::SecretString;

use super::room::Room;
use super::row::{from_row, to_row};
use super::write_error;
use crate::audit::Outcome;
use crate::configs::Turn;
use crate::entity::instance;
use crate::guard::{about, fits};
use crate::leases::check_about;
use crate::operations::{NewOperation, OperationEnd};
use crate::store::Store;
use crate::tx::{Tries, Tx};

/// What goes with a change of an instance, in the same transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What happened, in words.
    pub events: Vec<NewEvent>,
    /// An operation to begin; those that run on the instance are superseded by it.
    pub begin: Option<NewOperation>,
    /// Operations to end, before one is begun.
    pub end: Vec<OperationEnd>,
    /// The data it leaves behind, to be listed.
    pub dataset: Option<Dataset>,
    /// New values for secrets of its own.
    pub keys: NewKeys,
    /// Memory that must be there for it, where others may take it at the same moment.
    pub room: Option<Room>,
    /// The turn of a rollout that it is: without it, it is not made.
    pub turn: Option<Turn>,
}

/// Values of secrets that are written with a change.
#[derive(Clone, Debug, Default)]
pub struct NewKeys(Vec<(SecretName, SecretString)>);

impl From<Vec<(SecretName, SecretString)>> for NewKeys {
    fn from(keys: Vec<(SecretName, SecretString)>) -> Self {
        Self(keys)
    }
}

/// By name: values are not to be compared.
impl PartialEq for NewKeys {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(|(name, _)| name).eq(other.0.iter().map(|(name, _)| name))
    }
}

impl Eq for NewKeys {}

impl Changes {
    /// Nothing but the change itself.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// One event.
    #[must_use]
    pub fn event(event: NewEvent) -> Self {
        Self { events: vec![event], ..Self::default() }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What the audit entry says.
    fn told(&self) -> String {
        let kind = self.begin.as_ref().map(|o| o.kind.as_str().to_owned());
        kind.or_else(|| self.events.first().map(|e| e.message.clone()))
            .unwrap_or_else(|| "changed".to_owned())
    }
}

impl Store {
    /// Reads an instance, lets `change` change it, and writes it if it did, with the events,
    /// operations and (unless the server only observed) an audit entry. An error of `change`
    /// changes nothing.
    ///
    /// When it becomes destroyed, its port is freed and its secrets are removed, and whatever
    /// operation still runs on it ends.
    ///
    /// # Errors
    /// `NotFound` when there is none or it is another tenant's than the leave's; `Gone` when it
    /// was destroyed; `PreconditionFailed` when `expect_version` is not its version;
    /// `Forbidden` when the leave does not cover what was changed; one that
    /// [`is_fenced`](clawfarm_model::is_fenced) when it is bound to a lease that is another
    /// server's by now; `Insufficient` without room; `Conflict` on the fields
    /// `port`, and `rollout` when it is not its turn any more; and whatever `change` returns.
    pub async fn update_instance<F>(
        &self,
        granted: &Granted,
        id: &ClawId,
        expect_version: Option<i64>,
        change: F,
    ) -> Result<(Instance, Option<Operation>)>
    where
        F: FnOnce(&mut Instance) -> Result<Changes> + Send,
    {
        fits(
            granted,
            &[Action::InstanceChange, Action::InstanceRemove, Action::DataPurge, Action::Observe],
            "instance",
        )?;
        let mut change = Change::Wanted(change);
        let mut tries = Tries::default();
        loop {
            match self.try_update(granted, id, expect_version, &mut change).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_update<F>(
        &self,
        granted: &Granted,
        id: &ClawId,
        expect_version: Option<i64>,
        change: &mut Change<F>,
    ) -> Result<(Instance, Option<Operation>)>
    where
        F: FnOnce(&mut Instance) -> Result<Changes> + Send,
    {
        let mut tx = Tx::begin(&self.0).await?;
        let row = tx.instance(id.as_str()).await?;
        about(granted, &row.tenant, "instance", id.as_str())?;
        let before = from_row(&row)?;
        check_about(granted.fence(), id, &before.spec.target)?;
        tx.check_fence(granted.fence()).await?;
        check_state(&before, expect_version)?;
        let (mut after, changes) = change.made(&before)?;
        check_leave(granted.action(), &before, &after, &changes)?;
        if after == before && changes.is_empty() {
            return Ok((after, None));
        }
        tx.check_room(changes.room.as_ref()).await?;
        tx.check_turn(id, changes.turn.as_ref()).await?;
        if after != before {
            tx.check_layers(Some(&before.layers), &after).await?;
            tx.write_instance(&before, &mut after).await?;
        }
        if has_run(&after) && !has_run(&before) {
            tx.forget_given(&after.id).await?;
        }
        let operation = tx.write_changes(&after, &changes).await?;
        if granted.action() != Action::Observe {
            tx.audit(granted, Outcome::Done, &changes.told()).await?;
        }
        tx.commit().await?;
        Ok((after, operation))
    }
}

/// A change that is asked for once, though the transaction may be tried again.
enum Change<F> {
    Wanted(F),
    Made(Box<(Instance, Instance, Changes)>),
    Refused,
}

impl<F: FnOnce(&mut Instance) -> Result<Changes>> Change<F> {
    /// What it makes of `before`: when it was asked already, only if that was the same.
    fn made(&mut self, before: &Instance) -> Result<(Instance, Changes)> {
        match std::mem::replace(self, Self::Refused) {
            Self::Wanted(change) => {
                let mut after = before.clone();
                let changes = change(&mut after)?;
                *self = Self::Made(Box::new((before.clone(), after.clone(), changes.clone())));
                Ok((after, changes))
            }
            Self::Made(made) if made.0 == *before => {
                let answer = (made.1.clone(), made.2.clone());
                *self = Self::Made(made);
                Ok(answer)
            }
            Self::Made(_) | Self::Refused => Err(Error::new(
                Code::Unavailable,
                format!(
                    "the change of instance '{}' collided with others that were made at the same moment",
                    before.id
                ),
            )
            .fix("try again; nothing was changed")),
        }
    }
}

impl Tx {
    async fn write_instance(&mut self, before: &Instance, after: &mut Instance) -> Result<()> {
        after.version = before.version + 1;
        after.updated_at = self.now;
        if after.phase == Phase::Destroyed {
            after.port = None;
        }
        let row = to_row(after)?;
        // The version once more: where reading did not lock the row, somebody may have been
        // faster.
        let written = instance::Entity::update_many()
            .set(row.into_active_model().reset_all())
            .filter(instance::Column::Id.eq(after.id.as_str()))
            .filter(instance::Column::Version.eq(before.version))
            .exec(self.on())
            .await
            .map_err(|e| write_error(e, after.id.as_str(), after.port, after.spec.target.as_str()))?;
        if written.rows_affected != 1 {
            return Err(changed_meanwhile(&after.id));
        }
        if after.spec.labels != before.spec.labels {
            self.put_labels(after).await?;
        }
        Ok(())
    }

    async fn write_changes(&mut self, after: &Instance, changes: &Changes) -> Result<Option<Operation>> {
        let tenant = after.tenant.as_str();
        for end in &changes.end {
            self.end_operation(&after.id, end).await?;
        }
        let operation = match &changes.begin {
            Some(new) => {
                Some(self.begin_operation(tenant, &after.id, after.intent.generation, new.clone()).await?)
            }
            None => None,
        };
        if let Some(dataset) = &changes.dataset {
            self.put_dataset(dataset).await?;
        }
        let owner = SecretOwner::Instance(after.tenant.clone(), after.id.clone());
        for (name, value) in &changes.keys.0 {
            self.put_secret(&owner, name, value).await?;
        }
        if after.phase == Phase::Destroyed {
            self.bury(after, changes.dataset.is_some()).await?;
        }
        for event in &changes.events {
            self.event(tenant, Some(&after.id), event)?;
        }
        Ok(operation)
    }

    /// What goes with an instance. Nobody will reconcile it again, so an operation left
    /// running would never end.
    async fn bury(&mut self, instance: &Instance, left_data: bool) -> Result<()> {
        self.remove_secrets_of(instance.tenant.as_str(), &instance.id).await?;
        self.forget_rest(&instance.id).await?;
        self.drop_messages_of(&instance.tenant, &instance.id).await?;
        if left_data {
            self.forget_given(&instance.id).await?;
        } else {
            // It left nothing, so the data it was given was not moved in: it is somebody's, and
            // must not vanish from the list with an instance that came to nothing.
            self.free_given(&instance.id).await?;
        }
        self.end_running(&instance.id, OperationState::Succeeded, Some(OperationKind::Remove)).await?;
        self.end_running(&instance.id, OperationState::Superseded, None).await
    }
}

fn check_state(before: &Instance, expect_version: Option<i64>) -> Result<()> {
    if before.phase == Phase::Destroyed {
        return Err(Error::new(Code::Gone, format!("instance '{}' was removed", before.id))
            .fix("make a new one with 'clawfarm new'"));
    }
    match expect_version {
        Some(expected) if expected != before.version => Err(Error::new(
            Code::PreconditionFailed,
            format!("instance '{}' is at version {}, not {expected}", before.id, before.version),
        )
        .field("If-Match")
        .fix("read it again and repeat the change on what it is now")),
        _ => Ok(()),
    }
}

/// Whether a runtime has seen it run: then the data it was given was moved in and is its own.
fn has_run(instance: &Instance) -> bool {
    instance.observed.as_ref().is_some_and(|o| o.state.is_up() || o.state == ObservedState::Exited)
}

/// Checks that what was changed is what the leave is for.
fn check_leave(action: Action, before: &Instance, after: &Instance, changes: &Changes) -> Result<()> {
    let fixed =
        (&before.id, &before.tenant, &before.project, &before.name, before.created_at, before.version)
            == (&after.id, &after.tenant, &after.project, &after.name, after.created_at, after.version);
    if !fixed {
        return Err(Error::internal(
            "an instance's id, names, creation and version never change",
            "in a change",
        ));
    }
    if let Some(dataset) = &changes.dataset
        && (&dataset.id, &dataset.tenant) != (&after.id, &after.tenant)
    {
        return Err(Error::internal("an instance leaves only its own data behind", dataset.id.as_str()));
    }
    let (old, new) = (&before.intent, &after.intent);
    let asked = before.spec != after.spec
        || (old.desired, old.generation, old.purge) != (new.desired, new.generation, new.purge);
    let refused = match action {
        // What is wanted is people's to say: an observation that changed it would undo a
        // request that came in meanwhile.
        Action::Observe if asked => "what is wanted of it",
        Action::InstanceChange if old.desired != Desired::Destroyed && new.desired == Desired::Destroyed => {
            "its removal"
        }
        Action::InstanceChange | Action::InstanceRemove if !old.purge && new.purge => "its data's removal",
        _ => return Ok(()),
    };
    Err(Error::new(
        Code::Forbidden,
        format!("leave to {} instance '{}' does not cover {refused}", action.as_str(), before.id),
    ))
}

fn changed_meanwhile(id: &ClawId) -> Error {
    Error::new(Code::Conflict, format!("instance '{id}' was changed by somebody else at the same moment"))
        .field("If-Match")
        .fix("try again")
}
