//! Turning what the engine says into errors that say what to do.

use std::io::ErrorKind;

use bollard::errors::Error as EngineError;
use clawfarm_model::{Code, Error};

/// An error of the engine. `what` completes "could not ...".
pub(crate) fn failed(what: impl std::fmt::Display, error: EngineError) -> Error {
    let told = match &error {
        EngineError::DockerResponseServerError { status_code, message } => said(*status_code, message),
        // In the middle of a stream there is no status; the words are the same.
        EngineError::DockerStreamError { error } => said(500, error),
        EngineError::RequestTimeoutError => {
            Error::new(Code::Unavailable, "the container engine did not answer in time")
                .fix("look at the load of its machine, and whether it runs: docker info")
        }
        EngineError::SocketNotFoundError(path) => gone(&format!("there is no socket '{path}'")),
        between if crate::engine::is_between(between) => {
            Error::new(Code::Unavailable, "the container engine has not cleared up after it yet")
                .fix("it is looked at again by itself; if it stays so, restart the engine")
        }
        // Another attempt may help: a proxy or a half-started engine answers so, too.
        EngineError::JsonDataError { .. }
        | EngineError::JsonSerdeError { .. }
        | EngineError::StrParseError { .. }
        | EngineError::APIVersionParseError {}
        | EngineError::HttpHeaderNotFoundError(_) => {
            Error::new(Code::Unavailable, "the container engine gave an answer that makes no sense")
                .fix("look whether it is the engine that listens at its socket: docker version")
        }
        other => unreached(other),
    };
    let mut all = Error::new(told.code(), format!("could not {what}: {}", told.message())).source(error);
    if let Some(field) = told.field_name() {
        all = all.field(field);
    }
    match told.fix_text() {
        Some(fix) => all.fix(fix),
        None => all,
    }
}

fn gone(why: &str) -> Error {
    Error::new(Code::Unavailable, why)
        .fix("start it (systemctl start docker), and let the server's user use its socket: docker info")
}

/// Why the engine could not be spoken to.
fn unreached(error: &EngineError) -> Error {
    match io_kind(error) {
        Some(ErrorKind::PermissionDenied) => {
            Error::new(Code::Unavailable, "the server's user may not use the container engine's socket").fix(
                "let it: add the user to the socket's group (usermod -aG docker USER) and start the server anew, or give the socket of an engine of its own",
            )
        }
        Some(ErrorKind::NotFound) => gone("there is no socket of a container engine"),
        Some(ErrorKind::ConnectionRefused) => gone("no container engine listens at its socket"),
        _ => gone("the container engine does not answer"),
    }
}

/// What the operating system said, if it did: the client's errors have it within.
fn io_kind(error: &EngineError) -> Option<ErrorKind> {
    if let EngineError::IOError { err } = error {
        return Some(err.kind());
    }
    let mut inner = std::error::Error::source(error);
    while let Some(error) = inner {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        inner = error.source();
    }
    None
}

/// What an answer of the engine means. Its words are all there is to tell a taken port from a
/// full disk: both are answered with status 500.
fn said(status: u16, message: &str) -> Error {
    let lower = message.to_lowercase();
    let has = |text: &str| lower.contains(text);
    if has("port is already allocated") || has("address already in use") {
        return Error::new(Code::Conflict, message.to_owned())
            .field("port")
            .fix("give another port, or none to have one chosen");
    }
    if has("no space left on device") {
        return Error::new(Code::Insufficient, message.to_owned())
            .fix("free some disk space where the engine keeps its data: docker system df");
    }
    if has("non-overlapping") {
        return Error::new(Code::Insufficient, message.to_owned()).fix(
            "give the engine more networks (default-address-pools in /etc/docker/daemon.json), or remove unused ones: docker network prune",
        );
    }
    let code = match status {
        404 => Code::NotFound,
        409 => Code::Conflict,
        400 => Code::Internal,
        _ => Code::Unavailable,
    };
    Error::new(code, message.to_owned())
}

/// Whether the engine said that there is no such thing.
pub(crate) fn is_missing(error: &EngineError) -> bool {
    status(error) == Some(404)
}

/// Whether a container could not be started for what may lie in it alone: a network that was made again
/// under its name, or what an engine that was killed in the middle left of its last start. One that is made
/// anew has none of that.
pub(crate) fn may_be_stale(error: &EngineError) -> bool {
    match error {
        EngineError::DockerResponseServerError { status_code: 500, message } => {
            said(500, message).code() == Code::Unavailable
        }
        other => is_missing(other),
    }
}

/// Whether the engine said that it is so already, or is in another state.
pub(crate) fn is_state(error: &EngineError) -> bool {
    matches!(status(error), Some(304 | 409))
}

fn status(error: &EngineError) -> Option<u16> {
    match error {
        EngineError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_made_anew_for_what_may_lie_in_it() {
        let stale = |status_code, message: &str| {
            may_be_stale(&EngineError::DockerResponseServerError { status_code, message: message.into() })
        };
        assert!(stale(500, "failed to create task: id already in use"));
        assert!(stale(404, "network 3f2a not found"));
        for (status, message) in [
            (500, "bind: address already in use"),
            (500, "write /x: no space left on device"),
            (304, ""),
            (409, "is paused"),
        ] {
            assert!(!stale(status, message), "{message}");
        }
        assert!(!may_be_stale(&EngineError::RequestTimeoutError));
    }

    #[test]
    fn what_the_engine_says_becomes_something_to_act_on() {
        let told = |status_code, message: &str| {
            failed(
                "start it",
                EngineError::DockerResponseServerError { status_code, message: message.to_owned() },
            )
        };
        let taken = told(
            500,
            "driver failed programming external connectivity: Bind for 127.0.0.1:10000 failed: port is already allocated",
        );
        assert_eq!((taken.code(), taken.field_name()), (Code::Conflict, Some("port")));
        assert_eq!(told(500, "write: no space left on device").code(), Code::Insufficient);
        assert_eq!(told(404, "No such image: x").code(), Code::NotFound);
        assert_eq!(told(500, "who knows").code(), Code::Unavailable, "another attempt may help");
        let gone = failed("look", EngineError::SocketNotFoundError("/x".into()));
        assert!(gone.code() == Code::Unavailable && gone.fix_text().is_some());
        let io = |kind: ErrorKind| failed("look", EngineError::IOError { err: kind.into() });
        let denied = io(ErrorKind::PermissionDenied);
        assert_eq!(denied.code(), Code::Unavailable);
        assert!(denied.fix_text().unwrap().contains("usermod -aG docker"), "{denied}");
        assert!(io(ErrorKind::ConnectionRefused).message().contains("listens"));
        let nonsense = failed("look", EngineError::APIVersionParseError {});
        assert_eq!(nonsense.code(), Code::Unavailable, "another attempt may help");
    }
}
