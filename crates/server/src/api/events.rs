//! `/events` and `/instances/{id}/events`: what happened.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use clawfarm_api::query::MAX_LIMIT;
use clawfarm_api::stream::EVENT;
use clawfarm_api::{EventList, EventsQuery};
use clawfarm_control::Control;
use clawfarm_model::event::Event;
use clawfarm_model::{Context, Error, Result};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

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
        ("id" = String, Path, description = "Its id, its name when that is unique, or a unique prefix"),
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
    // Subscribed before the first look, so that nothing falls between the two.
    let signal = control.event_signal();
    let (items, last_seq) = control.events(&context, instance.as_deref(), after, limit).await?;
    if !(stream || query.follow) {
        return Ok(Json(EventList { items, last_seq }).into_response());
    }
    let id = context.request_id().to_owned();
    let watcher = Watcher { control, context, instance, signal, after: last_seq };
    Ok(answer(EVENT, watcher.follow(items), state.shutdown().clone(), &id))
}

/// Follows the events of a context.
struct Watcher {
    control: Control,
    context: Context,
    instance: Option<String>,
    signal: watch::Receiver<i64>,
    after: i64,
}

impl Watcher {
    /// The events in `first`, and then those that happen.
    fn follow(self, first: Vec<Event>) -> BoxStream<'static, Result<Item<Event>>> {
        let later = stream::unfold(self, |mut watcher| async move {
            let batch = watcher.next().await?;
            Some((batch, watcher))
        });
        stream::once(async { Ok(first) })
            .chain(later)
            .flat_map(|batch| {
                let items: Vec<_> = match batch {
                    Ok(events) => events
                        .into_iter()
                        .map(|event| Ok(Item { seq: Some(event.seq), value: event }))
                        .collect(),
                    Err(error) => vec![Err(error)],
                };
                stream::iter(items)
            })
            .boxed()
    }

    async fn next(&mut self) -> Option<Result<Vec<Event>>> {
        loop {
            let read = self
                .control
                .events(&self.context, self.instance.as_deref(), Some(self.after), MAX_LIMIT)
                .await;
            match read {
                Ok((events, _)) if events.is_empty() => self.signal.changed().await.ok()?,
                Ok((events, last)) => {
                    self.after = last;
                    return Some(Ok(events));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
