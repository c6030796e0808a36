use std::collections::BTreeMap;

use clawfarm_api::manifest::{InstanceConfig, InstanceMetadata, InstanceSpec};
use proptest::prelude::*;
use serde_json::Map;

use super::read::FILE_MAX;
use super::*;

/// The documents that were asked for, word for word but for the tenant.
const ASKED: &str = r#"
apiVersion: clusterclaw.io/v1
kind: ConfigTemplate
metadata:
  name: default-config
spec:
  variables:
    - name: model.name
      type: string
      default: "claude-3-haiku"
      required: true
    - name: memory.limit
      type: number
      default: 100000
      required: false
---
apiVersion: clusterclaw.io/v1
kind: ClawInstance
metadata:
  name: claw-instance-01
  namespace: default
spec:
  type: OpenClaw
  version: "1.2.0"
  replicas: 1
  resources:
    cpu: "2"
    memory: "4Gi"
  config:
    template: default-config
    overrides:
      - key: model.name
        value: claude-3-opus
  storage:
    configDir: /home/claw/.config
    dataDir: /data
status:
  phase: Running
  readyReplicas: 1
  lastTransitionTime: "2026-02-25T10:00:00Z"
"#;

#[test]
fn the_documents_are_read() {
    let read = read(ASKED).unwrap();
    let [Manifest::Template(template), Manifest::Instance(instance)] = read.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!(template.metadata.name.as_str(), "default-config");
    assert_eq!(template.spec.variables[1].default, Some(json!(100_000)));
    assert_eq!(instance.spec.resources.as_ref().unwrap().memory.as_ref().unwrap().mebibytes(), Some(4096));
    let config = instance.spec.config.as_ref().unwrap();
    assert_eq!(Value::Object(config.patch().unwrap()), json!({"model": {"name": "claude-3-opus"}}));
    assert!(instance.spec.storage.is_some());
}

fn refused(text: &str) -> (String, String) {
    let error = read(text).expect_err(text);
    assert!(error.fix_text().is_some(), "{error}");
    (error.field_name().unwrap_or_default().to_owned(), error.message().to_owned())
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let with = |from: &str, to: &str| {
        let changed = ASKED.replace(from, to);
        assert_ne!(changed, ASKED, "{from} is not there");
        refused(&changed)
    };
    assert_eq!(with("type: number", "typ: number").0, "documents[0].spec.variables[1].typ");
    assert_eq!(with("kind: ClawInstance", "kind: Claw").0, "documents[1].kind");
    assert_eq!(
        with("clusterclaw.io/v1\nkind: ClawInstance", "v2\nkind: ClawInstance").0,
        "documents[1].apiVersion"
    );
    assert_eq!(with("namespace: default", "namespace: tenant-a").0, "documents[1].metadata.namespace");
    assert_eq!(with("replicas: 1", "replicas: 3").0, "documents[1].spec.replicas");
    assert_eq!(with("\"4Gi\"", "\"4 GB\"").0, "documents[1].spec.resources.memory");
    assert_eq!(with("default: 100000", "default: many").0, "documents[0].spec.variables[1].default");
    assert_eq!(with("  storage:", "  stroage:").0, "documents[1].spec.stroage");
    let (field, why) =
        with("        value: claude-3-opus", "        value: a\n      - key: model\n        value: {}");
    assert!(
        field == "documents[1].spec.config.overrides[1].key" && why.contains("same place"),
        "{field} {why}"
    );
    let (field, why) = refused("apiVersion: clusterclaw.io/v1\nkind: [");
    assert!(field == "file" && why.starts_with("line "), "{why}");
    let (_, why) = refused("a: 1\na: 2\n");
    assert!(why.contains("line 2"), "{why}");
    assert_eq!(refused("# nothing\n").0, "file");
    assert_eq!(refused("- 1\n").0, "apiVersion");
}

#[test]
fn an_object_is_said_once_in_a_file() {
    let again = format!("{ASKED}---\n{}", ASKED.split("---").next().unwrap());
    let (field, why) = refused(&again);
    assert!(field == "documents[2].metadata.name" && why.contains("documents[0]"), "{field} {why}");
    // Two kinds may have one name.
    let both = ASKED.replace("claw-instance-01", "default-config");
    assert_eq!(read(&both).unwrap().len(), 2);
}

#[test]
fn what_is_left_out_of_a_configuration_is_not_said() {
    let config = |text: &str| {
        let document = ASKED.replace(
            "    template: default-config\n    overrides:\n      - key: model.name\n        value: claude-3-opus\n",
            text,
        );
        assert_ne!(document, ASKED);
        match read(&document).unwrap().remove(1) {
            Manifest::Instance(it) => it.spec.config.clone().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let only_overrides = config("    overrides: []\n");
    assert_eq!((only_overrides.template, only_overrides.variables), (None, None));
    let unbound = config("    template: null\n");
    assert_eq!((unbound.template, unbound.overrides), (Some(None), None));
    let written = serde_json::to_value(InstanceConfig {
        template: Some(None),
        variables: Some(BTreeMap::new()),
        overrides: Some(Vec::new()),
    });
    assert_eq!(written.unwrap(), json!({"template": null, "variables": {}, "overrides": []}));
}

#[test]
fn a_number_is_what_the_server_takes_it_for() {
    let one = |text: &str| parse_one(&format!("a: {text}\n")).map(|it| it["a"].clone());
    for (text, value) in [
        ("2.0", json!(2)),
        ("-1e3", json!(-1000)),
        ("-0.0", json!(0)),
        ("2.5", json!(2.5)),
        ("18446744073709551615", json!(u64::MAX)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("\"18446744073709551616\"", json!("18446744073709551616")),
        ("1e19", json!(1e19)),
    ] {
        assert_eq!(one(text).unwrap(), value, "{text}");
    }
    for text in ["18446744073709551616", "-9223372036854775809", "123456789012345678901234567890"] {
        let refused = parse_one(&format!("# a number\na:\n  b: {text}\n")).unwrap_err();
        assert!(refused.message().contains("line 3") && refused.message().contains("exactly"), "{refused}");
    }
}

#[test]
fn a_large_fleet_has_room_in_a_file() {
    // More bytes, and more values, than a file had room for once.
    let long = "x".repeat(4_000);
    let claw = |n: i32, value: &Value| {
        json!({"apiVersion": API_VERSION, "kind": INSTANCE_KIND, "metadata": {"name": format!("claw-{n}")},
            "spec": {"type": "openclaw", "config": {"overrides": [{"key": "native.a", "value": value}]}}})
    };
    let mut all: Vec<Value> = (0..300).map(|n| claw(n, &json!(long))).collect();
    all.push(claw(300, &json!(vec![1; 110_000])));
    let text = write(&all).unwrap();
    assert!(text.len() > 1 << 20, "{}", text.len());
    assert_eq!(read(&text).unwrap().len(), 301);
}

#[test]
fn a_file_can_t_be_made_to_grow() {
    // Ten of the one before, eleven times.
    let mut bomb = "x0: &x0 [1]\n".to_owned();
    for level in 1..12 {
        bomb.push_str(&format!(
            "x{level}: &x{level} [{}]\n",
            vec![format!("*x{}", level - 1); 10].join(", ")
        ));
    }
    refused(&bomb);
    refused(&format!("a: {}{}", "[".repeat(5_000), "]".repeat(5_000)));
    let mut deep = String::new();
    for level in 0..500 {
        deep.push_str(&format!("{}a:\n", " ".repeat(level)));
    }
    refused(&deep);
    refused(&"x".repeat(usize::try_from(FILE_MAX).unwrap() + 1));
    for number in [".nan", ".inf", "-.inf"] {
        let text = format!(
            "apiVersion: {API_VERSION}\nkind: ConfigTemplate\nmetadata: {{name: a}}\nspec: {{body: {{native: {{a: {number}}}}}}}\n"
        );
        refused(&text);
    }
}

#[test]
fn words_that_look_like_values_stay_words() {
    let body = json!({"env": {"A": "no", "B": "1_000", "C": "1.0", "D": "null", "E": "~", "F": "0x1f", "G": "2026-11-21",
        "H": "", "I": " a ", "J": "a: b # c", "K": "${key}", "L": "two\nlines\n", "M": "\u{1b}[2J", "N": "012", "O": "<<", "P": "1e3"}});
    let content: Template =
        serde_json::from_value(json!({"body": body, "variables": [{"name": "key", "type": "string"}]}))
            .unwrap();
    let written = write(&[Manifest::of_config(&"a".parse().unwrap(), &content).document().unwrap()]).unwrap();
    let again = read(&written).unwrap();
    assert_eq!(again, [Manifest::of_config(&"a".parse().unwrap(), &content)], "{written}");
    assert_eq!(parse_one("a: no\nb: 1_000\n").unwrap(), json!({"a": "no", "b": "1_000"}));
}

/// Any JSON that a configuration may hold.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any_key(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A key of a configuration: it is never empty.
fn any_key() -> impl Strategy<Value = String> {
    any_text().prop_filter("a key", |text| !text.is_empty())
}

/// Texts, those among them that YAML likes to read as something else.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}",
        "[ -~]{0,12}",
        "\\PC{0,8}",
        prop::sample::select(vec![
            "yes", "null", "~", "1", "1.5", "0o7", "- a", "a: b", "#", "'", "\"", "|", "a\nb", "\n", "a\n\n",
            "\t", "\r", "\u{feff}", "\u{85}", "%", "---", "...", "!x", "&a", "*a", "{}", "[]", "=", ".inf",
            "1:30", "\u{2028}", "$$", "\\"
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(
        body in prop::option::of(prop::collection::btree_map(any_key(), any_value(), 0..4)),
        default in any_value(),
        own in prop::collection::btree_map(any_key(), any_value(), 0..4),
    ) {
        let escape = |value: Value| {
            // Places to fill in are of no concern here.
            serde_json::from_str::<Value>(&value.to_string().replace("${", "{")).unwrap()
        };
        let mut content = Template::default();
        match body {
            Some(body) => content.body = escape(Value::Object(body.into_iter().collect())).as_object().cloned(),
            None => content.variables = vec![serde_json::from_value(json!({"name": "native.x", "type": "array", "default": [default]})).unwrap()],
        }
        let template = Manifest::of_config(&"support".parse().unwrap(), &content);
        let own: Map<String, Value> = own.into_iter().collect();
        let config = InstanceConfig { overrides: Some(instance::leaves(&own)), ..InstanceConfig::default() };
        prop_assert_eq!(&config.patch().unwrap(), &own);
        let instance = Manifest::Instance(Box::new(InstanceManifest {
            metadata: InstanceMetadata { name: "alice".parse().unwrap(), namespace: None, labels: None },
            spec: InstanceSpec {
                claw_type: "openclaw".into(), version: None, replicas: Some(1), runtime: None, target: None,
                image: None, vm: Some(serde_json::from_value(json!({
                    "image": "debian:12", "volumes": [{"name": "a", "guest": "/srv/a"}], "publish": [{"host": 8080, "guest": 80}],
                    "setup": ["echo '#:-' > \"a b\"\ntrue"],
                })).unwrap()), project: None, port: Some(20_000), resources: None, config_mode: None,
                restart: None, ready_timeout_secs: Some(60), sleep: None, config: Some(config), storage: None,
            },
            status: None,
        }));
        let written = write(&[template.document().unwrap(), instance.document().unwrap()]).unwrap();
        let again = read(&written);
        prop_assert!(again.is_ok(), "{:?}\n{}", again, written);
        prop_assert_eq!(again.unwrap(), vec![template, instance], "{}", written);
    }
}

#[test]
fn fuzz_documents() {
    let small = "apiVersion: clusterclaw.io/v1\nkind: ConfigTemplate\nmetadata: {name: a}\nspec:\n  body: {env: {A: \"${x}\"}, native: &n [1, *n]}\n";
    clawfarm_fuzz::fuzz_text(&[ASKED, small], |text| match read(text) {
        Err(refused) => assert!(refused.field_name().is_some() && refused.fix_text().is_some(), "{refused}"),
        Ok(manifests) => {
            for manifest in manifests {
                let written = write(&[manifest.document().expect("a document")]).expect("written");
                let again = read(&written).expect("what was written is read");
                // What is no wish is not written.
                assert_eq!(again[0].document().unwrap(), manifest.document().unwrap(), "{written}");
            }
        }
    });
}
