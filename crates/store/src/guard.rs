//! Who may see and write which row. The only place that turns a context or a proof into a
//! condition.

use clawfarm_model::authz::Scope;
use clawfarm_model::{Action, Code, Context, Error, Granted, Result};
use sea_orm::{ColumnTrait, QueryFilter};

/// Narrows a query to what the context sees.
pub(crate) fn visible<Q: QueryFilter, C: ColumnTrait>(query: Q, context: &Context, tenant: C) -> Q {
    match context.scope() {
        Scope::Tenant(own) => query.filter(tenant.eq(own.as_str())),
        Scope::Every => query,
    }
}

/// Lets only the server's own tasks pass: what they ask for spans tenants.
pub(crate) fn server_only(context: &Context, what: &str) -> Result<()> {
    match context.scope() {
        Scope::Every => Ok(()),
        Scope::Tenant(_) => Err(Error::new(
            Code::Forbidden,
            format!("{what} spans all tenants: only the server's own tasks may"),
        )),
    }
}

/// Checks that the proof is one for these actions on this kind of object.
pub(crate) fn fits(granted: &Granted, actions: &[Action], kind: &str) -> Result<()> {
    if actions.contains(&granted.action()) && granted.resource().kind == kind {
        return Ok(());
    }
    Err(Error::new(
        Code::Forbidden,
        format!(
            "leave to {} a {} is no leave for this write to a {kind}",
            granted.action().as_str(),
            granted.resource().kind
        ),
    ))
}

/// Checks that the proof is about this very object. `NotFound` otherwise: whoever was
/// allowed something else is not told what there is.
pub(crate) fn about(granted: &Granted, tenant: &str, kind: &str, id: &str) -> Result<()> {
    of_tenant(granted, tenant, kind, id)?;
    if granted.resource().id == id { Ok(()) } else { Err(Error::not_found(kind, id)) }
}

/// Checks that the proof is for this tenant.
pub(crate) fn of_tenant(granted: &Granted, tenant: &str, kind: &str, id: &str) -> Result<()> {
    let same =
        granted.resource().tenant.as_str() == tenant && granted.context().sees(&granted.resource().tenant);
    if same { Ok(()) } else { Err(Error::not_found(kind, id)) }
}
