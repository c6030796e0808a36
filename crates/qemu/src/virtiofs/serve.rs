//! virtiofsd within this program: the library of that name, with the options that
//! [`super::Virtiofsd::argv`] writes and no other.
//!
//! It is called before any thread is started: entering namespaces forks.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::sandbox::{Sandbox, SandboxMode};
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};
use virtiofsd::soft_idmap::cmdline::IdMap;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Open files that are not the guest's: one for each of the 509 areas of memory that
/// vhost-user-backend can have, and some of its own; virtiofsd's own number.
const OWN_FILES: u64 = 610;

/// How long the guest may take an attribute or a name for what it was, as in virtiofsd's
/// `--cache=auto`.
const CACHED: Duration = Duration::from_secs(1);

/// What it may still do as root: what the files of a guest with many users need (virtiofsd's
/// own list), and nothing about the host.
const CAPABILITIES: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "SETGID", "SETUID", "MKNOD", "SETFCAP"];

/// Its options; whoever starts it looks here for those that not every virtiofsd has.
const HELP: &str = "Serves a folder to one virtual machine; started by clawfarm.

  --shared-dir=FOLDER --socket-path=SOCKET
  --sandbox=namespace|chroot|none --inode-file-handles=never|prefer --readonly
  --translate-uid=MAP --translate-gid=MAP
  --seccomp=kill --cache=auto --log-level=warn
  --print-capabilities";

/// Serves a folder until the machine hangs up. What goes wrong is written to standard error.
#[must_use]
pub fn serve_folder(arguments: &[String]) -> ExitCode {
    if arguments.iter().any(|argument| argument == "--print-capabilities") {
        println!(r#"{{"type": "fs", "features": ["migrate-precopy", "separate-options"]}}"#);
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match Options::parse(arguments).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virtiofsd: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    folder: String,
    socket: String,
    sandbox: SandboxMode,
    handles: InodeFileHandlesMode,
    read_only: bool,
    users: Vec<IdMap>,
    groups: Vec<IdMap>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            folder: String::new(),
            socket: String::new(),
            sandbox: SandboxMode::Namespace,
            handles: InodeFileHandlesMode::Never,
            read_only: false,
            users: vec![],
            groups: vec![],
        };
        for argument in arguments {
            let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
            let refused =
                || Error::invalid("arguments", format!("'{}' is not understood", argument.escape_default()));
            match (name, value) {
                ("--shared-dir", folder) => options.folder = folder.to_owned(),
                ("--socket-path", socket) => options.socket = socket.to_owned(),
                ("--sandbox", mode) => options.sandbox = mode.parse().map_err(|_| refused())?,
                ("--inode-file-handles", "never") => options.handles = InodeFileHandlesMode::Never,
                ("--inode-file-handles", "prefer") => options.handles = InodeFileHandlesMode::Prefer,
                ("--readonly", "") => options.read_only = true,
                ("--translate-uid", map) => options.users.push(map.parse().map_err(|_| refused())?),
                ("--translate-gid", map) => options.groups.push(map.parse().map_err(|_| refused())?),
                // What is not otherwise here.
                ("--seccomp", "kill") | ("--cache", "auto") | ("--log-level", "warn") => {}
                _ => return Err(refused()),
            }
        }
        if options.folder.is_empty() || options.socket.is_empty() {
            return Err(Error::invalid("arguments", "--shared-dir and --socket-path are needed"));
        }
        Ok(options)
    }
}

fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Code::Internal, format!("could not {what}: {why}"))
}

fn serve(options: Options) -> Result<()> {
    if !Path::new(&options.folder).is_dir() {
        return Err(Error::invalid("folder", format!("'{}' is no folder", options.folder)));
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let listener = Listener::new(&options.socket, true)
        .map_err(|e| failed(&format!("listen on {}", options.socket), e))?;
    rustix::process::umask(before);
    let files = virtiofsd::limits::setup_rlimit_nofile(None)
        .map_err(|e| failed("raise the number of open files", e))?
        .checked_sub(OWN_FILES)
        .ok_or_else(|| {
            failed("serve a folder", "too few files may be open").fix("raise the limit: ulimit -n 65536")
        })?;
    // One that was started without any has none to give up.
    let capable = has_capabilities();
    let mut sandbox = Sandbox::new(options.folder, options.sandbox, vec![], vec![]);
    let mountinfo_prefix = sandbox.get_mountinfo_prefix().map_err(|e| failed("read the mounts", e))?;
    let listener = sandbox.enter(listener).map_err(|e| failed("enter the sandbox", e))?;
    let config = Config {
        entry_timeout: CACHED,
        attr_timeout: CACHED,
        cache_policy: CachePolicy::Auto,
        root_dir: sandbox.get_root_dir(),
        mountinfo_prefix,
        proc_sfd_rawfd: sandbox.get_proc_self_fd(),
        proc_mountinfo_rawfd: sandbox.get_mountinfo_fd(),
        announce_submounts: true,
        inode_file_handles: options.handles,
        uid_map: Some(options.users),
        gid_map: Some(options.groups),
        guest_fd_limit: files,
        ..Config::default()
    };
    enable_seccomp(SeccompAction::Kill, false)
        .map_err(|e| failed("restrict its system calls", format!("{e:?}")))?;
    if capable {
        drop_capabilities().map_err(|e| failed("drop capabilities", e))?;
    }
    let open = |e: std::io::Error| failed("open the folder", e);
    if options.read_only {
        run(PassthroughFsRo::new(config).map_err(open)?, listener)
    } else {
        run(PassthroughFs::new(config).map_err(open)?, listener)
    }
}

/// Whether this process may do anything that others may not (`CapEff` of `proc_pid_status(5)`).
/// What can't be read is taken for yes.
fn has_capabilities() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()) != Some(0)
}

fn drop_capabilities() -> capng::Result<()> {
    capng::clear(capng::Set::BOTH);
    capng::updatev(
        capng::Action::ADD,
        capng::Type::PERMITTED | capng::Type::EFFECTIVE,
        CAPABILITIES.to_vec(),
    )?;
    capng::apply(capng::Set::BOTH)
}

fn run<F>(files: F, mut listener: Listener) -> Result<()>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let backend =
        VhostUserFsBackendBuilder::default().build(files).map_err(|e| failed("serve the folder", e))?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("virtiofsd".into(), Arc::new(backend), memory)
        .map_err(|e| failed("serve the folder", format!("{e:?}")))?;
    daemon.start(&mut listener).map_err(|e| failed("accept the machine", format!("{e:?}")))?;
    match daemon.wait() {
        Ok(()) | Err(vhost_user_backend::Error::HandleRequest(vhost::vhost_user::Error::Disconnected)) => {
            Ok(())
        }
        Err(e) => Err(failed("go on serving the folder", format!("{e:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Sandbox as Mode, Virtiofsd, VirtiofsdProgram};
    use super::*;

    #[test]
    fn it_understands_what_is_written_for_it_and_nothing_else() {
        let program = VirtiofsdProgram { command: vec![], saves: true };
        for sandbox in [Mode::Namespace, Mode::Chroot, Mode::None] {
            let share = Virtiofsd {
                folder: "/data/a b,c=d".into(),
                socket: "/run/s".into(),
                sandbox,
                read_only: true,
                squash: Some((1000, 1001)),
            };
            let options = Options::parse(&share.argv(&program).unwrap()).unwrap();
            assert_eq!((options.folder.as_str(), options.socket.as_str()), ("/data/a b,c=d", "/run/s"));
            assert!(options.read_only && options.users.len() == 2 && options.groups.len() == 2);
        }
        for wrong in ["--sandbox=all", "--seccomp=none", "-o", "x", "--translate-uid=x", "--shared-dir"] {
            assert!(Options::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
