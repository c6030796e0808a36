//! The file that describes a claw type.

use std::collections::{BTreeMap, BTreeSet};

use clawfarm_model::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{fill, places};
use crate::shared::document::{Format, SEED_FILE};
use crate::shared::text::shown;

/// The largest file of a type, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;
/// The longest that a claw may be given to end, in seconds.
const STOP_GRACE_MAX: u32 = 3600;

/// A claw type.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypeFile {
    /// What it is, in a line.
    pub(super) about: Option<String>,
    /// The version that a new instance gets.
    pub(super) version: String,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// Where its software is, when that is not in the system's own folders.
    pub(super) folder: Option<String>,
    /// The path of its gateway that answers with success when it takes requests.
    pub(super) health: Option<String>,
    /// Whether it listens on its port at all.
    #[serde(default = "yes")]
    pub(super) listens: bool,
    /// Where it takes messages.
    pub(super) chat: Option<Chat>,
    /// When it takes up what is written into its files.
    #[serde(default)]
    pub(super) reload: Reload,
    /// How long it may take to end, in seconds.
    #[serde(default = "TypeFile::usual_stop_grace")]
    pub(super) stop_grace_secs: u32,
    /// The cores that an instance gets when nothing is said.
    pub(super) cpus: Option<f64>,
    /// The memory that an instance gets when nothing is said, in MiB.
    pub(super) memory_mib: Option<u32>,
    /// Paths that nobody reaches through the edge.
    #[serde(default)]
    pub(super) closed: Vec<String>,
    /// Its environment.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Its files.
    #[serde(default, rename = "file")]
    pub(super) files: Vec<File>,
}

/// When a claw takes up what is written into its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reload {
    /// When it starts.
    #[default]
    Start,
    /// By itself, when they change.
    Itself,
}

/// An endpoint that speaks as `OpenAI`'s chat completions do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chat {
    /// Its path.
    pub(super) path: String,
    /// What the endpoint calls its model.
    pub(super) model: Option<String>,
}

/// A file that is written before each start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Where, below the claw's home.
    pub(super) path: String,
    /// How it is written.
    pub(super) format: Format,
    /// What is in it, with places to fill in.
    pub(super) template: String,
}

const fn yes() -> bool {
    true
}

impl TypeFile {
    const fn usual_stop_grace() -> u32 {
        10
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e: toml::de::Error| {
            let line =
                e.span().and_then(|span| text.get(..span.start)).map_or(1, |t| t.matches('\n').count() + 1);
            Error::invalid("type", format!("line {line}: {}", e.message().replace('\n', " ")))
                .fix("docs/claw-types.md has every field of a type's file")
        })
    }

    /// Checks everything that can be said without an instance.
    pub(super) fn check(&self) -> Result<()> {
        check_version(&self.version)?;
        if self.command.first().is_none_or(|program| program.trim().is_empty()) {
            return Err(Error::invalid("command", "is empty")
                .fix(r#"give the program and its arguments: ["python3", "server.py"]"#));
        }
        for (n, argument) in self.command.iter().enumerate() {
            let field = format!("command[{n}]");
            places::check(&Value::from(argument.as_str()), &field, places::Where::Argument)?;
            no_nul(argument, &field)?;
        }
        if let Some(folder) = &self.folder {
            let good =
                folder.starts_with('/') && folder.len() > 1 && !folder.split('/').any(|part| part == "..");
            if !good {
                return Err(Error::invalid("folder", format!("'{}' is no absolute path of a folder", shown(folder)))
                    .fix("give one such as /opt/mine, or leave it out when the program is in the system's own folders"));
            }
            places::check(&Value::from(folder.as_str()), "folder", places::Where::Folder)?;
        }
        let paths = self.health.iter().map(|path| ("health".to_owned(), path));
        let paths = paths.chain(self.chat.iter().map(|chat| ("chat.path".to_owned(), &chat.path)));
        let closed = self.closed.iter().enumerate().map(|(n, path)| (format!("closed[{n}]"), path));
        for (field, path) in paths.chain(closed) {
            check_url_path(&field, path)?;
        }
        if !self.listens && (self.health.is_some() || self.chat.is_some()) {
            return Err(Error::invalid("listens", "a claw that does not listen has no health and no chat")
                .fix("remove 'listens', or 'health' and 'chat'"));
        }
        if self.stop_grace_secs > STOP_GRACE_MAX {
            return Err(Error::invalid("stop_grace_secs", format!("{} s is too long", self.stop_grace_secs))
                .fix(format!("give at most {STOP_GRACE_MAX}")));
        }
        self.check_resources()?;
        for (name, value) in &self.env {
            let field = format!("env.{name}");
            let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !good || name.starts_with("CLAWFARM_") || name == "HOME" {
                return Err(Error::invalid(
                    "env",
                    format!("'{}' can't be a variable of a type", shown(name)),
                )
                .fix("use letters, digits and '_'; HOME and what begins with CLAWFARM_ is set by clawfarm"));
            }
            no_nul(value, &field)?;
            places::check(&Value::from(value.as_str()), &field, places::Where::File)?;
        }
        self.check_files()
    }

    fn check_resources(&self) -> Result<()> {
        let usual = clawfarm_model::resources::Resources::default();
        let asked = clawfarm_model::resources::Resources {
            cpus: self.cpus.unwrap_or(usual.cpus),
            memory_mib: self.memory_mib.unwrap_or(usual.memory_mib),
        };
        asked.check().map_err(|error| {
            let field = error.field_name().unwrap_or_default().trim_start_matches("resources.").to_owned();
            error.field(field)
        })
    }

    fn check_files(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for (n, file) in self.files.iter().enumerate() {
            let field = format!("file[{n}].path");
            let good = !file.path.is_empty()
                && file.path.len() <= 200
                && file.path.split('/').all(|part| !matches!(part, "" | "." | ".."))
                && file.path.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
            if !good || file.path == SEED_FILE || file.path.contains(".broken-") {
                return Err(Error::invalid(field, format!("'{}' can't be a file of a type", shown(&file.path)))
                    .fix("give a path below the claw's home, of letters, digits and _ - . /, such as conf/claw.json"));
            }
            if !seen.insert(&file.path) {
                return Err(Error::invalid(field, format!("there are two files '{}'", file.path))
                    .fix("give each another path"));
            }
            let body = file.body(n)?;
            places::check(&Value::Object(body), &format!("file[{n}].template"), places::Where::File)?;
        }
        Ok(())
    }

    /// The program, where it is one of the system's own folders.
    pub(super) fn program(&self) -> Option<String> {
        let program = self.command.first()?;
        (!program.contains(['/', '$'])).then(|| program.clone())
    }

    /// Every place that its templates fill in.
    pub(super) fn all_places(&self) -> Result<BTreeSet<String>> {
        let mut found = self.process_places()?;
        found.extend(self.file_places()?);
        Ok(found)
    }

    /// Those of its arguments and its environment.
    pub(super) fn process_places(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for text in self.command.iter().chain(self.env.values()) {
            found.extend(clawfarm_config::places(&Value::from(text.as_str()))?);
        }
        Ok(found)
    }

    /// Those of its files.
    pub(super) fn file_places(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for (n, file) in self.files.iter().enumerate() {
            found.extend(clawfarm_config::places(&Value::Object(file.body(n)?))?);
        }
        Ok(found)
    }
}

impl File {
    /// The template's structure: it is read before anything is filled in, so that no value can
    /// change it.
    pub(super) fn body(&self, n: usize) -> Result<Map<String, Value>> {
        self.format.parse(self.template.as_bytes()).map_err(|why| {
            Error::invalid(
                format!("file[{n}].template"),
                format!("it can't be read as {}: {why}", fill::name(self.format)),
            )
            .fix("correct it; a place to fill in stands in quotes: \"${port}\"")
        })
    }
}

/// A version: what may be part of a folder's name.
pub(super) fn check_version(version: &str) -> Result<()> {
    let good = (1..=40).contains(&version.len())
        && version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c));
    if good {
        return Ok(());
    }
    Err(Error::invalid("version", format!("'{}' can't be a version", shown(version)))
        .fix("use 1 to 40 letters, digits and . _ - +, such as 1.2.0"))
}

fn check_url_path(field: &str, path: &str) -> Result<()> {
    let good = path.starts_with('/')
        && path.len() <= 200
        && path.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b));
    if good {
        return Ok(());
    }
    Err(Error::invalid(field, format!("'{}' is no path", shown(path))).fix("give one such as /health"))
}

fn no_nul(text: &str, field: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(
            Error::invalid(field, "it contains a NUL byte").fix("remove it: no process can be given one")
        );
    }
    Ok(())
}
