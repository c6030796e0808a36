//! `serve`: the server itself, in the foreground or in the background.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clawfarm_api::{ServerInfo, Shutdown};
use clawfarm_client::Client;
use clawfarm_model::{Code, Error};
use clawfarm_server::Tls;
use clawfarm_store::Retention;
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::database::DatabaseArgs;
use crate::edge::EdgeArgs;
use crate::errors::{OK, Outcome};
use crate::master_key::MasterKeyArgs;
use crate::{background, connect};

/// How long a server that is replaced may take to end.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How often to look whether it is back.
const POLL: Duration = Duration::from_millis(50);

/// `clawfarm serve`.
#[derive(Debug, Args)]
#[command(
    long_about = "Runs the server in the foreground. It is seldom needed: the first command starts one in the background. Besides its socket in CLAWFARM_HOME it listens where --listen says; whoever comes that way needs the token in CLAWFARM_HOME/admin.token. SIGTERM and Ctrl-C stop it; the claws go on.",
    after_help = "Examples:\n  clawfarm serve\n  clawfarm serve --listen 127.0.0.1:8420\n  clawfarm serve --listen 0.0.0.0:8420 --tls-cert farm.pem --tls-key farm.key\n  clawfarm serve --database postgres://farm@db.example/clawfarm\n  clawfarm serve --restart    replace the running server by this version; claws go on"
)]
pub(crate) struct ServeArgs {
    /// Listen at this address too; beyond loopback only with TLS
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The certificate chain for --listen, as PEM
    #[arg(long, value_name = "FILE", requires = "listen", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen beyond loopback without TLS: everyone on the way can read the token
    #[arg(long, requires = "listen", conflicts_with = "tls_cert")]
    allow_plaintext: bool,
    #[command(flatten)]
    edge: EdgeArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    /// For how many days events, ended operations and removed instances are kept; 30 when not given
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: Option<u32>,
    /// How many events of an instance are kept, the newest; 1000 when not given
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(10..))]
    keep_events: Option<u64>,
    /// How many ended operations of an instance are kept, the newest; 100 when not given
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    keep_operations: Option<u64>,
    /// The name of this server among those that share the database, and of its own target
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where the other servers reach this one, when that is not where it listens
    #[arg(long, value_name = "URL")]
    peer_address: Option<String>,
    /// Whom to trust when other servers are reached over TLS, as PEM; the system's by default
    #[arg(long, value_name = "FILE")]
    peer_ca: Option<PathBuf>,
    /// Replace the server that runs; the new one runs in the background
    #[arg(long)]
    restart: bool,
    /// Run in the background, and return once it answers
    #[arg(long)]
    background: bool,
    /// The form of its log; which lines are in it is said by CLAWFARM_LOG
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    log_format: LogFormat,
    /// What --background and the first command start
    #[arg(long, hide = true)]
    background_child: bool,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON document a line
    Json,
}

impl ServeArgs {
    /// Whether this process is to be the server.
    pub(crate) const fn in_foreground(&self) -> bool {
        !self.restart && !self.background
    }

    /// Whether another command started it, and waits for it.
    pub(crate) const fn is_background_child(&self) -> bool {
        self.background_child
    }

    /// Whether its log is for programs.
    pub(crate) fn logs_json(&self) -> bool {
        self.log_format == LogFormat::Json
    }

    /// Where it listens besides its socket.
    pub(crate) const fn listen(&self) -> Option<SocketAddr> {
        self.listen
    }

    /// The certificate for that.
    pub(crate) fn tls(&self) -> Option<Tls> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(Tls { certificate: cert, key })
    }

    /// Whether it may listen beyond loopback without one.
    pub(crate) const fn allows_plaintext(&self) -> bool {
        self.allow_plaintext
    }

    /// Where people reach claws.
    pub(crate) const fn edge(&self) -> &EdgeArgs {
        &self.edge
    }

    /// How much history is kept.
    pub(crate) fn retention(&self) -> Retention {
        let usual = Retention::default();
        Retention {
            age: self.keep_days.map_or(usual.age, |days| Duration::from_secs(u64::from(days) * 24 * 3600)),
            events: self.keep_events.unwrap_or(usual.events),
            operations: self.keep_operations.unwrap_or(usual.operations),
            ..usual
        }
    }

    /// Where its state is kept.
    pub(crate) const fn database(&self) -> &DatabaseArgs {
        &self.database
    }

    /// Where its master key is.
    pub(crate) const fn master_key(&self) -> &MasterKeyArgs {
        &self.master_key
    }

    /// Its name among the servers of its database.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Where the others reach it.
    pub(crate) fn peer_address(&self) -> Option<&str> {
        self.peer_address.as_deref()
    }

    /// Whom to trust at the others.
    pub(crate) fn peer_ca(&self) -> Option<PathBuf> {
        self.peer_ca.clone()
    }

    /// The same options for a server in the background.
    pub(crate) fn pass_on(&self) -> Result<Vec<OsString>, Error> {
        let mut arguments: Vec<OsString> = self.database.pass_on()?;
        arguments.extend(self.master_key.pass_on()?);
        arguments.extend(self.edge.pass_on()?);
        if let Some(listen) = &self.listen {
            arguments.extend(["--listen".into(), listen.to_string().into()]);
        }
        for (option, text) in [("--node", &self.node), ("--peer-address", &self.peer_address)] {
            if let Some(text) = text {
                arguments.extend([option.into(), text.into()]);
            }
        }
        let files =
            [("--tls-cert", &self.tls_cert), ("--tls-key", &self.tls_key), ("--peer-ca", &self.peer_ca)];
        for (option, file) in files {
            if let Some(file) = file {
                let file = std::path::absolute(file)
                    .map_err(|e| Error::invalid(option, format!("{} can't be used: {e}", file.display())))?;
                arguments.extend([option.into(), file.into()]);
            }
        }
        for (option, value) in [
            ("--keep-days", self.keep_days.map(u64::from)),
            ("--keep-events", self.keep_events),
            ("--keep-operations", self.keep_operations),
        ] {
            if let Some(value) = value {
                arguments.extend([option.into(), value.to_string().into()]);
            }
        }
        if self.allow_plaintext {
            arguments.push("--allow-plaintext".into());
        }
        if self.log_format == LogFormat::Json {
            arguments.extend(["--log-format".into(), "json".into()]);
        }
        Ok(arguments)
    }
}

/// `clawfarm serve --background` and `--restart`: starts a server and returns.
pub(crate) async fn run_from_client(app: &App, args: &ServeArgs) -> Outcome {
    let server = app.server()?;
    let home = server.local_home()?;
    let mut replaced = None;
    match app.running().await? {
        Some((_, info)) if !args.restart => return Err(runs_already(&info).into()),
        Some((client, info)) if info.supervised => {
            return restart_service(app, args, &client, &info).await;
        }
        Some((client, info)) => {
            client.shutdown(Shutdown { claws: false }).await?;
            connect::wait_until_ended(app, &info, END_LIMIT).await?;
            replaced = Some(info);
        }
        None => {}
    }
    let (_, info) = background::start(app, &server, home, &args.pass_on()?).await?;
    if let Some(listen) =
        replaced.as_ref().and_then(|old| old.listen.as_ref()).filter(|_| info.listen.is_none())
    {
        app.ui.warn(format_args!(
            "the server before listened at {listen}, this one does not: give --listen again"
        ));
    }
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "server": info, "replaced": replaced }))?;
    } else {
        let listen = info.listen.as_ref().map(|l| format!(", listening at {l}")).unwrap_or_default();
        app.ui.line(format_args!("The server {} runs (pid {}{listen})", info.version, info.pid))?;
    }
    Ok(OK)
}

/// Ends a server that a service manager runs: it starts the new version by itself.
async fn restart_service(app: &App, args: &ServeArgs, client: &Client, old: &ServerInfo) -> Outcome {
    if !args.pass_on()?.is_empty() {
        return Err(Error::new(
            Code::Conflict,
            "the server is run by a service manager, with options of its own",
        )
        .fix("change them with 'clawfarm service install'")
        .into());
    }
    client.shutdown(Shutdown { claws: false }).await?;
    connect::wait_until_ended(app, old, END_LIMIT).await?;
    let begun = Instant::now();
    let new = loop {
        // Not there yet is no error: neither is its token's file.
        if let Ok(Some((_, new))) = app.running().await {
            break new;
        }
        if begun.elapsed() > END_LIMIT {
            return Err(Error::new(Code::Timeout, "the service manager has not started the server again")
                .fix("systemctl status clawfarm, with --user for a service of your own")
                .into());
        }
        sleep(POLL).await;
    };
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "server": new, "replaced": old }))?;
    } else {
        app.ui.line(format_args!("The server {} runs (pid {})", new.version, new.pid))?;
    }
    Ok(OK)
}

fn runs_already(info: &ServerInfo) -> Error {
    Error::new(Code::Conflict, format!("a server runs on {} already (pid {})", info.home, info.pid))
        .field("--background")
        .fix("replace it with --restart, or stop it with 'clawfarm down'")
}
