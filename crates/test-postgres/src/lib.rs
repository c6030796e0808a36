//! A private PostgreSQL server for tests and benchmarks.
//!
//! It is made by `initdb` in a temporary folder, listens on a socket in that folder only, and
//! trusts whoever can reach it. [`Database::new`] makes an empty database in a server that all
//! tests of one run share; [`Server::private`] is a server for a test that stops or starts it.
//!
//! A keeper (a shell of its own session) ends the server and removes its folder when the run's
//! process is gone, however it ended. PostgreSQL refuses to run as root: then it runs as
//! `nobody`. Folders of runs whose keeper was killed, too, go when the next server is made.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, getpid, getppid, getuid, kill_process};

/// How long a server may take to be made or to start: `initdb` needs two seconds of one core.
const LIMIT: Duration = Duration::from_secs(60);
/// What the names of servers' folders begin with; the process that they are for follows.
const PREFIX: &str = "clawfarm-pg-";
/// Files in a folder: the address it listens on beside its socket, and its port.
const LISTEN: &str = "listen";
const PORT: &str = "port";
const KEEPER: &str = include_str!("keeper.sh");
/// Who it runs as when the tests run as root. Every Linux has `nobody` under this number.
const NOBODY: u32 = 65_534;

/// A PostgreSQL server.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    /// Shared ones end with the run, others with this.
    private: bool,
    /// It syncs and vacuums as a server that is relied on does.
    durable: bool,
}

/// An empty database. Dropped, it is gone, with whoever is connected to it.
#[derive(Debug)]
pub struct Database {
    folder: PathBuf,
    name: String,
}

impl Database {
    /// A new database in the server of this run.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start; with its log.
    #[must_use]
    pub fn new() -> Self {
        Server::shared().database()
    }

    /// Where it is: `postgres://...`, as whoever may do everything.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.folder, &self.name)
    }

    /// The same as another user of the database server.
    #[must_use]
    pub fn url_as(&self, user: &str) -> String {
        self.url().replace("postgres@", &format!("{user}@"))
    }

    /// The folder of its server's socket.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        &self.folder
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All that is in it, as SQL.
    ///
    /// # Panics
    /// When it can't be read.
    #[must_use]
    pub fn dump(&self) -> String {
        let output = Command::new(bin().join("pg_dump"))
            .args(["-U", "postgres", "-h"])
            .arg(&self.folder)
            .args(["-p", &port(&self.folder), "-d", &self.name])
            .env_clear()
            .output()
            .expect("pg_dump can be run");
        assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        // Newer ones guard their text with a word that is another one each time.
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().filter(|l| !l.contains("restrict ")).collect::<Vec<_>>().join("\n")
    }

    /// Runs statements in it, and returns what `psql` prints of them: rows, columns parted by `|`.
    ///
    /// # Panics
    /// When one fails.
    #[must_use]
    pub fn sql(&self, sql: &str) -> String {
        psql(&self.folder, &self.name, sql)
    }
}

impl Default for Database {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The server may have been stopped by its test.
        if socket(&self.folder).exists() && !std::thread::panicking() {
            let _ = try_psql(
                &self.folder,
                "postgres",
                &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name),
            );
        }
    }
}

impl Server {
    /// The server of this run: of all tests that one `cargo nextest` or `cargo test` started.
    /// The first that asks makes it.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    #[must_use]
    pub fn shared() -> Self {
        let owner = getppid().unwrap_or_else(getpid);
        let start = start_of(owner).unwrap_or_default();
        let folder = std::env::temp_dir().join(format!("{PREFIX}{}-{start}", owner.as_raw_nonzero()));
        let lock = File::create(folder.with_extension("lock")).expect("the temporary folder can be written");
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("a file can be locked");
        if !socket(&folder).exists() {
            make(&folder);
            start_keeper(&folder, owner, &start, false);
            wait_until_it_answers(&folder);
        }
        let _ = fs::remove_file(folder.with_extension("lock"));
        Self { folder, private: false, durable: false }
    }

    /// A server of its own.
    ///
    /// # Panics
    /// As for [`Server::shared`].
    #[must_use]
    pub fn private() -> Self {
        Self::own(false)
    }

    /// A server of its own that keeps what it acknowledged over a power cut, and vacuums: as
    /// one is that is relied on, for benchmarks. The others do without, for speed.
    ///
    /// # Panics
    /// As for [`Server::shared`].
    #[must_use]
    pub fn durable() -> Self {
        Self::own(true)
    }

    /// A server of its own that listens on a loopback address, too, with TLS only: with this
    /// certificate chain and key, as PEM. [`Server::address`] says where.
    ///
    /// # Panics
    /// As for [`Server::shared`].
    #[must_use]
    pub fn with_tls(certificate: &str, key: &str) -> Self {
        let folder = new_folder();
        make(&folder);
        let data = folder.join("data");
        // All of 127.0.0.0/8 is this machine's: an address of this process, and a port that is
        // free there, so that nobody else's server is in the way.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = std::net::Ipv4Addr::new(127, a | 0x40, b, c);
        let free = std::net::TcpListener::bind((address, 0)).and_then(|l| l.local_addr()).expect("a port");
        let written = [
            (folder.join(LISTEN), address.to_string()),
            (folder.join(PORT), free.port().to_string()),
            (data.join("postgresql.auto.conf"), "ssl = on\n".to_owned()),
            (data.join("pg_hba.conf"), "local all all trust\nhostssl all all 127.0.0.0/8 trust\n".to_owned()),
        ];
        for (file, text) in written {
            write_private(&file, &text);
        }
        let server = Self { folder, private: true, durable: false };
        server.certify(certificate, key);
        server.start();
        server
    }

    /// Gives one [`with_tls`](Self::with_tls) another certificate, which it has from its next
    /// start on.
    ///
    /// # Panics
    /// When its files can't be written.
    pub fn certify(&self, certificate: &str, key: &str) {
        let data = self.folder.join("data");
        write_private(&data.join("server.crt"), certificate);
        write_private(&data.join("server.key"), key);
    }

    /// Where it listens beside its socket, as `address:port`; only of [`Server::with_tls`].
    #[must_use]
    pub fn address(&self) -> Option<String> {
        let listen = fs::read_to_string(self.folder.join(LISTEN)).ok()?;
        Some(format!("{listen}:{}", port(&self.folder)))
    }

    fn own(durable: bool) -> Self {
        let folder = new_folder();
        make(&folder);
        let server = Self { folder, private: true, durable };
        server.start();
        server
    }

    /// A new database in it.
    ///
    /// # Panics
    /// When it can't be made.
    #[must_use]
    pub fn database(&self) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let _ = psql(
            &self.folder,
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"),
        );
        Database { folder: self.folder.clone(), name }
    }

    /// Ends it as a crash would: connections break, nothing is tidied up. Only for a private one.
    ///
    /// # Panics
    /// When it does not end.
    pub fn crash(&self) {
        self.signal_and_wait(Signal::QUIT);
    }

    /// Ends it orderly: open transactions are ended, connections closed. Only for a private one.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&self) {
        self.signal_and_wait(Signal::INT);
    }

    /// Starts it again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&self) {
        let me = getpid();
        start_keeper(&self.folder, me, &start_of(me).unwrap_or_default(), self.durable);
        wait_until_it_answers(&self.folder);
    }

    /// The process of the server, to be frozen or killed.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    fn signal_and_wait(&self, signal: Signal) {
        assert!(self.private, "others use it");
        let Some(pid) = self.pid().and_then(Pid::from_raw) else { return };
        let _ = kill_process(pid, signal);
        until("the server ends", || !Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
        // What a crash leaves is no server.
        let _ = fs::remove_file(socket(&self.folder));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.private {
            self.signal_and_wait(Signal::QUIT);
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn url(folder: &Path, database: &str) -> String {
    let host = folder.to_str().expect("the temporary folder has a UTF-8 name").replace('/', "%2F");
    format!("postgres://postgres@{host}:{}/{database}", port(folder))
}

fn socket(folder: &Path) -> PathBuf {
    folder.join(format!(".s.PGSQL.{}", port(folder)))
}

/// Its port, which is in the name of its socket.
fn port(folder: &Path) -> String {
    fs::read_to_string(folder.join(PORT)).unwrap_or_else(|_| "5432".to_owned())
}

/// Writes a file that only the server reads.
fn write_private(file: &Path, text: &str) {
    fs::write(file, text).expect("written");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    if getuid().is_root() {
        chown(file, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}

/// The folder of a private server.
fn new_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("{PREFIX}{}-p{number}", std::process::id()))
}

/// Removes the folders of runs that are over: a keeper that was killed with its owner, or an
/// owner that was killed while its server was stopped, has left them.
fn remove_stale() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if let Some(owner) = owner
            && !Path::new(&format!("/proc/{owner}")).exists()
        {
            // Its own keeper may be about it; somebody else's can't be removed.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// PostgreSQL's programs: on the PATH, or where Debian puts them, the newest version.
fn bin() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("initdb")).find(|file| file.exists());
    if let Some(initdb) = on_path.and_then(|file| fs::canonicalize(file).ok()) {
        return initdb.parent().expect("a file is in a folder").to_owned();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL is installed (Debian, Ubuntu: apt-get install postgresql)").1
}

/// Makes the folder and the server's files in it.
fn make(folder: &Path) {
    remove_stale();
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder).expect("the temporary folder can be written");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let data = folder.join("data");
    let mut initdb = Command::new(bin().join("initdb"));
    initdb.arg("-D").arg(&data);
    initdb.args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ]);
    initdb.current_dir("/").env_remove("LC_ALL");
    if getuid().is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may");
        initdb.uid(NOBODY).gid(NOBODY);
    }
    let output = initdb.output().expect("initdb can be run");
    assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    // One user needs a password, so that a wrong one can be given.
    let rules = "local all secured scram-sha-256\nlocal all all trust\n";
    fs::write(data.join("pg_hba.conf"), rules).expect("initdb made its folder");
}

fn start_keeper(folder: &Path, owner: Pid, start: &str, durable: bool) {
    let null = || Stdio::null();
    let mut keeper = Command::new("sh");
    keeper
        .args(["-c", KEEPER, "keeper.sh"])
        .arg(owner.as_raw_nonzero().to_string())
        .arg(start)
        .arg(bin())
        .arg(folder.join("data"))
        .arg(if getuid().is_root() { NOBODY.to_string() } else { String::new() })
        .arg(if durable { "on" } else { "off" })
        .arg(fs::read_to_string(folder.join(LISTEN)).unwrap_or_default())
        .arg(port(folder))
        .current_dir("/")
        .stdin(null())
        .stdout(null())
        .stderr(null());
    // SAFETY: setsid is async-signal-safe. In a session of its own it outlives a test whose
    // process group is killed.
    unsafe {
        keeper.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    let mut child = keeper.spawn().expect("sh can be run");
    // Reaped when it ends before this process does.
    std::thread::spawn(move || drop(child.wait()));
}

fn wait_until_it_answers(folder: &Path) {
    let begun = Instant::now();
    while try_psql(folder, "postgres", "SELECT 1").is_err() {
        if begun.elapsed() > LIMIT {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            panic!("PostgreSQL did not answer within {LIMIT:?}: {log}");
        }
        pause();
    }
}

fn psql(folder: &Path, database: &str, sql: &str) -> String {
    try_psql(folder, database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn try_psql(folder: &Path, database: &str, sql: &str) -> Result<String, String> {
    let output = Command::new(bin().join("psql"))
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
        .arg(folder)
        .args(["-p", &port(folder)])
        .args(["-d", database, "-c", sql])
        .env_clear()
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// When a process was started, as the kernel counts: with its number it names one process.
fn start_of(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        pause();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "it waits between two looks, with a limit, and runs in no runtime"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_apart_and_go_with_their_handle() {
        let (one, other) = (Database::new(), Database::new());
        let _ = one.sql("CREATE TABLE t (x int); INSERT INTO t VALUES (7)");
        assert_eq!(one.sql("SELECT x FROM t"), "7");
        assert_eq!(other.sql("SELECT count(*) FROM pg_tables WHERE tablename = 't'"), "0");
        let name = one.name().to_owned();
        drop(one);
        assert_eq!(other.sql(&format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")), "0");
    }

    #[test]
    fn a_private_server_is_stopped_started_and_removed() {
        let server = Server::private();
        let database = server.database();
        let _ = database.sql("CREATE TABLE t (x int)");
        server.crash();
        assert!(try_psql(&server.folder, database.name(), "SELECT 1").is_err());
        server.start();
        assert_eq!(database.sql("SELECT count(*) FROM t"), "0");
        server.stop();
        let (folder, pid) = (server.folder.clone(), server.pid());
        assert_eq!(pid, None, "it is stopped");
        drop(database);
        drop(server);
        assert!(!folder.exists());
    }

    #[test]
    fn what_a_killed_run_has_left_goes_with_the_next() {
        let mut gone = Command::new("true").spawn().expect("it can be run");
        let pid = gone.id();
        gone.wait().expect("waited");
        let left = std::env::temp_dir().join(format!("{PREFIX}{pid}-p0"));
        let lives = std::env::temp_dir().join(format!("{PREFIX}{}-x0", std::process::id()));
        for folder in [&left, &lives] {
            fs::create_dir_all(folder.join("data")).expect("made");
        }
        remove_stale();
        assert!(!left.exists() && lives.exists());
        fs::remove_dir_all(lives).expect("it is ours");
    }

    #[test]
    fn the_keeper_ends_the_server_with_its_owner() {
        let mut owner = Command::new("sleep").arg("60").spawn().expect("sleep can be run");
        let pid = Pid::from_child(&owner);
        let folder = std::env::temp_dir().join(format!("clawfarm-pg-{}-k", std::process::id()));
        make(&folder);
        start_keeper(&folder, pid, &start_of(pid).unwrap(), false);
        wait_until_it_answers(&folder);
        let server = Server { folder: folder.clone(), private: false, durable: false };
        let postmaster = server.pid().expect("it runs");
        owner.kill().unwrap();
        owner.wait().unwrap();
        until("the folder is gone", || !folder.exists());
        assert!(!Path::new(&format!("/proc/{postmaster}")).exists());
    }
}
