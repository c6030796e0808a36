//! The listener for claws: what a claw may ask the server for, and nothing else.
//!
//! It is apart from the API's, so that a claw that speaks to it can reach no route of the
//! API at all. Today that is the demo model, and to wake others of its project; each claw has a
//! key of its own for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Path as UrlPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use clawfarm_adapters::demo::{self, Answer, ChatRequest, MAX_REQUEST_BYTES, Step};
use clawfarm_control::Control;
use clawfarm_model::{ClawId, Code, Error, Result, Timestamp};
use futures::stream::{self, StreamExt};
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::error::{ApiError, ApiResult};
use crate::layers;
use crate::token::random_hex;

/// The file in the home folder that remembers the port.
const FILE: &str = "claw-port";
/// Requests of one claw at a time. OpenClaw works on four turns and eight of their parts at
/// once; each may hold a body of 8 MiB here.
const REQUESTS_MAX: usize = 16;
/// How long a body may take to arrive, from a process of this machine.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// The bound listener for claws, on loopback.
#[derive(Debug)]
pub struct ClawListener {
    listener: TcpListener,
    port: u16,
    moved_from: Option<u16>,
}

impl ClawListener {
    /// Binds the port that `home` remembers, so that claws which run find the server where
    /// it was; another, remembered from then on, when there is none or it is taken.
    ///
    /// # Errors
    /// `Internal` when no port can be had or the file can't be written.
    pub async fn bind(home: &Path) -> Result<Self> {
        let path = home.join(FILE);
        let remembered = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u16>().ok());
        if let Some(port) = remembered.filter(|port| *port != 0) {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => return Ok(Self { listener, port, moved_from: None }),
                Err(error) => {
                    tracing::warn!(port, %error, "the port for claws is taken; another is chosen, and instances reach it after their next start");
                }
            }
        }
        let failed = |error: std::io::Error| {
            Error::new(Code::Internal, format!("can't listen for claws: {error}")).source(error)
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        remember(&path, port).map_err(failed)?;
        Ok(Self { listener, port, moved_from: remembered })
    }

    /// The port, for the runtimes' `host_route`.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The port of the server before, when it could not be had again: instances that run
    /// still ask there.
    #[must_use]
    pub const fn moved_from(&self) -> Option<u16> {
        self.moved_from
    }

    pub(super) fn into_parts(self) -> (TcpListener, u16) {
        (self.listener, self.port)
    }
}

fn remember(path: &Path, port: u16) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{port}")?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

/// Who may ask, and how much of it is under way.
#[derive(Clone)]
struct Claws {
    control: Control,
    places: Arc<Mutex<HashMap<ClawId, Arc<Semaphore>>>>,
}

impl Claws {
    /// A place for one more request of this claw, when there is one.
    fn place(&self, id: ClawId) -> Option<OwnedSemaphorePermit> {
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of claws that ask nothing now: each request holds a share of its claw's.
        all.retain(|_, places| Arc::strong_count(places) > 1);
        let places = all.entry(id).or_insert_with(|| Arc::new(Semaphore::new(REQUESTS_MAX)));
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// The routes for claws.
pub(super) fn router(control: Control) -> Router {
    let claws = Claws { control, places: Arc::default() };
    let router = Router::new()
        .route("/demo/v1/models", get(models))
        .route("/demo/v1/chat/completions", post(complete))
        .route("/wake/v1/instances/{id}", post(wake).with_state(claws.clone()))
        .layer(from_fn_with_state(claws, check));
    layers::around_claws(router, MAX_REQUEST_BYTES)
}

/// Lets in who presents `<instance id>.<its key>`, and no claw more often than it may.
async fn check(State(claws): State<Claws>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let credential = given.strip_prefix("Bearer ").and_then(|text| text.trim().rsplit_once('.'));
    let known = match credential.map(|(id, key)| (id.parse::<ClawId>(), key)) {
        Some((Ok(id), key)) => claws.control.check_model_key(&id, key).await.then_some(id),
        _ => None,
    };
    let Some(id) = known else {
        let error = Error::new(
            Code::Unauthenticated,
            "clawfarm's demo model, and waking others, is for its own instances alone",
        )
        .field("Authorization")
        .fix("instances get their key from clawfarm when they are started");
        return ApiError::from(error).into_response();
    };
    request.extensions_mut().insert(Caller(id.clone()));
    match claws.place(id) {
        Some(place) => layers::held(next.run(request).await, place),
        None => ApiError::from(
            Error::new(Code::Overloaded, format!("{REQUESTS_MAX} requests of this instance are under way"))
                .fix("wait for one of them to be answered"),
        )
        .into_response(),
    }
}

/// Which claw asks.
#[derive(Clone)]
struct Caller(ClawId);

/// Wakes another claw of the caller's project. Awake already is a success.
async fn wake(
    State(claws): State<Claws>,
    Extension(Caller(caller)): Extension<Caller>,
    UrlPath(id): UrlPath<String>,
) -> ApiResult<impl IntoResponse> {
    let id: ClawId = id.parse().map_err(|_| Error::not_found("instance", "of that id"))?;
    let woken = claws.control.wake_by_instance(&caller, &id).await?;
    let answer = serde_json::json!({ "id": woken.id, "phase": woken.phase });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

async fn models() -> Json<serde_json::Value> {
    Json(demo::models())
}

/// Answers as the demo model does: at once or in pieces, as it was asked.
async fn complete(request: Request) -> ApiResult<Response> {
    clawfarm_failpoint::point!(ModelAsked);
    let body = timeout(BODY_LIMIT, Bytes::from_request(request, &())).await.map_err(|_| {
        let error = Error::new(
            Code::Timeout,
            format!("the request did not arrive within {} s", BODY_LIMIT.as_secs()),
        )
        .field("body");
        ApiError::http(StatusCode::REQUEST_TIMEOUT, "The body can't be read", error)
    })?;
    let body = body.map_err(|rejection| {
        let error =
            Error::new(Code::InvalidInput, "the request is longer than 8 MiB, or was cut off").field("body");
        ApiError::http(rejection.status(), "The body can't be read", error)
    })?;
    let request: ChatRequest = serde_json::from_slice(&body)
        .map_err(|error| Error::invalid("body", format!("it is no chat request: {error}")))?;
    let answer = demo::answer(&request);
    let id = format!("demo-{}", random_hex::<8>()?);
    let created = Timestamp::now().as_millis() / 1000;
    if request.stream == Some(true) {
        return streamed(answer.steps(&request, &id, created));
    }
    sleep(answer.wait).await;
    Ok(Json::<serde_json::Value>(Answer::body(&answer, &request, &id, created)).into_response())
}

fn streamed(steps: Vec<Step>) -> ApiResult<Response> {
    let pieces = stream::iter(steps).filter_map(|step| async {
        match step {
            Step::Send(text) => Some(Ok::<_, Infallible>(Bytes::from(text))),
            Step::Wait(time) => {
                sleep(time).await;
                None
            }
        }
    });
    Response::builder()
        .status(StatusCode::OK)
        .header(CONTENT_TYPE, "text/event-stream")
        .body(Body::from_stream(pieces))
        .map_err(|error| Error::internal("the answer can't be begun", error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_port_is_remembered_and_left_when_it_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let first = ClawListener::bind(home.path()).await.unwrap();
        let port = first.port();
        assert_ne!(port, 0);
        let second = ClawListener::bind(home.path()).await.unwrap();
        assert_ne!(second.port(), port, "the first still has it");
        assert_eq!(second.moved_from(), Some(port));
        let port = second.port();
        drop((first, second));
        let third = ClawListener::bind(home.path()).await.unwrap();
        assert_eq!((third.port(), third.moved_from()), (port, None));
    }

    #[tokio::test]
    async fn a_damaged_file_is_written_anew() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(FILE), "what?").unwrap();
        let listener = ClawListener::bind(home.path()).await.unwrap();
        let text = std::fs::read_to_string(home.path().join(FILE)).unwrap();
        assert_eq!(text.trim(), listener.port().to_string());
    }
}
