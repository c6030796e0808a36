//! Where the master key comes from: said by an option, the environment or the home itself, in
//! this order; a file in the home, made at the first start, when nothing is said.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use clawfarm_model::{Code, Error};
use clawfarm_store::MasterKey;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

/// The variable that may have the key: 64 hexadecimal digits, or base64.
pub(crate) const VARIABLE: &str = "CLAWFARM_MASTER_KEY";
/// The file in the home that has the key, where nothing else is said.
pub(crate) const FILE: &str = "master.key";
/// The file in the home that says what prints the key, as `--master-key-command` does.
const COMMAND_FILE: &str = "master-key.command";
/// How long what prints the key may take: a key management service is asked over the network.
const LIMIT: Duration = Duration::from_secs(30);
/// So much of what it prints is read, in bytes.
const PRINTS: u64 = 4096;
/// So much of its complaint is told, in characters.
const TOLD: usize = 500;

/// What the environment said when this program began.
static GIVEN: OnceLock<SecretString> = OnceLock::new();

/// Takes the key out of the environment, so that nothing that is started from here finds it there.
pub(crate) fn take_from_environment() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    // SAFETY: this is the first thing that the program does; there is no other thread yet that
    // could read the environment.
    unsafe { std::env::remove_var(VARIABLE) };
    if !text.is_empty() {
        let _ = GIVEN.set(SecretString::from(text));
    }
}

/// What the environment said, for a server that is started in the background.
pub(crate) fn given() -> Option<&'static SecretString> {
    GIVEN.get()
}

/// Where the master key is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct MasterKeyArgs {
    /// The file with the master key; master.key in the home when nothing is said
    #[arg(long, value_name = "FILE", conflicts_with = "master_key_command")]
    master_key_file: Option<PathBuf>,
    /// What prints the master key, as a JSON array: '["kms-decrypt", "farm.key"]'
    #[arg(long, value_name = "ARGV")]
    master_key_command: Option<String>,
}

/// A place that has a master key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The file in the home, which is made when there is none.
    Home(PathBuf),
    /// Another file.
    File(PathBuf),
    /// What the environment said.
    Environment,
    /// What a program prints.
    Command(Vec<String>),
}

impl MasterKeyArgs {
    /// The same options for a server in the background.
    pub(crate) fn pass_on(&self) -> Result<Vec<std::ffi::OsString>, Error> {
        let mut arguments = Vec::new();
        if let Some(file) = &self.master_key_file {
            arguments.extend(["--master-key-file".into(), absolute(file)?.into()]);
        }
        if let Some(command) = &self.master_key_command {
            argv("--master-key-command", command)?;
            arguments.extend(["--master-key-command".into(), command.into()]);
        }
        Ok(arguments)
    }

    /// Where it is for this home.
    pub(crate) fn source(&self, home: &Path) -> Result<Source, Error> {
        let options = ["--master-key-file", "--master-key-command"];
        let said = source_of(self.master_key_file.as_deref(), self.master_key_command.as_deref(), options)?;
        if let Some(source) = said {
            return Ok(source);
        }
        if given().is_some() {
            return Ok(Source::Environment);
        }
        match command_file(&home.join(COMMAND_FILE))? {
            Some(argv) => Ok(Source::Command(argv)),
            None => Ok(Source::Home(home.join(FILE))),
        }
    }
}

/// The command that the home's file says, when there is such a file. It is run, so nobody but
/// this user and root may have written it; all of it is asked of the file that was opened, not of
/// whatever has its name a moment later.
fn command_file(path: &Path) -> Result<Option<Vec<String>>, Error> {
    let unreadable = |error: &std::io::Error| {
        Error::invalid(COMMAND_FILE, format!("{} can't be read: {error}", path.display()))
            .fix("see that it belongs to you, or remove it")
    };
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    };
    let about = file.metadata().map_err(|e| unreadable(&e))?;
    may_be_run(path, about.uid(), about.permissions().mode(), nix::unistd::geteuid().as_raw())?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|e| unreadable(&e))?;
    argv(COMMAND_FILE, &text).map(Some)
}

/// Refuses a file of `owner` with `mode` that somebody other than `me` or root can have written.
fn may_be_run(path: &Path, owner: u32, mode: u32, me: u32) -> Result<(), Error> {
    if owner != me && owner != 0 {
        let why = format!("{} belongs to user {owner}, and is run as user {me}", path.display());
        return Err(Error::invalid(COMMAND_FILE, why)
            .fix(format!("read it, then chown {me} {}; or remove it", path.display())));
    }
    if mode & 0o022 != 0 {
        let why = format!("others can write to {}, which is run", path.display());
        return Err(Error::invalid(COMMAND_FILE, why).fix(format!("chmod go-w {}", path.display())));
    }
    Ok(())
}

/// What options say; `options` are their names.
pub(crate) fn source_of(
    file: Option<&Path>,
    command: Option<&str>,
    options: [&'static str; 2],
) -> Result<Option<Source>, Error> {
    match (file, command) {
        (Some(file), _) => Ok(Some(Source::File(absolute(file)?))),
        (None, Some(command)) => Ok(Some(Source::Command(argv(options[1], command)?))),
        (None, None) => Ok(None),
    }
}

impl Source {
    /// The key, made when its place is the home and there is none. A home that has a database has
    /// had a key: another one would open nothing, and be in the way of the right one.
    pub(crate) async fn load_or_create(&self) -> Result<MasterKey, Error> {
        match self {
            Self::Home(file) if !file.with_file_name("clawfarm.db").exists() => {
                MasterKey::load_or_create(file)
            }
            other => other.load().await,
        }
    }

    /// The key, which has to be there.
    pub(crate) async fn load(&self) -> Result<MasterKey, Error> {
        match self {
            Self::Home(file) | Self::File(file) => MasterKey::read(file),
            Self::Environment => {
                let given = given().ok_or_else(|| Error::new(Code::Internal, "the variable is not set"))?;
                MasterKey::from_text(given.expose_secret()).map_err(|error| error.field(VARIABLE))
            }
            Self::Command(argv) => printed(argv).await,
        }
    }
}

/// The program and its arguments.
fn argv(field: &'static str, text: &str) -> Result<Vec<String>, Error> {
    let argv: Vec<String> = serde_json::from_str(text).unwrap_or_default();
    if argv.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(field, "it is no JSON array of a program and its arguments")
            .fix(r#"write it as ["program", "argument"]; there is no shell"#));
    }
    Ok(argv)
}

/// The key that a program prints. It gets nothing to read, and what it says on standard error is
/// told when it fails.
async fn printed(argv: &[String]) -> Result<MasterKey, Error> {
    let name = argv.first().map_or("", String::as_str);
    let failed = |why: String| {
        Error::new(Code::Unavailable, format!("'{name}' did not print the master key: {why}"))
            .field("--master-key-command")
            .fix("run it by hand as the user of the server; it has to print 64 hexadecimal digits or base64, and nothing else")
    };
    let mut child = tokio::process::Command::new(name)
        .args(argv.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("it can't be started: {e}")))?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed("it can't be listened to".to_owned()));
    };
    let mut key = Zeroizing::new(Vec::with_capacity(PRINTS as usize + 1));
    let mut complaint = Vec::new();
    // Each is closed when it is read, so that one that goes on printing ends.
    let printed = async {
        let mut out = out.take(PRINTS + 1);
        out.read_to_end(&mut key).await
    };
    let said = async {
        let mut err = err.take(PRINTS);
        err.read_to_end(&mut complaint).await
    };
    let ended = tokio::time::timeout(LIMIT, async {
        let (printed, said) = tokio::join!(printed, said);
        printed.and(said)?;
        child.wait().await
    });
    let ended = ended.await;
    let status = match ended {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("it took longer than {} s", LIMIT.as_secs()))),
    };
    if key.len() as u64 > PRINTS {
        // It may have died of that nobody read on.
        return Err(failed(format!("it printed more than {PRINTS} bytes")));
    }
    let complaint: String = String::from_utf8_lossy(&complaint).trim().chars().take(TOLD).collect();
    if !status.success() {
        let told = if complaint.is_empty() { String::new() } else { format!(", and it says: {complaint}") };
        return Err(failed(format!("{status}{told}")));
    }
    let text = std::str::from_utf8(&key).map_err(|_| failed("it printed what is no text".to_owned()))?;
    MasterKey::from_text(text).map_err(|_| failed("what it printed is no key".to_owned()))
}

fn absolute(file: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(file).map_err(|e| {
        Error::invalid("--master-key-file", format!("{} can't be used: {e}", file.display()))
            .fix("give the file that holds the key")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str]) -> Source {
        Source::Command(argv.iter().map(|&it| it.to_owned()).collect())
    }

    #[test]
    fn the_home_has_it_unless_something_else_is_said() {
        let home = tempfile::tempdir().unwrap();
        let none = MasterKeyArgs::default();
        assert_eq!(none.source(home.path()).unwrap(), Source::Home(home.path().join(FILE)));
        let file = home.path().join(COMMAND_FILE);
        fs::write(&file, r#"["kms", "decrypt", "a b"]"#).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(none.source(home.path()).unwrap(), command(&["kms", "decrypt", "a b"]));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
        let error = none.source(home.path()).unwrap_err();
        assert!(error.message().contains("others can write"), "{error}");
        let given = MasterKeyArgs { master_key_file: Some("/x/k".into()), ..MasterKeyArgs::default() };
        assert_eq!(given.source(home.path()).unwrap(), Source::File("/x/k".into()));
        assert_eq!(given.pass_on().unwrap(), ["--master-key-file", "/x/k"]);
        for wrong in ["kms decrypt", "[]", r#"[""]"#, "{}", "[1]"] {
            let given = MasterKeyArgs { master_key_command: Some(wrong.into()), ..MasterKeyArgs::default() };
            let error = given.source(home.path()).unwrap_err();
            assert_eq!(error.field_name(), Some("--master-key-command"), "{wrong}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_not_run() {
        let path = Path::new("/home/farm/master-key.command");
        assert!(may_be_run(path, 1000, 0o600, 1000).is_ok());
        assert!(may_be_run(path, 0, 0o644, 1000).is_ok(), "root may do anything anyway");
        for (owner, mode, me, why) in [
            (1000, 0o600, 0, "belongs to user 1000"),
            (1001, 0o600, 1000, "belongs to user 1001"),
            (0, 0o602, 0, "others can write"),
        ] {
            let error = may_be_run(path, owner, mode, me).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn a_program_s_key_is_taken_and_its_complaint_is_told() {
        let hex = "0123456789abcdef".repeat(4);
        let key = command(&["printf", "%s\n", &hex]).load().await.unwrap();
        assert_eq!(key.fingerprint().unwrap(), MasterKey::from_text(&hex).unwrap().fingerprint().unwrap());
        for (source, why) in [
            (command(&["sh", "-c", "echo no such key >&2; exit 3"]), "no such key"),
            (command(&["/nowhere/kms"]), "can't be started"),
            (command(&["printf", "sesame"]), "is no key"),
            (command(&["head", "-c", "9999", "/dev/zero"]), "more than"),
            (command(&["true"]), "is no key"),
        ] {
            let error = source.load().await.unwrap_err();
            assert!(error.message().contains(why) && !error.message().contains("sesame"), "{error}");
        }
    }
}
