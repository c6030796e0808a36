//! The gateway of a simulated claw: OpenClaw's protocol as far as an adapter uses it.
//!
//! Bodies are as OpenClaw 2026.9.6 answers. What the claw is (up, booting, draining, frozen)
//! is read from the world for each request, so that a claw which another process froze or
//! ended behaves so here.

mod chat;
mod config;
mod http;
mod inbox;
mod rpc;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::{Method, Request, Response, StatusCode, header};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Connection;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;

use self::http::{Body, failure, json_response, page};
use crate::behaviour::ClawBehaviour;
use crate::disk::now;
use crate::record::{Record, Up, View};
use crate::runtime::{check_up, sha256};
use crate::world::{Step, World};

/// What fits in a connection's buffers, in bytes.
const BUFFER: usize = 16 << 10;
/// How often a request that waits on a frozen claw looks again.
const THAW_POLL: Duration = Duration::from_millis(10);

/// The answers under way in this process, by claw: what makes a claw busy.
#[derive(Debug, Default)]
pub(crate) struct Chats {
    under_way: Mutex<HashMap<ClawId, u64>>,
    asked: AtomicU64,
}

/// One answer under way.
struct Chat {
    chats: Arc<Chats>,
    id: ClawId,
}

impl Chats {
    fn begin(self: &Arc<Self>, id: &ClawId) -> Chat {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default() += 1;
        Chat { chats: self.clone(), id: id.clone() }
    }

    fn count(&self, id: &ClawId) -> u64 {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied().unwrap_or(0)
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let mut under_way = self.chats.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.id);
            }
        }
    }
}

/// Opens a connection to a claw's gateway.
pub(crate) fn dial(
    world: &Arc<World>,
    chats: &Arc<Chats>,
    id: &ClawId,
    port: u16,
) -> Result<Box<dyn Connection>> {
    let record = world.running(id).map_err(|error| match error.code() {
        Code::Gone | Code::NotFound => nothing_listens(id, port),
        _ => error,
    })?;
    let (View::Running(up) | View::Frozen(up)) = record.view(now()) else {
        return Err(nothing_listens(id, port));
    };
    if record.port != port || up.frozen_at.unwrap_or_else(now) < up.listens_at {
        return Err(nothing_listens(id, port));
    }
    let gateway = Arc::new(Gateway {
        world: world.clone(),
        chats: chats.clone(),
        id: id.clone(),
        started_at: up.started_at,
    });
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let gateway = gateway.clone();
            async move { gateway.answer(request).await }
        });
        let served =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        // The peer hung up, or the claw ended: for both the connection's end says it.
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection to a simulated claw broke off");
        }
    });
    Ok(Box::new(ours))
}

fn nothing_listens(id: &ClawId, port: u16) -> Error {
    Error::new(Code::Unavailable, format!("nothing of '{id}' listens on port {port}"))
        .fix("wait until it has started")
}

/// The gateway of one start of one claw.
#[derive(Clone)]
struct Gateway {
    world: Arc<World>,
    chats: Arc<Chats>,
    id: ClawId,
    started_at: i64,
}

/// A claw that can answer, as it is at one moment.
struct Moment {
    up: Up,
    claw: ClawBehaviour,
    now: i64,
}

impl Gateway {
    /// The claw, once it is not frozen; an error, which ends the connection, when it is gone.
    async fn moment(&self) -> io::Result<Moment> {
        loop {
            let behaviour = self.world.behaviour().map_err(io::Error::other)?;
            check_up(&behaviour).map_err(io::Error::other)?;
            let record = self.world.record(&self.id).map_err(io::Error::other)?;
            let version = record.as_ref().map_or("", |record| record.version.as_str());
            let claw = behaviour.claw(self.id.as_str(), version);
            let now = now();
            match record.as_ref().map(|record| record.view(now)) {
                Some(View::Running(up)) if up.started_at == self.started_at => {
                    if claw.silent != Some(true) {
                        return Ok(Moment { up: up.clone(), claw, now });
                    }
                }
                Some(View::Frozen(up)) if up.started_at == self.started_at => {}
                _ => return Err(io::Error::other("the simulated claw ended")),
            }
            tokio::time::sleep(THAW_POLL).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let moment = self.moment().await?;
        let path = request.uri().path().to_owned();
        if let Some(response) = self.probe(&path, &moment) {
            return Ok(response);
        }
        if path.starts_with("/v1/") || path.starts_with("/api/") {
            if !moment.up.admits(&request) {
                return Ok(failure(StatusCode::UNAUTHORIZED, "Unauthorized", "unauthorized"));
            }
            return match (request.method(), path.as_str()) {
                (&Method::POST, "/api/v1/admin/rpc") => self.rpc(request, &moment).await,
                (&Method::POST, "/v1/chat/completions") => self.chat(request, &moment).await,
                (&Method::GET, "/v1/models") => Ok(json_response(
                    StatusCode::OK,
                    &json!({"object": "list", "data": [{"id": "openclaw", "object": "model"}]}),
                )),
                _ => Ok(failure(StatusCode::NOT_FOUND, "Not Found", "not_found")),
            };
        }
        if request.method() == Method::POST {
            return self.message(request, &moment).await;
        }
        // As OpenClaw does: any other path is its control page.
        Ok(page("<!doctype html><title>Simulated claw</title><p>This claw is simulated."))
    }

    fn probe(&self, path: &str, moment: &Moment) -> Option<Response<Body>> {
        let uptime = moment.now.saturating_sub(moment.up.started_at);
        let started = moment.now >= moment.up.ready_at && moment.claw.unhealthy != Some(true);
        let draining = moment.up.suspension(moment.now).is_some();
        let status = |good| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = match path {
            "/health" | "/healthz" if moment.claw.unhealthy == Some(true) => {
                return Some(json_response(status(false), &json!({"ok": false, "status": "unhealthy"})));
            }
            "/health" | "/healthz" => json!({"ok": true, "status": "live"}),
            "/startupz" if started && !draining => {
                json!({"ok": true, "status": "started", "version": "sim", "uptimeMs": uptime})
            }
            "/startupz" => {
                let word = if started { "draining" } else { "starting" };
                let body = json!({"ok": false, "status": word, "version": "sim", "uptimeMs": uptime});
                return Some(json_response(status(false), &body));
            }
            "/ready" | "/readyz" => {
                let mut failing = Vec::new();
                if !started {
                    failing.push("startup");
                }
                if draining {
                    failing.push("gateway-draining");
                }
                let good = failing.is_empty();
                let body = json!({"ready": good, "failing": failing, "uptimeMs": uptime});
                return Some(json_response(status(good), &body));
            }
            _ => return None,
        };
        Some(json_response(StatusCode::OK, &body))
    }

    /// Changes the claw's record when it still is the one that was dialled.
    async fn change<T: Send + 'static>(
        &self,
        step: Step,
        how: impl FnOnce(&mut Record, i64) -> Option<T> + Send + 'static,
    ) -> io::Result<Option<T>> {
        let (world, id, started_at) = (self.world.clone(), self.id.clone(), self.started_at);
        let changed = tokio::task::spawn_blocking(move || {
            world.update(&id, |record, now| {
                let result = record.as_mut().and_then(|record| match record.view(now) {
                    View::Running(up) if up.started_at == started_at => how(record, now),
                    _ => None,
                });
                Ok((if result.is_some() { step } else { Step::Nothing }, result))
            })
        });
        changed.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }
}

impl Up {
    /// Whether a request carries the token that the gateway asks for, or comes from a proxy that
    /// knows how to say who it is from.
    fn admits(&self, request: &Request<Incoming>) -> bool {
        let Some(wanted) = &self.token_sha256 else { return true };
        if self.user_header.as_ref().is_some_and(|name| request.headers().contains_key(name)) {
            return request.headers().contains_key("x-forwarded-for");
        }
        request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .is_some_and(|token| sha256(token) == *wanted)
    }
}
