//! What is generated, word for word.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clawfarm_adapters::Rendered;
use clawfarm_model::config::ConfigMode;
use clawfarm_model::{Launch, LaunchFile};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::cases::{MODEL_KEY, SECRETS, TOKEN, configs, place, render, spec};

fn file<'a>(launch: &'a Launch, path: &str) -> &'a LaunchFile {
    launch.files.iter().find(|f| f.path == Path::new(path)).unwrap_or_else(|| panic!("no {path}"))
}

fn document(launch: &Launch) -> Value {
    serde_json::from_str(file(launch, "openclaw.json").contents.expose_secret()).expect("it is JSON")
}

/// The files of a start, as they are met at the next.
fn written(rendered: &Rendered) -> BTreeMap<PathBuf, Vec<u8>> {
    rendered
        .launch
        .files
        .iter()
        .map(|f| (f.path.clone(), f.contents.expose_secret().as_bytes().to_vec()))
        .collect()
}

#[test]
fn openclaw_json_of_every_provider_and_mode() {
    for (name, config) in configs() {
        for (mode, suffix) in [(ConfigMode::Seeded, "seeded"), (ConfigMode::Managed, "managed")] {
            let rendered = render(&spec(config.clone(), mode), &place(), &BTreeMap::new());
            assert!(rendered.warnings.is_empty());
            assert_eq!(file(&rendered.launch, "openclaw.json").read_only, mode == ConfigMode::Managed);
            insta::assert_json_snapshot!(format!("{name}-{suffix}"), document(&rendered.launch));
        }
    }
}

/// What of OpenClaw's own full configuration is otherwise in what is generated, and why.
const OTHERWISE: [(&str, &str); 9] = [
    ("gateway.port", "the place's"),
    ("gateway.bind", "the place's"),
    ("gateway.auth.mode", "people come through the edge, which says who they are"),
    ("gateway.auth.token", "no token beside a trusted proxy"),
    ("gateway.trustedProxies", "the edge"),
    ("gateway.controlUi.allowedOrigins", "the owner's, and the edge's"),
    ("env.vars", "variables are the process's own"),
    ("channels.feishu.accounts", "one account has no list of accounts"),
    ("hooks.token", "a secret"),
];

#[test]
fn every_area_of_a_full_configuration_can_be_made() {
    let wanted: Value =
        serde_json::from_str(include_str!("../fixtures/openclaw-full.json")).expect("it is JSON");
    let full = configs().into_iter().find(|(name, _)| *name == "full").expect("it is there").1;
    let made = document(&render(&spec(full, ConfigMode::Managed), &place(), &BTreeMap::new()).launch);
    let mut missing = Vec::new();
    compare("", &wanted, Some(&made), &mut missing);
    missing.retain(|path| {
        !OTHERWISE
            .iter()
            .any(|(at, _)| path == at || path.strip_prefix(at).is_some_and(|rest| rest.starts_with('.')))
    });
    assert!(missing.is_empty(), "{missing:#?}");
    for (path, _) in OTHERWISE {
        let at = format!("/{}", path.replace('.', "/"));
        assert!(wanted.pointer(&at).is_some(), "{path} is not in the full configuration");
        assert_ne!(wanted.pointer(&at), made.pointer(&at), "{path} is no exception");
    }
}

/// The paths of the values that are wanted and otherwise.
fn compare(path: &str, wanted: &Value, made: Option<&Value>, missing: &mut Vec<String>) {
    // Where a secret's value comes from is each one's own affair.
    if wanted.get("source").is_some() && made.is_some_and(|made| made.get("source").is_some()) {
        return;
    }
    match (wanted, made) {
        (Value::Object(wanted), Some(Value::Object(made))) => {
            for (key, value) in wanted {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, value, made.get(key), missing);
            }
        }
        (Value::Array(wanted), Some(Value::Array(made))) if wanted.len() == made.len() => {
            for (n, value) in wanted.iter().enumerate() {
                compare(&format!("{path}.{n}"), value, made.get(n), missing);
            }
        }
        // No list, and an empty one, is the same to OpenClaw.
        (Value::Array(wanted), None) if wanted.is_empty() => {}
        (wanted, Some(made))
            if wanted == made || wanted.as_f64().is_some_and(|it| Some(it) == made.as_f64()) => {}
        _ => missing.push(path.to_owned()),
    }
}

#[test]
fn arguments_and_environment() {
    let everything = configs().into_iter().find(|(n, _)| *n == "everything").expect("it is there").1;
    let mut somewhere = place();
    somewhere.listen_on_all = true;
    let launch = render(&spec(everything, ConfigMode::Managed), &somewhere, &BTreeMap::new()).launch;
    let env: BTreeMap<_, _> = launch.env.iter().map(|(n, v)| (n.clone(), v.expose_secret())).collect();
    assert_eq!(env.len(), launch.env.len(), "no variable is given twice");
    // The package of Node differs from one machine to the next.
    let node = format!(
        "node-{}-{}",
        std::env::consts::OS,
        match std::env::consts::ARCH {
            "x86_64" => "x64",
            "aarch64" => "arm64",
            other => other,
        }
    );
    let shown = json!({"argv": launch.argv, "env": env, "cwd": launch.cwd})
        .to_string()
        .replace(&node, "NODE-PACKAGE");
    insta::assert_json_snapshot!("launch", serde_json::from_str::<Value>(&shown).expect("it is JSON"));
}

#[test]
fn no_secret_is_in_a_file_or_an_argument() {
    for (name, config) in configs() {
        for mode in [ConfigMode::Seeded, ConfigMode::Managed] {
            let launch = render(&spec(config.clone(), mode), &place(), &BTreeMap::new()).launch;
            let files: String = launch.files.iter().map(|f| f.contents.expose_secret().to_owned()).collect();
            let seen = format!("{files}{:?}{launch:?}", launch.argv);
            for plain in SECRETS.map(|(_, value)| value).into_iter().chain([TOKEN, MODEL_KEY]) {
                assert!(!seen.contains(plain), "{name}: {plain}");
            }
        }
    }
}

#[test]
fn a_second_start_keeps_what_the_user_changed() {
    let demo = spec(json!({"model": {"provider": "demo"}}), ConfigMode::Seeded);
    let first = render(&demo, &place(), &BTreeMap::new());
    let mut theirs = document(&first.launch);
    theirs["tools"]["exec"]["mode"] = "allowlist".into();
    theirs["agents"]["defaults"]["timeoutSeconds"] = 30.into();
    theirs["gateway"]["port"] = 1.into();
    theirs["gateway"]["auth"]["token"] = "of-the-user".into();
    let mut existing = written(&first);
    existing.insert("openclaw.json".into(), format!("// mine\n{theirs}").into_bytes());
    let mut elsewhere = place();
    elsewhere.port = 20_000;
    elsewhere.host_url = "http://127.0.0.1:9999".into();
    let second = document(&render(&demo, &elsewhere, &existing).launch);
    assert_eq!(second["tools"]["exec"]["mode"], "allowlist");
    assert_eq!(second["agents"]["defaults"]["timeoutSeconds"], 30);
    assert_eq!(second["gateway"]["port"], 20_000);
    assert_eq!(second["gateway"]["auth"], document(&first.launch)["gateway"]["auth"]);
    assert_eq!(second["gateway"]["auth"]["mode"], "trusted-proxy");
    assert_eq!(second["models"]["providers"]["clawfarm"]["baseUrl"], "http://127.0.0.1:9999/demo/v1");
}

#[test]
fn another_model_chosen_in_clawfarm_arrives_and_the_rest_stays() {
    let first =
        render(&spec(json!({"model": {"provider": "demo"}}), ConfigMode::Seeded), &place(), &BTreeMap::new());
    let mut theirs = document(&first.launch);
    theirs["messages"] = json!({"ackReaction": "x"});
    let mut existing = written(&first);
    existing.insert("openclaw.json".into(), theirs.to_string().into_bytes());
    let key = json!({"secret": "model-key"});
    let changed = spec(json!({"model": {"provider": "anthropic", "api_key": key}}), ConfigMode::Seeded);
    let second = document(&render(&changed, &place(), &existing).launch);
    assert_eq!(second["agents"]["defaults"]["model"]["primary"], "anthropic/claude-opus-5");
    assert_eq!(second["models"]["providers"]["anthropic"]["apiKey"]["id"], "CLAWFARM_SECRET_MODEL_KEY");
    assert_eq!(second["models"]["providers"].get("clawfarm"), None);
    assert_eq!(second["messages"], json!({"ackReaction": "x"}));
}

#[test]
fn a_model_chosen_by_the_user_is_left_alone_when_clawfarm_was_told_none() {
    let existing =
        [("openclaw.json".into(), br#"{agents: {defaults: {model: "xai/grok-4.7"}}}"#.to_vec())].into();
    let document = document(&render(&spec(json!({}), ConfigMode::Seeded), &place(), &existing).launch);
    assert_eq!(document["agents"]["defaults"]["model"], "xai/grok-4.7");
    assert_eq!(document["models"].get("providers"), None);
}

#[test]
fn a_broken_file_is_kept_beside() {
    for broken in
        [b"{ gateway: ".to_vec(), b"[]".to_vec(), Vec::new(), b"{a:'\xff'}".to_vec(), b"[".repeat(100_000)]
    {
        let existing = [("openclaw.json".into(), broken.clone())].into();
        let rendered = render(&spec(json!({}), ConfigMode::Seeded), &place(), &existing);
        let kept = &rendered.launch.files[0];
        assert_eq!(kept.path, Path::new("openclaw.json.broken-7"), "it is written before the fresh one");
        assert_eq!(kept.contents.expose_secret(), String::from_utf8_lossy(&broken));
        assert_eq!(rendered.warnings.len(), 1);
        assert!(rendered.warnings[0].message.contains("openclaw.json.broken-7"));
        assert_eq!(document(&rendered.launch)["gateway"]["mode"], "local");
    }
}

#[test]
fn a_workspace_out_of_reach_is_brought_back() {
    for (workspace, stays) in [
        ("/farm/claws/alice-x7k2p/workspace/project", true),
        ("~/workspace", true),
        ("/farm/claws/bob-22222/workspace", false),
        ("/farm/claws/alice-x7k2p/workspace/../../bob-22222", false),
        ("~/../x", false),
    ] {
        let theirs = json!({"agents": {"defaults": {"workspace": workspace, "model": "a/b"}}});
        let existing = [("openclaw.json".into(), theirs.to_string().into_bytes())].into();
        let rendered = render(&spec(json!({}), ConfigMode::Seeded), &place(), &existing);
        let now = document(&rendered.launch)["agents"]["defaults"]["workspace"].clone();
        assert_eq!(now == workspace, stays, "{workspace}: {now}");
        assert_eq!(rendered.warnings.is_empty(), stays);
    }
}

/// Any file a user might leave, near what OpenClaw's looks like.
fn any_document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z/~.]{0,8}".prop_map(Value::from),
    ];
    let key = "gateway|auth|mode|token|port|bind|plugins|entries|logging|file|agents|defaults|model|workspace|tools|[a-z]{1,3}";
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            3 => prop::collection::btree_map(key, inner.clone(), 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::from),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the file says, what clawfarm owns is true in what is written; and what is
    /// written is a fixed point: the next start changes nothing.
    #[test]
    fn owned_keys_hold_whatever_the_file_says(theirs in any_document()) {
        let existing = [("openclaw.json".into(), theirs.to_string().into_bytes())].into();
        let seeded = spec(json!({}), ConfigMode::Seeded);
        let rendered = render(&seeded, &place(), &existing);
        let now = document(&rendered.launch);
        prop_assert_eq!(&now["gateway"]["mode"], "local");
        prop_assert_eq!(&now["gateway"]["port"], 18789);
        prop_assert_eq!(&now["gateway"]["bind"], "loopback");
        prop_assert_eq!(&now["gateway"]["auth"]["mode"], "trusted-proxy");
        prop_assert!(now["gateway"]["auth"]["trustedProxy"]["userHeader"].as_str().unwrap().len() > 40);
        let origins = now["gateway"]["controlUi"]["allowedOrigins"].as_array().unwrap();
        prop_assert!(origins.contains(&"http://clawfarm.internal".into()));
        prop_assert_eq!(now["gateway"]["auth"].get("token"), None);
        prop_assert_eq!(&now["plugins"]["entries"]["admin-http-rpc"]["enabled"], true);
        prop_assert_eq!(&now["logging"]["file"], "/farm/claws/alice-x7k2p/logs/openclaw.log");
        prop_assert_eq!(&now["meta"]["lastTouchedVersion"], "2026.9.6");
        let again = render(&seeded, &place(), &written(&rendered));
        prop_assert_eq!(document(&again.launch), now);
    }
}
