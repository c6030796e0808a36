//! Every generated configuration, judged by the real OpenClaw.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clawfarm_adapters::nanobot::Nanobot;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_adapters::{ClawAdapter as _, ConfigCheck, Judgement};
use clawfarm_model::config::ConfigMode;
use clawfarm_model::{InstanceSpec, Place};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::cases::{configs, place, render, spec, with_input};

/// How long one judgement may take: 2 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The folder of the real installation.
pub(crate) fn install() -> PathBuf {
    std::env::var_os("CLAWFARM_TEST_OPENCLAW").map(PathBuf::from).expect(
        "CLAWFARM_TEST_OPENCLAW is not set: it is the folder whose node_modules holds a real OpenClaw and its Node. 'make test' installs them and sets it",
    )
}

/// Asks OpenClaw what it thinks of the file that was rendered.
async fn judge(install: &Path, name: &str, config: Value, mode: ConfigMode) -> Value {
    let home = tempfile::tempdir().expect("a folder");
    let here = here(install, home.path());
    let launch = render(&spec(config, mode), &here, &BTreeMap::new()).launch;
    for file in &launch.files {
        std::fs::write(here.state_dir.join(&file.path), file.contents.expose_secret())
            .expect("it is written");
    }
    let script = launch.argv.iter().position(|a| a.ends_with("openclaw.mjs")).expect("a script");
    let child = Command::new(&launch.argv[0])
        .arg(&launch.argv[script])
        .args(["config", "validate", "--json"])
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value.expose_secret())))
        .current_dir(&launch.cwd)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, child)
        .await
        .unwrap_or_else(|_| panic!("{name}: OpenClaw did not judge its configuration within {LIMIT:?}"))
        .unwrap_or_else(|e| panic!("{name}: {} could not be run: {e}", launch.argv[0]));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        panic!("{name}: {e}: {}{}", text(&output.stdout), text(&output.stderr))
    })
}

/// Those whose provider is in another one, too.
const WITHIN_OTHERS: [&str; 4] = ["anthropic", "openai", "gemini", "openrouter"];

#[tokio::test]
async fn openclaw_accepts_every_generated_configuration() {
    let install = install();
    for (name, config) in configs().into_iter().filter(|(name, _)| !WITHIN_OTHERS.contains(name)) {
        // The two modes differ in who may write, and in the demo model of `none`, not in what
        // a provider or channel becomes; one of them each keeps this test short.
        let mode =
            if matches!(name, "everything" | "full") { ConfigMode::Managed } else { ConfigMode::Seeded };
        let verdict = judge(&install, name, config, mode).await;
        assert_eq!(verdict["valid"], true, "{name}: {verdict}");
        let warnings = verdict["warnings"].as_array().map_or(0, Vec::len);
        // The plugins of Discord and Feishu are not part of OpenClaw; `validate` says so to the
        // instance's owner.
        let expected = match name {
            "everything" => 1,
            "full" => 2,
            _ => 0,
        };
        assert!(warnings <= expected, "{name}: {verdict}");
    }
}

#[tokio::test]
async fn openclaw_refuses_what_it_does_not_know() {
    let config = serde_json::json!({"native": {"gateway": {"no-such-key": 1}}});
    let verdict = judge(&install(), "unknown", config, ConfigMode::Seeded).await;
    assert_eq!(verdict["valid"], false, "the judge accepts anything: {verdict}");
}

/// A place on this disk with the real installation, and what an instance has there.
fn here(install: &Path, home: &Path) -> Place {
    let mut here = place();
    here.install_dir = install.to_owned();
    for (slot, folder) in [
        (&mut here.state_dir, "state"),
        (&mut here.workspace_dir, "workspace"),
        (&mut here.log_dir, "logs"),
        (&mut here.tmp_dir, "tmp"),
    ] {
        *slot = home.join(folder);
        std::fs::create_dir(&*slot).expect("a folder");
    }
    here
}

fn question(spec: &InstanceSpec, here: &Place) -> ConfigCheck {
    let asked = with_input(spec, here, &BTreeMap::new(), |input| OpenClaw.config_check(input));
    asked.expect("it renders").expect("it can be asked")
}

/// Begins to ask as a runtime does: with nothing of this process's environment.
fn asks(check: &ConfigCheck) -> tokio::process::Child {
    Command::new(&check.argv[0])
        .args(&check.argv[1..])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it can be asked")
}

#[tokio::test]
async fn openclaw_is_asked_beside_and_nothing_of_it_stays() {
    let home = tempfile::tempdir().expect("a folder");
    let here = here(&install(), home.path());
    let left = || std::fs::read_dir(home.path().join("state")).expect("a folder").count();
    // A secret that is a text in the file is never asked with its value.
    let config = |more: Value| {
        let mut config = serde_json::json!({
            "model": {"provider": "anthropic", "api_key": {"secret": "model-key"}},
            "env": {"SEARCH_KEY": {"secret": "search"}},
            "native": {"hooks": {"enabled": true, "token": "${SEARCH_KEY}"}},
        });
        config["native"].as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        config
    };
    let refused = serde_json::json!({"logging": {"colour": "red"}});
    for (more, takes) in [(serde_json::json!({}), true), (refused, false)] {
        let spec = spec(config(more), ConfigMode::Managed);
        let check = question(&spec, &here);
        for (name, value) in crate::cases::SECRETS {
            assert!(!check.input.contains(value), "the value of '{name}' is in what is asked");
        }
        for key in [crate::cases::TOKEN, crate::cases::MODEL_KEY] {
            assert!(!check.input.contains(key), "a key is in what is asked");
        }
        let mut child = asks(&check);
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(check.input.as_bytes()).await.expect("it takes it");
        let output =
            tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("in time").expect("run");
        drop(stdin);
        match OpenClaw.judged(&spec, &output.stdout) {
            Judgement::Takes => assert!(takes, "{}", String::from_utf8_lossy(&output.stdout)),
            Judgement::Refuses(faults) => {
                assert!(!takes, "{faults:?}");
                assert_eq!(faults[0].field, "config.native.logging", "{faults:?}");
                assert!(faults[0].reason.contains("colour"), "{faults:?}");
            }
            Judgement::Unclear => panic!("no answer: {}", String::from_utf8_lossy(&output.stdout)),
        }
        assert_eq!(left(), 0, "it left something behind");
    }
}

#[tokio::test]
async fn who_asks_openclaw_and_goes_leaves_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let here = here(&install(), home.path());
    let state = home.path().join("state");
    let names = || std::fs::read_dir(&state).expect("a folder").flatten().count();
    let spec = spec(serde_json::json!({}), ConfigMode::Managed);
    let check = question(&spec, &here);
    for hang_up in [true, false] {
        let mut child = asks(&check);
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(check.input.as_bytes()).await.expect("it takes it");
        // It has begun when its file is there, which only it can read.
        let begun = std::time::Instant::now();
        while names() == 0 {
            assert!(child.try_wait().expect("looked at").is_none(), "it ended before it was hung up on");
            assert!(begun.elapsed() < LIMIT, "it did not begin within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if hang_up {
            let pid = child.id().expect("it runs").to_string();
            let sent = Command::new("kill").args(["-HUP", &pid]).status().await.expect("kill is run");
            assert!(sent.success());
        } else {
            drop(stdin);
        }
        tokio::time::timeout(LIMIT, child.wait()).await.expect("it ends in time").expect("waited for");
        assert_eq!(names(), 0, "its file stayed");
    }
}

/// The folder of the real nanobot, which lies beside OpenClaw's.
fn nanobot() -> PathBuf {
    let software = Nanobot.software(Nanobot.default_version()).expect("it can be installed");
    let folder = install().with_file_name(software.pip.expect("by pip").folder_name());
    assert!(folder.is_dir(), "{} is missing: scripts/test-setup makes it", folder.display());
    folder
}

/// Reads each file as nanobot does at its start: with its variables filled in.
const READ: &str = "
import sys, pathlib
from nanobot.config.loader import load_config, resolve_config_env_vars
for path in sys.argv[1:]:
    config = resolve_config_env_vars(load_config(pathlib.Path(path)))
    print(config.agents.defaults.model, config.get_provider_name(), config.channels.websocket['token'])
";

#[tokio::test]
async fn nanobot_accepts_every_generated_configuration() {
    let home = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    let mut env = BTreeMap::new();
    let mut expected = Vec::new();
    for (name, config) in crate::nanobot::configs() {
        let rendered =
            crate::nanobot::render(&crate::nanobot::spec(config, ConfigMode::Managed), &BTreeMap::new());
        let rendered = rendered.expect("it renders");
        let document = crate::nanobot::document(&rendered);
        let path = home.path().join(format!("{name}.json"));
        std::fs::write(&path, document.to_string()).expect("written");
        files.push(path);
        env.extend(rendered.launch.env.iter().map(|(n, v)| (n.clone(), v.expose_secret().to_owned())));
        let defaults = &document["agents"]["defaults"];
        expected.push(format!(
            "{} {} {}",
            defaults["model"].as_str().expect("a model"),
            defaults["provider"].as_str().expect("a provider"),
            crate::cases::TOKEN
        ));
    }
    let child = Command::new(nanobot().join("bin/python"))
        .args(["-I", "-c", READ])
        .args(&files)
        .env_clear()
        .envs(env)
        .env("HOME", home.path())
        .current_dir(home.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, child).await.expect("within the limit").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout);
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{}", text(&output.stderr));
}
