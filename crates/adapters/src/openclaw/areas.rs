//! What the unified config says beside the model and the channels, in OpenClaw's words.

use clawfarm_model::config::{
    Agent, AgentTools, ClawConfig, Conversations, EnvValue, ExecMode, Gateway, Heartbeat, LogLevel, Memory,
    Model, Plugin, Skill, Thinking, ToolProfile, Tools,
};
use serde_json::{Map, Value, json};

use super::{channels, json as tree, provider, secrets};

/// The agent that there always is.
pub(super) const MAIN: &str = "main";

/// Puts everything that is said into the seed.
pub(super) fn put(seed: &mut Map<String, Value>, config: &ClawConfig, model: Option<&Model>) {
    fallbacks(seed, model);
    agents(seed, config);
    memory(seed, &config.memory);
    for (name, skill) in &config.skills {
        tree::set(seed, &["skills", "entries", name], skill_entry(skill));
    }
    for (name, plugin) in &config.plugins {
        let entry = plugin_entry(plugin);
        if let Some(there) = tree::get(seed, &["plugins", "entries", name]).cloned() {
            tree::set(seed, &["plugins", "entries", name], both(there, entry));
        } else {
            tree::set(seed, &["plugins", "entries", name], entry);
        }
    }
    tools(seed, &config.tools);
    conversations(seed, &config.conversations);
    gateway(seed, &config.gateway);
    if let Some(level) = config.logging.level {
        tree::set(seed, &["logging", "level"], log_level(level).into());
        tree::set(seed, &["logging", "consoleLevel"], log_level(level).into());
    }
}

fn both(mut under: Value, over: Value) -> Value {
    match (&mut under, over) {
        (Value::Object(under), Value::Object(over)) => under.extend(over),
        (under, over) => *under = over,
    }
    under
}

fn fallbacks(seed: &mut Map<String, Value>, model: Option<&Model>) {
    let Some(model) = model.filter(|model| !model.fallbacks.is_empty()) else { return };
    let models = model.fallbacks.iter().map(|model| provider::reference(model)).collect();
    tree::set(seed, &["agents", "defaults", "model", "fallbacks"], models);
}

fn agents(seed: &mut Map<String, Value>, config: &ClawConfig) {
    let agents = &config.agents;
    let mut put = |path: &[&str], value: Option<Value>| {
        if let Some(value) = value {
            let path: Vec<&str> = ["agents", "defaults"].iter().chain(path).copied().collect();
            tree::set(seed, &path, value);
        }
    };
    put(&["timeoutSeconds"], agents.timeout_secs.map(Value::from));
    put(&["maxConcurrent"], agents.max_concurrent.map(Value::from));
    put(&["userTimezone"], agents.timezone.clone().map(Value::from));
    put(&["thinkingDefault"], agents.thinking.map(|it| thinking(it).into()));
    if let Some(heartbeat) = &agents.heartbeat {
        put(&["heartbeat"], Some(heartbeat_entry(heartbeat, agents.timezone.as_deref())));
    }
    put(&["compaction", "keepRecentTokens"], config.memory.limit.map(Value::from));
    if agents.entries.is_empty() {
        return;
    }
    // More than one agent needs an owner for everything that comes in.
    tree::set(seed, &["agents", "ownership"], "explicit".into());
    tree::set(seed, &["agents", "entries", MAIN], json!({}));
    tree::set(seed, &["agents", "defaults", "systemAgent", "agentId"], MAIN.into());
    tree::set(seed, &["agents", "defaults", "sessionStore", "agentId"], MAIN.into());
    for (name, agent) in &agents.entries {
        tree::set(seed, &["agents", "entries", name], agent_entry(agent));
    }
    tree::set(seed, &["bindings"], bindings(config));
}

fn agent_entry(agent: &Agent) -> Value {
    let mut entry = Map::new();
    if let Some(title) = &agent.title {
        entry.insert("name".into(), title.clone().into());
    }
    if let Some(model) = &agent.model {
        entry.insert("model".into(), json!({ "primary": provider::reference(model) }));
    }
    if let Some(tools) = &agent.tools {
        entry.insert("tools".into(), agent_tools(tools));
    }
    if let Some(skills) = &agent.skills {
        entry.insert("skills".into(), skills.clone().into());
    }
    Value::Object(entry)
}

/// Whose each channel's messages are: an agent's that names it, and else the main one's.
fn bindings(config: &ClawConfig) -> Value {
    channels::names(&config.channels)
        .map(|channel| {
            let names = |agent: &Agent| agent.channels.iter().any(|it| it == channel);
            let owner = config.agents.entries.iter().find(|(_, agent)| names(agent));
            let owner = owner.map_or(MAIN, |(name, _)| name);
            json!({ "agentId": owner, "match": { "channel": channel, "accountId": "default" } })
        })
        .collect()
}

fn heartbeat_entry(heartbeat: &Heartbeat, timezone: Option<&str>) -> Value {
    let mut entry = Map::new();
    entry.insert("every".into(), format!("{}m", heartbeat.every_mins).into());
    entry.insert("target".into(), "last".into());
    if let Some(hours) = &heartbeat.hours {
        let mut active = Map::new();
        active.insert("start".into(), hours.from.clone().into());
        active.insert("end".into(), hours.to.clone().into());
        if let Some(timezone) = timezone {
            active.insert("timezone".into(), timezone.into());
        }
        entry.insert("activeHours".into(), Value::Object(active));
    }
    Value::Object(entry)
}

fn memory(seed: &mut Map<String, Value>, memory: &Memory) {
    if let Some(enabled) = memory.enabled {
        let plugin = if enabled { "memory-core" } else { "none" };
        tree::set(seed, &["plugins", "slots", "memory"], plugin.into());
    }
    for (key, value) in
        [("enabled", memory.search), ("rememberAcrossConversations", memory.across_conversations)]
    {
        if let Some(value) = value {
            tree::set(seed, &["memory", "search", key], value.into());
        }
    }
}

fn skill_entry(skill: &Skill) -> Value {
    let mut entry = Map::new();
    if let Some(enabled) = skill.enabled {
        entry.insert("enabled".into(), enabled.into());
    }
    if let Some(key) = &skill.api_key {
        entry.insert("apiKey".into(), secrets::reference(key));
    }
    let env: Map<String, Value> = skill
        .env
        .iter()
        .map(|(name, value)| {
            let text = match value {
                EnvValue::Plain(text) => secrets::literal(text),
                EnvValue::Secret(secret) => secrets::inserted(secret),
            };
            (name.clone(), text.into())
        })
        .collect();
    if !env.is_empty() {
        entry.insert("env".into(), Value::Object(env));
    }
    Value::Object(entry)
}

fn plugin_entry(plugin: &Plugin) -> Value {
    let mut entry = Map::new();
    if let Some(enabled) = plugin.enabled {
        entry.insert("enabled".into(), enabled.into());
    }
    if !plugin.config.is_empty() {
        entry.insert("config".into(), Value::Object(plugin.config.clone()));
    }
    Value::Object(entry)
}

fn tools(seed: &mut Map<String, Value>, tools: &Tools) {
    let mut put = |path: &[&str], value: Option<Value>| {
        if let Some(value) = value {
            let path: Vec<&str> = std::iter::once("tools").chain(path.iter().copied()).collect();
            tree::set(seed, &path, value);
        }
    };
    let list = |names: &Vec<String>| (!names.is_empty()).then(|| Value::from(names.clone()));
    put(&["profile"], tools.profile.map(|it| profile(it).into()));
    put(&["alsoAllow"], list(&tools.allow));
    put(&["deny"], list(&tools.deny));
    if let Some(exec) = &tools.exec {
        put(&["exec", "mode"], exec.mode.map(|it| exec_mode(it).into()));
        put(&["exec", "safeBins"], list(&exec.safe_programs));
        put(&["exec", "timeoutSeconds"], exec.timeout_secs.map(Value::from));
    }
    put(&["web", "search", "enabled"], tools.web_search.map(Value::from));
    put(&["web", "fetch", "enabled"], tools.web_fetch.map(Value::from));
    put(&["fs", "workspaceOnly"], tools.workspace_only.map(Value::from));
    put(&["elevated", "enabled"], tools.elevated.map(Value::from));
}

fn agent_tools(tools: &AgentTools) -> Value {
    let mut entry = Map::new();
    if let Some(it) = tools.profile {
        entry.insert("profile".into(), profile(it).into());
    }
    if !tools.allow.is_empty() {
        entry.insert("alsoAllow".into(), tools.allow.clone().into());
    }
    if !tools.deny.is_empty() {
        entry.insert("deny".into(), tools.deny.clone().into());
    }
    Value::Object(entry)
}

fn conversations(seed: &mut Map<String, Value>, conversations: &Conversations) {
    if let Some(mins) = conversations.reset_after_mins {
        tree::set(seed, &["session", "reset"], json!({ "mode": "idle", "idleMinutes": mins }));
    }
    if let Some(per_person) = conversations.per_person {
        let scope = if per_person { "per-channel-peer" } else { "main" };
        tree::set(seed, &["session", "dmScope"], scope.into());
    }
}

fn gateway(seed: &mut Map<String, Value>, gateway: &Gateway) {
    if let Some(token) = &gateway.hooks_token {
        tree::set(seed, &["hooks", "enabled"], true.into());
        tree::set(seed, &["hooks", "token"], secrets::inserted(token).into());
    }
    if let Some(on) = gateway.responses_api {
        tree::set(seed, &["gateway", "http", "endpoints", "responses", "enabled"], on.into());
    }
    if let Some(on) = gateway.terminal {
        tree::set(seed, &["gateway", "terminal", "enabled"], on.into());
    }
}

const fn thinking(thinking: Thinking) -> &'static str {
    match thinking {
        Thinking::Off => "off",
        Thinking::Low => "low",
        Thinking::Medium => "medium",
        Thinking::High => "high",
    }
}

const fn profile(profile: ToolProfile) -> &'static str {
    match profile {
        ToolProfile::Minimal => "minimal",
        ToolProfile::Messaging => "messaging",
        ToolProfile::Coding => "coding",
        ToolProfile::Full => "full",
    }
}

const fn exec_mode(mode: ExecMode) -> &'static str {
    match mode {
        ExecMode::Deny => "deny",
        ExecMode::Allowlist => "allowlist",
        ExecMode::Ask => "ask",
        ExecMode::Full => "full",
    }
}

const fn log_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    }
}
