//! `/instances/{id}/logs`: what a claw printed.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use clawfarm_api::stream::LOG;
use clawfarm_api::{LogEntry, LogList, LogsQuery};
use clawfarm_model::Error;
use clawfarm_runtime::{LogLine, LogQuery, OutputStream};
use futures::{StreamExt, TryStreamExt};

use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Query, Segment, WantsStream};
use crate::state::ServerState;
use crate::stream::{Item, answer};

/// The most lines of one answer that is no stream.
const LINES_MAX: u32 = 10_000;

/// What an instance printed, oldest first. With `follow` (or `Accept: text/event-stream`) an
/// event stream of `log` events with a `LogEntry` each.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/logs", tag = "instances",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        LogsQuery,
    ),
    responses((status = 200, description = "The lines", content(
        (LogList = "application/json"), (LogEntry = "text/event-stream"))))
)]
pub(super) async fn instance(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Query(query): Query<LogsQuery>,
    WantsStream(stream): WantsStream,
) -> ApiResult<Response> {
    if query.tail.is_some_and(|tail| tail > LINES_MAX) {
        return Err(Error::invalid("tail", "so many lines are not answered at once")
            .fix(format!("give at most {LINES_MAX}; 'since' leads further back"))
            .into());
    }
    let tail = if stream || query.follow { query.tail } else { Some(query.tail.unwrap_or(LINES_MAX)) };
    let wanted = LogQuery { since: query.since, tail: tail.map(|n| n as usize), follow: query.follow };
    let lines = state.control().logs(&context, &id.0, wanted).await?.map_ok(view);
    if stream || query.follow {
        let items = lines.map_ok(Item::from).boxed();
        return Ok(answer(LOG, items, state.shutdown().clone(), context.request_id()));
    }
    Ok(Json(LogList { items: lines.try_collect().await? }).into_response())
}

fn view(line: LogLine) -> LogEntry {
    let stream = match line.stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    };
    LogEntry { at: line.at, stream: stream.to_owned(), text: line.text }
}
