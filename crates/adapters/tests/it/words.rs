//! Every field of the unified config, with every claw type: it is in what the claw is given, or it
//! is told, or refused. And what a change of it asks of one that is up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clawfarm_adapters::generic::Generic;
use clawfarm_adapters::nanobot::Nanobot;
use clawfarm_adapters::nanoclaw::NanoClaw;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_adapters::zeroclaw::ZeroClaw;
use clawfarm_adapters::{ClawAdapter, Impact, RenderInput, Rendered};
use clawfarm_model::config::ClawConfig;
use clawfarm_model::name::ClawType;
use clawfarm_model::{ClawId, InstanceSpec, Result};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use crate::cases::{MODEL_KEY, SECRETS, TOKEN, place};
use crate::everything::everything;

/// A type that has a word for some fields of each kind.
const MINE: &str = r#"
version = "1"
command = ["mine", "${config.agents.timezone}"]
reload = "itself"
[env]
MODEL = "${model.name} at ${model.base_url}"
[[file]]
path = "mine.json"
format = "json"
template = '''
{"limit": "${config.memory.limit}", "deny": "${config.tools.deny}", "tg": "${config.channels.telegram.bot_token}",
 "key": "${model.api_key}", "gateway": "${config.gateway.hooks_token}"}
'''
[[file]]
path = "mine.env"
format = "env"
template = "LEVEL=${config.logging.level}"
"#;

/// The types, each with the version that is asked for.
fn types() -> Vec<(Box<dyn ClawAdapter>, String)> {
    let mine = Generic::parse(ClawType::new("mine").unwrap(), MINE).unwrap();
    let all: [Box<dyn ClawAdapter>; 5] =
        [Box::new(OpenClaw), Box::new(Nanobot), Box::new(ZeroClaw), Box::new(NanoClaw), Box::new(mine)];
    all.into_iter()
        .map(|adapter| {
            let version = adapter.default_version().to_owned();
            (adapter, version)
        })
        .collect()
}

fn spec(adapter: &dyn ClawAdapter, version: &str, config: ClawConfig) -> InstanceSpec {
    let mut spec: InstanceSpec = serde_json::from_value(json!({
        "claw_type": adapter.claw_type(), "version": version, "runtime": "process", "target": "local",
        "config_mode": "managed",
    }))
    .unwrap();
    *spec.config = config;
    spec
}

fn render(adapter: &dyn ClawAdapter, spec: &InstanceSpec) -> Result<Rendered> {
    let secrets =
        SECRETS.iter().map(|(name, value)| (name.parse().unwrap(), SecretString::from(*value))).collect();
    adapter.render(&RenderInput {
        id: &ClawId::new("alice-x7k2").unwrap(),
        run: 3,
        spec,
        place: &place(),
        secrets: &secrets,
        gateway_token: &SecretString::from(TOKEN),
        model_key: &SecretString::from(MODEL_KEY),
        public_url: None,
        existing: &BTreeMap::new(),
    })
}

/// Arguments and variables.
type Process = (Vec<String>, Vec<(String, String)>);

/// What a claw sees of a specification: its process (arguments and variables), its files, and
/// what the server does for it.
#[derive(PartialEq)]
struct Seen {
    process: Process,
    files: BTreeMap<PathBuf, String>,
    inbox: String,
}

fn seen(adapter: &dyn ClawAdapter, spec: &InstanceSpec) -> Seen {
    let rendered = render(adapter, spec).unwrap();
    let env = rendered.launch.env.iter().map(|(n, v)| (n.clone(), v.expose_secret().to_owned())).collect();
    let files = rendered.launch.files.iter();
    Seen {
        process: (rendered.launch.argv, env),
        files: files.map(|f| (f.path.clone(), f.contents.expose_secret().to_owned())).collect(),
        inbox: format!("{:?}", rendered.inbox),
    }
}

/// Whether a process has not what it should: a secret's variable that nothing refers to any more
/// does no harm.
fn needs_a_start(was: &Process, is: &Process) -> bool {
    let gone = was.1.iter().any(|(name, _)| {
        !name.starts_with("CLAWFARM_SECRET_") && is.1.iter().all(|(other, _)| other != name)
    });
    was.0 != is.0 || gone || is.1.iter().any(|variable| !was.1.contains(variable))
}

/// The places of everything that is said: keys, and places of lists that hold objects.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match value {
        Value::Object(map) if map.len() == 1 && map.contains_key("secret") => out.push(at.to_owned()),
        Value::Object(map) => map.iter().for_each(|(key, value)| places(value, &below(key), out)),
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            list.iter().enumerate().for_each(|(n, value)| places(value, &below(&n.to_string()), out));
        }
        _ => out.push(at.to_owned()),
    }
}

fn pointer(place: &str) -> String {
    format!("/{}", place.replace('.', "/"))
}

/// Puts a value at a place; what leads there is made.
fn put(root: &mut Value, place: &str, value: Value) {
    let mut at = root;
    for part in place.split('.') {
        // Lists have one element each here, and no key is called '0'.
        at = if part == "0" {
            if !at.is_array() {
                *at = json!([{}]);
            }
            &mut at[0]
        } else {
            at.as_object_mut().unwrap().entry(part).or_insert_with(|| json!({}))
        };
    }
    *at = value;
}

/// What must be said, too, where a place is under one of these.
const WITH: [(&str, &[&str]); 14] = [
    ("providers.anthropic.type", &["providers.anthropic.base_url"]),
    ("channels.telegram", &["channels.telegram.bot_token"]),
    ("channels.discord", &["channels.discord.bot_token"]),
    ("channels.feishu", &["channels.feishu.app_id", "channels.feishu.app_secret"]),
    ("providers.mine", &["providers.mine.type", "providers.mine.base_url", "providers.mine.models.0.name"]),
    ("providers.anthropic", &["providers.anthropic.type"]),
    ("providers.anthropic.models", &["providers.anthropic.models.0.name"]),
    ("agents.heartbeat", &["agents.heartbeat.every_mins"]),
    ("agents.heartbeat.hours", &["agents.heartbeat.hours.from", "agents.heartbeat.hours.to"]),
    (
        "agents.entries.ops.model",
        &["providers.mine.type", "providers.mine.base_url", "providers.mine.models.0.name"],
    ),
    ("agents.entries.ops.channels", &["channels.telegram.bot_token"]),
    ("model.fallbacks", &["providers.mine.type", "providers.mine.base_url", "providers.mine.models.0.name"]),
    ("inbox", &["inbox.0.path", "inbox.0.check.type", "inbox.0.check.secret"]),
    ("proxy", &["proxy.url"]),
];

fn under(place: &str, prefix: &str) -> bool {
    place.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What every type can be given.
fn least() -> serde_json::Result<ClawConfig> {
    serde_json::from_value(json!({"model": {"provider": "anthropic", "api_key": {"secret": "model-key"}}}))
}

/// The same with another address there, for what must be said.
fn otherwise(config: &Value, place: &str) -> Option<ClawConfig> {
    let mut other = config.clone();
    *other.pointer_mut(&pointer(place))? = "http://otherwise.example.com".into();
    serde_json::from_value(other).ok()
}

/// Configs that say one thing, with what it can't be said without; from the one that says least.
fn tries(all: &Value, place: &str) -> Vec<Value> {
    let least = serde_json::to_value(least().unwrap()).unwrap();
    // Where the model itself is looked at, it is one with an address.
    let addressed =
        json!({"model": {"provider": "openai-compatible", "name": "m", "base_url": "http://h/v1"}});
    let whole = json!({"model": {"provider": "openai-compatible", "api_key": {"secret": "model-key"}, "name": "m", "base_url": "http://h/v1"}});
    // And where it is said of its provider, too.
    let listed = json!({"model": {"provider": "anthropic"},
        "providers": {"anthropic": {"type": "anthropic", "api_key": {"secret": "search"}}}});
    let mut bases = vec![least];
    if under(place, "model") {
        bases = if place == "model.api_key" {
            vec![addressed, whole, listed]
        } else {
            vec![bases.remove(0), addressed, whole]
        };
    }
    if place == "providers.anthropic.api_key" {
        // A key of the model's own goes before it.
        bases[0]["model"].as_object_mut().unwrap().remove("api_key");
    }
    if place == "tools.exec.safe_programs" {
        for mode in ["allowlist", "ask"] {
            let mut with = bases[0].clone();
            put(&mut with, "tools.exec.mode", mode.into());
            bases.push(with);
        }
    }
    if under(place, "tools.web_search") || under(place, "tools.web_fetch") {
        let mut with = bases[0].clone();
        put(&mut with, "tools.web_search", false.into());
        put(&mut with, "tools.web_fetch", false.into());
        bases.push(with);
    }
    for base in &mut bases {
        for needed in WITH.iter().filter(|(prefix, _)| under(place, prefix)).flat_map(|(_, needed)| *needed) {
            put(base, needed, all.pointer(&pointer(needed)).unwrap().clone());
        }
        put(base, place, all.pointer(&pointer(place)).unwrap().clone());
    }
    bases
}

/// The same without it; what can't be said then is not said at all.
fn without(config: &Value, place: &str) -> ClawConfig {
    let mut rest = config.clone();
    let mut path: Vec<&str> = place.split('.').collect();
    loop {
        let last = path.pop().unwrap();
        let parent = if path.is_empty() { String::new() } else { pointer(&path.join(".")) };
        match rest.pointer_mut(&parent) {
            Some(Value::Object(map)) => {
                map.remove(last);
            }
            Some(Value::Array(list)) => {
                list.remove(last.parse().unwrap());
            }
            _ => {}
        }
        if let Ok(config) = serde_json::from_value(rest.clone()) {
            return config;
        }
    }
}

/// What a type makes of a place.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Makes {
    Said,
    Told,
    Refused,
}

/// Held against the rules; what is at `place` is in `with` and not in `before`.
fn makes(adapter: &dyn ClawAdapter, version: &str, place: &str, all: &Value) -> Makes {
    let name = adapter.claw_type();
    let related = |field: &str| {
        let field = field.strip_prefix("config.").unwrap_or(field);
        under(field, place) || under(place, field)
    };
    let mut refused = Vec::new();
    for with in tries(all, place) {
        let after = spec(adapter, version, serde_json::from_value(with.clone()).unwrap());
        let warnings = match adapter.validate(&after).and_then(|it| after.check().map(|()| it)) {
            Ok(warnings) => warnings,
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        let before = [Some(without(&with, place)), otherwise(&with, place), least().ok()];
        let mut before = before.into_iter().flatten().map(|config| spec(adapter, version, config));
        let before = before.find(|it| adapter.validate(it).is_ok()).unwrap();
        let (was, is) = (seen(adapter, &before), seen(adapter, &after));
        let impact = adapter.impact(&before, &after);
        let back = adapter.impact(&after, &before);
        let told = warnings.iter().any(|warning| related(&warning.field));
        if was == is {
            assert!(told, "{name}: {place} is dropped in silence: {with}");
            assert_eq!(impact, Impact::None, "{name}: {place} changes nothing, and it says");
            return Makes::Told;
        }
        for (was, is, impact) in [(&was, &is, &impact), (&is, &was, &back)] {
            let seen = needs_a_start(&was.process, &is.process)
                || (&was.files, &was.inbox) != (&is.files, &is.inbox);
            assert!(!seen || *impact != Impact::None, "{name}: {place} is seen: {with}");
        }
        if needs_a_start(&was.process, &is.process) {
            assert!(matches!(impact, Impact::Restart(_)), "{name}: only a start brings {place}: {impact:?}");
        }
        if let Impact::Restart(fields) = &impact {
            assert!(
                fields.iter().any(|field| related(field)) || name.as_str() == "openclaw",
                "{name}: {place}: {fields:?}"
            );
        }
        return Makes::Said;
    }
    let fields: BTreeSet<_> = refused.iter().filter_map(|it| it.field_name()).collect();
    assert!(fields.iter().any(|field| related(field)), "{name}: {place} is refused at {fields:?}");
    assert!(refused.iter().all(|error| error.fix_text().is_some()), "{name}: {place}: {refused:?}");
    Makes::Refused
}

#[test]
fn every_field_is_said_told_or_refused() {
    let all = serde_json::to_value(everything()).unwrap();
    let mut found = Vec::new();
    places(&all, "", &mut found);
    assert!(found.len() > 80, "{found:?}");
    let mut table = String::new();
    for place in &found {
        let words: Vec<String> = types()
            .iter()
            .map(|(adapter, version)| {
                let made = match makes(&**adapter, version, place, &all) {
                    Makes::Said => "yes",
                    Makes::Told => "told",
                    Makes::Refused => "refused",
                };
                format!("{:<8}", made)
            })
            .collect();
        table.push_str(format!("{place:<46} {}", words.join(" ")).trim_end());
        table.push('\n');
    }
    let names: Vec<String> =
        types().iter().map(|(adapter, _)| format!("{:<8}", adapter.claw_type())).collect();
    let head = format!("{:<46} {}", "", names.join(" "));
    insta::assert_snapshot!("words-of-every-type", format!("{}\n{table}", head.trim_end()));
}

/// Whether what is written for a file can be read as what its name says that it is.
fn reads(path: &Path, text: &str) -> std::result::Result<(), String> {
    match path.extension().and_then(|it| it.to_str()).unwrap_or_else(|| path.to_str().unwrap()) {
        "json" => serde_json::from_str::<Map<String, Value>>(text).map(drop).map_err(|e| e.to_string()),
        "toml" => text.parse::<toml::Table>().map(drop).map_err(|e| e.to_string()),
        ".env" | "env" => text.lines().try_for_each(|line| match line.split_once('=') {
            Some((name, _)) if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => Ok(()),
            _ => Err(format!("no variable: {line:?}")),
        }),
        other => Err(format!("nobody knows what '{other}' is")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever text stands anywhere, in a value or in a name: a config that is valid can be
    /// rendered, and each of its files reads in its own format.
    #[test]
    fn what_is_written_reads_in_its_own_format(
        which in any::<prop::sample::Index>(),
        text in "(\\PC|\n|\"|'|\\\\|\\$\\{HOME\\}|\\]|=|#|`| ){0,12}|[a-z/.:-]{1,20}",
    ) {
        let all = serde_json::to_value(everything()).unwrap();
        let mut found = Vec::new();
        places(&all, "", &mut found);
        found.retain(|place| {
            let value = all.pointer(&pointer(place)).unwrap();
            value.is_string() || value.get(0).is_some_and(Value::is_string)
        });
        let place = which.get(&found);
        for (adapter, version) in types() {
            for mut with in tries(&all, place) {
                let value = with.pointer_mut(&pointer(place)).unwrap();
                *value = if value.is_array() { json!([text, "x"]) } else { text.clone().into() };
                let Ok(config) = serde_json::from_value::<ClawConfig>(with) else { continue };
                let spec = spec(&*adapter, &version, config);
                if spec.check().is_err() || adapter.validate(&spec).is_err() {
                    continue;
                }
                let name = adapter.claw_type();
                let rendered = render(&*adapter, &spec);
                prop_assert!(rendered.is_ok(), "{name}: {place}: {:?}", rendered.unwrap_err());
                for file in &rendered.unwrap().launch.files {
                    let said = reads(&file.path, file.contents.expose_secret());
                    prop_assert!(said.is_ok(), "{name}: {place}: {}: {said:?}", file.path.display());
                }
            }
        }
    }
}
