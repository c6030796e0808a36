//! The tenants' networks.
//!
//! Each tenant has a network of its own in which containers do not reach each other; they
//! reach the world, and by way of the network's gateway address (`relay`) the server. Podman
//! can't close a network to its own containers, but networks to each other: there each
//! instance has one.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::{NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::ListNetworksOptionsBuilder;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ClawId, Code, Error, Result};

use crate::engine::{Kind, found};
use crate::fault::{failed, is_state};
use crate::inner::Inner;
use crate::relay::{self, Subnet};
use crate::spec::{SERVER, TENANT};

/// An instance's network.
#[derive(Debug)]
pub(crate) struct Attached {
    /// What it is called.
    pub(crate) name: String,
    /// The address of the server in it.
    pub(crate) gateway: IpAddr,
}

/// Makes sure of an instance's network and of the way from it to the server.
pub(crate) async fn ensure(inner: &Inner, tenant: &TenantName, id: &ClawId) -> Result<Attached> {
    let name = inner.network(inner.engine.kind().await?, tenant, id);
    let network = match look(inner, &name).await? {
        Some(network) => network,
        None => make(inner, &name, tenant).await?,
    };
    let subnet = subnet(&name, &network)?;
    relay::ensure(inner, subnet).await?;
    Ok(Attached { name, gateway: subnet.gateway })
}

/// One network is made at a time by this server, whichever of its targets it is for: an engine
/// that is asked for the same name twice at the same moment makes two.
static MAKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn make(inner: &Inner, name: &str, tenant: &TenantName) -> Result<NetworkInspect> {
    let _one = MAKING.lock().await;
    if let Some(network) = look(inner, name).await? {
        return Ok(network);
    }
    let client = inner.engine.docker().await?;
    match client.create_network(request(inner, name, tenant)).await {
        Ok(_) => {}
        // Somebody was quicker.
        Err(error) if is_state(&error) => {}
        Err(error) => return Err(failed(format!("make the network '{name}'"), error)),
    }
    look(inner, name).await?.ok_or_else(|| {
        Error::new(Code::Unavailable, format!("the network '{name}' was removed as it was made"))
    })
}

/// A network by its name. Where an engine has made two of one name (asked by a server that was
/// killed, and by the next one), those that nothing is in are removed but for one.
async fn look(inner: &Inner, name: &str) -> Result<Option<NetworkInspect>> {
    let client = inner.engine.docker().await?;
    let looked = client.inspect_network(name, None).await;
    if !looked.as_ref().is_err_and(is_ambiguous) {
        return found(looked, || format!("look at the network '{name}'"));
    }
    let named = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
    let options = ListNetworksOptionsBuilder::default().filters(&named).build();
    let all = client.list_networks(Some(options)).await.map_err(|e| failed("list the networks", e))?;
    let mut same = Vec::new();
    // The filter also finds names that only begin so.
    for id in all.into_iter().filter(|it| it.name.as_deref() == Some(name)).filter_map(|it| it.id) {
        let what = || format!("look at the network '{name}'");
        same.extend(found(client.inspect_network(&id, None).await, what)?);
    }
    let holds = |it: &NetworkInspect| it.containers.as_ref().is_some_and(|all| !all.is_empty());
    // The one that is used first, else the same one whoever looks.
    same.sort_by_key(|it| (!holds(it), it.id.clone()));
    let mut same = same.into_iter();
    let kept = same.next();
    for other in same.filter(|it| !holds(it)).filter_map(|it| it.id) {
        match client.remove_network(&other).await {
            Ok(()) => tracing::warn!(network = name, id = other, "there were two networks of one name"),
            Err(error) if is_state(&error) || crate::fault::is_missing(&error) => {}
            Err(error) => return Err(failed(format!("remove a second network '{name}'"), error)),
        }
    }
    Ok(kept)
}

fn is_ambiguous(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { message, .. }
        if message.contains("is ambiguous"))
}

fn request(inner: &Inner, name: &str, tenant: &TenantName) -> NetworkCreateRequest {
    let label = |name: &str, value: String| (name.to_owned(), value);
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        options: Some(HashMap::from([(
            "com.docker.network.bridge.enable_icc".to_owned(),
            "false".to_owned(),
        )])),
        labels: Some(HashMap::from([
            label(SERVER, inner.server()),
            label(TENANT, tenant.as_str().to_owned()),
        ])),
        ..NetworkCreateRequest::default()
    }
}

fn subnet(name: &str, network: &NetworkInspect) -> Result<Subnet> {
    let all = network.ipam.iter().flat_map(|ipam| ipam.config.iter().flatten());
    all.filter_map(|config| Subnet::parse(config.subnet.as_deref()?, config.gateway.as_deref()?))
        .find(|subnet| subnet.gateway.is_ipv4())
        .ok_or_else(|| {
            Error::new(Code::Internal, format!("the network '{name}' has no IPv4 gateway"))
                .fix(format!("remove it, so that it is made anew: docker network rm {name}"))
        })
}

/// Removes the network of an instance that is gone, when nothing else is in it.
pub(crate) async fn remove_if_empty(inner: &Inner, tenant: &TenantName, id: &ClawId) -> Result<()> {
    let kind = inner.engine.kind().await?;
    let name = inner.network(kind, tenant, id);
    let _removing = inner.networks.write().await;
    let client = inner.engine.docker().await?;
    let Some(network) = look(inner, &name).await? else { return Ok(()) };
    // Containers that do not run are in no network yet: those are asked for by their label.
    let used = network.containers.as_ref().is_some_and(|all| !all.is_empty())
        || (kind == Kind::Docker && crate::observe::any_of_tenant(inner, tenant).await?);
    if used {
        return Ok(());
    }
    match client.remove_network(&name).await {
        Ok(()) => {}
        // Somebody uses it after all, or has removed it.
        Err(error) if is_state(&error) || crate::fault::is_missing(&error) => {}
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 403, .. }) => return Ok(()),
        Err(error) => return Err(failed(format!("remove the network '{name}'"), error)),
    }
    if let Ok(subnet) = subnet(&name, &network) {
        relay::end(inner, subnet.gateway);
    }
    Ok(())
}

/// Opens the ways to the server again for the networks that exist.
pub(crate) async fn take_up(inner: &Inner) -> Result<()> {
    let client = inner.engine.docker().await?;
    let ours = HashMap::from([("label".to_owned(), vec![format!("{SERVER}={}", inner.server())])]);
    let options = ListNetworksOptionsBuilder::default().filters(&ours).build();
    let networks = client.list_networks(Some(options)).await.map_err(|e| failed("list the networks", e))?;
    for network in networks {
        let name = network.name.clone().unwrap_or_default();
        let looked =
            found(client.inspect_network(&name, None).await, || format!("look at the network '{name}'"))?;
        if let Some(network) = looked {
            relay::ensure(inner, subnet(&name, &network)?).await?;
        }
    }
    Ok(())
}
