//! A real BIND, with a zone that takes signed updates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{answers, end, free_port};

/// A BIND with the zone `test`, whose names are this machine.
#[derive(Debug)]
pub struct Bind {
    /// Where it answers, and takes updates.
    pub port: u16,
    folder: TempDir,
    child: Child,
}

impl Bind {
    /// Starts one.
    ///
    /// # Panics
    /// When it is not installed or does not start; with its log.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["farm", "other"] {
            let made = Command::new(tool("tsig-keygen")).args(["-a", "hmac-sha256", name]).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            fs::write(folder.path().join(format!("{name}.key")), made.stdout).unwrap();
        }
        fs::write(
            folder.path().join("zone"),
            "$TTL 60\n@ IN SOA ns.test. root.test. 1 60 60 60 60\n@ IN NS ns.test.\nns IN A 127.0.0.1\nclaws IN A 127.0.0.1\n",
        )
        .unwrap();
        for _ in 0..5 {
            let port = free_port();
            let at = folder.path().display();
            let config = format!(
                "include \"{at}/farm.key\";\noptions {{ directory \"{at}\"; pid-file none; session-keyfile \"{at}/session.key\";\n\
                 listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; }};\ncontrols {{ }};\n\
                 zone \"test\" {{ type primary; file \"zone\"; update-policy {{ grant farm zonesub TXT; }}; }};\n"
            );
            let file = folder.path().join("named.conf");
            fs::write(&file, config).unwrap();
            let log = fs::File::create(folder.path().join("log")).unwrap();
            let mut child = Command::new(tool("named"))
                .args(["-g", "-n", "1", "-c"])
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("named is installed (scripts/test-setup)");
            if answers(&mut child, port) {
                return Self { port, folder, child };
            }
            end(&mut child);
        }
        panic!("named does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }

    /// The file with the key that it takes updates under.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("farm.key")
    }

    /// A key that it does not know.
    #[must_use]
    pub fn other_key(&self) -> PathBuf {
        self.folder.path().join("other.key")
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Debian keeps it where only root's PATH leads.
fn tool(name: &str) -> PathBuf {
    let usual = Path::new("/usr/sbin").join(name);
    if usual.exists() { usual } else { PathBuf::from(name) }
}
