//! Event streams: items as they come, a sign of life when none come, and a last word.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use clawfarm_api::stream::{END, ERROR};
use clawfarm_api::{EndReason, StreamEnd};
use clawfarm_model::{Error, Result};
use futures::stream::{self, BoxStream, Stream, StreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;

/// A comment is sent when nothing else was for so long. Proxies cut idle connections after
/// 30 to 60 s, and clients take four times this as the end.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// An item of a stream: its number, where it has one, and what is sent.
pub(crate) struct Item<T> {
    pub(crate) seq: Option<i64>,
    pub(crate) value: T,
}

impl<T> From<T> for Item<T> {
    fn from(value: T) -> Self {
        Self { seq: None, value }
    }
}

/// Answers with the items of a stream, under the name `kind`, until it ends or breaks, or the
/// server is stopped.
pub(crate) fn answer<T: Serialize + Send + 'static>(
    kind: &'static str,
    items: BoxStream<'static, Result<Item<T>>>,
    stop: CancellationToken,
    request_id: &str,
) -> Response {
    let id = request_id.to_owned();
    let body = bounded(items, stop).map(move |step| Ok::<_, Infallible>(event(kind, step, &id)));
    Sse::new(body).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response()
}

enum Step<T> {
    Item(Item<T>),
    Failed(Error),
    Ended(EndReason),
}

/// The stream with its last word put behind it, whatever ends it.
fn bounded<T: Send + 'static>(
    items: BoxStream<'static, Result<Item<T>>>,
    stop: CancellationToken,
) -> impl Stream<Item = Step<T>> + Send {
    stream::unfold(Some((items, stop)), |state| async {
        let (mut items, stop) = state?;
        let step = tokio::select! {
            biased;
            () = stop.cancelled() => Step::Ended(EndReason::Shutdown),
            item = items.next() => match item {
                Some(Ok(item)) => Step::Item(item),
                Some(Err(error)) => Step::Failed(error),
                None => Step::Ended(EndReason::Complete),
            },
        };
        let next = matches!(step, Step::Item(_)).then_some((items, stop));
        Some((step, next))
    })
}

fn event<T: Serialize>(kind: &'static str, step: Step<T>, request_id: &str) -> Event {
    let written = match step {
        Step::Item(Item { seq, value }) => {
            let event = match seq {
                Some(seq) => Event::default().id(seq.to_string()),
                None => Event::default(),
            };
            event.event(kind).json_data(value)
        }
        Step::Failed(error) => {
            Event::default().event(ERROR).json_data(ApiError::from(error).problem(request_id))
        }
        Step::Ended(reason) => Event::default().event(END).json_data(StreamEnd { reason }),
    };
    written.unwrap_or_else(|error| {
        tracing::error!(%error, "an item of a stream can't be written as JSON");
        Event::default().comment("an item could not be written")
    })
}
