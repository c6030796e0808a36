//! The files of a claw type that clawfarm writes from the unified config, and that the claw's
//! user may change too.
//!
//! In mode `managed` a file is clawfarm's. In mode `seeded` three documents meet at each start
//! (see [`super::merge`]): what was seeded last, what would be seeded now, and the file as it is.
//! What was seeded last is kept beside, in [`SEED_FILE`], without the places that are clawfarm's
//! own (the port, keys): those are set anew each time, whatever the file says.

mod dotenv;
mod format;
mod toml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clawfarm_model::config::ConfigMode;
use clawfarm_model::{LaunchFile, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use format::Format;

use super::{json, merge};
use crate::Warning;

/// What was seeded last, in the state folder.
pub(crate) const SEED_FILE: &str = "clawfarm-seed.json";

/// The keys that lead to a place of a document. What is within a list is at the list's own place:
/// a list has one owner.
pub(crate) type Place = Vec<String>;

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Where it is, relative to the state folder.
    pub(crate) path: PathBuf,
    /// How it is written.
    pub(crate) format: Format,
    /// What it says.
    pub(crate) contents: Map<String, Value>,
    /// The places that are clawfarm's own. One that the contents have nothing at must be empty.
    pub(crate) owned: BTreeSet<Place>,
    /// The places with values of secrets; they are clawfarm's own, too.
    pub(crate) secrets: BTreeSet<Place>,
}

impl Document {
    /// A file with nothing in it yet.
    pub(crate) fn new(path: impl Into<PathBuf>, format: Format) -> Self {
        let (owned, secrets) = (BTreeSet::new(), BTreeSet::new());
        Self { path: path.into(), format, contents: Map::new(), owned, secrets }
    }

    /// Puts a value at a place that the claw's user may change.
    pub(crate) fn seed(&mut self, path: &[&str], value: impl Into<Value>) {
        json::set(&mut self.contents, path, value.into());
    }

    /// Puts a value at a place that nobody else may change.
    pub(crate) fn own(&mut self, path: &[&str], value: impl Into<Value>) {
        self.seed(path, value);
        self.owned.insert(path.iter().map(|&part| part.to_owned()).collect());
    }

    /// Puts a secret's value at a place.
    pub(crate) fn secret(&mut self, path: &[&str], value: impl Into<Value>) {
        self.seed(path, value);
        self.secrets.insert(path.iter().map(|&part| part.to_owned()).collect());
    }

    fn ours(&self) -> BTreeSet<Place> {
        self.owned.union(&self.secrets).cloned().collect()
    }

    fn without_ours(&self) -> Map<String, Value> {
        without(&self.contents, &self.ours())
    }
}

/// [`SEED_FILE`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seeds {
    files: BTreeMap<PathBuf, Seed>,
}

/// What was seeded of one file.
#[derive(Debug, Serialize, Deserialize)]
struct Seed {
    format: Format,
    seed: Map<String, Value>,
    /// Places that were clawfarm's own, those of secrets among them.
    owned: BTreeSet<Place>,
    /// Places that had values of secrets.
    secrets: BTreeSet<Place>,
}

/// The files to write, and what to tell the owner.
pub(crate) struct Generated {
    pub(crate) files: Vec<LaunchFile>,
    pub(crate) warnings: Vec<Warning>,
}

/// The files of a start.
///
/// # Errors
/// `InvalidInput` for a value that a file's format can't express.
pub(crate) fn generate(
    documents: &[Document],
    mode: ConfigMode,
    existing: &BTreeMap<PathBuf, Vec<u8>>,
    run: i64,
) -> Result<Generated> {
    let last = last(existing);
    let mut generated = Generated { files: Vec::new(), warnings: Vec::new() };
    let mut seeds = Seeds::default();
    for document in documents {
        let present = existing.get(&document.path);
        let contents = match (mode, present) {
            (ConfigMode::Managed, _) | (_, None) => document.contents.clone(),
            (ConfigMode::Seeded, Some(bytes)) => match document.format.parse(bytes) {
                Ok(theirs) => merged(document, last.files.get(&document.path), &theirs),
                Err(why) => {
                    set_aside(document, bytes, &why, run, &mut generated);
                    document.contents.clone()
                }
            },
        };
        let layout = present.filter(|_| mode == ConfigMode::Seeded).map(Vec::as_slice);
        generated.files.push(LaunchFile {
            path: document.path.clone(),
            contents: document.format.write(&contents, layout)?.into(),
            read_only: mode == ConfigMode::Managed,
        });
        let seed = Seed {
            format: document.format,
            seed: document.without_ours(),
            owned: document.ours(),
            secrets: document.secrets.clone(),
        };
        seeds.files.insert(document.path.clone(), seed);
    }
    // Maps with text for keys always serialise.
    let mut text = serde_json::to_string_pretty(&seeds).unwrap_or_default();
    text.push('\n');
    generated.files.push(LaunchFile { path: SEED_FILE.into(), contents: text.into(), read_only: false });
    Ok(generated)
}

/// What of the files must be otherwise in an archive: without secrets.
pub(crate) fn archived(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<(PathBuf, Vec<u8>)> {
    let mut changed = Vec::new();
    for (path, seed) in last(files).files {
        let Some(bytes) = files.get(&path).filter(|_| !seed.secrets.is_empty()) else { continue };
        // What can't be read can't be cleaned: it stays out.
        let clean = seed
            .format
            .parse(bytes)
            .ok()
            .and_then(|contents| seed.format.write(&without(&contents, &seed.secrets), Some(bytes)).ok());
        changed.push((path, clean.unwrap_or_default().into_bytes()));
    }
    changed
}

/// What was seeded last; nothing, when that can't be told. Then everything in a file counts as
/// the user's, which loses nothing.
fn last(existing: &BTreeMap<PathBuf, Vec<u8>>) -> Seeds {
    let bytes = existing.get(Path::new(SEED_FILE)).filter(|bytes| bytes.len() <= json::MAX_BYTES);
    bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default()
}

fn merged(document: &Document, last: Option<&Seed>, theirs: &Map<String, Value>) -> Map<String, Value> {
    let ours = document.ours();
    let was_ours = last.map(|seed| &seed.owned).into_iter().flatten().cloned();
    let all_ours: BTreeSet<Place> = ours.iter().cloned().chain(was_ours).collect();
    let base = last.map(|seed| without(&seed.seed, &all_ours)).unwrap_or_default();
    let seed = document.without_ours();
    let mut contents = merge::three_way(&base, &seed, &without(theirs, &all_ours));
    for place in &ours {
        let path: Vec<&str> = place.iter().map(String::as_str).collect();
        match json::get(&document.contents, &path) {
            Some(value) => json::set(&mut contents, &path, value.clone()),
            None => {
                json::remove(&mut contents, &path);
            }
        }
    }
    contents
}

/// A file that can't be read is kept under a name of its own before anything takes its place.
fn set_aside(document: &Document, bytes: &[u8], why: &str, run: i64, generated: &mut Generated) {
    let path = document.path.display();
    let aside = format!("{path}.broken-{run}");
    let mut message =
        format!("{path} could not be read: {why}. It is kept as {aside}; a fresh one was written");
    if std::str::from_utf8(bytes).is_err() {
        message.push_str("; bytes that are no UTF-8 are replaced in the copy");
    }
    generated.warnings.push(Warning { field: path.to_string(), message });
    generated.files.push(LaunchFile {
        path: aside.into(),
        contents: String::from_utf8_lossy(bytes).into_owned().into(),
        read_only: false,
    });
}

fn without(contents: &Map<String, Value>, places: &BTreeSet<Place>) -> Map<String, Value> {
    let mut rest = contents.clone();
    for place in places {
        let path: Vec<&str> = place.iter().map(String::as_str).collect();
        json::remove(&mut rest, &path);
    }
    rest
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;

    fn document(contents: Value, port: u16, key: &str) -> Document {
        let mut document = Document::new("config.json", Format::Json);
        document.contents = serde_json::from_value(contents).unwrap();
        document.own(&["gateway", "port"], port);
        document.secret(&["model", "key"], key);
        document
    }

    fn start(document: &Document, files: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<PathBuf, Vec<u8>> {
        let generated = generate(std::slice::from_ref(document), ConfigMode::Seeded, files, 2).unwrap();
        generated
            .files
            .iter()
            .map(|f| (f.path.clone(), f.contents.expose_secret().as_bytes().to_vec()))
            .collect()
    }

    fn read(files: &BTreeMap<PathBuf, Vec<u8>>) -> Value {
        serde_json::from_slice(&files[Path::new("config.json")]).unwrap()
    }

    #[test]
    fn the_users_changes_stay_and_what_is_clawfarms_is_set_anew() {
        let mut files = start(&document(json!({"a": 1, "b": 2}), 1000, "k1"), &BTreeMap::new());
        assert_eq!(read(&files), json!({"a": 1, "b": 2, "gateway": {"port": 1000}, "model": {"key": "k1"}}));
        let seed = String::from_utf8(files[Path::new(SEED_FILE)].clone()).unwrap();
        assert!(!seed.contains("k1"), "{seed}");
        let theirs = json!({"a": 5, "b": 2, "gateway": {"port": 9}, "model": {"key": "x"}, "mine": true});
        files.insert("config.json".into(), theirs.to_string().into_bytes());
        let files = start(&document(json!({"a": 1, "b": 3}), 1001, "k2"), &files);
        assert_eq!(
            read(&files),
            json!({"a": 5, "b": 3, "gateway": {"port": 1001}, "model": {"key": "k2"}, "mine": true})
        );
        // A secret that is no longer configured goes.
        let mut gone = document(json!({"a": 1, "b": 3}), 1001, "k2");
        gone.secrets.clear();
        json::remove(&mut gone.contents, &["model"]);
        assert_eq!(
            read(&start(&gone, &files)),
            json!({"a": 5, "b": 3, "gateway": {"port": 1001}, "mine": true})
        );
    }

    #[test]
    fn an_archive_has_no_secrets() {
        let files = start(&document(json!({"a": 1}), 1000, "k1"), &BTreeMap::new());
        let changed = archived(&files);
        assert_eq!(changed.len(), 1);
        let clean: Value = serde_json::from_slice(&changed[0].1).unwrap();
        assert_eq!(clean, json!({"a": 1, "gateway": {"port": 1000}, "model": {}}));
    }

    #[test]
    fn a_broken_file_is_kept_beside() {
        let files = BTreeMap::from([(PathBuf::from("config.json"), b"{oh no".to_vec())]);
        let files = start(&document(json!({"a": 1}), 1000, "k1"), &files);
        assert_eq!(files[Path::new("config.json.broken-2")], b"{oh no");
        assert_eq!(read(&files)["a"], 1);
    }

    #[test]
    fn a_managed_file_is_clawfarms_alone() {
        let theirs = BTreeMap::from([(PathBuf::from("config.json"), br#"{"mine": 1}"#.to_vec())]);
        let one = document(json!({"a": 1}), 1000, "k1");
        let generated = generate(&[one], ConfigMode::Managed, &theirs, 1).unwrap();
        assert!(generated.files[0].read_only);
        let written: Value = serde_json::from_str(generated.files[0].contents.expose_secret()).unwrap();
        assert_eq!(written, json!({"a": 1, "gateway": {"port": 1000}, "model": {"key": "k1"}}));
    }
}
