//! The source of a claw type, from a git repository.
//!
//! git is run without a shell; a repository and a reference are checked before it sees them and
//! stand behind `--`. Nothing of what is fetched runs here: the commit is packed into an
//! archive, which the build unpacks in its own container.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clawfarm_files::{blocking, io_error, make_private};
use clawfarm_model::launch::{GitSource, ImageMark};
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::inner::Inner;

/// How long one command of git may take: a large history over a slow line.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// The longest repository and reference that are taken.
const LONGEST: usize = 1024;
/// How much of git's complaint is told.
const TOLD: usize = 600;
/// What a version and a package manager may be called, before they become a tag and an argument.
const NAME_MAX: usize = 60;

/// A commit, packed.
pub(super) struct Fetched {
    /// Holds the archive; removed with this.
    pub(super) folder: TempDir,
    /// The commit's full id.
    pub(super) commit: String,
    /// What its `package.json` says.
    pub(super) version: String,
    /// With which tool it wants to be built: `pnpm@10.23.0`; empty where it does not say.
    pub(super) package_manager: String,
}

impl Fetched {
    /// The commit's files.
    pub(super) fn archive(&self) -> PathBuf {
        self.folder.path().join("source.tar")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    package_manager: String,
}

/// Fetches a commit, and looks whether it is source of the claw type.
pub(super) async fn fetch(
    inner: &Inner,
    source: &GitSource,
    mark: &ImageMark,
    progress: &dyn Progress,
) -> Result<Fetched> {
    check_repository(&source.repository)?;
    let wanted = source.reference.as_deref().unwrap_or("HEAD");
    check_reference(wanted)?;
    progress.step("source", &format!("fetching {wanted} of {}", source.repository), None, "");
    let images = inner.paths.images();
    let folder = blocking(move || {
        make_private(&images)
            .and_then(|()| tempfile::Builder::new().prefix(".source-").tempdir_in(&images))
            .map_err(|e| io_error("make a folder for the source", e))
    })
    .await?;
    let repository = folder.path().join("git");
    let git = Git { repository: &repository };
    git.run(&["init", "--quiet", "--bare"]).await.map_err(|e| e.told("make a repository"))?;
    let commit = git.commit(&source.repository, wanted).await?;
    let package = git.package(&commit, mark).await?;
    let archive = folder.path().join("source.tar");
    let output = format!("--output={}", archive.display());
    git.run(&["archive", "--format=tar", &output, &commit]).await.map_err(|e| e.told("pack the source"))?;
    Ok(Fetched { folder, commit, version: package.version, package_manager: package.package_manager })
}

/// What git said when it ended with a failure.
struct Complaint {
    code: Code,
    text: String,
}

impl Complaint {
    fn told(self, what: &str) -> Error {
        let error = Error::new(self.code, format!("could not {what}: {}", self.text)).field("source");
        match self.code {
            Code::Unsupported => error.fix("install git on the server's machine: apt-get install git"),
            _ => error.fix("look at the repository's name, and whether the server's user may read it"),
        }
    }
}

/// A repository of the server's own, in which what was fetched is.
struct Git<'a> {
    repository: &'a Path,
}

impl Git<'_> {
    async fn run(&self, arguments: &[&str]) -> std::result::Result<Vec<u8>, Complaint> {
        let mut command = Command::new("git");
        command
            .arg("--git-dir")
            .arg(self.repository)
            .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "advice.detachedHead=false"])
            .args(arguments)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file")
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
            .env("LC_ALL", "C")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let failed = |code, text: String| Complaint { code, text };
        let ended = match tokio::time::timeout(LIMIT, command.output()).await {
            Err(_) => return Err(failed(Code::Unavailable, format!("git took longer than {LIMIT:?}"))),
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(failed(Code::Unsupported, "there is no git on the server's machine".to_owned()));
            }
            Ok(Err(e)) => return Err(failed(Code::Internal, format!("git can't be run: {e}"))),
            Ok(Ok(ended)) => ended,
        };
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        let said: String =
            said.trim().chars().take(TOLD).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Err(failed(Code::InvalidInput, said))
    }

    /// Fetches what is wanted and returns its full id. Not every server hands out a commit that
    /// no branch ends with: then all branches and tags are fetched.
    async fn commit(&self, repository: &str, wanted: &str) -> Result<String> {
        let one = ["fetch", "--quiet", "--depth=1", "--no-tags", "--", repository, wanted];
        let complaint = match self.run(&one).await {
            Ok(_) => return self.resolve("FETCH_HEAD^{commit}").await,
            Err(complaint) if complaint.code != Code::InvalidInput => {
                return Err(complaint.told("fetch the source"));
            }
            Err(complaint) => complaint,
        };
        if wanted.len() < 7 || !wanted.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(complaint.told(&format!("fetch '{wanted}' of '{repository}'")));
        }
        let all = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        let fetch = ["fetch", "--quiet", "--no-tags", "--", repository, all[0], all[1]];
        self.run(&fetch).await.map_err(|e| e.told(&format!("fetch '{repository}'")))?;
        self.resolve(&format!("{wanted}^{{commit}}")).await.map_err(|_| {
            Error::invalid("ref", format!("no branch of '{repository}' has a commit '{wanted}'"))
                .fix("give a branch, a tag or the id of a commit")
        })
    }

    async fn resolve(&self, name: &str) -> Result<String> {
        let out = self.run(&["rev-parse", "--verify", "--quiet", name]).await;
        let out = out.map_err(|e| e.told("find the commit"))?;
        let id = String::from_utf8_lossy(&out).trim().to_owned();
        if id.len() < 40 || !id.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::new(Code::Internal, "git told no commit"));
        }
        Ok(id)
    }

    async fn package(&self, commit: &str, mark: &ImageMark) -> Result<Package> {
        let none = || {
            Error::invalid(
                "source",
                format!("it is no source of {}: its package.json does not say so", mark.claw_type),
            )
            .fix(format!("give the repository of {}, and a commit of it", mark.claw_type))
        };
        let text = match self.run(&["show", &format!("{commit}:package.json")]).await {
            Ok(text) => text,
            Err(complaint) if complaint.code == Code::InvalidInput => return Err(none()),
            Err(complaint) => return Err(complaint.told("read the source")),
        };
        let package: Package = serde_json::from_slice(&text).map_err(|_| none())?;
        if package.name != mark.package {
            return Err(none());
        }
        // It becomes a part of a tag.
        let good = |text: &str| {
            text.len() <= NAME_MAX
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '@'))
        };
        let version = package.version.split('+').next().unwrap_or_default().to_owned();
        if version.is_empty() || !good(&version) || version.contains('@') {
            return Err(Error::invalid("source", "its package.json has no version that could be a tag")
                .fix("give another commit"));
        }
        // With or without the digest that Corepack writes behind it.
        let manager = package.package_manager.split('+').next().unwrap_or_default().to_owned();
        let package_manager = if good(&manager) { manager } else { String::new() };
        Ok(Package { name: package.name, version, package_manager })
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

/// What git may be told to fetch from.
fn check_repository(text: &str) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::invalid("source", format!("'{}' {why}", shown(text)))
            .fix("give a URL such as https://github.com/openclaw/openclaw.git, or a folder's whole path"))
    };
    if text.is_empty() || text.len() > LONGEST || text.contains(|c: char| c.is_control() || c == ' ') {
        return refuse("can't be the name of a repository");
    }
    if text.starts_with('/') {
        return Ok(());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        // user@host:path, as ssh has it.
        let (host, path) = text.split_once(':').unwrap_or(("", ""));
        let plain = host.contains('@')
            && !text.starts_with('-')
            && !path.is_empty()
            && !path.starts_with(':')
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '-' | '_'))
            && !host.contains("@-");
        return if plain { Ok(()) } else { refuse("is neither a URL nor a whole path") };
    };
    if !["https", "http", "ssh", "git", "file"].contains(&scheme) {
        return refuse("is fetched in a way that is not allowed");
    }
    let host = rest.split('/').next().unwrap_or_default();
    if host.starts_with('-') || host.contains("@-") {
        return refuse("names no host");
    }
    // It would be kept in the image, for everybody who has that.
    if host.split_once('@').is_some_and(|(user, _)| scheme != "ssh" || user.contains(':')) {
        return refuse("has a name or a password in it");
    }
    Ok(())
}

/// Names of branches, tags and commits, as git has them, of plain characters.
fn check_reference(text: &str) -> Result<()> {
    let good = !text.is_empty()
        && text.len() <= 200
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+'))
        && !text.contains("..")
        && !text.contains("//")
        && !text.ends_with(['/', '.']);
    if good {
        return Ok(());
    }
    Err(Error::invalid("ref", format!("'{}' is no branch, tag or commit", shown(text)))
        .fix("give one such as main, v2026.9.6 or a commit's id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_a_repository_reaches_git() {
        for good in [
            "/srv/openclaw",
            "https://github.com/openclaw/openclaw.git",
            "ssh://git@host.example/x.git",
            "git@github.com:openclaw/openclaw.git",
            "file:///srv/openclaw",
        ] {
            check_repository(good).expect(good);
        }
        for bad in [
            "",
            "openclaw",
            "../x",
            "-uexec",
            "--upload-pack=touch /tmp/x",
            "ext::sh -c x",
            "ext::sh",
            "a@b::x",
            "-oProxyCommand=x@h:p",
            "ssh://-oProxyCommand=x/y",
            "ssh://git@-oProxyCommand/y",
            "https://user:secret@host/x",
            "https://token@host/x",
            "transport::x",
            "http://a b",
            "/x\n",
        ] {
            assert_eq!(check_repository(bad).expect_err(bad).field_name(), Some("source"), "{bad}");
        }
        for good in ["HEAD", "main", "v2026.9.6", "release/2026.9", "0123abc"] {
            check_reference(good).expect(good);
        }
        for bad in ["", "-x", "--output=/x", "a..b", "a b", "a:b", "+a:b", "a^{}", "a~1", "/a", "a/", "@{-1}"]
        {
            assert_eq!(check_reference(bad).expect_err(bad).field_name(), Some("ref"), "{bad}");
        }
    }
}
