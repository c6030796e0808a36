//! Putting back what a lost store knew: instances and datasets that their targets still have.

use clawfarm_model::dataset::Dataset;
use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{Action, Code, Error, Granted, Instance, ObservedState, Result};
use sea_orm::EntityTrait;
use secrecy::SecretString;

use crate::audit::Outcome;
use crate::entity::instance;
use crate::error::db;
use crate::guard::{about, fits, server_only};
use crate::store::Store;
use crate::tx::{Tries, Tx};

/// An instance that is there and that the store does not know.
#[derive(Debug)]
pub struct Recovered {
    /// All that is known of it. Its version is set by the store.
    pub instance: Instance,
    /// What there is to tell of it.
    pub event: NewEvent,
    /// Keys of its own that could be read back.
    pub secrets: Vec<(SecretName, SecretString)>,
}

impl Store {
    /// Writes an instance as it was, with its tenant and project where they are missing, its
    /// keys, the event and an audit entry, in one transaction. No operation is begun: nobody
    /// waits for one. The leave must be one of the server's own tasks for
    /// [`Action::InstanceCreate`] on this `instance`.
    ///
    /// # Errors
    /// `Conflict` on the field `id` when the store knows the id, also of a removed instance, or
    /// on `port` when it is taken on this target; `InvalidInput` on `target` when there is no
    /// such target.
    pub async fn recover_instance(&self, granted: &Granted, new: &Recovered) -> Result<Instance> {
        fits(granted, &[Action::InstanceCreate], "instance")?;
        server_only(granted.context(), "recovering an instance")?;
        about(granted, new.instance.tenant.as_str(), "instance", new.instance.id.as_str())?;
        let mut tries = Tries::default();
        loop {
            match self.try_recover(granted, new).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_recover(&self, granted: &Granted, new: &Recovered) -> Result<Instance> {
        let mut tx = Tx::begin(&self.0).await?;
        let mut instance = new.instance.clone();
        instance.version = 1;
        instance.updated_at = tx.now;
        let tenant = instance.tenant.as_str();
        // Asked before: of an id and a port that are both taken, the database names either.
        let there = instance::Entity::find_by_id(instance.id.as_str()).one(tx.on()).await.map_err(db)?;
        if there.is_some() {
            return Err(known(&instance));
        }
        tx.project(tenant, instance.project.as_str()).await?;
        tx.insert_instance(&instance).await.map_err(|error| {
            if error.field_name() == Some("id") { known(&instance).source(error) } else { error }
        })?;
        if let Some(dataset) = instance.spec.dataset.as_ref().filter(|_| !has_run(&instance)) {
            tx.bind_dataset(dataset, &instance).await?;
        }
        let owner = SecretOwner::Instance(instance.tenant.clone(), instance.id.clone());
        for (name, value) in &new.secrets {
            tx.put_secret(&owner, name, value).await?;
        }
        tx.event(tenant, Some(&instance.id), &new.event)?;
        tx.audit(granted, Outcome::Done, &format!("recovered {}", instance.id)).await?;
        tx.commit().await?;
        Ok(instance)
    }

    /// Lists a dataset again, with its tenant and project where they are missing; one that is
    /// listed, or was given to an instance, stays as it is. Says whether it was missing. The
    /// leave must be one of the server's own tasks for [`Action::InstanceCreate`] on this
    /// `dataset`.
    ///
    /// # Errors
    /// When the leave is for something else, or the database fails.
    pub async fn recover_dataset(&self, granted: &Granted, dataset: &Dataset) -> Result<bool> {
        fits(granted, &[Action::InstanceCreate], "dataset")?;
        server_only(granted.context(), "recovering a dataset")?;
        about(granted, dataset.tenant.as_str(), "dataset", dataset.id.as_str())?;
        let tx = Tx::begin(&self.0).await?;
        if tx.has_dataset(&dataset.id).await? {
            return Ok(false);
        }
        tx.project(dataset.tenant.as_str(), dataset.project.as_str()).await?;
        tx.put_dataset(dataset).await?;
        tx.audit(granted, Outcome::Done, "recovered").await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Whether it ran: then the data it was given is its own.
fn has_run(instance: &Instance) -> bool {
    instance
        .observed
        .as_ref()
        .is_some_and(|o| o.run > 0 || o.state.is_up() || o.state == ObservedState::Exited)
}

fn known(instance: &Instance) -> Error {
    Error::new(Code::Conflict, format!("the store knows '{}' already", instance.id))
        .field("id")
        .fix("nothing has to be recovered of it")
}
