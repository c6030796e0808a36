//! Making an instance: its row, its secrets, the dataset it starts from, the operation that
//! somebody waits for, the event and the audit entry, in one transaction.

use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{Action, ClawId, Code, Error, Granted, Instance, Operation, OperationKind, Result};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter};
use secrecy::SecretString;

use super::room::Room;
use super::row::to_row;
use super::write_error;
use crate::audit::Outcome;
use crate::convert::name;
use crate::entity::{idempotency_key, instance, label};
use crate::error::{db, unique_violation};
use crate::guard::{fits, of_tenant};
use crate::operations::NewOperation;
use crate::store::Store;
use crate::tx::{Tries, Tx};

/// The longest idempotency key, in characters; a UUID has 36.
const MAX_KEY: usize = 128;

/// An instance that is to be made.
#[derive(Debug)]
pub struct NewInstance {
    /// All of it. Its version is set by the store.
    pub instance: Instance,
    /// What its creator waits for.
    pub operation: NewOperation,
    /// What happened, in words.
    pub events: Vec<NewEvent>,
    /// Makes a creation sent twice one creation.
    pub idempotency: Option<Idempotency>,
    /// Secrets of its own, such as its gateway token.
    pub secrets: Vec<(SecretName, SecretString)>,
    /// Memory that must be there, where others may take it at the same moment.
    pub room: Option<Room>,
}

impl NewInstance {
    /// An instance with a `create` operation and nothing else.
    #[must_use]
    pub const fn new(instance: Instance) -> Self {
        Self {
            instance,
            operation: NewOperation::new(OperationKind::Create),
            events: Vec::new(),
            idempotency: None,
            secrets: Vec::new(),
            room: None,
        }
    }
}

/// What tells one creation from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key, unique within the tenant.
    pub key: String,
    /// A hash of the request, kept as a code under the master key: the same key with another request is an error, not a replay.
    pub request_hash: String,
}

/// What came of a creation.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    /// It was made.
    New {
        /// As it was stored.
        instance: Box<Instance>,
        /// What its creator can wait for.
        operation: Operation,
    },
    /// The same request was here before; nothing was changed.
    Replayed {
        /// The instance it made.
        instance: ClawId,
        /// The operation it began.
        operation: String,
    },
}

impl Store {
    /// Makes an instance. The dataset that its spec names is given to it: it must be free, and
    /// of the same claw type and target. The leave must be for [`Action::InstanceCreate`] on an `instance` of
    /// its tenant.
    ///
    /// # Errors
    /// `Conflict` on the field `id` (draw another and call again), `port` (taken on this
    /// target), `template` (removed at the same moment) or `Idempotency-Key` (used for another
    /// request); `InvalidInput` on `project`,
    /// `target` or `dataset` when they are not there or do not fit; `Insufficient` without room.
    pub async fn create_instance(&self, granted: &Granted, mut new: NewInstance) -> Result<Created> {
        fits(granted, &[Action::InstanceCreate], "instance")?;
        of_tenant(granted, new.instance.tenant.as_str(), "instance", new.instance.id.as_str())?;
        new.idempotency = new.idempotency.map(|asked| self.keyed(&asked)).transpose()?;
        let mut tries = Tries::default();
        loop {
            match self.try_create(granted, &new).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    /// As it is kept: a request holds secrets, and by a plain hash of it whoever has a backup could
    /// try out what they are.
    pub(super) fn keyed(&self, asked: &Idempotency) -> Result<Idempotency> {
        let request_hash = self.0.keyring.keyed_hash("request hashes v1", &asked.request_hash)?;
        Ok(Idempotency { request_hash, ..asked.clone() })
    }

    async fn try_create(&self, granted: &Granted, new: &NewInstance) -> Result<Created> {
        let mut tx = Tx::begin(&self.0).await?;
        if let Some(idempotency) = &new.idempotency
            && let Some((instance, operation)) =
                replay(tx.on(), new.instance.tenant.as_str(), idempotency).await?
        {
            return Ok(Created::Replayed { instance, operation });
        }
        tx.check_room(new.room.as_ref()).await?;
        let mut instance = new.instance.clone();
        instance.version = 1;
        tx.check_layers(None, &instance).await?;
        tx.insert_instance(&instance).await?;
        if let Some(dataset) = &instance.spec.dataset {
            tx.give_dataset(dataset, &instance).await?;
        }
        let tenant = instance.tenant.as_str();
        let owner = SecretOwner::Instance(instance.tenant.clone(), instance.id.clone());
        for (name, value) in &new.secrets {
            tx.put_secret(&owner, name, value).await?;
        }
        let operation = tx
            .begin_operation(tenant, &instance.id, instance.intent.generation, new.operation.clone())
            .await?;
        for event in &new.events {
            tx.event(tenant, Some(&instance.id), event)?;
        }
        tx.audit(granted, Outcome::Done, &format!("created {}", instance.id)).await?;
        if let Some(idempotency) = &new.idempotency {
            tx.remember(tenant, idempotency, &instance.id, &operation.id).await?;
        }
        tx.commit().await?;
        Ok(Created::New { instance: Box::new(instance), operation })
    }
}

impl Tx {
    /// Writes the row of an instance, and its labels.
    pub(crate) async fn insert_instance(&self, instance: &Instance) -> Result<()> {
        let (tenant, project) = (instance.tenant.as_str(), instance.project.as_str());
        if !self.has_project(tenant, project).await? {
            return Err(Error::invalid("project", format!("tenant '{tenant}' has no project '{project}'"))
                .fix("give a project that exists, or none for 'default'"));
        }
        let target = instance.spec.target.as_str();
        if !self.has_target(target).await? {
            return Err(Error::invalid("target", format!("there is no target '{target}'"))
                .fix("list the targets with GET /api/v1/targets, or leave it out"));
        }
        instance::Entity::insert(to_row(instance)?.into_active_model())
            .exec_without_returning(self.on())
            .await
            .map_err(|e| write_error(e, instance.id.as_str(), instance.port, target))?;
        self.put_labels(instance).await
    }

    /// Writes the index of an instance's labels anew.
    pub(super) async fn put_labels(&self, instance: &Instance) -> Result<()> {
        label::Entity::delete_many()
            .filter(label::Column::Instance.eq(instance.id.as_str()))
            .exec(self.on())
            .await
            .map_err(db)?;
        let rows: Vec<_> = instance
            .spec
            .labels
            .iter()
            .map(|(name, value)| label::Model {
                instance: instance.id.as_str().to_owned(),
                name: name.clone(),
                value: value.clone(),
            })
            .map(IntoActiveModel::into_active_model)
            .collect();
        if !rows.is_empty() {
            label::Entity::insert_many(rows).exec_without_returning(self.on()).await.map_err(db)?;
        }
        Ok(())
    }

    async fn remember(
        &self,
        tenant: &str,
        idempotency: &Idempotency,
        id: &ClawId,
        operation: &str,
    ) -> Result<()> {
        let row = idempotency_key::Model {
            tenant: tenant.to_owned(),
            key: idempotency.key.clone(),
            request_hash: idempotency.request_hash.clone(),
            instance: id.as_str().to_owned(),
            operation: operation.to_owned(),
            created_at: self.now.as_millis(),
        };
        idempotency_key::Entity::insert(row.into_active_model())
            .exec_without_returning(self.on())
            .await
            .map_err(|e| {
                // Another one with the same key was faster, under PostgreSQL: asked again, it
                // is found.
                if unique_violation(&e).is_some() { used_key().source(e) } else { db(e) }
            })?;
        Ok(())
    }
}

/// What an earlier creation with this key made.
pub(super) async fn replay(
    on: &impl ConnectionTrait,
    tenant: &str,
    idempotency: &Idempotency,
) -> Result<Option<(ClawId, String)>> {
    check_key(&idempotency.key)?;
    let row = idempotency_key::Entity::find_by_id((tenant.to_owned(), idempotency.key.clone()))
        .one(on)
        .await
        .map_err(db)?;
    let Some(row) = row else { return Ok(None) };
    if row.request_hash != idempotency.request_hash {
        return Err(used_key());
    }
    let instance = name("instance", &row.instance, &row.instance)?;
    Ok(Some((instance, row.operation)))
}

fn check_key(key: &str) -> Result<()> {
    if (1..=MAX_KEY).contains(&key.len()) && key.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Error::invalid("Idempotency-Key", "it is no usable key")
        .fix(format!("give 1 to {MAX_KEY} visible ASCII characters, such as a UUID")))
}

fn used_key() -> Error {
    Error::new(Code::Conflict, "this Idempotency-Key was used for another request")
        .field("Idempotency-Key")
        .fix("use a new key for a new request, and the same key only to repeat the same one")
}
