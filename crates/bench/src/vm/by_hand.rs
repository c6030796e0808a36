//! A virtual machine by hand: QEMU, its own memory format, OpenSSH.

#![expect(clippy::disallowed_methods, reason = "no runtime is here whose thread could be blocked")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clawfarm_vm::Seed;
use serde_json::{Value, json};

use super::{CPUS, MEMORY_MIB};

/// How long anything may take before the measurement is given up: a busy machine boots in minutes.
const LIMIT: Duration = Duration::from_secs(900);
/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(50);

/// One machine.
pub(super) struct Machine {
    folder: PathBuf,
    port: u16,
    qemu: Child,
}

impl Machine {
    /// Makes its disk and its seed, boots it, and waits for the end of its first boot.
    pub(super) fn boot(folder: &Path, image: &Path) -> Result<Self> {
        let key = folder.join("key");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
        let disk = folder.join("disk.qcow2");
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .arg(image)
            .arg(&disk)
            .arg("10G"))?;
        let seed = Seed {
            instance_id: "by-hand".into(),
            hostname: "by-hand".into(),
            authorized_key: std::fs::read_to_string(key.with_extension("pub"))?.trim().to_owned(),
            host_key: None,
            files: Vec::new(),
            boot_commands: Vec::new(),
            commands: Vec::new(),
            packages: Vec::new(),
        };
        std::fs::write(folder.join("seed.iso"), seed.iso().map_err(anyhow::Error::msg)?.to_bytes())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let qemu = start(folder, port, false)?;
        let mut machine = Self { folder: folder.to_owned(), port, qemu };
        machine.answers()?;
        machine.ssh("cloud-init status --wait >/dev/null; true")?;
        Ok(machine)
    }

    /// Saves its memory and ends its process.
    pub(super) fn suspend(&mut self) -> Result<()> {
        let mut qmp = Qmp::connect(&self.folder)?;
        qmp.ask("stop", &json!({}))?;
        qmp.ask("migrate-set-capabilities", &mapped())?;
        qmp.ask("migrate", &json!({ "uri": format!("file:{}", self.memory().display()) }))?;
        qmp.until_migrated()?;
        qmp.ask("quit", &json!({}))?;
        self.qemu.wait()?;
        Ok(())
    }

    /// Starts it again from its memory, and waits until it answers.
    pub(super) fn resume(&mut self) -> Result<()> {
        self.qemu = start(&self.folder, self.port, true)?;
        let mut qmp = Qmp::connect(&self.folder)?;
        qmp.ask("migrate-set-capabilities", &mapped())?;
        qmp.ask("migrate-incoming", &json!({ "uri": format!("file:{}", self.memory().display()) }))?;
        qmp.until_migrated()?;
        qmp.ask("cont", &json!({}))?;
        self.answers()
    }

    /// Runs a command in it.
    pub(super) fn ssh(&self, line: &str) -> Result<()> {
        let output = self.ssh_command(line).output()?;
        if !output.status.success() {
            bail!("ssh: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn ssh_command(&self, line: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"])
            .arg("-i")
            .arg(self.folder.join("key"))
            .args(["-p", &self.port.to_string(), "root@127.0.0.1", line])
            .stdin(Stdio::null());
        ssh
    }

    fn answers(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self.ssh_command("true").output()?.status.success() {
            if let Some(ended) = self.qemu.try_wait()? {
                bail!("QEMU ended: {ended}");
            }
            if begun.elapsed() > LIMIT {
                bail!("the machine by hand does not answer SSH");
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn memory(&self) -> PathBuf {
        self.folder.join("memory")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn start(folder: &Path, port: u16, incoming: bool) -> Result<Child> {
    let _ = std::fs::remove_file(folder.join("qmp"));
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", "q35,accel=tcg,memory-backend=ram", "-cpu", "max"])
        .args(["-smp", &CPUS.to_string(), "-m", &format!("{MEMORY_MIB}M")])
        .args(["-object", &format!("memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on")])
        .args(["-serial", &format!("file:{}", folder.join("serial.log").display())])
        .args([
            "-drive",
            &format!("file={},if=none,id=disk,format=qcow2", folder.join("disk.qcow2").display()),
        ])
        .args(["-device", "virtio-blk-pci,drive=disk,bootindex=0"])
        .args([
            "-drive",
            &format!("file={},if=none,id=seed,format=raw,readonly=on", folder.join("seed.iso").display()),
        ])
        .args(["-device", "virtio-blk-pci,drive=seed", "-device", "virtio-rng-pci"])
        .args(["-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22")])
        .args(["-device", "virtio-net-pci,netdev=net"])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", folder.join("qmp").display())]);
    if incoming {
        qemu.args(["-incoming", "defer"]);
    }
    let log = std::fs::File::create(folder.join("qemu.log"))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    Ok(qemu.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

fn mapped() -> Value {
    json!({ "capabilities": [{ "capability": "mapped-ram", "state": true }] })
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A conversation with QEMU.
struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    fn connect(folder: &Path) -> Result<Self> {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(folder.join("qmp")) {
                Ok(stream) => break stream,
                Err(error) if begun.elapsed() > LIMIT => return Err(error).context("QMP"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(LIMIT))?;
        let mut qmp = Self { reader: BufReader::new(stream.try_clone()?), writer: stream };
        qmp.line()?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU hung up");
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        writeln!(self.writer, "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let mut said = self.line()?;
            if let Some(error) = said.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(answer) = said.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    fn until_migrated(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let state = self.ask("query-migrate", &json!({}))?;
            match state.get("status").and_then(Value::as_str) {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("{state}"),
                _ if begun.elapsed() > LIMIT => bail!("the memory is not through: {state}"),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}
