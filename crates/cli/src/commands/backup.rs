//! `backup` and `restore`: an instance in a file, and out of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use clap::Args;
use clawfarm_api::RestoreQuery;
use clawfarm_archive::check_closed;
use clawfarm_client::Client;
use clawfarm_model::name::{InstanceName, TargetName};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{ClawId, Code, Error, Timestamp};
use futures::StreamExt;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;
use tokio::io::AsyncReadExt;

use super::{input, new, wait};
use crate::app::App;
use crate::errors::{Failure, INTERRUPTED, OK, Outcome};
use crate::output::{Meter, bytes, clean_line};

/// Pieces in which an archive is read, in bytes.
const PIECE: usize = 1 << 17;

/// `clawfarm backup`.
#[derive(Debug, Args)]
#[command(
    long_about = "Saves an instance to one file: its configuration, memory and workspace as they are at one moment, and what is needed to make it again. One that is up finishes what it is doing, stands still for as long as its data is copied (seconds, less where the disk can share blocks), and goes on; what is down or asleep stays so.\n\nThe file is for you alone (0600): it holds what the claw is signed in to. Its gateway token is of no use to who has the file: a restored instance gets a new one. Values of secrets that clawfarm keeps ('clawfarm secret') are not in it.\n\nThe server's own state is another thing: 'clawfarm db backup'.",
    after_help = "Examples:\n  clawfarm backup alice\n  clawfarm backup alice -o /backups/alice.tar.zst --force"
)]
pub(crate) struct BackupArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// Where to write it; ID-DATE.tar.zst in this folder when not given
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// `clawfarm restore`.
#[derive(Debug, Args)]
#[command(
    long_about = "Makes a new instance of a file that 'clawfarm backup' has written, and waits until it answers. It gets an id, a port and a gateway token of its own, and runs the version of the software that wrote its data; the instance that the file is of stays as it is. The server reads the file to its end and checks it before it makes anything: one that is damaged, cut off or changed is refused whole.\n\nIt may run in another way than before: what was a process can become a container, and the other way round.",
    after_help = "Examples:\n  clawfarm restore alice-x7k2b-20261121T101500.tar.zst\n  clawfarm restore alice.tar.zst --name alice2 --runtime docker"
)]
pub(crate) struct RestoreArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The new instance's name [default: as before]
    #[arg(long, value_name = "NAME")]
    name: Option<InstanceName>,
    /// How it runs [default: as before, where that can be had here]
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<RuntimeKind>,
    /// The target it runs on [default: as before, where that is here]
    #[arg(long, value_name = "TARGET")]
    target: Option<TargetName>,
    /// Make it even when the target has no memory left for it
    #[arg(long)]
    overcommit: bool,
    /// Return as soon as the server has taken the file; print the id
    #[arg(long, short)]
    detach: bool,
}

/// The document that `--json` prints.
#[derive(Serialize)]
struct Saved {
    instance: ClawId,
    path: PathBuf,
    bytes: u64,
}

/// `clawfarm backup`.
pub(crate) async fn save(app: &App, args: &BackupArgs) -> Outcome {
    let client = app.client().await?;
    let mut ctrl_c = wait::CtrlC::watch()?;
    let id = client.instance(&args.id).await?.id;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{id}-{}.tar.zst", input::stamp(Timestamp::now()))),
    };
    // Before the claw is disturbed.
    if !args.force && path.symlink_metadata().is_ok() {
        return Err(unwritable(&path, io::ErrorKind::AlreadyExists.into()).into());
    }
    let half = Half::new(&path).map_err(|error| unwritable(&path, error))?;
    let written = tokio::select! {
        written = receive(app, &client, &id, half, &path, args.force) => written?,
        () = ctrl_c.pressed() => return Err(Failure::Told(INTERRUPTED)),
    };
    let saved = Saved { instance: id, path, bytes: written };
    if app.ui.json {
        app.ui.document(&saved)?;
        return Ok(OK);
    }
    let shown = clean_line(&saved.path.display().to_string());
    app.ui.line(format_args!("{} is saved: {shown} ({})", saved.instance, bytes(saved.bytes)))?;
    app.ui.note("It holds what the claw is signed in to: keep it like a key.");
    Ok(OK)
}

async fn receive(
    app: &App,
    client: &Client,
    id: &ClawId,
    mut half: Half,
    path: &Path,
    force: bool,
) -> Result<u64, Failure> {
    let meter = Meter::new(&app.ui, "letting it finish, and copying its data");
    let mut pieces = client.backup(id.as_str()).await?;
    meter.count("writing the archive", None);
    let mut written = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        half.file.write_all(&piece).map_err(|error| unwritable(path, error))?;
        written += piece.len() as u64;
        meter.at(written);
    }
    meter.count("checking it", Some(written));
    half.file.sync_all().map_err(|error| unwritable(path, error))?;
    check(half.path.clone(), meter.counter()).await?;
    half.keep(path, force).map_err(|error| unwritable(path, error))?;
    Ok(written)
}

/// Reads a file to its end, and says whether it is as it was written.
async fn check(path: PathBuf, at: impl Fn(u64) + Send + 'static) -> Result<(), Error> {
    let work = move || {
        let file = File::open(&path).map_err(|error| unreadable(&path, error))?;
        check_closed(BufReader::with_capacity(PIECE, file), &mut |bytes| at(bytes))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal("the check broke off", error))?
}

/// A file that is being written, and is gone when it is not kept.
struct Half {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Half {
    /// Beside the place that it is for: whoever looks there finds a whole archive or none.
    fn new(place: &Path) -> io::Result<Self> {
        let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut half = std::ffi::OsString::from(".");
        half.push(name);
        half.push(format!(".{}.partial", std::process::id()));
        let path = place.with_file_name(half);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, kept: false })
    }

    fn keep(mut self, place: &Path, force: bool) -> io::Result<()> {
        if force {
            fs::rename(&self.path, place)?;
        } else {
            // Something may have come there since.
            match renameat_with(CWD, &self.path, CWD, place, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                    // A file system that can't do it in one step.
                    if place.symlink_metadata().is_ok() {
                        return Err(io::ErrorKind::AlreadyExists.into());
                    }
                    fs::rename(&self.path, place)?;
                }
                done => done?,
            }
        }
        self.kept = true;
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if !self.kept {
            // Half an archive is of no use; that it can't be removed either is not worth a word more.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    let (code, fix) = match error.kind() {
        io::ErrorKind::AlreadyExists => {
            (Code::Conflict, "choose another name with --output, or write over it with --force")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Code::Insufficient, "free some space there, or choose another place with --output")
        }
        _ => (Code::InvalidInput, "choose another place with --output"),
    };
    Error::new(code, format!("{} can't be written: {error}", path.display()))
        .field("--output")
        .fix(fix)
        .source(error)
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::invalid("FILE", format!("{} can't be read: {error}", path.display()))
        .fix("give a file that 'clawfarm backup' has written")
        .source(error)
}

/// `clawfarm restore`.
pub(crate) async fn restore(app: &App, args: &RestoreArgs) -> Outcome {
    let unread = |error| unreadable(&args.file, error);
    let length = fs::metadata(&args.file).map_err(unread)?.len();
    let meter = Meter::new(&app.ui, "checking the file");
    meter.count("checking the file", Some(length));
    // Not a byte of a damaged one is sent.
    check(args.file.clone(), meter.counter()).await?;
    let client = app.client().await?;
    let mut ctrl_c = wait::CtrlC::watch()?;
    meter.count("sending it", Some(length));
    let query = RestoreQuery {
        name: args.name.clone(),
        runtime: args.runtime,
        target: args.target.clone(),
        overcommit: args.overcommit,
    };
    let file = tokio::fs::File::open(&args.file).await.map_err(unread)?;
    let at = meter.counter();
    let pieces = futures::stream::try_unfold((file, 0, at), |(mut file, mut sent, at)| async move {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await?;
        sent += read as u64;
        at(sent);
        io::Result::Ok((read > 0).then(|| (piece.freeze(), (file, sent, at))))
    });
    let accepted = tokio::select! {
        accepted = client.restore(&query, length, pieces.boxed()) => accepted?,
        () = ctrl_c.pressed() => return Err(Failure::Told(INTERRUPTED)),
    };
    drop(meter);
    wait::warnings(app, &accepted);
    if args.detach {
        return new::begun(app, &accepted);
    }
    if !app.ui.json {
        app.ui.note(format_args!("Making {} ...", accepted.instance.id));
    }
    let accepted = wait::one(app, &client, accepted, &mut ctrl_c).await?;
    if app.ui.json {
        app.ui.document(&accepted)?;
    } else {
        new::card(app, &accepted)?;
    }
    Ok(OK)
}
