//! Claw types that a file describes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clawfarm_adapters::generic::Generic;
use clawfarm_adapters::{ClawAdapter as _, RenderInput, Rendered};
use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::name::ClawType;
use clawfarm_model::{ClawId, InstanceSpec, Result};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::cases::{MODEL_KEY, SECRETS, TOKEN, place};

/// Every kind of file, and every kind of place.
const TYPE: &str = r#"
version = "2.1"
command = ["claw", "--port", "${port}", "--id=${id}", "${config.native.flag}"]
folder = "/opt/mine/${version}"
health = "/health"
closed = ["/admin"]
stop_grace_secs = 30

[env]
MODEL = "${model.provider}/${model.name}"
MODEL_KEY = "${model.api_key}"
LIMIT = "${config.memory.limit}"
NOT_SAID = "${config.agents.timezone}"

[[file]]
path = "conf/claw.json"
format = "json"
template = '''
{ "listen": {"host": "${bind}", "port": "${port}"}, "limit": "${config.memory.limit}", "allow": "${config.tools.allow}",
  "text": "a ${config.native.word} b $${x}", "telegram": {"token": "${config.channels.telegram.bot_token}"} }
'''

[[file]]
path = "claw.toml"
format = "toml"
template = '''
word = "${config.native.word}"
[auth]
token = "${gateway_token}"
'''

[[file]]
path = ".env"
format = "env"
template = '''
# for the claw
WORD=${config.native.word}
PORT=${port}
'''

[[file]]
path = "notes.ini"
format = "text"
template = '''
[claw]
home = ${state}
'''
"#;

fn generic(text: &str) -> Result<Generic> {
    Generic::parse(ClawType::new("mine").unwrap(), text)
}

fn spec(config: Value, mode: ConfigMode) -> InstanceSpec {
    let mut spec: InstanceSpec = serde_json::from_value(json!({
        "claw_type": "mine", "version": "2.1", "runtime": "process", "target": "local",
    }))
    .unwrap();
    spec.config = serde_json::from_value::<Box<ClawConfig>>(config).unwrap();
    spec.config_mode = mode;
    spec
}

fn render(spec: &InstanceSpec, existing: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Rendered> {
    let secrets =
        SECRETS.iter().map(|(name, value)| (name.parse().unwrap(), SecretString::from(*value))).collect();
    generic(TYPE)?.render(&RenderInput {
        id: &ClawId::new("alice-x7k2").unwrap(),
        run: 3,
        spec,
        place: &place(),
        secrets: &secrets,
        gateway_token: &SecretString::from(TOKEN),
        model_key: &SecretString::from(MODEL_KEY),
        public_url: None,
        existing,
    })
}

fn file(rendered: &Rendered, path: &str) -> String {
    let file = rendered.launch.files.iter().find(|f| f.path == Path::new(path));
    file.unwrap_or_else(|| panic!("no {path}")).contents.expose_secret().to_owned()
}

fn full(word: &str) -> Value {
    json!({
        "model": {"provider": "openai", "name": "gpt-6-astra", "api_key": {"secret": "model-key"}},
        "memory": {"limit": 9000},
        "tools": {"allow": ["read", "web"]},
        "channels": {"telegram": {"bot_token": {"secret": "tg"}}},
        "native": {"word": word},
        "env": {"LIMIT": "from its owner"},
    })
}

#[test]
fn what_is_generated_word_for_word() {
    for (name, config) in [("none", json!({})), ("full", full("it's"))] {
        let rendered = render(&spec(config, ConfigMode::Seeded), &BTreeMap::new()).unwrap();
        let env: BTreeMap<_, _> =
            rendered.launch.env.iter().map(|(n, v)| (n.clone(), v.expose_secret().to_owned())).collect();
        let files: BTreeMap<_, _> = rendered
            .launch
            .files
            .iter()
            .map(|f| {
                (f.path.clone(), f.contents.expose_secret().lines().map(str::to_owned).collect::<Vec<_>>())
            })
            .collect();
        insta::assert_json_snapshot!(
            format!("generic-{name}"),
            json!({"argv": rendered.launch.argv, "env": env, "files": files})
        );
    }
}

#[test]
fn no_secret_is_in_an_argument_or_in_what_is_remembered() {
    let rendered = render(&spec(full("x"), ConfigMode::Seeded), &BTreeMap::new()).unwrap();
    let seen = format!("{:?}{}{rendered:?}", rendered.launch.argv, file(&rendered, "clawfarm-seed.json"));
    for plain in SECRETS.map(|(_, value)| value).into_iter().chain([TOKEN, MODEL_KEY]) {
        assert!(!seen.contains(plain), "{plain}");
    }
    // Nor in an archive.
    let files: BTreeMap<PathBuf, Vec<u8>> = rendered
        .launch
        .files
        .iter()
        .map(|f| (f.path.clone(), f.contents.expose_secret().as_bytes().to_vec()))
        .collect();
    let changed = generic(TYPE).unwrap().archived(&files);
    assert_eq!(changed.len(), 2, "those with secrets");
    for (path, contents) in changed {
        let text = String::from_utf8(contents).unwrap();
        for plain in SECRETS.map(|(_, value)| value).into_iter().chain([TOKEN, MODEL_KEY]) {
            assert!(!text.contains(plain), "{}: {plain}", path.display());
        }
    }
}

#[test]
fn what_a_type_has_no_words_for_is_told() {
    let check = |config: Value| generic(TYPE).unwrap().validate(&spec(config, ConfigMode::Seeded));
    assert_eq!(check(full("x")).unwrap(), []);
    assert_eq!(check(json!({"model": {"provider": "demo"}})).unwrap(), []);
    let warned = check(json!({"logging": {"level": "debug"}, "agents": {"timeout_secs": 5}})).unwrap();
    let fields: Vec<_> = warned.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(fields, ["config.agents.timeout_secs", "config.logging.level"]);
    for (config, field) in [
        (json!({"tools": {"deny": ["exec"]}}), "config.tools.deny"),
        (json!({"native": {"wrod": "x"}}), "config.native.wrod"),
        (json!({"native": {"word": {"a": 1}}}), "file[0].template"),
        (json!({"native": {"word": "a\nb"}}), "config.WORD"),
        (json!({"native": {"flag": [1]}}), "command[4]"),
        (json!({"env": {"HOME": "/"}}), "config.env.HOME"),
        (json!({"model": {"provider": "openai"}}), "config.model.api_key"),
    ] {
        let refused = check(config.clone()).unwrap_err();
        assert_eq!(refused.field_name(), Some(field), "{config}: {refused}");
        assert!(refused.fix_text().is_some());
    }
    let mut contained = spec(json!({}), ConfigMode::Seeded);
    contained.runtime = clawfarm_model::target::RuntimeKind::Docker;
    assert_eq!(generic(TYPE).unwrap().validate(&contained).unwrap_err().field_name(), Some("runtime"));
}

#[test]
fn a_file_that_is_no_type_is_refused_at_its_field() {
    let with = |more: &str| format!("version = \"1\"\ncommand = [\"x\"]\n{more}");
    for (text, field) in [
        (with("folder = \"/a/../b\""), "folder"),
        (with("folder = \"/a/${port}\""), "folder"),
        (with("health = \"no slash\""), "health"),
        (with("closed = [\"/a?b\"]"), "closed[0]"),
        (with("listens = false\nhealth = \"/\""), "listens"),
        (with("stop_grace_secs = 99999"), "stop_grace_secs"),
        (with("memory_mib = 1"), "memory_mib"),
        (with("[env]\nHOME = \"/\""), "env"),
        (with("[env]\nA = \"${config.modle.name}\""), "env.A"),
        (with("[env]\nA = \"${nobody}\""), "env.A"),
        (with("[env]\nA = \"${open\""), "env.A"),
        (with("[[file]]\npath = \"../x\"\nformat = \"text\"\ntemplate = \"\""), "file[0].path"),
        (with("[[file]]\npath = \"clawfarm-seed.json\"\nformat = \"text\"\ntemplate = \"\""), "file[0].path"),
        (with("[[file]]\npath = \"x\"\nformat = \"toml\"\ntemplate = \"a =\""), "file[0].template"),
        ("version = \"../1\"\ncommand = [\"x\"]".to_owned(), "version"),
        ("version = \"1\"\ncommand = [\"x\", \"${gateway_token}\"]".to_owned(), "command[1]"),
        ("version = \"1\"".to_owned(), "type"),
    ] {
        let refused = generic(&text).map(|_| ()).expect_err(&text);
        assert_eq!(refused.field_name(), Some(field), "{text}: {refused}");
        assert!(refused.fix_text().is_some(), "{text}");
    }
}

#[test]
fn fuzz_files_of_types() {
    clawfarm_fuzz::fuzz_text(&[TYPE, "version = \"1\"\ncommand = [\"x\"]"], |text| {
        if let Err(error) = generic(text) {
            assert!(error.field_name().is_some() && error.fix_text().is_some(), "{error}");
        }
    });
}

proptest! {
    /// Whatever a setting says: every file reads in its own format, and has the structure that its
    /// template has, with the value in its place.
    #[test]
    fn no_value_changes_the_structure(word in "(\\PC|\n|\"|'|\\\\|\\$\\{port\\}|\\]|=|#){0,12}") {
        let Ok(rendered) = render(&spec(full(&word), ConfigMode::Seeded), &BTreeMap::new()) else {
            // Not every text can stand in an env file, and it says so.
            prop_assert!(word.chars().any(|c| c.is_control() || "'\"\\$`".contains(c)));
            return Ok(());
        };
        let document: Value = serde_json::from_str(&file(&rendered, "conf/claw.json")).unwrap();
        prop_assert_eq!(&document["text"], &json!(format!("a {word} b ${{x}}")));
        prop_assert_eq!(document.as_object().unwrap().len(), 5);
        let table: toml::Table = file(&rendered, "claw.toml").parse().unwrap();
        prop_assert_eq!(table["word"].as_str(), Some(word.as_str()));
        prop_assert_eq!(table.len(), 2);
        let env = file(&rendered, ".env");
        prop_assert_eq!(env.lines().count(), 2);
    }
}
