//! How many requests are served at a time, and for how long.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use clawfarm_model::{Code, Error};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::overloaded;
use crate::error::ApiError;

/// Plain requests at a time. Each holds a few hundred KiB at most; the store works on fewer.
const PLAIN_MAX: usize = 256;
/// Streams, consoles and long polls at a time: they sleep most of the time, and cost a task
/// and a connection.
const WAITING_MAX: usize = 1024;
/// Consoles being opened with a ticket at a time: anybody can ask for one, and is answered at once
/// when the ticket is none. They are counted apart, so that no stranger takes the places of those
/// who have a token.
const TICKETS_MAX: usize = 128;
/// How long a plain request may take.
const PLAIN_LIMIT: Duration = Duration::from_secs(30);

/// The limits of one kind of route.
#[derive(Clone)]
pub(crate) struct Load {
    places: Arc<Semaphore>,
    limit: Option<Duration>,
}

impl Load {
    /// For what is answered at once.
    pub(crate) fn plain() -> Self {
        Self { places: Arc::new(Semaphore::new(PLAIN_MAX)), limit: Some(PLAIN_LIMIT) }
    }

    /// For streams, consoles and long polls, which have their own limits.
    pub(crate) fn waiting() -> Self {
        Self { places: Arc::new(Semaphore::new(WAITING_MAX)), limit: None }
    }

    /// For what is asked with a ticket instead of a token.
    pub(crate) fn tickets() -> Self {
        Self { places: Arc::new(Semaphore::new(TICKETS_MAX)), limit: None }
    }

    /// The layer's function.
    pub(crate) async fn check(State(load): State<Self>, request: Request, next: Next) -> Response {
        let Ok(place) = Arc::clone(&load.places).try_acquire_owned() else {
            return overloaded().into_response();
        };
        let response = match load.limit {
            None => next.run(request).await,
            Some(limit) => match tokio::time::timeout(limit, next.run(request)).await {
                Ok(response) => response,
                Err(_) => too_long(limit).into_response(),
            },
        };
        held(response, place)
    }
}

fn too_long(limit: Duration) -> ApiError {
    Error::new(Code::Timeout, format!("the request was not served within {} s", limit.as_secs()))
        .fix("what was accepted goes on; look at the instance or the operation before trying again")
        .into()
}

/// Keeps the place until the answer was sent to its end: a stream's answer is its stream.
pub(crate) fn held(response: Response, place: OwnedSemaphorePermit) -> Response {
    response.map(|body| Body::new(Held { body, _place: place }))
}

struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    fn app(load: &Load) -> Router {
        Router::new()
            .route("/quick", get(|| async { "ok" }))
            .route("/stuck", get(std::future::pending::<()>))
            .layer(from_fn_with_state(load.clone(), Load::check))
    }

    fn to(path: &str) -> Request {
        Request::builder().uri(path).body(Body::empty()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_ended() {
        let load = Load::plain();
        let response = app(&load).oneshot(to("/stuck")).await.unwrap();
        assert_eq!(response.status(), 504);
        drop(response);
        assert_eq!(load.places.available_permits(), PLAIN_MAX);
    }

    #[tokio::test]
    async fn an_answer_holds_its_place_until_it_was_read_and_no_longer() {
        let load = Load { places: Arc::new(Semaphore::new(1)), limit: None };
        let first = app(&load).oneshot(to("/quick")).await.unwrap();
        let refused = app(&load).oneshot(to("/quick")).await.unwrap();
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "1");
        let body = axum::body::to_bytes(first.into_body(), 10).await.unwrap();
        assert_eq!(body, "ok");
        assert_eq!(app(&load).oneshot(to("/quick")).await.unwrap().status(), 200);
    }
}
