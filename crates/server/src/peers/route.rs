//! Which requests need a runtime, and which of the servers reaches it.

use axum::extract::MatchedPath;
use clawfarm_control::{Control, Place};
use clawfarm_model::name::TargetName;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{ClawId, Code, Context, Error, Result};
use http::{Extensions, Method, Uri};
use serde::Deserialize;

use super::sign::Signer;
use crate::extract::IdText;

/// How a request depends on a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// It is answered from the store, by any server.
    Nothing,
    /// It can't be answered without the instance's runtime.
    Instance,
    /// It is better answered where the instance's runtime is (there is its memory known, and
    /// whether it works), and can be elsewhere.
    RatherInstance,
    /// It can't be answered without the runtime that holds the dataset.
    Dataset,
    /// It can't be answered without a runtime for a new instance.
    New,
    /// It can't be answered without the runtime of the target that the body names, which runs
    /// images.
    NewImage,
    /// The same with a target that the query names.
    Image,
    /// It can't be answered but where the target of its path is.
    Target,
    /// It can't be answered but by the server that gave the ticket.
    Ticket,
}

/// What each route below `/instances`, `/datasets`, `/consoles`, `/images` and `/targets` needs. A route that is not
/// in it fails a test.
pub(super) const TABLE: &[(Method, &str, Needs)] = &[
    (Method::GET, "/api/v1/instances", Needs::Nothing),
    (Method::POST, "/api/v1/instances", Needs::New),
    (Method::PATCH, "/api/v1/instances", Needs::Nothing),
    (Method::GET, "/api/v1/instances/{id}", Needs::Nothing),
    (Method::PUT, "/api/v1/instances/{id}", Needs::RatherInstance),
    (Method::DELETE, "/api/v1/instances/{id}", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/start", Needs::RatherInstance),
    (Method::POST, "/api/v1/instances/{id}/stop", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/restart", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/kill", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/suspend", Needs::RatherInstance),
    (Method::POST, "/api/v1/instances/{id}/resume", Needs::RatherInstance),
    (Method::GET, "/api/v1/instances/{id}/sleep", Needs::RatherInstance),
    (Method::PATCH, "/api/v1/instances/{id}/policy", Needs::Nothing),
    (Method::GET, "/api/v1/instances/{id}/config", Needs::Nothing),
    (Method::PATCH, "/api/v1/instances/{id}/config", Needs::RatherInstance),
    (Method::GET, "/api/v1/instances/{id}/drift", Needs::Instance),
    (Method::POST, "/api/v1/instances/{id}/drift", Needs::Instance),
    (Method::GET, "/api/v1/rollouts/{id}/instances", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/update", Needs::RatherInstance),
    (Method::POST, "/api/v1/instances/{id}/backup", Needs::Instance),
    (Method::POST, "/api/v1/instances/{id}/console", Needs::Instance),
    (Method::POST, "/api/v1/instances/{id}/setup", Needs::Instance),
    (Method::GET, "/api/v1/instances/{id}/metrics", Needs::Instance),
    (Method::GET, "/api/v1/instances/{id}/logs", Needs::Instance),
    (Method::POST, "/api/v1/instances/{id}/send", Needs::Instance),
    (Method::GET, "/api/v1/instances/{id}/port-forward", Needs::Instance),
    (Method::GET, "/api/v1/instances/{id}/events", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/token/reveal", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/token/rotate", Needs::Nothing),
    (Method::GET, "/api/v1/instances/{id}/dashboard", Needs::Nothing),
    (Method::GET, "/api/v1/instances/{id}/inbox", Needs::Nothing),
    (Method::DELETE, "/api/v1/instances/{id}/inbox", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/inbox/replay", Needs::Nothing),
    (Method::GET, "/api/v1/instances/{id}/inbox/{message}", Needs::Nothing),
    (Method::DELETE, "/api/v1/instances/{id}/inbox/{message}", Needs::Nothing),
    (Method::POST, "/api/v1/instances/{id}/inbox/{message}/replay", Needs::Nothing),
    (Method::GET, "/api/v1/datasets", Needs::Nothing),
    (Method::DELETE, "/api/v1/datasets/{id}", Needs::Dataset),
    (Method::GET, "/api/v1/consoles/{ticket}", Needs::Ticket),
    (Method::GET, "/api/v1/images", Needs::Nothing),
    (Method::POST, "/api/v1/images", Needs::NewImage),
    (Method::DELETE, "/api/v1/images", Needs::Image),
    (Method::POST, "/api/v1/images/pull", Needs::NewImage),
    (Method::GET, "/api/v1/images/log", Needs::Image),
    (Method::GET, "/api/v1/targets", Needs::Nothing),
    // The engine that it names is one of the machine of the server that is asked.
    (Method::POST, "/api/v1/targets", Needs::Nothing),
    (Method::DELETE, "/api/v1/targets/{name}", Needs::Target),
];

/// What this request needs.
pub(super) fn needs(method: &Method, extensions: &Extensions) -> Needs {
    let Some(route) = extensions.get::<MatchedPath>() else { return Needs::Nothing };
    let found = TABLE.iter().find(|(m, path, _)| m == method && *path == route.as_str());
    found.map_or(Needs::Nothing, |(_, _, needs)| *needs)
}

/// What a new instance says of its place; all else is the handler's to read.
#[derive(Default, Deserialize)]
struct Wanted {
    #[serde(default)]
    runtime: Option<RuntimeKind>,
    #[serde(default)]
    target: Option<TargetName>,
    /// Whatever it says: a virtual machine's runtime is meant where none is named.
    #[serde(default)]
    vm: Option<serde::de::IgnoredAny>,
}

/// Which other server a request is for; `None` when it is this one's to answer.
pub(super) async fn other(
    control: &Control,
    signer: &Signer,
    needs: Needs,
    context: Option<&Context>,
    uri: &Uri,
    body: &[u8],
) -> Result<Option<(String, String)>> {
    let place = match (needs, context) {
        (Needs::Nothing, _) => Place::Here,
        (Needs::Ticket, _) => return ticket(control, signer, uri),
        // The handler tells what is wrong with it.
        (_, None) => Place::Here,
        (Needs::Instance, Some(context)) => match segment(uri, 4) {
            Some(id) => control.place_of_instance(context, &id).await?,
            None => Place::Here,
        },
        (Needs::RatherInstance, Some(context)) => match segment(uri, 4) {
            Some(id) => control.place_of_instance(context, &id).await.unwrap_or(Place::Here),
            None => Place::Here,
        },
        (Needs::Dataset, Some(context)) => match segment(uri, 4).and_then(|id| ClawId::new(id).ok()) {
            Some(id) => control.place_of_dataset(context, &id).await?,
            None => Place::Here,
        },
        (Needs::New, Some(context)) => {
            let wanted: Wanted = serde_json::from_slice(body).unwrap_or_default();
            let machine = wanted.vm.is_some() && wanted.target.is_none();
            let runtime = wanted.runtime.or(machine.then_some(RuntimeKind::Vm));
            control.place_for(context, runtime, wanted.target.as_ref()).await?
        }
        (Needs::NewImage, Some(context)) => {
            let wanted: Wanted = serde_json::from_slice(body).unwrap_or_default();
            image_place(control, context, wanted.target.as_ref()).await?
        }
        (Needs::Image, Some(context)) => {
            let wanted: Wanted =
                serde_html_form::from_str(uri.query().unwrap_or_default()).unwrap_or_default();
            image_place(control, context, wanted.target.as_ref()).await?
        }
        (Needs::Target, Some(context)) => match segment(uri, 4).and_then(|name| TargetName::new(name).ok()) {
            Some(name) => control.place_of_target(context, &name).await?,
            None => Place::Here,
        },
    };
    Ok(match place {
        Place::Here => None,
        Place::There { peer, address } => Some((peer.node, address)),
    })
}

/// Where the images of a target are; of the first that runs such, when none is named.
async fn image_place(control: &Control, context: &Context, target: Option<&TargetName>) -> Result<Place> {
    let kind = target.is_none().then_some(RuntimeKind::Docker);
    control.place_for(context, kind, target).await
}

/// A ticket of several servers begins with the node id of the one that gave it. What none of them
/// gave is refused here, like one that was used before.
fn ticket(control: &Control, signer: &Signer, uri: &Uri) -> Result<Option<(String, String)>> {
    let (Some(own), Some(text)) = (control.node(), segment(uri, 4)) else { return Ok(None) };
    let Some(node) = signer.ticket_of(&text).filter(|node| *node != own) else { return Ok(None) };
    let peer = control.peer(node).filter(|peer| peer.live);
    match peer.map(|peer| (peer.node, peer.address)) {
        Some((node, Some(address))) => Ok(Some((node, address))),
        _ => Err(Error::new(Code::Unavailable, "the server that gave this ticket can't be reached")
            .field("ticket")
            .fix("ask for another: POST /api/v1/instances/{id}/console")),
    }
}

/// A segment of the path that is an id; nothing else is looked up.
pub(super) fn segment(uri: &Uri, number: usize) -> Option<String> {
    Some(uri.path().split('/').nth(number)?.parse::<IdText>().ok()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_instances_says_what_it_needs() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let mut missing = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let concerned = ["/instances", "/datasets", "/consoles", "/images", "/targets"]
                .iter()
                .any(|part| path.contains(part));
            for method in item.as_object().unwrap().keys().filter(|_| concerned) {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                if !TABLE.iter().any(|(m, p, _)| *m == method && p == path) {
                    missing.push(format!("{method} {path}"));
                }
            }
        }
        assert!(missing.is_empty(), "say in the table what they need of a runtime: {missing:?}");
    }

    #[test]
    fn an_id_is_taken_from_the_path_and_nothing_else() {
        let segment = |text: &str| segment(&text.parse().unwrap(), 4);
        assert_eq!(segment("/api/v1/instances/alice-x7k2m/logs?x=1").as_deref(), Some("alice-x7k2m"));
        assert_eq!(segment("/api/v1/instances/..%2Fx/logs"), None);
        assert_eq!(segment("/api/v1/instances"), None);
    }
}
