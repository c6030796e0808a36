//! The routes: one file a resource.

mod backup;
mod certificates;
mod configs;
mod configured;
mod console;
mod datasets;
mod docs;
mod doctor;
mod events;
mod forward;
mod health;
mod images;
mod inbox;
mod instances;
mod lifecycle;
mod logs;
mod metrics;
mod operations;
mod rollouts;
mod secrets;
mod send;
mod server;
mod servers;
mod setup;
mod sleep;
mod support;
mod targets;
mod token;
mod vm_images;

use axum::middleware::{from_fn, from_fn_with_state};
use clawfarm_api::query::{DEFAULT_LIMIT, MAX_LIMIT};
use clawfarm_model::{Error, Result};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::layers::{self, Load};
use crate::peers;
use crate::state::ServerState;

/// The whole API over `state`, with its layers.
pub fn router(state: &ServerState) -> axum::Router {
    let (router, _) = documented().split_for_parts();
    let router = router.merge(docs::router());
    layers::around(router.with_state(state.clone()), state)
}

/// Every route that is part of the API's description.
pub(crate) fn documented() -> OpenApiRouter<ServerState> {
    // The limit is around it: what is passed on takes a place here, too.
    let plain =
        plain().layer(from_fn(peers::forward::around)).layer(from_fn_with_state(Load::plain(), Load::check));
    let waiting = waiting()
        .layer(from_fn(peers::forward::around))
        .layer(from_fn_with_state(Load::waiting(), Load::check));
    let tickets = OpenApiRouter::new()
        .routes(routes!(console::open))
        .layer(from_fn(peers::forward::around))
        .layer(from_fn_with_state(Load::tickets(), Load::check));
    OpenApiRouter::new().merge(plain).merge(tickets).merge(waiting).merge(health())
}

/// What is answered at once.
fn plain() -> OpenApiRouter<ServerState> {
    OpenApiRouter::new()
        .routes(routes!(instances::list, instances::create))
        .routes(routes!(instances::get, instances::update, instances::remove))
        .routes(routes!(lifecycle::start))
        .routes(routes!(lifecycle::stop))
        .routes(routes!(lifecycle::restart))
        .routes(routes!(lifecycle::kill))
        .routes(routes!(lifecycle::suspend))
        .routes(routes!(lifecycle::resume))
        .routes(routes!(lifecycle::update))
        .routes(routes!(sleep::outlook))
        .routes(routes!(sleep::change))
        .routes(routes!(sleep::server, sleep::change_server))
        .routes(routes!(sleep::tenant, sleep::change_tenant))
        .routes(routes!(sleep::project, sleep::change_project))
        .routes(routes!(configured::explain, configured::change))
        .routes(routes!(configs::list, configs::create))
        .routes(routes!(configs::get, configs::save, configs::remove))
        .routes(routes!(configs::revisions))
        .routes(routes!(configs::revision))
        .routes(routes!(configs::diff))
        .routes(routes!(configs::try_out))
        .routes(routes!(rollouts::list))
        .routes(routes!(rollouts::get))
        .routes(routes!(rollouts::instances))
        .routes(routes!(rollouts::pause))
        .routes(routes!(rollouts::resume))
        .routes(routes!(rollouts::abort))
        .routes(routes!(rollouts::promote))
        .routes(routes!(rollouts::roll_back))
        .routes(routes!(console::ticket))
        .routes(routes!(setup::change))
        .routes(routes!(metrics::instance))
        .routes(routes!(metrics::prometheus))
        .routes(routes!(token::reveal))
        .routes(routes!(token::rotate))
        .routes(routes!(token::dashboard))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::get, secrets::set, secrets::remove))
        .routes(routes!(secrets::rotate))
        .routes(routes!(inbox::list, inbox::remove_all))
        .routes(routes!(inbox::replay_all))
        .routes(routes!(inbox::get, inbox::remove))
        .routes(routes!(inbox::replay))
        .routes(routes!(datasets::list))
        .routes(routes!(datasets::remove))
        .routes(routes!(images::list, images::remove))
        .routes(routes!(images::log))
        .routes(routes!(vm_images::list, vm_images::remove))
        .routes(routes!(targets::list, targets::add))
        .routes(routes!(targets::remove))
        .routes(routes!(operations::list))
        .routes(routes!(server::info))
        .routes(routes!(servers::list))
        .routes(routes!(certificates::list))
        .routes(routes!(certificates::get))
        .routes(routes!(certificates::renew))
}

/// What may take long: streams, consoles, long polls, and what tries things out.
fn waiting() -> OpenApiRouter<ServerState> {
    OpenApiRouter::new()
        .routes(routes!(forward::open))
        .routes(routes!(backup::backup))
        .routes(routes!(backup::restore))
        .routes(routes!(configs::plan))
        .routes(routes!(configs::publish))
        .routes(routes!(configs::roll_back))
        .routes(routes!(configured::drift, configured::mend))
        .routes(routes!(configured::change_many))
        .routes(routes!(images::build))
        .routes(routes!(images::pull))
        .routes(routes!(vm_images::add))
        .routes(routes!(vm_images::warm))
        .routes(routes!(send::send))
        .routes(routes!(logs::instance))
        .routes(routes!(events::all))
        .routes(routes!(events::instance))
        .routes(routes!(operations::get))
        .routes(routes!(server::shutdown))
        .routes(routes!(doctor::doctor))
        .routes(routes!(support::bundle))
}

/// What must be answered even when the server is full.
fn health() -> OpenApiRouter<ServerState> {
    OpenApiRouter::new().routes(routes!(health::alive)).routes(routes!(health::ready))
}

/// The size of a page.
fn limit(asked: Option<u32>) -> Result<u32> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::invalid("limit", format!("a page of {limit} items can't be had"))
        .fix(format!("give 1 to {MAX_LIMIT}, and go on with the cursor")))
}
