//! The server: composes store, claw types, runtimes, use cases and API, and runs them until
//! it is told to end.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clawfarm_client::{Client, Endpoint};
use clawfarm_control::{Control, OpenTarget, Parts, Reserve};
use clawfarm_model::name::TargetName;
use clawfarm_model::target::{LOCAL_TARGET, RuntimeKind, Target};
use clawfarm_model::{Code, Context, Error};
use clawfarm_runtime::Runtime;
use clawfarm_runtime_process::{ProcessConfig, ProcessRuntime};
use clawfarm_runtime_sim::{SimConfig, SimRuntime};
use clawfarm_server::{AdminToken, ApiListener, ClawListener, HomeLock, ServerConfig};
use clawfarm_store::{Store, StoreConfig};
use clawfarm_vm_images::{Images, ImagesConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin_token;
use crate::app::App;
use crate::commands::claw_type;
use crate::commands::serve::ServeArgs;
use crate::connect::{self, VERSION};
use crate::context::{self, Choice, choose};
use crate::database::remember;
use crate::docker::DockerTargets;
use crate::edge;
use crate::errors::{Failure, OK, Outcome, tell_error};
use crate::node::Node;
use crate::place::Place;
use crate::service::notify::Manager;
use crate::vm;

/// The exit code of a server in the background that found another one on its home: whoever
/// started it waits for that one instead. `EX_TEMPFAIL` of sysexits.h, which no error has.
pub(crate) const ANOTHER_RUNS: u8 = 75;
/// Two are enough: the work is waiting for others, and each thread costs memory.
const THREADS: usize = 2;
/// Open files that are enough: every listener full (2 x 2048 and 512), each of their requests
/// with another connection to a claw, and one to each of 10,000 claws' shims.
const FILES: u64 = 32_768;
/// How long the database may take to close, and then what still runs on a thread to end. With
/// the ten seconds of requests under way and five of a shared database's turns, a server ends
/// within 25 s; the unit that `service install` writes gives it 60.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Where the simulated claws live; only with it is there a `sim` target.
pub(crate) const SIM_WORLD: &str = "CLAWFARM_SIM_WORLD";
/// Where downloads and installations are kept, to be shared by several homes.
pub(crate) const CACHE_DIR: &str = "CLAWFARM_CACHE_DIR";
/// Where Ubuntu's images of virtual machines are fetched from, instead of its own site.
const UBUNTU_IMAGES: &str = "CLAWFARM_UBUNTU_IMAGES";
/// The same for Debian's.
const DEBIAN_IMAGES: &str = "CLAWFARM_DEBIAN_IMAGES";
/// Where Debian's packages come from when an image is built: a mirror, or a file in apt's format.
const DEBIAN_PACKAGES: &str = "CLAWFARM_DEBIAN_PACKAGES";
/// A PEM file of the authorities that such a site is trusted by, instead of the system's.
const IMAGES_CA: &str = "CLAWFARM_IMAGES_CA";

/// Runs the server in this process until it is told to end.
pub(crate) fn run(app: &App, args: &ServeArgs) -> Outcome {
    if !matches!(choose(&app.global, context::read)?.0, Choice::Local) {
        return Err(Error::invalid("--host", "a server is not run elsewhere")
            .fix("leave out --host, --context and their variables; say where to listen with --listen")
            .into());
    }
    let home = app.home()?;
    make_home(&home)?;
    log_to_stderr(args.logs_json(), app.ui.err.is_on())?;
    let lock = match HomeLock::take(&home) {
        Ok(lock) => lock,
        Err(error) if args.is_background_child() && error.code() == Code::Conflict => {
            tell_error(&app.ui, &error);
            return Err(Failure::Told(ANOTHER_RUNS));
        }
        Err(error) => return Err(error.into()),
    };
    allow_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("clawfarm")
        .enable_all()
        .build()
        .map_err(Failure::from)?;
    let served = runtime.block_on(Box::pin(serve(args, lock)));
    // A thread that waits for a disk or a claw keeps no server from its end.
    runtime.shutdown_timeout(CLOSE_LIMIT);
    served?;
    Ok(OK)
}

/// A shell gives 1024 open files as a rule; that many connections alone would leave the server
/// none for its store. What it may have at most is raised up to.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    let wanted = limits.maximum.map_or(FILES, |most| most.min(FILES));
    if limits.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limits })
    {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

fn make_home(home: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(|e| {
        Error::new(Code::Internal, format!("the folder {} can't be made: {e}", home.display()))
            .field("--home")
            .fix("give a folder that you may write to with --home or CLAWFARM_HOME")
            .source(e)
    })
}

fn log_to_stderr(json: bool, colours: bool) -> Result<(), Error> {
    use tracing_subscriber::EnvFilter;
    // What the database's driver has to say at `info` is every slow statement.
    let filter = match std::env::var("CLAWFARM_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|e| {
            Error::invalid("CLAWFARM_LOG", format!("'{text}' is no log filter: {e}"))
                .fix("give a level such as 'debug', or one for a part: 'info,clawfarm_control=debug'")
        })?,
        _ => EnvFilter::new("info,sqlx=warn,sea_orm_migration=warn"),
    };
    // What can't be written (the disk with the log is full) is lost: told to the same place, that
    // would be a panic in the middle of a request.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let set = if json {
        builder.json().try_init()
    } else {
        builder.with_ansi(colours && io::stderr().is_terminal()).try_init()
    };
    set.map_err(|e| Error::internal("the log could not be set up", e))
}

async fn serve(args: &ServeArgs, home: HomeLock) -> Result<(), Error> {
    let shutdown = CancellationToken::new();
    end_on_signals(&shutdown)?;
    clawfarm_failpoint::arm_from_env();
    clawfarm_failpoint::point!(HomeLocked);
    let folder = home.path().to_owned();
    // A server that is started on a full disk needs some of it to begin.
    let reserve = Reserve::of(&folder);
    reserve.give_back_if_low();
    let place = Place::of(&folder, args)?;
    let master_key = args.master_key().source(&folder)?.load_or_create().await?;
    let store = Store::open(StoreConfig::new(place.database.clone(), master_key)).await?;
    remember(&folder, &place.database, store.description())?;
    clawfarm_failpoint::point!(StoreOpened);
    let admin_token = admin_token::at_start(&folder, &store, place.node.is_some()).await?;
    let known = AdminToken::from(&admin_token);
    let shared = place.node.is_some().then(|| store.clone());
    tokio::spawn(admin_token::follow(folder.clone(), shared, known.clone(), shutdown.clone()));
    let claws = ClawListener::bind(&folder).await?;
    clawfarm_failpoint::point!(ClawsBound);
    // Bound before the others are told where it is.
    let listener = match args.listen() {
        Some(address) => Some(ApiListener::bind(address).await?),
        None => None,
    };
    let edge = edge::bind(args.edge(), &folder, &store, args.allows_plaintext()).await?;
    let images = match vm_images(&folder) {
        Ok(images) => Some(images),
        Err(error) if error.code() == Code::InvalidInput => return Err(error),
        // A full disk is no reason to leave claws alone.
        Err(error) => {
            tracing::warn!(?error, "there are no images of virtual machines until the next start");
            None
        }
    };
    let targets = targets(&folder, claws.port(), place.node.as_ref(), &store).await?;
    let opener: Arc<dyn OpenTarget> =
        Arc::new(DockerTargets { home: folder.clone(), claw_port: claws.port() });
    let (sharing, peers) = place.sharing(args, &store, listener.as_ref())?;
    let parts = Parts {
        store: store.clone(),
        adapters: claw_type::registry(&folder),
        targets,
        opener: Some(opener),
        sharing,
    };
    let control = Control::begin(parts).await?;
    control.keep_house(args.retention());
    control.keep_reserve(reserve);
    if let Some(images) = images {
        control.keep_vm_images(Arc::new(images));
    }
    let outdated = control.outdated();
    let (told, ends) = (outdated.clone(), shutdown.clone());
    tokio::spawn(async move {
        told.cancelled().await;
        ends.cancel();
    });
    let edge = match edge {
        Some(edge) => Some(edge.serve(control.clone(), known.clone(), shutdown.clone()).await?),
        None => None,
    };
    clawfarm_failpoint::point!(Begun);
    tracing::info!(version = VERSION, home = %folder.display(), pid = std::process::id(), "the server begins");
    if let Some(manager) = Manager::from_environment() {
        let own = Client::new(Endpoint::Unix(connect::socket(&folder)), admin_token);
        tokio::spawn(manager.attend(own, shutdown.clone()));
    }
    let ended = shutdown.clone();
    let served = clawfarm_server::serve(ServerConfig {
        control,
        socket: connect::socket(&folder),
        home,
        listen: args.listen(),
        tls: args.tls(),
        allow_plaintext: args.allows_plaintext(),
        admin_token: known,
        peers,
        listener,
        claws,
        shutdown,
    })
    .await;
    // Where the API could not be served, nobody has asked for an end yet.
    ended.cancel();
    if let Some(edge) = edge {
        // It limits itself.
        let _ = edge.await;
    }
    if tokio::time::timeout(CLOSE_LIMIT, store.close()).await.is_err() {
        // What was acknowledged is in the database; the next server opens it as after a kill.
        tracing::warn!("the database did not close in time");
    }
    if outdated.is_cancelled() {
        return Err(Error::new(
            Code::Unavailable,
            "a backup was restored into the database while this server ran on it, so it ended",
        )
        .fix("start it again: clawfarm serve (a service does so by itself)"));
    }
    served
}

/// SIGTERM, SIGINT and SIGHUP end the server; what it is doing to a claw is left at a point
/// from which the next server goes on.
fn end_on_signals(shutdown: &CancellationToken) -> Result<(), Error> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut signal = signal(kind).map_err(|e| Error::internal("signals can't be waited for", e))?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            signal.recv().await;
            shutdown.cancel();
        });
    }
    Ok(())
}

/// The places that instances run on here. The first is the default.
pub(crate) async fn targets(
    home: &Path,
    claw_port: u16,
    node: Option<&Node>,
    store: &Store,
) -> Result<Vec<(Target, Arc<dyn Runtime>)>, Error> {
    let mut config = ProcessConfig::new(home);
    config.claw_port = claw_port;
    let cache = folder_from_env(CACHE_DIR)?;
    if let Some(folder) = &cache {
        config.cache_dir.clone_from(folder);
    }
    let process = ProcessRuntime::open(config).await?;
    let mut targets: Vec<(Target, Arc<dyn Runtime>)> = vec![(own_target(node)?, Arc::new(process))];
    let machines = vm::target_name(node.map(|node| node.name.as_str()));
    match vm::open(home, cache.as_deref(), vm_images_config(home)?, claw_port).await {
        Ok(vm) => targets.push((target(&machines, RuntimeKind::Vm, node)?, Arc::new(vm))),
        // A disk without room for a folder of images keeps nobody's processes down.
        Err(error) => tracing::error!(%error, "virtual machines can't be had from this server"),
    }
    if let Some(world) = folder_from_env(SIM_WORLD)? {
        let sim = SimRuntime::open(SimConfig::new(world))?;
        targets.push((target("sim", RuntimeKind::Sim, None)?, Arc::new(sim)));
    }
    // What was added while a server ran.
    let docker = DockerTargets { home: home.to_owned(), claw_port };
    for added in store.targets(&Context::system("start")).await? {
        let reached = added.reachable_from.as_deref() == node.map(|node| node.id.as_str());
        if added.runtime == RuntimeKind::Docker && reached {
            // Those of an older version, and what a full disk had no room for.
            if let Err(error) = docker.keep(&added).await {
                tracing::warn!(target = %added.name, ?error, "the target is not kept for a lost database");
            }
            let runtime = docker.open_again(&added).await?;
            targets.push((added, runtime));
        }
    }
    Ok(targets)
}

/// Where the images of virtual machines of a home are, and where they come from.
fn vm_images_config(home: &Path) -> Result<ImagesConfig, Error> {
    let cache = folder_from_env(CACHE_DIR)?;
    let mut config = ImagesConfig::of(home, cache.as_deref());
    let said = |variable: &str| std::env::var(variable).ok().filter(|value| !value.is_empty());
    if let Some(site) = said(UBUNTU_IMAGES) {
        config.ubuntu_site = site;
    }
    if let Some(site) = said(DEBIAN_IMAGES) {
        config.debian_site = site;
    }
    config.site_ca = folder_from_env(IMAGES_CA)?;
    config.packages = said(DEBIAN_PACKAGES);
    Ok(config)
}

/// The images of virtual machines of a home.
pub(crate) fn vm_images(home: &Path) -> Result<Images, Error> {
    Images::open(vm_images_config(home)?).map_err(|error| match error.field_name() {
        Some("ubuntu_site") => error.field(UBUNTU_IMAGES),
        Some("debian_site") => error.field(DEBIAN_IMAGES),
        _ => error,
    })
}

/// The processes of this machine.
pub(crate) fn own_target(node: Option<&Node>) -> Result<Target, Error> {
    target(node.map_or(LOCAL_TARGET, |n| n.name.as_str()), RuntimeKind::Process, node)
}

fn target(name: &str, runtime: RuntimeKind, of: Option<&Node>) -> Result<Target, Error> {
    Ok(Target {
        name: TargetName::new(name)?,
        runtime,
        labels: Default::default(),
        reachable_from: of.map(|node| node.id.clone()),
        settings: serde_json::Value::Null,
    })
}

fn folder_from_env(variable: &str) -> Result<Option<PathBuf>, Error> {
    match std::env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(value) => std::path::absolute(&value).map(Some).map_err(|e| {
            Error::invalid(variable, format!("{} can't be used: {e}", value.to_string_lossy()))
                .fix("give a folder, or leave it unset")
        }),
        None => Ok(None),
    }
}
