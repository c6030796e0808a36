//! `nginx`: nginx before the edge, for those who keep it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clawfarm_api::{EventsQuery, InstanceQuery};
use clawfarm_client::Client;
use clawfarm_edge::BaseDomain;
use clawfarm_model::{ClawId, Error};
use futures::StreamExt as _;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::nginx::{Front, Nginx, Placed};

/// Events come in bunches: one look for each bunch.
const BUNCH: Duration = Duration::from_millis(500);
/// It is looked again after this long also when nothing was heard.
const AGAIN: Duration = Duration::from_secs(60);

/// `clawfarm nginx`.
#[derive(Debug, Args)]
#[command(
    long_about = "Writes nginx's configuration for the claws: TLS by nginx, everything passed on to the edge, which lets people in and wakes who sleeps. Without --to it is printed. With it the file is tried by nginx before it is put in place and with all of nginx's configuration after, taken back when nginx refuses it, and read by the nginx that runs. Start the server with --edge-trusted-proxy, so that the edge takes nginx's word for who calls.",
    after_help = "Examples:\n  clawfarm nginx --base-domain claws.example.com --cert /etc/ssl/claws.pem --key /etc/ssl/claws.key\n  sudo clawfarm nginx --base-domain claws.example.com --cert /etc/ssl/claws.pem --key /etc/ssl/claws.key --to /etc/nginx/conf.d/clawfarm.conf\n  sudo clawfarm nginx ... --to /etc/nginx/conf.d/clawfarm.conf --map --watch"
)]
pub(crate) struct NginxArgs {
    /// The domain below which each claw has its name, as for 'serve'
    #[arg(long, value_name = "DOMAIN")]
    base_domain: String,
    /// The certificate chain that nginx is to use: for the domain and for all names below it
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its private key
    #[arg(long = "key", id = "key_file", value_name = "FILE")]
    key: PathBuf,
    /// Where the edge listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8421")]
    edge: SocketAddr,
    /// Where nginx is to listen with TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_values = ["0.0.0.0:443", "[::]:443"])]
    listen: Vec<SocketAddr>,
    /// Where nginx is to lead people on to TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_values = ["0.0.0.0:80", "[::]:80"])]
    redirect: Vec<SocketAddr>,
    /// Lead nobody on: nothing listens without TLS
    #[arg(long, conflicts_with = "redirect")]
    no_redirect: bool,
    /// Name each claw, and have nginx answer all other names itself (404): strangers can tell then which names there are
    #[arg(long)]
    map: bool,
    /// The file to write, which nginx's configuration includes
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Go on, and write it again whenever a claw comes or goes
    #[arg(long, requires = "map", requires = "to")]
    watch: bool,
    /// nginx's program
    #[arg(long, value_name = "PROGRAM", default_value = "nginx")]
    nginx: PathBuf,
    /// nginx's own configuration, when it is not where nginx was built to look
    #[arg(long, value_name = "FILE", requires = "to")]
    nginx_conf: Option<PathBuf>,
}

/// `clawfarm nginx`.
pub(crate) async fn run(app: &App, args: &NginxArgs) -> Outcome {
    let front = Front {
        base: BaseDomain::new(&args.base_domain)?,
        edge: args.edge,
        listen: args.listen.clone(),
        certificate: args.cert.clone(),
        key: args.key.clone(),
        redirect: if args.no_redirect { Vec::new() } else { args.redirect.clone() },
    };
    // Only who names the claws has to ask which there are.
    let client = if args.map { Some(app.client().await?) } else { None };
    let Some(file) = &args.to else {
        let text = front.text(claws(client.as_ref()).await?.as_deref())?;
        if app.ui.json {
            app.ui.document(&json!({ "config": text }))?;
        } else {
            app.ui.raw(text.as_bytes())?;
        }
        return Ok(OK);
    };
    let nginx = Nginx {
        program: args.nginx.clone(),
        config: args.nginx_conf.clone(),
        file: std::path::absolute(file).map_err(|e| Error::invalid("--to", format!("can't be used: {e}")))?,
    };
    write(app, &front, client.as_ref(), &nginx).await?;
    match &client {
        Some(client) if args.watch => watch(app, &front, client, &nginx).await,
        _ => Ok(OK),
    }
}

/// The claws that have a name, in order.
async fn claws(client: Option<&Client>) -> Result<Option<Vec<ClawId>>, Error> {
    let Some(client) = client else { return Ok(None) };
    let mut ids: Vec<ClawId> =
        client.all_instances(&InstanceQuery::default()).await?.into_iter().map(|it| it.id).collect();
    ids.sort_unstable();
    Ok(Some(ids))
}

async fn write(app: &App, front: &Front, client: Option<&Client>, nginx: &Nginx) -> Result<(), Failure> {
    let claws = claws(client).await?;
    let placed = nginx.place(&front.text(claws.as_deref())?).await?;
    let (state, said) = match placed {
        Placed::Unchanged => ("unchanged", "is as it was"),
        Placed::Reloaded => ("reloaded", "is in place, and nginx reads it"),
        Placed::NotRunning => ("not_running", "is in place; nginx does not run"),
    };
    let count = claws.as_ref().map(Vec::len);
    if app.ui.json {
        app.ui.document_line(&json!({ "file": nginx.file, "state": state, "claws": count }))?;
    } else {
        app.ui.note(format_args!("{} {said}", nginx.file.display()));
    }
    Ok(())
}

/// Writes it again at each change of who is there, for as long as the server can be asked.
async fn watch(app: &App, front: &Front, client: &Client, nginx: &Nginx) -> Outcome {
    let mut events =
        client.follow_events(None, EventsQuery { limit: Some(1), ..EventsQuery::default() }).await?;
    loop {
        // None may have been heard of what was missed, so the list itself is what counts.
        match timeout(AGAIN, events.next()).await {
            Ok(Some(_)) => sleep(BUNCH).await,
            Ok(None) => return Ok(OK),
            Err(_) => {}
        }
        // What has come meanwhile is part of the same look.
        while let Ok(Some(_)) = timeout(Duration::ZERO, events.next()).await {}
        match write(app, front, Some(client), nginx).await {
            // nginx goes on with what it has, and the next change is another try.
            Err(Failure::Error(error)) => app.ui.warn(format_args!("{}", error.message())),
            other => other?,
        }
    }
}
