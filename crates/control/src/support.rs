//! Who may have a support bundle, and what must not be in it.

use clawfarm_model::name::TenantName;
use clawfarm_model::{Action, Context, Resource, Result, authorize};
use clawfarm_store::Outcome;
use secrecy::SecretString;

use crate::Control;

/// The leave to make a support bundle.
pub struct SupportLeave {
    /// Every secret value that may have got into what the bundle is made of, clawfarm's own
    /// keys included: to be looked for, and for nothing else.
    pub values: Vec<SecretString>,
    /// Whether what is the whole server's (its log, its measurements) may be in it: for the
    /// server's admin, who is the owner of the default tenant.
    pub whole_server: bool,
}

impl Control {
    /// The leave to make a support bundle. It is audited, before anything is gathered.
    ///
    /// # Errors
    /// `Forbidden` for who may not administer; when a secret can't be read: what is not known
    /// can't be taken out.
    pub async fn begin_support_bundle(&self, context: &Context) -> Result<SupportLeave> {
        let tenant = context.tenant()?;
        let server = Resource::new(tenant.clone(), "server", "this");
        let grant = authorize(context, Action::ServerAdmin, &server)?;
        let store = &self.core.store;
        store.record_audit(&grant, Outcome::Done, "a support bundle").await?;
        let whole_server = *tenant == TenantName::default_tenant();
        // The server's log may tell of any tenant.
        let scope = if whole_server { Context::system("support-bundle") } else { context.clone() };
        Ok(SupportLeave { values: store.secret_values(&scope).await?, whole_server })
    }
}
