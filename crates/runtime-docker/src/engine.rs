//! The connection to the engine: made when it is first needed, and again after it failed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::ContainerInspectResponse;
use bollard::{API_DEFAULT_VERSION, Docker};
use clawfarm_model::{Code, Error, Result};

use crate::fault::{failed, is_missing};

/// How long the engine may take to begin an answer, unless a call says otherwise.
const ANSWER: Duration = Duration::from_secs(60);

/// An engine, by its socket.
#[derive(Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
    client: tokio::sync::Mutex<Option<Docker>>,
}

impl Engine {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, client: tokio::sync::Mutex::default() }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client that speaks the engine's version. Each of its calls opens a connection of its
    /// own, so one that was made before the engine was started anew goes on.
    pub(crate) async fn docker(&self) -> Result<Docker> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref() {
            return Ok(client.clone());
        }
        let path = self.socket.to_str().ok_or_else(|| {
            Error::new(Code::InvalidInput, "the engine's socket has no UTF-8 path").field("socket")
        })?;
        let connect = |e| failed(format!("reach the container engine at '{path}'"), e);
        let client =
            Docker::connect_with_unix(path, ANSWER.as_secs(), API_DEFAULT_VERSION).map_err(connect)?;
        let client = client.negotiate_version().await.map_err(connect)?;
        Ok(held.insert(client).clone())
    }

    /// A container by its name or id; `None` when there is none.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>> {
        let client = self.docker().await?;
        found(client.inspect_container(name, None).await, || format!("look at the container '{name}'"))
    }
}

/// What the engine found; `None` when it says that there is no such thing.
pub(crate) fn found<T>(
    answer: std::result::Result<T, EngineError>,
    what: impl FnOnce() -> String,
) -> Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(what(), error)),
    }
}
