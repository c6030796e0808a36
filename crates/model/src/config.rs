//! The unified config: one document for every claw type; an adapter turns it into the
//! type's own files.

mod agents;
mod parts;
mod providers;
mod tools;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};
use crate::secret::SecretRef;

pub use agents::{Agent, Agents, Heartbeat, Hours, Thinking};
pub use parts::{Conversations, Gateway, LogLevel, Logging, Memory, Plugin, Proxy, Skill};
pub use providers::{Cost, ModelFacts, ModelInput, ProviderConfig, Providers};
pub use tools::{AgentTools, Exec, ExecMode, ToolProfile, Tools};

/// What an instance is configured with, in the same words for every claw type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClawConfig {
    /// The model it thinks with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// Further providers, by name: for the models that agents ask for, and to fall back to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Its agents.
    #[serde(default, skip_serializing_if = "Agents::is_empty")]
    pub agents: Agents,
    /// Where people talk to it.
    #[serde(default, skip_serializing_if = "Channels::is_empty")]
    pub channels: Channels,
    /// Further paths at which services leave messages, which are kept while it sleeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inbox: Vec<InboxPath>,
    /// What it remembers.
    #[serde(default, skip_serializing_if = "Memory::is_empty")]
    pub memory: Memory,
    /// Its skills, by name. One that is not named is as its type has it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skills: BTreeMap<String, Skill>,
    /// Its plugins, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plugins: BTreeMap<String, Plugin>,
    /// What it may do.
    #[serde(default, skip_serializing_if = "Tools::is_empty")]
    pub tools: Tools,
    /// How conversations are kept apart.
    #[serde(default, skip_serializing_if = "Conversations::is_empty")]
    pub conversations: Conversations,
    /// What programs may do at its gateway.
    #[serde(default, skip_serializing_if = "Gateway::is_empty")]
    pub gateway: Gateway,
    /// The way out, where there is no direct one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// What it writes about itself.
    #[serde(default, skip_serializing_if = "Logging::is_empty")]
    pub logging: Logging,
    /// Further environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schema::env)]
    pub env: BTreeMap<String, EnvValue>,
    /// Passed into the claw type's own configuration as it is, below what clawfarm owns.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schema(value_type = Object)]
    pub native: serde_json::Map<String, serde_json::Value>,
}

/// A model and who serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"provider": "anthropic", "api_key": {"secret": "anthropic-key"}, "fallbacks": ["openrouter/auto"]})))]
pub struct Model {
    /// Who serves it.
    pub provider: Provider,
    /// The model's name at that provider; the provider's usual one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The provider's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
    /// Where to reach it, for `openai-compatible`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The models that are asked when this one does not answer, in this order:
    /// `<provider>/<model>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<String>,
}

/// Who serves a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// clawfarm's own demo model: answers without a key, thinks nothing.
    Demo,
    /// Anthropic.
    Anthropic,
    /// `OpenAI`.
    Openai,
    /// Google Gemini.
    Gemini,
    /// `OpenRouter`.
    Openrouter,
    /// Anything that speaks `OpenAI`'s protocol at `base_url`.
    OpenaiCompatible,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Self; 6] =
        [Self::Demo, Self::Anthropic, Self::Openai, Self::Gemini, Self::Openrouter, Self::OpenaiCompatible];

    /// The name as it is written in config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Anthropic => "anthropic",
            Self::Openai => "openai",
            Self::Gemini => "gemini",
            Self::Openrouter => "openrouter",
            Self::OpenaiCompatible => "openai-compatible",
        }
    }
}

impl std::str::FromStr for Provider {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
            let known: Vec<_> = Self::ALL.iter().map(|p| p.as_str()).collect();
            Error::invalid("config.model.provider", format!("'{shown}' is no provider"))
                .fix(format!("use one of {}", known.join(", ")))
        })
    }
}

/// Where people talk to a claw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"telegram": {"bot_token": {"secret": "telegram-bot"}, "allow_from": ["123456789"]}})))]
pub struct Channels {
    /// A Telegram bot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telegram: Option<Telegram>,
    /// A Discord bot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discord: Option<Discord>,
    /// A bot of Feishu or Lark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feishu: Option<Feishu>,
}

impl Channels {
    /// Whether none is configured.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.telegram.is_none() && self.discord.is_none() && self.feishu.is_none()
    }
}

/// A Telegram bot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Telegram {
    /// The bot's token.
    pub bot_token: SecretRef,
    /// Another Telegram server than the public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_root: Option<String>,
    /// The Telegram user ids that may talk to it; nobody else may when it is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
    /// The groups in which it answers, by number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Group>,
}

/// A group of people in a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// Whether it answers only when it is called by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_mention: Option<bool>,
    /// The people of the group that it hears; all when there are none here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
}

/// A Discord bot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Discord {
    /// The bot's token.
    pub bot_token: SecretRef,
    /// The people that may talk to it; nobody else may when it is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
    /// The servers ("guilds") in which it answers, by number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guilds: BTreeMap<String, Group>,
}

/// A bot of Feishu (in China) or Lark (everywhere else).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Feishu {
    /// The app's id: `cli_…`.
    pub app_id: String,
    /// The app's secret.
    pub app_secret: SecretRef,
    /// Which of the two it is of.
    #[serde(default)]
    pub domain: FeishuDomain,
    /// The people that may talk to it; nobody else may when it is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
}

/// Where a Feishu app is registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeishuDomain {
    /// In China.
    #[default]
    Feishu,
    /// Everywhere else.
    Lark,
}

/// A path at which a service leaves messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InboxPath {
    /// The path; it stands for itself and for everything below it.
    #[schema(
        pattern = "^(?!/(api|v1|_clawfarm)(/|$))(/(?!\\.\\.?(/|$))[A-Za-z0-9_.~-]+)+$",
        max_length = 200
    )]
    pub path: String,
    /// How the sender proves itself.
    pub check: InboxCheck,
}

/// How the sender of a message proves itself. Each way wants fields of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InboxCheck {
    /// Which way.
    #[serde(rename = "type")]
    pub kind: InboxCheckKind,
    /// The token, Telegram's or Slack's secret, or Feishu's verification token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// For `token`: the header that may hold it instead of `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9-]+$", max_length = 100)]
    pub header: Option<String>,
    /// For `discord`: the application's public key, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    pub public_key: Option<String>,
    /// For `feishu`: the key that events are signed and encrypted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypt_key: Option<SecretRef>,
}

/// A way to prove oneself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InboxCheckKind {
    /// None: anybody who knows the address leaves messages, and wakes the claw.
    Open,
    /// A token, as `Authorization: Bearer` or in a header.
    Token,
    /// As Telegram does: what was given with `setWebhook`.
    Telegram,
    /// As Slack does: the app's signing secret.
    Slack,
    /// As Discord does: a signature under the application's key.
    Discord,
    /// As Feishu and Lark do: a token, and a signature and encryption where they are set up.
    Feishu,
}

/// The value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EnvValue {
    /// A secret's value.
    Secret(SecretRef),
    /// This text.
    Plain(String),
}

impl<'de> Deserialize<'de> for EnvValue {
    /// By hand, because what is derived tries each form in turn and says of neither why not,
    /// and takes a list for a reference.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self::Plain(text)),
            value @ serde_json::Value::Object(_) => {
                SecretRef::deserialize(value).map(Self::Secret).map_err(D::Error::custom)
            }
            _ => Err(Error::invalid("env", "a variable is text, or a reference to a secret")
                .fix(r#"give "text", or {"secret": "name"}"#)
                .into_serde()),
        }
    }
}

/// Whether clawfarm or the claw's user has the last word on its configuration file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConfigMode {
    /// Written once; afterwards only what clawfarm owns (gateway, port, auth, log paths) is
    /// enforced, so that the user may go on in the claw's own dashboard.
    #[default]
    Seeded,
    /// Read-only for the claw; a difference is drift, and is mended.
    Managed,
}

/// The most that a number of a configuration may be: 68 years in seconds, and more tokens than
/// any model takes.
pub const NUMBER_MAX: u32 = 2_147_483_647;

/// How many parts a setting's path may have. What is nested deeper than readers of JSON go
/// (128 levels, as a rule) could be written, but by nobody read.
const PATH_MAX: usize = 64;

impl ClawConfig {
    /// This config with `value` at the dotted path `key`: `model.provider=demo`,
    /// `channels.telegram.bot_token.secret=tg`, `native.agents.defaults.timeoutSeconds=60`.
    /// The value is JSON where it parses as JSON, and text otherwise.
    ///
    /// # Errors
    /// When the path leads into something that is no object, or the result is no unified
    /// config; the error names the key.
    pub fn with(&self, key: &str, value: &str) -> Result<Self> {
        if key.split('.').count() > PATH_MAX {
            return Err(Error::invalid("config", format!("a key has more than {PATH_MAX} parts"))
                .fix("give a shorter path, such as native.agents.defaults.timeoutSeconds"));
        }
        let field = format!("config.{key}");
        let parsed = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        // "1" is the text of an environment variable and the number of a native setting, so
        // both readings are tried, the typed one first.
        self.with_value(key, parsed)
            .or_else(|first| self.with_value(key, value.into()).map_err(|_| first))
            .map_err(|e| {
                let error = Error::of_serde(field, e.message());
                if error.fix_text().is_some() { error } else { error.fix(
                    "the keys are model.{provider,name,api_key.secret,base_url,fallbacks}, providers.<name>.*, agents.*, channels.{telegram,discord,feishu}.*, inbox, memory.*, skills.<name>.*, plugins.<name>.*, tools.*, conversations.*, gateway.*, proxy.*, logging.*, env.<NAME> and native.<path>",
                ) }
            })
    }

    fn with_value(&self, key: &str, value: serde_json::Value) -> Result<Self> {
        let refuse = |why: String| Error::invalid("config", why);
        let mut root = serde_json::to_value(self).map_err(|e| refuse(e.to_string()))?;
        let mut at = &mut root;
        let segments: Vec<&str> = key.split('.').collect();
        if segments.iter().any(|s| s.is_empty()) {
            return Err(refuse(format!("'{key}' has an empty part")));
        }
        for segment in &segments {
            if at.is_null() {
                *at = serde_json::Value::Object(serde_json::Map::new());
            }
            let Some(object) = at.as_object_mut() else {
                return Err(refuse(format!("'{segment}' is inside something that is no object")));
            };
            at = object.entry(*segment).or_insert(serde_json::Value::Null);
        }
        *at = value;
        // A model named without its provider is completed by the one rule a newcomer expects.
        serde_json::from_value(root).map_err(|e| refuse(e.to_string()))
    }

    /// Every secret that this config refers to.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.secret_fields().into_iter().map(|(_, secret)| secret)
    }

    /// Every secret that this config refers to, with the path of the field that does:
    /// `model.api_key`, `env.SEARCH_KEY`.
    #[must_use]
    pub fn secret_fields<'a>(&'a self) -> Vec<(String, &'a SecretRef)> {
        let mut fields = Vec::new();
        let mut add = |field: String, secret: Option<&'a SecretRef>| {
            fields.extend(secret.map(|secret| (field, secret)));
        };
        add("model.api_key".to_owned(), self.model.as_ref().and_then(|m| m.api_key.as_ref()));
        for (name, provider) in &self.providers {
            add(format!("providers.{name}.api_key"), provider.api_key.as_ref());
        }
        let channels = &self.channels;
        add("channels.telegram.bot_token".to_owned(), channels.telegram.as_ref().map(|t| &t.bot_token));
        add("channels.discord.bot_token".to_owned(), channels.discord.as_ref().map(|d| &d.bot_token));
        add("channels.feishu.app_secret".to_owned(), channels.feishu.as_ref().map(|f| &f.app_secret));
        for (name, skill) in &self.skills {
            add(format!("skills.{name}.api_key"), skill.api_key.as_ref());
            for (variable, value) in &skill.env {
                add(format!("skills.{name}.env.{variable}"), value.secret());
            }
        }
        add("gateway.hooks_token".to_owned(), self.gateway.hooks_token.as_ref());
        for (n, path) in self.inbox.iter().enumerate() {
            add(format!("inbox.{n}.check.secret"), path.check.secret.as_ref());
            add(format!("inbox.{n}.check.encrypt_key"), path.check.encrypt_key.as_ref());
        }
        for (name, value) in &self.env {
            add(format!("env.{name}"), value.secret());
        }
        fields
    }
}

impl EnvValue {
    /// The secret that it is, where it is one.
    #[must_use]
    pub const fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::Secret(secret) => Some(secret),
            Self::Plain(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_typed_and_plain_values_by_path() {
        let config = ClawConfig::default()
            .with("model", r#"{"provider":"openai"}"#)
            .and_then(|c| c.with("model.name", "gpt-5"))
            .and_then(|c| c.with("model.api_key.secret", "openai-key"))
            .and_then(|c| c.with("env.RETRIES", "3"))
            .and_then(|c| c.with("native.agents.defaults.timeoutSeconds", "60"))
            .unwrap();
        assert_eq!(config.model.as_ref().unwrap().name.as_deref(), Some("gpt-5"));
        assert_eq!(config.env["RETRIES"], EnvValue::Plain("3".into()));
        assert_eq!(config.native["agents"]["defaults"]["timeoutSeconds"], 60);
        assert_eq!(config.secrets().count(), 1);
    }

    #[test]
    fn refuses_what_it_does_not_know_and_names_it() {
        for (key, value) in [
            ("modle.name", "x"),
            ("model.provider", "nobody"),
            ("model.provider.deeper", "x"),
            ("", "x"),
            ("native..x", "1"),
            ("channels.telegram.bot_token", "plain-text-token"),
        ] {
            let error = ClawConfig::default().with(key, value).expect_err(key);
            assert_eq!(error.field_name(), Some(format!("config.{key}").as_str()));
            assert!(error.fix_text().is_some());
        }
    }

    #[test]
    fn a_path_has_an_end() {
        let deep = format!("native{}", ".a".repeat(100_000));
        let refused = ClawConfig::default().with(&deep, "1").unwrap_err();
        assert!(refused.message().contains("64 parts") && refused.fix_text().is_some(), "{refused}");
    }

    #[test]
    fn fuzz_settings() {
        let seeds = [
            "model.provider=demo",
            "model={\"provider\":\"openai\"}",
            "channels.telegram.bot_token.secret=tg",
            "env.RETRIES=3",
            "native.agents.defaults.timeoutSeconds=60",
        ];
        clawfarm_fuzz::fuzz_text(&seeds, |text| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            match ClawConfig::default().with(key, value) {
                Ok(config) => {
                    let json = serde_json::to_value(&config).unwrap();
                    assert_eq!(serde_json::from_value::<ClawConfig>(json).unwrap(), config);
                }
                Err(error) => assert!(error.field_name().is_some() && error.fix_text().is_some()),
            }
        });
    }
}
