//! `config set` and `unset`.

use clap::Args;
use clawfarm_api::manifest::lay;
use clawfarm_api::{ChangeConfig, ChangeConfigs, ConfigWarning, ConfigsChanged, ImpactCounts, PlannedView};
use clawfarm_client::Client;
use clawfarm_config::{ConfigPath, Impact, Selector, Strategy};
use clawfarm_model::Error;
use clawfarm_model::config::{ClawConfig, Model, Provider};
use serde_json::{Map, Value};

use super::publish::{self, How};
use super::{Selection, plan};
use crate::app::App;
use crate::commands::{rollout, wait};
use crate::errors::{FAILED, Failure, OK, Outcome, exit_code, tell_error};

/// `clawfarm config set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Settings as PLACE=SETTING, and before them instances by id, name or a unique beginning
    #[arg(value_name = "[INSTANCE] PLACE=SETTING", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    many: Many,
}

/// `clawfarm config unset`.
#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    /// Places, such as env.REGION; before them the instance, unless some are selected
    #[arg(value_name = "[INSTANCE] PLACE", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    many: Many,
}

/// How a selection is changed.
#[derive(Debug, Args)]
struct Many {
    /// Every instance
    #[arg(long)]
    all: bool,
    /// Only show what it would do
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    how: How,
    /// What for [default: the places]
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    message: String,
    /// Return at once; print the rollout instead of waiting for its end
    #[arg(long, short)]
    detach: bool,
}

/// What is changed in what instances say themselves.
#[derive(Default)]
struct What {
    overrides: Map<String, Value>,
    unset: Vec<ConfigPath>,
}

pub(super) async fn run(app: &App, args: &SetArgs) -> Outcome {
    let (pairs, ids): (Vec<_>, Vec<_>) = args.words.iter().partition(|word| word.contains('='));
    let pairs: Vec<_> = pairs
        .into_iter()
        .filter_map(|word| word.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    if pairs.is_empty() {
        let why = ids.last().map_or_else(
            || "nothing was said to change".to_owned(),
            |last| format!("'{last}' says no setting: it has no '='"),
        );
        return Err(Error::invalid("settings", why)
            .fix("give settings, such as model.name=claude-3-opus")
            .into());
    }
    let what = What { overrides: settings(&pairs)?, ..What::default() };
    change(app, &ids, args.selection.selector()?, &args.many, what).await
}

pub(super) async fn unset(app: &App, args: &UnsetArgs) -> Outcome {
    let selector = args.selection.selector()?;
    let selected = args.many.all || !selector.is_all();
    let (ids, places) = args.words.split_at(usize::from(!selected));
    if places.is_empty() {
        return Err(Error::invalid("PLACE", "it was not said what shall be as the layers below say")
            .fix("give the places, such as env.REGION; or name the instance before them")
            .into());
    }
    let unset = places.iter().map(|it| it.parse()).collect::<Result<_, _>>()?;
    let ids: Vec<&String> = ids.iter().collect();
    change(app, &ids, selector, &args.many, What { unset, ..What::default() }).await
}

/// Changes those that are named, or those that are selected.
async fn change(app: &App, ids: &[&String], selector: Selector, many: &Many, what: What) -> Outcome {
    let client = app.client().await?;
    match (ids.is_empty(), selector.is_all() && !many.all) {
        (true, true) => Err(Error::invalid("instance", "it was not said which instances to change")
            .fix("name them, or give --selector, --type, --project or --all")
            .into()),
        (false, false) => Err(Error::invalid("instance", "instances are named and selected at once")
            .fix("do one of the two")
            .into()),
        (true, false) => selected(app, &client, selector, many, what).await,
        (false, true) => {
            if many.how.strategy(&Strategy::default()) != Strategy::default() || many.detach {
                return Err(Error::invalid("instance", "those that are named are changed at once, one by one")
                    .fix("leave out how it is to go out, or select instances: --selector, --type, --project, --all")
                    .into());
            }
            named(app, &client, ids, many.dry_run, what).await
        }
    }
}

/// Has the change go out to a selection, and shows how that goes.
async fn selected(app: &App, client: &Client, selector: Selector, many: &Many, what: What) -> Outcome {
    let What { overrides, unset } = what;
    let (strategy, message) = (many.how.strategy(&Strategy::default()), many.message.clone());
    let change = ChangeConfigs { selector, overrides, unset, strategy, message, dry_run: many.dry_run };
    let mut ctrl_c = wait::CtrlC::watch()?;
    let changed = client.configure_many(&change).await?;
    match &changed.rollout {
        None if many.dry_run || !changed.refusals.is_empty() || changed.instances.is_empty() => {
            tell(app, &changed)
        }
        None if app.ui.json => app.ui.document(&changed).map(|()| OK),
        None => {
            app.ui.note("They say so already: nothing is changed.");
            Ok(OK)
        }
        Some(begun) if many.detach => publish::detached(app, begun),
        Some(begun) => {
            plan::warnings(app, &changed.warnings);
            rollout::to_its_end(app, client, begun.clone(), &mut ctrl_c).await
        }
    }
}

/// Changes instances one after the other; each has its own word.
async fn named(app: &App, client: &Client, ids: &[&String], dry_run: bool, what: What) -> Outcome {
    let What { overrides, unset } = what;
    let change = ChangeConfig { overrides, unset, dry_run, ..ChangeConfig::default() };
    let (mut instances, mut words, mut code) = (Vec::new(), Vec::new(), OK);
    for id in ids {
        match client.configure(id, &change, None).await {
            Ok(done) => {
                instances.push(PlannedView { instance: done.instance.id, before: None, impact: done.impact });
                words.extend(done.warnings);
            }
            Err(error) => {
                tell_error(&app.ui, &error);
                code = if code == OK { exit_code(error.code()) } else { code };
            }
        }
    }
    let counts = ImpactCounts::of(instances.iter().map(|it| &it.impact));
    let warnings = ConfigWarning::of(words.iter().map(|it| (it.field.as_str(), it.message.as_str())));
    let (refusals, rollout) = (Vec::new(), None);
    tell(app, &ConfigsChanged { changed: !dry_run, rollout, counts, instances, refusals, warnings })?;
    if code == OK { Ok(OK) } else { Err(Failure::Told(code)) }
}

fn tell(app: &App, changed: &ConfigsChanged) -> Outcome {
    let end = if changed.refusals.is_empty() { Ok(OK) } else { Err(Failure::Told(FAILED)) };
    if app.ui.json {
        app.ui.document(changed)?;
        return end;
    }
    let restarts = changed.instances.iter().any(|it| matches!(it.impact, Impact::Restart { .. }));
    plan::table(app, &changed.instances, restarts)?;
    plan::refusals(app, &changed.refusals, changed.refusals.len() as u64)?;
    plan::warnings(app, &changed.warnings);
    match (changed.instances.is_empty(), changed.changed) {
        (true, _) => app.ui.note("No instance is selected."),
        (false, true) => app.ui.line(format_args!("changed: {}", plan::sums(&changed.counts)))?,
        (false, false) => app.ui.line(format_args!("would be changed: {}", plan::sums(&changed.counts)))?,
    }
    end
}

/// Settings as one document that goes into what an instance says (RFC 7396).
pub(in crate::commands) fn settings(pairs: &[(String, String)]) -> Result<Map<String, Value>, Error> {
    let mut all = Map::new();
    let mut seen: Vec<ConfigPath> = Vec::new();
    for (place, text) in pairs {
        let path: ConfigPath = place.parse()?;
        if let Some(other) = seen.iter().find(|other| other.touches(&path)) {
            return Err(Error::invalid(format!("config.{path}"), format!("'{other}' is for the same place"))
                .fix("say it once"));
        }
        if let Value::Object(one) = path.holding(typed(place, &path, text)) {
            lay(&mut all, one);
        }
        seen.push(path);
    }
    Ok(all)
}

/// A value for a template's variable: JSON, or a text.
pub(in crate::commands) fn said(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The value that a text stands for at a place: "1" is a text in `env`, and a number elsewhere.
pub(super) fn typed(place: &str, path: &ConfigPath, text: &str) -> Value {
    let value = said(text);
    if value.is_null() || value.is_string() {
        return value;
    }
    let model =
        Model { provider: Provider::Demo, name: None, api_key: None, base_url: None, fallbacks: Vec::new() };
    let whole = ClawConfig { model: Some(model), ..ClawConfig::default() };
    // Only whoever knows the words of the configuration knows which is meant; what this one can't
    // read by itself the server tells.
    let read = whole.with(place, text).ok().and_then(|config| serde_json::to_value(config).ok());
    read.and_then(|document| path.find(&document).cloned()).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_become_a_patch_with_values_of_their_types() {
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            settings(&pairs)
        };
        let patch = pairs(&[
            ("env.PORT", "8080"),
            ("env.GONE", "null"),
            ("memory.limit", "1000"),
            ("model.name", "claude-3-opus"),
            ("native.a", r#"{"b": [1]}"#),
            ("native.\"x.y\"", "true"),
        ]);
        assert_eq!(
            Value::Object(patch.unwrap()),
            json!({"env": {"PORT": "8080", "GONE": null}, "memory": {"limit": 1000},
                "model": {"name": "claude-3-opus"}, "native": {"a": {"b": [1]}, "x.y": true}})
        );
        let twice = pairs(&[("model", "{}"), ("model.name", "a")]).unwrap_err();
        assert_eq!(twice.field_name(), Some("config.model.name"));
        assert!(pairs(&[("a..b", "1")]).is_err());
    }
}
