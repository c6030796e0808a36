//! `NanoClaw`: a small assistant that a person has as source, changes, and runs with Node. It is
//! configured by a `.env` file in the folder that it is started in, and listens on no port.
//!
//! What is known of its variables was read in its source (`src/config.ts`, `src/env.ts`, its
//! credential proxy and its channels' skills).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::config::{ClawConfig, LogLevel, Provider};
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::launch::{OwnSoftware, Software};
use clawfarm_model::name::ClawType;
use clawfarm_model::resources::Resources;
use clawfarm_model::secret::SecretRef;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{Code, Error, InstanceSpec, Launch, Result};
use futures::stream::BoxStream;
use secrecy::{ExposeSecret as _, SecretString};

use crate::shared::document::{self, Document, Format};
use crate::shared::environment::{self, Environment};
use crate::shared::text::shown;
use crate::shared::{channels, expressed, inbox, place, secrets};
use crate::{
    Access, Activity, ClawAdapter, Dial, Impact, Imported, KeyVariables, Probe, RenderInput, Rendered,
    SendEvent, Warning, impact,
};

/// There are no releases: whatever is in the folder.
const DEFAULT_VERSION: &str = "installed";
/// Where its source is, built.
const FOLDER: &str = "/opt/nanoclaw";
/// Its configuration, in the folder that it is started in.
const FILE: &str = ".env";
/// What it is given when nothing is said; its agents run in containers of their own.
const MEMORY_MIB: u32 = 512;
/// How long it may take to end: it lets its containers go on and closes its channels.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// What of a unified config has a variable.
const EXPRESSED: [&str; 12] = [
    "model.provider",
    "model.api_key",
    "providers.anthropic.type",
    "providers.anthropic.base_url",
    "providers.anthropic.api_key",
    "agents.timezone",
    "agents.max_concurrent",
    "agents.timeout_secs",
    "channels.telegram.bot_token",
    "channels.discord.bot_token",
    "logging.level",
    "native",
];

/// Variables that clawfarm sets, or that only programs' own environments have.
const OWNED: [&str; 6] =
    ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "TELEGRAM_BOT_TOKEN", "DISCORD_BOT_TOKEN", "TZ", "LOG_LEVEL"];

/// The adapter of `NanoClaw`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NanoClaw;

fn claw_type() -> Result<ClawType> {
    ClawType::new("nanoclaw")
}

fn software(version: &str) -> Result<Software> {
    if version != DEFAULT_VERSION {
        return Err(Error::invalid(
            "version",
            format!("'{}': NanoClaw has no versions to choose from", shown(version)),
        )
        .fix(format!("leave it out: what is in {FOLDER} is run")));
    }
    Ok(Software {
        claw_type: claw_type()?,
        version: version.to_owned(),
        npm: None,
        pip: None,
        own: Some(OwnSoftware {
            folder: Some(FOLDER.into()),
            program: Some("node".to_owned()),
            built: None,
            install: Some(format!(
                "put its source into {FOLDER} and build it there: npm ci && npm run build"
            )),
        }),
        image: None,
    })
}

/// The file with its variables.
fn file(input: &RenderInput<'_>) -> Result<Document> {
    let config = &input.spec.config;
    let mut file = Document::new(FILE, Format::Env);
    let mut secret = |name: &str, secret: &SecretRef, field: &str| -> Result<()> {
        let value = secrets::value(input.secrets, secret, field)?;
        file.secret(&[name], value.expose_secret());
        Ok(())
    };
    if let Some((key, field)) = api_key(config) {
        secret("ANTHROPIC_API_KEY", key, field)?;
    }
    if let Some(telegram) = &config.channels.telegram {
        secret("TELEGRAM_BOT_TOKEN", &telegram.bot_token, "config.channels.telegram.bot_token")?;
    }
    if let Some(discord) = &config.channels.discord {
        secret("DISCORD_BOT_TOKEN", &discord.bot_token, "config.channels.discord.bot_token")?;
    }
    let base = config.providers.get("anthropic").and_then(|provider| provider.base_url.as_ref());
    if let Some(url) = base {
        file.seed(&["ANTHROPIC_BASE_URL"], url.as_str());
    }
    if let Some(zone) = &config.agents.timezone {
        file.seed(&["TZ"], zone.as_str());
    }
    if let Some(level) = log_level(config) {
        file.seed(&["LOG_LEVEL"], level);
    }
    for (name, value) in &config.native {
        file.seed(&[name], value.clone());
    }
    Ok(file)
}

fn log_level(config: &ClawConfig) -> Option<&'static str> {
    config.logging.level.map(|level| match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    })
}

fn api_key(config: &ClawConfig) -> Option<(&SecretRef, &'static str)> {
    let own = config.model.as_ref().and_then(|model| model.api_key.as_ref());
    let listed = config.providers.get("anthropic").and_then(|provider| provider.api_key.as_ref());
    own.map(|key| (key, "config.model.api_key"))
        .or_else(|| listed.map(|key| (key, "config.providers.anthropic.api_key")))
}

fn validate(spec: &InstanceSpec) -> Result<Vec<Warning>> {
    software(&spec.version)?;
    place::only_processes(spec, "NanoClaw", &[RuntimeKind::Process, RuntimeKind::Sim])?;
    let config = &spec.config;
    let provider = config.model.as_ref().map(|model| model.provider);
    if provider != Some(Provider::Anthropic) {
        return Err(Error::invalid("config.model.provider", "NanoClaw thinks with Anthropic's models only")
            .fix("give --provider anthropic --api-key-env ANTHROPIC_API_KEY"));
    }
    crate::openclaw::validate::main_model(config)?;
    if let Some(url) = config.providers.get("anthropic").and_then(|provider| provider.base_url.as_ref()) {
        crate::openclaw::validate::url("config.providers.anthropic.base_url", url)?;
    }
    for (name, value) in &config.native {
        let field = format!("config.native.{}", shown(name));
        if OWNED.contains(&name.as_str()) {
            return Err(Error::invalid(field, "this is set by clawfarm")
                .fix("remove it, and say it in the unified config"));
        }
        // The file must hold it, and nothing else on its line.
        Format::Env.write(&[(name.clone(), value.clone())].into_iter().collect(), None).map_err(|error| {
            let fix = error.fix_text().unwrap_or("give a plain value").to_owned();
            Error::invalid(field, error.message().to_owned()).fix(fix)
        })?;
    }
    if let Some(zone) = &config.agents.timezone {
        let good = (1..=100).contains(&zone.len())
            && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b));
        if !good {
            return Err(Error::invalid(
                "config.agents.timezone",
                format!("'{}' is no time zone", shown(zone)),
            )
            .fix("give one such as Europe/Berlin or UTC"));
        }
    }
    environment::check(spec, |name| OWNED.contains(&name))?;
    inbox::check(spec)?;
    expressed::check(config, "NanoClaw", &EXPRESSED.map(str::to_owned), |_, _| false)
}

fn render(input: &RenderInput<'_>) -> Result<Rendered> {
    let generated = document::generate(&[file(input)?], input.spec.config_mode, input.existing, input.run)?;
    let mut env = Environment::begin(input)?;
    // These it takes from its environment only.
    let agents = &input.spec.config.agents;
    if let Some(most) = agents.max_concurrent {
        env.set("MAX_CONCURRENT_CONTAINERS", most.to_string());
    }
    if let Some(secs) = agents.timeout_secs {
        env.set("CONTAINER_TIMEOUT", (u64::from(secs) * 1000).to_string());
    }
    // And of these it takes its environment's sooner than its file's.
    if let Some(zone) = &agents.timezone {
        env.set("TZ", zone.as_str());
    }
    if let Some(level) = log_level(&input.spec.config) {
        env.set("LOG_LEVEL", level);
    }
    let program = input.place.install_dir.join("dist/index.js");
    Ok(Rendered {
        launch: Launch {
            id: input.id.clone(),
            run: input.run,
            argv: vec!["node".to_owned(), program.to_string_lossy().into_owned()],
            env: env.all(),
            // Where it looks for its `.env`, and keeps its data.
            cwd: input.place.state_dir.clone(),
            files: generated.files,
            resources: input.spec.resources,
        },
        warnings: generated.warnings,
        inbox: inbox::declared(input)?,
    })
}

#[async_trait]
impl ClawAdapter for NanoClaw {
    fn claw_type(&self) -> ClawType {
        claw_type().unwrap_or_else(|_| unreachable!("'nanoclaw' is a DNS label"))
    }

    fn default_version(&self) -> &str {
        DEFAULT_VERSION
    }

    fn default_resources(&self) -> Resources {
        Resources { memory_mib: MEMORY_MIB, ..Resources::default() }
    }

    fn software(&self, version: &str) -> Result<Software> {
        software(version)
    }

    fn validate(&self, spec: &InstanceSpec) -> Result<Vec<Warning>> {
        validate(spec)
    }

    fn existing_files(&self) -> Vec<PathBuf> {
        vec![FILE.into(), document::SEED_FILE.into()]
    }

    fn render(&self, input: &RenderInput<'_>) -> Result<Rendered> {
        render(input)
    }

    fn import_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn import(&self, _files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Imported> {
        Err(Error::new(Code::Unsupported, "homes of NanoClaw can't be taken in yet")
            .field("import")
            .fix("make an instance without one, and copy its groups into it with 'clawfarm exec'"))
    }

    /// It listens nowhere: it is ready when it runs.
    async fn probe_startup(&self, _dial: &dyn Dial) -> Probe {
        Probe::Passed
    }

    async fn probe_liveness(&self, _dial: &dyn Dial) -> Probe {
        Probe::Passed
    }

    /// Nobody can ask it.
    async fn activity(&self, _access: &Access<'_>) -> Result<Activity> {
        Ok(Activity::Idle)
    }

    /// It reads its file at its start.
    fn impact(&self, before: &InstanceSpec, after: &InstanceSpec) -> Impact {
        impact::of_words(before, after, &EXPRESSED)
    }

    fn keeps_awake(&self, spec: &InstanceSpec, _public_url: Option<&str>) -> Vec<String> {
        let mut reasons = channels::keep_awake(spec);
        if reasons.is_empty() {
            reasons
                .push("it can be reached through its own channels only, and they can't wake it".to_owned());
        }
        reasons
    }

    async fn drain(&self, _access: &Access<'_>, _wait: Duration) -> Result<Activity> {
        Ok(Activity::Idle)
    }

    async fn undrain(&self, _access: &Access<'_>) -> Result<()> {
        Ok(())
    }

    async fn send(
        &self,
        _access: &Access<'_>,
        _message: &str,
    ) -> Result<BoxStream<'static, Result<SendEvent>>> {
        Err(Error::new(Code::Unsupported, "NanoClaw takes messages from its channels only")
            .fix("write to it in the channel that it has, such as Telegram"))
    }

    fn stop_grace(&self) -> Duration {
        STOP_GRACE
    }

    fn archived(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<(PathBuf, Vec<u8>)> {
        document::archived(files)
    }

    fn key_variables(&self) -> KeyVariables {
        environment::key_variables()
    }

    fn identity(&self, _token: &SecretString) -> Identity {
        Identity::Token
    }

    fn path_rules(&self) -> PathRules {
        PathRules::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_run() {
        assert!(software(DEFAULT_VERSION).is_ok());
        assert_eq!(software("1.2.3").unwrap_err().field_name(), Some("version"));
        assert!(OWNED.iter().all(|name| !environment::is_reserved(name)));
    }
}
