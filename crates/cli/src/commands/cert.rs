//! `cert`: the certificates that the edge shows.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use clawfarm_client::Client;
use clawfarm_model::certificate::{Certificate, CertificateName, CertificateState};
use clawfarm_model::{Code, Error, Timestamp};
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::{Column, Table};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "Examples:\n  clawfarm cert ls\n  clawfarm cert renew claws.example.com\n  clawfarm cert ca > farm-ca.pem";

/// How long another certificate is waited for: a DNS record takes minutes to come to all servers.
const RENEW_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How often it is looked whether it has come.
const POLL: Duration = Duration::from_secs(1);

/// `clawfarm cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// List the certificates, with how each stands
    #[command(after_help = "Examples:\n  clawfarm cert ls\n  clawfarm cert ls --json")]
    Ls,
    /// Show everything known of one certificate
    #[command(after_help = "Examples:\n  clawfarm cert show claws.example.com")]
    Show(NameArgs),
    /// Get another certificate now, though the one that is shown is still good
    #[command(
        after_help = "Examples:\n  clawfarm cert renew claws.example.com\n  clawfarm cert renew claws.example.com --no-wait"
    )]
    Renew(RenewArgs),
    /// Print the certificate of this home's own authority, which is to be trusted
    #[command(
        long_about = "Prints the certificate of the authority that 'serve --edge-tls local' has made in the home folder. Who trusts it trusts this server's certificates, and those of no other site: it is good for the base domain alone.",
        after_help = "Examples:\n  clawfarm cert ca > farm-ca.pem\n  curl --cacert farm-ca.pem https://claws.example.com/"
    )]
    Ca(CaArgs),
}

/// A certificate.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Its name: the first of its host names
    name: CertificateName,
}

/// `clawfarm cert renew`.
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// Its name: the first of its host names
    name: CertificateName,
    /// Return at once
    #[arg(long)]
    no_wait: bool,
}

/// `clawfarm cert ca`.
#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    /// The authority's domain, where the home has several
    #[arg(long, value_name = "DOMAIN")]
    base_domain: Option<CertificateName>,
}

/// `clawfarm cert`.
pub(crate) async fn run(app: &App, command: &CertCommand) -> Outcome {
    match command {
        CertCommand::Ls => list(app).await,
        CertCommand::Show(args) => show(app, &args.name).await,
        CertCommand::Renew(args) => renew(app, args).await,
        CertCommand::Ca(args) => authority(app, args),
    }
}

async fn list(app: &App) -> Outcome {
    let found = app.client().await?.certificates().await?;
    if app.ui.json {
        app.ui.document(&found)?;
        return Ok(OK);
    }
    let columns = ["NAME", "SOURCE", "STATE", "UNTIL(UTC)", "RENEWS(UTC)", "ISSUER"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for one in &found.items {
        table.row(vec![
            table.text(&one.name),
            table.text(one.source.as_str()),
            table.text(one.state.as_str()),
            table.text(&time(one.not_after)),
            table.text(&time(one.renews_at)),
            table.text(one.issuer.as_deref().unwrap_or("-")),
        ]);
    }
    app.ui.line(table.render())?;
    for one in &found.items {
        if let Some(error) = &one.error {
            app.ui.warn(format_args!("{}: {error}", one.name));
        }
    }
    Ok(OK)
}

async fn show(app: &App, name: &CertificateName) -> Outcome {
    let found = app.client().await?.certificate(name).await?;
    tell(app, &found)
}

fn tell(app: &App, one: &Certificate) -> Outcome {
    if app.ui.json {
        app.ui.document(one)?;
        return Ok(OK);
    }
    let lines = [
        ("name", one.name.clone()),
        ("names", one.names.join(", ")),
        ("source", one.source.as_str().to_owned()),
        ("state", one.state.as_str().to_owned()),
        ("issuer", one.issuer.clone().unwrap_or_else(|| "-".to_owned())),
        ("serial", one.serial.clone().unwrap_or_else(|| "-".to_owned())),
        ("from", time(one.not_before)),
        ("until", time(one.not_after)),
        ("renews", time(one.renews_at)),
        ("tried", time(one.tried_at)),
    ];
    for (what, text) in lines {
        app.ui.line(format_args!("{what:<8}{}", crate::output::clean_line(&text)))?;
    }
    if let Some(error) = &one.error {
        app.ui.line(format_args!("{:<8}{}", "error", crate::output::clean_line(error)))?;
    }
    Ok(OK)
}

async fn renew(app: &App, args: &RenewArgs) -> Outcome {
    let client = app.client().await?;
    let before = client.renew_certificate(&args.name).await?;
    if args.no_wait {
        return tell(app, &before);
    }
    let new = wait(&client, &args.name, &before).await?;
    tell(app, &new)
}

/// Waits until another is shown, or it is told why there is none.
async fn wait(client: &Client, name: &CertificateName, before: &Certificate) -> Result<Certificate, Error> {
    let begun = Instant::now();
    loop {
        let now = client.certificate(name).await?;
        if now.serial.is_some() && now.serial != before.serial {
            return Ok(now);
        }
        if let Some(error) = now.error.filter(|_| now.tried_at > before.tried_at) {
            let kept = match now.state {
                CertificateState::Failing => "; the one before is still shown",
                _ => "",
            };
            return Err(Error::new(
                Code::Unavailable,
                format!("no other certificate was got: {error}{kept}"),
            )
            .fix("mend what it says; it is tried again by itself, later each time"));
        }
        if begun.elapsed() > RENEW_LIMIT {
            return Err(Error::new(Code::Timeout, "no other certificate has come yet")
                .fix(format!("it goes on: see clawfarm cert show {name}")));
        }
        sleep(POLL).await;
    }
}

fn authority(app: &App, args: &CaArgs) -> Outcome {
    let server = app.server()?;
    let home = server.local_home()?;
    let domain = match &args.base_domain {
        Some(domain) => domain.as_str().to_owned(),
        None => only(home)?,
    };
    let file = clawfarm_certs::Authority::file(home, &domain);
    let pem = std::fs::read_to_string(&file).map_err(|error| {
        Error::new(Code::NotFound, format!("{} can't be read: {error}", file.display()))
            .fix("the server makes it: clawfarm serve --edge-tls local")
    })?;
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "base_domain": domain, "file": file, "pem": pem }))?;
        return Ok(OK);
    }
    app.ui.raw(pem.as_bytes())?;
    app.ui.note(format_args!(
        "Trust it where people sit: on Debian put {} into /usr/local/share/ca-certificates/ as a .crt file and run update-ca-certificates; in Firefox and Chrome import it as an authority. It is good for {domain} and the names below it alone.",
        file.display()
    ));
    Ok(OK)
}

/// The domain of the only authority in a home.
fn only(home: &Path) -> Result<String, Error> {
    let domains = clawfarm_certs::Authority::domains(home);
    match &domains[..] {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(Code::NotFound, format!("there is no authority in {}", home.display()))
            .fix("the server makes one: clawfarm serve --edge-tls local")),
        several => {
            Err(Error::invalid("--base-domain", format!("there are authorities for {}", several.join(", ")))
                .fix("say for which: --base-domain"))
        }
    }
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}
