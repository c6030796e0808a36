//! Every generated configuration, judged by the real OpenClaw.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clawfarm_model::config::ConfigMode;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::process::Command;

use crate::cases::{configs, place, render, spec};

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
    let mut here = place();
    here.install_dir = install.to_owned();
    for (slot, folder) in [
        (&mut here.state_dir, "state"),
        (&mut here.workspace_dir, "workspace"),
        (&mut here.log_dir, "logs"),
        (&mut here.tmp_dir, "tmp"),
    ] {
        *slot = home.path().join(folder);
        std::fs::create_dir(&*slot).expect("a folder");
    }
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
