//! Installations made by pip, each in a virtual environment of its own.
//!
//! Made and put in place as those of npm are (see the module above). Only built packages are
//! taken (`--only-binary`): to build one would run its scripts as the server's user, outside of
//! any confinement. Where the version is one that was tested, each package is taken by the hash
//! of its file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clawfarm_files::{blocking, io_error};
use clawfarm_model::launch::PipInstall;
use clawfarm_model::{Code, Error, Result, Timestamp};
use clawfarm_runtime::Progress;
use serde::{Deserialize, Serialize};

use super::fault::pip_failed;
use super::run::{self, COLLECTING, End, log_end};
use super::site::Site;
use super::wait;
use clawfarm_local::folders::first_closed;

/// Where a machine has its Pythons; those of people's own can't be used by claws under users of
/// their own.
const FOLDERS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];
/// Their names, in the order in which they are tried.
const NAMES: [&str; 5] = ["python3", "python3.14", "python3.13", "python3.12", "python3.11"];
/// The log of making the environment.
const VENV_LOG: &str = "venv.log";
/// pip's log.
const PIP_LOG: &str = "pip.log";
/// What is to be installed, in the work folder.
const REQUIREMENTS: &str = "requirements.txt";
/// The largest program of an environment whose first lines name its place.
const SCRIPT_MAX: u64 = 64 << 10;

/// What marks a whole installation.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    package: String,
    version: String,
    /// What it was made with: without it, it is of no use.
    python: PathBuf,
    made_at: Timestamp,
}

/// One environment that is wanted.
#[derive(Clone, Debug)]
pub struct Venv {
    want: PipInstall,
    site: Site,
}

impl Venv {
    /// # Errors
    /// `InvalidInput` when a package or version could be taken for something else by pip.
    pub fn new(installs: PathBuf, want: PipInstall) -> Result<Self> {
        for package in std::iter::once(&want.package).chain(&want.with) {
            check_requirement(package)?;
        }
        check_version(&want.version)?;
        Ok(Self { site: Site { installs, name: want.folder_name() }, want })
    }

    /// Where it is, or will be.
    pub fn dir(&self) -> PathBuf {
        self.site.dir()
    }

    /// Whether it is there, whole, and the Python that it was made with too.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.site.marker()?.is_some_and(|bytes| self.is_marked_by(&bytes)))
    }

    /// A damaged marker is none: the installation is made anew.
    fn is_marked_by(&self, bytes: &[u8]) -> bool {
        serde_json::from_slice::<Marker>(bytes).is_ok_and(|marker| {
            (marker.package, marker.version) == (self.want.package.clone(), self.want.version.clone())
                && marker.python.exists()
        })
    }

    /// Makes sure that it is there.
    pub async fn ensure(&self, limit: Duration, progress: &dyn Progress) -> Result<PathBuf> {
        if self.is_ready()? {
            return Ok(self.dir());
        }
        let site = self.site.clone();
        blocking(move || site.make_room()).await?;
        let steps: [(&str, &(dyn Fn() + Sync)); 1] = [(PIP_LOG, &|| self.step(progress))];
        let lock = wait::for_lock(&self.site, &steps, COLLECTING, progress).await?;
        // Someone else may have made it while we waited.
        if !self.is_ready()? {
            self.make(limit, &lock, progress).await?;
        }
        Ok(self.dir())
    }

    async fn make(&self, limit: Duration, lock: &File, progress: &dyn Progress) -> Result<()> {
        let python = python(&self.want.python).await?;
        let this = self.clone();
        blocking(move || {
            this.site.begin()?;
            let path = this.site.work().join(REQUIREMENTS);
            std::fs::write(&path, this.requirements())
                .map_err(|e| io_error(format!("write '{}'", path.display()), e))
        })
        .await?;
        let (work, tree) = (self.site.work(), self.site.tree());
        let run = async |program: &Path, arguments: &[&OsStr], log: &str| {
            let mut command = tokio::process::Command::new(program);
            command.arg("-I").args(arguments).current_dir(&work).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
            let log = work.join(log);
            let what = format!("{} {}", self.want.package, self.want.version);
            match run::to_end(command, &log, lock, limit, COLLECTING, progress).await? {
                End::Status(status) if status.success() => Ok(()),
                End::Status(status) => Err(pip_failed(&what, status, &log_end(&log))),
                End::NotStarted(e) => Err(io_error(format!("run '{}'", program.display()), e).field("python")),
                End::TooSlow => Err(Error::new(
                    Code::Timeout,
                    format!("pip did not install {what} within {} seconds", limit.as_secs()),
                )
                .fix("check the connection to the Python package index, then try again: what was fetched is kept in pip's cache")),
            }
        };
        let text = OsStr::new;
        progress.step("make an environment", "a virtual environment of Python", None, "");
        // The tree is there, empty and closed to others.
        run(&python, &[text("-m"), text("venv"), tree.as_os_str()], VENV_LOG).await?;
        self.step(progress);
        let mut arguments =
            ["-m", "pip", "install", "--no-input", "--only-binary=:all:", "--retries=3"].map(text).to_vec();
        if self.want.lock.text().is_some() {
            arguments.push(text("--require-hashes"));
        }
        let requirements = work.join(REQUIREMENTS);
        arguments.extend([text("-r"), requirements.as_os_str()]);
        run(&tree.join("bin/python"), &arguments, PIP_LOG).await?;
        let this = self.clone();
        blocking(move || this.finish(python)).await
    }

    fn step(&self, progress: &dyn Progress) {
        progress.step(
            &format!("install {}", self.want.package),
            &format!("{} {} from the Python package index", self.want.package, self.want.version),
            Some(self.want.about_packages),
            "packages",
        );
    }

    /// What pip is to install: what was tested, to the last file; else the package and what goes
    /// with it.
    fn requirements(&self) -> String {
        if let Some(lock) = self.want.lock.text() {
            return lock.to_owned();
        }
        let mut all = format!("{}=={}\n", self.want.package, self.want.version);
        for package in &self.want.with {
            all.push_str(package);
            all.push('\n');
        }
        all
    }

    /// Checks and puts in place what pip made.
    fn finish(&self, python: PathBuf) -> Result<()> {
        let tree = self.site.tree();
        let failed = |e| io_error(format!("finish the installation '{}'", self.dir().display()), e);
        if !has_package(&tree, &self.want.package, &self.want.version).map_err(failed)? {
            return Err(Error::internal(
                format!("pip did not install {} {}", self.want.package, self.want.version),
                "its description is not among what was installed",
            )
            .fix("check the Python package index that is configured: `pip config list`"));
        }
        move_scripts(&tree, &self.dir()).map_err(failed)?;
        self.site.finish(&Marker {
            package: self.want.package.clone(),
            version: self.want.version.clone(),
            python,
            made_at: Timestamp::now(),
        })
    }
}

/// Whether an environment has a package, by the folder that describes it.
fn has_package(tree: &Path, package: &str, version: &str) -> std::io::Result<bool> {
    let wanted = format!("{}-{version}.dist-info", package.replace(['-', '.'], "_").to_lowercase());
    for lib in std::fs::read_dir(tree.join("lib"))? {
        let packages = lib?.path().join("site-packages");
        for entry in std::fs::read_dir(packages).into_iter().flatten() {
            if entry?.file_name().to_string_lossy().to_lowercase() == wanted {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The programs of an environment name the Python that runs them by its whole path: they are
/// written anew for where they will be.
fn move_scripts(tree: &Path, to: &Path) -> std::io::Result<()> {
    let (from, to) = (tree.to_string_lossy(), to.to_string_lossy());
    for entry in std::fs::read_dir(tree.join("bin"))? {
        let entry = entry?;
        if !entry.file_type()?.is_file() || entry.metadata()?.len() > SCRIPT_MAX {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        if text.starts_with("#!") && text.contains(from.as_ref()) {
            let mode = entry.metadata()?.permissions().mode();
            std::fs::write(entry.path(), text.replace(from.as_ref(), &to))?;
            std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// A Python of this machine that is new enough and that every claw may run, without links on the
/// way: a machine that gets another one keeps what was made with this.
async fn python(at_least: &str) -> Result<PathBuf> {
    let wanted = parts(at_least);
    let mut seen = Vec::new();
    for folder in FOLDERS {
        for name in NAMES {
            let Ok(path) = Path::new(folder).join(name).canonicalize() else { continue };
            if seen.contains(&path) || first_closed(&path).is_some() {
                continue;
            }
            if version_of(&path).await.is_some_and(|version| parts(&version) >= wanted) {
                return Ok(path);
            }
            seen.push(path);
        }
    }
    Err(Error::new(Code::Unsupported, format!("there is no Python {at_least} or newer in {}", FOLDERS.join(" or ")))
        .field("python")
        .fix("install one (Debian 12, Ubuntu 24.04 and newer: `sudo apt-get install python3 python3-venv`), then try again"))
}

fn parts(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// What a Python says that it is.
async fn version_of(python: &Path) -> Option<String> {
    let output = tokio::process::Command::new(python)
        .args(["-I", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"])
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(30), output).await.ok()?.ok()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !said.is_empty()).then_some(said)
}

/// The Python that environments would be made with, for `doctor`.
pub async fn python_version(at_least: &str) -> Result<String> {
    let path = python(at_least).await?;
    let version = version_of(&path).await.unwrap_or_default();
    Ok(format!("Python {version} ({})", path.display()))
}

/// A package's name, with what is wanted of it and from which version on: no option, no address.
fn check_requirement(text: &str) -> Result<()> {
    let good = (1..=200).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.[],<>=!~".contains(c));
    if good {
        return Ok(());
    }
    let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
    Err(Error::invalid("package", format!("'{shown}' is no name of a Python package")))
}

/// An exact version, as in `0.3.5` or `0.1.5.post3`: no range, no address.
fn check_version(version: &str) -> Result<()> {
    let good = version.len() <= 40
        && version.split('.').count() >= 2
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric()));
    if good {
        return Ok(());
    }
    let shown: String = version.chars().take(60).flat_map(char::escape_default).collect();
    Err(Error::invalid("version", format!("'{shown}' is no exact version")).fix("give one like 0.3.5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn venv(version: &str) -> Venv {
        let want = PipInstall {
            package: "nanobot-ai".to_owned(),
            version: version.to_owned(),
            with: vec!["python-telegram-bot[socks]>=22.6,<23.0".to_owned()],
            python: "3.11".to_owned(),
            lock: clawfarm_model::launch::Lock::none(),
            lock_id: None,
            about_packages: 1,
        };
        Venv::new(PathBuf::from("installs"), want).unwrap()
    }

    #[test]
    fn nothing_that_pip_could_take_for_something_else_is_accepted() {
        for package in ["", "-r x", "--index-url=x", "git+https://x", "a @ https://x", "./x", "a b", "a;b"] {
            assert!(check_requirement(package).is_err(), "{package}");
        }
        for version in ["", "latest", "1", ">=1.0", "1.0 --x", "1.0/..", "1.0.*"] {
            assert!(check_version(version).is_err(), "{version}");
        }
        for version in ["0.3.5", "0.1.5.post3", "1.0rc1"] {
            check_version(version).unwrap();
        }
        for package in ["nanobot-ai", "python-socks[asyncio]>=2.8.0,<3.0.0"] {
            check_requirement(package).unwrap();
        }
        assert_eq!(
            venv("0.3.5").requirements(),
            "nanobot-ai==0.3.5\npython-telegram-bot[socks]>=22.6,<23.0\n"
        );
    }

    #[test]
    fn an_environment_whose_python_is_gone_is_none() {
        let marker = |version: &str, python: &str| {
            format!(
                r#"{{"package":"nanobot-ai","version":"{version}","python":"{python}","made_at":"2026-11-22T00:00:00Z"}}"#
            )
        };
        let whole = marker("0.3.5", "/");
        assert!(venv("0.3.5").is_marked_by(whole.as_bytes()));
        assert!(!venv("0.3.5").is_marked_by(marker("0.3.4", "/").as_bytes()));
        assert!(!venv("0.3.5").is_marked_by(marker("0.3.5", "/no/such/python3").as_bytes()));
        clawfarm_fuzz::fuzz(&[whole.as_bytes(), b"{}"], |bytes| {
            if venv("0.3.5").is_marked_by(bytes) {
                let found: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                assert_eq!((&found["package"], &found["version"]), (&"nanobot-ai".into(), &"0.3.5".into()));
            }
        });
    }

    #[test]
    fn programs_are_written_for_where_they_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, to) = (dir.path().join("work/tree"), dir.path().join("final"));
        std::fs::create_dir_all(tree.join("bin")).unwrap();
        let script = tree.join("bin/nanobot");
        std::fs::write(&script, format!("#!{}/bin/python\nimport x\n", tree.display())).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(tree.join("bin/data"), tree.display().to_string()).unwrap();
        move_scripts(&tree, &to).unwrap();
        assert_eq!(
            std::fs::read_to_string(&script).unwrap(),
            format!("#!{}/bin/python\nimport x\n", to.display())
        );
        assert_eq!(std::fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(std::fs::read_to_string(tree.join("bin/data")).unwrap(), tree.display().to_string());
    }

    #[tokio::test]
    async fn a_python_that_no_machine_has_is_told() {
        let error = python_version("99.0").await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::Unsupported, Some("python")));
        assert!(error.fix_text().is_some_and(|fix| fix.contains("python3-venv")));
    }
}
