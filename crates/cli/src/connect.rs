//! Finds the server, and starts it when there is none.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_api::ServerInfo;
use clawfarm_client::{Client, Endpoint, connect_unix};
use clawfarm_model::{Code, Error};
use secrecy::SecretString;
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::background;
use crate::context::{self, Choice, choose};
use crate::output::clean_line;

/// The version of this command, and of the server inside it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How often to look whether a server has come or gone.
const POLL: Duration = Duration::from_millis(20);

/// A server that a command is for.
#[derive(Debug)]
pub(crate) enum Server {
    /// This machine's, in a home folder.
    Local {
        /// The folder.
        home: PathBuf,
        /// The file with its token.
        token_file: PathBuf,
    },
    /// One elsewhere.
    Remote {
        /// Where.
        endpoint: Endpoint,
        /// What to present to it.
        token: Token,
    },
}

/// Where the token of a server elsewhere is.
#[derive(Debug)]
pub(crate) enum Token {
    /// In a file of its own.
    File(PathBuf),
    /// With its context.
    Known(SecretString),
}

impl Token {
    fn read(&self) -> Result<SecretString, Error> {
        match self {
            Self::File(path) => read_token(path),
            Self::Known(token) => Ok(token.clone()),
        }
    }
}

impl Server {
    /// The one that the options and the environment name.
    pub(crate) fn find(app: &App) -> Result<Self, Error> {
        let given = app.global.token_file.clone();
        let host = match choose(&app.global, context::read)?.0 {
            Choice::Local => {
                let home = app.home()?;
                let token_file = given.unwrap_or_else(|| home.join("admin.token"));
                return Ok(Self::Local { home, token_file });
            }
            Choice::Context(_, named) => {
                let endpoint = named.endpoint()?;
                return Ok(Self::remote(app, endpoint, Token::Known(named.token)));
            }
            Choice::Host => app.global.host.as_deref().unwrap_or_default(),
        };
        let endpoint: Endpoint = host.parse().map_err(|e: Error| {
            let message = e.message().to_owned();
            Error::invalid("--host", message).fix(e.fix_text().unwrap_or("give https://HOST:PORT").to_owned())
        })?;
        let token_file = given.ok_or_else(|| {
            Error::invalid("--token-file", format!("the server at {endpoint} wants a token"))
                .fix("give --token-file or CLAWFARM_TOKEN_FILE: a copy of CLAWFARM_HOME/admin.token of that server, mode 0600")
        })?;
        Ok(Self::remote(app, endpoint, Token::File(token_file)))
    }

    fn remote(app: &App, endpoint: Endpoint, token: Token) -> Self {
        if endpoint.in_the_clear() {
            app.ui.warn(format_args!(
                "{endpoint} is reached without TLS: everyone on the way can read the token"
            ));
        }
        Self::Remote { endpoint, token }
    }

    /// This machine's home folder.
    ///
    /// # Errors
    /// `Unsupported` for a server elsewhere.
    pub(crate) fn local_home(&self) -> Result<&Path, Error> {
        match self {
            Self::Local { home, .. } => Ok(home),
            Self::Remote { endpoint, .. } => Err(Error::new(
                Code::Unsupported,
                format!("the server at {endpoint} can't be started or restarted from here"),
            )
            .fix("do it on its machine; for this machine's own server leave out --host and --context, or give --context local")),
        }
    }
}

/// The path of the local server's socket.
pub(crate) fn socket(home: &Path) -> PathBuf {
    home.join("clawfarm.sock")
}

/// A client of the server, and what it says of itself; `None` when this machine's does not run.
pub(crate) async fn connect(server: &Server) -> Result<Option<(Client, ServerInfo)>, Error> {
    let (endpoint, token) = match server {
        Server::Local { home, token_file } => {
            let socket = socket(home);
            match connect_unix(&socket).await {
                Ok(_) => {}
                Err(e) if is_absent(&e) => {
                    return Ok(None);
                }
                Err(e) => return Err(no_access(&socket, e)),
            }
            (Endpoint::Unix(socket), read_token(token_file)?)
        }
        Server::Remote { endpoint, token } => (endpoint.clone(), token.read()?),
    };
    let client = Client::new(endpoint, token).patient(|error, pause| {
        // Also with --json: this is standard error, and somebody may wonder why it takes longer.
        let _ = writeln!(
            io::stderr().lock(),
            "{}; asking again in {:.1} s",
            clean_line(error.message()),
            pause.as_secs_f64()
        );
    });
    let info = client.server().await?;
    Ok(Some((client, info)))
}

/// A client of the server. This machine's is started when it does not run.
pub(crate) async fn connect_or_start(app: &App, server: &Server) -> Result<Client, Error> {
    let (client, info) = match connect(server).await? {
        Some(found) => found,
        None => {
            let home = server.local_home()?;
            background::start(app, server, home, &[]).await?
        }
    };
    check_version(app, &info)?;
    Ok(client)
}

/// Nobody listens there; a path that leads through a file is told when a server is to be
/// started on it.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::NotFound | K::ConnectionRefused | K::NotADirectory)
}

fn read_token(path: &Path) -> Result<SecretString, Error> {
    let text = fs::read_to_string(path).map_err(|e| {
        Error::invalid("--token-file", format!("the token can't be read from {}: {e}", path.display()))
            .fix("give the file that holds the server's token with --token-file; it is CLAWFARM_HOME/admin.token on the server's machine")
            .source(e)
    })?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(Error::invalid("--token-file", format!("{} holds no token", path.display()))
            .fix("a token file holds one word"));
    }
    Ok(SecretString::from(token.to_owned()))
}

fn no_access(socket: &Path, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let built =
        Error::new(Code::Unavailable, format!("the socket {} can't be opened: {error}", socket.display()))
            .source(error);
    if denied {
        built.fix("the server belongs to somebody else: use your own with --home, or become that user")
    } else {
        built.fix("see 'clawfarm doctor', or start the server anew: 'clawfarm serve --restart'")
    }
}

/// What is to be done about a server of another version.
#[derive(Debug, PartialEq, Eq)]
enum Skew {
    None,
    Warn(String),
    Refuse(String),
}

/// Major, minor and patch; what follows (`-rc.1`) does not count.
fn parts(version: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = version.split(['-', '+']).next()?.split('.').map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

fn skew(client: &str, server: &str) -> Skew {
    let shown = clean_line(server);
    let (Some(own), Some(other)) = (parts(client), parts(server)) else {
        return Skew::Warn(format!("this command is {client}, the server says that it is '{shown}'"));
    };
    if (other.0, other.1) < (own.0, own.1) {
        Skew::Refuse(format!("this command is {client}, the server is older ({shown})"))
    } else if other < own {
        Skew::Warn(format!(
            "this command is {client}, the server is older ({shown}): 'clawfarm serve --restart' replaces it; claws go on"
        ))
    } else if (other.0, other.1) > (own.0, own.1) {
        Skew::Warn(format!("this command is {client}, the server is newer ({shown}): use its command"))
    } else {
        Skew::None
    }
}

/// Refuses a server that is too old for this command, and warns of smaller differences.
fn check_version(app: &App, info: &ServerInfo) -> Result<(), Error> {
    match skew(VERSION, &info.version) {
        Skew::None => Ok(()),
        Skew::Warn(text) => {
            app.ui.warn(text);
            Ok(())
        }
        Skew::Refuse(text) => Err(Error::new(Code::Unsupported, text).fix(
            "run 'clawfarm serve --restart' on the server's machine: it replaces the server; claws go on",
        )),
    }
}

/// Starts this machine's server again when it was killed: then its socket is still there and
/// nobody answers. One that was stopped on purpose has taken its socket away, and stays down.
pub(crate) async fn revive(app: &App) -> Result<(), Error> {
    let server = app.server()?;
    let Server::Local { home, .. } = &server else { return Ok(()) };
    match connect_unix(&socket(home)).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            background::start(app, &server, home, &[]).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// Waits until the server of `info` has ended: nobody answers at its socket, and its process
/// is gone, so that the next one gets its lock.
pub(crate) async fn wait_until_ended(app: &App, info: &ServerInfo, limit: Duration) -> Result<(), Error> {
    let server = app.server()?;
    let begun = Instant::now();
    while begun.elapsed() < limit {
        let same_process = match &server {
            Server::Local { home, .. } => {
                connect_unix(&socket(home)).await.is_ok() || background::is_server(info.pid, info.started_at)
            }
            Server::Remote { .. } => {
                matches!(connect(&server).await, Ok(Some((_, now))) if now.pid == info.pid)
            }
        };
        if !same_process {
            return Ok(());
        }
        sleep(POLL).await;
    }
    Err(Error::new(
        Code::Timeout,
        format!("the server (pid {}) has not ended within {} s", info.pid, limit.as_secs()),
    )
    .fix("see its log: server.log in CLAWFARM_HOME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_of_an_older_minor_version_is_refused() {
        assert_eq!(skew("1.2.3", "1.2.3"), Skew::None);
        assert_eq!(skew("1.2.3", "1.2.9"), Skew::None);
        assert!(matches!(skew("1.2.3", "1.2.2"), Skew::Warn(t) if t.contains("--restart")));
        assert!(matches!(skew("1.2.3", "1.3.0"), Skew::Warn(t) if t.contains("newer")));
        assert!(matches!(skew("1.2.3", "2.0.0"), Skew::Warn(_)));
        assert!(matches!(skew("1.2.3", "1.1.9"), Skew::Refuse(t) if t.contains("1.1.9")));
        assert!(matches!(skew("1.2.3", "0.9.9-rc.1"), Skew::Refuse(_)));
        assert!(matches!(skew("1.2.3", "\u{1b}[2J"), Skew::Warn(t) if !t.contains('\u{1b}')));
    }
}
