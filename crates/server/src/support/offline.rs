//! What can be had for a support bundle where no server runs: the files of its home.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clawfarm_model::{ClawId, Error, Result};
use serde_json::{Value, json};

use super::archive::Raw;
use super::redact::Redactor;
use super::{document, end_of, machine};

/// Only a server has these.
const OF_A_SERVER: [&str; 6] =
    ["doctor.json", "targets.json", "instances.json", "operations.json", "events.json", "metrics.txt"];
/// The most names that are listed of one folder.
const NAMES_MAX: usize = 1_000;

/// Makes a bundle of what lies in a home whose server does not run, as a `.tar.gz`: the end of the
/// server's log, what files there are, and which claws. The database is not opened, which would
/// bring it up to date: so no secret but the home's own tokens is known here, and of the others
/// only what looks like one is taken out. The server writes none into its log.
///
/// # Errors
/// When the bundle can't be packed. What can't be read is told in its manifest.
pub fn offline_support_bundle(home: &Path) -> Result<Vec<u8>> {
    let mut raw = Raw::default();
    let mut about = machine();
    about["home"] = json!(home);
    about["server"] = "not running".into();
    raw.add("server.json", Ok(document(&about)));
    raw.add("server.log", end_of(&home.join("server.log")).map(super::Content::Tail));
    raw.add("files.json", names(home, |_| true).map(|names| document(&names)));
    let is_claw = |name: &str| ClawId::new(name).is_ok();
    raw.add("claws.json", names(&home.join("claws"), is_claw).map(|names| document(&names)));
    for name in OF_A_SERVER {
        raw.left_out(name, "only a server has it, and none runs");
    }
    let own: Vec<String> = ["admin.token", "master.key", "master.key.new", "database.url"]
        .iter()
        .filter_map(|name| fs::read_to_string(home.join(name)).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    raw.pack(&Redactor::new(own.iter().map(String::as_str)))
}

/// The names in a folder, with sizes and who may do what: what a full disk, a foreign owner or a
/// missing file is seen by.
fn names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Value> {
    let entries = fs::read_dir(folder)
        .map_err(|error| Error::internal(format!("{} can't be read: {error}", folder.display()), error))?;
    let mut all: Vec<Value> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| wanted(name))?;
            let meta = fs::symlink_metadata(entry.path()).ok()?;
            let mode = format!("{:06o}", meta.mode());
            Some(json!({ "name": name, "bytes": meta.len(), "mode": mode, "uid": meta.uid() }))
        })
        .take(NAMES_MAX)
        .collect();
    all.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Ok(Value::Array(all))
}
