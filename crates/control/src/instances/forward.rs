//! Connections to ports of an instance.

use std::time::Duration;

use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{Action, Cause, Code, Context, Error, Instance, Phase, Result};
use clawfarm_runtime::Connection;
use clawfarm_store::Outcome;

use crate::Control;
use crate::core::may;

/// How long a port may take to answer.
const LIMIT: Duration = Duration::from_secs(15);

impl Control {
    /// Opens a connection to a port of an instance; to its gateway's when none is given. One that
    /// sleeps is woken, as for a message.
    ///
    /// The runtime's `dial` is what keeps this to the instance: on this machine's processes all
    /// of 127.0.0.1 is shared with everybody else's programs, so it connects only to a socket that
    /// the instance itself listens on.
    ///
    /// # Errors
    /// `Unavailable` when the instance listens on no such port, whether or not somebody else does:
    /// what else listens on the machine is not told. `Conflict` when the instance is down.
    pub async fn forward(
        &self,
        context: &Context,
        id: &str,
        port: Option<u16>,
    ) -> Result<Box<dyn Connection>> {
        if port == Some(0) {
            return Err(Error::invalid("port", "0 is no port").fix("give 1 to 65535, or leave it out"));
        }
        let instance = self.core.find(context, id).await?;
        let grant = may(context, Action::InstanceUse, &instance)?;
        let instance = match instance.phase {
            // One that is up but not well is what its owner wants to look at.
            Phase::Running | Phase::Unhealthy => instance,
            _ => self.awake(context, instance, Cause::Message).await?,
        };
        let port = port.or(instance.port).ok_or_else(|| silent(&instance, 0))?;
        self.core.store.record_audit(&grant, Outcome::Done, &format!("a connection to port {port}")).await?;
        let runtime = self.core.runtime(&instance.spec.target)?;
        match tokio::time::timeout(LIMIT, runtime.dial(&instance.id, port)).await {
            Ok(Ok(connection)) => Ok(Box::new(self.core.using(&instance.id).with(connection))),
            Ok(Err(error)) if matches!(error.code(), Code::Conflict | Code::Unavailable) => {
                tracing::debug!(id = %instance.id, port, ?error, "a port was not reached");
                Err(silent(&instance, port))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(silent(&instance, port)),
        }
    }
}

fn silent(instance: &Instance, port: u16) -> Error {
    let gateway = instance.port.map_or_else(String::new, |port| format!("its gateway is at {port}; "));
    let other = match instance.spec.runtime {
        // QEMU leads to the guest's own address, and only where it was told to when it was started.
        RuntimeKind::Vm => format!(
            "whatever else is to be reached must be published when the machine is made (--publish HOST:{port}), and listen at 0.0.0.0 in it"
        ),
        _ => "whatever else is to be reached must listen at 127.0.0.1 in it".to_owned(),
    };
    Error::new(Code::Unavailable, format!("'{}' does not listen on port {port}", instance.id))
        .field("port")
        .fix(format!("{gateway}{other}"))
}
