//! What is before the upstream: the edge or nginx, in processes of their own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::serve::DOMAIN;

/// How long one may take to listen.
const LIMIT: Duration = Duration::from_secs(60);
/// Clock ticks a second, in which the kernel counts processor time: 100 on every Linux that
/// user space can see (`sysconf(_SC_CLK_TCK)`).
const TICKS: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Edge,
    Nginx,
}

/// One that runs, ended when it is dropped. Both write a line for each request to a file.
pub(crate) struct Front {
    child: Child,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    _folder: TempDir,
}

impl Front {
    pub(crate) fn start(kind: Kind, upstream: SocketAddr) -> Result<Self> {
        let folder = TempDir::with_prefix("cfb")?;
        let made = rcgen::generate_simple_self_signed(vec![DOMAIN.to_owned(), format!("*.{DOMAIN}")])?;
        fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
        let (child, plain, tls) = match kind {
            Kind::Edge => edge(folder.path(), upstream)?,
            Kind::Nginx => nginx(folder.path(), upstream)?,
        };
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let front = Self { child, plain: here(plain), tls: here(tls), _folder: folder };
        let begun = Instant::now();
        while TcpStream::connect(front.tls).is_err() || TcpStream::connect(front.plain).is_err() {
            if begun.elapsed() > LIMIT {
                bail!("{kind:?} does not listen");
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(front)
    }

    /// Resident memory of all its processes, what they share counted once for each (`Pss`).
    pub(crate) fn memory_kib(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in self.processes() {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = rollup.lines().find(|l| l.starts_with("Pss:")).context("resident memory")?;
            sum += line.split_whitespace().nth(1).context("a figure")?.parse::<f64>()?;
        }
        Ok(sum)
    }

    /// Processor time that they used so far, in seconds.
    pub(crate) fn cpu_secs(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in self.processes() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // Behind the name, which is in brackets and may hold anything.
            let rest = stat.rsplit_once(')').context("a process's figures")?.1;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            // Fields 14 and 15 of proc(5), counted from 3 here.
            for at in [11, 12] {
                sum += fields.get(at).context("a figure")?.parse::<f64>()? / TICKS;
            }
        }
        Ok(sum)
    }

    /// Its process and their workers.
    fn processes(&self) -> Vec<u32> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        std::iter::once(own).chain(children.split_whitespace().filter_map(|it| it.parse().ok())).collect()
    }
}

fn edge(folder: &Path, upstream: SocketAddr) -> Result<(Child, u16, u16)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["edge-serve", &upstream.to_string()])
        .args([folder.join("cert.pem"), folder.join("key.pem")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.join("access.log"))?)
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
    let (plain, tls) = line.trim().split_once(' ').context("the edge tells its ports")?;
    Ok((child, plain.parse()?, tls.parse()?))
}

fn nginx(folder: &Path, upstream: SocketAddr) -> Result<(Child, u16, u16)> {
    // Nobody else asks for them meanwhile: nginx can't say which it chose.
    let port = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
    let (plain, tls) = (port()?, port()?);
    let at = folder.display();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {at}/{what};"))
        .join("\n");
    let config = format!(
        "pid {at}/pid;\nerror_log {at}/error.log;\nworker_processes auto;\nworker_rlimit_nofile 32768;\nevents {{ worker_connections 8192; }}\nhttp {{\naccess_log {at}/access.log;\n{temp}\nkeepalive_requests 1000000;\nupstream claw {{ server {upstream}; keepalive 64; keepalive_requests 1000000; }}\nmap $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\nserver {{\nlisten 127.0.0.1:{plain};\nlisten 127.0.0.1:{tls} ssl http2;\nserver_name *.{DOMAIN};\nssl_certificate {at}/cert.pem;\nssl_certificate_key {at}/key.pem;\nlocation / {{\nproxy_pass http://claw;\nproxy_http_version 1.1;\nproxy_buffering off;\nproxy_request_buffering off;\nproxy_set_header Host $http_host;\nproxy_set_header X-Forwarded-For $remote_addr;\nproxy_set_header X-Forwarded-Proto $scheme;\nproxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection $connection_upgrade;\n}}\n}}\n}}\n"
    );
    fs::write(folder.join("nginx.conf"), config)?;
    let child = Command::new("nginx")
        .args(["-g", "daemon off;", "-c"])
        .arg(folder.join("nginx.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("nginx can't be started: scripts/bench installs it")?;
    Ok((child, plain, tls))
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // Its workers end with nginx when it is asked.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}
