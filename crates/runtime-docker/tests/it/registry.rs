//! A registry of its own, on the network of the engine.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use clawfarm_test_docker::Engine;
use tempfile::TempDir;

use crate::farm::LIMIT;

/// A registry, ended when it is dropped.
pub(crate) struct Registry {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Registry {
    /// Starts one where the calling thread is, at a port that the system chooses.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("config.yml");
        let data = folder.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed: scripts/test-setup");
        let log = BufReader::new(child.stderr.take().unwrap());
        let (tell, told) = mpsc::channel();
        // Reads on to its end, so that the registry never waits for somebody to read its log.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let address: String =
                        rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
                    let _ = tell.send(address);
                }
            }
        });
        let address = told.recv_timeout(LIMIT).expect("the registry says where it listens");
        Self { child, address, _folder: folder }
    }

    /// What an image is called in it.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Puts an image of the engine into it under a name, which the engine does not keep.
    /// Returns the digest by which the registry knows it.
    pub(crate) fn take(&self, engine: &Engine, image: &str, name: &str) -> String {
        let name = self.name(name);
        let _ = engine.docker(&["tag", image, &name]);
        let pushed = engine.docker(&["push", &name]);
        engine.remove_image(&name);
        let (_, rest) = pushed.split_once("digest: ").unwrap_or_else(|| panic!("no digest: {pushed}"));
        rest.split_whitespace().next().unwrap().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
