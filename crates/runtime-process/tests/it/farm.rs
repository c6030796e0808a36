//! A home of its own for each test, an npm that needs no network, and claws made of scripts.

use std::fmt::Debug;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use clawfarm_model::launch::Software;
use clawfarm_model::name::{ClawType, TenantName};
use clawfarm_model::resources::Resources;
use clawfarm_model::{ClawId, Launch, LaunchFile, NpmInstall, Observation, Place, Placement, StopOptions};
use clawfarm_runtime::{NoProgress, Progress, Runtime};
use clawfarm_runtime_process::{ProcessConfig, ProcessRuntime};
use clawfarm_shim::ShimState;
use secrecy::SecretString;

pub(crate) const NODE: &str = "24.0.0";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Prints what it is asked to, then listens on the port of `$PORT` and answers `hello`.
pub(crate) const SERVER: &str = r#"
import os, socket, sys
print("up", flush=True)
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(os.environ["PORT"])))
s.listen(16)
print("listening", flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b"hello")
    c.close()
"#;

pub(crate) struct Farm {
    /// Removed at the end, where it is this test's own.
    own: Option<tempfile::TempDir>,
    dir: PathBuf,
    pub(crate) rt: ProcessRuntime,
    config: ProcessConfig,
}

impl Farm {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A farm whose settings are changed before it is opened.
    pub(crate) async fn with(change: impl FnOnce(&mut ProcessConfig)) -> Self {
        let own = tempfile::tempdir().unwrap();
        let npm = own.path().join("npm");
        std::fs::write(&npm, fake_npm(own.path())).unwrap();
        std::fs::set_permissions(&npm, std::fs::Permissions::from_mode(0o755)).unwrap();
        let dir = own.path().to_owned();
        let mut farm = Self::open(&dir, change).await;
        farm.own = Some(own);
        farm
    }

    /// The farm of another process of this test.
    pub(crate) async fn at(dir: &Path) -> Self {
        Self::open(dir, |_| {}).await
    }

    async fn open(dir: &Path, change: impl FnOnce(&mut ProcessConfig)) -> Self {
        let mut config = ProcessConfig::new(dir.join("home"));
        config.shim_command = vec![env!("CARGO_BIN_EXE_clawfarm-shim-for-tests").into()];
        config.npm = dir.join("npm").into();
        config.claw_port = 7;
        change(&mut config);
        let rt = ProcessRuntime::open(config.clone()).await.unwrap();
        Self { own: None, dir: dir.to_owned(), rt, config }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.dir
    }

    /// Ends the server's part and begins it anew, as after a restart of the server.
    pub(crate) async fn reopen(&mut self) {
        self.rt = ProcessRuntime::open(self.config.clone()).await.unwrap();
    }

    pub(crate) async fn another(&self, change: impl FnOnce(&mut ProcessConfig)) -> ProcessRuntime {
        let mut config = self.config.clone();
        change(&mut config);
        ProcessRuntime::open(config).await.unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.config.home.clone()
    }

    pub(crate) fn claw(&self, id: &ClawId) -> PathBuf {
        self.home().join("claws").join(id.as_str())
    }

    pub(crate) fn shim_state(&self, id: &ClawId) -> ShimState {
        ShimState::read(&self.claw(id)).unwrap().expect("it was started")
    }

    /// Shell commands that the npm runs before it does its work.
    pub(crate) fn npm_behaves(&self, script: &str) {
        std::fs::write(self.path("behaviour"), script).unwrap();
    }

    /// What npm was called for.
    pub(crate) fn npm_calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn placement(&self, id: &ClawId) -> Placement {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Placement {
            id: id.clone(),
            tenant: TenantName::default_tenant(),
            software: software("1.0.0"),
            mark: None,
            vm: None,
            resources: Resources { cpus: 1.0, memory_mib: 512 },
            port,
            dataset: None,
            image: None,
            record: serde_json::json!({"name": "test"}),
        }
    }

    pub(crate) async fn prepared(&self, id: &ClawId) -> Place {
        self.rt.ensure(&self.placement(id), &NoProgress).await.unwrap()
    }

    /// A claw that runs a Python program.
    pub(crate) async fn run(&self, id: &ClawId, run: i64, program: &str) -> (Place, Observation) {
        let place = self.prepared(id).await;
        let seen = self.rt.start(&python(id, run, &place, program)).await.unwrap();
        (place, seen)
    }

    pub(crate) async fn stop(&self, id: &ClawId) -> Observation {
        self.rt.stop(id, StopOptions { grace: Duration::from_secs(10) }).await.unwrap()
    }

    /// Everything it printed so far.
    pub(crate) fn printed(&self, id: &ClawId) -> String {
        std::fs::read_to_string(self.claw(id).join("logs/output.log")).unwrap_or_default()
    }

    pub(crate) async fn wait_until_printed(&self, id: &ClawId, text: &str) {
        wait_for(&format!("'{text}' in the output"), || async {
            let printed = self.printed(id);
            if printed.contains(text) { Ok(()) } else { Err(printed) }
        })
        .await;
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if self.own.is_none() {
            return;
        }
        for entry in std::fs::read_dir(self.home().join("claws")).into_iter().flatten().flatten() {
            if let Ok(mut client) = clawfarm_shim::client::Client::connect(&entry.path(), LIMIT) {
                let _ = client.ask(&clawfarm_shim::protocol::Request::Kill);
            }
        }
        // Installations are read-only: their owner has to open them to remove them.
        let _ = std::process::Command::new("chmod").args(["-R", "u+w"]).arg(&self.dir).status();
    }
}

pub(crate) fn id(text: &str) -> ClawId {
    ClawId::new(text).unwrap()
}

pub(crate) fn software(version: &str) -> Software {
    Software {
        claw_type: ClawType::new("test").unwrap(),
        version: version.to_owned(),
        own: None,
        pip: None,
        npm: Some(NpmInstall {
            node: NODE.to_owned(),
            package: "small-claw".to_owned(),
            version: version.to_owned(),
            about_packages: 3,
        }),
        image: None,
    }
}

pub(crate) fn python(id: &ClawId, run: i64, place: &Place, program: &str) -> Launch {
    Launch {
        id: id.clone(),
        run,
        argv: ["python3", "-u", "-c", program].map(str::to_owned).to_vec(),
        env: vec![
            ("PORT".to_owned(), SecretString::from(place.port.to_string())),
            ("SECRET".to_owned(), SecretString::from("s3cret-value")),
        ],
        cwd: place.state_dir.clone(),
        files: Vec::new(),
        resources: Resources { cpus: 1.0, memory_mib: 512 },
    }
}

pub(crate) fn file(path: &str, contents: &str, read_only: bool) -> LaunchFile {
    LaunchFile { path: path.into(), contents: SecretString::from(contents.to_owned()), read_only }
}

/// Waits until `look` is content; its last complaint is shown when that takes too long.
pub(crate) async fn wait_for<T, E: Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(complaint) if tokio::time::Instant::now() > deadline => {
                panic!("waited {} s for {what}: {complaint:?}", LIMIT.as_secs())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Remembers what was reported.
#[derive(Default)]
pub(crate) struct Reported(Mutex<Vec<String>>);

impl Reported {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Reported {
    fn step(&self, name: &str, _message: &str, total: Option<u64>, unit: &str) {
        self.0.lock().unwrap().push(format!("{name} {total:?} {unit}"));
    }

    fn advance(&self, done: u64) {
        self.0.lock().unwrap().push(done.to_string());
    }
}

pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// An npm as far as an installation uses it: it notes what it was called for, behaves as the
/// test wants, and makes packages.
fn fake_npm(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"#!/bin/sh
[ "$1" = --version ] && echo 11.0.0 && exit 0
verb=$1
echo "$*" | grep -q -- --ignore-scripts=false && scripts=with || scripts=without
while [ $# -gt 0 ]; do
  case "$1" in
    --prefix) prefix=$2; shift 2;;
    --) package=$2; shift 2;;
    *) shift;;
  esac
done
name=${{package%@*}} version=${{package##*@}}
echo "$verb $package $scripts scripts, node $(node --version)" >> "{dir}/calls"
[ -e "{dir}/behaviour" ] && . "{dir}/behaviour"
[ "$verb" = rebuild ] && exit 0
mkdir -p "$prefix/node_modules/$name/bin" || exit 1
for part in 1 2 3; do echo "npm http fetch GET 200 https://registry.example/$name-$part 5ms" >&2; done
printf '{{"name":"%s","version":"%s"}}' "$name" "$version" > "$prefix/node_modules/$name/package.json"
case "$name" in
  node-linux-*)
    printf '#!/bin/sh\necho v%s\n' "$version" > "$prefix/node_modules/$name/bin/node"
    chmod +x "$prefix/node_modules/$name/bin/node";;
esac
exit 0
"#
    )
}
