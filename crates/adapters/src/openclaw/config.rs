//! Unified config to `openclaw.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clawfarm_model::LaunchFile;
use clawfarm_model::config::{ClawConfig, ConfigMode, Model, Provider};
use serde_json::{Map, Value};

use super::{areas, channels, inbox, json as tree, merge, owned, provider};
pub(super) use crate::shared::text::shown;
use crate::{RenderInput, Warning};

/// OpenClaw's configuration, in the state folder.
pub(super) const FILE: &str = "openclaw.json";
/// What clawfarm seeded last, in the state folder, to tell its own values from the user's.
pub(super) const SEED_FILE: &str = "clawfarm-seed.json";

/// The generated files, what they refer to, and what happened on the way.
pub(super) struct Generated {
    /// To write, in this order.
    pub(super) files: Vec<LaunchFile>,
    /// What to tell the owner.
    pub(super) warnings: Vec<Warning>,
    /// What `openclaw.json` says.
    pub(super) document: Map<String, Value>,
}

/// Generates the files for a start.
pub(super) fn generate(input: &RenderInput<'_>) -> Generated {
    match input.spec.config_mode {
        ConfigMode::Managed => managed(input),
        ConfigMode::Seeded => seeded(input),
    }
}

/// The whole file is clawfarm's.
fn managed(input: &RenderInput<'_>) -> Generated {
    let (document, warnings) = whole(input);
    Generated { files: vec![file(FILE, &document, true)], warnings, document }
}

/// What the whole file says when nobody else writes into it.
pub(super) fn whole(input: &RenderInput<'_>) -> (Map<String, Value>, Vec<Warning>) {
    let model = input.spec.config.model.clone().unwrap_or_else(demo);
    let mut document = seed(&input.spec.config, Some(&model), input);
    let mut warnings = Vec::new();
    confine_workspace(&mut document, input, &mut warnings);
    enforce(&mut document, input);
    (document, warnings)
}

/// The file is the user's; see [`merge::three_way`].
fn seeded(input: &RenderInput<'_>) -> Generated {
    let mut files = Vec::new();
    let mut warnings = Vec::new();
    let theirs = existing(input, &mut files, &mut warnings);
    let base = match &theirs {
        Some(_) => last_seed(input.existing),
        None => Map::new(),
    };
    let theirs = theirs.unwrap_or_default();
    let model = input.spec.config.model.clone().or_else(|| demo_if_none(&theirs));
    let seed = seed(&input.spec.config, model.as_ref(), input);
    let mut document = merge::three_way(&base, &seed, &theirs);
    confine_workspace(&mut document, input, &mut warnings);
    enforce(&mut document, input);
    files.push(file(FILE, &document, false));
    files.push(file(SEED_FILE, &seed, false));
    Generated { files, warnings, document }
}

/// The present file. A broken one is set beside, under a name of its own, before anything
/// is written in its place.
fn existing(
    input: &RenderInput<'_>,
    files: &mut Vec<LaunchFile>,
    warnings: &mut Vec<Warning>,
) -> Option<Map<String, Value>> {
    let bytes = input.existing.get(Path::new(FILE))?;
    let why = match tree::parse(bytes) {
        Ok(document) => return Some(document),
        Err(why) => why,
    };
    let aside = format!("{FILE}.broken-{}", input.run);
    let mut message =
        format!("openclaw.json could not be read: {why}. It is kept as {aside}; a fresh one was written");
    if std::str::from_utf8(bytes).is_err() {
        message.push_str("; bytes that are no UTF-8 are replaced in the copy");
    }
    warnings.push(Warning { field: FILE.to_owned(), message });
    files.push(LaunchFile {
        path: aside.into(),
        contents: String::from_utf8_lossy(bytes).into_owned().into(),
        read_only: false,
    });
    None
}

/// What was seeded last; nothing, when that can't be told. Then every key in the file counts
/// as the user's, which loses nothing.
fn last_seed(existing: &BTreeMap<PathBuf, Vec<u8>>) -> Map<String, Value> {
    existing.get(Path::new(SEED_FILE)).and_then(|bytes| tree::parse(bytes).ok()).unwrap_or_default()
}

const fn demo() -> Model {
    Model { provider: Provider::Demo, name: None, api_key: None, base_url: None, fallbacks: Vec::new() }
}

/// A claw for which nobody chose a model gets the demo model, so that it answers; left to
/// itself OpenClaw would choose one that needs a key.
fn demo_if_none(theirs: &Map<String, Value>) -> Option<Model> {
    let chosen = primary_model(theirs);
    (chosen.is_none() || chosen.is_some_and(is_demo)).then(demo)
}

fn is_demo(reference: &str) -> bool {
    reference.strip_prefix(provider::DEMO_ID).is_some_and(|rest| rest.starts_with('/'))
}

/// The model a document chooses; OpenClaw accepts a text and an object.
fn primary_model(document: &Map<String, Value>) -> Option<&str> {
    let model = tree::get(document, &["agents", "defaults", "model"])?;
    model.as_str().or_else(|| model.get("primary")?.as_str())
}

/// What clawfarm writes once, for the user to change.
fn seed(config: &ClawConfig, model: Option<&Model>, input: &RenderInput<'_>) -> Map<String, Value> {
    let mut seed = Map::new();
    let mut put = |path: &[&str], value: Value| tree::set(&mut seed, path, value);
    put(&["agents", "defaults", "workspace"], input.place.workspace_dir.to_string_lossy().into());
    // A heartbeat is a turn every 30 minutes by default: the claw would never be idle, and it
    // would spend tokens while nobody is there.
    put(&["agents", "defaults", "heartbeat", "every"], "0m".into());
    // `ask`: commands that are not on the allowlist need a person's yes in the dashboard or a
    // chat, and are denied when nobody can be asked. OpenClaw's own default is `full`, which
    // runs whatever the model says; `allowlist` denies in silence, which a newcomer takes for
    // a defect.
    put(&["tools", "exec", "mode"], "ask".into());
    put(&["gateway", "controlUi", "enabled"], true.into());
    put(&["models", "mode"], "merge".into());
    // Otherwise each start fetches the hosted catalog of models.
    put(&["models", "catalogRefresh", "enabled"], false.into());
    for (id, entry) in provider::entries(&config.providers, model, &input.place.host_url) {
        put(&["models", "providers", &id], entry);
    }
    if let Some(model) = model {
        put(&["agents", "defaults", "model", "primary"], provider::model_reference(model).into());
    }
    channels::put(&mut seed, &config.channels, input);
    areas::put(&mut seed, config, model);
    merge::overlay(&mut seed, &config.native);
    seed
}

/// Brings a workspace back that lies where the claw can't write: data moved to another
/// instance carries the old place's paths.
fn confine_workspace(
    document: &mut Map<String, Value>,
    input: &RenderInput<'_>,
    warnings: &mut Vec<Warning>,
) {
    let path = ["agents", "defaults", "workspace"];
    let own = input.place.workspace_dir.to_string_lossy().into_owned();
    let Some(chosen) = tree::get(document, &path).and_then(Value::as_str).map(str::to_owned) else {
        tree::set(document, &path, own.into());
        return;
    };
    if may_work_in(&chosen, input) {
        return;
    }
    warnings.push(Warning {
        field: path.join("."),
        message: format!(
            "the workspace '{}' is outside of what this claw may write; it works in {own} instead",
            shown(&chosen)
        ),
    });
    tree::set(document, &path, own.into());
}

fn may_work_in(workspace: &str, input: &RenderInput<'_>) -> bool {
    let climbs = Path::new(workspace).components().any(|c| c == std::path::Component::ParentDir);
    // `~` is the claw's home, which is its state folder.
    let home = workspace == "~" || workspace.starts_with("~/");
    let inside = [&input.place.workspace_dir, &input.place.state_dir]
        .iter()
        .any(|dir| Path::new(workspace).starts_with(dir));
    !climbs && (home || inside)
}

fn enforce(document: &mut Map<String, Value>, input: &RenderInput<'_>) {
    let mut rules = owned::rules(input.place, &input.spec.version, input.gateway_token);
    if primary_model(document).is_some_and(is_demo) {
        rules.push(owned::demo_model(input.place));
    }
    merge::enforce(document, &rules);
    inbox::place_listeners(document, input.place);
}

fn file(path: &str, document: &Map<String, Value>, read_only: bool) -> LaunchFile {
    // A map of strings and values always serialises: there is no key but text.
    let mut text = serde_json::to_string_pretty(document).unwrap_or_default();
    text.push('\n');
    LaunchFile { path: path.into(), contents: text.into(), read_only }
}
