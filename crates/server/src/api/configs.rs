//! `/configs`: what is said for many instances, in revisions.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::IntoResponse;
use clawfarm_api::{
    ConfigChecked, ConfigDiff, ConfigList, ConfigView, ConfigWarning, DiffQuery, ImpactCounts, NewConfig,
    PREFIX, PlanRequest, PlanView, PlannedView, PublishRequest, RefusalView, RevisionList, RevisionsQuery,
    RollbackRequest, SaveConfig,
};
use clawfarm_config::{Revision, Rollout};
use clawfarm_control::{Control, Publish, Refusal};
use clawfarm_model::{Code, ConfigName, Context, Error, Result};
use http::header::{ETAG, HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};

use super::limit;
use crate::error::ApiResult;
use crate::extract::{Ctx, IfMatch, Json, JsonOrDefault, Query, RevisionOf, Segment};
use crate::state::ServerState;

/// So many revisions are on a page when no limit is asked for; each may be large.
const REVISIONS: u32 = 20;
/// What is said of instances whose claws could not be asked what they think of a revision.
const NOT_ASKED: &str = "no claw was asked whether it takes this";
/// The longest message, in characters.
const MESSAGE_MAX: usize = 1000;

/// The configurations of the tenant, and the fleet's: what is said for all instances, and
/// templates.
#[utoipa::path(
    get, path = "/api/v1/configs", tag = "configs",
    responses((status = 200, description = "All of them, by name", body = ConfigList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
) -> ApiResult<Answer<ConfigList>> {
    Ok(Answer(ConfigList { items: state.control().configs(&context).await? }))
}

/// Makes a configuration. It goes to nobody before it is published.
#[utoipa::path(
    post, path = "/api/v1/configs", tag = "configs",
    request_body(content = NewConfig, example = json!({"name": "support", "content": {"variables": [
        {"name": "model.name", "type": "string", "default": "claude-3-haiku", "required": true}]}})),
    responses((status = 201, description = "It is made", body = ConfigView, headers(
        ("location" = String, description = "The configuration"),
        ("etag" = String, description = "Its version, for `If-Match`"))))
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Json { value: new, .. }: Json<NewConfig>,
) -> ApiResult<impl IntoResponse> {
    let NewConfig { name, content, message } = new;
    check(&message)?;
    let control = state.control();
    let new = clawfarm_control::NewConfig { content, message, expect_version: Some(0) };
    control.save_config(&context, &name, new).await.map_err(|error| match error.code() {
        Code::PreconditionFailed => Error::new(Code::Conflict, format!("there is a configuration '{name}'"))
            .field("name")
            .fix(format!("save its next revision: PUT {PREFIX}/configs/{name}")),
        _ => error,
    })?;
    let (mut headers, view) = tagged(control, &context, &name).await?;
    headers.insert(LOCATION, header(&format!("{PREFIX}/configs/{name}")));
    Ok((StatusCode::CREATED, headers, Answer(view)))
}

/// One configuration, with its newest revision.
#[utoipa::path(
    get, path = "/api/v1/configs/{name}", tag = "configs",
    params(("name" = inline(ConfigName), Path, description = "Its name", example = "support")),
    responses((status = 200, description = "The configuration", body = ConfigView,
        headers(("etag" = String, description = "Its version, for `If-Match`"))))
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
) -> ApiResult<impl IntoResponse> {
    let (headers, view) = tagged(state.control(), &context, &name).await?;
    Ok((headers, Answer(view)))
}

/// Saves what a configuration says as its next revision, or as the first of a new one. It goes
/// to nobody before it is published. What says the same as before makes no revision.
#[utoipa::path(
    put, path = "/api/v1/configs/{name}", tag = "configs",
    params(
        ("name" = inline(ConfigName), Path, description = "Its name", example = "support"),
        ("if-match" = inline(IfMatch), Header, description = "The ETag that the change is based on", example = "\"7\""),
    ),
    request_body(content = SaveConfig, example = json!({"content": {"body": {"model": {"name": "claude-3-opus"}}},
        "message": "the larger model"})),
    responses((status = 200, description = "The configuration now", body = ConfigView,
        headers(("etag" = String, description = "Its new version"))))
)]
pub(super) async fn save(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
    IfMatch(version): IfMatch,
    Json { value: SaveConfig { content, message }, .. }: Json<SaveConfig>,
) -> ApiResult<impl IntoResponse> {
    check(&message)?;
    let control = state.control();
    let same = match control.revision(&context, &name, None).await {
        Ok(newest) => newest.content == content,
        Err(error) if error.code() == Code::NotFound => false,
        Err(error) => return Err(error.into()),
    };
    let (headers, view) = match same {
        true => tagged(control, &context, &name).await?,
        false => {
            let new = clawfarm_control::NewConfig { content, message, expect_version: version };
            control.save_config(&context, &name, new).await?;
            tagged(control, &context, &name).await?
        }
    };
    if same && version.is_some_and(|version| version != view.config.version) {
        return Err(Error::new(
            Code::PreconditionFailed,
            format!("'{name}' is at version {}", view.config.version),
        )
        .field("If-Match")
        .fix("read it again and repeat the change on what it is now")
        .into());
    }
    Ok((headers, Answer(view)))
}

/// Says what saving a configuration would come to, and checks it as saving does. Saves nothing.
#[utoipa::path(
    post, path = "/api/v1/configs/{name}/check", tag = "configs",
    params(("name" = inline(ConfigName), Path, description = "Its name", example = "support")),
    request_body(content = SaveConfig, example = json!({"content": {"body": {"model": {"name": "claude-3-opus"}}}})),
    responses((status = 200, description = "It could be saved; what differs", body = ConfigChecked))
)]
pub(super) async fn try_out(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
    Json { value: SaveConfig { content, message }, .. }: Json<SaveConfig>,
) -> ApiResult<Answer<ConfigChecked>> {
    check(&message)?;
    let (revision, changes) = state.control().would_save(&context, &name, &content).await?;
    Ok(Answer(ConfigChecked { revision, changes }))
}

/// Removes a configuration that no instance goes by, with its revisions.
#[utoipa::path(
    delete, path = "/api/v1/configs/{name}", tag = "configs",
    params(("name" = inline(ConfigName), Path, description = "Its name", example = "support")),
    responses((status = 204, description = "It is removed"))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
) -> ApiResult<StatusCode> {
    state.control().remove_config(&context, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The revisions of a configuration, the newest first, page by page.
#[utoipa::path(
    get, path = "/api/v1/configs/{name}/revisions", tag = "configs",
    params(("name" = inline(ConfigName), Path, description = "Its name", example = "support"), RevisionsQuery),
    responses((status = 200, description = "One page", body = RevisionList))
)]
pub(super) async fn revisions(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
    Query(query): Query<RevisionsQuery>,
) -> ApiResult<Answer<RevisionList>> {
    let limit = limit(Some(query.limit.unwrap_or(REVISIONS)))?;
    if let Some(wrong) = query.before.filter(|number| *number < 1) {
        return Err(Error::invalid("before", format!("there is no revision {wrong}"))
            .fix("give a number from 1")
            .into());
    }
    let items = state.control().revisions(&context, &name, query.before, limit).await?;
    let full = items.len() >= limit as usize;
    let next = items.last().map(|it| it.number).filter(|number| full && *number > 1);
    Ok(Answer(RevisionList { items, next }))
}

/// One revision.
#[utoipa::path(
    get, path = "/api/v1/configs/{name}/revisions/{number}", tag = "configs",
    params(
        ("name" = inline(ConfigName), Path, description = "Its name", example = "support"),
        ("number" = i64, Path, description = "The revision's number", minimum = 1),
    ),
    responses((status = 200, description = "The revision", body = Revision))
)]
pub(super) async fn revision(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    RevisionOf(name, number): RevisionOf,
) -> ApiResult<Answer<Revision>> {
    Ok(Answer(state.control().revision(&context, &name, Some(number)).await?))
}

/// What leads from one revision to another: from the published one to the newest, when nothing
/// else is asked for.
#[utoipa::path(
    get, path = "/api/v1/configs/{name}/diff", tag = "configs",
    params(("name" = inline(ConfigName), Path, description = "Its name", example = "support"), DiffQuery),
    responses((status = 200, description = "Each difference", body = ConfigDiff))
)]
pub(super) async fn diff(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
    Query(query): Query<DiffQuery>,
) -> ApiResult<Answer<ConfigDiff>> {
    let control = state.control();
    let config = control.config(&context, &name).await?;
    let to = query.to.unwrap_or(config.head);
    let before = || (to > 1).then(|| to - 1);
    let published = || config.published.filter(|number| query.to.is_none() && *number != to);
    let changes = match query.from.or_else(published).or_else(before) {
        Some(from) => {
            let changes = control.config_diff(&context, &name, from, to).await?;
            ConfigDiff { from: Some(from), to, changes }
        }
        // Of nothing before it, as it was saved.
        None => {
            let first = control.revision(&context, &name, Some(to)).await?;
            ConfigDiff { from: None, to, changes: first.changes }
        }
    };
    Ok(Answer(changes))
}

/// What publishing a revision would do: which instances are started again and why, which take it
/// up while they run, and which can't have it. Changes nothing.
#[utoipa::path(
    post, path = "/api/v1/configs/{name}/plan", tag = "configs",
    params(("name" = inline(ConfigName), Path, description = "Its name", example = "support")),
    request_body(content = PlanRequest, example = json!({"selector": {"labels": {"team": "support"}}})),
    responses((status = 200, description = "What it would do", body = PlanView))
)]
pub(super) async fn plan(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
    JsonOrDefault(asked): JsonOrDefault<PlanRequest>,
) -> ApiResult<Answer<PlanView>> {
    let most = asked.limit.unwrap_or(clawfarm_api::query::DEFAULT_LIMIT);
    if !(1..=clawfarm_api::config::PLAN_MAX).contains(&most) {
        return Err(Error::invalid("limit", format!("a plan of {most} instances can't be had"))
            .fix(format!("give 1 to {}; the counts are of all", clawfarm_api::config::PLAN_MAX))
            .into());
    }
    let plan = state.control().plan(&context, &name, asked.revision, &asked.selector).await?;
    let words = plan.instances.iter().flat_map(|it| it.warnings.iter());
    let words = words.map(|it| (it.field.as_str(), it.message.as_str()));
    let not_asked = not_asked(plan.instances.iter().filter_map(|it| it.not_asked.as_deref()));
    Ok(Answer(PlanView {
        warnings: ConfigWarning::of(words.chain(not_asked.iter().map(|it| ("config", it.as_str())))),
        config: name,
        revision: plan.to,
        counts: ImpactCounts::of(plan.instances.iter().map(|it| &it.impact)),
        instances: plan
            .instances
            .into_iter()
            .take(most as usize)
            .map(|it| PlannedView { instance: it.id, before: it.before, impact: it.impact })
            .collect(),
        refusals: plan.refusals.into_iter().map(refusal).collect(),
        refused: plan.refused as u64,
    }))
}

/// Begins to bring a revision to the instances that go by its configuration, and answers with the
/// rollout to look at. Nobody gets it unless all of them can have it: running claws are asked
/// before, which takes seconds.
#[utoipa::path(
    post, path = "/api/v1/configs/{name}/publish", tag = "configs",
    params(("name" = inline(ConfigName), Path, description = "Its name", example = "support")),
    request_body(content = PublishRequest, example = json!({"strategy": {"steps": [
        {"to": 1, "then": "promotion"}, {"to": "10%", "then": {"secs": 300}}], "parallel": 20}})),
    responses((status = 202, description = "It goes out", body = Rollout,
        headers(("location" = String, description = "The rollout"))))
)]
pub(super) async fn publish(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
    JsonOrDefault(asked): JsonOrDefault<PublishRequest>,
) -> ApiResult<impl IntoResponse> {
    let PublishRequest { revision, selector, strategy, message } = asked;
    check(&message)?;
    let what = Publish { revision, selector, strategy, message };
    Ok(begun(state.control().publish(&context, &name, what).await?))
}

/// Goes back to a revision, to the one that was published before when none is given. A rollout
/// that is under way is turned round instead. Instances that can't have the revision are left out.
#[utoipa::path(
    post, path = "/api/v1/configs/{name}/rollback", tag = "configs",
    params(("name" = inline(ConfigName), Path, description = "Its name", example = "support")),
    request_body(content = RollbackRequest, example = json!({"to": 1})),
    responses((status = 202, description = "It goes back", body = Rollout,
        headers(("location" = String, description = "The rollout"))))
)]
pub(super) async fn roll_back(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<ConfigName>,
    JsonOrDefault(asked): JsonOrDefault<RollbackRequest>,
) -> ApiResult<impl IntoResponse> {
    Ok(begun(state.control().roll_back(&context, &name, asked.to, asked.strategy).await?))
}

/// Checks what a change is said to be for.
pub(super) fn check(message: &str) -> Result<()> {
    if message.chars().count() <= MESSAGE_MAX {
        return Ok(());
    }
    Err(Error::invalid("message", format!("it is longer than {MESSAGE_MAX} characters"))
        .fix("say it in fewer words"))
}

/// What is said of instances whose claws were not asked.
pub(super) fn not_asked<'a>(why: impl Iterator<Item = &'a str>) -> Vec<String> {
    why.map(|why| format!("{NOT_ASKED}: {why}")).collect()
}

fn begun(rollout: Rollout) -> impl IntoResponse {
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, header(&format!("{PREFIX}/rollouts/{}", rollout.id)));
    (StatusCode::ACCEPTED, headers, Answer(rollout))
}

pub(super) fn refusal(refusal: Refusal) -> RefusalView {
    RefusalView { instance: refusal.id, field: refusal.field, reason: refusal.reason }
}

async fn tagged(control: &Control, context: &Context, name: &ConfigName) -> Result<(HeaderMap, ConfigView)> {
    let config = control.config(context, name).await?;
    let newest = control.revision(context, name, Some(config.head)).await?;
    let mut headers = HeaderMap::new();
    headers.insert(ETAG, header(&format!("\"{}\"", config.version)));
    Ok((headers, ConfigView { config, newest }))
}

/// Of numbers, names and ids, which are visible ASCII by their types.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
