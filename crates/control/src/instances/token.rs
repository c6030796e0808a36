//! An instance's gateway token, for its owner.

use clawfarm_model::event::NewEvent;
use clawfarm_model::{Action, Code, Context, Error, Instance, OperationKind, Result};
use clawfarm_store::{Changes, NewOperation, Outcome};
use secrecy::SecretString;

use crate::core::may;
use crate::instances::is_bare;
use crate::instances::software::refuse_if_updating;
use crate::keys::{GATEWAY_TOKEN, MODEL_KEY, new_key, same};
use crate::{Accepted, Control};

/// A gateway token and where to use it.
pub struct GatewayToken {
    /// The token. Whoever has it controls the claw.
    pub token: SecretString,
    /// The dashboard's address, with a ticket that signs a browser in once and within a minute;
    /// that of its gateway where no edge listens.
    pub dashboard_url: String,
}

impl Control {
    /// The gateway token. Audited, and told in the instance's events.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance.
    pub async fn reveal_token(&self, context: &Context, id: &str) -> Result<GatewayToken> {
        let instance = self.core.find(context, id).await?;
        let grant = may(context, Action::TokenReveal, &instance)?;
        // Written before it is shown: what can't be audited is not shown.
        self.core.store.record_audit(&grant, Outcome::Done, "revealed").await?;
        let told = NewEvent::info("token-revealed", "its gateway token was revealed");
        self.core.store.record_event(&grant, &told).await?;
        let token = self.core.key(&instance, GATEWAY_TOKEN).await?;
        let dashboard_url = match self.core.doors.get() {
            Some(doors) => doors.open(&self.entrance_of(instance).await?)?,
            None => base_url(&instance)?,
        };
        Ok(GatewayToken { token, dashboard_url })
    }

    /// A new gateway token; the instance is started again with it, if it is up.
    ///
    /// # Errors
    /// `Conflict` when it is being removed.
    pub async fn rotate_token(&self, context: &Context, id: &str) -> Result<Accepted> {
        let instance = self.core.find(context, id).await?;
        let grant = may(context, Action::InstanceChange, &instance)?;
        // One transaction with the restart: a server that ended between the two would leave a
        // claw that nobody has the token of.
        let key = new_key(GATEWAY_TOKEN)?;
        let writing = self.core.store.update_instance(&grant, &instance.id, None, |it| {
            refuse_if_updating(it)?;
            it.intent.generation += 1;
            // Nothing in a bare machine has it: only who is let in at its address is asked for it.
            if !is_bare(&it.spec) {
                it.intent.run += 1;
            }
            Ok(Changes {
                events: vec![NewEvent::info("token-rotated", "it has a new gateway token")],
                begin: Some(NewOperation::new(OperationKind::Restart)),
                keys: vec![key].into(),
                ..Changes::default()
            })
        });
        let (instance, operation) = self.core.wishing(&instance.id, Box::pin(writing)).await?;
        let operation =
            operation.ok_or_else(|| Error::new(Code::Internal, "the store began no operation"))?;
        Ok(Accepted { instance, operation, warnings: Vec::new(), replayed: false })
    }

    /// The dashboard's address, without the token.
    ///
    /// # Errors
    /// `Conflict` when it has no address.
    pub async fn dashboard_url(&self, context: &Context, id: &str) -> Result<String> {
        let instance = self.core.find(context, id).await?;
        match self.core.doors.get() {
            Some(doors) => Ok(doors.address(&instance.id)),
            None => base_url(&instance),
        }
    }

    /// Whether `key` is the one with which `instance` uses clawfarm's own model endpoint.
    pub async fn check_model_key(&self, instance: &clawfarm_model::ClawId, key: &str) -> bool {
        let system = Context::system("model-key");
        let Ok(instance) = self.core.store.instance(&system, instance).await else { return false };
        self.core.key(&instance, MODEL_KEY).await.is_ok_and(|known| same(&known, key))
    }
}

fn base_url(instance: &Instance) -> Result<String> {
    instance.port.map(|port| format!("http://127.0.0.1:{port}/")).ok_or_else(|| {
        Error::new(Code::Conflict, format!("'{}' has no address", instance.id)).fix("it is being removed")
    })
}
