//! `/instances`.

use std::collections::BTreeMap;

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use clawfarm_api::{
    Accepted, CreateInstance, InstanceList, InstanceQuery, InstanceView, PREFIX, RemoveQuery, Tried,
    TryQuery, UpdateInstance, WarningView,
};
use clawfarm_control::{Change, InstanceFilter, NewInstance};
use clawfarm_model::{Error, Instance, Result};
use http::header::{ETAG, HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use secrecy::SecretString;

use super::limit;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, IdempotencyKey, IfMatch, IsLocal, Json, Query, Segment};
use crate::state::ServerState;

/// Instances, page by page.
#[utoipa::path(
    get, path = "/api/v1/instances", tag = "instances", params(InstanceQuery),
    responses((status = 200, description = "One page", body = InstanceList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Query(query): Query<InstanceQuery>,
) -> ApiResult<Answer<InstanceList>> {
    let limit = limit(query.limit)?;
    let cursor = query.cursor.clone();
    let page = state.control().list(&context, &filter(query)?, cursor.as_deref(), limit).await?;
    Ok(Answer(InstanceList { items: page.items.iter().map(InstanceView::from).collect(), next: page.next }))
}

/// Makes an instance and starts it. Answered at once, with the operation to wait for. With an
/// `Idempotency-Key`, the same request again is answered as the first one was, and makes
/// nothing. With `dry_run` it is only said whether it could be made.
#[utoipa::path(
    post, path = "/api/v1/instances", tag = "instances",
    params(TryQuery, ("idempotency-key" = inline(IdempotencyKey), Header, description = "The caller's name for this request")),
    request_body(content = CreateInstance, example = json!({"claw_type": "openclaw", "name": "alice"})),
    responses((status = 200, description = "It could be made; only tried", body = Tried), (status = 201, description = "It is being made", body = Accepted, headers(
        ("location" = String, description = "The instance"),
        ("etag" = String, description = "Its version"),
        ("idempotent-replayed" = bool, description = "`true` when the answer is that of an earlier request"))))
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    IsLocal(local): IsLocal,
    key: IdempotencyKey,
    Query(TryQuery { dry_run }): Query<TryQuery>,
    Json { value: new, hash }: Json<CreateInstance>,
) -> ApiResult<Response> {
    // A path of the caller's machine would mean another folder here; and the server, which may
    // be root, must not read its machine's files for whoever reaches it from elsewhere.
    if new.import.is_some() && !local {
        return Err(Error::invalid("import", "a home is imported only from the server's own machine")
            .fix("copy the folder there, and run this command there, without --host")
            .into());
    }
    if new.vm.as_ref().is_some_and(|vm| vm.workspace.is_some()) && !local {
        return Err(Error::invalid(
            "vm.workspace",
            "a folder of the server's machine is shared only by who is on that machine",
        )
        .fix("use a volume, or run this command there, without --host")
        .into());
    }
    if dry_run {
        return Ok(tried(state.control().would_create(&context, new_instance(new)).await?));
    }
    Ok(made(state.control().create(&context, new_instance(new), key.with(&hash)).await?).into_response())
}

/// The answer to what made an instance.
pub(super) fn made(made: clawfarm_control::Accepted) -> impl IntoResponse {
    let mut headers = tagged(&made.instance);
    headers.insert(LOCATION, path(&["instances", made.instance.id.as_str()]));
    if made.replayed {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    (StatusCode::CREATED, headers, Answer(view(made)))
}

/// One instance.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}", tag = "instances",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "The instance", body = InstanceView,
        headers(("etag" = String, description = "Its version, for `If-Match`"))))
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<impl IntoResponse> {
    let instance = state.control().get(&context, &id.0).await?;
    Ok((tagged(&instance), Answer(InstanceView::from(&instance))))
}

/// Changes an instance: the changeable part as a whole. What is left out returns to its
/// default. One that is up is started again when what runs would differ. With `dry_run` it is only
/// said whether it could be changed so.
#[utoipa::path(
    put, path = "/api/v1/instances/{id}", tag = "instances",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        TryQuery,
        ("if-match" = inline(IfMatch), Header, description = "The ETag that the change is based on", example = "\"7\""),
    ),
    request_body = UpdateInstance,
    responses((status = 200, description = "It could be changed so; only tried", body = Tried), (status = 202, description = "It is being changed", body = Accepted, headers(
        ("location" = String, description = "The operation"),
        ("etag" = String, description = "Its new version"))))
)]
pub(super) async fn update(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    IfMatch(version): IfMatch,
    Query(TryQuery { dry_run }): Query<TryQuery>,
    Json { value: change, .. }: Json<UpdateInstance>,
) -> ApiResult<Response> {
    let change = change_of(change);
    if dry_run {
        return Ok(tried(state.control().would_update(&context, &id.0, version, change).await?));
    }
    Ok(accepted(state.control().update(&context, &id.0, version, change).await?).into_response())
}

/// Removes an instance. Its data stays as a dataset, unless `purge`.
#[utoipa::path(
    delete, path = "/api/v1/instances/{id}", tag = "instances",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        RemoveQuery,
    ),
    responses((status = 202, description = "It is being removed", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<impl IntoResponse> {
    Ok(accepted(state.control().remove(&context, &id.0, query.purge, query.force).await?))
}

/// The answer to what takes a while.
pub(super) fn accepted(accepted: clawfarm_control::Accepted) -> impl IntoResponse {
    let mut headers = tagged(&accepted.instance);
    headers.insert(LOCATION, path(&["operations", &accepted.operation.id]));
    (StatusCode::ACCEPTED, headers, Answer(view(accepted)))
}

fn view(accepted: clawfarm_control::Accepted) -> Accepted {
    Accepted {
        instance: InstanceView::from(&accepted.instance),
        operation: accepted.operation,
        warnings: accepted.warnings.into_iter().map(warning).collect(),
    }
}

fn warning(warning: clawfarm_adapters::Warning) -> WarningView {
    WarningView { field: warning.field, message: warning.message }
}

/// The answer to what was only tried.
fn tried(warnings: Vec<clawfarm_adapters::Warning>) -> Response {
    Answer(Tried { warnings: warnings.into_iter().map(warning).collect() }).into_response()
}

pub(super) fn tagged(instance: &Instance) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ETAG, header(&format!("\"{}\"", instance.version)));
    headers
}

fn path(segments: &[&str]) -> HeaderValue {
    header(&format!("{PREFIX}/{}", segments.join("/")))
}

/// Of numbers and ids, which are visible ASCII by their types.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn filter(query: InstanceQuery) -> Result<InstanceFilter> {
    Ok(InstanceFilter {
        phase: query.phase,
        claw_type: query.claw_type,
        runtime: query.runtime,
        target: query.target,
        project: query.project,
        labels: labels(&query.label)?.into_iter().collect(),
        include_destroyed: query.include_destroyed,
        ..InstanceFilter::default()
    })
}

fn labels(given: &[String]) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for label in given {
        let (name, value) = label.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            Error::invalid("label", "a label to filter by has the form key=value")
                .fix("such as label=team=support")
        })?;
        if labels.insert(name.to_owned(), value.to_owned()).is_some_and(|before| before != value) {
            return Err(Error::invalid("label", "no instance has two values for one label")
                .fix("give each label once"));
        }
    }
    Ok(labels)
}

fn new_instance(new: CreateInstance) -> NewInstance {
    let resources = new.resources.unwrap_or_default();
    NewInstance {
        claw_type: new.claw_type,
        name: new.name,
        version: new.version,
        runtime: new.runtime,
        image: new.image,
        vm: new.vm,
        attended: new.attended,
        target: new.target,
        cpus: resources.cpus,
        memory_mib: resources.memory_mib,
        port: new.port,
        config: new.config,
        overrides: new.overrides,
        template: new.template,
        variables: new.variables,
        secrets: new.secrets.into_iter().map(|(name, value)| (name, SecretString::from(value))).collect(),
        config_mode: new.config_mode,
        restart: new.restart,
        ready_timeout_secs: new.ready_timeout_secs,
        labels: new.labels,
        policy: new.policy,
        dataset: new.dataset,
        import: new.import.map(Into::into),
        overcommit: new.overcommit,
    }
}

fn change_of(change: UpdateInstance) -> Change {
    let resources = change.resources.unwrap_or_default();
    Change {
        cpus: resources.cpus,
        memory_mib: resources.memory_mib,
        port: change.port,
        config: change.config,
        config_mode: change.config_mode,
        restart: change.restart,
        ready_timeout_secs: change.ready_timeout_secs,
        labels: change.labels,
        policy: change.policy,
    }
}
