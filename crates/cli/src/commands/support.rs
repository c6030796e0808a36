//! `support-bundle`: one file for whoever is asked for help, without secrets.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use clawfarm_api::SupportRequest;
use clawfarm_model::{Code, Error, Timestamp};
use clawfarm_server::offline_support_bundle;
use serde::Serialize;

use super::input;
use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::{bytes, clean_line};

/// The most that is unpacked to see what is inside: the server packs at most 48 MiB, and
/// whatever else answers must not fill the memory.
const UNPACKED_MAX: u64 = 64 << 20;

/// `clawfarm support-bundle`.
#[derive(Debug, Args)]
#[command(
    long_about = "Gathers what somebody who helps you needs to see into one .tar.gz that only you can read: versions, doctor's checks, the fleet, the last operations and events, measurements, the end of the server's log; of the instances that are named also their configuration and the end of their output. The server takes out every secret that it holds, in whatever form, and what looks like one, before anything leaves it. What claws have printed can still tell of what they talk about: look at it before you send it. A file that is there is not written over.",
    after_help = "Examples:\n  clawfarm support-bundle\n  clawfarm support-bundle alice -o alice.tar.gz\n  clawfarm support-bundle --preview\n  clawfarm support-bundle --offline    when the server does not start"
)]
pub(crate) struct SupportArgs {
    /// Instances whose configuration and output are wanted too
    #[arg(value_name = "INSTANCE")]
    instances: Vec<String>,
    /// Where to write it; clawfarm-support-DATE.tar.gz in this folder when not given
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Without a server: what its home's files tell
    #[arg(long, conflicts_with = "instances")]
    offline: bool,
    /// List what would be in it, and write nothing
    #[arg(long, conflicts_with = "output")]
    preview: bool,
}

/// The document that `--json` prints.
#[derive(Serialize)]
struct Made {
    /// The file; absent for a preview.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    files: Vec<Inside>,
}

/// A file in the bundle.
#[derive(Serialize)]
struct Inside {
    name: String,
    bytes: u64,
}

/// `clawfarm support-bundle`. Starts no server: what is looked for is how it was.
pub(crate) async fn run(app: &App, args: &SupportArgs) -> Outcome {
    let path = (!args.preview).then(|| match &args.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("clawfarm-support-{}.tar.gz", input::stamp(Timestamp::now()))),
    });
    // Before the server is put to work; nothing is written over in between either.
    if let Some(path) = path.as_deref().filter(|path| path.symlink_metadata().is_ok()) {
        return Err(unwritable(path, io::ErrorKind::AlreadyExists.into()).into());
    }
    let packed = if args.offline {
        offline_support_bundle(app.server()?.local_home()?)?.into()
    } else {
        let Some((client, _)) = app.running().await? else {
            return Err(Error::new(Code::Unavailable, "the server does not run, and only it knows which secrets to take out")
                .fix("start it with 'clawfarm serve --background', then make the bundle; if it does not start, give --offline: the bundle has the end of server.log then, from which only what looks like a secret is taken out")
                .into());
        };
        client.support_bundle(&SupportRequest { instances: args.instances.clone() }).await?
    };
    let files = inside(&packed).map_err(|error| {
        Error::internal("the server's answer is no archive", error)
            .fix("make client and server the same version: 'clawfarm version'")
    })?;
    if let Some(path) = &path {
        write(path, &packed).map_err(|error| unwritable(path, error))?;
    }
    let made = Made { path, files };
    if app.ui.json {
        app.ui.document(&made)?;
        return Ok(OK);
    }
    for file in &made.files {
        app.ui.line(format_args!("{:>10}  {}", bytes(file.bytes), clean_line(&file.name)))?;
    }
    if let Some(path) = &made.path {
        app.ui.line(format_args!("\n{} is written", clean_line(&path.display().to_string())))?;
        app.ui.note(if args.offline {
            "What looks like a secret is taken out; which secrets there are only a server knows. manifest.json says what is missing. Look at it before you send it."
        } else {
            "The secrets that the server holds, and what looks like one, are taken out. Look at it before you send it."
        });
    }
    Ok(OK)
}

fn inside(packed: &[u8]) -> io::Result<Vec<Inside>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed).take(UNPACKED_MAX));
    let mut files = Vec::new();
    for entry in archive.entries()? {
        let entry = entry?;
        files.push(Inside {
            name: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            bytes: entry.size(),
        });
    }
    Ok(files)
}

/// Writes a file of yours alone, which must not be there yet.
fn write(path: &Path, packed: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(packed).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half an archive is of no use; that it can't be removed either is not worth a word more.
        let _ = fs::remove_file(path);
    }
    written
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    let (code, fix) = match error.kind() {
        io::ErrorKind::AlreadyExists => {
            (Code::Conflict, "choose another name with --output, or remove that file")
        }
        _ => (Code::InvalidInput, "choose another place with --output"),
    };
    Error::new(code, format!("{} can't be written: {error}", path.display()))
        .field("--output")
        .fix(fix)
        .source(error)
}
