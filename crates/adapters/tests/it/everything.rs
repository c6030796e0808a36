//! A unified config that says everything that can be said.

use std::collections::BTreeMap;

use clawfarm_model::config::{
    Agent, AgentTools, Agents, Channels, ClawConfig, Conversations, Cost, Discord, EnvValue, Exec, ExecMode,
    Feishu, FeishuDomain, Gateway, Group, Heartbeat, Hours, InboxCheck, InboxCheckKind, InboxPath, LogLevel,
    Logging, Memory, Model, ModelFacts, ModelInput, Plugin, Provider, ProviderConfig, Proxy, Skill, Telegram,
    Thinking, ToolProfile, Tools,
};
use clawfarm_model::secret::SecretRef;
use serde_json::{Map, Value, json};

/// Everything that can be said, with values that no type has by itself. A field that the config
/// gains has to be said here before this compiles.
pub(crate) fn everything() -> ClawConfig {
    let secret = |name: &str| SecretRef { secret: name.parse().unwrap() };
    let list = |all: &[&str]| all.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let group = || Group { require_mention: Some(true), allow_from: list(&["1"]) };
    let facts = ModelFacts {
        name: "m".into(),
        title: Some("M".into()),
        context_window: Some(1000),
        max_tokens: Some(100),
        input: vec![ModelInput::Text, ModelInput::Image],
        reasoning: Some(true),
        cost: Some(Cost { input: 1.0, output: 2.0, cache_read: 3.0, cache_write: 4.0 }),
    };
    let provider = |kind, url: &str| ProviderConfig {
        kind,
        api_key: Some(secret("search")),
        base_url: Some(url.into()),
        models: vec![facts.clone()],
        timeout_secs: Some(7),
    };
    ClawConfig {
        model: Some(Model {
            provider: Provider::OpenaiCompatible,
            name: Some("some-model".into()),
            api_key: Some(secret("model-key")),
            base_url: Some("https://llm.example.com/v1".into()),
            fallbacks: list(&["mine/m"]),
        }),
        providers: BTreeMap::from([
            ("mine".into(), provider(Provider::OpenaiCompatible, "https://mine.example.com/v1")),
            ("anthropic".into(), provider(Provider::Anthropic, "https://anthropic.example.com")),
        ]),
        agents: Agents {
            timeout_secs: Some(77),
            max_concurrent: Some(3),
            timezone: Some("Europe/Berlin".into()),
            thinking: Some(Thinking::High),
            heartbeat: Some(Heartbeat {
                every_mins: 45,
                hours: Some(Hours { from: "08:00".into(), to: "20:00".into() }),
            }),
            entries: BTreeMap::from([(
                "ops".into(),
                Agent {
                    title: Some("Ops".into()),
                    model: Some("mine/m".into()),
                    tools: Some(AgentTools {
                        profile: Some(ToolProfile::Minimal),
                        allow: list(&["web_fetch"]),
                        deny: list(&["exec"]),
                    }),
                    skills: Some(list(&["weather"])),
                    channels: list(&["telegram"]),
                },
            )]),
        },
        channels: Channels {
            telegram: Some(Telegram {
                bot_token: secret("tg"),
                api_root: Some("https://tg.example.com".into()),
                allow_from: list(&["123"]),
                groups: BTreeMap::from([("-100".into(), group())]),
            }),
            discord: Some(Discord {
                bot_token: secret("Dis_cord"),
                allow_from: list(&["111"]),
                guilds: BTreeMap::from([("222".into(), group())]),
            }),
            feishu: Some(Feishu {
                app_id: "cli_xxx".into(),
                app_secret: secret("feishu"),
                domain: FeishuDomain::Lark,
                allow_from: list(&["333"]),
            }),
        },
        inbox: vec![InboxPath {
            path: "/left".into(),
            check: InboxCheck {
                kind: InboxCheckKind::Token,
                secret: Some(secret("hooks")),
                header: Some("x-key".into()),
                public_key: None,
                encrypt_key: None,
            },
        }],
        memory: Memory {
            enabled: Some(true),
            search: Some(false),
            across_conversations: Some(true),
            limit: Some(9000),
        },
        skills: BTreeMap::from([(
            "weather".into(),
            Skill {
                enabled: Some(false),
                api_key: Some(secret("skill")),
                env: BTreeMap::from([("UNITS".into(), EnvValue::Plain("metric".into()))]),
            },
        )]),
        plugins: BTreeMap::from([(
            "memory-core".into(),
            Plugin { enabled: Some(false), config: map(&json!({"dreaming": {"enabled": false}})) },
        )]),
        tools: Tools {
            profile: Some(ToolProfile::Messaging),
            allow: list(&["web_fetch"]),
            deny: list(&["browser"]),
            exec: Some(Exec {
                mode: Some(ExecMode::Full),
                safe_programs: list(&["git"]),
                timeout_secs: Some(33),
            }),
            web_search: Some(false),
            web_fetch: Some(false),
            workspace_only: Some(false),
            elevated: Some(true),
        },
        conversations: Conversations { reset_after_mins: Some(55), per_person: Some(true) },
        gateway: Gateway {
            responses_api: Some(true),
            hooks_token: Some(secret("hooks")),
            terminal: Some(true),
        },
        proxy: Some(Proxy { url: "http://proxy.example.com:3128".into(), except: list(&["10.0.0.0/8"]) }),
        logging: Logging { level: Some(LogLevel::Debug) },
        env: BTreeMap::from([
            ("PLAIN".into(), EnvValue::Plain("text".into())),
            ("KEY".into(), EnvValue::Secret(secret("search"))),
        ]),
        // Each type has settings of its own; what is passed on is the business of its own tests.
        native: Map::new(),
    }
}

fn map(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}
