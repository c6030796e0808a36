//! The connection to the engine: made when it is first needed, and again after it failed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::errors::Error as EngineError;
use bollard::models::ContainerInspectResponse;
use bollard::{API_DEFAULT_VERSION, Docker};
use clawfarm_model::{Code, Error, Result};

use crate::fault::{failed, is_missing};

/// How long the engine may take to begin an answer, unless a call says otherwise.
const ANSWER: Duration = Duration::from_secs(60);

/// How long it may take to say which version it speaks. All wait for that one answer.
const VERSION: Duration = Duration::from_secs(10);

/// Whose engine it is, where that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Docker's, or one that says nothing else.
    Docker,
    /// Podman's service.
    Podman,
}

/// How long Podman may take to clear up after a container: a third of a second as a rule.
const CLEARING: Duration = Duration::from_secs(10);
/// How long until it is looked at again meanwhile.
const AGAIN: Duration = Duration::from_millis(20);

/// An engine, by its socket.
#[derive(Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
    client: tokio::sync::Mutex<Option<(Docker, Kind)>>,
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
        self.connected().await.map(|(client, _)| client)
    }

    /// Whose engine it is. One that is replaced by another while the server runs is not noticed.
    pub(crate) async fn kind(&self) -> Result<Kind> {
        self.connected().await.map(|(_, kind)| kind)
    }

    async fn connected(&self) -> Result<(Docker, Kind)> {
        let mut held = self.client.lock().await;
        if let Some(connected) = held.as_ref() {
            return Ok(connected.clone());
        }
        let path = self.socket.to_str().ok_or_else(|| {
            Error::new(Code::InvalidInput, "the engine's socket has no UTF-8 path").field("socket")
        })?;
        let connect = |e| failed(format!("reach the container engine at '{path}'"), e);
        let client =
            Docker::connect_with_unix(path, ANSWER.as_secs(), API_DEFAULT_VERSION).map_err(connect)?;
        let asked = async {
            let client = client.negotiate_version().await?;
            let version = client.version().await?;
            Ok((client, version))
        };
        let asked = tokio::time::timeout(VERSION, asked).await;
        let (client, version) = asked.unwrap_or(Err(EngineError::RequestTimeoutError)).map_err(connect)?;
        let components = version.components.unwrap_or_default();
        let podman = components.iter().any(|component| component.name.contains("Podman"));
        Ok(held.insert((client, if podman { Kind::Podman } else { Kind::Docker })).clone())
    }

    /// A container by its name or id; `None` when there is none.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>> {
        let client = self.docker().await?;
        let begun = Instant::now();
        loop {
            match client.inspect_container(name, None).await {
                Err(error) if is_between(&error) && begun.elapsed() < CLEARING => {
                    tokio::time::sleep(AGAIN).await;
                }
                answer => return found(answer, || format!("look at the container '{name}'")),
            }
        }
    }
}

/// Whether a container is in a state for which Docker has no word: Podman calls one `stopped`
/// whose processes have ended, until it has cleared up after it and calls it `exited`.
pub(crate) fn is_between(error: &EngineError) -> bool {
    matches!(error, EngineError::JsonDataError { message, .. } if message.contains("`stopped`"))
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
