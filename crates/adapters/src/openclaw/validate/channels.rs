//! What can be said about channels.

use std::collections::BTreeMap;

use clawfarm_model::config::{Channels, Discord, Feishu, Group, Telegram};
use clawfarm_model::{Error, Result};

use super::{url, warning};
use crate::Warning;
use crate::openclaw::config::shown;

pub(super) fn check(channels: &Channels, warnings: &mut Vec<Warning>) -> Result<()> {
    if let Some(bot) = &channels.telegram {
        telegram(bot)?;
        warnings.push(warning(
            "config.channels.telegram",
            "the claw asks Telegram for messages itself, so a message can't wake it while it is suspended: it gets it when it is awake again",
        ));
    }
    if let Some(bot) = &channels.discord {
        discord(bot)?;
        warnings.push(from_the_hub("config.channels.discord", "Discord", "@openclaw/discord"));
    }
    if let Some(bot) = &channels.feishu {
        feishu(bot)?;
        warnings.push(from_the_hub("config.channels.feishu", "Feishu", "@openclaw/feishu"));
    }
    Ok(())
}

fn from_the_hub(field: &str, channel: &str, package: &str) -> Warning {
    warning(
        field,
        format!(
            "{channel} needs the package {package}, which OpenClaw fetches from the public hub at its first start: that start takes a minute longer, and without a way to the hub the channel stays off",
        ),
    )
}

fn telegram(bot: &Telegram) -> Result<()> {
    let user = "give the number, such as 123456789; the bot @userinfobot tells it";
    if let Some(root) = &bot.api_root {
        url("config.channels.telegram.api_root", root)?;
    }
    people("config.channels.telegram.allow_from", "Telegram user id", &bot.allow_from, is_number, user)?;
    let group = |id: &str| is_number(id.strip_prefix('-').unwrap_or(id));
    let fix = "give the group's number, such as -1001234567890; the bot @userinfobot tells it";
    groups("config.channels.telegram.groups", "Telegram group id", &bot.groups, group, fix)?;
    for (id, group) in &bot.groups {
        let field = format!("config.channels.telegram.groups.{id}.allow_from");
        people(&field, "Telegram user id", &group.allow_from, is_number, user)?;
    }
    Ok(())
}

fn discord(bot: &Discord) -> Result<()> {
    let fix = "give the number: with Discord's developer mode on, right-click and copy the ID";
    people("config.channels.discord.allow_from", "Discord user id", &bot.allow_from, is_number, fix)?;
    groups("config.channels.discord.guilds", "Discord server id", &bot.guilds, is_number, fix)?;
    for (id, guild) in &bot.guilds {
        let field = format!("config.channels.discord.guilds.{id}.allow_from");
        people(&field, "Discord user id", &guild.allow_from, is_number, fix)?;
    }
    Ok(())
}

fn feishu(bot: &Feishu) -> Result<()> {
    let word = |id: &str| {
        (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    if !(bot.app_id.starts_with("cli_") && word(&bot.app_id)) {
        return Err(Error::invalid(
            "config.channels.feishu.app_id",
            format!("'{}' is no app's id", shown(&bot.app_id)),
        )
        .fix("give the App ID of the page 'Credentials', which begins with cli_"));
    }
    let fix = "give the person's open_id, which begins with ou_";
    people("config.channels.feishu.allow_from", "Feishu user id", &bot.allow_from, word, fix)
}

/// Telegram's and Discord's ids are numbers of at most 64 bits.
fn is_number(id: &str) -> bool {
    (1..=20).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_digit())
}

fn people(field: &str, what: &str, ids: &[String], good: impl Fn(&str) -> bool, fix: &str) -> Result<()> {
    match ids.iter().find(|id| !good(id)) {
        Some(id) => Err(Error::invalid(field, format!("'{}' is no {what}", shown(id))).fix(fix)),
        None => Ok(()),
    }
}

fn groups(
    field: &str,
    what: &str,
    groups: &BTreeMap<String, Group>,
    good: impl Fn(&str) -> bool,
    fix: &str,
) -> Result<()> {
    match groups.keys().find(|id| !good(id)) {
        Some(id) => Err(Error::invalid(field, format!("'{}' is no {what}", shown(id))).fix(fix)),
        None => Ok(()),
    }
}
