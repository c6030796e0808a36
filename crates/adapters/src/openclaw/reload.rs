//! Which settings a running OpenClaw takes up, and which need a start: by its own rules.
//!
//! The rules are those of OpenClaw 2026.9.6 (its documentation's page "Config hot reload" and the
//! table in its code that the page is made of), and a running one is asked for them in a test. It
//! compares two documents, finds the longest rule that each changed path begins with, and starts
//! itself again when one of them says so or none is found.

use std::collections::{BTreeMap, BTreeSet};

use clawfarm_model::secret::SecretName;
use clawfarm_model::{ClawId, InstanceSpec};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::{config, json as tree, launch, owned, secrets};
use crate::{Impact, RenderInput, impact};

/// Paths that are taken up while it runs, with all below them.
const HOT: [&str; 99] = [
    "accessGroups",
    "acp",
    "agent",
    "agents",
    "approvals.exec",
    "approvals.plugin",
    "attachments.ttlHours",
    "audio",
    "auth.order",
    "auth.profiles",
    "bindings",
    "broadcast",
    "browser.allowSystemProfileImport",
    "browser.attachOnly",
    "browser.cdpUrl",
    "browser.defaultProfile",
    "browser.enabled",
    "browser.evaluateEnabled",
    "browser.executablePath",
    "browser.extensionRelay.allowLegacyAuth",
    "browser.extraArgs",
    "browser.headless",
    "browser.noSandbox",
    "browser.profiles",
    "browser.snapshotDefaults",
    "browser.ssrfPolicy",
    "browser.tabCleanup",
    "channels",
    "cloudWorkers",
    "commands",
    "cron",
    "desktop.host",
    "diagnostics.cacheTrace.enabled",
    "diagnostics.enabled",
    "diagnostics.flags",
    "discovery.mdns.mode",
    "gateway.allowRealIpFallback",
    "gateway.auth.allowTailscale",
    "gateway.auth.identityScopes",
    "gateway.auth.rateLimit",
    "gateway.auth.trustedProxy",
    "gateway.cliAgents",
    "gateway.controlUi.allowExternalEmbedUrls",
    "gateway.controlUi.allowedOrigins",
    "gateway.controlUi.automaticallyFetchFavicons",
    "gateway.controlUi.communityInvite",
    "gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback",
    "gateway.controlUi.embedSandbox",
    "gateway.controlUi.enabled",
    "gateway.controlUi.environment",
    "gateway.controlUi.experimental.customPlugins",
    "gateway.controlUi.github",
    "gateway.controlUi.sessionObserver",
    "gateway.http.endpoints",
    "gateway.http.securityHeaders.strictTransportSecurity",
    "gateway.nodes.allowSkills",
    "gateway.nodes.browser",
    "gateway.nodes.commands",
    "gateway.nodes.pairing",
    "gateway.nodes.pluginTools.enabled",
    "gateway.publicOrigin",
    "gateway.push.apns.relay",
    "gateway.reload",
    "gateway.remote",
    "gateway.roles",
    "gateway.terminal",
    "gateway.tools",
    "gateway.trustedProxies",
    "hooks",
    "identity",
    "logging",
    "mcp",
    "mcp.apps.sandboxOrigin",
    "memory.citations",
    "messages",
    "meta",
    "models",
    "plugins",
    "routing",
    "secrets",
    "security.audit.suppressions",
    "security.installPolicy",
    "session",
    "skills",
    "surfaces",
    "talk",
    "telemetry.consentedAt",
    "telemetry.enabled",
    "tools",
    "transcripts",
    "tts",
    "tui",
    "ui",
    "update.auto.enabled",
    "update.channel",
    "update.checkOnStart",
    "wizard",
    "worktreeAcceleration",
    "worktreeRoot",
];

/// Paths within [`HOT`] ones that need a start.
const RESTART: [&str; 2] = ["mcp.apps", "secrets.egressProxy"];

/// What the change from one specification to another asks of a claw that is up.
pub(super) fn impact(before: &InstanceSpec, after: &InstanceSpec) -> Impact {
    let mut fields = impact::beside_config(before, after);
    if before.config == after.config {
        return Impact::restart_or(fields, Impact::None);
    }
    fields.extend(variables(before, after));
    let (was, is) = (document(before), document(after));
    let mut changed = Vec::new();
    changes(&Value::Object(was.clone()), &Value::Object(is), "", &mut changed);
    // One that was told to take nothing up by itself does not.
    let asleep = tree::get(&was, &["gateway", "reload", "mode"]).is_some_and(|mode| mode == "off");
    let restarting = changed.iter().filter(|path| asleep || !is_hot(path));
    fields.extend(restarting.flat_map(|path| named(path, before, after)));
    let same = changed.is_empty() && before.config.inbox == after.config.inbox;
    Impact::restart_or(fields, if same { Impact::None } else { Impact::Hot })
}

/// What `openclaw.json` says of a specification, in a place that is the same for all.
fn document(spec: &InstanceSpec) -> Map<String, Value> {
    let place = owned::somewhere();
    let nothing = SecretString::from("");
    let id = ClawId::new("some-claw").unwrap_or_else(|_| unreachable!("'some-claw' is a DNS label"));
    config::whole(&RenderInput {
        id: &id,
        run: 0,
        spec,
        place: &place,
        secrets: &BTreeMap::<SecretName, SecretString>::new(),
        gateway_token: &nothing,
        model_key: &nothing,
        public_url: None,
        existing: &BTreeMap::new(),
    })
    .0
}

/// The fields whose variables a process that is up has not, or has otherwise.
fn variables(before: &InstanceSpec, after: &InstanceSpec) -> Vec<String> {
    let (was, is) = (&before.config, &after.config);
    let mut fields: Vec<String> = was
        .env
        .keys()
        .chain(is.env.keys())
        .filter(|name| was.env.get(*name) != is.env.get(*name))
        .map(|name| format!("config.env.{name}"))
        .collect();
    if was.proxy != is.proxy {
        fields.push("config.proxy".to_owned());
    }
    // One that is there and no longer referred to is no reason.
    let there: BTreeSet<String> =
        launch::config_secrets(was).map(|(_, secret)| secrets::variable(&secret.secret)).collect();
    fields.extend(
        launch::config_secrets(is)
            .filter(|(_, secret)| !there.contains(&secrets::variable(&secret.secret)))
            .map(|(field, _)| format!("config.{field}")),
    );
    // Where Telegram is may decide whether it calls, with a secret that comes in a variable.
    if let (Some(was), Some(is)) = (&was.channels.telegram, &is.channels.telegram)
        && was.api_root.is_some() != is.api_root.is_some()
    {
        fields.push("config.channels.telegram.api_root".to_owned());
    }
    fields
}

/// The paths at which two documents differ, as finely as the rules look.
fn changes(was: &Value, is: &Value, path: &str, out: &mut Vec<String>) {
    if was == is {
        return;
    }
    let below = |prefix: &&str| {
        path.is_empty() || prefix.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
    };
    let (left, right) = (was.as_object(), is.as_object());
    let deeper = left.is_some() && right.is_some()
        || (left.is_some() || right.is_some()) && HOT.iter().chain(&RESTART).any(below);
    if !deeper {
        out.push(path.to_owned());
        return;
    }
    let keys: BTreeSet<&String> = left.into_iter().chain(right).flat_map(Map::keys).collect();
    for key in keys {
        let of = |side: Option<&Map<String, Value>>| {
            side.and_then(|side| side.get(key)).cloned().unwrap_or(Value::Null)
        };
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        changes(&of(left), &of(right), &path, out);
    }
}

/// Whether a running OpenClaw takes up a change at this path.
fn is_hot(path: &str) -> bool {
    let begins = |prefix: &&&str| {
        path.strip_prefix(**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let longest = |rules: &[&str]| rules.iter().filter(begins).map(|rule| rule.split('.').count()).max();
    longest(&HOT) > longest(&RESTART)
}

/// The fields that a path of `openclaw.json` comes from, as far as that can be told. Of the
/// unified words only memory's need a start.
fn named(path: &str, before: &InstanceSpec, after: &InstanceSpec) -> Vec<String> {
    let (was, is) = (&before.config.memory, &after.config.memory);
    let in_search = path.starts_with("memory.search");
    let mut fields: Vec<String> = [
        ("config.memory.search", was.search != is.search),
        ("config.memory.across_conversations", was.across_conversations != is.across_conversations),
    ]
    .into_iter()
    .filter(|(_, differs)| in_search && *differs)
    .map(|(field, _)| field.to_owned())
    .collect();
    let keys: Vec<&str> = path.split('.').collect();
    if tree::get(&before.config.native, &keys) != tree::get(&after.config.native, &keys) {
        fields.push(format!("config.native.{path}"));
    }
    if fields.is_empty() {
        fields.push(path.to_owned());
    }
    fields
}

#[cfg(test)]
mod tests {
    use clawfarm_model::config::ClawConfig;
    use serde_json::json;

    use super::*;

    fn spec(config: Value) -> InstanceSpec {
        let mut spec: InstanceSpec = serde_json::from_value(json!({
            "claw_type": "openclaw", "version": "2026.9.6", "runtime": "process", "target": "local",
            "config_mode": "managed",
        }))
        .unwrap();
        *spec.config = serde_json::from_value::<ClawConfig>(config).unwrap();
        spec
    }

    fn of(before: Value, after: Value) -> Impact {
        impact(&spec(before), &spec(after))
    }

    fn restart(fields: &[&str]) -> Impact {
        Impact::Restart(fields.iter().map(|field| (*field).to_owned()).collect())
    }

    #[test]
    fn what_is_taken_up_and_what_is_not() {
        let model = |name| json!({"model": {"provider": "openai", "api_key": {"secret": "k"}, "name": name}});
        assert_eq!(of(model("a"), model("a")), Impact::None);
        assert_eq!(of(model("a"), model("b")), Impact::Hot);
        // A key that the process has not: only a start brings it.
        assert_eq!(of(json!({}), model("a")), restart(&["config.model.api_key"]));
        // One that it has and needs no more.
        assert_eq!(of(model("a"), json!({})), Impact::Hot);
        for (before, after, wanted) in [
            (json!({}), json!({"native": {}}), Impact::None),
            (json!({}), json!({"agents": {"timeout_secs": 60}}), Impact::Hot),
            (json!({}), json!({"agents": {"entries": {"ops": {}}}}), Impact::Hot),
            (json!({}), json!({"tools": {"exec": {"mode": "deny"}}}), Impact::Hot),
            (json!({}), json!({"logging": {"level": "debug"}}), Impact::Hot),
            (json!({}), json!({"memory": {"search": false}}), restart(&["config.memory.search"])),
            (json!({}), json!({"memory": {"enabled": false}}), Impact::Hot),
            (json!({}), json!({"native": {"memory": {"citations": "off"}}}), Impact::Hot),
            (
                json!({}),
                json!({"native": {"memory": {"search": {"provider": "none"}}}}),
                restart(&["config.native.memory.search"]),
            ),
            (
                json!({}),
                json!({"native": {"gateway": {"controlUi": {"basePath": "/x"}}}}),
                restart(&["config.native.gateway.controlUi.basePath"]),
            ),
            (
                json!({}),
                json!({"native": {"gateway": {"controlUi": {"environment": {"label": "x"}}}}}),
                Impact::Hot,
            ),
            (json!({}), json!({"native": {"mcp": {"servers": {}}}}), Impact::Hot),
            (
                json!({"native": {"mcp": {"apps": {"port": 1}}}}),
                json!({"native": {"mcp": {"apps": {"port": 2}}}}),
                restart(&["config.native.mcp.apps.port"]),
            ),
            (json!({}), json!({"env": {"A": "1"}}), restart(&["config.env.A"])),
            (json!({"env": {"A": "1"}}), json!({}), restart(&["config.env.A"])),
            (json!({}), json!({"proxy": {"url": "http://proxy"}}), restart(&["config.proxy"])),
            (json!({}), json!({"inbox": [{"path": "/x", "check": {"type": "open"}}]}), Impact::Hot),
            (
                json!({"native": {"gateway": {"reload": {"mode": "off"}}}}),
                json!({"native": {"gateway": {"reload": {"mode": "off"}}}, "logging": {"level": "debug"}}),
                restart(&["logging.consoleLevel", "logging.level"]),
            ),
        ] {
            assert_eq!(of(before.clone(), after.clone()), wanted, "{before} -> {after}");
        }
    }

    #[test]
    fn what_is_beside_the_configuration() {
        let before = spec(json!({}));
        let mut after = before.clone();
        after.labels.insert("a".into(), "b".into());
        after.ready_timeout_secs += 1;
        assert_eq!(impact(&before, &after), Impact::None);
        after.version = "2026.9.7".into();
        after.resources.memory_mib += 1;
        assert_eq!(impact(&before, &after), restart(&["resources", "version"]));
        after.config.memory.search = Some(true);
        assert_eq!(impact(&before, &after), restart(&["config.memory.search", "resources", "version"]));
    }
}
