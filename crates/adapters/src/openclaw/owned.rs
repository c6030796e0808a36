//! The keys of `openclaw.json` that clawfarm owns: enforced at every start, in both modes,
//! because without them it could not reach, watch or stop the claw.

use clawfarm_model::launch::Place;
use clawfarm_model::{Error, Result};
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use super::entrance;
use super::json;
use super::provider;

/// One owned key.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    /// Where it is.
    pub(super) path: &'static [&'static str],
    /// What it must be; `None`: it must not be there.
    pub(super) value: Option<Value>,
}

const fn is(path: &'static [&'static str], value: Value) -> Owned {
    Owned { path, value: Some(value) }
}

const fn absent(path: &'static [&'static str]) -> Owned {
    Owned { path, value: None }
}

/// The log file's name in the log folder.
pub(super) const LOG_FILE: &str = "openclaw.log";

/// The owned keys for a place.
pub(super) fn rules(place: &Place, version: &str, token: &SecretString) -> Vec<Owned> {
    let bind = if place.listen_on_all { "lan" } else { "loopback" };
    let log_file = place.log_dir.join(LOG_FILE);
    vec![
        // Without it OpenClaw takes a rewritten file for a damaged one and restores its backup.
        is(&["meta", "lastTouchedVersion"], version.into()),
        is(&["gateway", "mode"], "local".into()),
        is(&["gateway", "port"], place.port.into()),
        is(&["gateway", "bind"], bind.into()),
        absent(&["gateway", "customBindHost"]),
        // People come through the edge, which has made sure of them; see `entrance`.
        is(&["gateway", "auth", "mode"], "trusted-proxy".into()),
        is(&["gateway", "auth", "trustedProxy"], entrance::trusted_proxy(token)),
        is(&["gateway", "auth", "identityScopes"], entrance::scopes()),
        is(&["gateway", "trustedProxies"], entrance::proxies(place)),
        // The password comes in OPENCLAW_GATEWAY_PASSWORD and is in no file; one here would win
        // over it, and a token beside it is refused.
        absent(&["gateway", "auth", "token"]),
        absent(&["gateway", "auth", "password"]),
        is(&["gateway", "tailscale", "mode"], "off".into()),
        // The gateway is reached through the runtime's own connection; TLS is the edge's.
        absent(&["gateway", "tls"]),
        is(&["gateway", "http", "endpoints", "chatCompletions", "enabled"], true.into()),
        is(&["plugins", "enabled"], true.into()),
        is(&["plugins", "entries", "admin-http-rpc", "enabled"], true.into()),
        // References to secrets go through this one; an allowlist of the user's would cut them off.
        is(&["secrets", "providers", "default"], json!({ "source": "env" })),
        is(&["logging", "file"], log_file.to_string_lossy().into()),
        is(&["discovery", "mdns", "mode"], "off".into()),
        is(&["update", "checkOnStart"], false.into()),
        is(&["update", "auto", "enabled"], false.into()),
        is(&["telemetry", "enabled"], false.into()),
    ]
}

/// The entry of clawfarm's own demo model. Owned too, while the claw uses it: the address of
/// the server differs from place to place and from start to start.
pub(super) fn demo_model(place: &Place) -> Owned {
    is(&["models", "providers", provider::DEMO_ID], provider::demo_entry(&place.host_url))
}

/// Any place, for what does not depend on it.
pub(super) fn somewhere() -> Place {
    Place {
        install_dir: "/".into(),
        layout: clawfarm_model::launch::Layout::Npm,
        state_dir: "/".into(),
        workspace_dir: "/".into(),
        log_dir: "/".into(),
        tmp_dir: "/".into(),
        port: 1,
        listen_on_all: false,
        server_addresses: clawfarm_model::Place::loopback(),
        host_url: String::new(),
        memory_enforced: true,
    }
}

/// Refuses a native key that an owned one would overwrite: dropping it in silence would leave
/// its author wondering.
///
/// # Errors
/// `InvalidInput`, naming the key.
pub(super) fn refuse_collisions(native: &Map<String, Value>) -> Result<()> {
    let somewhere = somewhere();
    for rule in rules(&somewhere, "", &SecretString::from("")).iter().chain([&demo_model(&somewhere)]) {
        if let Some(path) = collision(native, rule.path) {
            return Err(Error::invalid(
                format!("config.native.{path}"),
                format!("'{}' in openclaw.json is set by clawfarm", rule.path.join(".")),
            )
            .fix("remove it from 'native'"));
        }
    }
    Ok(())
}

/// The part of `path` at which `native` says something that can't stand beside an owned value.
fn collision(native: &Map<String, Value>, path: &[&str]) -> Option<String> {
    for depth in 1..=path.len() {
        let value = json::get(native, &path[..depth])?;
        if depth == path.len() || !value.is_object() {
            return Some(path[..depth].join("."));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_native_key_that_is_owned_is_named() {
        for (native, field) in [
            (json!({"gateway": {"port": 1}}), "config.native.gateway.port"),
            (json!({"gateway": {"auth": {"token": "x"}}}), "config.native.gateway.auth.token"),
            (json!({"gateway": null}), "config.native.gateway"),
            (json!({"logging": {"file": "/x"}}), "config.native.logging.file"),
            (
                json!({"plugins": {"entries": {"admin-http-rpc": false}}}),
                "config.native.plugins.entries.admin-http-rpc",
            ),
            (json!({"models": {"providers": {"clawfarm": {}}}}), "config.native.models.providers.clawfarm"),
        ] {
            let error = refuse_collisions(native.as_object().unwrap()).expect_err(field);
            assert_eq!(error.field_name(), Some(field));
        }
        let fine = json!({"gateway": {"reload": {"mode": "off"}, "auth": {"rateLimit": {"maxAttempts": 3}}},
            "logging": {"level": "debug"}, "plugins": {"entries": {"x": {"enabled": true}}}});
        assert!(refuse_collisions(fine.as_object().unwrap()).is_ok());
    }
}
