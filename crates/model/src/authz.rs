//! Who asks, and whether they may.
//!
//! Every use case and every call of the store takes a [`Context`]. Reads are filtered by
//! its tenant inside the store; writes need a [`Granted`], which only [`authorize`] makes.
//! So a use case that forgets to ask does not compile, and a query that forgets the tenant
//! has no way to be written outside the store.

use std::fmt;

use crate::error::{Code, Error, Result};
use crate::fence::Fence;
use crate::name::TenantName;

/// Who asks, for which tenant, in which request.
#[derive(Clone, Debug)]
pub struct Context {
    actor: Actor,
    tenant: Scope,
    request_id: String,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A person or program holding the tenant's owner credential, by name.
    Owner(String),
    /// A task of the server itself, by name.
    System(&'static str),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(name) => write!(f, "owner:{name}"),
            Self::System(task) => write!(f, "system:{task}"),
        }
    }
}

/// Which tenants a context can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One.
    Tenant(TenantName),
    /// All: tasks of the server itself only.
    Every,
}

impl Context {
    /// The context of a tenant's owner.
    #[must_use]
    pub const fn owner(name: String, tenant: TenantName, request_id: String) -> Self {
        Self { actor: Actor::Owner(name), tenant: Scope::Tenant(tenant), request_id }
    }

    /// The context of one of the server's own tasks.
    #[must_use]
    pub fn system(task: &'static str) -> Self {
        Self { actor: Actor::System(task), tenant: Scope::Every, request_id: String::new() }
    }

    /// Who asks.
    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The tenants it can see.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.tenant
    }

    /// The tenant that something new belongs to.
    ///
    /// # Errors
    /// When a task of the server would make something for nobody in particular.
    pub fn tenant(&self) -> Result<&TenantName> {
        match &self.tenant {
            Scope::Tenant(tenant) => Ok(tenant),
            Scope::Every => Err(Error::new(Code::Internal, "a server task has no tenant of its own")),
        }
    }

    /// The request it came with; empty for the server's own tasks.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Whether objects of this tenant can be seen.
    #[must_use]
    pub fn sees(&self, tenant: &TenantName) -> bool {
        match &self.tenant {
            Scope::Tenant(own) => own == tenant,
            Scope::Every => true,
        }
    }
}

/// What somebody wants to do. One for each thing a policy may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Make an instance.
    InstanceCreate,
    /// Change what is wanted of it: start, stop, suspend, specification.
    InstanceChange,
    /// Run commands in it or talk to it.
    InstanceUse,
    /// Remove it, its data staying.
    InstanceRemove,
    /// Remove data for good.
    DataPurge,
    /// Read all of its data, which holds its keys.
    DataRead,
    /// Read its gateway token.
    TokenReveal,
    /// Set or remove secrets.
    SecretWrite,
    /// Change the sleep policy of a project, a tenant or the server.
    PolicyWrite,
    /// Save, publish and remove configurations of the centre.
    ConfigWrite,
    /// Change targets.
    TargetWrite,
    /// Record what was observed (the server's own tasks).
    Observe,
    /// Stop or change the server itself.
    ServerAdmin,
}

impl Action {
    /// The stable word for the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InstanceCreate => "instance.create",
            Self::InstanceChange => "instance.change",
            Self::InstanceUse => "instance.use",
            Self::InstanceRemove => "instance.remove",
            Self::DataPurge => "data.purge",
            Self::DataRead => "data.read",
            Self::TokenReveal => "token.reveal",
            Self::SecretWrite => "secret.write",
            Self::PolicyWrite => "policy.write",
            Self::ConfigWrite => "config.write",
            Self::TargetWrite => "target.write",
            Self::Observe => "observe",
            Self::ServerAdmin => "server.admin",
        }
    }
}

/// What it is to be done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Whose it is.
    pub tenant: TenantName,
    /// What kind: `instance`, `secret`, `dataset`, `target`, `server`.
    pub kind: &'static str,
    /// Which.
    pub id: String,
}

impl Resource {
    /// A resource of a tenant.
    pub fn new(tenant: TenantName, kind: &'static str, id: impl Into<String>) -> Self {
        Self { tenant, kind, id: id.into() }
    }
}

/// The proof that [`authorize`] said yes to this action on this resource.
#[derive(Clone, Debug)]
pub struct Granted {
    context: Context,
    action: Action,
    resource: Resource,
    fence: Option<Fence>,
}

impl Granted {
    /// The same leave for as long as a lease is held: the store refuses the write when it is
    /// another server's by then.
    #[must_use]
    pub fn under(self, fence: Option<Fence>) -> Self {
        Self { fence, ..self }
    }

    /// The lease it is bound to; `None` for what people ask for, and where one server is alone.
    #[must_use]
    pub const fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// Who asked.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// What was allowed.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// On what.
    #[must_use]
    pub const fn resource(&self) -> &Resource {
        &self.resource
    }
}

/// Decides whether `context` may do `action` to `resource`.
///
/// # Errors
/// `NotFound` for another tenant's objects (their existence is not told), `Forbidden` for
/// the rest.
pub fn authorize(context: &Context, action: Action, resource: &Resource) -> Result<Granted> {
    if !context.sees(&resource.tenant) {
        return Err(Error::not_found(resource.kind, &resource.id));
    }
    let allowed = match context.actor() {
        Actor::System(_) => true,
        Actor::Owner(_) => action != Action::Observe,
    };
    if !allowed {
        return Err(Error::new(
            Code::Forbidden,
            format!("{} may not {} {} '{}'", context.actor(), action.as_str(), resource.kind, resource.id),
        ));
    }
    Ok(Granted { context: context.clone(), action, resource: resource.clone(), fence: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(tenant: &str) -> Context {
        Context::owner("t".into(), TenantName::new(tenant).unwrap(), "r".into())
    }

    #[test]
    fn another_tenants_things_do_not_exist() {
        let theirs = Resource::new(TenantName::new("b").unwrap(), "instance", "x-12345");
        let error = authorize(&context("a"), Action::InstanceChange, &theirs).unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert!(authorize(&context("b"), Action::InstanceChange, &theirs).is_ok());
        assert!(authorize(&Context::system("test"), Action::Observe, &theirs).is_ok());
    }

    #[test]
    fn only_the_server_itself_observes() {
        let mine = Resource::new(TenantName::new("a").unwrap(), "instance", "x-12345");
        let error = authorize(&context("a"), Action::Observe, &mine).unwrap_err();
        assert_eq!(error.code(), Code::Forbidden);
    }
}
