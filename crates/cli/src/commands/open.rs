//! `open`: the address of an instance's dashboard.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use clawfarm_model::{Code, Error};
use tokio::time::sleep;

use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::clean_line;

/// How long a browser may take to read the page that leads to the dashboard, before it is
/// removed.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// `clawfarm open`.
#[derive(Debug, Args)]
#[command(
    long_about = "Prints an address that opens an instance's dashboard: it signs one browser in, once and within a minute. Whoever uses it first controls the claw. It is written to the audit log.",
    after_help = "Examples:\n  clawfarm open alice\n  clawfarm open alice --browser"
)]
pub(crate) struct OpenArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// Open it in the browser of this desktop instead of printing it
    #[arg(long)]
    browser: bool,
}

/// `clawfarm open`.
pub(crate) async fn run(app: &App, args: &OpenArgs) -> Outcome {
    let client = app.client().await?;
    let view = client.reveal_token(&args.id).await?;
    if args.browser {
        browse(app, &view.dashboard_url).await?;
        return Ok(OK);
    }
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "dashboard_url": view.dashboard_url }))?;
        return Ok(OK);
    }
    app.ui.line(clean_line(&view.dashboard_url))?;
    if app.ui.out_is_terminal {
        app.ui.note(
            "It signs one browser in, once and within a minute. Whoever uses it first controls the claw.",
        );
    }
    Ok(OK)
}

/// Opens the address through a page of its own that only its owner can read: as an argument
/// of the browser everyone on the machine could read the token in the process list.
async fn browse(app: &App, url: &str) -> Result<(), Error> {
    let page = write_page(&app.home()?, url)?;
    let started = tokio::process::Command::new("xdg-open")
        .arg(&page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    let opened = matches!(&started, Ok(status) if status.success());
    if opened {
        app.ui.note("Opened in your browser.");
        sleep(READ_LIMIT).await;
    }
    // It holds a token, so it does not stay; when it can't be removed its owner is told.
    if let Err(e) = fs::remove_file(&page) {
        app.ui.warn(format_args!("{} holds the token and could not be removed: {e}", page.display()));
    }
    if opened {
        return Ok(());
    }
    let why = started.map_or_else(|e| e.to_string(), |status| status.to_string());
    Err(Error::new(Code::Unsupported, format!("no browser could be opened: xdg-open: {why}"))
        .field("--browser")
        .fix("leave --browser out, and open the printed address yourself"))
}

fn write_page(home: &Path, url: &str) -> Result<PathBuf, Error> {
    let path = home.join(format!("open-{}.html", std::process::id()));
    let refused = |e: std::io::Error| {
        Error::new(Code::Internal, format!("{} can't be written: {e}", path.display())).source(e)
    };
    // A page left over from a process with the same number is not written into, but replaced.
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(refused(e)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(refused)?;
    file.write_all(page(url).as_bytes()).map_err(refused)?;
    Ok(path)
}

fn page(url: &str) -> String {
    // As a JSON string inside a script; '<' can't end the script then.
    let target = serde_json::Value::from(url).to_string().replace('<', "\\u003c");
    format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\"><title>clawfarm</title><script>location.replace({target})</script>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_leads_to_the_dashboard_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a folder");
        let path = write_page(home.path(), "http://127.0.0.1:1/#token=a\"</script>").expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text.matches("</script>").count(), 1, "{text}");
        assert!(text.contains("location.replace(\"http://127.0.0.1:1/#token=a\\\""), "{text}");
    }
}
