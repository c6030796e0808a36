//! Makes a support bundle. It is made here, and not by the command, so that the values of
//! secrets, which have to be known to be taken out, never leave the server.

mod archive;
mod offline;
mod patterns;
mod redact;
mod values;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use clawfarm_api::{Doctor, InstanceView, TargetView};
use clawfarm_control::{Control, InstanceFilter};
use clawfarm_model::{Code, Context, Error, Instance, Result};
use clawfarm_runtime::LogQuery;
use futures::TryStreamExt;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::archive::{Content, Raw};
pub use self::offline::offline_support_bundle;
use self::redact::Redactor;
use crate::state::ServerState;

/// How much of the end of a log is in a bundle, in bytes.
const LOG_MAX: usize = 1 << 20;
/// How much more is read: the longest secret has 64 KiB, and one that is cut in two is known by
/// neither half. It is dropped when the secrets are out.
const LOG_MARGIN: usize = 128 << 10;
/// The last lines of an instance's output.
const LINES: usize = 5_000;
/// The most instances that are listed.
const INSTANCES_MAX: usize = 1_000;
/// The last operations and events, and a page of instances.
const LAST: u32 = 500;
/// A check, a log or a database that hangs must not keep one from the rest.
const LIMIT: Duration = Duration::from_secs(60);

/// One at a time: each has the texts of all secrets and all logs in memory.
static ONE: Mutex<()> = Mutex::const_new(());

/// Makes a bundle, as a `.tar.gz`. What can't be had is told in its manifest.
pub(crate) async fn make(
    state: &ServerState,
    context: &Context,
    instances: Vec<Instance>,
    token: Option<SecretString>,
) -> Result<Vec<u8>> {
    let _one = ONE.lock().await;
    let control = state.control();
    let leave = control.begin_support_bundle(context).await?;
    let mut raw = Raw::default();
    raw.add("server.json", Ok(document(&about(state, &leave))));
    let doctor = limited(control.doctor(context)).await;
    raw.add("doctor.json", doctor.map(|(server, runtimes)| document(&Doctor { server, runtimes })));
    let targets = limited(control.targets(context)).await.map(|targets| {
        let view = |(target, capacity, instances)| TargetView { target, capacity, instances };
        document(&targets.into_iter().map(view).collect::<Vec<_>>())
    });
    raw.add("targets.json", targets);
    raw.add("instances.json", limited(fleet(control, context)).await);
    let operations = limited(control.operations(context, None, None, LAST)).await;
    raw.add("operations.json", operations.map(|page| document(&page.items)));
    let events = limited(control.events(context, None, None, LAST)).await;
    raw.add("events.json", events.map(|(events, _)| document(&events)));
    if leave.whole_server {
        raw.add("metrics.txt", limited(metrics(state)).await);
        raw.add("server.log", end_of(&state.home().join("server.log")).map(Content::Tail));
    } else {
        raw.left_out("server.log", "it is the server's, and tells of all tenants");
    }
    for instance in instances {
        let folder = format!("instances/{}", instance.id);
        raw.add(format!("{folder}/instance.json"), Ok(document(&InstanceView::from(&instance))));
        let log = limited(printed(control, context, &instance)).await;
        raw.add(format!("{folder}/output.log"), log);
    }
    let file = std::fs::read_to_string(state.home().join("admin.token")).ok().map(SecretString::from);
    // Megabytes are looked through: not on a thread that others wait for.
    let packed = tokio::task::spawn_blocking(move || {
        let values: Vec<_> = leave.values.into_iter().chain(token).chain(file).collect();
        raw.pack(&Redactor::new(values.iter().map(ExposeSecret::expose_secret)))
    });
    packed.await.map_err(|error| Error::internal("the bundle could not be made", error))?
}

async fn limited<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(LIMIT, what)
        .await
        .map_err(|_| Error::new(Code::Timeout, format!("it was not there within {} s", LIMIT.as_secs())))?
}

fn document<T: Serialize + ?Sized>(value: &T) -> Content {
    // Only what has maps with other keys than text can't be written, which nothing of ours has.
    Content::Json(serde_json::to_value(value).unwrap_or_else(|error| json!({ "error": error.to_string() })))
}

/// The server and its machine: what tells one machine's trouble from another's. No environment
/// and no command line: people put passwords there.
fn about(state: &ServerState, leave: &clawfarm_control::SupportLeave) -> serde_json::Value {
    let version = env!("CARGO_PKG_VERSION");
    if !leave.whole_server {
        return json!({ "version": version });
    }
    let mut about = machine();
    about["pid"] = std::process::id().into();
    about["home"] = json!(state.home());
    about["started_at"] = json!(state.started_at());
    about["listen"] = json!(state.listen().map(|address| address.to_string()));
    about
}

/// This program and its machine.
fn machine() -> serde_json::Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name));
        rest.map(|rest| rest.trim_matches([' ', '\t', ':', '=', '"']).to_owned())
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uid": rustix::process::geteuid().as_raw(),
        "architecture": std::env::consts::ARCH,
        "system": field(&read("/etc/os-release"), "PRETTY_NAME"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "processors": std::thread::available_parallelism().map(usize::from).ok(),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "memory_available": field(&read("/proc/meminfo"), "MemAvailable"),
        "load": read("/proc/loadavg").trim(),
    })
}

async fn metrics(state: &ServerState) -> Result<Content> {
    let control = state.control();
    let phases = control.fleet_gauges().await?;
    let text = state.metrics().render(&phases, control.queue_length(), control.starts_waiting());
    text.map(Content::Text).ok_or_else(|| Error::new(Code::Unavailable, "this process measures nothing"))
}

async fn fleet(control: &Control, context: &Context) -> Result<Content> {
    let mut all: Vec<InstanceView> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = control.list(context, &InstanceFilter::default(), cursor.as_deref(), LAST).await?;
        all.extend(page.items.iter().map(InstanceView::from));
        match page.next {
            Some(next) if all.len() < INSTANCES_MAX => cursor = Some(next),
            more => return Ok(document(&json!({ "items": all, "more": more.is_some() }))),
        }
    }
}

async fn printed(control: &Control, context: &Context, instance: &Instance) -> Result<Content> {
    let query = LogQuery { since: None, tail: Some(LINES), follow: false };
    let lines = control.logs(context, instance.id.as_str(), query).await?;
    Ok(Content::Output(lines.try_collect().await?))
}

/// The end of the server's log file, with the margin.
fn end_of(path: &Path) -> Result<String> {
    let most = (LOG_MAX + LOG_MARGIN) as u64;
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => {
                "there is none: a server that a service manager runs writes to its journal".to_owned()
            }
            _ => format!("it can't be read: {error}"),
        };
        Error::new(Code::Unavailable, why).source(error)
    })
}
