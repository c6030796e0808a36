//! What instances are configured with: `/instances/{id}/config`, `/instances/{id}/drift`, and
//! `PATCH /instances` for many.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::IntoResponse;
use clawfarm_api::{
    ChangeConfig, ChangeConfigs, ConfigChanged, ConfigWarning, ConfigsChanged, DriftView, DriftedFileView,
    ExplainView, ImpactCounts, InstanceView, PlannedView, WarningView,
};
use clawfarm_control::{ChangeMany, Configure, Drift};

use super::configs::{check, not_asked, refusal};
use super::instances::tagged;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, IfMatch, Json, Segment};
use crate::state::ServerState;

/// An instance's configuration: each value, who says so, what it overrode, and what is locked.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/config", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "The configuration, explained", body = ExplainView))
)]
pub(super) async fn explain(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<ExplainView>> {
    let explained = state.control().explain(&context, &id.0).await?;
    Ok(Answer(ExplainView {
        id: explained.id,
        layers: explained.layers,
        config: explained.document,
        values: explained.values,
        refused: explained.refused,
        warnings: explained.warnings.into_iter().map(warning).collect(),
        in_force: explained.in_force,
    }))
}

/// Changes what an instance says itself, or which template it is bound to. What is left out
/// stays. One that is up takes it up while it runs where its type can, and is started again where
/// it must.
#[utoipa::path(
    patch, path = "/api/v1/instances/{id}/config", tag = "configs",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        ("if-match" = inline(IfMatch), Header, description = "The ETag that the change is based on", example = "\"7\""),
    ),
    request_body(content = ChangeConfig, example = json!({"overrides": {"env": {"REGION": "eu"}}})),
    responses((status = 200, description = "The instance now, and what that asks of it", body = ConfigChanged,
        headers(("etag" = String, description = "Its new version"))))
)]
pub(super) async fn change(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    IfMatch(version): IfMatch,
    Json { value: change, .. }: Json<ChangeConfig>,
) -> ApiResult<impl IntoResponse> {
    let ChangeConfig { overrides, unset, replace, template, variables, dry_run } = change;
    let change = Configure { patch: overrides, unset, replace, template, variables };
    let control = state.control();
    let done = match dry_run {
        true => control.would_configure(&context, &id.0, &change).await?,
        false => control.configure(&context, &id.0, version, &change).await?,
    };
    let answer = ConfigChanged {
        instance: InstanceView::from(&done.instance),
        impact: done.impact,
        warnings: done.warnings.into_iter().map(warning).collect(),
    };
    Ok((tagged(&done.instance), Answer(answer)))
}

/// Begins to make the same change in what many instances say themselves; or, when one of them
/// can't have it, in none. It goes out as a revision does, and answers with the rollout to look at.
/// With `dry_run` it is only told what it would do.
#[utoipa::path(
    patch, path = "/api/v1/instances", tag = "configs",
    request_body(content = ChangeConfigs, example = json!({"selector": {"labels": {"team": "support"}},
        "overrides": {"env": {"REGION": "eu"}}, "dry_run": true})),
    responses((status = 200, description = "What it does, or would do", body = ConfigsChanged))
)]
pub(super) async fn change_many(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Json { value: change, .. }: Json<ChangeConfigs>,
) -> ApiResult<Answer<ConfigsChanged>> {
    let ChangeConfigs { selector, overrides, unset, strategy, message, dry_run } = change;
    check(&message)?;
    let what = ChangeMany { selector, patch: overrides, unset, strategy, message };
    let control = state.control();
    let batch = match dry_run {
        true => control.would_configure_many(&context, &what).await?,
        false => control.configure_many(&context, &what).await?,
    };
    let words = batch.instances.iter().flat_map(|it| &it.warnings);
    let words = words.map(|it| (it.field.as_str(), it.message.as_str()));
    let not_asked = not_asked(batch.instances.iter().filter_map(|it| it.not_asked.as_deref()));
    Ok(Answer(ConfigsChanged {
        changed: batch.rollout.is_some(),
        rollout: batch.rollout,
        counts: ImpactCounts::of(batch.instances.iter().map(|it| &it.impact)),
        warnings: ConfigWarning::of(words.chain(not_asked.iter().map(|it| ("config", it.as_str())))),
        instances: batch
            .instances
            .into_iter()
            .map(|it| PlannedView { instance: it.id, before: None, impact: it.impact })
            .collect(),
        refusals: batch.refusals.into_iter().map(refusal).collect(),
    }))
}

/// Compares what an instance has on its disk and in its memory with what it should. Changes
/// nothing.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/drift", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "How it differs", body = DriftView))
)]
pub(super) async fn drift(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<DriftView>> {
    Ok(Answer(view(state.control().drift(&context, &id.0).await?, false)))
}

/// Has what differs put right: the files are written anew, and the claw takes them up or is
/// started again.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/drift", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "What differed, and is being put right", body = DriftView))
)]
pub(super) async fn mend(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<DriftView>> {
    let (drift, _) = state.control().mend_drift(&context, &id.0).await?;
    let mending = !drift.is_none();
    Ok(Answer(view(drift, mending)))
}

fn view(drift: Drift, mending: bool) -> DriftView {
    DriftView {
        drifted: !drift.is_none(),
        id: drift.id,
        files: drift
            .files
            .into_iter()
            .map(|it| DriftedFileView { path: it.path, missing: it.missing })
            .collect(),
        in_memory: drift.in_memory,
        asked: drift.asked,
        changing: drift.changing,
        mending,
    }
}

fn warning(it: clawfarm_adapters::Warning) -> WarningView {
    WarningView { field: it.field, message: it.message }
}
