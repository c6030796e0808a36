//! How nanobot is started: arguments and environment.

use clawfarm_model::config::LogLevel;
use clawfarm_model::secret::SecretRef;
use clawfarm_model::{Launch, Result};

use super::config;
use crate::shared::environment::{Environment, SYSTEM_PATH};
use crate::shared::{document, inbox, secrets};
use crate::{RenderInput, Rendered};

/// Renders everything for a start.
pub(super) fn render(input: &RenderInput<'_>) -> Result<Rendered> {
    let file = config::document(input)?;
    let generated = document::generate(&[file], input.spec.config_mode, input.existing, input.run)?;
    Ok(Rendered {
        launch: Launch {
            id: input.id.clone(),
            run: input.run,
            argv: argv(input),
            env: environment(input)?.all(),
            cwd: input.place.workspace_dir.clone(),
            files: generated.files,
            resources: input.spec.resources,
        },
        warnings: generated.warnings,
        inbox: inbox::declared(input)?,
    })
}

fn argv(input: &RenderInput<'_>) -> Vec<String> {
    let place = input.place;
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let mut argv = vec![
        text(place.install_dir.join("bin/python")),
        // Nothing that lies in its workspace is taken for a part of it; what it prints comes at
        // once, and its software's folder is nobody's to write to.
        "-IuB".to_owned(),
        "-m".to_owned(),
        "nanobot".to_owned(),
        "gateway".to_owned(),
        "--foreground".to_owned(),
        "--config".to_owned(),
        text(place.state_dir.join(config::FILE)),
        "--port".to_owned(),
        place.port.to_string(),
    ];
    if input.spec.config.logging.level == Some(LogLevel::Debug) {
        argv.push("--verbose".to_owned());
    }
    argv
}

fn environment(input: &RenderInput<'_>) -> Result<Environment> {
    let mut env = Environment::begin(input)?;
    for (secret, field) in config_secrets(input) {
        let value = secrets::value(input.secrets, secret, &field)?;
        env.set_secret(&secrets::variable(&secret.secret), value.clone());
    }
    let bin = input.place.install_dir.join("bin");
    env.set("PATH", format!("{}:{SYSTEM_PATH}", bin.display()));
    Ok(env)
}

/// The secrets that `config.json` refers to, and the field each is named in.
fn config_secrets<'a>(input: &RenderInput<'a>) -> impl Iterator<Item = (&'a SecretRef, String)> {
    let config = &input.spec.config;
    let of = |secret: Option<&'a SecretRef>, field: &str| secret.map(|it| (it, field.to_owned()));
    let model = of(config.model.as_ref().and_then(|m| m.api_key.as_ref()), "config.model.api_key");
    let telegram =
        of(config.channels.telegram.as_ref().map(|t| &t.bot_token), "config.channels.telegram.bot_token");
    let discord =
        of(config.channels.discord.as_ref().map(|d| &d.bot_token), "config.channels.discord.bot_token");
    let providers = config.providers.iter().filter_map(|(name, provider)| {
        provider.api_key.as_ref().map(|key| (key, format!("config.providers.{name}.api_key")))
    });
    model.into_iter().chain(telegram).chain(discord).chain(providers)
}
