//! `server rotate-master-key`: another master key, while servers serve.
//!
//! Killed at any moment it is gone on with by giving the same command again: the new key is in a
//! file before the database knows it, both keys are valid until the new one is in its place, and
//! what is left to be wrapped anew any server does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clawfarm_model::target::CheckLevel;
use clawfarm_model::{Code, Context, Error, Timestamp};
use clawfarm_store::{Database, KeyState, MasterKey, Store, StoreConfig};

use crate::app::App;
use crate::connect::{self, Server};
use crate::database::DatabaseArgs;
use crate::errors::{OK, Outcome};
use crate::master_key::{MasterKeyArgs, Source, source_of};

/// What the check of `doctor` is called that tells of the master key.
const CHECK: &str = "master key";
/// How long ago a key must have become valid before the one before ends, where there are servers
/// that can't be asked from here: each looks every 10 s.
const KNOWN: Duration = Duration::from_secs(30);
/// What the new key's file is called until it is in its place.
const NEW: &str = "master.key.new";

/// `clawfarm server rotate-master-key`.
#[derive(Debug, Args)]
pub(crate) struct RotateMasterKeyArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    /// The file with the new key; made by itself where the present one is master.key in the home
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_key_command", "finish"])]
    new_key_file: Option<PathBuf>,
    /// What prints the new key, as a JSON array
    #[arg(long, value_name = "ARGV", conflicts_with = "finish")]
    new_key_command: Option<String>,
    /// End the old key: the new one is where every server finds it
    #[arg(long)]
    finish: bool,
}

/// What came of it.
struct Done {
    /// The fingerprint of the new key.
    fingerprint: String,
    /// Whether the old one is valid no more.
    finished: bool,
    rewrapped: u64,
}

/// `clawfarm server rotate-master-key`.
pub(crate) async fn run(app: &App, args: &RotateMasterKeyArgs) -> Outcome {
    let server = app.server()?;
    let home = server.local_home()?;
    let database = args.database.choose(home)?;
    let alone = matches!(database, Database::Sqlite(_));
    let source = args.master_key.source(home)?;
    let store = Store::open(StoreConfig::new(database, source.load().await?)).await?;
    let work = Work { app, server: &server, home, source: &source, store: &store, alone };
    let done = work.rotate(args).await;
    store.close().await;
    let done = done?;
    if app.ui.json {
        app.ui.document(&serde_json::json!({
            "fingerprint": done.fingerprint, "finished": done.finished, "rewrapped": done.rewrapped,
        }))?;
        return Ok(OK);
    }
    if done.finished {
        app.ui.line(format_args!(
            "The master key is the one of fingerprint {}; {} secrets were wrapped anew",
            done.fingerprint, done.rewrapped
        ))?;
        app.ui.note("Keep it with your backups: those from now on can be restored with it only, and earlier ones with the key before.");
    } else {
        app.ui.line(format_args!("The master key of fingerprint {} is valid, too", done.fingerprint))?;
        app.ui.note("Put it where each server of the database finds its key; then end the one before with: clawfarm server rotate-master-key --finish");
    }
    Ok(OK)
}

/// A change on its way.
struct Work<'a> {
    app: &'a App,
    server: &'a Server,
    home: &'a Path,
    source: &'a Source,
    store: &'a Store,
    /// The database is the home's.
    alone: bool,
}

impl Work<'_> {
    async fn rotate(&self, args: &RotateMasterKeyArgs) -> Result<Done, Error> {
        let Self { source, store, alone, .. } = *self;
        let system = Context::system("rotate-master-key");
        let state = store.key_state(&system).await?;
        let new_file = self.home.join(NEW);
        let under_way = state.masters.len() > 1;
        if args.finish || (under_way && alone && in_place(args, source, &state, &new_file)) {
            return self.finish(&state).await;
        }
        let new = new_key(args, source, &new_file).await?;
        let fingerprint = new.fingerprint()?;
        if under_way && fingerprint != state.newest {
            return Err(Error::new(
                Code::Conflict,
                format!("the master key is being changed to the one of fingerprint {}", state.newest),
            )
            .fix("put that one where each server finds its key, and end the one before with --finish"));
        }
        store.add_master_key(&system, &new).await?;
        let rewrapped = store.tend_keys(&system).await?.done;
        let made = args.new_key_file.is_none() && args.new_key_command.is_none();
        if let (Source::Home(file), true) = (source, made) {
            MasterKey::replace(file, &new_file)?;
            if alone {
                self.end_the_one_before(&fingerprint).await?;
                return Ok(Done { fingerprint, finished: true, rewrapped });
            }
        }
        Ok(Done { fingerprint, finished: false, rewrapped })
    }

    async fn finish(&self, state: &KeyState) -> Result<Done, Error> {
        let system = Context::system("rotate-master-key");
        if state.own != state.newest {
            return Err(Error::new(
                Code::Conflict,
                format!(
                    "the key that is found here has the fingerprint {}, and the new one {}",
                    state.own, state.newest
                ),
            )
            .field("--finish")
            .fix("put the new key where each server finds its key first, this one included"));
        }
        let rewrapped = self.store.tend_keys(&system).await?.done;
        self.end_the_one_before(&state.own).await?;
        Ok(Done { fingerprint: state.own.clone(), finished: true, rewrapped })
    }

    /// Ends the key before. A server that runs and has not read that there is a new one could not
    /// open what is sealed from then on.
    async fn end_the_one_before(&self, only: &str) -> Result<(), Error> {
        let system = Context::system("rotate-master-key");
        let state = self.store.key_state(&system).await?;
        if state.masters.len() > 1 {
            if let Some((client, _)) = connect::connect(self.server).await? {
                let doctor = client.doctor().await?;
                let check = doctor.server.iter().find(|check| check.name == CHECK);
                if check.is_none_or(|check| check.level == CheckLevel::Error) {
                    let why = check.map_or("it is an older clawfarm", |check| check.detail.as_str());
                    return Err(Error::new(
                        Code::Conflict,
                        format!(
                            "the server that runs has not taken the new key up: {why}; both keys are valid"
                        ),
                    )
                    .fix("restart it: clawfarm serve --restart; then give this command again"));
                }
            }
            if !self.alone {
                let left = KNOWN.saturating_sub(Timestamp::now().since(state.newest_at));
                if !left.is_zero() {
                    self.app.ui.note("Waiting until all servers know of the new key ...");
                    tokio::time::sleep(left).await;
                }
            }
        }
        self.store.keep_master_key(&system, only).await
    }
}

/// Whether a change that was interrupted had already put the new key in its place.
fn in_place(args: &RotateMasterKeyArgs, source: &Source, state: &KeyState, new_file: &Path) -> bool {
    let asked = args.new_key_file.is_some() || args.new_key_command.is_some();
    matches!(source, Source::Home(_)) && !asked && state.own == state.newest && !new_file.exists()
}

async fn new_key(args: &RotateMasterKeyArgs, source: &Source, file: &Path) -> Result<MasterKey, Error> {
    let new = source_of(
        args.new_key_file.as_deref(),
        args.new_key_command.as_deref(),
        ["--new-key-file", "--new-key-command"],
    )?;
    match (new, source) {
        (Some(new), _) => new.load().await,
        (None, Source::Home(_)) => {
            if !file.exists() {
                MasterKey::generate()?.write_to(file)?;
            }
            MasterKey::read(file)
        }
        (None, _) => Err(Error::invalid(
            "--new-key-file",
            "the new key is not made here: the present one is not in the home",
        )
        .fix("make one where you keep it, and say where with --new-key-file or --new-key-command")),
    }
}
