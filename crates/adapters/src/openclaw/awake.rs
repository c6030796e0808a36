//! Which channels keep a claw from sleeping: those that fetch their messages themselves. Nothing
//! comes to a door for them that could wake it.
//!
//! As OpenClaw 2026.9.6 documents them (channels/telegram, slack, feishu, zalo, and the others).

use clawfarm_model::InstanceSpec;
use serde_json::{Map, Value};

use super::{inbox, json as tree};

/// Channels that always hold a connection of their own, and what people call them.
const HOLDING: [(&str, &str); 10] = [
    ("discord", "Discord"),
    ("irc", "IRC"),
    ("matrix", "Matrix"),
    ("mattermost", "Mattermost"),
    ("nostr", "Nostr"),
    ("signal", "Signal"),
    ("tlon", "Tlon"),
    ("twitch", "Twitch"),
    ("whatsapp", "WhatsApp"),
    ("zalouser", "Zalo"),
];

/// Why a claw can't sleep without missing messages; empty when it can.
pub(super) fn keeps_awake(spec: &InstanceSpec, public_url: Option<&str>) -> Vec<String> {
    let ours = &spec.config.channels;
    let native = |name: &str| entry(&spec.config.native, name);
    let mut reasons = Vec::new();
    let mut asks =
        |of: &str| reasons.push(format!("its {of} bot asks {of} for messages, and can't be woken by one"));
    let called = native("telegram").is_some_and(|it| says(it, "webhookUrl", None));
    let polls = match &ours.telegram {
        Some(telegram) => inbox::telegram_url(telegram, public_url).is_none() && !called,
        None => native("telegram").is_some() && !called,
    };
    if polls {
        asks("Telegram");
    }
    if native("zalo").is_some_and(|it| !says(it, "webhookUrl", None)) {
        asks("Zalo");
    }
    let mut holds = |of: &str| {
        reasons.push(format!("its {of} bot holds a connection to {of}, and can't be woken by a message"));
    };
    for (name, of) in HOLDING {
        if native(name).is_some() || name == "discord" && ours.discord.is_some() {
            holds(of);
        }
    }
    if native("slack").is_some_and(|it| !says(it, "mode", Some("http"))) {
        holds("Slack");
    }
    let calls = native("feishu").is_some_and(|it| says(it, "connectionMode", Some("webhook")));
    if (ours.feishu.is_some() || native("feishu").is_some()) && !calls {
        holds("Feishu");
    }
    reasons
}

/// A channel's part of the native configuration, when it is on.
fn entry<'a>(native: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    tree::get(native, &["channels", name])
        .filter(|entry| entry.is_object() && entry.get("enabled") != Some(&Value::Bool(false)))
}

/// Whether a channel has this setting, or each of its accounts does; with this value, if one is given.
fn says(entry: &Value, name: &str, value: Option<&str>) -> bool {
    let here = |it: &Value| {
        let text = it.get(name).and_then(Value::as_str).unwrap_or_default();
        value.map_or(!text.is_empty(), |value| text == value)
    };
    let accounts = entry.get("accounts").and_then(Value::as_object).filter(|all| !all.is_empty());
    here(entry) || accounts.is_some_and(|all| all.values().all(here))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reasons(ours: &Value, native: &Value, public_url: Option<&str>) -> Vec<String> {
        let spec = serde_json::from_value(json!({
            "claw_type": "openclaw", "version": "2026.9.6", "runtime": "process", "target": "local",
            "config": {"channels": ours, "native": {"channels": native}},
        }));
        keeps_awake(&spec.unwrap(), public_url)
    }

    #[test]
    fn channels_that_fetch_their_messages_keep_a_claw_awake() {
        let bot = json!({"telegram": {"bot_token": {"secret": "tg"}}});
        let outside = Some("https://a-1.claws.example.com/");
        let polls = "its Telegram bot asks Telegram for messages, and can't be woken by one";
        for (ours, native, public_url, told) in [
            (json!({}), json!({}), outside, &[][..]),
            (bot.clone(), json!({}), outside, &[]),
            (bot.clone(), json!({}), Some("http://a-1.localhost:8421/"), &[polls]),
            (bot.clone(), json!({"telegram": {"webhookUrl": "https://elsewhere.example/"}}), None, &[]),
            (json!({}), json!({"telegram": {"botToken": "x"}}), outside, &[polls]),
            (json!({}), json!({"telegram": {"botToken": "x", "enabled": false}}), outside, &[]),
            (
                json!({}),
                json!({"slack": {"botToken": "x"}}),
                outside,
                &["its Slack bot holds a connection to Slack, and can't be woken by a message"],
            ),
            (json!({}), json!({"slack": {"mode": "http"}}), outside, &[]),
            (
                json!({}),
                json!({"slack": {"accounts": {"a": {"mode": "http"}, "b": {"mode": "http"}}}}),
                None,
                &[],
            ),
            (
                json!({}),
                json!({"slack": {"accounts": {"a": {"mode": "http"}, "b": {}}}}),
                None,
                &["its Slack bot holds a connection to Slack, and can't be woken by a message"],
            ),
            (json!({}), json!({"feishu": {"connectionMode": "webhook"}}), outside, &[]),
            (
                json!({"feishu": {"app_id": "cli_1", "app_secret": {"secret": "fs"}}}),
                json!({}),
                outside,
                &["its Feishu bot holds a connection to Feishu, and can't be woken by a message"],
            ),
            (
                json!({"discord": {"bot_token": {"secret": "dc"}}}),
                json!({"whatsapp": {}, "googlechat": {}}),
                outside,
                &[
                    "its Discord bot holds a connection to Discord, and can't be woken by a message",
                    "its WhatsApp bot holds a connection to WhatsApp, and can't be woken by a message",
                ],
            ),
        ] {
            assert_eq!(reasons(&ours, &native, public_url), told, "{ours} {native}");
        }
    }
}
