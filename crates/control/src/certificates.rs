//! The certificates of the edge.

use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_model::certificate::Certificate;
use clawfarm_model::target::Check;
use clawfarm_model::{Action, Context, Error, Resource, Result, authorize};

use crate::Control;

/// Where the edge's certificates come from.
#[async_trait]
pub trait Certificates: Send + Sync + 'static {
    /// The certificates, and how each stands.
    fn list(&self) -> Vec<Certificate>;

    /// Has another one got soon, though the one that is shown is still good.
    ///
    /// # Errors
    /// `NotFound` for a name that has none; `Unsupported` where somebody else does that.
    async fn renew(&self, name: &str) -> Result<()>;

    /// What `doctor` says of them.
    fn checks(&self) -> Vec<Check>;
}

impl Control {
    /// Says where the edge's certificates come from; once, when the edge listens with TLS.
    pub fn set_certificates(&self, certificates: Arc<dyn Certificates>) {
        // A second edge of one server there is not.
        let _ = self.core.certificates.set(certificates);
    }

    /// The certificates of this server's edge; none where it has no TLS.
    ///
    /// # Errors
    /// `Forbidden` for who may not see to the server.
    pub fn certificates(&self, context: &Context) -> Result<Vec<Certificate>> {
        may(context, "*")?;
        Ok(self.core.certificates.get().map_or_else(Vec::new, |it| it.list()))
    }

    /// One of them.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name; as for [`Self::certificates`].
    pub fn certificate(&self, context: &Context, name: &str) -> Result<Certificate> {
        let all = self.certificates(context)?;
        all.into_iter()
            .find(|it| it.name == name)
            .ok_or_else(|| Error::not_found("certificate", name).fix("see clawfarm cert ls"))
    }

    /// Has another one got soon: what comes of it is to be seen in [`Self::certificate`].
    ///
    /// # Errors
    /// `NotFound` when there is none of this name; `Unsupported` for one from files.
    pub async fn renew_certificate(&self, context: &Context, name: &str) -> Result<Certificate> {
        may(context, name)?;
        let found = self.certificate(context, name)?;
        if let Some(certificates) = self.core.certificates.get() {
            certificates.renew(name).await?;
            tracing::info!(%name, by = %context.actor(), "a certificate is to be renewed");
        }
        Ok(found)
    }
}

fn may(context: &Context, name: &str) -> Result<()> {
    // They belong to no tenant; one that a server's own task asks for neither.
    let tenant =
        context.tenant().cloned().unwrap_or_else(|_| clawfarm_model::name::TenantName::default_tenant());
    authorize(context, Action::ServerAdmin, &Resource::new(tenant, "certificate", name)).map(|_| ())
}
