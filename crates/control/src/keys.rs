//! The keys that clawfarm itself makes for an instance.
//!
//! They are secrets of the instance like any other, under a prefix that people can't use.

use clawfarm_model::name::TenantName;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{Action, Context, Error, Instance, Resource, Result, authorize};
use secrecy::{ExposeSecret, SecretString};

use crate::core::Core;

/// What the names of clawfarm's own secrets begin with.
pub(crate) const RESERVED_PREFIX: &str = "clawfarm.";
/// The token an instance's gateway asks for.
pub(crate) const GATEWAY_TOKEN: &str = "clawfarm.gateway-token";
/// The key with which an instance uses clawfarm's own model endpoint.
pub(crate) const MODEL_KEY: &str = "clawfarm.model-key";

/// What the edge's sessions are signed with.
const EDGE_KEY: &str = "clawfarm.edge-key";

impl Core {
    /// One of an instance's own keys; made when it does not exist yet.
    pub(crate) async fn key(&self, instance: &Instance, name: &str) -> Result<SecretString> {
        let _one = self.keys.lock().await;
        let system = Context::system("keys");
        let owner = owner(instance);
        let name = SecretName::new(name)?;
        if let Some(value) = self.store.secret_value(&system, &owner, &name).await? {
            return Ok(value);
        }
        self.store.secret_or_set(&system_grant(instance)?, &owner, &name, &random_key()?).await
    }
}

impl Core {
    /// What the edges of all servers sign sessions with; made when it does not exist yet.
    pub(crate) async fn edge_key(&self) -> Result<SecretString> {
        let system = Context::system("keys");
        let owner = SecretOwner::Tenant(TenantName::default_tenant());
        let name = SecretName::new(EDGE_KEY)?;
        if let Some(value) = self.store.secret_value(&system, &owner, &name).await? {
            return Ok(value);
        }
        let resource = Resource::new(owner.authority(), "secret", EDGE_KEY);
        let grant = authorize(&system, Action::SecretWrite, &resource)?;
        self.store.secret_or_set(&grant, &owner, &name, &random_key()?).await
    }
}

pub(crate) fn owner(instance: &Instance) -> SecretOwner {
    SecretOwner::Instance(instance.tenant.clone(), instance.id.clone())
}

pub(crate) fn system_grant(instance: &Instance) -> Result<clawfarm_model::Granted> {
    let resource = Resource::new(instance.tenant.clone(), "secret", instance.id.as_str());
    authorize(&Context::system("keys"), Action::SecretWrite, &resource)
}

/// The keys of a new instance, to be written with it.
pub(crate) fn first_keys() -> Result<Vec<(SecretName, SecretString)>> {
    [GATEWAY_TOKEN, MODEL_KEY].into_iter().map(new_key).collect()
}

/// A new value for one of an instance's own keys, to be written with what it is for.
pub(crate) fn new_key(name: &str) -> Result<(SecretName, SecretString)> {
    Ok((SecretName::new(name)?, random_key()?))
}

/// 256 random bits as 64 hexadecimal digits: what a gateway token of document 003 is.
fn random_key() -> Result<SecretString> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal("no random bytes can be had", e.to_string()))?;
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(SecretString::from(text))
}

/// Whether a text has the form of a key that is made here.
pub(crate) fn is_random_key(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Compares without telling by its duration how much was right.
pub(crate) fn same(a: &SecretString, b: &str) -> bool {
    let (a, b) = (a.expose_secret().as_bytes(), b.as_bytes());
    a.len() == b.len() && a.iter().zip(b).fold(0_u8, |d, (x, y)| d | (x ^ y)) == 0
}
