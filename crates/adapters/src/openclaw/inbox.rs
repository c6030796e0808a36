//! Where services leave messages for OpenClaw, as its configuration has it, and what it needs so
//! that they can reach it while it sleeps.
//!
//! What is known here is of OpenClaw 2026.9.6's documentation (channels/telegram/transports,
//! channels/slack/transports, channels/feishu, gateway/config-hooks) and of what it was seen to do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clawfarm_model::Result;
use clawfarm_model::config::Telegram;
use clawfarm_model::inbox::{InboxRoute, Key, Proof};
use clawfarm_model::launch::Place;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{json as tree, secrets};
use crate::RenderInput;
pub(super) use crate::shared::inbox::check;

/// The variable that holds the secret which Telegram is to send with each update.
pub(super) const TELEGRAM_SECRET: &str = "CLAWFARM_TELEGRAM_WEBHOOK_SECRET";
/// Telegram's path at the claw: OpenClaw's own default.
const TELEGRAM_PATH: &str = "/telegram-webhook";
/// What OpenClaw answers with when a channel's message is in its own queue.
const ACCEPTED: &str = "x-openclaw-delivery-accepted";
/// Ports of channels' own listeners where the claw has a network of its own: OpenClaw's defaults.
const TELEGRAM_PORT: u16 = 8787;
const FEISHU_PORT: u16 = 3000;

/// A channel whose listener is apart from the gateway.
#[derive(Clone, Copy)]
enum Own {
    Telegram,
    Feishu,
}

/// Where a channel's own listener is to be. On a machine whose loopback device all claws share,
/// the gateway's port is this claw's alone, at every address of the device: so a second address
/// with the same port needs no second port.
fn listener(place: &Place, own: Own) -> SocketAddr {
    let (network, usual) = match own {
        Own::Telegram => (64, TELEGRAM_PORT),
        Own::Feishu => (65, FEISHU_PORT),
    };
    if place.listen_on_all {
        return SocketAddr::from((Ipv4Addr::UNSPECIFIED, usual));
    }
    let [high, low] = place.port.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, network, high, low), place.port))
}

/// The address at which Telegram can reach the claw, when it can: the public servers call https
/// addresses only, one of the owner's own calls what it can reach.
pub(super) fn telegram_url(telegram: &Telegram, public_url: Option<&str>) -> Option<String> {
    let public = public_url?.trim_end_matches('/');
    let host = public.split_once("://").map(|(_, rest)| rest.split([':', '/']).next().unwrap_or(rest))?;
    let outside = public.starts_with("https://") && host != "localhost" && !host.ends_with(".localhost");
    (outside || telegram.api_root.is_some()).then(|| format!("{public}{TELEGRAM_PATH}"))
}

/// The keys of `channels.telegram` that make Telegram call instead of being asked.
pub(super) fn telegram_webhook(entry: &mut Map<String, Value>, url: &str, place: &Place) {
    let at = listener(place, Own::Telegram);
    entry.insert("webhookUrl".into(), url.into());
    entry.insert("webhookSecret".into(), secrets::env_reference(TELEGRAM_SECRET));
    entry.insert("webhookPath".into(), TELEGRAM_PATH.into());
    entry.insert("webhookHost".into(), at.ip().to_string().into());
    entry.insert("webhookPort".into(), at.port().into());
}

/// The secret that Telegram is to send: another for each gateway token, and of the letters that
/// `setWebhook` takes.
pub(super) fn telegram_secret(token: &SecretString) -> SecretString {
    let digest = Sha256::new()
        .chain_update(b"clawfarm telegram webhook\0")
        .chain_update(token.expose_secret().as_bytes())
        .finalize();
    SecretString::from(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Moves the listeners of channels that have their own to where they are this claw's alone. Only
/// of those that the document has in webhook mode.
pub(super) fn place_listeners(document: &mut Map<String, Value>, place: &Place) {
    for (own, channel, on) in [
        (Own::Telegram, "telegram", text(document, &["channels", "telegram", "webhookUrl"]).is_some()),
        (
            Own::Feishu,
            "feishu",
            text(document, &["channels", "feishu", "connectionMode"]).as_deref() == Some("webhook"),
        ),
    ] {
        if on {
            let at = listener(place, own);
            tree::set(document, &["channels", channel, "webhookHost"], at.ip().to_string().into());
            tree::set(document, &["channels", channel, "webhookPort"], at.port().into());
        }
    }
}

/// The routes that a finished configuration has, and those that its owner declared.
///
/// # Errors
/// `InvalidInput` when a secret that a route refers to does not exist.
pub(super) fn routes(
    document: &Map<String, Value>,
    input: &RenderInput<'_>,
    variables: &dyn Fn(&str) -> Option<SecretString>,
) -> Result<Vec<InboxRoute>> {
    let mut routes = crate::shared::inbox::declared(input)?;
    let value = |path: &[&str]| resolve(tree::get(document, path)?, variables);
    let path = |path: &[&str], usual: &str| {
        text(document, path)
            .filter(|it| it.starts_with('/') && it.len() > 1)
            .unwrap_or_else(|| usual.to_owned())
    };
    let is_on = |channel: &str| {
        let entry = tree::get(document, &["channels", channel]);
        entry.is_some_and(|entry| entry.get("enabled") != Some(&Value::Bool(false)))
    };
    if tree::get(document, &["hooks", "enabled"]) == Some(&Value::Bool(true))
        && let Some(token) = value(&["hooks", "token"])
    {
        routes.push(InboxRoute {
            path: hooks_path(document),
            listener: None,
            proof: Proof::Token { token: Key(token), header: Some("x-openclaw-token".into()) },
            accepted: None,
        });
    }
    if is_on("telegram")
        && text(document, &["channels", "telegram", "webhookUrl"]).is_some()
        && let Some(secret) = value(&["channels", "telegram", "webhookSecret"])
    {
        routes.push(InboxRoute {
            path: path(&["channels", "telegram", "webhookPath"], TELEGRAM_PATH),
            listener: Some(reached(listener(input.place, Own::Telegram))),
            proof: Proof::Telegram { secret: Key(secret) },
            accepted: Some(ACCEPTED.into()),
        });
    }
    if is_on("slack")
        && text(document, &["channels", "slack", "mode"]).as_deref() == Some("http")
        && let Some(secret) = value(&["channels", "slack", "signingSecret"])
    {
        routes.push(InboxRoute {
            path: path(&["channels", "slack", "webhookPath"], "/slack/events"),
            listener: None,
            proof: Proof::Slack { secret: Key(secret) },
            accepted: None,
        });
    }
    if is_on("feishu")
        && text(document, &["channels", "feishu", "connectionMode"]).as_deref() == Some("webhook")
        && let Some(token) = value(&["channels", "feishu", "verificationToken"])
    {
        routes.push(InboxRoute {
            path: path(&["channels", "feishu", "webhookPath"], "/feishu/events"),
            listener: Some(reached(listener(input.place, Own::Feishu))),
            proof: Proof::Feishu {
                token: Key(token),
                encrypt_key: value(&["channels", "feishu", "encryptKey"]).map(Key),
            },
            // Events that OpenClaw does not queue are answered without it.
            accepted: None,
        });
    }
    Ok(routes)
}

/// `hooks.path`, as OpenClaw reads it: with one slash before and none behind.
fn hooks_path(document: &Map<String, Value>) -> String {
    let given = text(document, &["hooks", "path"]).unwrap_or_default();
    match given.trim_matches('/') {
        "" => "/hooks".to_owned(),
        path => format!("/{path}"),
    }
}

/// Where a listener is dialled: one on all addresses at whichever the claw has.
const fn reached(listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listener.port())
        }
        _ => listener,
    }
}

/// The value of a setting that may be a secret: as it stands, or in a variable of ours.
fn resolve(value: &Value, variables: &dyn Fn(&str) -> Option<SecretString>) -> Option<SecretString> {
    if let Some(text) = value.as_str() {
        // As `secrets::inserted` writes it.
        if let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
            return variables(name);
        }
        return (!text.is_empty()).then(|| SecretString::from(text));
    }
    if value.get("source") == Some(&json!("env")) {
        return variables(value.get("id")?.as_str()?);
    }
    None
}

fn text(document: &Map<String, Value>, path: &[&str]) -> Option<String> {
    tree::get(document, path)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telegram(api_root: Option<&str>) -> Telegram {
        serde_json::from_value(json!({"bot_token": {"secret": "tg"}, "api_root": api_root})).unwrap()
    }

    #[test]
    fn telegram_calls_where_it_can() {
        let url = |api_root, public| telegram_url(&telegram(api_root), public);
        let public = "https://a-1.claws.example.com/";
        assert_eq!(url(None, Some(public)).unwrap(), "https://a-1.claws.example.com/telegram-webhook");
        assert_eq!(url(None, Some("http://a-1.claws.example.com/")), None);
        assert_eq!(url(None, Some("https://a-1.localhost:8421/")), None);
        assert_eq!(url(None, None), None);
        assert!(url(Some("http://127.0.0.1:9"), Some("http://a-1.localhost:8421/")).is_some());
    }

    #[test]
    fn a_secret_is_another_for_each_token_and_one_that_telegram_takes() {
        let (one, two) = (telegram_secret(&"a".into()), telegram_secret(&"b".into()));
        assert_ne!(one.expose_secret(), two.expose_secret());
        assert!(one.expose_secret().bytes().all(|b| b.is_ascii_alphanumeric()));
    }

    #[test]
    fn paths_of_the_gateway_s_own_can_t_be_declared() {
        let check_of = |path: &str| {
            let mut spec = crate::openclaw::inbox::tests::spec();
            spec.config.inbox =
                vec![serde_json::from_value(json!({"path": path, "check": {"type": "open"}})).unwrap()];
            check(&spec)
        };
        for good in ["/x", "/my-service/in", "/hooks", "/apis"] {
            check_of(good).unwrap();
        }
        for bad in ["", "/", "x", "/x/", "//x", "/a/../b", "/api", "/api/v1/admin", "/v1/x", "/a b", "/%2e"] {
            assert_eq!(check_of(bad).unwrap_err().field_name(), Some("config.inbox.0.path"), "{bad}");
        }
    }

    pub(super) fn spec() -> clawfarm_model::InstanceSpec {
        serde_json::from_value(json!({
            "claw_type": "openclaw", "version": "2026.9.6", "runtime": "process", "target": "local",
        }))
        .unwrap()
    }
}
