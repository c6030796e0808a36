//! `/events` and `/instances/{id}/events`: what happened.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use clawfarm_api::stream::EVENT;
use clawfarm_api::{EventList, EventsQuery};
use clawfarm_control::Follower;
use clawfarm_model::event::Event;
use clawfarm_model::{Context, Error, Result};
use futures::stream::{self, BoxStream, StreamExt};

use super::limit;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, LastEventId, Query, Segment, WantsStream};
use crate::state::ServerState;
use crate::stream::{Item, answer};

/// What happened, oldest first. With `follow` (or `Accept: text/event-stream`) an event
/// stream of `event` events with an `Event` each, whose id is the event's number.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events", params(EventsQuery),
    responses((status = 200, description = "The events", content(
        (EventList = "application/json"), (Event = "text/event-stream"))))
)]
pub(super) async fn all(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Query(query): Query<EventsQuery>,
    stream: WantsStream,
    last: LastEventId,
) -> ApiResult<Response> {
    events(&state, context, None, query, stream, last).await
}

/// What happened to one instance.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/events", tag = "events",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        EventsQuery,
    ),
    responses((status = 200, description = "The events", content(
        (EventList = "application/json"), (Event = "text/event-stream"))))
)]
pub(super) async fn instance(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Query(query): Query<EventsQuery>,
    stream: WantsStream,
    last: LastEventId,
) -> ApiResult<Response> {
    // Its full id: a prefix may come to mean another instance while a stream is open.
    let id = state.control().get(&context, &id.0).await?.id.to_string();
    events(&state, context, Some(id), query, stream, last).await
}

async fn events(
    state: &ServerState,
    context: Context,
    instance: Option<String>,
    query: EventsQuery,
    WantsStream(stream): WantsStream,
    LastEventId(last): LastEventId,
) -> ApiResult<Response> {
    let limit = limit(query.limit)?;
    let after = last.or(query.after);
    if after.is_some_and(|after| after < 0) {
        return Err(Error::invalid("after", "events are numbered from 1").fix("give 0 to have all").into());
    }
    let control = state.control().clone();
    let (items, last_seq) = control.events(&context, instance.as_deref(), after, limit).await?;
    if !(stream || query.follow) {
        return Ok(Json(EventList { items, last_seq }).into_response());
    }
    let follower = control.follow_events(&context, instance.as_deref(), last_seq).await?;
    Ok(answer(EVENT, follow(items, follower), state.shutdown().clone(), context.request_id()))
}

/// The events in `first`, and then those that happen.
fn follow(first: Vec<Event>, follower: Follower) -> BoxStream<'static, Result<Item<Event>>> {
    let later = stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(events) => events.map(|events| (Ok(events), Some(follower))),
            Err(error) => Some((Err(error), None)),
        }
    });
    stream::once(async { Ok(first) })
        .chain(later)
        .flat_map(|batch| {
            let items: Vec<_> = match batch {
                Ok(events) => {
                    events.into_iter().map(|event| Ok(Item { seq: Some(event.seq), value: event })).collect()
                }
                Err(error) => vec![Err(error)],
            };
            stream::iter(items)
        })
        .boxed()
}
