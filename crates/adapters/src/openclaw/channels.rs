//! Channels, in OpenClaw's words.

use std::collections::BTreeMap;

use clawfarm_model::config::{Channels, Discord, Feishu, FeishuDomain, Group, Telegram};
use serde_json::{Map, Value, json};

use super::{inbox, json as tree, secrets};
use crate::RenderInput;

/// Puts every channel into the seed, and the plugin that it is of.
pub(super) fn put(seed: &mut Map<String, Value>, channels: &Channels, input: &RenderInput<'_>) {
    for (name, entry) in [
        ("telegram", channels.telegram.as_ref().map(|telegram| telegram_entry(telegram, input))),
        ("discord", channels.discord.as_ref().map(discord_entry)),
        ("feishu", channels.feishu.as_ref().map(feishu_entry)),
    ] {
        if let Some(entry) = entry {
            tree::set(seed, &["channels", name], Value::Object(entry));
            tree::set(seed, &["plugins", "entries", name, "enabled"], true.into());
        }
    }
}

/// The channels that are there, by OpenClaw's names.
pub(super) fn names(channels: &Channels) -> impl Iterator<Item = &'static str> {
    [
        ("telegram", channels.telegram.is_some()),
        ("discord", channels.discord.is_some()),
        ("feishu", channels.feishu.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
}

/// Who may talk to the claw in person. Without a list of people, each new one is given a pairing
/// code that the owner approves: nobody talks to the claw unasked.
fn people(entry: &mut Map<String, Value>, allowed: &[String]) {
    if allowed.is_empty() {
        entry.insert("dmPolicy".into(), "pairing".into());
    } else {
        entry.insert("dmPolicy".into(), "allowlist".into());
        entry.insert("allowFrom".into(), allowed.into());
    }
}

fn telegram_entry(telegram: &Telegram, input: &RenderInput<'_>) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("enabled".into(), true.into());
    entry.insert("botToken".into(), secrets::reference(&telegram.bot_token));
    people(&mut entry, &telegram.allow_from);
    if !telegram.groups.is_empty() {
        entry.insert("groupPolicy".into(), "allowlist".into());
        entry.insert("groups".into(), groups(&telegram.groups, telegram_group));
    }
    if let Some(root) = &telegram.api_root {
        entry.insert("apiRoot".into(), root.clone().into());
        // Its owner named this server; one of their own network is as good as the public one.
        entry.insert("network".into(), json!({ "dangerouslyAllowPrivateNetwork": true }));
    }
    // Telegram calls, so that a message can wake the claw; a bot that asks for its messages
    // would have to be awake all the time.
    if let Some(url) = inbox::telegram_url(telegram, input.public_url) {
        inbox::telegram_webhook(&mut entry, &url, input.place);
    }
    entry
}

/// The policy of one group goes before that of all, which hears listed people only.
fn telegram_group(group: &Group) -> Map<String, Value> {
    let mut entry = Map::new();
    if group.allow_from.is_empty() {
        entry.insert("groupPolicy".into(), "open".into());
    } else {
        entry.insert("groupPolicy".into(), "allowlist".into());
        entry.insert("allowFrom".into(), group.allow_from.clone().into());
    }
    entry
}

fn discord_entry(discord: &Discord) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("enabled".into(), true.into());
    entry.insert("token".into(), secrets::reference(&discord.bot_token));
    people(&mut entry, &discord.allow_from);
    if !discord.guilds.is_empty() {
        entry.insert("groupPolicy".into(), "allowlist".into());
        entry.insert("guilds".into(), groups(&discord.guilds, discord_guild));
    }
    entry
}

/// A guild without a list of users hears all of its members.
fn discord_guild(guild: &Group) -> Map<String, Value> {
    let users = (!guild.allow_from.is_empty()).then(|| guild.allow_from.clone().into());
    users.map(|users: Value| ("users".to_owned(), users)).into_iter().collect()
}

fn groups(groups: &BTreeMap<String, Group>, entry: fn(&Group) -> Map<String, Value>) -> Value {
    groups
        .iter()
        .map(|(id, group)| {
            let mut entry = entry(group);
            if let Some(mention) = group.require_mention {
                entry.insert("requireMention".into(), mention.into());
            }
            (id.clone(), Value::Object(entry))
        })
        .collect::<Map<_, _>>()
        .into()
}

/// Events come over a connection that the claw holds, which needs no address of its own.
fn feishu_entry(feishu: &Feishu) -> Map<String, Value> {
    let domain = match feishu.domain {
        FeishuDomain::Feishu => "feishu",
        FeishuDomain::Lark => "lark",
    };
    let mut entry = Map::new();
    entry.insert("enabled".into(), true.into());
    entry.insert("domain".into(), domain.into());
    entry.insert("connectionMode".into(), "websocket".into());
    entry.insert("appId".into(), feishu.app_id.clone().into());
    entry.insert("appSecret".into(), secrets::reference(&feishu.app_secret));
    people(&mut entry, &feishu.allow_from);
    entry
}
