//! How a claw is reached: its adapter, its token, and connections through its runtime.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_adapters::{Access, ClawAdapter, Connection, Dial};
use clawfarm_model::{ClawId, Code, Error, Instance, Result};
use clawfarm_runtime::Runtime;
use secrecy::SecretString;

use crate::core::Core;
use crate::keys::GATEWAY_TOKEN;
use crate::sharing::held::Hold;

/// How long opening a connection may take.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// All that is needed to speak with one claw.
pub(crate) struct Reach {
    adapter: Arc<dyn ClawAdapter>,
    token: SecretString,
    dial: RuntimeDial,
}

/// Connections to one claw.
pub(super) fn dial(core: &Core, instance: &Instance) -> Result<RuntimeDial> {
    dial_through(instance, core.runtime(&instance.spec.target)?)
}

fn dial_through(instance: &Instance, runtime: Arc<dyn Runtime>) -> Result<RuntimeDial> {
    let port = instance.port.ok_or_else(|| {
        Error::new(Code::Gone, format!("'{}' has no port", instance.id)).fix("it is being removed")
    })?;
    Ok(RuntimeDial { runtime, id: instance.id.clone(), port })
}

impl Reach {
    pub(crate) async fn new(core: &Core, instance: &Instance) -> Result<Self> {
        Self::through(core, instance, core.runtime(&instance.spec.target)?).await
    }

    /// For acts under a lease.
    pub(crate) async fn acting(core: &Core, hold: &Hold, instance: &Instance) -> Result<Self> {
        Self::through(core, instance, core.acting(hold, &instance.spec.target)?).await
    }

    async fn through(core: &Core, instance: &Instance, runtime: Arc<dyn Runtime>) -> Result<Self> {
        clawfarm_failpoint::point!(Reach);
        Ok(Self {
            adapter: core.adapter(instance)?,
            dial: dial_through(instance, runtime)?,
            token: core.key(instance, GATEWAY_TOKEN).await?,
        })
    }

    pub(crate) fn adapter(&self) -> &dyn ClawAdapter {
        self.adapter.as_ref()
    }

    pub(crate) fn access(&self) -> Access<'_> {
        Access { dial: &self.dial, token: &self.token }
    }
}

pub(super) struct RuntimeDial {
    runtime: Arc<dyn Runtime>,
    id: ClawId,
    port: u16,
}

#[async_trait]
impl Dial for RuntimeDial {
    async fn dial(&self) -> Result<Box<dyn Connection>> {
        let connection =
            tokio::time::timeout(DIAL_LIMIT, self.runtime.dial(&self.id, self.port)).await.map_err(
                |_| Error::new(Code::Timeout, format!("port {} of '{}' does not answer", self.port, self.id)),
            )??;
        Ok(Box::new(connection))
    }
}
